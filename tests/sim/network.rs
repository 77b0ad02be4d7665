//! The wires between hosts: who may send how much when, and what it meets on its way.
//!
//! A link is two pipes, one each way, each an ordered stream as TCP gives it: messages wait behind
//! the blocks that were written before them. A pipe has a socket buffer ([`SOCKET_BUFFER`]), which
//! says when a block counts as sent, and a window, its fair part of the queue before the receiver's
//! downlink ([`PORT_QUEUE`]), which is where congestion control settles. A host's uplink sends one
//! segment at a time and goes round its pipes; its downlink takes segments as they come, and what a
//! slow uplink is still sending keeps it from nobody. A message on a pipe with nothing in it costs
//! latency and no bandwidth, unless the receiver's line has a queue of its own ([`Line::queue`]):
//! there it waits behind what others sent.
//!
//! What is left out: loss, slow start, the time that an acknowledgement takes, and CPUs.

use std::collections::VecDeque;
use std::time::Duration;

use torrent_cache::base::clock::Time;
use torrent_cache::proto::geometry::Block;
use torrent_cache::proto::peer::Message;
use torrent_cache::swarm::LinkId;

/// What an uplink sends at once: a train of packets as a network card cuts them.
const SEGMENT: u64 = 16 << 10;
/// Bytes that a socket holds before its writer waits.
const SOCKET_BUFFER: u64 = 256 << 10;
/// Bytes that wait before a downlink, of all pipes together, if its line does not say otherwise;
/// each pipe has two segments in any case.
const PORT_QUEUE: u64 = 512 << 10;
/// What a message costs on a wire that is busy, its packet included.
const MESSAGE: u64 = 80;

/// What travels.
#[derive(Debug)]
pub enum Item {
    Message(Message),
    /// A block; whether its bytes are wrong.
    Block(Block, bool),
}

/// What follows from a change of the network.
#[derive(Debug)]
pub enum Effect {
    /// A segment has left the uplink of a host at this time.
    Left { host: usize, at: Time },
    /// A segment of a pipe has come through the downlink at this time, and what ends with it.
    Came { pipe: LinkId, len: u64, item: Option<Item>, at: Time },
    /// The writer of a pipe has handed the last byte of a block to the socket.
    Written { pipe: LinkId, block: Block },
}

/// Something on its way into a pipe.
#[derive(Debug)]
struct Parcel {
    item: Item,
    left: u64,
}

/// One direction of a link.
#[derive(Debug)]
struct Pipe {
    from: usize,
    to: usize,
    open: bool,
    queue: VecDeque<Parcel>,
    /// The first so many parcels are in the socket, with so many bytes.
    written: usize,
    written_bytes: u64,
    /// Bytes between the two hosts.
    under_way: u64,
    /// When the last segment is through.
    through_at: Time,
    /// Whether it stands in its uplink's round.
    in_round: bool,
}

impl Pipe {
    fn is_busy(&self) -> bool {
        !self.queue.is_empty() || self.under_way > 0
    }
}

/// The line of one host.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Bytes per second.
    pub up: u64,
    pub down: u64,
    /// From the host to the middle of the network, or back.
    pub latency: Duration,
    /// Bytes that wait before its downlink, and that messages wait behind.
    pub queue: Option<u64>,
}

#[derive(Debug)]
struct Station {
    line: Line,
    /// Pipes with something to send and an open window.
    round: VecDeque<usize>,
    sending: bool,
    /// From when to when its downlink is busy, in order, apart from each other.
    downlink: VecDeque<(Time, Time)>,
    /// Pipes towards this host that are busy.
    incoming: u64,
    /// Hosts of one side reach each other.
    side: u8,
}

impl Station {
    /// When `len` bytes that come at `here_at` are through the downlink.
    fn pass(&mut self, now: Time, here_at: Time, len: u64) -> Time {
        let takes = time_for(len, self.line.down);
        while self.downlink.front().is_some_and(|(_, end)| *end <= now) {
            self.downlink.pop_front();
        }
        let mut start = here_at;
        let mut place = 0_usize;
        for (busy, free) in &self.downlink {
            if start + takes <= *busy {
                break;
            }
            start = start.max(*free);
            place += 1;
        }
        let end = start + takes;
        match place.checked_sub(1).and_then(|before| self.downlink.get_mut(before)) {
            Some((_, free)) if *free == start => *free = end,
            _ => self.downlink.insert(place, (start, end)),
        }
        end
    }
}

