//! What a provider tells of its limits beside a reply.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One limit as a provider told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// How many there are in a period.
    pub limit: u64,
    /// How many of them are left.
    pub remaining: u64,
    /// How long after the reply there will be as many as there can be.
    pub reset: Option<Duration>,
}

/// What came with one reply. Nothing where the provider tells nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateHints {
    /// Of calls.
    pub requests: Option<Quota>,
    /// Of tokens.
    pub tokens: Option<Quota>,
}

impl RateHints {
    /// Whether nothing was told.
    pub const fn is_empty(&self) -> bool {
        self.requests.is_none() && self.tokens.is_none()
    }
}

/// A limit is of a minute, unless its reset is further away than that could be.
const MINUTE: Duration = Duration::from_secs(60);
const LONGER_THAN_A_MINUTE: Duration = Duration::from_secs(90);

impl Quota {
    /// How many a second the limit is over time. Providers do not tell their period: nearly all mean a minute. Where the reset is
    /// further away, what is missing comes back until then.
    pub(super) fn per_s(&self) -> f64 {
        let missing = self.limit.saturating_sub(self.remaining);
        match self.reset {
            Some(reset) if reset > LONGER_THAN_A_MINUTE && missing > 0 => {
                missing as f64 / reset.as_secs_f64()
            }
            _ => self.limit as f64 / MINUTE.as_secs_f64(),
        }
    }
}
