//! The etcd beside the tracker: started, watched, started again, stopped with us.
//!
//! Nothing waits for it: the tracker serves peers whether etcd answers or not, and hosts that
//! cannot reach it fetch from upstream.
//!
//! **Invariant:** etcd does not outlive this process, and the thread that starts it lives as long
//! as it does (the kernel ends a child with the *thread* that started it).

mod child;
mod relay;

use std::ffi::OsString;
use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::mailbox::{Nothing, Receiver, Sender, mailbox};
use crate::base::ranked::{Rank, Ranked};
use crate::base::thread::{self, Role};
use crate::net::agent::{AgentConfig, agent};
use crate::net::tls::Roots;
use crate::tracker::local;
use crate::tracker::supervise::child::Child;

/// The pause before etcd is started again the first time, doubled each time up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// An etcd that ran for this long was well: the next pause is short again.
const STEADY: Duration = Duration::from_secs(60);
/// Between two looks at its health while it starts, and afterwards.
const PROBE_STARTING: Duration = Duration::from_millis(100);
const PROBE_READY: Duration = Duration::from_secs(2);

/// How long one look may take. A stop waits for it.
const PROBE: Duration = Duration::from_secs(1);

/// Its data is deleted when it is full or cannot live with it, at most so often: what clients have
/// may be too much for it. Nothing is lost by that but what nobody has any more: clients notice
/// that an etcd is empty, and publish again what they have.
const EMPTY_EVERY: Duration = Duration::from_secs(24 * 3600);
/// So often in a row it may end before it was [`STEADY`]; then its data may be why: it is broken,
/// or has filled the disk.
const SHORT_LIVES_MAX: u32 = 5;
/// What etcd says of an address that is taken.
const IN_USE: &str = "address already in use";
/// How long it may take to end before that.
const EMPTY_PATIENCE: Duration = Duration::from_secs(10);

/// Which etcd to run, and where.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// A path, or a name that is looked up in `PATH`.
    pub binary: OsString,
    /// The folder of its data; made if it is not there.
    pub data: PathBuf,
    /// Where it serves its clients.
    pub address: SocketAddr,
}

/// Why etcd cannot be run at all, by the option that is to be changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The binary is missing or is no etcd.
    Binary(String),
    /// The folder cannot be made.
    Data(String),
    /// The address cannot be listened on.
    Address(String),
}

/// How etcd is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It was started and does not answer yet, or not any more.
    Silent,
    /// It answers, and can read and write.
    Ready,
    /// It takes nothing new: its data has grown to its bound.
    Full,
    /// It ended, and is started again after a pause.
    Ended(String),
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Health::Silent => f.write_str("etcd does not answer"),
            Health::Ready => f.write_str("etcd answers"),
            Health::Full => f.write_str("etcd is full: nothing new is published"),
            Health::Ended(why) => write!(f, "etcd ended: {why}"),
        }
    }
}

/// What the supervisor waits for.
#[derive(Debug)]
enum Event {
    /// The child has closed its log: it is ending.
    LogEnded,
    /// To stop it, until then.
    Stop(Time),
}

/// A running supervisor.
pub struct Etcd {
    events: Sender<Event>,
    health: Arc<Ranked<Health>>,
    thread: thread::Handle,
}

/// Checks, before anything is started, that etcd can be run; says which version it is.
///
/// # Errors
/// [`Unfit`].
pub fn check(config: &EtcdConfig) -> Result<String, Unfit> {
    let version = version(config).map_err(Unfit::Binary)?;
    // For us alone, as etcd wants it.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&config.data);
    made.map_err(|error| Unfit::Data(error.to_string()))?;
    TcpListener::bind(config.address).map_err(|error| Unfit::Address(error.to_string()))?;
    Ok(version)
}

fn version(config: &EtcdConfig) -> Result<String, String> {
    let output = Command::new(&config.binary).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            "not found: install etcd (Debian: apt-get install etcd-server), \
            give its path as ETCD_BINARY, or set NO_ETCD if one runs elsewhere"
                .to_owned()
        }
        _ => error.to_string(),
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    version.map(|version| version.trim().to_owned()).ok_or_else(|| "is no etcd".to_owned())
}

impl Etcd {
    /// Starts etcd and the thread that watches it. [`check`] has been passed.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(config: EtcdConfig) -> io::Result<Etcd> {
        // One word to stop, one from the log of the one child there is.
        let (events, inbox) = mailbox(2);
        let health = Arc::new(Ranked::new(Rank::Status, Health::Silent));
        let agent = agent(&AgentConfig::for_calls(PROBE, Roots(Vec::new())));
        let supervisor = Supervisor {
            config,
            agent,
            events: events.clone(),
            inbox,
            health: Arc::clone(&health),
        };
        let thread = thread::spawn("etcd-watch", Role::Core, move || supervisor.run())?;
        Ok(Etcd { events, health, thread })
    }

    /// Looks at its health, for as long as the caller likes.
    pub fn health(&self) -> impl Fn() -> Health + Clone + Send + Sync + use<> {
        let health = Arc::clone(&self.health);
        move || health.lock().clone()
    }

    /// Stops it: politely, and from `deadline` on by force. Returns when it is gone.
    pub fn stop(self, deadline: Time) {
        // Refused only if the supervisor has ended, which is what is wanted.
        let _ = self.events.send(Event::Stop(deadline));
        self.thread.join();
    }
}

/// What the supervisor's thread owns.
struct Supervisor {
    config: EtcdConfig,
    agent: Agent,
    events: Sender<Event>,
    inbox: Receiver<Event>,
    health: Arc<Ranked<Health>>,
}

