//! The connections with peers, and the threads that serve them, from the first byte to the last.
//!
//! One thread per connection makes the handshake (BEP 3), starts the writer, tells the engine, and
//! then reads. The table here is what these threads and the engine share, besides the inbox.
//!
//! **Invariant:** every connection's socket stands in the table until it has ended, so that
//! [`Links::close`] reaches all of them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::address::{self, Network};
use crate::base::clock::Time;
use crate::base::hash::Sha1Hash;
use crate::base::mailbox::{Sender, lean_mailbox};
use crate::base::ranked::{Rank, Ranked};
use crate::base::stop::Stop;
use crate::engine::EngineConfig;
use crate::engine::asked::Asked;
use crate::engine::crew::Crew;
use crate::engine::inbox::{Event, LinkEnd, MemberId, NewLink, Seed};
use crate::engine::limit::Limit;
use crate::engine::owed::Owed;
use crate::engine::peer_io::{self, Source, Target};
use crate::engine::pool::Pool;
use crate::engine::waiting::Waiting;
use crate::limits::{
    BANNED_MAX, CALLS_PER_ADDRESS_MAX, CALLS_WAITING_MAX, EARLY_SWARMS_KEPT, HANDSHAKES_MAX,
    HANDSHAKES_PER_ADDRESS_MAX, LINKS_MAX, LINKS_PER_ADDRESS_MAX, PEER_CONNECT, PEER_HANDSHAKE,
    PEER_IDLE, PEER_WRITE, WRITER_QUEUE_MAX,
};
use crate::log_limited;
use crate::net::tcp;
use crate::proto::blob::BlobName;
use crate::proto::peer::{HANDSHAKE_LEN, Handshake, PeerError, PeerId};
use crate::store::{Store, StoreError};
use crate::swarm::LinkId;

/// The table, and what every connection's thread needs.
pub(super) struct Links {
    table: Ranked<Table>,
    crew: Arc<Crew>,
    next_id: AtomicU64,
    peer_id: PeerId,
    /// The ranges that peers may come from; none: those nearby.
    networks: Vec<Network>,
    store: Arc<Store>,
    inbox: Sender<Event>,
    pool: Pool,
    /// What waits for the engine.
    pub(super) waiting: Waiting,
    /// What goes to peers.
    pub(super) up: Limit,
    /// What comes from them.
    pub(super) down: Limit,
    stop: Stop,
}

#[derive(Default)]
struct Table {
    open: BTreeMap<LinkId, (Arc<TcpStream>, IpAddr)>,
    /// Connections that are being made, in either direction.
    handshakes: usize,
    /// How many of them each address has made that calls us.
    callers: HashMap<IpAddr, usize>,
    /// How many of them we have made to each address.
    called: HashMap<IpAddr, usize>,
    /// Calls that wait for room, oldest first.
    waiting: VecDeque<Call>,
    /// The swarms that the engine is in, besides those of whole blobs.
    joined: HashMap<Sha1Hash, MemberId>,
    /// Early swarms whose blob is whole by now, with its info-hash; oldest first.
    renamed: VecDeque<(Sha1Hash, Sha1Hash)>,
    /// Oldest first.
    banned: VecDeque<Banned>,
    closed: bool,
}

/// Who is not talked to again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Banned {
    Address(IpAddr),
    /// On loopback every peer has the same address.
    Peer(PeerId),
}

/// A candidate that a swarm wants to be called.
#[derive(Clone, Copy, Debug)]
struct Call {
    info_hash: Sha1Hash,
    address: SocketAddr,
}

/// When a call can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Now,
    Later,
    Never,
}

/// Who makes a connection, with whom.
#[derive(Clone, Copy)]
enum Way {
    In(IpAddr),
    Out(IpAddr),
}

/// A connection that has not ended.
struct Open<'a> {
    links: &'a Links,
    id: LinkId,
    stream: Arc<TcpStream>,
}

/// What both sides have said.
struct Greeting {
    theirs: Handshake,
    /// The whole blob that the peer asks for, if we are not fetching it.
    seed: Option<Seed>,
}

