//! A panic in the thread of a connection. `tests/image` builds this as the static binary is built,
//! to which the library itself is compiled already.

use torrent_cache::base::figures;
use torrent_cache::base::thread::{Role, live, spawn};

#[test]
fn a_panic_in_a_connection_is_counted_and_survived() {
    let handle = spawn("panicking-thread", Role::Connection, || panic!("on purpose"))
        .expect("a thread can be started");
    handle.join();
    assert_eq!(figures::THREAD_PANICS.value(), 1);
    assert_eq!(live(), Vec::<String>::new());
}
