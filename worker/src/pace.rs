//! How many items a batch settles a second, averaged over about the last ten seconds.

use tokio::time::Instant;

/// Seconds after which what was measured counts for about a third of what it did.
const MEMORY_S: f64 = 10.0;

/// An average in which the past fades.
#[derive(Debug)]
pub(crate) struct Pace {
    at: Instant,
    settled: u64,
    average: f64,
    /// How much of the average is measured: it begins at nothing, and dividing by it keeps a young average from being too low.
    weight: f64,
}

impl Pace {
    /// From now on.
    pub(crate) fn new(now: Instant) -> Self {
        Self { at: now, settled: 0, average: 0.0, weight: 0.0 }
    }

    /// Takes in that `settled` items were settled by `now` in all; answers how many that makes a second.
    pub(crate) fn measure(&mut self, settled: u64, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        if seconds > 0.0 {
            let fresh = 1.0 - (-seconds / MEMORY_S).exp();
            let rate = settled.saturating_sub(self.settled) as f64 / seconds;
            self.average += (rate - self.average) * fresh;
            self.weight += (1.0 - self.weight) * fresh;
            (self.at, self.settled) = (now, settled);
        }
        if self.weight > 0.0 { self.average / self.weight } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_steady_pace_is_right_from_the_first_second_and_a_stop_fades_out() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        let at = |second: u64| begin + Duration::from_secs(second);
        assert_eq!(pace.measure(0, begin), 0.0);
        for second in 1..=30 {
            let measured = pace.measure(40 * second, at(second));
            assert!((measured - 40.0).abs() < 1e-9, "{measured} after {second} s");
        }
        let after_ten = (31..=40).map(|second| pace.measure(1_200, at(second))).last().unwrap();
        assert!((10.0..20.0).contains(&after_ten), "{after_ten}");
        let after_sixty = (41..=90).map(|second| pace.measure(1_200, at(second))).last().unwrap();
        assert!(after_sixty < 0.2, "{after_sixty}");
    }
}
