//! The calls that may begin: a bucket whose rate is told, or learned.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::chance::{Chance, Meaning, Refused};
use super::estimate::Estimate;
use super::hints::Quota;
use super::word::{Heard, Word};
use super::{Learned, Moment};

/// Calls a second with which a lane begins that nothing is known of. It doubles while calls wait for leave and none is refused.
const FIRST: f64 = 10.0;

/// The time in which it doubles: several times what a call takes, within these bounds.
const SOONEST_DOUBLE: f64 = 0.05;
const LATEST_DOUBLE: f64 = 1.0;
const LATENCIES_TO_DOUBLE: f64 = 8.0;

/// From so many calls a second on, none refused, a lane is not limited at all.
const FREE_FROM: f64 = 2_000.0;

/// How long ago a moment lies at least and at most that says how many calls were taken of late.
const LATELY: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(8));

/// Calls that may be lost to a bucket that was full before what was taken says too little of the rate.
const LOST: f64 = 0.5;

/// Who asks to wait for so long counts calls by windows.
const WINDOW_IS_UP: Duration = Duration::from_secs(5);

/// What may come at once after a rest, where nothing else is known: so many seconds of the rate.
const BURST_SECS: f64 = 2.0;

/// By what each further call raises the rate then, and a second at most.
const RISE: f64 = 1.03;
const RISE_A_SECOND: f64 = 1.25;
/// The same where calls are refused by chance.
const RISE_BY_CHANCE: f64 = 2.0;

/// A rate that rose by this much since the last refusal was not the limit's noise.
const RISEN: f64 = 1.6;

/// So many calls an estimate must rest on before what comes back in a pause is reckoned by it.
const SETTLED: u64 = 20;

/// Waits after refusals in a row without a call that was taken.
const WAITS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_millis(4_750),
];

/// How the rate is known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Speed {
    /// No limit was met.
    Free,
    /// None was met yet; the rate is doubled while calls wait.
    Ramp(f64),
    /// Calls a second.
    At(f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Meter {
    speed: Speed,
    /// Never above this, whatever is learned: what an operator set.
    most: Option<f64>,
    level: f64,
    filled_at: Moment,
    burst: Option<f64>,
    /// Calls waited for leave when it was last asked for.
    starved: bool,
    /// They did so all the time since nothing was left.
    is_whole: bool,
    /// Calls that could not be saved up since then, because the bucket was full.
    lost: f64,
    estimate: Estimate,
    /// The rate after the last refusal.
    base: f64,
    calm: u32,
    /// When the rate was raised last.
    raised_at: Moment,
    stop_until: Moment,
    refusals_in_a_row: u32,
    chance: Chance<Known>,
    /// Calls that were let begin, and those of them that were given back or refused.
    given: u64,
    void: u64,
    marks: [Mark; 4],
    word: Word,
}

/// What refusals change.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Known {
    speed: Speed,
    base: f64,
    calm: u32,
    estimate: Estimate,
    is_whole: bool,
}

/// How many were taken before a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Mark {
    at: Moment,
    taken: u64,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            speed: Speed::Ramp(FIRST),
            most: None,
            level: 0.0,
            filled_at: Moment::default(),
            burst: None,
            starved: false,
            is_whole: false,
            lost: 0.0,
            estimate: Estimate::default(),
            base: 0.0,
            calm: 0,
            raised_at: Moment::default(),
            stop_until: Moment::default(),
            refusals_in_a_row: 0,
            chance: Chance::default(),
            given: 0,
            void: 0,
            marks: [Mark::default(); 4],
            word: Word::default(),
        }
    }
}

impl Meter {
    /// An empty bucket that knows what was learned before.
    pub(super) fn new(now: Moment, learned: &Learned) -> Self {
        let speed = match learned.per_s {
            Some(per_s) => Speed::At(per_s.max(MIN_RATE)),
            None => Speed::Ramp(FIRST),
        };
        let marks = [Mark { at: now, taken: 0 }; 4];
        let base = learned.per_s.unwrap_or(0.0);
        Self { speed, base, burst: learned.burst, filled_at: now, marks, ..Self::default() }
    }

    /// Nothing is saved up; what was is lost.
    pub(super) fn empty(&mut self, now: Moment) {
        self.lose(self.level.max(0.0));
        self.level = self.level.min(0.0);
        self.filled_at = self.filled_at.max(now);
    }

