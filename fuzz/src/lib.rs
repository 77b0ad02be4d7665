//! What the targets check: the same laws that `tests/vectors.rs` tries on changed vectors.

#[path = "../../tests/vectors/laws.rs"]
pub mod laws;
#[path = "../../tests/vectors/laws_http.rs"]
pub mod laws_http;
#[path = "../../tests/vectors/laws_ostree.rs"]
pub mod laws_ostree;
#[path = "../../tests/vectors/laws_swarm.rs"]
pub mod laws_swarm;
