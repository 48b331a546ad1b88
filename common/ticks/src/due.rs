//! What a look at a schedule does: which ticks run, which were missed, and where the next look begins.
//!
//! The ticks since the last look lie in a row: first the missed ones, then those that run, then those that are left for the next look.
//! A policy only says where the first two meet. So every tick is decided once, whatever the clock did between two looks.

use promptmill_domain::schedule::Misfire;

use crate::timetable::Timetable;

/// The most ticks that run by one look: the rest is left for the next one. No more late ones than these run each either.
pub const MOST_RUNS: usize = 1_000;

/// The most of the missed ticks that are named, the latest ones.
pub const MOST_LATEST: usize = 100;

/// The most missed ticks of a pattern that are counted.
const MOST_COUNTED: u64 = 1_000;

/// What a look decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The ticks that run, oldest first; at most [`MOST_RUNS`].
    pub run: Vec<u64>,
    /// The ticks before them that do not run.
    pub missed: Option<Missed>,
    /// The first tick that is not decided, where the next look begins; `None` if there is none any more.
    pub next_ms: Option<u64>,
}

/// Ticks that were due and do not run: all of them from the first to the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    /// The oldest one.
    pub first_ms: u64,
    /// The latest one.
    pub last_ms: u64,
    /// How many they are, or what they are at least.
    pub count: u64,
    /// Whether they are no more than `count`.
    pub is_exact: bool,
    /// The latest of them, oldest first: at most [`MOST_LATEST`].
    pub latest: Vec<u64>,
}

/// Decides the ticks from `next_ms` on that are due now, which the last look left undecided.
///
/// One that is at most `grace_ms` late is on time and runs, whatever the policy is. For older ones the policy decides. The work is
/// bounded: a few thousand steps from tick to tick.
pub fn due(timetable: &Timetable, next_ms: u64, now_ms: u64, grace_ms: u64, misfire: Misfire) -> Due {
    let Some(first) = timetable.first_from(next_ms) else {
        return Due { run: vec![], missed: None, next_ms: None };
    };
    if first > now_ms {
        return Due { run: vec![], missed: None, next_ms: Some(first) };
    }
    let on_time_from = now_ms.saturating_sub(grace_ms).max(first);
    let mut ticks =
        std::iter::successors(timetable.first_from(on_time_from), |tick| timetable.next_after(*tick));
    let on_time: Vec<u64> = ticks.by_ref().take_while(|tick| *tick <= now_ms).take(MOST_RUNS).collect();

    let most_late = match misfire {
        Misfire::RunOnce => usize::from(on_time.is_empty()),
        Misfire::RunEach { most } => usize::try_from(most).unwrap_or(MOST_RUNS).min(MOST_RUNS),
        Misfire::Skip => 0,
    };
    // Where none is late this lies before the first one.
    let late_until = on_time_from.checked_sub(1);
    let mut run = late_until.map_or(vec![], |until| latest(timetable, first, until, most_late));
    let missed_until = run.first().map_or(late_until, |oldest| oldest.checked_sub(1));
    let missed = missed_until.and_then(|until| missed(timetable, first, until));

    run.extend(on_time);
    run.truncate(MOST_RUNS);
    let decided_until = run.last().copied().or(missed.as_ref().map(|missed| missed.last_ms));
    Due { next_ms: timetable.next_after(decided_until.unwrap_or(now_ms)), run, missed }
}

/// The latest ticks from one until a moment, oldest first.
fn latest(timetable: &Timetable, first: u64, until: u64, most: usize) -> Vec<u64> {
    let before = |tick: &u64| timetable.last_until(tick.checked_sub(1)?);
    let ticks = std::iter::successors(timetable.last_until(until), before);
    let mut latest: Vec<u64> = ticks.take(most).take_while(|tick| *tick >= first).collect();
    latest.reverse();
    latest
}

fn missed(timetable: &Timetable, first: u64, until: u64) -> Option<Missed> {
    let latest = latest(timetable, first, until, MOST_LATEST);
    let last_ms = *latest.last()?;
    let (count, is_exact) = timetable.count(first, last_ms, MOST_COUNTED);
    Some(Missed { first_ms: first, last_ms, count, is_exact, latest })
}
