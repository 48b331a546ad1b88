//! A limit found out from refusals.
//!
//! A call that is refused says that nothing was left at that moment. Between two such moments as many calls were taken as were given
//! out anew, give or take one: that bounds the rate from both sides, and the further the moments lie apart, the closer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Moment;

/// How far the provider's moment of a call may be from ours: seconds.
const JITTER: f64 = 0.03;

/// Pairs of moments further apart than this say little of the limit as it is now: seconds.
const MEMORY: f64 = 120.0;

/// Calls without a refusal after which the rate is tried for more: as many as the estimate rests on, within these bounds, twice.
const FEWEST_CALM: u32 = 8;
const MOST_CALM: u32 = 150;
/// A slow lane is tried sooner, because a limit that was lifted would not be noticed for minutes.
const LONG_CALM: Duration = Duration::from_secs(25);
const MOST_CALM_IF_LONG: u32 = 90;

/// A moment at which nothing was left.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Anchor {
    pub(super) at: Moment,
    /// Calls that were taken before it.
    taken: u64,
}

/// What the rate must lie between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bounds {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Bounds {
    fn between(from: Anchor, to: Anchor) -> Option<Self> {
        let secs = to.at.since(from.at).as_secs_f64();
        let calls = to.taken.saturating_sub(from.taken) as f64;
        if calls < 1.0 || secs <= 0.0 {
            return None;
        }
        let rate = calls / secs;
        let slack = 1.0 + rate * JITTER;
        Some(Self { low: ((calls - slack) / secs).max(0.0), high: (calls + slack) / secs })
    }

    fn meets(self, other: Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }

    /// The rate that is nearest to `rate` in the inner half of what may be.
    pub(super) fn nearest(self, rate: f64) -> f64 {
        let (middle, quarter) = ((self.low + self.high) / 2.0, (self.high - self.low) / 4.0);
        rate.clamp(middle - quarter, middle + quarter)
    }
}

/// What refusals told so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Estimate {
    /// The earliest moment that still belongs to the limit as it is.
    first: Option<Anchor>,
    last: Option<Anchor>,
}

impl Estimate {
    /// The last moment at which nothing was left.
    pub(super) fn last(&self) -> Option<Anchor> {
        self.last
    }

    /// Calls that it rests on.
    pub(super) fn weight(&self) -> u64 {
        match (self.first, self.last) {
            (Some(first), Some(last)) => last.taken.saturating_sub(first.taken),
            _ => 0,
        }
    }

    /// How many calls in a row are taken at the rate as it is, before it is tried for more, of which the last began at `begun`.
    pub(super) fn hold(&self, begun: Moment) -> u32 {
        let Some(last) = self.last else { return FEWEST_CALM };
        let most = if begun.since(last.at) >= LONG_CALM { MOST_CALM_IF_LONG } else { MOST_CALM };
        let weight = u32::try_from(self.weight()).unwrap_or(u32::MAX);
        weight.saturating_mul(2).clamp(FEWEST_CALM, most)
    }

    /// Nothing was left at that moment, `taken` calls having been taken before. `is_whole`: since the last such moment calls were waiting all the
    /// time, so that nothing of what was given out was lost. Answers the bounds of the rate.
    pub(super) fn nothing_left(&mut self, at: Moment, taken: u64, is_whole: bool) -> Option<Bounds> {
        let now = Anchor { at, taken };
        let before = self.last.replace(now);
        if !is_whole {
            self.first = Some(now);
            return None;
        }
        let (Some(last), Some(first)) = (before, self.first) else {
            self.first = Some(now);
            return None;
        };
        let short = Bounds::between(last, now)?;
        let long = Bounds::between(first, now)?;
        if !short.meets(long) {
            // The limit is another since then.
            self.first = Some(last);
            return Some(short);
        }
        if at.since(first.at).as_secs_f64() > MEMORY {
            self.first = Some(last);
        }
        Some(long)
    }

    /// What was found does not hold any longer.
    pub(super) fn begin_anew(&mut self) {
        self.first = self.last;
    }
}
