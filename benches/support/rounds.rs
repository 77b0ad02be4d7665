//! Sides that take turns, so that whatever else the machine does hits them alike.

use super::cost::Cost;

/// One side of a comparison.
pub struct Side<'a> {
    run: Box<dyn FnMut() -> Cost + 'a>,
}

/// What the runs of one side cost.
#[derive(Clone, Debug, Default)]
pub struct Costs(Vec<Cost>);

impl<'a> Side<'a> {
    /// A side that does its work when `run` is called, and says what it cost.
    pub fn new(run: impl FnMut() -> Cost + 'a) -> Side<'a> {
        Side { run: Box::new(run) }
    }
}

impl Costs {
    /// The median of the wall times, in seconds.
    pub fn wall(&self) -> f64 {
        median(self.0.iter().map(|cost| cost.wall))
    }

    /// The mean of the CPU seconds: a single run is too short for the kernel's count.
    pub fn cpu(&self) -> f64 {
        self.0.iter().map(|cost| cost.cpu).sum::<f64>() / self.0.len() as f64
    }

    /// The shortest and the longest wall time.
    pub fn spread(&self) -> (f64, f64) {
        let walls = self.0.iter().map(|cost| cost.wall);
        walls.fold((f64::MAX, 0.0), |(min, max), wall| (min.min(wall), max.max(wall)))
    }
}

/// Lets the sides take turns: one each that is not counted, then `count` each. Who is first changes
/// from round to round.
pub fn interleave<const N: usize>(count: usize, mut sides: [Side<'_>; N]) -> [Costs; N] {
    let mut costs: [Costs; N] = std::array::from_fn(|_| Costs::default());
    for round in 0..=count {
        for turn in 0..N {
            let at = (round + turn) % N;
            let cost = (sides[at].run)();
            if round > 0 {
                costs[at].0.push(cost);
            }
        }
    }
    costs
}

/// Lets each side have one turn, for what takes long.
pub fn once<const N: usize>(sides: [Side<'_>; N]) -> [Costs; N] {
    sides.map(|mut side| Costs(vec![(side.run)()]))
}

/// The median; of an even number of values the mean of the two in the middle.
///
/// # Panics
/// If there are no values.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    }
}
