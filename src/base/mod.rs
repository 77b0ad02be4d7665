//! Floor 0: what every other module may use. Nothing here knows what a blob, a peer or a URL is.
//!
//! **Invariant:** all `unsafe` code of the program is in [`sys`].

pub mod address;
pub mod args;
pub mod blame;
pub mod bucket;
pub mod clock;
pub mod figures;
pub mod hash;
pub mod log;
pub mod mailbox;
pub mod metrics;
pub mod notify;
pub mod ranked;
pub mod rng;
pub mod stop;
pub mod sys;
pub mod thread;
