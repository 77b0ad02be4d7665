//! Hours in minutes: random blobs pulled through several clients while processes are killed, frozen
//! and restarted, upstreams break, and one client's storage is too small.
//!
//! `make soak` runs it for `SOAK_SECONDS`; `cargo test` for a few. `TEST_SEED` repeats the order of
//! what is done, not the timing. At the end every byte must be right, and threads, descriptors and
//! memory of each process must be back where they were.

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use torrent_cache::base::rng::Rng;

use support::faults::{Fault, FaultProxy};
use support::image::{Blob, Image, digest};
use support::registry::Registry;
use support::torrent_cache::Program;
use support::{get, skopeo, wait_for};

const CLIENTS: usize = 4;
const PULLERS: u64 = 6;
const IMAGES: u64 = 5;
/// What may come and go in a process at rest: an announce, a resolver, a connection kept alive.
const THREADS_MORE: usize = 8;
const DESCRIPTORS_MORE: usize = 24;
/// Memory that the allocator keeps of the busiest moment.
const RESIDENT_MORE_KIB: usize = 64 << 10;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

/// What pulls came to.
#[derive(Default)]
struct Tally {
    right: AtomicU64,
    bytes: AtomicU64,
    /// Refused, cut or told that there is no source.
    failed: AtomicU64,
}

impl Tally {
    /// Pulls one blob once; what comes whole must be right.
    fn pull(&self, client: SocketAddr, repository: &str, blob: &Blob) -> bool {
        let url = format!("http://{client}/v2/{repository}/blobs/{}", blob.digest);
        match get(&url, &[]) {
            Ok(answer) if answer.status == 200 => {
                assert_eq!(digest(&answer.body), blob.digest, "{url} came whole and wrong");
                self.right.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(answer.body.len() as u64, Ordering::Relaxed);
                true
            }
            Ok(answer) if answer.status < 500 => panic!("{url}: {}", answer.status),
            _ => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }
}

/// Threads, open descriptors and resident KiB of a process.
fn footprint(program: &mut Program) -> [usize; 3] {
    let pid = program.process().pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.expect("the kernel counts it")
    };
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    [of("Threads:"), descriptors, of("VmRSS:")]
}

struct Soak {
    _registry: Registry,
    images: Vec<Image>,
    proxy: FaultProxy,
    tracker: Program,
    clients: Vec<Program>,
    tally: Tally,
}

impl Soak {
    fn start(seed: u64) -> Soak {
        let registry = Registry::start();
        let mut rng = Rng::seeded(seed);
        let images: Vec<Image> = (0..IMAGES)
            .map(|number| {
                let lens: Vec<usize> = (0..3).map(|_| 1000 + rng.index(3 << 20)).collect();
                let image = Image::random(seed + number, &lens);
                skopeo::push(&image, registry.addr(), &format!("soak/{number}:latest"));
                image
            })
            .collect();
        let proxy = FaultProxy::start(registry.addr());
        let tracker = Program::tracker("tracker", &[]);
        let (upstream, announce) = (proxy.url(), tracker.announce_url());
        let client = |number: usize| {
            let options = [
                ("REGISTRY_LOCATION", upstream.as_str()),
                ("TRACKER", announce.as_str()),
                ("ETCD_PORT", tracker.option("ETCD_PORT")),
                // Less than all blobs take: the first one has to drop some for others.
                ("STORAGE_MAX", if number == 0 { "6000000" } else { "1000000000" }),
            ];
            Program::client(&format!("client{number}"), &options)
        };
        let clients = (0..CLIENTS).map(client).collect();
        let tally = Tally::default();
        Soak { _registry: registry, images, proxy, tracker, clients, tally }
    }

    fn blobs(&self) -> Vec<(String, &Blob)> {
        let images = self.images.iter().enumerate();
        images
            .flat_map(|(number, image)| {
                let repository = format!("soak/{number}");
                image.blobs().map(move |blob| (repository.clone(), blob))
            })
            .collect()
    }

    /// Everything through everybody, once: nothing fails while nothing is done to it.
    fn pull_all(&self) {
        for client in &self.clients {
            for (repository, blob) in self.blobs() {
                assert!(self.tally.pull(client.addr(), &repository, blob), "{}", client.log());
            }
        }
    }

    fn footprints(&mut self) -> Vec<[usize; 3]> {
        let programs = self.clients.iter_mut().chain([&mut self.tracker]);
        programs.map(footprint).collect()
    }

