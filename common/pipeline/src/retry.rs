//! How long to wait between attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// Full-jitter exponential backoff, and what counts as a long wait.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Ceiling of the first wait.
    pub first: Duration,
    /// Ceiling of every wait.
    pub cap: Duration,
    /// A wait up to this is waited out with the chunk still leased; a longer one parks the item.
    pub patience_under_lease: Duration,
    /// How long after its first attempt an item whose lane is in trouble is given up.
    pub give_up_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            cap: Duration::from_secs(60),
            patience_under_lease: Duration::from_secs(5),
            give_up_after: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl RetryPolicy {
    /// The wait after `failures` failures in a row (at least one): uniform between zero and a ceiling that doubles each time.
    /// `dice` is uniform in `0.0..1.0`.
    pub fn wait(&self, failures: u32, dice: f64) -> Duration {
        self.ceiling(failures).mul_f64(dice.clamp(0.0, 1.0))
    }

    /// The largest wait after `failures` failures in a row.
    pub fn ceiling(&self, failures: u32) -> Duration {
        // Sixteen doublings are past every sensible cap.
        let step = failures.saturating_sub(1).min(16) as usize;
        let mut ceilings = ExponentialBuilder::default()
            .with_min_delay(self.first)
            .with_max_delay(self.cap)
            .with_factor(2.0)
            .without_max_times()
            .build();
        ceilings.nth(step).unwrap_or(self.cap).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_double_up_to_the_cap() {
        let policy = RetryPolicy::default();
        let seconds: Vec<f64> = (1..=9).map(|n| policy.ceiling(n).as_secs_f64()).collect();
        assert_eq!(seconds, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
        assert_eq!(policy.ceiling(u32::MAX), policy.cap);
    }

    #[test]
    fn a_wait_is_anywhere_below_its_ceiling() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.wait(3, 0.0), Duration::ZERO);
        assert_eq!(policy.wait(3, 0.5), Duration::from_secs(1));
    }
}