/// All lines and pipes. A link's number is that of the pipe that its owner sends on; the number of
/// the other end differs in the last bit.
#[derive(Debug, Default)]
pub struct Network {
    stations: Vec<Station>,
    pipes: Vec<Pipe>,
}

/// The other end of a link.
pub fn far(link: LinkId) -> LinkId {
    LinkId(link.0 ^ 1)
}

fn time_for(bytes: u64, rate: u64) -> Duration {
    Duration::from_nanos(bytes * 1_000_000_000 / rate.max(1))
}

impl Network {
    pub fn add_host(&mut self, line: Line) {
        self.stations.push(Station {
            line,
            round: VecDeque::new(),
            sending: false,
            downlink: VecDeque::new(),
            incoming: 0,
            side: 0,
        });
    }

    /// A new link; the ends' names for it.
    pub fn connect(&mut self, from: usize, to: usize) -> (LinkId, LinkId) {
        let number = self.pipes.len() as u64;
        for (from, to) in [(from, to), (to, from)] {
            self.pipes.push(Pipe {
                from,
                to,
                open: true,
                queue: VecDeque::new(),
                written: 0,
                written_bytes: 0,
                under_way: 0,
                through_at: Time::ZERO,
                in_round: false,
            });
        }
        (LinkId(number), LinkId(number + 1))
    }

    fn pipe(&mut self, link: LinkId) -> &mut Pipe {
        &mut self.pipes[usize::try_from(link.0).unwrap()]
    }

    /// The hosts at this end and at the other, if the link is up.
    pub fn ends(&self, link: LinkId) -> Option<(usize, usize)> {
        let pipe = self.pipes.get(usize::try_from(link.0).unwrap())?;
        pipe.open.then_some((pipe.from, pipe.to))
    }

    pub fn latency(&self, from: usize, to: usize) -> Duration {
        self.stations[from].line.latency + self.stations[to].line.latency
    }