/// Why the watch over one child ended.
enum Ended {
    /// By our will.
    Stopped,
    /// By itself; why.
    Died(String),
    /// It could not be started; why.
    NotStarted(String),
    /// It was full, and its data was deleted.
    Emptied,
}

impl Supervisor {
    fn run(&self) {
        let mut pause = PAUSE;
        let mut emptied_at: Option<Time> = None;
        let mut short_lives = 0;
        loop {
            let started = Time::now();
            let stays_full_until = emptied_at.map_or(Time::ZERO, |at| at + EMPTY_EVERY);
            let why = match self.one_life(stays_full_until) {
                Ended::Stopped => return,
                Ended::Emptied => {
                    emptied_at = Some(Time::now());
                    figures::ETCD_RESTARTS.add(1);
                    continue;
                }
                Ended::Died(why) => {
                    // An address that is another's is not for its data.
                    short_lives += u32::from(!why.contains(IN_USE));
                    why
                }
                Ended::NotStarted(why) => why,
            };
            if Time::now().since(started) >= STEADY {
                (pause, short_lives) = (PAUSE, 0);
            }
            if short_lives >= SHORT_LIVES_MAX && Time::now() >= stays_full_until {
                (short_lives, emptied_at, pause) = (0, Some(Time::now()), PAUSE);
                self.delete_data("ends again and again", &why);
            }
            log::error!("etcd ended: {why}; starting it again in {} s", pause.as_secs());
            self.turn(Health::Ended(why));
            match self.inbox.recv_for(pause) {
                Ok(Event::Stop(_)) | Err(Nothing::Closed) => return,
                // No child, so no log of one.
                Ok(Event::LogEnded) | Err(Nothing::Yet) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
            figures::ETCD_RESTARTS.add(1);
        }
    }

    /// Runs one etcd to its end. If it is full it is emptied, but not before `stays_full_until`.
    fn one_life(&self, stays_full_until: Time) -> Ended {
        let peer_port = match free_loopback_port() {
            Ok(port) => port,
            Err(error) => return Ended::NotStarted(format!("no port for its peers: {error}")),
        };
        let mut child = match Child::start(&self.config, peer_port, self.log_ended()) {
            Ok(child) => child,
            Err(error) => return Ended::NotStarted(error.to_string()),
        };
        self.turn(Health::Silent);
        let mut probe = PROBE_STARTING;
        loop {
            match self.inbox.recv_for(probe) {
                Err(Nothing::Yet) => {
                    let health = self.look();
                    self.turn(health.clone());
                    if health == Health::Full && Time::now() >= stays_full_until {
                        return self.empty(child);
                    }
                    let is_silent = health == Health::Silent;
                    probe = if is_silent { PROBE_STARTING } else { PROBE_READY };
                }
                Ok(Event::LogEnded) => return Ended::Died(child.ended()),
                Ok(Event::Stop(deadline)) => {
                    child.terminate();
                    // The log ends with the child; nothing else can come now.
                    if self.inbox.recv_until(deadline).is_err() {
                        log::warn!("etcd does not stop in time: killed");
                        child.kill();
                    }
                    log::info!("etcd stopped: {}", child.ended());
                    return Ended::Stopped;
                }
                // Not while `self.events` lives.
                Err(Nothing::Closed) => return Ended::Stopped,
            }
        }
    }

    fn look(&self) -> Health {
        let address = local(self.config.address);
        match child::is_ready(&self.agent, address) {
            true => Health::Ready,
            false if child::is_full(&self.agent, address) => Health::Full,
            false => Health::Silent,
        }
    }

    /// Ends a full etcd and deletes what it knows.
    fn empty(&self, mut child: Child) -> Ended {
        child.terminate();
        let told = self.inbox.recv_for(EMPTY_PATIENCE).or_else(|_| {
            child.kill();
            self.inbox.recv().map_err(|_| Nothing::Closed)
        });
        let ended = child.ended();
        if !matches!(told, Ok(Event::LogEnded)) {
            return Ended::Stopped;
        }
        self.delete_data("was full", &ended);
        Ended::Emptied
    }

    fn delete_data(&self, what: &str, ended: &str) {
        match std::fs::remove_dir_all(self.config.data.join(child::MEMBER)) {
            Ok(()) => log::warn!("etcd {what} ({ended}): it is started anew, without data"),
            Err(error) => log::error!("etcd {what} and its data cannot be deleted: {error}"),
        }
    }

    fn log_ended(&self) -> impl FnOnce() + Send + 'static {
        let events = self.events.clone();
        move || {
            let _ = events.send(Event::LogEnded);
        }
    }

    /// Takes note of its health; a change is worth a line.
    fn turn(&self, health: Health) {
        let before = std::mem::replace(&mut *self.health.lock(), health.clone());
        match (before, health) {
            (Health::Silent | Health::Ended(_) | Health::Full, Health::Ready) => {
                log::info!("etcd answers on {}", self.config.address);
            }
            (Health::Ready, Health::Silent) => log::warn!("etcd does not answer any more"),
            (Health::Ready | Health::Silent, Health::Full) => log::warn!("etcd is full"),
            _ => {}
        }
    }
}

/// A port that was free a moment ago. etcd insists on one for other members, of which there are
/// none, so it may be another after each start.
fn free_loopback_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(binary: &str, data: &str, address: SocketAddr) -> EtcdConfig {
        EtcdConfig { binary: binary.into(), data: data.into(), address }
    }

    #[test]
    fn what_is_no_etcd_is_refused() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let why = |binary| match check(&config(binary, "/nowhere", address)) {
            Err(Unfit::Binary(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(why("no-such-etcd").contains("apt-get install etcd-server"));
        assert_eq!(why("true"), "is no etcd");
        assert!(why("/").contains("denied"));
    }
}