impl Table {
    /// Whether `caller` may make another connection.
    fn has_room_for(&self, caller: IpAddr) -> bool {
        let calls = self.callers.get(&caller).copied().unwrap_or(0);
        let links = self.open.values().filter(|(_, address)| *address == caller).count();
        self.handshakes < HANDSHAKES_MAX
            && self.open.len() < LINKS_MAX
            && calls < HANDSHAKES_PER_ADDRESS_MAX
            && links < LINKS_PER_ADDRESS_MAX
    }

    /// When `address` can be called.
    fn when(&self, address: IpAddr) -> When {
        let calls = self.called.get(&address).copied().unwrap_or(0);
        // Another swarm may have got to know it before it was banned.
        if self.closed || self.open.len() >= LINKS_MAX || self.is_banned(address) {
            When::Never
        } else if self.handshakes >= HANDSHAKES_MAX || calls >= CALLS_PER_ADDRESS_MAX {
            When::Later
        } else {
            When::Now
        }
    }

    fn is_banned(&self, address: IpAddr) -> bool {
        self.banned.contains(&Banned::Address(address.to_canonical()))
    }

    /// The first of the calls that wait which need not wait any more.
    fn next_call(&mut self) -> Option<Call> {
        let is_due = |call: &Call| self.when(call.address.ip()) != When::Later;
        let at = self.waiting.iter().position(is_due)?;
        self.waiting.remove(at)
    }

    /// How many connections are being made with the address that `way` names.
    fn count_of(&mut self, way: Way) -> Entry<'_, IpAddr, usize> {
        match way {
            Way::In(address) => self.callers.entry(address),
            Way::Out(address) => self.called.entry(address),
        }
    }
}

impl Links {
    pub(super) fn new(config: &EngineConfig, store: Arc<Store>, inbox: Sender<Event>) -> Links {
        let stop = Stop::new();
        Links {
            table: Ranked::new(Rank::Links, Table::default()),
            crew: Arc::new(Crew::new()),
            next_id: AtomicU64::new(0),
            peer_id: config.peer_id,
            networks: config.peer_networks.clone(),
            store,
            inbox,
            pool: Pool::new(),
            waiting: Waiting::new(),
            up: Limit::new(config.upload_max, stop.clone()),
            down: Limit::new(config.download_max, stop.clone()),
            stop,
        }
    }

    /// Callers may ask for `info_hash` though no whole blob has it.
    pub(super) fn joined(&self, info_hash: Sha1Hash, id: MemberId) {
        self.table.lock().joined.insert(info_hash, id);
    }

    /// They may no more, unless there is another membership by now.
    pub(super) fn left(&self, info_hash: Sha1Hash, id: MemberId) {
        let mut table = self.table.lock();
        if table.joined.get(&info_hash) == Some(&id) {
            table.joined.remove(&info_hash);
        }
    }

    /// Whoever asks for the early swarm `early` gets the whole blob with this info-hash.
    pub(super) fn rename(&self, early: Sha1Hash, info_hash: Sha1Hash) {
        let mut table = self.table.lock();
        if table.renamed.len() >= EARLY_SWARMS_KEPT {
            table.renamed.pop_front();
        }
        table.renamed.push_back((early, info_hash));
    }

    /// Talks no more to the address. Not one of loopback, which all peers of this host share.
    pub(super) fn ban_address(&self, address: IpAddr) {
        let address = address.to_canonical();
        if !address.is_loopback() {
            self.ban(Banned::Address(address));
        }
    }

    /// Talks no more to the peer, if its address cannot be banned.
    pub(super) fn ban_peer(&self, address: IpAddr, peer_id: PeerId) {
        if address.to_canonical().is_loopback() {
            self.ban(Banned::Peer(peer_id));
        }
    }

    fn ban(&self, banned: Banned) {
        let mut table = self.table.lock();
        if table.banned.contains(&banned) {
            return;
        }
        if table.banned.len() >= BANNED_MAX {
            table.banned.pop_front();
        }
        table.banned.push_back(banned);
    }

    /// Whether the peer was banned, perhaps after it had come.
    pub(super) fn is_banned(&self, address: SocketAddr, peer_id: PeerId) -> bool {
        let table = self.table.lock();
        table.is_banned(address.ip()) || table.banned.contains(&Banned::Peer(peer_id))
    }

    /// The whole blob of this name could not be read.
    pub(super) fn doubt(&self, name: &BlobName) {
        self.store.doubt(name);
    }

