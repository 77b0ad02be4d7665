//! The whole program against what fails around it: upstreams, etcd, the tracker, clients that may
//! not have what they ask for, and clients that ask in pieces. All processes are real.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod catalog;
mod clock;
mod disk;
mod early;
mod gateway;
#[path = "../engine/peer.rs"]
#[allow(dead_code, reason = "the tests of the engine use the rest")]
mod peer;
mod requests;
mod services;
mod site;
mod trackers;
mod upstream;

use support::curl;
