//! What the provider says of the calls that are left, and how far that is to be believed.
//!
//! A word is good for the moment of its call, and calls do not come there in the order in which they began. Some providers let calls come
//! back bit by bit, others all of them when a window ends; some refuse calls that they had told there was room for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Moment;
use super::hints::Quota;

/// The provider's word on calls that are left is not taken for so long after it refused one although many were left: another limit
/// refuses, one of tokens for example.
const WORD_RESTS: Duration = Duration::from_secs(30);
/// Many: so many, or this part of the limit.
const MANY: u64 = 5;
const MANY_PART: u64 = 20;

/// A window of which it was told that it ends later is looked into after this long all the same.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);

/// What is held back from what the provider says is left, because the way there takes now longer, now shorter: seconds of the rate, and calls
/// at most.
const WAY_DIFFERS_SECS: f64 = 0.05;
const WAY_DIFFERS: f64 = 0.5;

/// What is left of the doubt about the provider's word after each call that was taken.
const DOUBT_FADES: f64 = 0.99;

/// How long the provider's own word is better than what was learned.
const WORD_HOLDS: Duration = Duration::from_secs(30);

/// How often a word is held against the one before: seconds, and calls that come back meanwhile.
const NEWS: (f64, f64) = (0.5, 10.0);
/// How long all words must be better than what was counted before that is raised: seconds, and calls that come back meanwhile.
const AGREED: (f64, f64) = (0.2, 2.0);

/// Less than this part of what should have come back is nothing: it comes back when a window ends.
const NOTHING_CAME: f64 = 0.2;

/// A rate that differs by this part from the one told before is another limit.
const OTHER: f64 = 0.01;

/// The provider's word so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Word {
    last: Option<Last>,
    /// It is not taken before that.
    rests_until: Moment,
    /// The rate it told last.
    told_per_s: Option<f64>,
    /// By how much its words were all better than what we counted, since that moment.
    better_by: f64,
    agreed_at: Moment,
    /// Calls that are held back beside because it refused calls that it had told there was room for.
    doubt: f64,
}

/// The word that later ones are held against.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Last {
    at: Moment,
    nth: u64,
    remaining: u64,
    per_s: f64,
    /// Nothing comes back before the whole limit does, then.
    ends_at: Option<Moment>,
}

/// A window within which nothing comes back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Window {
    pub(super) is_over: bool,
    /// Calls a second over time.
    pub(super) per_s: f64,
}

/// With what a word came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Heard {
    pub(super) now: Moment,
    /// When its call began, and the how-many-th that was.
    pub(super) begun: Moment,
    pub(super) nth: u64,
    /// Calls a second that it means over time.
    pub(super) per_s: f64,
    /// Calls that began since.
    pub(super) since: f64,
}

/// What may begin by its word.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Level {
    /// So many calls at once; below zero where more began than there were.
    pub(super) calls: f64,
    /// It tells of another limit than before.
    pub(super) is_of_another_limit: bool,
}

impl Default for Word {
    fn default() -> Self {
        Self {
            last: None,
            rests_until: Moment::default(),
            told_per_s: None,
            better_by: f64::MAX,
            agreed_at: Moment::default(),
            doubt: 0.0,
        }
    }
}

impl Word {
    /// Whether there is one.
    pub(super) fn is_there(&self) -> bool {
        self.last.is_some()
    }

    /// Whether it is better than what was learned, for a call that began at `begun`.
    pub(super) fn holds(&self, begun: Moment) -> bool {
        self.last.is_some_and(|last| begun.since(last.at) < WORD_HOLDS)
    }

    /// Whether it is taken.
    pub(super) fn is_trusted(&self, now: Moment) -> bool {
        now >= self.rests_until
    }

    /// The window within which nothing comes back, if there is one; forgotten when it is over.
    pub(super) fn window(&mut self, now: Moment) -> Option<Window> {
        let last = self.last?;
        let is_over = now >= last.ends_at?;
        if is_over {
            self.last = None;
        }
        Some(Window { is_over, per_s: last.per_s })
    }

    /// A call was taken.
    pub(super) fn kept(&mut self) {
        self.doubt *= DOUBT_FADES;
    }

    /// A call was refused, where at most `burst` calls may come at once.
    pub(super) fn broken(&mut self, now: Moment, burst: f64) {
        let Some(last) = self.last else { return };
        if last.remaining >= MANY.max((last.per_s * 60.0) as u64 / MANY_PART) {
            self.rests_until = now.after(WORD_RESTS);
            self.last = None;
        }
        self.doubt = ((self.doubt + 1.0) * 2.0).min(burst / 2.0);
    }

    /// Takes a word in. Answers how many calls may begin by it, where we counted `level` and at most `burst` may come at once; nothing where it
    /// is not taken, or an older one than the last.
    pub(super) fn hear(&mut self, heard: &Heard, quota: &Quota, level: f64, burst: f64) -> Option<Level> {
        let Heard { now, begun, nth, per_s, since } = *heard;
        if self.last.is_some_and(|last| last.nth > nth) || !self.is_trusted(now) {
            return None;
        }
        let mut ends_at = None;
        let mut is_news = true;
        if let Some(last) = self.last {
            let secs = begun.since(last.at).as_secs_f64();
            let due = last.per_s * secs;
            is_news = secs >= NEWS.0 && due >= NEWS.1;
            let came = quota.remaining.saturating_add(nth - last.nth).saturating_sub(last.remaining) as f64;
            // A bucket that is nearly full takes nothing back either.
            let tells = is_news && (last.remaining as f64) < burst / 2.0;
            let fixed = if tells { came < due * NOTHING_CAME } else { last.ends_at.is_some() };
            ends_at = quota.reset.filter(|_| fixed).map(|reset| now.after(reset.min(LONGEST_WINDOW)));
        }
        let came_since = if ends_at.is_some() { 0.0 } else { per_s * now.since(begun).as_secs_f64() };
        let held_back = (per_s * WAY_DIFFERS_SECS).min(WAY_DIFFERS);
        let left = quota.remaining as f64 + came_since - since - held_back - self.doubt;
        let is_other = self.told_per_s.is_none_or(|told| (told - per_s).abs() > told * OTHER);
        // Calls do not come there in the order in which they began, so one word may be too good; several are not.
        self.better_by = self.better_by.min(left - level);
        let mut calls = level;
        if is_other || left < level {
            calls = left;
        } else {
            let secs = now.since(self.agreed_at).as_secs_f64();
            if secs >= AGREED.0 && secs * per_s >= AGREED.1 {
                calls += self.better_by.clamp(0.0, quota.limit as f64);
                (self.agreed_at, self.better_by) = (now, f64::MAX);
            }
        }
        if is_news {
            self.last = Some(Last { at: begun, nth, remaining: quota.remaining, per_s, ends_at });
        }
        self.told_per_s = Some(per_s);
        Some(Level { calls, is_of_another_limit: is_other })
    }
}
