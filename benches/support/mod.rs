//! What the benches share: the rig of the tests, costs of processes, rounds, and tables.
//!
//! A bench compares this program with a peer or a physical limit in one run: the sides take turns
//! ([`rounds`]), the first turn of each is not counted, and the median counts. Times are seconds.

// Each bench uses a part.
#![allow(dead_code)]

pub mod caching;
pub mod cost;
pub mod http;
pub mod nginx;
#[path = "../../tests/support/mod.rs"]
pub mod rig;
pub mod rounds;
pub mod seeded;
pub mod table;
pub mod wire;
