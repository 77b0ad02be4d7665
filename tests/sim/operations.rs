//! Random inputs to one swarm: whatever comes in whatever order, its invariants hold.

use torrent_cache::base::rng::Rng;
use torrent_cache::swarm::{Action, Input};

use crate::laws_swarm::{Choices, Model};
use crate::seeds;

fn model(seed: u64) -> Model {
    Model::new(Choices::Random(Rng::seeded(seed)))
}

#[test]
fn invariants_hold_whatever_comes_in_whatever_order() {
    for seed in seeds(40) {
        println!("SIM_SEED={seed}");
        let mut model = model(seed);
        for _ in 0..1500 {
            model.step();
        }
    }
}

#[test]
fn a_swarm_that_left_does_nothing_more() {
    for seed in seeds(5) {
        println!("SIM_SEED={seed}");
        let mut model = model(seed);
        (0..500).for_each(|_| model.step());
        let mut out = Vec::new();
        model.swarm.handle(model.now, Input::Leave, &mut out);
        let closed = out.iter().filter(|action| matches!(action, Action::Close { .. })).count();
        assert_eq!(closed, model.links.len(), "SIM_SEED={seed}");
        assert_eq!(model.swarm.next_deadline(), None);
        out.clear();
        model.swarm.handle(model.now, Input::Timeout, &mut out);
        assert_eq!(out, []);
    }
}
