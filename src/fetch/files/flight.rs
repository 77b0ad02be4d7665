//! Requests for one URL: the first asks the upstream, the others wait for it while it gets on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::ranked::{Rank, Ranked, Signal};
use crate::limits;

/// All flights, by URL.
pub struct Flights(Arc<Ranked<HashMap<String, Arc<Leg>>>>);

/// What the others wait for.
#[derive(Debug)]
pub struct Leg {
    course: Ranked<Course>,
    changed: Signal,
}

#[derive(Clone, Copy, Debug)]
struct Course {
    state: State,
    /// Until when the others wait if they hear nothing more.
    due: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Landed,
    Failed,
}

impl Leg {
    /// Waits until the leader is done, stalls, or has taken `patience`; whether what it asked for
    /// is here.
    pub fn wait(&self, patience: Duration) -> bool {
        let deadline = Time::now() + patience;
        let mut course = self.course.lock();
        loop {
            let until = course.due.min(deadline);
            if course.state != State::Up || Time::now() >= until {
                return course.state == State::Landed;
            }
            course = self.changed.wait_until(course, until);
        }
    }

    fn end(&self, how: State) {
        self.course.lock().state = how;
        self.changed.wake_all();
    }
}

/// The leader's hold. Dropped before [`Flight::land`], it has failed.
pub struct Flight(Option<(Flights, String, Arc<Leg>)>);

impl std::fmt::Debug for Flight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Flight")
    }
}

impl Flight {
    /// One that nobody waits for.
    pub fn alone() -> Flight {
        Flight(None)
    }

    /// The upstream is asked, or has sent something: from now on it has
    /// [`limits::FILL_STALLED`] to send more.
    pub fn gets_on(&self) {
        if let Some((_, _, leg)) = &self.0 {
            leg.course.lock().due = Time::now() + limits::FILL_STALLED;
            // It may be earlier than before.
            leg.changed.wake_all();
        }
    }

    /// What was asked for is here.
    pub fn land(mut self) {
        self.end(State::Landed);
    }

    fn end(&mut self, how: State) {
        if let Some((flights, url, leg)) = self.0.take() {
            flights.0.lock().remove(&url);
            leg.end(how);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.end(State::Failed);
    }
}

/// The part of a request.
pub enum Seat {
    /// It asks.
    Leader(Flight),
    /// Another does.
    Follower(Arc<Leg>),
    /// There are too many.
    Standing,
}

impl Flights {
    /// None.
    pub fn new() -> Flights {
        Flights(Arc::new(Ranked::new(Rank::Jobs, HashMap::new())))
    }

    /// Takes part in asking for `url`.
    pub fn seat(&self, url: &str) -> Seat {
        let mut all = self.0.lock();
        if let Some(leg) = all.get(url) {
            return Seat::Follower(Arc::clone(leg));
        }
        if all.len() >= limits::FILE_FLIGHTS_MAX {
            return Seat::Standing;
        }
        let due = Time::now() + limits::FILE_FLIGHT_PATIENCE;
        let course = Ranked::new(Rank::Leaf, Course { state: State::Up, due });
        let leg = Arc::new(Leg { course, changed: Signal::new() });
        all.insert(url.to_owned(), Arc::clone(&leg));
        Seat::Leader(Flight(Some((Flights(Arc::clone(&self.0)), url.to_owned(), leg))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_leads_and_the_others_hear_how_it_ended() {
        let flights = Flights::new();
        for lands in [true, false] {
            let Seat::Leader(flight) = flights.seat("a") else { panic!("the first leads") };
            let Seat::Follower(leg) = flights.seat("a") else { panic!("the second follows") };
            assert!(matches!(flights.seat("b"), Seat::Leader(_)));
            assert!(!leg.wait(Duration::ZERO), "it is still up");
            if lands {
                flight.land();
            } else {
                drop(flight);
            }
            assert_eq!(leg.wait(Duration::from_secs(60)), lands);
        }
        assert!(flights.0.lock().is_empty());
    }
}
