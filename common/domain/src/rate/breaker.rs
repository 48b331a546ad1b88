//! Whether the provider is there at all: calls that fail one after the other, with none that gets through, let a lane rest, and then
//! one call at a time finds out whether it is back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Moment;

/// So many failures in a row, of calls that began after the last success, open the breaker.
const FAILURES: u32 = 4;

/// A call that failed after more than this, and after several times what calls take, opens it alone.
const LONG: Duration = Duration::from_secs(1);

/// The rests before the first probe, the second, and all others. A minute of trouble costs fewer than twenty calls, and its end is noticed
/// within five seconds.
const RESTS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(4), Duration::from_millis(4_850)];

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Breaker {
    failures: u32,
    /// When the last success came, or the lane began.
    well_at: Moment,
    /// Rests so far; zero while closed.
    rests: u32,
    probe_at: Moment,
}

/// How a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Calls may begin.
    Closed,
    /// One call may begin, and only one.
    HalfOpen,
    /// No call may begin before that moment.
    Open(Moment),
}

impl Breaker {
    pub(super) fn new(now: Moment) -> Self {
        Self { well_at: now, ..Self::default() }
    }

    pub(super) fn standing(&self, now: Moment) -> Standing {
        match self.rests {
            0 => Standing::Closed,
            _ if now >= self.probe_at => Standing::HalfOpen,
            _ => Standing::Open(self.probe_at),
        }
    }

    /// A probe begins. Another follows when it is not heard of.
    pub(super) fn probing(&mut self, now: Moment) {
        self.rest(now);
    }

    /// The provider answered, if only to say no.
    pub(super) fn replied(&mut self, now: Moment) {
        *self = Self::new(now);
    }

    /// A call that began at `begun` came to nothing after `took`; calls `usually` take so long. Answers whether the provider is taken for gone now.
    pub(super) fn failed(
        &mut self,
        now: Moment,
        begun: Moment,
        took: Duration,
        usually: Option<Duration>,
    ) -> bool {
        if begun < self.well_at {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        // One that was waited for long says as much as many: nobody got through in all that time.
        let long = LONG.max(usually.unwrap_or_default().saturating_mul(4));
        let was_long = took >= long;
        let opens = self.rests == 0 && (self.failures >= FAILURES || was_long);
        if opens {
            // Trouble that lasts needs no quick second look.
            self.rests = u32::from(was_long);
            self.rest(now);
        }
        opens
    }

    fn rest(&mut self, now: Moment) {
        let nth = usize::try_from(self.rests).unwrap_or(usize::MAX).min(RESTS.len() - 1);
        self.rests = self.rests.saturating_add(1);
        self.probe_at = now.after(RESTS[nth]);
    }
}
