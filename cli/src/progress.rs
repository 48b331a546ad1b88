//! How a batch goes, for whoever watches: a bar on a terminal, a line every few seconds elsewhere.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use promptmill_domain::{Counts, Money};
use tokio::time::Instant;

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The rate is taken over about this time.
const RATE_OVER: Duration = Duration::from_secs(10);

/// What is shown of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Shown {
    /// Items with an outcome.
    pub(crate) settled: u64,
    /// All items.
    pub(crate) total: u64,
    /// Items that failed.
    pub(crate) failed: u64,
    /// Items that wait for a later attempt.
    pub(crate) parked: u64,
    /// Tokens so far.
    pub(crate) tokens: u64,
    /// Cost so far.
    pub(crate) cost: Money,
    /// Provider calls under way, where that is known.
    pub(crate) calls: Option<usize>,
}

impl Shown {
    pub(crate) fn of(counts: &Counts, calls: usize) -> Self {
        Self {
            settled: counts.settled(),
            total: counts.total(),
            failed: counts.all_failed(),
            parked: counts.parked,
            tokens: counts.totals.tokens.total(),
            cost: counts.totals.cost,
            calls: Some(calls),
        }
    }
}

/// Shows progress on standard error.
pub(crate) struct View {
    form: Form,
    rate: Mutex<Rate>,
}

enum Form {
    Bar(ProgressBar),
    Lines(Mutex<Option<Instant>>),
    Silent,
}

impl View {
    pub(crate) fn new(quiet: bool) -> Self {
        let form = if quiet {
            Form::Silent
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}")
                .expect("the template is a constant");
            bar.set_style(style);
            Form::Bar(bar)
        } else {
            Form::Lines(Mutex::new(None))
        };
        Self { form, rate: Mutex::default() }
    }

    pub(crate) fn show(&self, shown: &Shown) {
        let (settled, total) = (shown.settled, shown.total);
        let rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner).after(Instant::now(), settled);
        let left = match rate {
            Some(rate) if rate > 0.0 => {
                duration(Duration::from_secs_f64(total.saturating_sub(settled) as f64 / rate))
            }
            _ => "?".to_owned(),
        };
        let calls = shown.calls.map_or_else(String::new, |calls| format!("{calls} calls in flight, "));
        let message = format!(
            "{} failed, {calls}{} waiting to retry, {:.0}/s, {} tokens, ${}, {left} left",
            shown.failed,
            shown.parked,
            rate.unwrap_or(0.0),
            shown.tokens,
            cents(shown.cost),
        );
        match &self.form {
            Form::Silent => {}
            Form::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(settled);
                bar.set_message(message);
            }
            Form::Lines(last) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
                    *last = Some(Instant::now());
                    eprintln!("{settled}/{total} done, {message}");
                }
            }
        }
    }

    /// A sentence between.
    pub(crate) fn say(&self, sentence: &str) {
        match &self.form {
            Form::Bar(bar) => bar.suspend(|| eprintln!("{sentence}")),
            Form::Lines(_) => eprintln!("{sentence}"),
            Form::Silent => {}
        }
    }

    pub(crate) fn finish(&self) {
        if let Form::Bar(bar) = &self.form {
            bar.finish_and_clear();
        }
    }
}

/// Settled items at a few moments.
#[derive(Default)]
struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    /// Items per second over the last while; `None` before there are two moments.
    fn after(&mut self, now: Instant, settled: u64) -> Option<f64> {
        self.0.push_back((now, settled));
        while self.0.len() > 2 && self.0.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_OVER) {
            self.0.pop_front();
        }
        let (from, before) = *self.0.front()?;
        let seconds = now.duration_since(from).as_secs_f64();
        (seconds > 0.0).then(|| settled.saturating_sub(before) as f64 / seconds)
    }
}

/// An amount with at most six decimals, which is enough to watch.
pub(crate) fn cents(cost: promptmill_domain::Money) -> String {
    let text = cost.to_string();
    match text.split_once('.') {
        Some((whole, fraction)) if fraction.len() > 6 => format!("{whole}.{}", &fraction[..6]),
        _ => text,
    }
}

/// A duration in the two largest of hours, minutes and seconds.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, _) => format!("{:.1} s", duration.as_secs_f64()),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_ten_seconds() {
        let mut rate = Rate::default();
        let start = Instant::now();
        assert_eq!(rate.after(start, 0), None);
        assert_eq!(rate.after(start + Duration::from_secs(10), 100), Some(10.0));
        assert_eq!(rate.after(start + Duration::from_secs(20), 1_100), Some(100.0));
        assert_eq!(rate.after(start + Duration::from_secs(30), 1_100), Some(0.0));
    }

    #[test]
    fn amounts_and_times_are_short() {
        assert_eq!(cents("0.123456789".parse().unwrap()), "0.123456");
        assert_eq!(cents("12".parse().unwrap()), "12");
        assert_eq!(duration(Duration::from_millis(4_321)), "4.3 s");
        assert_eq!(duration(Duration::from_secs(3_725)), "1 h 2 min");
    }
}
