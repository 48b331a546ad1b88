//! How many calls may run at the same time.
//!
//! The number grows while replies come and it is used up, so a provider that hangs is asked few times, and one that answers soon
//! has as many calls as there are. It shrinks to what was taken when a provider says again and again that its queue is full, and is
//! tried again ever more rarely. A refusal at a number that was taken a moment before says nothing of the number.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Ended, Moment};

/// Calls at the same time with which a lane begins that nothing is known of.
const FIRST: f64 = 16.0;

/// It shrinks no further than to this for want of use.
const LEAST: f64 = 4.0;

/// From here on there is no limit, as long as no call is turned away.
const WIDE: f64 = 512.0;

/// The part of the number that counts as used though it is not: processes share it, so that some may be in nobody's hands at the moment.
const NOBODYS: f64 = 0.2;

/// Where it stops to grow: more than any fleet makes of one lane.
const MOST: f64 = 1_000_000.0;

/// So many refusals at numbers that were not taken before, among the last [`REMEMBERED`] calls near the top, are a full queue.
const REFUSALS: u32 = 3;
const REMEMBERED: u32 = 6;

/// What is left of the largest number that was taken after each call: it is forgotten within some thousand.
const FADES: f64 = 0.9995;

/// What is begun with after the queue was full: so much of what was taken, and a rest that doubles when it happens again.
const STEP_BACK: f64 = 0.75;
const FIRST_REST: Duration = Duration::from_secs(120);
const LONGEST_REST: Duration = Duration::from_secs(3_600);
/// The number that is tried doubles with each rest after which none is turned away; from here on there is no ceiling any more.
const LAST_STEP: f64 = 64.0;

/// How long before the number shrinks to what was used of it, by a half at most, in seconds and in calls' lengths; and how much of it must be
/// used to keep it.
const USED: f64 = 0.75;
const UNUSED: f64 = 10.0;
const UNUSED_LATENCIES: f64 = 4.0;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Window {
    size: f64,
    /// A queue was full above this number, which is not tried again before the rest is over.
    ceiling: Option<f64>,
    rest_until: Moment,
    rest: Duration,
    /// How many more were tried the last time.
    step: f64,
    /// Calls begun before tell nothing of the number as it is now.
    cut_at: Moment,
    /// The largest number that was taken of late.
    proven: f64,
    /// The last calls near the top, a bit each: turned away.
    last: u32,
    /// The least number that was turned away among them.
    least_refused: u32,
    /// The most calls since `peak_since`.
    peak: u32,
    peak_since: Moment,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            size: FIRST,
            ceiling: None,
            rest_until: Moment::default(),
            rest: Duration::ZERO,
            step: 0.5,
            cut_at: Moment::default(),
            proven: 0.0,
            last: 0,
            least_refused: u32::MAX,
            peak: 0,
            peak_since: Moment::default(),
        }
    }
}

impl Window {
    pub(super) fn learned(concurrency: Option<u32>) -> Self {
        let ceiling = concurrency.map(f64::from);
        Self { size: ceiling.unwrap_or(FIRST).max(1.0), ceiling, ..Self::default() }
    }

    fn size(&self) -> u32 {
        // Between one and a million.
        self.size as u32
    }

    /// Calls that may run; nothing for as many as there are.
    pub(super) fn limit(&self) -> Option<u32> {
        (self.ceiling.is_some() || self.size < WIDE).then(|| self.size())
    }

    /// What was found out for longer than this moment.
    pub(super) fn found(&self) -> Option<u32> {
        self.ceiling.map(|_| self.size())
    }

    /// A call was taken. Calls take `latency` seconds.
    pub(super) fn taken(&mut self, now: Moment, call: &Ended, latency: Option<f64>) {
        let unused = latency.map_or(UNUSED, |latency| (latency * UNUSED_LATENCIES).max(UNUSED));
        if now.since(self.peak_since).as_secs_f64() > unused {
            let used = f64::from(self.peak) + 1.0;
            if used < self.size * USED && self.ceiling.is_none() {
                self.size = (self.size / 2.0).max(used).max(LEAST);
            }
            (self.peak, self.peak_since) = (0, now);
        }
        self.peak = self.peak.max(call.among);
        self.proven = (self.proven * FADES).max(f64::from(call.among));
        let enough = self.size - 1.0 - (self.size * NOBODYS).floor();
        let uses_up = |running: u32| f64::from(running) >= enough;
        if uses_up(call.among) {
            self.remember(false);
        }
        if call.begun <= self.cut_at || !uses_up(call.running) {
            return;
        }
        match self.ceiling {
            None => self.size += 1.0,
            Some(ceiling) if self.size + 1.0 < ceiling => self.size += 1.0 / self.size,
            Some(ceiling) if now >= self.rest_until => {
                // Some more are tried; what follows says whether that was too many. If not, it is soon as if it never was.
                self.step = (self.step * 2.0).max(1.0);
                self.size = ceiling - 1.0 + self.step;
                self.ceiling = (self.step < LAST_STEP).then_some(self.size + 1.0);
                self.rest_until = now.after(FIRST_REST);
            }
            Some(_) => {}
        }
        self.size = self.size.min(MOST);
    }

    /// A call that began at `begun`, when so many ran, it among them, was turned away because of too many. Answers whether that is believed:
    /// at a number that was taken of late it is something else.
    pub(super) fn turned_away(&mut self, now: Moment, begun: Moment, running: u32) -> bool {
        // Before anything was taken it may be that nothing is.
        if self.proven < 1.0 || f64::from(running) <= self.proven {
            return false;
        }
        if begun <= self.cut_at {
            return true;
        }
        self.remember(true);
        self.least_refused = self.least_refused.min(running);
        if self.last.count_ones() >= REFUSALS {
            let taken = f64::from(self.least_refused).min(self.size + 1.0) - 1.0;
            // What was one too many before is so again: the number below is right, and need not be found anew.
            let again = self.ceiling.is_some_and(|ceiling| taken + 1.0 >= ceiling - 1.0);
            self.rest = if again { (self.rest * 2).clamp(FIRST_REST, LONGEST_REST) } else { FIRST_REST };
            let step = if again { taken - 1.0 } else { (taken * STEP_BACK).floor() };
            self.size = step.max(1.0);
            self.ceiling = Some(self.size + 1.0);
            self.rest_until = now.after(self.rest);
            self.step = 0.5;
            self.cut_at = now;
            (self.last, self.least_refused) = (0, u32::MAX);
        }
        true
    }

    fn remember(&mut self, turned_away: bool) {
        self.last = (self.last << 1 | u32::from(turned_away)) & ((1 << REMEMBERED) - 1);
        if self.last == 0 {
            self.least_refused = u32::MAX;
        }
    }

    /// The provider told that it takes so many more calls.
    pub(super) fn invited(&mut self, calls: u64) {
        if self.ceiling.is_none() {
            self.size = self.size.max((calls as f64).min(WIDE));
        }
    }
}
