//! Providers as they limit calls.

use std::collections::VecDeque;
use std::time::Duration;

use crate::rate::{Quota, RateHints};

/// How calls are limited.
#[derive(Debug, Clone)]
pub(super) enum Limit {
    Free,
    /// Calls a second, and how many may come at once.
    Bucket {
        burst: f64,
        level: f64,
        at: f64,
    },
    /// So many in each period that begins at a multiple of it.
    Fixed {
        period: f64,
        window: u64,
        used: u64,
    },
    /// So many in any period.
    Sliding {
        period: f64,
        taken: VecDeque<f64>,
    },
}

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hints {
    None,
    /// Whole seconds, rounded up, beside a refusal.
    RetryAfter,
    /// Limit, remaining and reset beside every reply, and the same with a refusal.
    Headers,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Answer {
    Taken(RateHints),
    TooOften(RateHints, Option<Duration>),
    TooMany,
    /// Refused connection.
    Away,
    /// Nothing comes.
    Silence,
}

/// A time in which the provider is in trouble.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Trouble {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) answer: Answer,
}

/// One provider.
#[derive(Debug, Clone)]
pub(super) struct Provider {
    pub(super) limit: Limit,
    pub(super) hints: Hints,
    /// Calls a second from a second on, in order.
    pub(super) rates: Vec<(f64, f64)>,
    /// Calls that run, and that wait, at most.
    pub(super) slots: Option<(u32, u32)>,
    /// Seconds that a call takes, at least and at most.
    pub(super) takes: (f64, f64),
    pub(super) trouble: Option<Trouble>,
    /// The part of calls that are refused by chance, without a word and with a second to wait.
    pub(super) chance: (f64, f64),
    pub(super) dice: u64,
}

impl Provider {
    pub(super) fn bucket(rpm: f64, hints: Hints) -> Self {
        let burst = (2.0 * rpm / 60.0).max(1.0);
        Self::new(Limit::Bucket { burst, level: burst, at: 0.0 }, rpm, hints)
    }

    pub(super) fn new(limit: Limit, rpm: f64, hints: Hints) -> Self {
        Self {
            limit,
            hints,
            rates: vec![(0.0, rpm / 60.0)],
            slots: None,
            takes: (0.08, 0.25),
            trouble: None,
            chance: (0.0, 0.0),
            dice: 7,
        }
    }

    pub(super) fn rate(&self, now: f64) -> f64 {
        self.rates.iter().rev().find(|(from, _)| *from <= now).map_or(0.0, |(_, rate)| *rate)
    }

    /// Calls that could be taken from one moment to another, but for what was saved up.
    pub(super) fn capacity(&self, from: f64, to: f64) -> f64 {
        let ends = self.rates.iter().skip(1).map(|(at, _)| *at).chain([f64::INFINITY]);
        let spans = self.rates.iter().zip(ends);
        spans.map(|((begin, rate), end)| (end.min(to) - begin.max(from)).max(0.0) * rate).sum()
    }

    pub(super) fn burst(&self) -> f64 {
        match &self.limit {
            Limit::Bucket { burst, .. } => *burst,
            Limit::Fixed { period, .. } | Limit::Sliding { period, .. } => self.rate(0.0) * period,
            Limit::Free => 0.0,
        }
    }

    pub(super) fn answer(&mut self, now: f64, running: u32) -> Answer {
        if let Some(trouble) = self.trouble
            && (trouble.from..trouble.to).contains(&now)
        {
            return trouble.answer;
        }
        if self.slots.is_some_and(|(slots, queue)| running > slots + queue) {
            return Answer::TooMany;
        }
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let roll = (self.dice >> 11) as f64 / (1u64 << 53) as f64;
        if roll < self.chance.0 {
            return Answer::TooOften(RateHints::default(), None);
        }
        if roll < self.chance.0 + self.chance.1 {
            return Answer::TooOften(RateHints::default(), Some(Duration::from_secs(1)));
        }
        let rate = self.rate(now);
        let (limit, remaining, reset, wait) = match &mut self.limit {
            Limit::Free => return Answer::Taken(RateHints::default()),
            Limit::Bucket { burst, level, at } => {
                *burst = (2.0 * rate).max(1.0);
                *level = (*level + (now - *at) * rate).min(*burst);
                *at = now;
                let is_taken = *level >= 1.0;
                if is_taken {
                    *level -= 1.0;
                }
                (is_taken.then_some(rate * 60.0), *level, (*burst - *level) / rate, (1.0 - *level) / rate)
            }
            Limit::Fixed { period, window, used } => {
                let current = (now / *period) as u64;
                if current != *window {
                    (*window, *used) = (current, 0);
                }
                let most = (rate * *period).round();
                let is_taken = (*used as f64) < most;
                *used += u64::from(is_taken);
                let left = (current + 1) as f64 * *period - now;
                (is_taken.then_some(most), most - *used as f64, left, left)
            }
            Limit::Sliding { period, taken } => {
                while taken.front().is_some_and(|at| *at <= now - *period) {
                    taken.pop_front();
                }
                let most = (rate * *period).round();
                let is_taken = (taken.len() as f64) < most;
                if is_taken {
                    taken.push_back(now);
                }
                let left = taken.front().map_or(0.0, |at| at + *period - now);
                (is_taken.then_some(most), most - taken.len() as f64, left, left)
            }
        };
        let mut hints = RateHints::default();
        if self.hints == Hints::Headers {
            hints.requests = Some(Quota {
                limit: (rate * 60.0).round() as u64,
                remaining: remaining as u64,
                reset: Some(Duration::from_secs_f64(reset.max(0.0))),
            });
        }
        match limit {
            Some(_) => Answer::Taken(hints),
            None if self.hints == Hints::None => Answer::TooOften(hints, None),
            None => Answer::TooOften(hints, Some(Duration::from_secs_f64(wait.max(0.0).ceil()))),
        }
    }
}
