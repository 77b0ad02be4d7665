//! The HTTP/1.1 server (RFC 9112) that faces clients: workers that accept and serve, parking.
//!
//! A connection that waits for its client is parked, where it costs a descriptor and no thread: for
//! its first byte, for the rest of a handshake or of a head, for the next request. What came is
//! read by one of the `workers`, which hands whole requests to the [`Handler`] with blocking I/O.
//! The first byte tells TLS from plain HTTP.
//!
//! **Invariant:** whatever clients do, accepting goes on, memory and threads are bounded, and an
//! answer that was not finished never looks finished.
//! Not here: what a request means.

mod accept;
mod conn;
mod exchange;
mod parking;
mod ready;
#[cfg(test)]
mod tests;
mod tunnel;
mod watch;
mod workers;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use socket2::SockRef;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::metrics::Held;
use crate::base::ranked::{Rank, Ranked, Signal};
use crate::base::stop::Stop;
use crate::base::sys::{self, Epoll, Waker};
use crate::base::thread::{self, Handle, Role};
use crate::limits;

use conn::Conn;
use ready::Ready;
use watch::Watch;
use workers::Guard;

pub use exchange::{Exchange, ExchangeError, RequestBody};
pub use tunnel::Moved;

/// What answers requests. One value serves all workers at once.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request: with [`Exchange::respond`], with [`Exchange::start`] and what follows
    /// it, or with [`Exchange::tunnel`].
    ///
    /// # Errors Before the answer has begun, an error becomes a 500. After that it cuts the
    /// connection so that the client sees it, and so does coming back before [`Exchange::finish`].
    fn handle(&self, exchange: &mut Exchange<'_>) -> Result<(), ExchangeError>;
}

/// How a server is set up. [`ServerConfig::new`] has the usual values.
pub struct ServerConfig {
    /// What its threads are called, at most 8 bytes.
    pub name: &'static str,
    /// Where it listens.
    pub listener: TcpListener,
    /// What it shows to clients that begin with TLS; `None`: they are told to go away at once.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whether clients without TLS are served.
    pub plain: bool,
    /// Requests served at once.
    pub workers_max: usize,
    /// Open connections.
    pub connections_max: usize,
    /// Open connections of one client address.
    pub per_address_max: usize,
    /// From a request's first byte to the end of its head, and the same for a handshake.
    pub head: Duration,
    /// How long a connection may be silent between requests.
    pub idle: Duration,
    /// How long a client may take no byte of its answer.
    pub write: Duration,
}

impl ServerConfig {
    /// Plain HTTP with the limits of [`limits`].
    #[must_use]
    pub fn new(name: &'static str, listener: TcpListener) -> ServerConfig {
        ServerConfig {
            name,
            listener,
            tls: None,
            plain: true,
            workers_max: limits::HTTP_WORKERS_MAX,
            connections_max: limits::HTTP_CONNECTIONS_MAX,
            per_address_max: limits::HTTP_CONNECTIONS_PER_ADDRESS_MAX,
            head: limits::HTTP_HEAD,
            idle: limits::HTTP_IDLE,
            write: limits::HTTP_WRITE,
        }
    }
}

/// A running server. Dropping it stops it at once.
pub struct Server {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    /// The parking thread; taken by the first stop.
    parking: Ranked<Option<Handle>>,
}

/// What the reports of the `epoll` are about that are not of a connection, whose tokens count from
/// 1: the waker, and somebody who connects.
const WAKER: u64 = 0;
const LISTENER: u64 = u64::MAX;

/// What the threads of a server share.
struct Shared {
    name: &'static str,
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    plain: bool,
    workers_max: usize,
    connections_max: usize,
    per_address_max: usize,
    head: Duration,
    idle: Duration,
    handler: Arc<dyn Handler>,
    /// Set under the lock of `state`, so that nothing is parked or made ready after it.
    stop: Stop,
    epoll: Epoll,
    waker: Waker,
    state: Ranked<State>,
    /// A deadline before the one that the parking thread waits for, or the server stops.
    sooner: Signal,
    /// The watch was handed over, or the one who keeps it is to be watched; or the server stops.
    relief: Signal,
    /// A worker ended: for a stop.
    ended: Signal,
}

