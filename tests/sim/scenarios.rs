//! What a network of hosts must do, with good members and bad.

use std::time::Duration;

use torrent_cache::base::rng::Rng;
use torrent_cache::proto::geometry::Geometry;

use crate::seeds;
use crate::world::{Host, Manner, Plan, World};

/// 100 Mbit/s. With pieces of 64 KiB this is a gigabit network with pieces of 640 KiB.
const RATE: u64 = 12_500_000;
const PIECE_LEN: u32 = 64 << 10;
const LIMIT: Duration = Duration::from_secs(300);

fn host() -> Plan {
    Plan {
        up: RATE,
        down: RATE,
        disk: Duration::from_millis(1),
        seeds: false,
        reads: true,
        manner: Manner::Honest,
        dies: None,
        upstream: None,
        links_max: 50,
    }
}

fn seeder() -> Plan {
    Plan { seeds: true, reads: false, ..host() }
}

fn liar(manner: Manner) -> Plan {
    Plan { manner, reads: false, ..host() }
}

/// One seeder and `leechers` others.
fn one_to(leechers: usize, seeder: Plan, leecher: &Plan) -> Vec<Plan> {
    let mut plans = vec![seeder];
    plans.resize(leechers + 1, leecher.clone());
    plans
}

/// What came out of a run.
struct Figures {
    world: World,
    /// The time until the last host was done, by the shortest that the lines allow.
    of_ideal: f64,
    /// How often the seeder sent the blob.
    copies: f64,
    /// Bytes that came and were not needed, of those needed.
    duplicates: f64,
    /// The longest time that a reader did not advance.
    stall: Duration,
    /// When the last reader had its first byte.
    first_byte: Duration,
}

fn seconds(bytes: u64, rate: u64) -> f64 {
    bytes as f64 / rate as f64
}

/// The fluid limit: nothing is faster than the sources together, the slowest downlink, or all
/// uplinks together.
fn ideal(blob_len: u64, honest: &[&Host], leechers: &[&Host]) -> f64 {
    let upstream: u64 = leechers.iter().filter_map(|host| host.plan.upstream).sum();
    let seeding = honest.iter().filter(|host| host.plan.seeds);
    let sources = seeding.map(|host| host.plan.up).sum::<u64>() + upstream;
    let all_up = honest.iter().map(|host| host.plan.up).sum::<u64>() + upstream;
    let slowest = leechers.iter().map(|host| host.plan.down).min().unwrap_or(1);
    let needed = blob_len * leechers.len() as u64;
    seconds(blob_len, sources).max(seconds(blob_len, slowest)).max(seconds(needed, all_up))
}

/// Runs the plans and prints the figures.
fn run(name: &str, seed: u64, pieces: u32, plans: Vec<Plan>) -> Figures {
    let blob_len = u64::from(pieces) * u64::from(PIECE_LEN);
    let geometry = Geometry::new(blob_len, PIECE_LEN).unwrap();
    let mut world = World::new(seed, geometry, plans);
    let start = world.now;
    let took = world.run(LIMIT).as_secs_f64();
    let honest = world.hosts.iter().filter(|host| host.plan.manner == Manner::Honest);
    let honest: Vec<&Host> = honest.collect();
    let leechers = honest.iter().filter(|host| !host.plan.seeds && host.alive).copied();
    let leechers: Vec<&Host> = leechers.collect();
    let needed: u64 = leechers.iter().map(|host| host.kept).sum();
    let dropped: u64 = leechers.iter().map(|host| host.dropped).sum();
    let first = leechers.iter().filter_map(|host| host.first_byte).max();
    let of_ideal = took / ideal(blob_len, &honest, &leechers);
    let copies = seconds(world.hosts[0].sent, blob_len);
    let duplicates = seconds(dropped, needed.max(1));
    let stall = leechers.iter().map(|host| host.longest_stall).max().unwrap_or_default();
    let first_byte = first.map(|first| first.since(start)).unwrap_or_default();
    println!(
        "{name:<34} seed {seed:<3} {took:>6.2} s = {of_ideal:.2} of ideal, {copies:.2} copies from \
         the seeder, {:.2} % duplicate, longest stall {stall:.0?}, last first byte \
         {first_byte:.0?}",
        duplicates * 100.0,
    );
    Figures { world, of_ideal, copies, duplicates, stall, first_byte }
}

#[test]
fn the_last_of_a_few_is_done_soon_after_the_ideal() {
    for seed in seeds(1) {
        for leechers in [2, 8] {
            let name = format!("1 seeder, {leechers} leechers");
            let figures = run(&name, seed, 512, one_to(leechers, seeder(), &host()));
            assert!(figures.of_ideal < 1.15, "SIM_SEED={seed} {}", figures.of_ideal);
            assert!(figures.duplicates < 0.03, "SIM_SEED={seed} {}", figures.duplicates);
        }
    }
}

#[test]
fn the_last_of_many_is_done_soon_after_the_ideal() {
    for seed in seeds(1) {
        let figures = run("1 seeder, 32 leechers", seed, 512, one_to(32, seeder(), &host()));
        assert!(figures.of_ideal < 1.6, "SIM_SEED={seed} {}", figures.of_ideal);
        assert!(figures.duplicates < 0.03, "SIM_SEED={seed} {}", figures.duplicates);
    }
}

