//! After a stop no thread is left. Alone in its process: the list of threads is the process's.

#[path = "engine/host.rs"]
#[expect(dead_code, reason = "the other tests of the engine use the rest")]
mod host;

use torrent_cache::base::thread;

use crate::host::{Host, Sample, soon};

#[test]
fn no_thread_is_left_though_a_blob_is_on_its_way() {
    let sample = Sample::new(60, 64 << 20);
    let first = Host::seeding(2, &sample);
    let second = Host::new(3);
    let fetching = second.fetch(&sample, &[first.address]);
    let _ = fetching.partial.feed().wait(0, soon());
    assert!(thread::live().len() >= 8, "two engines and a link: {:?}", thread::live());
    second.engine.stop(soon());
    first.engine.stop(soon());
    assert_eq!(thread::live(), Vec::<String>::new());
    assert!(fetching.membership.progress().failed.is_some());
    assert!(fetching.membership.claim(0, 1, false).is_none(), "an engine that is gone says so");
}
