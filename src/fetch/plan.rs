//! Policy: what a job does next. Pure: a view of the job goes in, one step comes out.
//!
//! The rules, in one place. A blob that the catalog does not know comes from upstream, and a broken
//! stream is taken up again where it ended. A blob that the catalog knows comes from the swarm;
//! upstream is added when the swarm is empty, gives no first byte in time, stalls, or is slower
//! than upstream was.

use std::time::Duration;

use crate::base::clock::Time;
use crate::limits;

/// What a job looks like at one moment.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The moment.
    pub now: Time,
    /// When the job began.
    pub started_at: Time,
    /// The swarm, if the catalog knew the blob.
    pub swarm: Option<SwarmView>,
    /// The stream from upstream.
    pub fill: FillView,
    /// The fastest that this upstream has been lately, in bytes per second.
    pub upstream_rate: Option<u64>,
}

/// What the swarm does.
#[derive(Clone, Copy, Debug)]
pub struct SwarmView {
    /// When it was joined.
    pub joined_at: Time,
    /// When a peer's last block came.
    pub last_byte_at: Option<Time>,
    /// The tracker knows no peer, and none has called.
    pub nobody: bool,
    /// Bytes per second from all peers, over about [`limits::NO_PROGRESS`].
    pub rate: u64,
    /// It is an early one: a host still brings the blob from upstream. No byte need come for so
    /// long, since a piece is shared when it is whole; and [`SwarmView::rate`] is that of all the
    /// time since the swarm was joined.
    pub early: Option<Duration>,
}

/// What the stream from upstream does.
#[derive(Clone, Copy, Debug)]
pub enum FillView {
    /// One is running; its last byte came (or it was started) at this time.
    Running {
        /// See above.
        last_byte_at: Time,
    },
    /// None is running.
    Idle {
        /// Attempts that ended badly since upstream last brought a good part that was missing.
        failures: u32,
        /// When the last attempt ended, well or badly.
        ended_at: Option<Time>,
        /// The last attempt found no piece to take: peers are asked for all that is missing.
        found_nothing: bool,
        /// Another attempt would end the same way: the upstream has said no.
        refused: bool,
    },
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time, unless something happens.
    Wait(Time),
    /// Start a stream from upstream.
    Fill {
        /// It may take pieces that peers were asked for.
        steal: bool,
    },
    /// The running stream has stalled: leave it, start another.
    Replace,
    /// No source is left.
    GiveUp,
}

/// Says what to do next.
#[must_use]
pub fn next(view: &View) -> Step {
    match view.fill {
        FillView::Running { last_byte_at } => {
            let stalled_at = last_byte_at + limits::FILL_STALLED;
            if view.now >= stalled_at { Step::Replace } else { Step::Wait(stalled_at) }
        }
        FillView::Idle { failures, ended_at, found_nothing, refused } => {
            let exhausted = refused || failures >= limits::FILL_ATTEMPTS_MAX;
            let retry_at = match ended_at {
                Some(at) if failures > 0 => at + back_off(failures),
                _ => Time::ZERO,
            };
            match &view.swarm {
                None if exhausted => Step::GiveUp,
                None if view.now >= retry_at => Step::Fill { steal: false },
                None => Step::Wait(retry_at),
                Some(swarm) if exhausted => swarm_alone(view, swarm),
                Some(swarm) => {
                    let found_nothing_at = ended_at.filter(|_| found_nothing);
                    beside_swarm(view, swarm, retry_at, found_nothing_at)
                }
            }
        }
    }
}

/// Upstream is no help: the swarm has longer, since there is nothing else.
fn swarm_alone(view: &View, swarm: &SwarmView) -> Step {
    let last = swarm.last_byte_at.unwrap_or(swarm.joined_at).max(view.started_at);
    let over_at = last + limits::SWARM_ALONE;
    if view.now >= over_at { Step::GiveUp } else { Step::Wait(over_at) }
}

fn beside_swarm(
    view: &View,
    swarm: &SwarmView,
    retry_at: Time,
    found_nothing_at: Option<Time>,
) -> Step {
    let slow_at = slow_at(view, swarm);
    // Pieces that peers were asked for are taken from them only after a second span of patience: a
    // piece that is fetched twice is the uplink's loss. A slow swarm has it from when there was
    // nothing else to take, since it may stay just as slow for ever.
    let (fill_at, steal_at) = match found_nothing_at {
        Some(at) => {
            let steal_at = slow_at.max(at + limits::NO_PROGRESS);
            (steal_at, steal_at)
        }
        None => (slow_at, slow_at + limits::NO_PROGRESS),
    };
    let fill_at = fill_at.max(retry_at);
    if view.now >= fill_at {
        Step::Fill { steal: view.now >= steal_at }
    } else {
        Step::Wait(fill_at)
    }
}

