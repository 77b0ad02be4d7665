//! The two threads of a link: one reads, one writes. Neither decides anything.
//!
//! The reader hands messages to the engine and reads a block's bytes straight into the buffer in
//! which they wait for their piece. The writer takes messages from the engine and reads the blocks
//! that it sends from the file itself: they do not pass through the engine.
//!
//! **Invariant:** a peer makes us hold no blocks but those that it was asked for ([`Asked`]), and
//! no more requests than it may ask at once ([`Owed`]).

use std::io::{self, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use crate::base::figures;
use crate::base::mailbox::{LeanReceiver, Nothing, Sender};
use crate::engine::asked::{Asked, Came};
use crate::engine::early::HASHES_ID;
use crate::engine::inbox::{Event, LinkEnd};
use crate::engine::limit::Limit;
use crate::engine::owed::Owed;
use crate::engine::pool::Pool;
use crate::engine::waiting::Waiting;
use crate::limits::PEER_KEEP_ALIVE;
use crate::proto::ext::ExtHandshake;
use crate::proto::geometry::Block;
use crate::proto::hashes::PieceHashes;
use crate::proto::peer::{Frame, Message, RawBlock, encode_block_head};
use crate::store::{Blob, Partial, StoreError};
use crate::swarm::LinkId;

/// What one read takes of messages. Blocks are read past it, so it need not be large.
const READ_LEN: usize = 4 << 10;
/// The writer gathers messages and blocks until it has this much, as long as some are waiting.
const WRITE_LEN: usize = 256 << 10;

/// Where the bytes of a swarm lie.
#[derive(Clone)]
pub(super) enum Bytes {
    /// In a sealed file.
    Whole(Arc<Blob>),
    /// In a file that is being filled; only of pieces that are stored.
    Partial(Arc<Partial>),
}

impl Bytes {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), StoreError> {
        match self {
            Bytes::Whole(blob) => blob.read_at(buf, offset),
            Bytes::Partial(partial) => partial.read_at(buf, offset),
        }
    }
}

/// What a writer sends.
pub(super) enum Outgoing {
    /// A message.
    Message(Message),
    /// A block, from the file.
    Block {
        /// Which.
        block: Block,
        /// Where it lies in the blob.
        offset: u64,
        /// Where the blob lies.
        bytes: Bytes,
    },
}

/// Where the bytes of a link come from, and what bounds them.
pub(super) struct Source<'a> {
    /// The connection.
    pub(super) stream: &'a TcpStream,
    /// The blocks that the peer may send.
    pub(super) asked: &'a Asked,
    /// What it may ask for.
    pub(super) owed: &'a Owed,
    /// How fast it is read.
    pub(super) limit: &'a Limit,
    /// Where its blocks wait.
    pub(super) waiting: &'a Waiting,
}

/// Where the bytes of a link go, and what bounds them.
pub(super) struct Target<'a> {
    /// The connection.
    pub(super) stream: &'a TcpStream,
    /// What was asked for and not answered.
    pub(super) owed: &'a Owed,
    /// How fast it is written.
    pub(super) limit: &'a Limit,
}

/// Reads one link until it ends, and says why.
pub(super) fn read_link(
    link: LinkId,
    source: &Source<'_>,
    pool: &Pool,
    inbox: &Sender<Event>,
) -> LinkEnd {
    let mut wire = Wire::new(source.stream);
    loop {
        let event = match wire.frame() {
            Ok(Frame::Block(block)) => match source.asked.came(block) {
                Came::Asked => {
                    let mut body = pool.take(block.len);
                    match wire.body(&mut body, source.limit) {
                        Ok(()) => Event::Block(link, block, body, source.waiting.enter(block.len)),
                        Err(end) => return end,
                    }
                }
                Came::Unasked => {
                    figures::DUPLICATE_BYTES.add(u64::from(block.len));
                    match wire.skip(block.len as usize, source.limit) {
                        Ok(()) => continue,
                        Err(end) => return end,
                    }
                }
                Came::TooMany => return LinkEnd::Unasked,
            },
            // Nothing in them that anybody acts on; that they came keeps the read from timing out.
            Ok(Frame::Message(Message::KeepAlive | Message::Unknown(_) | Message::Port(_))) => {
                continue;
            }
            Ok(Frame::Message(Message::Extended { id: 0, payload })) => {
                match ExtHandshake::decode(&payload) {
                    Ok(theirs) => Event::ExtHandshake(link, Box::new(theirs)),
                    Err(error) => return LinkEnd::Extension(error),
                }
            }
            Ok(Frame::Message(Message::Extended { id: HASHES_ID, payload })) => {
                match PieceHashes::decode(&payload) {
                    Some(told) => Event::Hashes(link, told),
                    None => continue,
                }
            }
            // We offer no other extension whose messages they could be.
            Ok(Frame::Message(Message::Extended { .. })) => continue,
            Ok(Frame::Message(Message::Request(_))) if !source.owed.add() => {
                return LinkEnd::Closed;
            }
            Ok(Frame::Message(message)) => Event::Message(link, message),
            Err(end) => return end,
        };
        if inbox.send(event).is_err() {
            return LinkEnd::Closed;
        }
    }
}

