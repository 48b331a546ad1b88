//! How many calls may run at the same time.
//!
//! The number grows while replies come and it is used up, so a provider that hangs is asked few times, and one that answers soon
//! has as many calls as there are. It shrinks to what was taken when a provider says that its queue is full, and is tried
//! again ever more rarely.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Moment;

/// Calls at the same time with which a lane begins that nothing is known of.
const FIRST: f64 = 16.0;

/// It shrinks no further than to this for want of use.
const LEAST: f64 = 4.0;

/// From here on there is no limit, as long as no call is turned away.
const WIDE: f64 = 512.0;

/// The part of the number that counts as used though it is not.
const NOBODYS: f64 = 0.2;

/// Where it stops to grow: more than any fleet makes of one lane.
const MOST: f64 = 1_000_000.0;

/// How long a number that was found too large is left alone, the first time and at most.
const FIRST_REST: Duration = Duration::from_secs(120);
const LONGEST_REST: Duration = Duration::from_secs(3_600);

/// How long before the number shrinks by a half that was not used, in seconds and in calls' lengths.
const UNUSED: f64 = 10.0;
const UNUSED_LATENCIES: f64 = 4.0;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Window {
    size: f64,
    /// What was found to be too many, until when it is not tried again, and how long the rest was.
    ceiling: Option<f64>,
    rest_until: Moment,
    rest: Duration,
    /// Calls begun before tell nothing of the number as it is now.
    cut_at: Moment,
    /// How it was before the first cut since the provider answered last.
    uncut: Option<(f64, Option<f64>)>,
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
            cut_at: Moment::default(),
            uncut: None,
            peak: 0,
            peak_since: Moment::default(),
        }
    }
}

impl Window {
    pub(super) fn learned(concurrency: Option<u32>) -> Self {
        let ceiling = concurrency.map(f64::from);
        Self { size: ceiling.unwrap_or(FIRST), ceiling, ..Self::default() }
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

    /// A reply came to a call that began at `begun`, while so many ran, it among them. Calls take `latency` seconds.
    pub(super) fn replied(&mut self, now: Moment, begun: Moment, running: u32, latency: Option<f64>) {
        if begun > self.cut_at {
            self.uncut = None;
        }
        let unused = latency.map_or(UNUSED, |latency| (latency * UNUSED_LATENCIES).max(UNUSED));
        if now.since(self.peak_since).as_secs_f64() > unused {
            if f64::from(self.peak) < self.size / 2.0 && self.ceiling.is_none() {
                self.size = (self.size / 2.0).max(LEAST);
            }
            (self.peak, self.peak_since) = (0, now);
        }
        self.peak = self.peak.max(running);
        // Processes share the number, so that some of it may be in nobody's hands at the moment.
        if f64::from(running) + 1.0 + (self.size * NOBODYS).floor() < self.size {
            return;
        }
        match self.ceiling {
            None => self.size += 1.0,
            Some(ceiling) if self.size + 1.0 < ceiling => self.size += 1.0 / self.size,
            Some(ceiling) if now >= self.rest_until => {
                // One more is tried; what follows says whether it was one too many.
                self.size = ceiling;
                self.ceiling = Some(ceiling + 1.0);
                self.rest_until = now.after(FIRST_REST);
            }
            Some(_) => {}
        }
        self.size = self.size.min(MOST);
    }

    /// A call that began at `begun` was turned away because too many ran: so many at that moment, it among them.
    pub(super) fn overloaded(&mut self, now: Moment, begun: Moment, running: u32) {
        if begun <= self.cut_at {
            return;
        }
        self.uncut = self.uncut.or(Some((self.size, self.ceiling)));
        let taken = f64::from(running).min(self.size) - 1.0;
        // What was one too many before is so again: the number below is right, and need not be found anew.
        let again = self.ceiling.is_some_and(|ceiling| taken + 1.0 >= ceiling - 1.0);
        self.rest = if again { (self.rest * 2).min(LONGEST_REST) } else { FIRST_REST };
        self.size = if again { (taken - 1.0).max(1.0) } else { (taken * 0.75).floor().max(1.0) };
        self.ceiling = Some(self.size + 1.0);
        self.rest_until = now.after(self.rest);
        self.cut_at = now;
    }

    /// The calls that were turned away were so for another reason.
    pub(super) fn restore(&mut self) {
        if let Some((size, ceiling)) = self.uncut.take() {
            (self.size, self.ceiling) = (size, ceiling);
        }
    }

    /// The provider told that it takes so many more calls.
    pub(super) fn invited(&mut self, calls: u64) {
        if self.ceiling.is_none() {
            self.size = self.size.max((calls as f64).min(WIDE));
        }
    }
}