/// When the swarm counts as slow, if nothing more comes.
fn slow_at(view: &View, swarm: &SwarmView) -> Time {
    if let Some(patience) = swarm.early {
        return early_slow_at(view, swarm, patience);
    }
    let Some(last_byte_at) = swarm.last_byte_at else {
        let budget = if swarm.nobody { Duration::ZERO } else { limits::SWARM_FIRST_BYTE };
        return swarm.joined_at + budget;
    };
    let settled_at = swarm.joined_at + limits::NO_PROGRESS;
    let wanted = view.upstream_rate.map_or(limits::SWARM_RATE_MIN, |rate| rate / 2);
    // Not stalled before the pause, and its rate is looked at again no later than that.
    let stalled_at = last_byte_at + limits::NO_PROGRESS;
    if swarm.rate < wanted && view.now >= settled_at {
        return stalled_at.min(view.now);
    }
    stalled_at
}

/// As [`slow_at`]. An early swarm is as fast as upstream is for the one who brings it, beside all
/// else that comes over the uplink: that is no reason to have it brought twice.
fn early_slow_at(view: &View, swarm: &SwarmView, patience: Duration) -> Time {
    let stalled_at = swarm.last_byte_at.unwrap_or(swarm.joined_at) + patience;
    let settled_at = swarm.joined_at + patience * 2;
    let wanted = view.upstream_rate.map_or(0, |rate| rate / 16).max(limits::EARLY_RATE_MIN);
    if swarm.rate < wanted && view.now >= settled_at {
        return stalled_at.min(view.now);
    }
    stalled_at
}

/// How long to wait before attempt number `failures + 1`: at once the first time, since most
/// failures are one lost connection, then doubling from 200 ms to 5 s.
fn back_off(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        more => {
            let doubled = Duration::from_millis(200).saturating_mul(1 << (more - 2).min(8));
            doubled.min(Duration::from_secs(5))
        }
    }
}