/// The incoming bytes of a link.
struct Wire<R> {
    source: R,
    buf: Vec<u8>,
    /// `buf[start..end]` came and was not looked at yet.
    start: usize,
    end: usize,
}

impl<R: Read> Wire<R> {
    fn new(source: R) -> Wire<R> {
        Wire { source, buf: vec![0; READ_LEN], start: 0, end: 0 }
    }

    /// The next message, or the head of the next block.
    fn frame(&mut self) -> Result<Frame, LinkEnd> {
        loop {
            let waiting = &self.buf[self.start..self.end];
            match Frame::decode(waiting).map_err(LinkEnd::Protocol)? {
                Some((frame, used)) => {
                    self.start += used;
                    return Ok(frame);
                }
                None => self.fill()?,
            }
        }
    }

    /// Reads more of a message that has not come whole.
    fn fill(&mut self) -> Result<(), LinkEnd> {
        self.buf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == 0 {
            // A long message is over: its memory goes.
            self.buf.truncate(READ_LEN);
            self.buf.shrink_to_fit();
        } else if self.end == self.buf.len() {
            // The codec refuses a message above its bound as soon as it has read the length.
            self.buf.resize(self.buf.len() * 2, 0);
        }
        self.end += read_some(&mut self.source, &mut [IoSliceMut::new(&mut self.buf[self.end..])])?;
        Ok(())
    }

    /// Reads a block's bytes to where they belong, and with the last of them what follows. What has
    /// come counts into `limit`, not what a head promises: that costs a peer nothing, and everyone
    /// would wait for it.
    fn body(&mut self, body: &mut [u8], limit: &Limit) -> Result<(), LinkEnd> {
        let here = body.len().min(self.end - self.start);
        body[..here].copy_from_slice(&self.buf[self.start..self.start + here]);
        self.start += here;
        limit.pass(here);
        let mut filled = here;
        while filled < body.len() {
            // The buffer is empty: all of it went into the body.
            (self.start, self.end) = (0, 0);
            let rest = &mut body[filled..];
            let part_len = rest.len().min(limit.part_len());
            let follows = if part_len == rest.len() { &mut self.buf[..] } else { &mut [] };
            let mut parts = [IoSliceMut::new(&mut rest[..part_len]), IoSliceMut::new(follows)];
            let count = read_some(&mut self.source, &mut parts)?;
            let came = count.min(part_len);
            limit.pass(came);
            filled += came;
            self.end = count - came;
        }
        Ok(())
    }

    /// Reads a block's bytes that nobody asked for; they count as those of [`Wire::body`].
    fn skip(&mut self, len: usize, limit: &Limit) -> Result<(), LinkEnd> {
        let mut left = len;
        loop {
            let here = left.min(self.end - self.start);
            limit.pass(here);
            self.start += here;
            left -= here;
            if left == 0 {
                return Ok(());
            }
            self.fill()?;
        }
    }
}

/// Reads at least one byte into `parts`, the first of them first.
fn read_some(source: &mut impl Read, parts: &mut [IoSliceMut<'_>]) -> Result<usize, LinkEnd> {
    loop {
        match source.read_vectored(parts) {
            Ok(0) => return Err(LinkEnd::Closed),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(LinkEnd::Closed);
            }
            Err(error) => return Err(LinkEnd::Io(error)),
        }
    }
}

/// Writes one link until the engine lets go of its queue, the peer does not take any more, or the
/// file cannot be read. Then the connection is shut, and the reader ends as well.
pub(super) fn write_link(
    link: LinkId,
    target: &Target<'_>,
    queue: &LeanReceiver<Outgoing>,
    inbox: &Sender<Event>,
) {
    let _end = End(target);
    if let Err(error) = write_all(link, target, queue, inbox) {
        // A failure of the connection itself is the reader's to tell.
        let _ = inbox.send(Event::LinkDown(link, LinkEnd::File(error)));
    }
}

/// Ends the reader when the writer ends, also if it panics.
struct End<'a>(&'a Target<'a>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let _ = self.0.stream.shutdown(Shutdown::Both);
        self.0.owed.close();
    }
}

/// # Errors
/// If the file cannot be read.
fn write_all(
    link: LinkId,
    target: &Target<'_>,
    queue: &LeanReceiver<Outgoing>,
    inbox: &Sender<Event>,
) -> Result<(), StoreError> {
    let Target { mut stream, owed, limit } = *target;
    let gathered_len = WRITE_LEN.min(limit.part_len());
    let mut out = Vec::with_capacity(READ_LEN);
    let mut blocks = Vec::new();
    loop {
        let mut refusals = 0;
        let mut next = queue.recv_for(PEER_KEEP_ALIVE);
        loop {
            match next {
                Ok(Outgoing::Message(message)) => {
                    refusals += usize::from(matches!(message, Message::Reject(_)));
                    message.encode(&mut out);
                }
                Ok(Outgoing::Block { block, offset, bytes }) => {
                    append_block(&mut out, block, offset, &bytes)?;
                    blocks.push(block);
                }
                Err(Nothing::Yet) if out.is_empty() => Message::KeepAlive.encode(&mut out),
                Err(Nothing::Yet) => break,
                Err(Nothing::Closed) => return Ok(()),
            }
            if out.len() >= gathered_len {
                break;
            }
            next = queue.try_recv();
        }
        for part in out.chunks(limit.part_len()) {
            // Messages alone are not worth their wait.
            if !blocks.is_empty() {
                limit.pass(part.len());
            }
            if stream.write_all(part).is_err() {
                return Ok(());
            }
        }
        out.clear();
        owed.answered(refusals + blocks.len());
        for block in blocks.drain(..) {
            figures::BYTES_TO_PEERS.add(u64::from(block.len()));
            if inbox.send(Event::BlockSent(link, block)).is_err() {
                return Ok(());
            }
        }
    }
}

