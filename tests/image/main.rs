//! What is shipped: the static binary, and the container images in real Docker engines.
//!
//! The engines run on hosts of the test's own: namespaces, which nothing of this machine is seen
//! or touched from. That needs root; without it these tests fail.

#[path = "../support/mod.rs"]
mod support;

mod compose;
mod docker;
mod host;
mod program;