    /// So many calls that were given out can no longer begin.
    fn lose(&mut self, calls: f64) {
        self.lost += calls;
        if self.lost > LOST {
            self.is_whole = false;
        }
    }

    pub(super) fn set_most(&mut self, per_s: Option<f64>) {
        self.most = per_s;
    }

    /// Calls a second; nothing for as many as there are.
    pub(super) fn per_s(&self) -> Option<f64> {
        let learned = match self.speed {
            Speed::Free => None,
            Speed::Ramp(rate) | Speed::At(rate) => Some(rate),
        };
        match (learned, self.most) {
            // What was set by someone who knows needs no cautious beginning.
            (_, Some(most)) if !matches!(self.speed, Speed::At(_)) => Some(most),
            (Some(learned), Some(most)) => Some(learned.min(most)),
            (learned, most) => learned.or(most),
        }
    }

    pub(super) fn learned(&self) -> (Option<f64>, Option<f64>) {
        match self.speed {
            Speed::At(rate) => (Some(if self.base > 0.0 { self.base } else { rate }), self.burst),
            Speed::Free | Speed::Ramp(_) => (None, None),
        }
    }

    pub(super) fn stop_until(&self) -> Moment {
        self.stop_until
    }

    /// Nothing begins before that moment.
    pub(super) fn stop(&mut self, until: Moment) {
        self.stop_until = self.stop_until.max(until);
    }

    /// What may come at once beside a steady rate; nothing to speak of where no limit is known.
    pub(super) fn burst_now(&self) -> f64 {
        match self.speed {
            Speed::At(rate) => self.burst.unwrap_or(f64::INFINITY).min(rate * BURST_SECS),
            Speed::Free | Speed::Ramp(_) => 0.0,
        }
    }

    /// Calls that were let begin so far.
    pub(super) fn given(&self) -> u64 {
        self.given
    }

    fn taken(&self) -> u64 {
        self.given.saturating_sub(self.void)
    }

    fn capacity(&self, rate: f64) -> f64 {
        match self.speed {
            Speed::Free if self.most.is_none() => f64::INFINITY,
            // What was not used while the rate was looked for must not come at once later.
            Speed::Ramp(_) if self.most.is_none() => (rate * 0.1).max(1.0),
            Speed::Free | Speed::Ramp(_) | Speed::At(_) => self.burst.unwrap_or(rate * BURST_SECS).max(1.0),
        }
    }

    /// Lets up to `wanted` begin, where calls take about `latency`, and keeps `keep` of what there is. Answers how many, and when it is
    /// worth to ask for more.
    pub(super) fn take(
        &mut self,
        now: Moment,
        wanted: u32,
        keep: f64,
        latency: Option<Duration>,
    ) -> (u32, Option<Moment>) {
        self.grow(now, latency);
        self.mark(now);
        let Some(rate) = self.refill(now) else {
            self.given += u64::from(wanted);
            self.starved = false;
            return (wanted, None);
        };
        if now < self.stop_until {
            return (0, Some(self.stop_until));
        }
        let keep = if self.chance.is_testing(now) { 0.0 } else { keep };
        let there_are = (self.level - keep).max(0.0).floor().min(f64::from(wanted));
        self.level -= there_are;
        let given = there_are as u32;
        self.given += u64::from(given);
        self.starved = given < wanted;
        let again_at = self.starved.then(|| now.after_secs((1.0 + keep - self.level).max(0.0) / rate));
        (given, again_at)
    }

    /// Gives back what was not used.
    pub(super) fn give_back(&mut self, unused: u32) {
        self.level += f64::from(unused);
        self.void += u64::from(unused);
    }

    fn refill(&mut self, now: Moment) -> Option<f64> {
        if let Some(window) = self.word.window(now) {
            if window.is_over {
                // One call finds out how many there are now.
                self.level = self.level.max(1.0);
            }
            self.filled_at = self.filled_at.max(now);
            return Some(window.per_s.max(MIN_RATE));
        }
        let secs = now.since(self.filled_at).as_secs_f64();
        // While the lane stands still nothing is lost: the provider said that there is nothing.
        let stood_still = self.filled_at < self.stop_until;
        self.filled_at = self.filled_at.max(now);
        if let Speed::Ramp(rate) = &mut self.speed
            && *rate >= FREE_FROM
        {
            self.speed = Speed::Free;
        }
        let rate = self.per_s()?;
        let capacity = self.capacity(rate);
        let full = self.level + rate * secs;
        if !stood_still {
            self.lose((full - capacity.max(self.level)).max(0.0));
        }
        self.level = full.min(capacity.max(self.level));
        Some(rate)
    }