/// Where all connections are. A connection that is in neither `parked` nor `ready` is with a
/// worker.
/// **Invariant:** no [`Conn`] is dropped under the lock, since its [`Slot`] takes it.
struct State {
    opened: u64,
    open: HashMap<u64, Arc<TcpStream>>,
    per_address: HashMap<IpAddr, usize>,
    parked: HashMap<u64, Conn>,
    /// The deadlines of all parked connections.
    deadlines: BTreeSet<(Time, u64)>,
    /// When the parking thread looks at the deadlines again, if nothing wakes it.
    looks_at: Time,
    /// When it accepts in the place of the keeper of the watch; `None`: it does not have to.
    accepts_at: Option<Time>,
    /// Readable, or submitted.
    ready: Ready,
    /// When bytes last moved in each tunnel, in nanoseconds.
    tunnels: HashMap<u64, Arc<AtomicU64>>,
    watch: Watch,
    guard: Guard,
    workers: usize,
    workers_idle: usize,
    worker_threads: Vec<Handle>,
}

/// One open connection in the tables; dropping it takes it out.
struct Slot {
    shared: Arc<Shared>,
    id: u64,
    address: IpAddr,
    _counted: Held,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let socket = state.open.remove(&self.id);
        state.tunnels.remove(&self.id);
        if let Some(count) = state.per_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                state.per_address.remove(&self.address);
            }
        }
        drop(state);
        // Perhaps the last copy, and closing may take time.
        drop(socket);
    }
}

impl State {
    fn new(workers_max: usize) -> State {
        State {
            opened: 0,
            open: HashMap::new(),
            per_address: HashMap::new(),
            parked: HashMap::new(),
            deadlines: BTreeSet::new(),
            looks_at: Time::ZERO,
            accepts_at: None,
            ready: Ready::new(workers_max),
            tunnels: HashMap::new(),
            watch: Watch::default(),
            guard: Guard::None,
            workers: 0,
            workers_idle: 0,
            worker_threads: Vec::new(),
        }
    }

    /// The tunnels in which nothing moves, once each, and when to look again.
    fn take_quiet_tunnels(&mut self, now: Time) -> (Vec<Arc<TcpStream>>, Time) {
        let quiet_at =
            |moved_at: &Arc<AtomicU64>| tunnel::time_of(moved_at) + limits::HTTP_TUNNEL_QUIET;
        let quiet = self.tunnels.extract_if(|_, moved_at| quiet_at(moved_at) <= now);
        let sockets = quiet.filter_map(|(id, _)| self.open.get(&id).cloned()).collect();
        let next = self.tunnels.values().map(quiet_at).min();
        (sockets, next.unwrap_or(now + limits::HTTP_WRITE))
    }
}