    /// Whether peers at this address are talked to.
    pub(super) fn is_welcome(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let allowed = match self.networks[..] {
            [] => address::is_local(address),
            _ => self.networks.iter().any(|network| network.holds(address)),
        };
        allowed && !self.table.lock().is_banned(address)
    }

    /// Serves a connection that a peer made.
    pub(super) fn accept(self: &Arc<Links>, stream: TcpStream, address: SocketAddr) {
        if !self.is_welcome(address.ip()) {
            log_limited!(debug, "peer {address} is not talked to");
            return;
        }
        let links = Arc::clone(self);
        let slot = {
            let mut table = self.table.lock();
            let has_room = table.has_room_for(address.ip());
            has_room.then(|| self.slot(&mut table, Way::In(address.ip())))
        };
        let serve = move |slot| {
            let Some(open) = links.enter(stream, address.ip()) else { return };
            match links.greet_caller(&open.stream) {
                Ok(greeting) => links.serve(&open, slot, address, true, greeting),
                Err(error) => log::debug!("peer {address}: handshake: {error}"),
            }
        };
        if !slot.is_some_and(|slot| self.spawn_handshake(slot, serve)) {
            log_limited!(warn, "peer {address} turned away: too many connections");
        }
    }

    /// Calls a candidate, as soon as there is room, and serves the connection. The engine hears of
    /// the link, or of the failure; false: of neither, since it cannot be called.
    pub(super) fn dial(self: &Arc<Links>, info_hash: Sha1Hash, address: SocketAddr) -> bool {
        let call = Call { info_hash, address };
        let slot = {
            let mut table = self.table.lock();
            match table.when(address.ip()) {
                When::Now => self.slot(&mut table, Way::Out(address.ip())),
                When::Later if table.waiting.len() < CALLS_WAITING_MAX => {
                    table.waiting.push_back(call);
                    return true;
                }
                When::Later | When::Never => return false,
            }
        };
        self.begin_call(call, slot)
    }

    fn begin_call(self: &Arc<Links>, call: Call, slot: Slot) -> bool {
        let links = Arc::clone(self);
        let Call { info_hash, address } = call;
        self.spawn_handshake(slot, move |slot| {
            let error = match links.call(info_hash, address) {
                Ok((open, greeting)) => return links.serve(&open, slot, address, false, greeting),
                Err(error) => error,
            };
            log::debug!("peer {address}: call: {error}");
            let _ = links.inbox.send(Event::DialFailed { info_hash, address });
        })
    }

    /// Makes the calls that waited and need not any more. Not for the engine: this may wait for it.
    fn call_waiting(self: &Arc<Links>) {
        loop {
            let (call, slot) = {
                let mut table = self.table.lock();
                let Some(call) = table.next_call() else { return };
                let is_now = table.when(call.address.ip()) == When::Now;
                (call, is_now.then(|| self.slot(&mut table, Way::Out(call.address.ip()))))
            };
            if !slot.is_some_and(|slot| self.begin_call(call, slot)) {
                let Call { info_hash, address } = call;
                let _ = self.inbox.send(Event::DialFailed { info_hash, address });
            }
        }
    }

    /// Connects to a candidate and makes the handshake.
    fn call(
        &self,
        info_hash: Sha1Hash,
        address: SocketAddr,
    ) -> Result<(Open<'_>, Greeting), GreetError> {
        let stream = tcp::connect(address, PEER_CONNECT)?;
        let open = self.enter(stream, address.ip()).ok_or(GreetError::Stopping)?;
        self.send_hello(&open.stream, info_hash)?;
        let theirs = read_hello(&open.stream, Time::now() + PEER_HANDSHAKE)?;
        if theirs.info_hash != info_hash {
            return Err(GreetError::UnknownSwarm);
        }
        self.check_peer(theirs.peer_id)?;
        // By now the blob may be whole: who is slow to answer is served all the same. Or the swarm
        // is so new that only the engine, which wanted the call, knows of it.
        let seed = match self.seed_of(info_hash) {
            Err(GreetError::UnknownSwarm) => None,
            known => known?,
        };
        Ok((open, Greeting { theirs, seed }))
    }

