//! When a delivery is tried again.

use std::time::Duration;

/// The part of a wait that jitter may add to it: it is only ever added, so a try is never early.
const JITTER: f64 = 0.2;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// Waits before the first try and after each one; there are as many tries as waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    waits: Vec<Duration>,
}

impl Default for Schedule {
    /// The schedule of Standard Webhooks 1.0.0: ten tries over about 75 and a half hours.
    fn default() -> Self {
        let seconds =
            [0, 5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];
        Self { waits: seconds.map(Duration::from_secs).to_vec() }
    }
}

impl Schedule {
    /// A schedule of these waits, the first of them the one before the first try.
    pub const fn of(waits: Vec<Duration>) -> Self {
        Self { waits }
    }

    /// How long to wait after so many tries; `None` when there is no further one. `jitter` is a number from 0 to 1, and `retry_after` what
    /// the receiver asked for, which may double the wait and not shorten it.
    pub fn next(&self, tries: usize, jitter: f64, retry_after: Option<Duration>) -> Option<Duration> {
        let base = *self.waits.get(tries)?;
        let wait = retry_after.map_or(base, |asked| asked.clamp(base, base.saturating_mul(2)));
        let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
        Some(wait.saturating_add(base.mul_f64(JITTER * jitter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_tries_are_spread_over_three_days() {
        let schedule = Schedule::default();
        let waits: Vec<_> = (0..).map_while(|tries| schedule.next(tries, 0.0, None)).collect();
        assert_eq!(waits.len(), 10);
        assert_eq!(
            (waits[0], waits[1], waits[9]),
            (Duration::ZERO, Duration::from_secs(5), Duration::from_secs(86_400))
        );
        assert_eq!(waits.iter().sum::<Duration>(), Duration::from_secs(75 * HOUR + 35 * MINUTE + 5));
    }

    #[test]
    fn jitter_only_adds_and_a_receiver_may_at_most_double_the_wait() {
        let schedule = Schedule::of(vec![Duration::ZERO, Duration::from_secs(100)]);
        let wait = |jitter, asked: Option<u64>| {
            schedule.next(1, jitter, asked.map(Duration::from_secs)).unwrap().as_secs()
        };
        assert_eq!(
            (wait(0.0, None), wait(1.0, None), wait(9.0, None), wait(-1.0, None)),
            (100, 120, 120, 100)
        );
        assert_eq!((wait(0.0, Some(1)), wait(0.0, Some(150)), wait(0.0, Some(u64::MAX))), (100, 150, 200));
        assert_eq!(wait(f64::NAN, None), 100);
        assert_eq!(schedule.next(2, 0.0, None), None);
    }
}