    /// Whether something that `from` sends now comes to `to`.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        self.stations[from].side == self.stations[to].side
    }

    /// Whether the uplink has nothing to do.
    pub fn is_idle(&self, host: usize) -> bool {
        !self.stations[host].sending && self.stations[host].round.is_empty()
    }

    /// Whether nothing is on its way through the downlink.
    pub fn takes_more(&self, host: usize, now: Time) -> bool {
        self.stations[host].downlink.back().is_none_or(|(_, end)| *end <= now)
    }

    /// Ends a link at both ends. What is under way still takes its time.
    pub fn disconnect(&mut self, link: LinkId) {
        for end in [link, far(link)] {
            let pipe = self.pipe(end);
            let (was_busy, to) = (pipe.is_busy(), pipe.to);
            pipe.open = false;
            pipe.queue.clear();
            (pipe.written, pipe.written_bytes) = (0, 0);
            if was_busy && !self.pipe(end).is_busy() {
                self.stations[to].incoming -= 1;
            }
        }
    }

    /// Puts `item` into a pipe.
    pub fn send(&mut self, now: Time, link: LinkId, item: Item, out: &mut Vec<Effect>) {
        let Some((from, to)) = self.ends(link) else { return };
        let (latency, reaches) = (self.latency(from, to), self.reaches(from, to));
        let waits = self.stations[to].line.queue.is_some();
        let pipe = self.pipe(link);
        let was_busy = pipe.is_busy();
        let left = match &item {
            Item::Message(_) if reaches && !was_busy && !waits => {
                let (item, at) = (Some(item), now + latency);
                return out.push(Effect::Came { pipe: link, len: 0, item, at });
            }
            Item::Message(_) => MESSAGE,
            Item::Block(block, _) => u64::from(block.len()) + MESSAGE,
        };
        pipe.queue.push_back(Parcel { item, left });
        if !was_busy {
            self.stations[to].incoming += 1;
        }
        self.write(link, out);
        self.enter_round(link);
        self.send_next(now, from, out);
    }

    /// The socket takes what fits.
    fn write(&mut self, link: LinkId, out: &mut Vec<Effect>) {
        let pipe = self.pipe(link);
        while let Some(parcel) = pipe.queue.get(pipe.written) {
            if pipe.written_bytes + parcel.left > SOCKET_BUFFER {
                return;
            }
            pipe.written += 1;
            pipe.written_bytes += parcel.left;
            if let Item::Block(block, _) = parcel.item {
                out.push(Effect::Written { pipe: link, block });
            }
        }
    }

    /// The pipe takes turns with the others of its uplink, if it has something to send and may.
    fn enter_round(&mut self, link: LinkId) {
        let Some((from, to)) = self.ends(link) else { return };
        let receiver = &self.stations[to];
        let queue = receiver.line.queue.unwrap_or(PORT_QUEUE);
        let window = (queue / receiver.incoming.max(1)).max(2 * SEGMENT);
        let reaches = self.reaches(from, to);
        let pipe = self.pipe(link);
        if reaches && !pipe.in_round && !pipe.queue.is_empty() && pipe.under_way < window {
            pipe.in_round = true;
            self.stations[from].round.push_back(usize::try_from(link.0).unwrap());
        }
    }

    /// If the uplink is free, the next pipe gets it for a segment.
    fn send_next(&mut self, now: Time, host: usize, out: &mut Vec<Effect>) {
        while !self.stations[host].sending {
            let Some(number) = self.stations[host].round.pop_front() else { return };
            let link = LinkId(number as u64);
            let pipe = &mut self.pipes[number];
            pipe.in_round = false;
            let (from, to) = (pipe.from, pipe.to);
            if !pipe.open || self.stations[from].side != self.stations[to].side {
                continue;
            }
            let Some(parcel) = pipe.queue.front_mut() else { continue };
            let len = parcel.left.min(SEGMENT);
            parcel.left -= len;
            let whole = parcel.left == 0;
            pipe.under_way += len;
            if pipe.written > 0 {
                pipe.written_bytes -= len;
            }
            let item = if whole { pipe.queue.pop_front() } else { None };
            if item.is_some() {
                pipe.written = pipe.written.saturating_sub(1);
            }
            let line = self.stations[from].line;
            let left_at = now + time_for(len, line.up);
            let here_at = left_at + self.latency(from, to);
            let receiver = &mut self.stations[to];
            let pipe = &mut self.pipes[number];
            // What one pipe carries stays in order.
            let at = receiver.pass(now, here_at.max(pipe.through_at), len);
            pipe.through_at = at;
            self.stations[from].sending = true;
            out.push(Effect::Left { host, at: left_at });
            let item = item.map(|parcel| parcel.item);
            out.push(Effect::Came { pipe: link, len, item, at });
            self.write(link, out);
            self.enter_round(link);
        }
    }

    /// The time of an [`Effect::Left`] has come.
    pub fn left(&mut self, now: Time, host: usize, out: &mut Vec<Effect>) {
        self.stations[host].sending = false;
        self.send_next(now, host, out);
    }

    /// The time of an [`Effect::Came`] has come.
    pub fn came(&mut self, now: Time, link: LinkId, len: u64, out: &mut Vec<Effect>) {
        if len == 0 {
            return;
        }
        let pipe = self.pipe(link);
        pipe.under_way -= len;
        let (from, to, busy) = (pipe.from, pipe.to, pipe.is_busy());
        if !busy {
            self.stations[to].incoming -= 1;
        }
        self.enter_round(link);
        self.send_next(now, from, out);
    }

    /// From now on a host reaches only hosts of the same side. What was on its way arrives.
    pub fn move_to_side(&mut self, now: Time, host: usize, side: u8, out: &mut Vec<Effect>) {
        self.stations[host].side = side;
        for number in 0..self.pipes.len() {
            let pipe = &self.pipes[number];
            if pipe.open && (pipe.from == host || pipe.to == host) {
                let from = pipe.from;
                self.enter_round(LinkId(number as u64));
                self.send_next(now, from, out);
            }
        }
    }
}