    /// Reads the handshake of a peer that called, and answers it if we have what it asks for.
    fn greet_caller(&self, stream: &TcpStream) -> Result<Greeting, GreetError> {
        let theirs = read_hello(stream, Time::now() + PEER_HANDSHAKE)?;
        self.check_peer(theirs.peer_id)?;
        let seed = self.seed_of(theirs.info_hash)?;
        self.send_hello(stream, theirs.info_hash)?;
        Ok(Greeting { theirs, seed })
    }

    /// Opens the whole blob that has the hash; `None`: we are fetching it.
    fn seed_of(&self, info_hash: Sha1Hash) -> Result<Option<Seed>, GreetError> {
        let info_hash = {
            let table = self.table.lock();
            if table.joined.contains_key(&info_hash) {
                return Ok(None);
            }
            let renamed = table.renamed.iter().find(|(early, _)| *early == info_hash);
            renamed.map_or(info_hash, |(_, to)| *to)
        };
        let blob = self.store.by_info_hash(&info_hash).ok_or(GreetError::UnknownSwarm)?;
        let metainfo = blob.metainfo().map_err(GreetError::Store)?;
        Ok(Some(Seed { blob, geometry: *metainfo.geometry() }))
    }

    fn check_peer(&self, peer_id: PeerId) -> Result<(), GreetError> {
        if self.table.lock().banned.contains(&Banned::Peer(peer_id)) {
            return Err(GreetError::Banned);
        }
        Ok(())
    }

    fn send_hello(&self, mut stream: &TcpStream, info_hash: Sha1Hash) -> Result<(), GreetError> {
        let mut hello = Vec::with_capacity(HANDSHAKE_LEN);
        Handshake::ours(info_hash, self.peer_id).encode(&mut hello);
        stream.set_write_timeout(Some(PEER_WRITE))?;
        stream.write_all(&hello)?;
        Ok(())
    }

    /// Reads the link until it ends. Its writer has its own thread, which ends when the engine lets
    /// go of the queue.
    fn serve(
        self: &Arc<Links>,
        open: &Open<'_>,
        slot: Slot,
        address: SocketAddr,
        incoming: bool,
        greeting: Greeting,
    ) {
        let (outgoing, queue) = lean_mailbox(WRITER_QUEUE_MAX);
        let (asked, owed) = (Arc::new(Asked::new()), Arc::new(Owed::new()));
        let writer = {
            let (links, stream) = (Arc::clone(self), Arc::clone(&open.stream));
            let (id, owed) = (open.id, Arc::clone(&owed));
            self.crew.send(move || {
                let target = Target { stream: &stream, owed: &owed, limit: &links.up };
                peer_io::write_link(id, &target, &queue, &links.inbox);
            })
        };
        if !writer || open.stream.set_read_timeout(Some(PEER_IDLE)).is_err() {
            return;
        }
        let link = NewLink {
            id: open.id,
            address,
            incoming,
            theirs: greeting.theirs,
            stream: Arc::clone(&open.stream),
            outgoing,
            asked: Arc::clone(&asked),
            owed: Arc::clone(&owed),
            seed: greeting.seed,
        };
        if self.inbox.send(Event::LinkUp(Box::new(link))).is_err() {
            return;
        }
        drop(slot);
        let mut farewell = Farewell { links: self, id: open.id, end: LinkEnd::Panicked };
        let id = open.id;
        let stream = &*open.stream;
        let (limit, waiting) = (&self.down, &self.waiting);
        let source = Source { stream, asked: &asked, owed: &owed, limit, waiting };
        farewell.end = peer_io::read_link(id, &source, &self.pool, &self.inbox);
    }

    /// Puts a connection into the table; `None`: no more, we stop.
    fn enter(&self, stream: TcpStream, address: IpAddr) -> Option<Open<'_>> {
        let id = LinkId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let stream = Arc::new(stream);
        let mut table = self.table.lock();
        if table.closed {
            return None;
        }
        table.open.insert(id, (Arc::clone(&stream), address));
        Some(Open { links: self, id, stream })
    }

    /// A connection begins to be made.
    fn slot(self: &Arc<Links>, table: &mut Table, way: Way) -> Slot {
        table.handshakes += 1;
        *table.count_of(way).or_default() += 1;
        Slot { links: Arc::clone(self), way, is_begun: false }
    }

    /// Has a thread make a connection; says whether the system gave one.
    fn spawn_handshake(&self, mut slot: Slot, body: impl FnOnce(Slot) + Send + 'static) -> bool {
        self.crew.send(move || {
            slot.is_begun = true;
            body(slot);
        })
    }

    /// Ends every connection and waits for the threads; says how many have not ended at `deadline`.
    pub(super) fn close(&self, deadline: Time) -> usize {
        let mut table = self.table.lock();
        table.closed = true;
        table.waiting.clear();
        self.stop.stop();
        for (stream, _) in table.open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(table);
        self.crew.close(deadline)
    }
}

