//! Whose fault an error is. Blame decides the act: who is answered what, who is banned, what is
//! retried.

/// Who caused an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The HTTP client that asked: it is told so, and nothing is retried.
    Client,
    /// A member of the swarm: another is asked.
    Peer,
    /// The origin of a URL, or the way to it.
    Upstream,
    /// This host: its disk, its memory, its configuration.
    Local,
}