    /// A call began without leave, and is counted now. Answers its number.
    pub(super) fn began_without_leave(&mut self, now: Moment) -> u64 {
        self.mark(now);
        self.given += 1;
        self.given
    }

    /// Calls that were taken a second since some seconds ago.
    pub(super) fn used_per_s(&self, now: Moment) -> f64 {
        let oldest = self.marks[self.marks.len() - 1];
        let secs = now.since(oldest.at).as_secs_f64();
        if secs > 0.0 { self.taken().saturating_sub(oldest.taken) as f64 / secs } else { 0.0 }
    }

    fn mark(&mut self, now: Moment) {
        if now.since(self.marks[0].at) >= Duration::from_secs(1) {
            self.marks.rotate_right(1);
            self.marks[0] = Mark { at: now, taken: self.taken() };
        }
    }

    /// While calls wait for leave and none is refused, a rate nothing is known of grows.
    fn grow(&mut self, now: Moment, latency: Option<Duration>) {
        let secs = now.since(self.filled_at).as_secs_f64().min(0.25);
        if let Speed::Ramp(rate) = &mut self.speed
            && self.starved
            && self.most.is_none()
        {
            let double = latency.map_or(LATEST_DOUBLE, |latency| latency.as_secs_f64() * LATENCIES_TO_DOUBLE);
            *rate *= (secs / double.clamp(SOONEST_DOUBLE, LATEST_DOUBLE)).exp2();
        }
    }

    /// The `nth` call, which began at `begun`, was taken.
    pub(super) fn accepted(&mut self, now: Moment, begun: Moment, nth: u64) {
        if let Meaning::Chance(before) = self.chance.saw(begun, nth, true) {
            self.forget_refusal(before);
        }
        if self.estimate.last().is_some_and(|last| begun <= last.at) {
            return;
        }
        self.refusals_in_a_row = 0;
        self.calm = self.calm.saturating_add(1);
        self.word.kept();
        if self.calm <= self.estimate.hold(begun) {
            self.raised_at = now;
            return;
        }
        if let Speed::At(rate) = &mut self.speed
            && self.starved
            && !self.word.holds(begun)
        {
            let a_second = if self.chance.refuses() { RISE_BY_CHANCE } else { RISE_A_SECOND };
            let by = RISE.min(a_second.powf(now.since(self.raised_at).as_secs_f64()));
            *rate = (*rate * by).min(self.most.unwrap_or(f64::INFINITY));
            self.raised_at = now;
            if *rate >= FREE_FROM {
                self.speed = Speed::Free;
            }
        }
    }

    /// Calls waited for something else than leave, so what was given out since the last refusal was not all used.
    pub(super) fn was_not_used(&mut self) {
        self.is_whole = false;
    }

    /// A call that began at `begun`, the `nth` that was let begin, was refused for the rate of calls.
    pub(super) fn refused(&mut self, now: Moment, begun: Moment, nth: u64, retry_after: Option<Duration>) {
        self.void += 1;
        let is_known = self.estimate.last().is_some_and(|last| begun <= last.at) || begun < self.stop_until;
        let before = self.known();
        let says_nothing =
            is_known || self.chance.is_testing(now) || (self.chance.refuses() && retry_after.is_some());
        match self.chance.saw(begun, nth, false) {
            Meaning::Usual if !says_nothing => {
                let taken = nth.saturating_sub(self.void);
                self.calm = 0;
                self.word.broken(now, self.burst.unwrap_or(0.0));
                self.level = 0.0;
                self.filled_at = now;
                if self.refusals_in_a_row == 0 {
                    // Where a window of calls is used up for long, the next one comes at once, and not bit by bit.
                    let is_window = retry_after.is_some_and(|wait| wait >= WINDOW_IS_UP);
                    self.is_whole &= !is_window;
                    self.learn(begun, taken);
                    self.is_whole = !is_window;
                }
                let nth = usize::try_from(self.refusals_in_a_row).unwrap_or(usize::MAX).min(WAITS.len() - 1);
                self.refusals_in_a_row = self.refusals_in_a_row.saturating_add(1);
                self.stop_until = self.stop_until.max(now.after(WAITS[nth]));
                let is_told = retry_after.is_some() || self.word.is_there();
                if nth > 0 {
                    self.filled_at = self.stop_until;
                } else if !is_told {
                    let was_due = before.calm > before.estimate.hold(begun);
                    let secs = now.since(begun).as_secs_f64();
                    let refused = Refused { was_due, rate: self.base, secs };
                    self.level = self.chance.test(now, self.given + 1, &refused, before).unwrap_or(0.0);
                }
            }
            Meaning::Limit => {
                self.level = 0.0;
                self.filled_at = now;
                // What else began by then says no more.
                self.stop_until = self.stop_until.max(now);
            }
            Meaning::Chance(before) => self.forget_refusal(before),
            Meaning::Usual | Meaning::Tested => {}
        }
        if let Some(retry_after) = retry_after {
            self.stop_until = self.stop_until.max(now.after(retry_after));
            if self.estimate.weight() < SETTLED {
                // A rate that is little more than a guess says nothing of what comes back meanwhile: one call finds out.
                self.filled_at = self.stop_until;
                self.level = self.level.max(1.0);
            }
        }
    }