/// Reads a handshake that must be whole at `deadline`. A first byte other than a handshake's is a
/// peer that tries encryption; it comes back in plain when the connection is closed at once.
fn read_hello(mut stream: &TcpStream, deadline: Time) -> Result<Handshake, GreetError> {
    let mut hello = [0; HANDSHAKE_LEN];
    let mut filled = 0;
    loop {
        let patience = deadline.until(Time::now());
        if patience.is_zero() {
            return Err(GreetError::Io(io::ErrorKind::TimedOut.into()));
        }
        stream.set_read_timeout(Some(patience))?;
        match stream.read(&mut hello[filled..]) {
            Ok(0) => return Err(GreetError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        if let Some((theirs, _)) = Handshake::decode(&hello[..filled])? {
            return Ok(theirs);
        }
    }
}

/// Why a handshake came to nothing.
#[derive(Debug)]
enum GreetError {
    /// The connection could not be made, ended, or took too long.
    Io(io::Error),
    /// It is no handshake.
    Protocol(PeerError),
    /// It is for a swarm that we are not in.
    UnknownSwarm,
    /// We have the blob but cannot open it.
    Store(StoreError),
    /// The peer is banned.
    Banned,
    /// We stop.
    Stopping,
}

impl fmt::Display for GreetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GreetError::Io(error) => write!(f, "{error}"),
            GreetError::Protocol(error) => write!(f, "{error}"),
            GreetError::UnknownSwarm => f.write_str("not a swarm that we are in"),
            GreetError::Store(error) => write!(f, "{error}"),
            GreetError::Banned => f.write_str("the peer is banned"),
            GreetError::Stopping => f.write_str("we stop"),
        }
    }
}

impl From<io::Error> for GreetError {
    fn from(error: io::Error) -> GreetError {
        GreetError::Io(error)
    }
}

impl From<PeerError> for GreetError {
    fn from(error: PeerError) -> GreetError {
        GreetError::Protocol(error)
    }
}

/// A connection that is being made; counted until dropped.
struct Slot {
    links: Arc<Links>,
    way: Way,
    /// It has a thread of its own, which may wait for the engine.
    is_begun: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut table = self.links.table.lock();
            table.handshakes -= 1;
            if let Entry::Occupied(mut count) = table.count_of(self.way) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        if self.is_begun {
            self.links.call_waiting();
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // The writer, if there is one, ends with the connection.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.links.table.lock().open.remove(&self.id);
    }
}

/// Tells the engine of a link's end, also when its reader panics.
struct Farewell<'a> {
    links: &'a Links,
    id: LinkId,
    end: LinkEnd,
}

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let end = std::mem::replace(&mut self.end, LinkEnd::Closed);
        let _ = self.links.inbox.send(Event::LinkDown(self.id, end));
    }
}

#[cfg(test)]
mod tests {
    use crate::base::mailbox::{Receiver, mailbox};
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::base::rng::Rng;
    use crate::limits::ENGINE_INBOX_MAX;
    use crate::store::{Max, StoreConfig};

    fn links() -> (Arc<Links>, Receiver<Event>, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("there is room");
        let store = StoreConfig { root: dir.path().to_owned(), max: Max::None };
        let config = EngineConfig {
            interface: Ipv4Addr::LOCALHOST.into(),
            ports: 0..=0,
            tracker: None,
            advertise_address: None,
            advertise_port: None,
            peer_networks: Vec::new(),
            upload_max: None,
            download_max: None,
            peer_id: PeerId::random(&mut Rng::seeded(1)),
        };
        let (inbox, events) = mailbox(ENGINE_INBOX_MAX);
        let store = Store::open(store).expect("an empty folder");
        (Arc::new(Links::new(&config, store, inbox)), events, dir)
    }

