//! Our side, and the bare reference, each in a process of its own: this binary, started with a
//! role.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use torrent_cache::base::clock::Time;
use torrent_cache::base::hash::{Algorithm, ContentHasher, Sha1};
use torrent_cache::base::rng::Rng;
use torrent_cache::engine::{Engine, EngineConfig};
use torrent_cache::proto::blob::BlobName;
use torrent_cache::proto::metainfo::Metainfo;
use torrent_cache::proto::peer::PeerId;
use torrent_cache::store::{Max, Store, StoreConfig, Wait};

use crate::support::seeded::Hasty;

/// What one read or write of the reference takes.
const REFERENCE_LEN: usize = 512 << 10;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(200);

/// Plays the role that the arguments name and ends the process, if they name one.
pub fn play_role() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["seed", root, tracker, port] => seed(engine(Path::new(root), tracker, port)),
        ["leech", root, tracker, port, torrents, at_once, digests] => {
            let at_once = at_once.parse().expect("a number");
            let engine = engine(Path::new(root), tracker, port);
            leech(engine, Path::new(torrents), at_once, digests == "digests");
        }
        ["send", file] => send(Path::new(file)),
        ["receive", port, file, piece_len] => {
            let (port, piece_len) = (port.parse(), piece_len.parse());
            receive(port.expect("a port"), Path::new(file), piece_len.expect("a number"));
        }
        _ => return,
    }
    std::process::exit(0);
}

fn engine(root: &Path, tracker: &str, port: &str) -> (Arc<Store>, Engine) {
    let port = port.parse().expect("a port");
    let config = StoreConfig { root: root.to_owned(), max: Max::None };
    let store = Store::open_on(Box::new(Hasty), config).expect("the storage can be opened");
    let config = EngineConfig {
        interface: Ipv4Addr::LOCALHOST.into(),
        ports: port..=port,
        tracker: Some(tracker.parse().expect("a URL")),
        advertise_address: None,
        advertise_port: None,
        peer_networks: Vec::new(),
        upload_max: None,
        download_max: None,
        peer_id: PeerId::random(&mut Rng::from_os()),
    };
    let engine = Engine::start(config, Arc::clone(&store)).expect("a port is free");
    (store, engine)
}

/// Seeds what the storage holds until the process is ended.
fn seed((store, engine): (Arc<Store>, Engine)) {
    store.seeds().iter().for_each(|seed| engine.seed(seed));
    loop {
        std::thread::park();
    }
}

/// Fetches what the `.torrent` files of a folder describe, so many at once; with `digests`, hashes
/// each blob as a whole as well, as a pull does.
fn leech((store, engine): (Arc<Store>, Engine), torrents: &Path, at_once: usize, digests: bool) {
    let files =
        fs::read_dir(torrents).expect("it is there").map(|file| file.expect("it is").path());
    let waiting: Mutex<VecDeque<PathBuf>> = Mutex::new(files.collect());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let Some(file) = waiting.lock().expect("nobody panics").pop_front() else {
                        return;
                    };
                    let torrent = fs::read(file).expect("it can be read");
                    fetch(&store, &engine, Metainfo::decode(&torrent).expect("ours"), digests);
                }
            });
        }
    });
}

fn fetch(store: &Arc<Store>, engine: &Engine, metainfo: Metainfo, digests: bool) {
    let metainfo = Arc::new(metainfo);
    let name = BlobName::from_file_stem(metainfo.name()).expect("ours");
    let len = metainfo.geometry().blob_len();
    let partial = store.begin(&name, Some(len)).expect("there is room");
    let membership = engine.join(Arc::clone(&metainfo), Arc::clone(&partial)).expect("it runs");
    let mut content = ContentHasher::new(Algorithm::Sha256);
    let mut buf = vec![0; 256 << 10];
    let mut at = 0;
    while at < len {
        let Wait::Ready { end } = partial.feed().wait(at, Time::now() + PATIENCE) else {
            panic!("no more came: {:?}", membership.progress());
        };
        while digests && at < end {
            let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
            partial.read_at(&mut buf[..count], at).expect("it is readable");
            content.update(&buf[..count]);
            at += count as u64;
        }
        at = end;
    }
    assert!(!digests || content.finish() == name.digest().value(), "other bytes");
    let blob = store.seal(&partial, metainfo).expect("it is complete");
    membership.became_whole(blob);
}

/// Sends a file to the first who calls, with `sendfile`.
fn send(path: &Path) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    println!("port {} is it", listener.local_addr().expect("it is bound").port());
    loop {
        let (mut stream, _) = listener.accept().expect("loopback works");
        let mut file = File::open(path).expect("it is there");
        io::copy(&mut file, &mut stream).expect("it is taken");
    }
}

/// Takes a stream, hashes it whole and in pieces, and writes it to a file.
fn receive(port: u16, path: &Path, piece_len: u64) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    let file = File::create(path).expect("there is room");
    let (mut content, mut piece) = (ContentHasher::new(Algorithm::Sha256), Sha1::default());
    let mut buf = vec![0; REFERENCE_LEN];
    let mut at = 0;
    loop {
        let mut filled = 0;
        while filled < buf.len() {
            match stream.read(&mut buf[filled..]).expect("it comes") {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            break;
        }
        content.update(&buf[..filled]);
        piece.update(&buf[..filled]);
        file.write_all_at(&buf[..filled], at).expect("there is room");
        at += filled as u64;
        if at.is_multiple_of(piece_len) {
            std::hint::black_box(piece.finish());
        }
    }
    std::hint::black_box(content.finish());
    io::stdout().flush().expect("it is open");
}
