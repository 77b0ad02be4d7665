//! When to tell the tracker. Timing only: the engine does the telling.

/// What an announce tells (BEP 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnounceEvent {
    /// Still there.
    None,
    /// The first.
    Started,
    /// The last.
    Stopped,
    /// All pieces are stored since this announce.
    Completed,
}