    /// That such a connection ends, the kernel sees to.
    #[test]
    fn a_peer_that_says_nothing_or_takes_nothing_has_its_time() {
        let (links, events, _dir) = links();
        let info_hash = Sha1Hash([7; 20]);
        links.joined(info_hash, MemberId(1));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let mut peer = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("up");
        let (stream, address) = listener.accept().expect("it called");
        links.accept(stream, address);
        let mut hello = Vec::new();
        Handshake::ours(info_hash, PeerId([8; 20])).encode(&mut hello);
        peer.write_all(&hello).expect("it is open");
        let Ok(Event::LinkUp(link)) = events.recv() else { panic!("it is welcome") };
        assert_eq!(link.stream.read_timeout().expect("it is open"), Some(PEER_IDLE));
        assert_eq!(link.stream.write_timeout().expect("it is open"), Some(PEER_WRITE));
        drop((link, peer));
        assert!(matches!(events.recv(), Ok(Event::LinkDown(..))));
        assert_eq!(links.close(Time::now() + PEER_HANDSHAKE), 0);
    }

    #[test]
    fn of_many_calls_to_one_host_some_wait_for_the_others() {
        let (links, events, _dir) = links();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (info_hash, more) = (Sha1Hash([7; 20]), 3);
        links.joined(info_hash, MemberId(1));
        for _ in 0..CALLS_PER_ADDRESS_MAX + more {
            assert!(links.dial(info_hash, address));
        }
        assert_eq!(links.table.lock().waiting.len(), more);
        let mut hello = Vec::new();
        Handshake::ours(info_hash, PeerId([8; 20])).encode(&mut hello);
        let mut peers = Vec::new();
        for number in 0..CALLS_PER_ADDRESS_MAX + more {
            let (mut peer, _) = listener.accept().expect("it calls");
            // One is greeted, the next turned away: either makes room for one that waits.
            if number % 2 == 0 {
                peer.write_all(&hello).expect("it is open");
                peers.push(peer);
            }
        }
        let (mut up, mut failed) = (0, 0);
        while up + failed < CALLS_PER_ADDRESS_MAX + more {
            match events.recv() {
                Ok(Event::LinkUp(_)) => up += 1,
                Ok(Event::DialFailed { .. }) => failed += 1,
                _ => {}
            }
        }
        assert_eq!((up, links.table.lock().waiting.len()), (peers.len(), 0));
        assert_eq!(links.close(Time::now() + PEER_HANDSHAKE), 0);
    }

    /// The engine may call before whoever joined the swarm has noted it here.
    #[test]
    fn a_call_for_a_swarm_that_only_the_engine_knows_is_a_link() {
        let (links, events, _dir) = links();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let info_hash = Sha1Hash([7; 20]);
        assert!(links.dial(info_hash, listener.local_addr().expect("it is bound")));
        let (mut peer, _) = listener.accept().expect("it calls");
        let mut hello = Vec::new();
        Handshake::ours(info_hash, PeerId([8; 20])).encode(&mut hello);
        peer.write_all(&hello).expect("it is open");
        assert!(matches!(events.recv(), Ok(Event::LinkUp(link)) if link.seed.is_none()));
        drop(peer);
        assert_eq!(links.close(Time::now() + PEER_HANDSHAKE), 0);
    }

    #[test]
    fn of_the_banned_those_of_late_are_remembered_each_once() {
        let (links, _events, _dir) = links();
        let address = |n: usize| {
            let [_, _, high, low] = u32::try_from(n).expect("few").to_be_bytes();
            IpAddr::from([10, 0, high, low])
        };
        for n in 0..BANNED_MAX + 10 {
            links.ban_address(address(n));
            links.ban_address(address(n));
        }
        assert_eq!(links.table.lock().banned.len(), BANNED_MAX);
        assert!(links.is_welcome(address(9)));
        assert!((10..BANNED_MAX + 10).all(|n| !links.is_welcome(address(n))));
        assert!(!links.dial(Sha1Hash([7; 20]), (address(10), 6881).into()), "nor is it called");
        let is_banned = |n, id| links.is_banned((address(n), 6881).into(), PeerId([id; 20]));
        assert!(is_banned(10, 1) && !is_banned(9, 1));
        links.ban_peer(Ipv4Addr::LOCALHOST.into(), PeerId([2; 20]));
        assert!(is_banned(9, 2) && !is_banned(9, 1));
    }
}
