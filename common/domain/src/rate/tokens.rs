//! The tokens that calls may take: a bucket whose rate is set, or told.

use serde::{Deserialize, Serialize};

use super::Moment;
use super::hints::Quota;

/// What of a limit of tokens may come at once: providers count by the minute, so half a minute's worth. And how many times that may be owed.
const TOKEN_SECS: f64 = 30.0;
const LARGEST_DEBT: f64 = 10.0;
/// The part that is believed of what a provider tells beyond what was counted here.
const BELIEVED: f64 = 0.2;

/// Tokens that may be used: a bucket that may go below zero, because a call's true number is known when it ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct TokenMeter {
    /// What an operator set, and what the provider told.
    set: Option<f64>,
    told: Option<f64>,
    level: f64,
    filled_at: Moment,
}

impl TokenMeter {
    /// An empty one, without a limit.
    pub(super) fn new(now: Moment) -> Self {
        Self { filled_at: now, ..Self::default() }
    }

    /// Nothing is saved up.
    pub(super) fn empty(&mut self, now: Moment) {
        self.level = self.level.min(0.0);
        self.filled_at = self.filled_at.max(now);
    }

    /// Tokens a second; nothing for as many as there are.
    pub(super) fn per_s(&self) -> Option<f64> {
        match (self.set, self.told) {
            (Some(set), Some(told)) => Some(set.min(told)),
            (set, told) => set.or(told),
        }
    }

    pub(super) fn set(&mut self, per_s: Option<f64>) {
        self.set = per_s;
    }

    /// So many more are used, or fewer below zero. Where there is no limit nothing is counted, and no debt is larger than some minutes' worth: what
    /// a provider says that one call took may be nonsense.
    pub(super) fn use_up(&mut self, tokens: f64) {
        if let Some(per_s) = self.per_s() {
            let capacity = per_s * TOKEN_SECS;
            self.level = (self.level - tokens).clamp(-LARGEST_DEBT * capacity, capacity);
        }
    }

    /// The provider told how many are left.
    pub(super) fn told(&mut self, now: Moment, quota: &Quota) {
        let per_s = quota.per_s();
        if self.told.is_none() && self.set.is_none() {
            (self.level, self.filled_at) = (0.0, now);
        }
        self.told = Some(per_s);
        let left = (quota.remaining as f64).min(per_s * TOKEN_SECS);
        // Calls under way were not counted there, so what is more than we thought is believed in part.
        self.level = if left < self.level { left } else { self.level + (left - self.level) * BELIEVED };
    }

    /// How many of `wanted` calls there are tokens for, and when there are for one more.
    pub(super) fn most(&mut self, now: Moment, wanted: u32, each: u32) -> (u32, Option<Moment>) {
        let Some(per_s) = self.per_s() else { return (wanted, None) };
        let capacity = per_s * TOKEN_SECS;
        let secs = now.since(self.filled_at).as_secs_f64();
        self.filled_at = self.filled_at.max(now);
        self.level = (self.level + per_s * secs).min(capacity);
        // A call of more than there can ever be goes when there is as much as there can be.
        let each = f64::from(each.max(1)).min(capacity);
        let most = (self.level / each).floor().clamp(0.0, f64::from(wanted));
        let again_at = now.after_secs(((most + 1.0) * each - self.level).max(0.0) / per_s);
        (most as u32, Some(again_at))
    }
}
