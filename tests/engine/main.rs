//! Engines against each other and against peers that misbehave, over loopback.

mod announce;
mod early;
mod host;
mod moves;
mod peer;
mod quirks;
mod trouble;