    fn known(&self) -> Known {
        Known {
            speed: self.speed,
            base: self.base,
            calm: self.calm,
            estimate: self.estimate,
            is_whole: self.is_whole,
        }
    }

    fn forget_refusal(&mut self, before: Known) {
        let Known { speed, base, calm, estimate, is_whole } = before;
        (self.speed, self.base, self.calm, self.estimate, self.is_whole) =
            (speed, base, calm, estimate, is_whole);
        self.refusals_in_a_row = 0;
    }

    fn learn(&mut self, at: Moment, taken: u64) {
        let fastest = self.fastest(at, taken);
        let before = match self.speed {
            Speed::At(rate) => Some(rate),
            Speed::Ramp(_) | Speed::Free => None,
        };
        let bounds = self.estimate.nothing_left(at, taken, self.is_whole);
        (self.is_whole, self.lost) = (true, 0.0);
        let rate = match (before, bounds) {
            // More than was taken lately it cannot be; half of that is not far off.
            (None, _) => fastest / 2.0,
            (Some(rate), Some(bounds)) if rate > self.base * RISEN && bounds.high < fastest * 0.7 => {
                // The limit was lifted since the last refusal, so the time since then says too little.
                self.estimate.begin_anew();
                rate.min(fastest)
            }
            (Some(_), Some(bounds)) => bounds.nearest(self.base),
            (Some(_), None) => self.base,
        };
        self.base = rate.max(MIN_RATE);
        self.speed = Speed::At(self.base);
    }

    /// The highest rate there can be: what was taken since some moments a short while ago, with what was saved up before.
    fn fastest(&self, at: Moment, taken: u64) -> f64 {
        let rates = self
            .marks
            .iter()
            .filter(|mark| (LATELY.0..LATELY.1).contains(&at.since(mark.at)))
            .map(|mark| taken.saturating_sub(mark.taken).max(1) as f64 / at.since(mark.at).as_secs_f64());
        let least = rates.fold(f64::INFINITY, f64::min);
        if least.is_finite() { least } else { FIRST }
    }

    /// Whether the provider's word on how many calls are left is taken.
    pub(super) fn trusts(&self, now: Moment) -> bool {
        self.word.is_trusted(now)
    }

    /// The provider told how many calls are left, beside the reply to the `nth` call that was let begin, which began at `begun`.
    pub(super) fn told(&mut self, now: Moment, begun: Moment, nth: u64, quota: &Quota) {
        let heard = Heard {
            now,
            begun,
            nth,
            per_s: quota.per_s().max(MIN_RATE),
            since: self.given.saturating_sub(nth) as f64,
        };
        let Some(level) = self.word.hear(&heard, quota, self.level, self.burst.unwrap_or(0.0)) else {
            return;
        };
        self.level = level.calls;
        self.burst = Some(self.burst.unwrap_or(0.0).max(quota.remaining as f64));
        self.filled_at = now;
        // Others may use the same limit: then refusals know better how much of it there is for us.
        if level.is_of_another_limit {
            self.estimate.begin_anew();
            self.base = heard.per_s;
            self.speed = Speed::At(heard.per_s);
        }
    }
}

/// A lane that is refused for ever is asked every ten minutes.
const MIN_RATE: f64 = 1.0 / 600.0;
