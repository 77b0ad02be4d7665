//! What comes out of runs: figures of each, and how many seeds keep to a bound.

use std::time::Duration;

use torrent_cache::proto::geometry::Geometry;

use crate::host::{Host, Manner, Plan};
use crate::seeds;
use crate::world::World;

/// Longer than any run may take, in virtual time.
const LIMIT: Duration = Duration::from_secs(300);

/// What came out of one run. Only honest hosts that live to the end count.
pub struct Figures {
    pub world: World,
    /// The time until the last host was done, by the shortest that the lines allow.
    pub of_ideal: f64,
    /// How often the first host sent the blob until the others had all of it.
    pub copies_first: f64,
    /// Bytes that came and were not needed, of those needed: all in all, and before every piece had
    /// been asked for.
    pub duplicates: f64,
    pub duplicates_early: f64,
    /// The longest time that a reader did not advance while somebody had what it needed, in
    /// seconds.
    pub stall: f64,
    /// From the arrival of a reader to its first byte, in seconds.
    pub first_byte: f64,
    /// The longest time that an idle peer was not asked for what a reader needed, in seconds.
    pub idle: f64,
    /// The same, as long as the reader's own downlink was idle as well.
    pub idle_with_room: f64,
}

/// How the world is changed before it runs.
pub type Prepare = fn(&mut World);

/// One run of the plans for a blob of so many pieces.
pub fn run(seed: u64, geometry: Geometry, plans: Vec<Plan>, prepare: Prepare) -> Figures {
    let mut world = World::new(seed, geometry, plans);
    prepare(&mut world);
    let took = world.run(LIMIT).as_secs_f64();
    let blob_len = geometry.blob_len();
    let honest = world.hosts.iter().filter(|host| host.plan.manner == Manner::Honest);
    let honest: Vec<&Host> = honest.collect();
    let leechers = honest.iter().filter(|host| !host.plan.seeds && host.alive).copied();
    let leechers: Vec<&Host> = leechers.collect();
    let sum = |figure: fn(&Host) -> u64| leechers.iter().map(|host| figure(host)).sum::<u64>();
    let needed = sum(|host| host.kept).max(1) as f64;
    let longest = |figure: &dyn Fn(&Host) -> Duration| {
        leechers.iter().map(|host| figure(host)).max().unwrap_or_default().as_secs_f64()
    };
    let sent = world.hosts[0].sent;
    let first_byte =
        longest(&|host| host.first_byte.map_or(Duration::ZERO, |first| first.since(host.arrived)));
    Figures {
        of_ideal: took / ideal(blob_len, &honest, &leechers),
        copies_first: world.sent_until_injected.unwrap_or(sent) as f64 / blob_len as f64,
        duplicates: sum(|host| host.dropped) as f64 / needed,
        duplicates_early: sum(|host| host.dropped_early) as f64 / needed,
        stall: longest(&|host| host.longest_stall),
        first_byte,
        idle: longest(&|host| host.longest_idle),
        idle_with_room: longest(&|host| host.longest_idle_with_room),
        world,
    }
}

fn seconds(bytes: u64, rate: u64) -> f64 {
    bytes as f64 / rate as f64
}

/// The fluid limit: nothing is faster than the sources together, the slowest downlink, or all
/// uplinks together; nobody is done sooner than that after it arrived.
fn ideal(blob_len: u64, honest: &[&Host], leechers: &[&Host]) -> f64 {
    let upstream: u64 = leechers.iter().filter_map(|host| host.plan.upstream).sum();
    let seeding = honest.iter().filter(|host| host.plan.seeds);
    let sources = seeding.map(|host| host.plan.line.up).sum::<u64>() + upstream;
    let all_up = honest.iter().map(|host| host.plan.line.up).sum::<u64>() + upstream;
    let needed = blob_len * leechers.len() as u64;
    let last_alone = leechers
        .iter()
        .map(|host| host.plan.arrives.as_secs_f64() + seconds(blob_len, host.plan.line.down));
    let together = seconds(blob_len, sources).max(seconds(needed, all_up));
    last_alone.fold(together, f64::max)
}

/// Runs of one scenario with many seeds.
pub struct Runs {
    name: String,
    all: Vec<(u64, Figures)>,
}

impl Runs {
    /// Runs the scenario with `usual` seeds, or those that the environment names, and prints the
    /// figures.
    pub fn of(name: &str, usual: u64, scenario: impl Fn(u64) -> Figures) -> Runs {
        let all: Vec<_> = seeds(usual).into_iter().map(|seed| (seed, scenario(seed))).collect();
        let runs = Runs { name: name.to_owned(), all };
        runs.print();
        runs
    }

    fn print(&self) {
        let (ideal, ideal_worst) = self.mean_and_worst(&|figures| figures.of_ideal);
        let (copies, copies_worst) = self.mean_and_worst(&|figures| figures.copies_first);
        let (twice, twice_worst) = self.mean_and_worst(&|figures| figures.duplicates);
        let (early, early_worst) = self.mean_and_worst(&|figures| figures.duplicates_early);
        let (stall, stall_worst) = self.mean_and_worst(&|figures| figures.stall);
        println!(
            "| {:<36} | {ideal:.2} ({:.2}) | {copies:.2} ({:.2}) | {:.2} % ({:.2} %) | \
             {:.2} % ({:.2} %) | {:.0} ms ({:.0} ms) | {} |",
            self.name,
            ideal_worst.0,
            copies_worst.0,
            early * 100.0,
            early_worst.0 * 100.0,
            twice * 100.0,
            twice_worst.0 * 100.0,
            stall * 1000.0,
            stall_worst.0 * 1000.0,
            ideal_worst.1,
        );
    }

    /// The mean of a figure, the worst and its seed.
    pub fn mean_and_worst(&self, figure: &dyn Fn(&Figures) -> f64) -> (f64, (f64, u64)) {
        let values = self.all.iter().map(|(seed, figures)| (figure(figures), *seed));
        let worst = values.clone().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default();
        (values.map(|(value, _)| value).sum::<f64>() / self.all.len() as f64, worst)
    }

    /// Panics if any seed's figure is above `bound`.
    pub fn at_most(&self, bound: f64, what: &str, figure: impl Fn(&Figures) -> f64) {
        let above = self.all.iter().filter(|(_, figures)| figure(figures) > bound).count();
        let (mean, (worst, seed)) = self.mean_and_worst(&figure);
        assert!(
            above == 0,
            "{}: {what} above {bound:.3} with {above} of {} seeds: mean {mean:.3}, worst \
             {worst:.3} with SIM_SEED={seed}",
            self.name,
            self.all.len(),
        );
    }

    /// Panics if the mean of a figure is above `bound`.
    pub fn mean_at_most(&self, bound: f64, what: &str, figure: impl Fn(&Figures) -> f64) {
        let (mean, (worst, seed)) = self.mean_and_worst(&figure);
        assert!(
            mean <= bound,
            "{}: {what} {mean:.3} of {} seeds, {bound:.3} at most; worst {worst:.3} with \
             SIM_SEED={seed}",
            self.name,
            self.all.len(),
        );
    }

    /// The bounds that every scenario has.
    pub fn wastes_little(&self) -> &Runs {
        self.at_most(0.01, "duplicate bytes before the end game", |figures| {
            figures.duplicates_early
        });
        self.at_most(0.03, "duplicate bytes", |figures| figures.duplicates);
        self
    }
}
