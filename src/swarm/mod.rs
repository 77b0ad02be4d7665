//! Floor 2: decisions about one blob's swarm. No I/O, no clock, no randomness of its own.
//!
//! A [`Swarm`] is a value: [`Swarm::handle`] takes what happened and appends what is to be done.
//! Time and randomness are arguments, so a whole network of swarms runs in a test.

mod announce;
mod interface;
#[expect(clippy::module_inception, reason = "the value that the module is about")]
mod swarm;

pub use announce::AnnounceEvent;
pub use interface::{Action, CloseReason, Config, Input, LinkId, Source};
pub use swarm::Swarm;
