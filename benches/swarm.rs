//! A swarm on real sockets: the program on up to 32 hosts, each a network namespace with a line of
//! its own, beside the shortest time that the lines allow. `tests/sim` has the same without
//! sockets.
//!
//! `cargo bench --bench swarm -- WORD...` tries only the scenarios with one of the words in their
//! names. The blobs and lines are such that the CPUs are not what bounds it: a row says how busy
//! they were. What the readers had at each moment is drawn in `target/bench-swarm.svg`.

#[path = "swarm/drawing.rs"]
mod drawing;
#[path = "swarm/network.rs"]
mod network;
mod support;
#[path = "swarm/world.rs"]
mod world;

use std::path::Path;

use drawing::Panel;
use network::Line;
use support::rounds::median;
use support::table::{Goal, Row, Table, chosen, percent, seconds, share};
use world::{Outcome, Plan, World};

const MIB: usize = 1 << 20;
const ROUNDS: u64 = 3;
/// Below `target`, whatever folder this is run in.
const DRAWING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench-swarm.svg");

fn main() {
    world::play_role();
    network::enter();
    let mut table = Table::new("Swarms on real sockets");
    let mut panels = Vec::new();
    for (name, plan, goals) in scenarios() {
        if chosen(name) {
            panels.push(measure(&mut table, &plan, &goals));
            drawing::draw(&panels, Path::new(DRAWING));
        }
    }
    table.print();
    println!("\ndrawn in {DRAWING}");
}

/// What a scenario has to reach.
struct Goals {
    of_ideal: Goal,
    copies: Goal,
    slowest: Goal,
}

fn scenarios() -> [(&'static str, Plan, Goals); 6] {
    let fast = line(100.0);
    let together = |title, count, line| Plan {
        title,
        len: 64 * MIB,
        seeder: line,
        leecher: line,
        // One after the other: etcd has to answer each within 250 ms.
        arrivals: (0..count).map(|number| number as f64 * 0.02).collect(),
    };
    let equal = || Goals { of_ideal: Goal::AtMost(1.15), copies: Goal::Told, slowest: Goal::Told };
    let many = Plan { len: 32 * MIB, ..together("16 leechers at once, 25 Mbit/s", 16, line(25.0)) };
    let most = Plan { len: 16 * MIB, ..together("31 leechers at once, 10 Mbit/s", 31, line(10.0)) };
    let weak = Plan {
        len: 32 * MIB,
        seeder: line(20.0),
        ..together("16 leechers at once, 200 Mbit/s, the seeder's uplink a tenth", 16, line(200.0))
    };
    let weak_goals =
        Goals { of_ideal: Goal::AtMost(1.25), copies: Goal::AtMost(1.3), slowest: Goal::Told };
    let later = Plan {
        arrivals: (0..16).map(|number| f64::from(number) * 0.7).collect(),
        ..together("16 leechers, one each 0.7 s, 100 Mbit/s", 16, fast)
    };
    let later_goals =
        Goals { of_ideal: Goal::Told, copies: Goal::Told, slowest: Goal::AtMost(1.15) };
    [
        ("two", together("2 leechers at once, 100 Mbit/s", 2, fast), equal()),
        ("eight", together("8 leechers at once, 100 Mbit/s", 8, fast), equal()),
        ("many", many, equal()),
        ("most", most, equal()),
        ("weak-seeder", weak, weak_goals),
        ("later", later, later_goals),
    ]
}

/// A line that takes so many megabits (10^6) per second each way.
fn line(megabits: f64) -> Line {
    Line { up: megabits * 1e6, down: megabits * 1e6 }
}

/// Runs a scenario several times; the rows are medians, the drawing is the last of them.
fn measure(table: &mut Table, plan: &Plan, goals: &Goals) -> Panel {
    let world = World::start(plan, ROUNDS);
    let rounds = usize::try_from(ROUNDS).expect("a few");
    let outcomes: Vec<Outcome> = (0..rounds).map(|round| world.round(round)).collect();
    drop(world);
    let middle = |figure: fn(&Outcome) -> f64| median(outcomes.iter().map(figure));
    let (ideal, alone) = (plan.ideal(), plan.alone());
    let last = middle(|outcome| outcome.last);
    table.push(Row::ratio(plan.title, last, ("ideal", ideal), seconds, goals.of_ideal));
    let slowest = middle(|outcome| outcome.slowest);
    let what = "… the slowest, from its own beginning";
    table.push(Row::ratio(what, slowest, ("its line", alone), seconds, goals.slowest));
    let failed = outcomes.iter().map(|outcome| outcome.failed).sum::<usize>();
    if failed > 0 {
        let what = format!("… pulls that failed, of {}", rounds * plan.arrivals.len());
        let unit = |count| format!("{count:.0}");
        table.push(Row::alone(&what, failed as f64, unit, Goal::AtMost(0.0)));
    }
    let copies = middle(|outcome| outcome.copies);
    table.push(Row::alone("… copies that the seeder sent", copies, share, goals.copies));
    let duplicates = middle(|outcome| outcome.duplicates);
    table.push(Row::alone("… bytes that came twice", duplicates, percent, Goal::AtMost(0.03)));
    let cpu = middle(|outcome| outcome.cpu);
    table.push(Row::alone("… of all CPU time", cpu, percent, Goal::Told));
    let progress = outcomes.into_iter().next_back().expect("some rounds").progress;
    Panel { title: plan.title.to_owned(), ideal, hosts: progress }
}