/// Whether a request on a miss is worth fetching the whole blob for. A small closed range is not: a
/// client that reads an index at the end of a layer (zstd:chunked) must not wait for all before it.
#[must_use]
pub fn worth_a_job(first: u64, last: Option<u64>) -> bool {
    match last {
        None => true,
        Some(last) => last.saturating_sub(first) >= limits::DIRECT_RANGE_LEN_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::after_start(Duration::from_millis(millis))
    }

    const IDLE: FillView =
        FillView::Idle { failures: 0, ended_at: None, found_nothing: false, refused: false };

    fn view(now: u64, swarm: Option<SwarmView>, fill: FillView) -> View {
        View { now: at(now), started_at: at(0), swarm, fill, upstream_rate: None }
    }

    fn swarm(last_byte_at: Option<u64>, rate: u64) -> Option<SwarmView> {
        let last_byte_at = last_byte_at.map(at);
        Some(SwarmView { joined_at: at(0), last_byte_at, nobody: false, rate, early: None })
    }

    fn failed(failures: u32, ended_at: u64) -> FillView {
        let ended_at = Some(at(ended_at));
        FillView::Idle { failures, ended_at, found_nothing: false, refused: false }
    }

    #[test]
    fn an_unknown_blob_comes_from_upstream_at_once() {
        assert_eq!(next(&view(0, None, IDLE)), Step::Fill { steal: false });
    }

    #[test]
    fn a_cut_stream_is_taken_up_at_once_then_with_patience_then_given_up() {
        assert_eq!(next(&view(1000, None, failed(1, 1000))), Step::Fill { steal: false });
        assert_eq!(next(&view(1000, None, failed(2, 1000))), Step::Wait(at(1200)));
        assert_eq!(next(&view(1200, None, failed(2, 1000))), Step::Fill { steal: false });
        let last = limits::FILL_ATTEMPTS_MAX;
        assert_eq!(next(&view(1000, None, failed(last, 1000))), Step::GiveUp);
    }

    #[test]
    fn a_refusal_is_final_without_a_swarm() {
        let refused = FillView::Idle {
            failures: 1,
            ended_at: Some(at(5)),
            found_nothing: false,
            refused: true,
        };
        assert_eq!(next(&view(5, None, refused)), Step::GiveUp);
        assert!(matches!(next(&view(5, swarm(None, 0), refused)), Step::Wait(_)));
    }

    #[test]
    fn the_swarm_has_its_first_byte_budget() {
        assert_eq!(next(&view(0, swarm(None, 0), IDLE)), Step::Wait(at(500)));
        assert_eq!(next(&view(500, swarm(None, 0), IDLE)), Step::Fill { steal: false });
    }

    #[test]
    fn an_empty_swarm_is_not_waited_for() {
        let empty = swarm(None, 0).map(|swarm| SwarmView { nobody: true, ..swarm });
        assert_eq!(next(&view(1, empty, IDLE)), Step::Fill { steal: false });
    }

    #[test]
    fn a_stalled_swarm_is_topped_up_and_stolen_from_only_later() {
        let fast = 1 << 30;
        assert_eq!(next(&view(3000, swarm(Some(2900), fast), IDLE)), Step::Wait(at(4900)));
        assert_eq!(next(&view(4900, swarm(Some(2900), fast), IDLE)), Step::Fill { steal: false });
        let nothing = FillView::Idle {
            failures: 0,
            ended_at: Some(at(4900)),
            found_nothing: true,
            refused: false,
        };
        assert_eq!(next(&view(4900, swarm(Some(2900), fast), nothing)), Step::Wait(at(6900)));
        assert_eq!(next(&view(6900, swarm(Some(2900), fast), nothing)), Step::Fill { steal: true });
    }

    #[test]
    fn a_swarm_slower_than_upstream_was_gets_help() {
        let slow = swarm(Some(2990), 1 << 20);
        let mut view = view(3000, slow, IDLE);
        assert!(matches!(next(&view), Step::Wait(_)), "a mebibyte a second is not hopeless");
        view.upstream_rate = Some(50 << 20);
        assert_eq!(next(&view), Step::Fill { steal: false });
        view.now = at(1900);
        assert!(matches!(next(&view), Step::Wait(_)), "too early to judge a rate");
    }

    #[test]
    fn an_early_swarm_is_as_slow_as_upstream_is_for_its_host() {
        let early = |last_byte_at, rate| {
            let early = Some(Duration::from_secs(2));
            swarm(last_byte_at, rate).map(|swarm| SwarmView { early, ..swarm })
        };
        assert_eq!(next(&view(0, early(None, 0), IDLE)), Step::Wait(at(2000)));
        assert_eq!(next(&view(2000, early(None, 0), IDLE)), Step::Fill { steal: false });
        let mut slow = view(5000, early(Some(4990), 100 << 10), IDLE);
        slow.upstream_rate = Some(1 << 20);
        assert!(matches!(next(&slow), Step::Wait(_)), "the uplink may be busy");
        slow.upstream_rate = Some(50 << 20);
        assert_eq!(next(&slow), Step::Fill { steal: false }, "it is its host that is slow");
        let drip = view(5000, early(Some(4990), 100), IDLE);
        assert_eq!(next(&drip), Step::Fill { steal: false });
        let soon = view(3000, early(Some(2990), 100), IDLE);
        assert!(matches!(next(&soon), Step::Wait(_)), "too early to judge a rate");
        // The pieces of a large blob are long.
        let rare = swarm(Some(1000), 1 << 20);
        let rare = rare.map(|swarm| SwarmView { early: Some(Duration::from_secs(10)), ..swarm });
        assert_eq!(next(&view(9000, rare, IDLE)), Step::Wait(at(11_000)));
    }

    #[test]
    fn a_swarm_that_is_slow_for_ever_is_stolen_from() {
        let nothing = FillView::Idle {
            failures: 0,
            ended_at: Some(at(8000)),
            found_nothing: true,
            refused: false,
        };
        // Silent since long, and a byte now and then: neither may keep a piece for ever.
        for last_byte_at in [1000, 9999] {
            let slow = swarm(Some(last_byte_at), 1);
            assert_eq!(next(&view(9999, slow, nothing)), Step::Wait(at(10_000)));
            assert_eq!(next(&view(10_000, slow, nothing)), Step::Fill { steal: true });
        }
        assert_eq!(next(&view(9000, swarm(Some(1000), 0), IDLE)), Step::Fill { steal: true });
        assert_eq!(next(&view(9000, swarm(Some(8999), 1), IDLE)), Step::Fill { steal: false });
    }

    #[test]
    fn a_stalled_stream_is_replaced() {
        let running = FillView::Running { last_byte_at: at(1000) };
        let stalled_at = at(1000) + limits::FILL_STALLED;
        assert_eq!(next(&view(1000, None, running)), Step::Wait(stalled_at));
        let late = View { now: stalled_at, ..view(0, None, running) };
        assert_eq!(next(&late), Step::Replace);
    }

    #[test]
    fn a_swarm_alone_has_long_but_not_for_ever() {
        let exhausted = failed(limits::FILL_ATTEMPTS_MAX, 100);
        let over_at = at(200) + limits::SWARM_ALONE;
        assert_eq!(next(&view(300, swarm(Some(200), 0), exhausted)), Step::Wait(over_at));
        let late = View { now: over_at, ..view(0, swarm(Some(200), 0), exhausted) };
        assert_eq!(next(&late), Step::GiveUp);
    }

    #[test]
    fn a_small_closed_range_is_passed_through() {
        assert!(worth_a_job(0, None));
        assert!(worth_a_job(5, None));
        assert!(worth_a_job(0, Some(1 << 30)));
        assert!(!worth_a_job(1 << 30, Some((1 << 30) + 100)));
    }
}
