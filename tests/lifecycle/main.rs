//! The life of a whole process: how it starts, what it survives, what it leaves behind.

#[path = "../support/mod.rs"]
mod support;

mod front;
mod restart;
mod start;
mod stop;
mod swarm;
mod world;
