//! One lane: everything that limits its calls, in one state.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::breaker::{Breaker, Standing};
use super::hints::RateHints;
use super::meter::Meter;
use super::tokens::TokenMeter;
use super::window::Window;
use super::{LaneLimits, Learned, Moment};

/// The part of what may come at once that is kept for interactive work, one of so many, where that is not too few to keep some of it.
const INTERACTIVE_PART: f64 = 10.0;
const FEW: f64 = 5.0;

/// How soon one who waits looks again whether the provider is back.
const LOOKS_AGAIN: Duration = Duration::from_millis(250);

/// How much of the newest call is in the average of how long calls take.
const NEWEST: f64 = 0.1;

/// How a call came out, as far as its lane is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallEnd {
    /// The provider took it, whatever it then said.
    Taken,
    /// The provider refused it because there are too many calls a moment, and said for how long if it did.
    TooOften {
        /// For so long.
        retry_after: Option<Duration>,
    },
    /// The provider refused it because there is too much under way.
    TooMany {
        /// For so long.
        retry_after: Option<Duration>,
    },
    /// The provider cannot be reached, fails, or does not answer in time.
    Away,
    /// Nothing came for much longer than calls take. The call is not over, and may end otherwise yet.
    Late,
    /// Nothing is known: the call was given up by us.
    Unknown,
}

/// A call that ended, or is late.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// The how-many-th call it was of those that were let begin ([`Grant::first`]); zero where it began without leave, the lane being free.
    pub nth: u64,
    /// When it began.
    pub begun: Moment,
    /// How long it took.
    pub took: Duration,
    /// Calls of the lane that ran when it began, it among them.
    pub among: u32,
    /// The same when it ended.
    pub running: u32,
    /// How it came out.
    pub end: CallEnd,
    /// What the provider told beside.
    pub hints: RateHints,
    /// Tokens it took more (or less, below zero) than were reserved for it.
    pub tokens_more: i64,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ask {
    /// Calls of interactive work that wait for leave.
    pub interactive: u32,
    /// Other calls that wait for leave.
    pub others: u32,
    /// Tokens that each of them takes, about.
    pub tokens_each: u32,
}

/// Leave to begin calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Grant {
    /// So many.
    pub calls: u32,
    /// The number of the first of them.
    pub first: u64,
    /// When it is worth to ask again, where fewer were let begin than wait.
    pub again_at: Option<Moment>,
}

/// A lane for people to look at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LaneView {
    /// Calls a second that may begin; nothing where no limit is known.
    pub allowed_per_s: Option<f64>,
    /// Calls that were taken a second, over the last seconds.
    pub used_per_s: f64,
    /// Calls that may run at the same time; nothing for as many as there are.
    pub window: Option<u32>,
    /// Calls that were let begin.
    pub begun: u64,
    /// Calls that the provider refused for their rate or number.
    pub refused: u64,
    /// No call begins for so long.
    pub stands_still: Duration,
    /// The provider is taken for gone.
    pub is_open: bool,
    /// How long calls take, on average, where that is known.
    pub latency: Option<Duration>,
}

/// What a lane may do, and what it learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaneState {
    limits: LaneLimits,
    requests: Meter,
    tokens: TokenMeter,
    window: Window,
    breaker: Breaker,
    /// How long calls take, on average; seconds.
    latency: Option<f64>,
    refused: u64,
}

impl LaneState {
    /// A lane with nothing saved up, that knows what was learned before.
    pub fn new(now: Moment, limits: LaneLimits, learned: &Learned) -> Self {
        let mut state = Self {
            limits,
            requests: Meter::new(now, learned),
            tokens: TokenMeter::new(now),
            window: Window::learned(learned.concurrency),
            breaker: Breaker::new(now),
            latency: None,
            refused: 0,
        };
        state.set_limits(limits);
        state
    }

    /// The same with nothing saved up: whoever kept it lost it, and calls may have begun since of which this state does not know.
    pub fn emptied(mut self, now: Moment) -> Self {
        self.requests.empty(now);
        self.tokens.empty(now);
        self
    }

    /// Sets the operator's limits.
    pub fn set_limits(&mut self, limits: LaneLimits) {
        self.limits = limits;
        self.requests.set_most(limits.requests_per_minute.map(per_second));
        self.tokens.set(limits.tokens_per_minute.map(per_second));
    }

    /// Calls that may run at the same time; nothing for as many as there are.
    pub fn window(&self) -> Option<u32> {
        match (self.limits.concurrency, self.window.found()) {
            // What was set by someone who knows needs no cautious beginning.
            (Some(most), None) => Some(most),
            (Some(most), Some(found)) => Some(most.min(found)),
            (None, _) => self.window.limit(),
        }
    }

    /// Whether calls need no leave to begin: no limit is known, and the provider is there.
    pub fn is_free(&self, now: Moment) -> bool {
        self.requests.per_s().is_none()
            && self.tokens.per_s().is_none()
            && self.breaker.standing(now) == Standing::Closed
            && now >= self.requests.stop_until()
    }