#[test]
fn without_readers_the_same_holds() {
    for seed in seeds(1) {
        let plans = one_to(32, seeder(), &Plan { reads: false, ..host() });
        let figures = run("1 seeder, 32 leechers, no readers", seed, 256, plans);
        assert!(figures.of_ideal < 1.65, "SIM_SEED={seed} {}", figures.of_ideal);
    }
}

#[test]
fn a_slow_seeder_sends_each_piece_little_more_than_once() {
    for seed in seeds(1) {
        let plans = one_to(16, Plan { up: RATE / 10, ..seeder() }, &host());
        let figures = run("seeder's uplink a tenth", seed, 256, plans);
        assert!(figures.of_ideal < 1.7, "SIM_SEED={seed} {}", figures.of_ideal);
        assert!(figures.copies < 1.7, "SIM_SEED={seed} {}", figures.copies);
    }
}

#[test]
fn one_slow_host_does_not_slow_the_others() {
    for seed in seeds(1) {
        let mut plans = one_to(16, seeder(), &host());
        let disk = Duration::from_millis(20);
        plans[3] = Plan { up: RATE / 20, down: RATE / 20, disk, ..host() };
        let figures = run("one of 16 at a twentieth", seed, 128, plans);
        let hosts = &figures.world.hosts;
        let others = hosts.iter().enumerate().filter(|(n, _)| *n != 3);
        let last = others.filter_map(|(_, host)| host.done).max().unwrap();
        let took = last.since(hosts[0].done.unwrap()).as_secs_f64();
        let ratio = took / seconds(figures.world.geometry.blob_len(), RATE);
        println!("{:<34} the last of the others: {ratio:.2} of ideal", "");
        assert!(ratio < 1.9, "SIM_SEED={seed} {ratio}");
    }
}

#[test]
fn liars_cost_one_piece_each_and_nobody_else_is_banned() {
    for seed in seeds(1) {
        let mut plans = one_to(12, seeder(), &host());
        // Before the others, so that the tracker tells everyone of them.
        let manners = [Manner::Corrupts, Manner::Withholds, Manner::Corrupts, Manner::Drips];
        plans.splice(1..1, manners.map(liar));
        let figures = run("a quarter liars", seed, 256, plans);
        let hosts = &figures.world.hosts;
        for (n, host) in hosts.iter().enumerate() {
            let guilty = host.banned.iter().all(|banned| [1, 3].contains(banned));
            assert!(guilty, "SIM_SEED={seed} host {n} banned {:?}", host.banned);
        }
        let corrupt = hosts.iter().map(|host| host.corrupt).max().unwrap();
        let banned: usize = hosts.iter().map(|host| host.banned.len()).sum();
        println!("{:<34} {banned} bans, at most {corrupt} corrupt pieces at one host", "");
        assert!(banned > 0, "SIM_SEED={seed}: the liars were not met");
        assert!(corrupt <= 2, "SIM_SEED={seed}: {corrupt} corrupt pieces of 2 who send such");
        assert!(figures.of_ideal < 3.0, "SIM_SEED={seed} {}", figures.of_ideal);
    }
}

#[test]
fn hosts_may_die_at_any_time() {
    for seed in seeds(1) {
        let mut rng = Rng::seeded(seed);
        let mut plans = one_to(16, seeder(), &host());
        for plan in &mut plans[1..=8] {
            plan.dies = Some(Duration::from_millis(rng.below(2000)));
        }
        let figures = run("half of 16 die", seed, 256, plans);
        assert!(figures.of_ideal < 2.0, "SIM_SEED={seed} {}", figures.of_ideal);
    }
}

#[test]
fn upstream_and_swarm_together_bring_no_piece_twice() {
    for seed in seeds(1) {
        let leecher = Plan { upstream: Some(RATE / 8), ..host() };
        let plans = one_to(8, Plan { up: RATE / 4, ..seeder() }, &leecher);
        let figures = run("upstream mixed in", seed, 256, plans);
        for host in &figures.world.hosts[1..] {
            let brought = host.kept + host.from_upstream;
            assert_eq!(brought, figures.world.geometry.blob_len(), "SIM_SEED={seed}");
            assert!(host.from_upstream > 0);
        }
    }
}

#[test]
fn a_reader_gets_its_first_byte_within_two_pieces_time() {
    for seed in seeds(3) {
        let figures = run("1 seeder, 1 reader", seed, 128, one_to(1, seeder(), &host()));
        let piece = Duration::from_secs_f64(seconds(u64::from(PIECE_LEN), RATE));
        // The piece goes through the uplink, then through the downlink, then to the disk.
        let bound = piece * 2 + Duration::from_millis(5);
        assert!(figures.first_byte < bound, "SIM_SEED={seed} {:?}", figures.first_byte);
        assert!(figures.stall < bound, "SIM_SEED={seed} {:?}", figures.stall);
    }
}

#[test]
fn eight_links_are_enough() {
    for seed in seeds(1) {
        let leecher = Plan { links_max: 8, ..host() };
        let plans = one_to(32, Plan { links_max: 8, ..seeder() }, &leecher);
        let figures = run("32 leechers, 8 links each", seed, 256, plans);
        assert!(figures.of_ideal < 1.8, "SIM_SEED={seed} {}", figures.of_ideal);
    }
}