    /// Does something to somebody, and says what.
    fn harm(
        rng: &mut Rng,
        clients: &mut [Program],
        tracker: &mut Program,
        proxy: &FaultProxy,
        digests: &[String],
    ) -> &'static str {
        let pause = Duration::from_millis(200 + rng.below(1500));
        let client = &mut clients[rng.index(CLIENTS)];
        let after = rng.below(1 << 20);
        match rng.below(8) {
            0 | 1 => {
                client.crash();
                // Its storage is lost as well, now and then.
                if rng.below(2) == 0 {
                    let _ = std::fs::remove_dir_all(client.option("STORAGE"));
                }
                client.start_again();
                "killed"
            }
            2 => {
                assert!(client.stop().success());
                client.start_again();
                "stopped"
            }
            3 => {
                client.process().pause();
                std::thread::sleep(pause);
                client.process().resume();
                "frozen"
            }
            4 => {
                tracker.process().pause();
                std::thread::sleep(pause);
                tracker.process().resume();
                "tracker frozen"
            }
            5 if rng.below(3) == 0 => {
                tracker.crash();
                std::thread::sleep(pause);
                tracker.start_again();
                "tracker killed"
            }
            _ => {
                let faults = [
                    Fault::Cut { after },
                    Fault::Reset { after },
                    Fault::Stall { after },
                    Fault::Status(500),
                    Fault::Flip { at: after },
                    Fault::IgnoreRange,
                ];
                proxy.fail(&digests[rng.index(digests.len())], 1, faults[rng.index(6)]);
                "upstream broken"
            }
        }
    }

    /// Pulls and harms until `end`; what was done how often.
    fn run(&mut self, seed: u64, end: Instant) -> BTreeMap<&'static str, u64> {
        let owned: Vec<(String, Blob)> =
            self.blobs().into_iter().map(|(repository, blob)| (repository, blob.clone())).collect();
        let digests: Vec<String> = owned.iter().map(|(_, blob)| blob.digest.clone()).collect();
        let addresses: Vec<SocketAddr> = self.clients.iter().map(Program::addr).collect();
        let over = AtomicBool::new(false);
        let mut done = BTreeMap::new();
        let (clients, tracker) = (&mut self.clients, &mut self.tracker);
        let (tally, proxy) = (&self.tally, &self.proxy);
        std::thread::scope(|scope| {
            for puller in 0..PULLERS {
                let (owned, addresses, over) = (&owned, &addresses, &over);
                scope.spawn(move || {
                    let mut rng = Rng::seeded(seed + 100 + puller);
                    while !over.load(Ordering::Relaxed) {
                        let (repository, blob) = &owned[rng.index(owned.len())];
                        tally.pull(addresses[rng.index(CLIENTS)], repository, blob);
                    }
                });
            }
            let mut rng = Rng::seeded(seed);
            while Instant::now() < end {
                *done
                    .entry(Soak::harm(&mut rng, clients, tracker, proxy, &digests))
                    .or_default() += 1;
                std::thread::sleep(Duration::from_millis(rng.below(700)));
            }
            over.store(true, Ordering::Relaxed);
        });
        self.proxy.heal();
        done
    }
}

#[test]
fn every_byte_is_right_and_nothing_is_left_behind() {
    let seed = number("TEST_SEED", 77);
    let seconds = number("SOAK_SECONDS", 15);
    println!("TEST_SEED={seed}");
    let mut soak = Soak::start(seed);
    soak.pull_all();
    let before = soak.footprints();
    let harms = soak.run(seed, Instant::now() + Duration::from_secs(seconds));
    // A catalog that lost its tracker's etcd for a while, and jobs whose clients went away.
    wait_for("the end of all jobs", || {
        soak.clients.iter().all(|client| client.status()["jobs"] == 0).then_some(())
    });
    soak.pull_all();
    let is_back = |before: &[usize; 3], after: &[usize; 3]| {
        after[0] <= before[0] + THREADS_MORE
            && after[1] <= before[1] + DESCRIPTORS_MORE
            && after[2] <= before[2] + RESIDENT_MORE_KIB
    };
    let start = Instant::now();
    let after = loop {
        let after = soak.footprints();
        if before.iter().zip(&after).all(|(before, after)| is_back(before, after)) {
            break after;
        }
        // Workers and kept connections end after 60 s at the latest.
        assert!(start.elapsed() < Duration::from_secs(120), "before {before:?}, after {after:?}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!("soak of {seconds} s with {CLIENTS} clients and {PULLERS} readers");
    println!("  done to them: {harms:?}");
    println!(
        "  pulls right: {}, {} MiB; failed while harmed: {}; wrong: 0",
        of(&soak.tally.right),
        of(&soak.tally.bytes) >> 20,
        of(&soak.tally.failed)
    );
    println!("  threads, descriptors, resident KiB of each client and the tracker");
    println!("    before: {before:?}");
    println!("    after:  {after:?}");
    for client in soak.clients.iter().chain([&soak.tracker]) {
        assert_eq!(client.metric("torrent_cache_thread_panics_total"), 0, "{}", client.log());
    }
}