/// Appends a `piece` message, its body read from the file.
fn append_block(
    out: &mut Vec<u8>,
    block: Block,
    offset: u64,
    bytes: &Bytes,
) -> Result<(), StoreError> {
    let (piece, begin, len) = (block.piece().get(), block.begin(), block.len());
    out.extend_from_slice(&encode_block_head(RawBlock { piece, begin, len }));
    let start = out.len();
    out.resize(start + len as usize, 0);
    bytes.read_at(&mut out[start..], offset)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::base::mailbox::mailbox;
    use crate::base::stop::Stop;
    use crate::limits::{BLOCK_LEN_MAX, ENGINE_INBOX_MAX, INBOX_BYTES_MAX};

    /// Gives its bytes in parts of at most so many.
    struct Parts<'a>(&'a [u8], usize);

    impl Read for Parts<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buf.len());
            let (now, later) = self.0.split_at(count);
            buf[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }

        fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
            let mut total = 0;
            for buf in bufs {
                let left = self.1 - total;
                let len = buf.len().min(left);
                total += Parts(self.0, left).read(&mut buf[..len])?;
                self.0 = &self.0[len.min(self.0.len())..];
            }
            Ok(total)
        }
    }

    #[test]
    fn an_engine_that_is_busy_has_so_many_bytes_waiting_and_no_more() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let mut peer = TcpStream::connect(address).expect("it listens");
        let (stream, _) = listener.accept().expect("it called");
        let (asked, owed, waiting) = (Asked::new(), Owed::new(), Waiting::new());
        let limit = Limit::new(None, Stop::new());
        let (inbox, events) = mailbox(ENGINE_INBOX_MAX);
        let most = usize::try_from(INBOX_BYTES_MAX / u64::from(BLOCK_LEN_MAX)).expect("few");
        let block = RawBlock { piece: 0, begin: 0, len: BLOCK_LEN_MAX };
        (0..=most).for_each(|_| asked.add(block));
        let (stream, limit) = (&stream, &limit);
        let source = Source { stream, asked: &asked, owed: &owed, limit, waiting: &waiting };
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_link(LinkId(1), &source, &Pool::new(), &inbox));
            let body = vec![0; BLOCK_LEN_MAX as usize];
            for _ in 0..=most {
                peer.write_all(&encode_block_head(block)).expect("it is read");
                peer.write_all(&body).expect("it is read");
            }
            waiting.until_full();
            assert_eq!(events.depth(), most);
            drop(events.recv());
            for _ in 0..most {
                assert!(matches!(events.recv(), Ok(Event::Block(..))));
            }
            drop(peer);
            assert!(matches!(reader.join().expect("it ends"), LinkEnd::Closed));
        });
    }

    #[test]
    fn messages_and_blocks_are_read_however_the_bytes_are_cut() {
        let body: Vec<u8> = (0..u8::MAX).cycle().take(20_000).collect();
        let block = RawBlock { piece: 1, begin: 2, len: 20_000 };
        let long = Message::Bitfield(vec![7; 9000]);
        let limits = [None, Some(1 << 40)].map(|rate| Limit::new(rate, Stop::new()));
        let mut bytes = Vec::new();
        Message::Have(5).encode(&mut bytes);
        for _ in 0..2 {
            bytes.extend_from_slice(&encode_block_head(block));
            bytes.extend_from_slice(&body);
            long.encode(&mut bytes);
        }
        let parts = [1, 7, 4096, 5000, 20_013, usize::MAX];
        for (limit, part) in limits.iter().flat_map(|limit| parts.map(|part| (limit, part))) {
            let mut wire = Wire::new(Parts(&bytes, part));
            assert_eq!(wire.frame().unwrap(), Frame::Message(Message::Have(5)));
            assert_eq!(wire.frame().unwrap(), Frame::Block(block));
            let mut read = vec![0; body.len()];
            wire.body(&mut read, limit).unwrap();
            assert!(read == body, "in parts of {part}");
            assert_eq!(wire.frame().unwrap(), Frame::Message(long.clone()));
            assert_eq!(wire.frame().unwrap(), Frame::Block(block));
            wire.skip(body.len(), limit).unwrap();
            assert_eq!(wire.frame().unwrap(), Frame::Message(long.clone()));
            assert!(matches!(wire.frame(), Err(LinkEnd::Closed)), "in parts of {part}");
        }
    }
}
