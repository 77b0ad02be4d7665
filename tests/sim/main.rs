//! Many swarms on a simulated network, in virtual time.
//!
//! `SIM_SEED=n` runs one seed, `SIM_SEEDS=n` the first so many; each failure prints its seed.
//! `make sim` runs 200 of each scenario and prints a line of figures for each.

mod figures;
mod host;
#[path = "../vectors/laws_swarm.rs"]
#[allow(dead_code, reason = "the fuzz target uses the rest")]
mod laws_swarm;
mod network;
mod operations;
mod scenarios;
mod world;

/// The seeds to run: those that the environment names, or the first `usual`.
fn seeds(usual: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("SIM_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("SIM_SEEDS").unwrap_or(usual)).collect(),
    }
}