impl Server {
    /// Starts serving what comes to the listener.
    ///
    /// # Errors
    /// If the system refuses a descriptor or a thread.
    pub fn start(config: ServerConfig, handler: Arc<dyn Handler>) -> io::Result<Server> {
        let local_addr = config.listener.local_addr()?;
        let listener = config.listener;
        listener.set_nonblocking(true)?;
        // Inherited by all that is accepted, which saves each connection two calls.
        let socket = SockRef::from(&listener);
        // Their request is there then: they need not be parked for it.
        sys::defer_accept(listener.as_fd())?;
        socket.set_write_timeout(Some(config.write))?;
        socket.set_read_timeout(Some(limits::HTTP_READ))?;
        let shared = Arc::new(Shared {
            name: config.name,
            listener,
            tls: config.tls,
            plain: config.plain,
            workers_max: config.workers_max.max(1),
            connections_max: config.connections_max,
            per_address_max: config.per_address_max,
            head: config.head,
            idle: config.idle,
            handler,
            stop: Stop::new(),
            epoll: Epoll::new()?,
            waker: Waker::new()?,
            state: Ranked::new(Rank::Server, State::new(config.workers_max.max(1))),
            sooner: Signal::new(),
            relief: Signal::new(),
            ended: Signal::new(),
        });
        let (first, parking) = (Arc::clone(&shared), Arc::clone(&shared));
        first.watch_waker()?;
        first.watch_listener()?;
        // One worker always stays: if no thread can be had later, requests wait but are served.
        first.add_worker()?;
        let watch = move || parking.watch_deadlines();
        let parking = thread::spawn(format!("{}-park", config.name), Role::Core, watch)
            .inspect_err(|_| shared.cut(Time::ZERO))?;
        Ok(Server { shared, local_addr, parking: Ranked::new(Rank::Leaf, Some(parking)) })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops accepting, closes connections that wait, lets answers on their way end until
    /// `deadline`, cuts the rest, and joins all threads. It waits for handlers that wait for
    /// something else than their client: stop that first. A second stop does nothing.
    pub fn stop(&self, deadline: Time) {
        let Some(parking) = self.parking.lock().take() else { return };
        self.shared.begin_stop();
        // Nobody connects from here on.
        let _ = SockRef::from(&self.shared.listener).shutdown(Shutdown::Both);
        parking.join();
        self.shared.cut(deadline);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Time::ZERO);
    }
}

impl Shared {
    /// Nothing is parked or made ready from here on.
    fn begin_stop(&self) {
        let mut state = self.state.lock();
        self.stop.stop();
        let waiting = (std::mem::take(&mut state.parked), state.ready.clear());
        state.deadlines.clear();
        drop(state);
        drop(waiting);
        self.waker.wake();
        self.relief.wake_all();
        self.sooner.wake_all();
    }

    /// Waits for the workers until `deadline`, then cuts their connections and joins them.
    fn cut(&self, deadline: Time) {
        self.begin_stop();
        let mut state = self.state.lock();
        while state.workers > 0 && Time::now() < deadline {
            let (quiet, look_at) = state.take_quiet_tunnels(Time::now());
            if quiet.is_empty() {
                state = self.ended.wait_until(state, deadline.min(look_at));
                continue;
            }
            drop(state);
            for socket in quiet {
                let _ = socket.shutdown(Shutdown::Both);
            }
            state = self.state.lock();
        }
        let left: Vec<Arc<TcpStream>> = state.open.values().cloned().collect();
        let threads = std::mem::take(&mut state.worker_threads);
        drop(state);
        for socket in left {
            let _ = socket.shutdown(Shutdown::Both);
        }
        for thread in threads {
            thread.join();
        }
    }

    /// Takes a new connection in, unless that breaks a limit. If there are too many, the parked one
    /// closest to its deadline makes room.
    fn admit(self: &Arc<Shared>, socket: TcpStream, peer: SocketAddr) -> Option<Conn> {
        let address = peer.ip().to_canonical();
        let socket = Arc::new(socket);
        let mut state = self.state.lock();
        if state.open.len() >= self.connections_max {
            drop(state);
            self.evict();
            state = self.state.lock();
        }
        if self.stop.is_stopped() {
            return None;
        }
        let mine = state.per_address.get(&address).copied().unwrap_or(0);
        if mine >= self.per_address_max || state.open.len() >= self.connections_max {
            figures::HTTP_REFUSED_FULL.add(1);
            return None;
        }
        state.opened += 1;
        let id = state.opened;
        state.open.insert(id, Arc::clone(&socket));
        state.per_address.insert(address, mine + 1);
        drop(state);
        let _counted = figures::HTTP_CONNECTIONS.hold();
        let slot = Slot { shared: Arc::clone(self), id, address, _counted };
        Some(Conn::new(slot, socket, peer, Time::now() + self.idle))
    }
}
