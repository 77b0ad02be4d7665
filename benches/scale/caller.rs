//! A peer that calls a seeder, asks, and throws away what comes.

use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use socket2::{Domain, SockRef, Socket, Type};
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::base::rng::Rng;
use torrent_cache::limits::BLOCK_LEN;
use torrent_cache::proto::peer::{
    BLOCK_HEAD_LEN, Frame, HANDSHAKE_LEN, Handshake, Message, PeerId, RawBlock,
};

/// Blocks that a caller has asked for and not got.
const ASKED: usize = 32;
/// What one block is on the wire.
const BLOCK_WIRE_LEN: usize = BLOCK_HEAD_LEN + BLOCK_LEN as usize;
/// What one read throws away.
const READ_LEN: usize = 256 << 10;

/// One link.
pub struct Caller {
    stream: TcpStream,
}

/// What all callers do, and have got.
#[derive(Default)]
pub struct Load {
    begun: Mutex<bool>,
    began: Condvar,
    bytes: AtomicU64,
    ended: AtomicUsize,
}

impl Load {
    /// The callers begin to ask.
    pub fn begin(&self) {
        *self.begun.lock().expect("nobody panics") = true;
        self.began.notify_all();
    }

    /// Bytes that came so far.
    pub fn bytes(&self) -> f64 {
        self.bytes.load(Ordering::Relaxed) as f64
    }

    /// Links that the seeder has closed.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }

    fn wait(&self) {
        let begun = self.begun.lock().expect("nobody panics");
        drop(self.began.wait_while(begun, |begun| !*begun).expect("nobody panics"));
    }
}

impl Caller {
    /// Calls from one of a few addresses: hosts bound the links of each.
    pub fn call(to: SocketAddr, at: usize, info_hash: Sha1Hash) -> Caller {
        let [_, low] = u16::try_from(at % 4 + 2).expect("small").to_be_bytes();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor is left");
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, low), 0)).into()).expect("ours");
        socket.connect(&to.into()).expect("it listens");
        let mut stream = TcpStream::from(socket);
        let mut out = Vec::new();
        Handshake::ours(info_hash, PeerId::random(&mut Rng::from_os())).encode(&mut out);
        Message::HaveNone.encode(&mut out);
        stream.write_all(&out).expect("it reads");
        stream.read_exact(&mut [0; HANDSHAKE_LEN]).expect("it greets");
        Caller { stream }
    }

    /// Says that it wants blocks, and waits until it may ask.
    fn be_unchoked(&mut self) {
        let mut out = Vec::new();
        Message::Interested.encode(&mut out);
        self.stream.write_all(&out).expect("it reads");
        let mut buf = Vec::new();
        loop {
            match Frame::decode(&buf).expect("it keeps to the protocol") {
                Some((Frame::Message(Message::Unchoke), _)) => return,
                Some((_, used)) => drop(buf.drain(..used)),
                None => {
                    let mut more = [0; 4096];
                    let count = self.stream.read(&mut more).expect("it goes on");
                    assert!(count > 0, "it closes the link");
                    buf.extend_from_slice(&more[..count]);
                }
            }
        }
    }

    /// Takes one block.
    pub fn take_one(mut self, piece_len: u32, blob_len: u64) {
        self.be_unchoked();
        self.ask(1, piece_len, blob_len, &mut Rng::from_os()).expect("it reads");
        let mut left = BLOCK_WIRE_LEN;
        while left > 0 {
            left = left.saturating_sub(self.discard().expect("it answers"));
        }
    }

    /// Takes blocks from when the load begins until the seeder ends.
    pub fn pull(mut self, piece_len: u32, blob_len: u64, load: &Load) {
        load.wait();
        self.be_unchoked();
        let mut rng = Rng::from_os();
        let mut came = 0;
        let mut due = ASKED;
        while self.ask(due, piece_len, blob_len, &mut rng).is_ok() {
            let Ok(count @ 1..) = self.discard() else { break };
            load.bytes.fetch_add(count as u64, Ordering::Relaxed);
            // Few of the bytes are of other messages, and so bring no harm.
            came += count;
            due = came / BLOCK_WIRE_LEN;
            came %= BLOCK_WIRE_LEN;
        }
        load.ended.fetch_add(1, Ordering::Relaxed);
    }

    fn ask(
        &mut self,
        count: usize,
        piece_len: u32,
        blob_len: u64,
        rng: &mut Rng,
    ) -> std::io::Result<()> {
        let mut out = Vec::new();
        for _ in 0..count {
            let at = rng.below(blob_len / u64::from(BLOCK_LEN)) * u64::from(BLOCK_LEN);
            let (piece, begin) = (at / u64::from(piece_len), at % u64::from(piece_len));
            let [piece, begin] = [piece, begin].map(|n| u32::try_from(n).expect("small"));
            Message::Request(RawBlock { piece, begin, len: BLOCK_LEN }).encode(&mut out);
        }
        self.stream.write_all(&out)
    }

    /// Waits for bytes and throws them away, without copying them (`MSG_TRUNC`, tcp(7)).
    fn discard(&self) -> std::io::Result<usize> {
        let mut buf = [MaybeUninit::uninit(); READ_LEN];
        SockRef::from(&self.stream).recv_with_flags(&mut buf, libc::MSG_TRUNC)
    }
}