    /// Lets calls begin, as many as may at `now` and at most as many as wait.
    pub fn grant(&mut self, now: Moment, ask: &Ask) -> Grant {
        let first = self.requests.given() + 1;
        let none = |again_at| Grant { calls: 0, first, again_at: Some(again_at) };
        let wanted = ask.interactive.saturating_add(ask.others);
        if wanted == 0 {
            return Grant { calls: 0, first, again_at: None };
        }
        let (wanted, is_probe) = match self.breaker.standing(now) {
            Standing::Closed => (wanted, false),
            Standing::HalfOpen => (1, true),
            // A success of another's ends the rest sooner.
            Standing::Open(probe_at) => return none(probe_at.min(now.after(LOOKS_AGAIN))),
        };
        let (wanted, tokens_at) = self.tokens.most(now, wanted, ask.tokens_each);
        if wanted == 0 {
            return none(tokens_at.unwrap_or(now));
        }
        let latency = self.latency.map(Duration::from_secs_f64);
        let interactive = wanted.min(ask.interactive);
        let (mut calls, mut again_at) = (0, None);
        if interactive > 0 {
            (calls, again_at) = self.requests.take(now, interactive, 0.0, latency);
        }
        if calls == interactive && wanted > interactive {
            let burst = self.requests.burst_now();
            // Of very few nothing can be kept: nobody else could ever begin.
            let keep = if burst < FEW { 0.0 } else { burst / INTERACTIVE_PART };
            let (more, again) = self.requests.take(now, wanted - interactive, keep, latency);
            (calls, again_at) = (calls + more, again);
        }
        self.tokens.use_up(f64::from(calls) * f64::from(ask.tokens_each));
        if is_probe && calls > 0 {
            self.breaker.probing(now);
        }
        if calls == wanted && wanted < ask.interactive.saturating_add(ask.others) {
            again_at = tokens_at.or(again_at);
        }
        Grant { calls, first, again_at }
    }

    /// Takes back leave that was not used.
    pub fn give_back(&mut self, calls: u32, tokens_each: u32) {
        self.requests.give_back(calls);
        self.tokens.use_up(-f64::from(calls) * f64::from(tokens_each));
    }

    /// Learns from a call that ended.
    pub fn ended(&mut self, now: Moment, call: &Ended) {
        if call.end == CallEnd::Late {
            return self.failed(now, call);
        }
        let nth = if call.nth == 0 { self.requests.began_without_leave(now) } else { call.nth };
        // A state that began anew has given fewer than calls of before were numbered by.
        let nth = nth.min(self.requests.given());
        self.tokens.use_up(call.tokens_more as f64);
        if let Some(quota) = &call.hints.tokens {
            self.tokens.told(now, quota);
        }
        if let Some(quota) = &call.hints.requests {
            self.requests.told(now, call.begun, nth, quota);
            if self.requests.trusts(now) {
                self.window.invited(quota.remaining);
            }
        }
        match call.end {
            CallEnd::Taken => {
                self.breaker.replied(now);
                self.requests.accepted(now, call.begun, nth);
                self.window.taken(now, call, self.latency);
                let took = call.took.as_secs_f64();
                self.latency = Some(self.latency.map_or(took, |latency| latency + NEWEST * (took - latency)));
            }
            CallEnd::TooOften { retry_after } => {
                self.refused += 1;
                self.breaker.replied(now);
                self.requests.refused(now, call.begun, nth, retry_after);
            }
            CallEnd::TooMany { retry_after } => {
                self.refused += 1;
                let is_full = self.breaker.standing(now) == Standing::Closed
                    && self.window.turned_away(now, call.begun, call.among);
                if !is_full {
                    self.failed(now, call);
                }
                if let Some(retry_after) = retry_after {
                    self.requests.stop(now.after(retry_after));
                }
            }
            CallEnd::Away => self.failed(now, call),
            CallEnd::Late | CallEnd::Unknown => {}
        }
    }

    fn failed(&mut self, now: Moment, call: &Ended) {
        let usual = self.latency.map(Duration::from_secs_f64);
        if self.breaker.failed(now, call.begun, call.took, usual) {
            // Nobody gets through, so nothing of what was given out was used.
            self.requests.was_not_used();
        }
    }

    /// What is worth keeping.
    pub fn learned(&self) -> Learned {
        let (per_s, burst) = self.requests.learned();
        Learned { per_s, burst, concurrency: self.window.found() }
    }

    /// How it stands.
    pub fn view(&self, now: Moment) -> LaneView {
        let rests = match self.breaker.standing(now) {
            Standing::Open(until) => until.since(now),
            Standing::Closed | Standing::HalfOpen => Duration::ZERO,
        };
        LaneView {
            allowed_per_s: self.requests.per_s(),
            used_per_s: self.requests.used_per_s(now),
            window: self.window(),
            begun: self.requests.given(),
            refused: self.refused,
            stands_still: rests.max(self.requests.stop_until().since(now)),
            is_open: self.breaker.standing(now) != Standing::Closed,
            latency: self.latency.map(Duration::from_secs_f64),
        }
    }
}

fn per_second(per_minute: u32) -> f64 {
    f64::from(per_minute.max(1)) / 60.0
}
