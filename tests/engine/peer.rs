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
        let mut wire = Wire::of(TcpStream::connect(address)?)?;
        wire.greet(info_hash)?;
        wire.read_hello()?;
        Ok(wire)
    }

    fn of(stream: TcpStream) -> io::Result<Wire> {
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Wire { stream, buf: Vec::new() })
    }

    fn greet(&mut self, info_hash: Sha1Hash) -> io::Result<()> {
        let mut hello = Vec::new();
        let peer_id = PeerId::random(&mut Rng::from_os());
        Handshake::ours(info_hash, peer_id).encode(&mut hello);
        self.stream.write_all(&hello)
    }

    fn read_hello(&mut self) -> io::Result<Handshake> {
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
    /// Listens on `ip` and serves one call. `answer` gives a block's bytes, nothing to stay silent,
    /// or an error to close the connection.
    pub fn start(
        ip: IpAddr,
        mut answer: impl FnMut(RawBlock) -> io::Result<Option<Vec<u8>>> + Send + 'static,
    ) -> Seeder {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, requests) = channel();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut wire = Wire::of(stream).unwrap();
            let _ = serve(&mut wire, |block| {
                let _ = asked.send(block);
                answer(block)
            });
        });
        Seeder { address, requests, thread }
    }
}

fn serve(
    wire: &mut Wire,
    mut answer: impl FnMut(RawBlock) -> io::Result<Option<Vec<u8>>>,
) -> io::Result<()> {
    let theirs = wire.read_hello()?;
    wire.greet(theirs.info_hash)?;
    wire.send(&Message::HaveAll)?;
    wire.send(&Message::Unchoke)?;
    while let Some(frame) = wire.next()? {
        if let Frame::Message(Message::Request(block)) = frame
            && let Some(body) = answer(block)?
        {
            wire.send_block(block, &body)?;
        }
    }
    Ok(())
}
