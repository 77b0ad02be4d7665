//! Floor 2: decisions about one blob's swarm. No I/O, no clock, no randomness of its own.
//!
//! A [`Swarm`] is a value: [`Swarm::handle`] takes what happened and appends what is to be done.
//! Time and randomness are arguments, so a whole network of swarms runs in a test (`tests/sim`).
//!
//! [`interface`] is what goes in and out. `swarm` dispatches and knows the links; `download` says
//! what to ask of whom, over `pieces` (the state of each) and `picker` (which next); `blame` finds
//! who sent wrong bytes; `claims` lends pieces to the upstream; `upload` serves, `choker` says
//! whom, and `spread` says who is to have what first; `pace` says how long to wait for others;
//! `candidates` and `announce` find them.

mod announce;
mod blame;
mod candidates;
mod check;
mod choker;
mod claims;
mod download;
pub mod interface;
mod link;
mod meter;
mod pace;
mod picker;
mod pieces;
mod spread;
#[expect(clippy::module_inception, reason = "the value that the module is about")]
mod swarm;
#[cfg(test)]
mod tests;
mod upload;

pub use interface::{Action, CloseReason, Config, Input, LinkId, Source};
pub use swarm::Swarm;
