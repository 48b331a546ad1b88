//! How often someone may do something: the generic cell rate algorithm, one number a caller.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Callers that are remembered before those at rest are forgotten.
const MAX_CALLERS: usize = 65_536;

/// A rate with a burst, for each `K`.
pub(crate) struct Rate<K> {
    /// Time that one request uses up.
    cost: Duration,
    /// Time that may be used up in advance.
    burst: Duration,
    /// When each caller's use is paid off.
    paid_at: Mutex<HashMap<K, Instant>>,
}

/// What is left after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    /// Requests that may follow at once.
    pub(crate) requests: u32,
    /// Until everything is there again.
    pub(crate) full_in: Duration,
}

impl<K: Hash + Eq> Rate<K> {
    /// `per_second` on the long run, `burst` at once.
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let cost = Duration::from_secs(1) / per_second.max(1);
        Self { cost, burst: cost * burst.max(1), paid_at: Mutex::default() }
    }

    /// Takes one request, or says how long to wait for it.
    pub(crate) fn take(&self, caller: K, now: Instant) -> Result<Left, Duration> {
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        if paid_at.len() >= MAX_CALLERS && !paid_at.contains_key(&caller) {
            paid_at.retain(|_, paid| *paid > now);
            if paid_at.len() >= MAX_CALLERS {
                // So many callers in debt at once: whoever is new waits, memory does not grow.
                return Err(self.burst);
            }
        }
        let debt = paid_at.get(&caller).map_or(Duration::ZERO, |paid| paid.saturating_duration_since(now));
        let after = debt + self.cost;
        if after > self.burst {
            return Err(after - self.burst);
        }
        paid_at.insert(caller, now + after);
        let requests = (self.burst - after).as_nanos() / self.cost.as_nanos().max(1);
        Ok(Left { requests: u32::try_from(requests).unwrap_or(u32::MAX), full_in: after })
    }

    /// How long the caller would have to wait for a request now, without taking one.
    pub(crate) fn wait(&self, caller: &K, now: Instant) -> Option<Duration> {
        let paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let after = paid_at.get(caller)?.saturating_duration_since(now) + self.cost;
        after.checked_sub(self.burst).filter(|wait| !wait.is_zero())
    }
}

#[cfg(test)]
mod tests;
