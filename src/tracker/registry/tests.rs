use std::collections::BTreeSet;

use super::*;
use crate::proto::peer::PeerId;

fn at(seconds: u64) -> Time {
    Time::after_start(Duration::from_secs(seconds))
}

fn peer(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn swarm(number: u8) -> Sha1Hash {
    Sha1Hash([number; 20])
}

fn request(number: u8, left: u64, event: AnnounceEvent) -> AnnounceRequest {
    AnnounceRequest {
        info_hash: swarm(number),
        peer_id: PeerId([0; 20]),
        port: 0,
        uploaded: 0,
        downloaded: 0,
        left,
        event,
        numwant: None,
        key: None,
        ip: None,
        tracker_id: None,
    }
}

/// A registry with the random source beside it.
struct Fixture {
    registry: Registry,
    rng: Rng,
}

impl Fixture {
    fn new(limits: Limits) -> Fixture {
        Fixture { registry: Registry::new(limits), rng: Rng::seeded(5) }
    }

    fn announce(
        &mut self,
        seconds: u64,
        who: &str,
        number: u8,
        left: u64,
        event: AnnounceEvent,
    ) -> AnnounceResponse {
        let request = request(number, left, event);
        self.registry.announce(at(seconds), peer(who), &request, &mut self.rng)
    }

    fn join(&mut self, who: &str, number: u8, left: u64) -> AnnounceResponse {
        self.announce(0, who, number, left, AnnounceEvent::Started)
    }
}

fn fixture() -> Fixture {
    Fixture::new(Limits::default())
}

#[test]
fn leechers_get_all_others_and_seeders_get_leechers() {
    let mut all = fixture();
    assert_eq!(all.join("10.0.0.1:1", 1, 0).peers, []);
    assert_eq!(all.join("10.0.0.2:1", 1, 0).peers, []);
    let answer = all.join("10.0.0.3:1", 1, 9);
    assert_eq!(
        BTreeSet::from_iter(answer.peers),
        BTreeSet::from([peer("10.0.0.1:1"), peer("10.0.0.2:1")])
    );
    assert_eq!((answer.seeders, answer.leechers), (2, 1), "the asker is counted");
    assert_eq!(all.join("10.0.0.1:1", 1, 0).peers, [peer("10.0.0.3:1")]);
    assert_eq!(all.join("10.0.0.3:1", 2, 9).peers, [], "another swarm is another swarm");
}

#[test]
fn the_asker_is_its_address_and_port() {
    let mut all = fixture();
    all.join("10.0.0.1:1", 1, 9);
    assert_eq!(all.join("10.0.0.1:1", 1, 9).peers, []);
    assert_eq!(all.join("10.0.0.1:2", 1, 9).peers, [peer("10.0.0.1:1")]);
    assert_eq!(all.join("[::ffff:10.0.0.1]:2", 1, 9).peers, [peer("10.0.0.1:1")]);
    assert_eq!(all.registry.totals().leechers, 2);
}

#[test]
fn the_families_are_apart_but_counted_together() {
    let mut all = fixture();
    all.join("10.0.0.1:1", 1, 0);
    let answer = all.join("[fd00::1]:1", 1, 9);
    assert_eq!(answer.peers, []);
    assert_eq!((answer.seeders, answer.leechers), (1, 1));
    assert_eq!(all.join("[fd00::2]:1", 1, 9).peers, [peer("[fd00::1]:1")]);
}

#[test]
fn stopped_removes_and_the_last_one_takes_the_swarm_along() {
    let mut all = fixture();
    all.join("10.0.0.1:1", 1, 0);
    all.join("10.0.0.2:1", 1, 9);
    let answer = all.announce(0, "10.0.0.1:1", 1, 0, AnnounceEvent::Stopped);
    assert_eq!((answer.seeders, answer.leechers), (0, 1));
    all.announce(0, "10.0.0.2:1", 1, 9, AnnounceEvent::Stopped);
    all.announce(0, "10.0.0.2:1", 1, 9, AnnounceEvent::Stopped);
    assert_eq!(all.registry.totals(), Totals::default());
    assert_eq!(all.registry.scrape(&swarm(1)), None);
}

#[test]
fn who_takes_no_connections_is_answered_but_not_given_to_others() {
    let mut all = fixture();
    assert_eq!(all.join("10.0.0.9:0", 1, 9).peers, []);
    assert_eq!(all.registry.totals().swarms, 0);
    all.join("10.0.0.1:1", 1, 0);
    assert_eq!(all.join("10.0.0.9:0", 1, 9).peers, [peer("10.0.0.1:1")]);
    assert_eq!(all.join("10.0.0.2:1", 1, 9).peers, [peer("10.0.0.1:1")]);
    assert_eq!(all.registry.not_remembered(), 0);
}

#[test]
fn a_completion_counts_once() {
    let mut all = fixture();
    let done = |all: &mut Fixture, who| {
        all.announce(0, who, 1, 0, AnnounceEvent::Completed);
        all.registry.scrape(&swarm(1)).expect("somebody is in it").completed
    };
    all.join("10.0.0.1:1", 1, 9);
    assert_eq!(done(&mut all, "10.0.0.1:1"), 1);
    assert_eq!(done(&mut all, "10.0.0.1:1"), 1);
    assert_eq!(done(&mut all, "10.0.0.2:1"), 2, "after a restart of the tracker it is unknown");
    let counts = all.registry.scrape(&swarm(1)).expect("somebody is in it");
    assert_eq!((counts.seeders, counts.leechers), (2, 0));
}

#[test]
fn numwant_is_obeyed_up_to_its_limit() {
    let mut all = fixture();
    for host in 0..=255 {
        all.join(&format!("10.0.1.{host}:1"), 1, 9);
    }
    let count = |all: &mut Fixture, numwant| {
        let request = AnnounceRequest { numwant, ..request(1, 9, AnnounceEvent::None) };
        all.registry.announce(at(0), peer("10.0.0.1:1"), &request, &mut all.rng).peers.len()
    };
    assert_eq!(count(&mut all, None), TRACKER_NUMWANT);
    assert_eq!(count(&mut all, Some(0)), 0);
    assert_eq!(count(&mut all, Some(7)), 7);
    assert_eq!(count(&mut all, Some(u32::MAX)), TRACKER_PEERS_MAX);
}

#[test]
fn who_does_not_come_back_is_forgotten_after_two_intervals() {
    let mut all = fixture();
    let answer = all.join("10.0.0.1:1", 1, 9);
    let interval = answer.interval.as_secs();
    assert!((20..=30).contains(&interval), "{interval}");
    all.registry.expire(at(2 * interval), usize::MAX);
    assert_eq!(all.registry.totals().peers(), 1);
    all.announce(interval, "10.0.0.1:1", 1, 9, AnnounceEvent::None);
    all.registry.expire(at(3 * interval), usize::MAX);
    assert_eq!(all.registry.totals().peers(), 1, "it came back");
    all.registry.expire(at(200), usize::MAX);
    assert_eq!(all.registry.totals(), Totals::default());
}

#[test]
fn expiry_goes_on_where_it_stopped() {
    let mut all = fixture();
    for number in 0..10 {
        all.join("10.0.0.1:1", number, 9);
    }
    for left in (0..10).rev() {
        all.registry.expire(at(1000), 1);
        assert_eq!(all.registry.totals().swarms, left);
    }
    all.join("10.0.0.1:1", 3, 9);
    // The pass ended at the last swarm; the next one begins at the first.
    all.registry.expire(at(1000), 1);
    all.registry.expire(at(1000), 1);
    assert_eq!(all.registry.totals().swarms, 0);
}

#[test]
fn a_step_of_expiry_looks_at_so_many_peers_whatever_the_swarms_are() {
    const COUNT: usize = 100;
    let mut all = fixture();
    // One swarm of many steps, in both families and standings, among small ones.
    for host in 0..1000u16 {
        let (number, left) = (u8::try_from(host % 7).expect("below seven"), u64::from(host % 2));
        all.join(&format!("10.0.{}.{}:1", host / 256, host % 256), 99, left);
        all.join(&format!("[fd00::{host:x}]:1"), 99, left);
        all.join(&format!("10.1.{}.{}:1", host / 256, host % 256), number, left);
    }
    // Those who came back stay, wherever a step begins.
    let back = ["10.0.0.5:1", "10.0.3.7:1", "[fd00::1]:1", "[fd00::3e7]:1", "10.1.3.7:1"];
    for who in back {
        let number = if who == "10.1.3.7:1" { 5 } else { 99 };
        all.announce(950, who, number, 1, AnnounceEvent::None);
    }
    let peers = all.registry.totals().peers();
    for step in 1..=peers.div_ceil(COUNT) {
        let before = all.registry.totals().peers();
        all.registry.expire(at(1000), COUNT);
        let after = all.registry.totals().peers();
        assert!(before - after <= COUNT && before - after + back.len() >= COUNT.min(before));
        assert!(after >= peers - step * COUNT);
    }
    assert_eq!(all.registry.totals().peers(), back.len());
    assert_eq!(all.registry.totals().swarms, 2);
    all.registry.expire(at(2000), COUNT);
    assert_eq!(all.registry.totals(), Totals::default());
}

#[test]
fn intervals_grow_with_the_crowd() {
    let mut all = fixture();
    let interval = |all: &mut Fixture, seeders, leechers| {
        all.registry.totals = Totals { swarms: 0, seeders, leechers };
        let of = |registry: &mut Registry, standing, rng: &mut Rng| {
            registry.interval(standing, rng).as_secs()
        };
        let seeder = of(&mut all.registry, Standing::Seeder, &mut all.rng);
        (seeder, of(&mut all.registry, Standing::Leecher, &mut all.rng))
    };
    let within = |value: u64, most: u64| value <= most && value > most - most / 8;
    let (seeder, leecher) = interval(&mut all, 0, 0);
    assert!(within(seeder, 300) && within(leecher, 30), "{seeder} {leecher}");
    let (seeder, leecher) = interval(&mut all, 1_000_000, 60_000);
    assert!(within(seeder, 1000) && within(leecher, 60), "{seeder} {leecher}");
    let (seeder, leecher) = interval(&mut all, 4_000_000, 4_000_000);
    assert!(within(seeder, 1800) && within(leecher, 300), "{seeder} {leecher}");
}

#[test]
fn a_full_registry_answers_and_keeps_whom_it_knows() {
    let full = |limits| {
        let mut all = Fixture::new(limits);
        all.join("10.0.0.1:1", 1, 0);
        all.join("10.0.0.2:1", 1, 9);
        all
    };
    let roomy = Limits { peers: 9, swarms: 9, swarm_peers: 9 };
    for limits in [Limits { peers: 2, ..roomy }, Limits { swarm_peers: 2, ..roomy }] {
        let mut all = full(limits);
        assert_eq!(all.join("10.0.0.3:1", 1, 9).peers.len(), 2, "{limits:?}");
        assert_eq!(all.registry.totals().peers(), 2);
        assert_eq!(all.registry.not_remembered(), 1);
        all.announce(0, "10.0.0.2:1", 1, 0, AnnounceEvent::Completed);
        assert_eq!(all.registry.totals().seeders, 2, "who is known may come back");
        all.announce(0, "10.0.0.2:1", 1, 0, AnnounceEvent::Stopped);
        all.join("10.0.0.3:1", 1, 9);
        assert_eq!(all.registry.totals().peers(), 2, "there is room again");
    }
    let mut all = full(Limits { swarms: 1, ..roomy });
    all.join("10.0.0.3:1", 2, 9);
    assert_eq!((all.registry.totals().swarms, all.registry.not_remembered()), (1, 1));
}

mod model {
    //! The registry against the plainest thing that could be right.

    use super::*;
    use std::collections::BTreeMap;

    type Key = (u8, SocketAddr);

    /// All peers, with whether they seed and since when they are forgotten.
    #[derive(Default)]
    struct Model(BTreeMap<Key, (bool, u64)>);

    impl Model {
        fn others(&self, (number, asker): Key, seeding: bool) -> BTreeSet<SocketAddr> {
            let others = self.0.iter().filter(|((other, address), (seeds, _))| {
                *other == number
                    && *address != asker
                    && address.is_ipv4() == asker.is_ipv4()
                    && !(seeding && *seeds)
            });
            others.map(|((_, address), _)| *address).collect()
        }

        fn count(&self, number: u8, seeding: bool) -> usize {
            let these = |((other, _), (seeds, _)): &(&Key, &(bool, u64))| {
                *other == number && *seeds == seeding
            };
            self.0.iter().filter(these).count()
        }
    }

    fn random_peer(rng: &mut Rng) -> SocketAddr {
        let host = u8::try_from(rng.below(6)).expect("below six");
        let port = u16::try_from(rng.below(4)).expect("below four");
        match rng.below(2) {
            0 => SocketAddr::from(([10, 0, 0, host], port)),
            _ => SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, host.into()], port)),
        }
    }

    fn step(model: &mut Model, registry: &mut Registry, second: u64, rng: &mut Rng) {
        let number = u8::try_from(rng.below(4)).expect("below four");
        let address = random_peer(rng);
        let event =
            [AnnounceEvent::None, AnnounceEvent::Completed, AnnounceEvent::Stopped][rng.index(3)];
        let left = rng.below(2);
        let numwant = u32::try_from(rng.below(10)).expect("below ten");
        let request = AnnounceRequest { numwant: Some(numwant), ..request(number, left, event) };
        let answer = registry.announce(at(second), address, &request, rng);

        let others = model.others((number, address), left == 0);
        let given = BTreeSet::from_iter(answer.peers.iter().copied());
        assert_eq!(given.len(), answer.peers.len(), "nobody twice");
        assert!(given.is_subset(&others), "{given:?} of {others:?}");
        assert_eq!(given.len(), others.len().min(numwant as usize));

        model.0.remove(&(number, address));
        if event != AnnounceEvent::Stopped && address.port() != 0 {
            let forgotten = second + 2 * answer.interval.as_secs() + 31;
            model.0.insert((number, address), (left == 0, forgotten));
        }
        assert_eq!(answer.seeders as usize, model.count(number, true));
        assert_eq!(answer.leechers as usize, model.count(number, false));
    }

    #[test]
    fn random_announces_agree_with_a_plain_map() {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| Rng::from_os().next_u64());
        println!("SEED={seed}");
        let mut rng = Rng::seeded(seed);
        let mut model = Model::default();
        let mut registry = Registry::new(Limits::default());
        let mut second = 0;
        for _ in 0..20_000 {
            second += rng.below(3);
            step(&mut model, &mut registry, second, &mut rng);
            if rng.below(50) == 0 {
                second += rng.below(300);
                registry.expire(at(second), usize::MAX);
                model.0.retain(|_, (_, forgotten)| *forgotten > second);
            }
            let totals = registry.totals();
            let swarms: BTreeSet<u8> = model.0.keys().map(|(number, _)| *number).collect();
            assert_eq!(totals.swarms, swarms.len());
            assert_eq!(totals.peers(), model.0.len());
        }
    }
}
