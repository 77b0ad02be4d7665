//! What the targets check: the same laws that `tests/vectors.rs` tries on changed vectors.

#[path = "../../tests/vectors/laws.rs"]
pub mod laws;
