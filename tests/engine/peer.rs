//! A peer in a test, written by hand so that it can misbehave.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::base::rng::Rng;
use torrent_cache::proto::peer::{
    Frame, HANDSHAKE_LEN, Handshake, Message, PeerId, RawBlock, encode_block_head,
};

/// A peer's end of one connection, after the handshake.
pub struct Wire {
    pub stream: TcpStream,
    buf: Vec<u8>,
}

impl Wire {
    /// Calls a host and makes the handshake.
    pub fn call(address: SocketAddr, info_hash: Sha1Hash) -> io::Result<Wire> {
        Wire::call_as(PeerId::random(&mut Rng::from_os()), address, info_hash)
    }

    /// As [`Wire::call`], with a peer id.
    pub fn call_as(id: PeerId, address: SocketAddr, info_hash: Sha1Hash) -> io::Result<Wire> {
        let mut wire = Wire::of(TcpStream::connect(address)?)?;
        wire.greet_as(id, info_hash)?;
        wire.read_hello()?;
        Ok(wire)
    }

    /// As [`Wire::call_as`], from an address of the machine's own.
    pub fn call_from(
        source: IpAddr,
        id: PeerId,
        address: SocketAddr,
        info_hash: Sha1Hash,
    ) -> io::Result<Wire> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect(&address.into())?;
        let mut wire = Wire::of(socket.into())?;
        wire.greet_as(id, info_hash)?;
        wire.read_hello()?;
        Ok(wire)
    }

    /// A connection on which nothing was said yet.
    pub fn of(stream: TcpStream) -> io::Result<Wire> {
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Wire { stream, buf: Vec::new() })
    }

    pub fn greet_as(&mut self, peer_id: PeerId, info_hash: Sha1Hash) -> io::Result<()> {
        let mut hello = Vec::new();
        Handshake::ours(info_hash, peer_id).encode(&mut hello);
        self.stream.write_all(&hello)
    }

    pub fn read_hello(&mut self) -> io::Result<Handshake> {
        let mut hello = [0; HANDSHAKE_LEN];
        self.stream.read_exact(&mut hello)?;
        let decoded = Handshake::decode(&hello).map_err(io::Error::other)?;
        Ok(decoded.expect("all of its bytes are there").0)
    }

    pub fn send(&mut self, message: &Message) -> io::Result<()> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.stream.write_all(&bytes)
    }

    pub fn send_block(&mut self, block: RawBlock, body: &[u8]) -> io::Result<()> {
        self.stream.write_all(&[&encode_block_head(block)[..], body].concat())
    }

    /// The next message; `None`: the connection is closed.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some((frame, used)) = Frame::decode(&self.buf).map_err(io::Error::other)? {
                self.buf.drain(..used);
                return Ok(Some(frame));
            }
            let mut more = [0; 16 << 10];
            match self.stream.read(&mut more) {
                Ok(0) => return Ok(None),
                Ok(count) => self.buf.extend_from_slice(&more[..count]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// What follows the head of a block.
    pub fn read_body(&mut self, len: u32) -> io::Result<Vec<u8>> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let start = self.buf.len().min(len);
        let mut body: Vec<u8> = self.buf.drain(..start).collect();
        body.resize(len, 0);
        self.stream.read_exact(&mut body[start..])?;
        Ok(body)
    }

    /// Answers requests until the connection is closed. `answer` gives a block's bytes, nothing to
    /// stay silent, or an error to close it.
    pub fn serve(
        &mut self,
        mut answer: impl FnMut(RawBlock) -> io::Result<Option<Vec<u8>>>,
    ) -> io::Result<()> {
        while let Some(frame) = self.next()? {
            if let Frame::Message(Message::Request(block)) = frame
                && let Some(body) = answer(block)?
            {
                self.send_block(block, &body)?;
            }
        }
        Ok(())
    }

    /// Reads on until the connection is closed.
    ///
    /// # Panics
    /// If it stays open.
    pub fn expect_closed(mut self) {
        while self.next().expect("the connection is closed in time").is_some() {}
    }
}

/// A peer that has everything, takes calls, and answers each request as a test wants.
pub struct Seeder {
    pub address: SocketAddr,
    /// Every request that it got.
    pub requests: Receiver<RawBlock>,
    /// Ends with the connection that the host closed.
    pub thread: JoinHandle<()>,
}

impl Seeder {
    /// Listens on `ip` and serves one call, as [`Wire::serve`] does.
    pub fn start(
        ip: IpAddr,
        answer: impl FnMut(RawBlock) -> io::Result<Option<Vec<u8>>> + Send + 'static,
    ) -> Seeder {
        let opening = |wire: &mut Wire| {
            wire.send(&Message::HaveAll)?;
            wire.send(&Message::Unchoke)
        };
        Seeder::opening_with(ip, PeerId::random(&mut Rng::from_os()), opening, answer)
    }

    /// As [`Seeder::start`], with a peer id and with what it says after its handshake.
    pub fn opening_with(
        ip: IpAddr,
        id: PeerId,
        opening: impl FnOnce(&mut Wire) -> io::Result<()> + Send + 'static,
        mut answer: impl FnMut(RawBlock) -> io::Result<Option<Vec<u8>>> + Send + 'static,
    ) -> Seeder {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, requests) = channel();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut wire = Wire::of(stream).unwrap();
            let served = wire.read_hello().and_then(|theirs| {
                wire.greet_as(id, theirs.info_hash)?;
                opening(&mut wire)?;
                wire.serve(|block| {
                    let _ = asked.send(block);
                    answer(block)
                })
            });
            drop(served);
        });
        Seeder { address, requests, thread }
    }
}
