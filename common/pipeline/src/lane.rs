//! How a lane has been doing, as this process saw it: whose fault a failure is, and what a call says about its lane.

use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use promptmill_domain::rate::{CallEnd, RateHints};
use promptmill_domain::{FailureKind, LaneId, Tokens};
use promptmill_ports::CallReport;
use promptmill_provider::{CallFailure, ChatReply};

/// Retries of a lane that may be made at once without any success, and the part of one that each success gives for later ones: where more than a third of
/// all calls fail, retries would else be most of what a provider in trouble has to answer.
const RETRIES_AT_ONCE: f64 = 100.0;
const RETRY_PER_SUCCESS: f64 = 0.5;

/// Retries that a lane may make.
#[derive(Debug)]
struct RetryBudget(f64);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(RETRIES_AT_ONCE)
    }
}

impl RetryBudget {
    fn earn(&mut self) {
        self.0 = (self.0 + RETRY_PER_SUCCESS).min(RETRIES_AT_ONCE);
    }

    fn spend(&mut self) -> bool {
        let is_there = self.0 >= 1.0;
        if is_there {
            self.0 -= 1.0;
        }
        is_there
    }
}

/// What the calls of one lane came to lately.
#[derive(Debug, Default)]
struct Health {
    retries: RetryBudget,
    last_success_ms: u64,
    /// Calls whose credential was refused, and when the first of them began, since one got through that began later.
    refusals: u32,
    refused_since_ms: u64,
    /// How many wait for leave of the lane without a place among the process's calls.
    line: Arc<AtomicU32>,
}

/// So many refusals of a credential, with no call between that began later and got through, are the lane's.
const REFUSALS: u32 = 3;

/// While others got through so short a time ago, one refusal may be the item's own.
const LATELY: Duration = Duration::from_secs(5);

/// Whom a refused credential concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusalOf {
    /// Every call of the lane.
    Lane,
    /// This item alone: others got through with the same credential since it was refused before.
    Item,
    /// Its next attempt will tell.
    Unknown,
}

/// The health of every lane.
#[derive(Debug, Default)]
pub(crate) struct Lanes(Mutex<HashMap<LaneId, Health>>);

impl Lanes {
    /// The number of those who wait for leave of the lane without a place among the process's calls; kept by them.
    pub(crate) fn line(&self, lane: &Arc<LaneId>) -> Arc<AtomicU32> {
        let mut lanes = self.lock();
        if let Some(health) = lanes.get(lane.as_ref()) {
            return health.line.clone();
        }
        lanes.entry(LaneId::clone(lane)).or_default().line.clone()
    }

    /// A call got through that began at `begun_ms`.
    pub(crate) fn succeeded(&self, lane: &Arc<LaneId>, begun_ms: u64, now_ms: u64) {
        let mut lanes = self.lock();
        let succeeded = |health: &mut Health| {
            health.last_success_ms = now_ms;
            health.retries.earn();
            if begun_ms > health.refused_since_ms {
                health.refusals = 0;
            }
        };
        if let Some(health) = lanes.get_mut(lane.as_ref()) {
            succeeded(health);
        } else {
            succeeded(lanes.entry(LaneId::clone(lane)).or_default());
        }
    }

    /// Whether the lane has a retry left; it is spent then.
    pub(crate) fn may_retry(&self, lane: &Arc<LaneId>) -> bool {
        let mut lanes = self.lock();
        match lanes.get_mut(lane.as_ref()) {
            Some(health) => health.retries.spend(),
            None => lanes.entry(LaneId::clone(lane)).or_default().retries.spend(),
        }
    }

    /// Whether a failure is the lane's trouble, and must not count against the item. `since_ms` is when the item's failure before was over, or
    /// when its call began where there was none: if others got through since then, the lane works and the item does not.
    pub(crate) fn is_to_blame(&self, lane: &Arc<LaneId>, kind: FailureKind, since_ms: u64) -> bool {
        match kind {
            // Being told to slow down is never the row's fault. An unreachable provider is, once others get through.
            FailureKind::RateLimited => true,
            FailureKind::ProviderOverloaded | FailureKind::ConnectionFailed => {
                self.lock().get(lane.as_ref()).is_none_or(|health| health.last_success_ms <= since_ms)
            }
            _ => false,
        }
    }

    /// What it means that the credential of a call was refused that began at `called_ms`, at `now_ms`. `before_ms` is when the item was
    /// refused so the time before.
    pub(crate) fn refused(
        &self,
        lane: &Arc<LaneId>,
        called_ms: u64,
        before_ms: Option<u64>,
        now_ms: u64,
    ) -> RefusalOf {
        let mut lanes = self.lock();
        let health = lanes.entry(LaneId::clone(lane)).or_default();
        if health.refusals == 0 {
            health.refused_since_ms = called_ms;
        }
        health.refusals = health.refusals.saturating_add(1);
        let others_got_through = |since_ms: u64| health.last_success_ms > since_ms;
        if let Some(before_ms) = before_ms {
            return if others_got_through(before_ms) { RefusalOf::Item } else { RefusalOf::Lane };
        }
        let lately_ms = now_ms.saturating_sub(LATELY.as_millis() as u64);
        if health.refusals >= REFUSALS || !others_got_through(lately_ms) {
            RefusalOf::Lane
        } else {
            RefusalOf::Unknown
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<LaneId, Health>> {
        // Numbers only: a panic in between leaves them usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call says about its lane.
pub(crate) fn report(result: &Result<ChatReply, CallFailure>) -> CallReport {
    match result {
        Ok(reply) => CallReport {
            end: CallEnd::Taken,
            hints: told(reply.limits.as_deref()),
            tokens: reply.usage.map(Tokens::total),
        },
        Err(failure) => CallReport {
            end: end_of(failure),
            hints: told(failure.limits.as_deref()),
            tokens: failure.usage.map(Tokens::total),
        },
    }
}

fn told(limits: Option<&RateHints>) -> RateHints {
    limits.copied().unwrap_or_default()
}

fn end_of(failure: &CallFailure) -> CallEnd {
    let retry_after = failure.retry_after;
    match failure.kind {
        FailureKind::RateLimited => CallEnd::TooOften { retry_after },
        FailureKind::ProviderOverloaded => CallEnd::TooMany { retry_after },
        FailureKind::ConnectionFailed | FailureKind::Timeout => CallEnd::Away,
        // Told inside of a reply it is trouble of this call; as an answer of its own it is the provider's.
        FailureKind::ProviderError if failure.status.is_some_and(|status| status >= 500) => CallEnd::Away,
        // We, or the way to us, are to blame, and nothing came of the provider.
        FailureKind::MalformedReply if failure.status.is_none() => CallEnd::Away,
        _ => CallEnd::Taken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_the_lanes_fault_and_a_single_bad_row_is_its_own() {
        let lanes = Lanes::default();
        let lane = Arc::new(LaneId::new("openrouter", "default"));
        assert!(lanes.is_to_blame(&lane, FailureKind::ConnectionFailed, 100));
        lanes.succeeded(&lane, 60, 120);
        assert!(!lanes.is_to_blame(&lane, FailureKind::ConnectionFailed, 110));
        // A failure so quick that nobody gets through meanwhile is the row's own too, when others did since its last one.
        assert!(lanes.is_to_blame(&lane, FailureKind::ConnectionFailed, 130));
        assert!(!lanes.is_to_blame(&lane, FailureKind::ConnectionFailed, 115));
        assert!(lanes.is_to_blame(&lane, FailureKind::RateLimited, 110));
        assert!(!lanes.is_to_blame(&lane, FailureKind::EmptyReply, 200));
    }

    #[test]
    fn a_lane_on_which_nothing_succeeds_has_a_hundred_retries_and_each_success_earns_half_of_one() {
        let lanes = Lanes::default();
        let lane = Arc::new(LaneId::new("openai", "default"));
        assert_eq!((0..200).filter(|_| lanes.may_retry(&lane)).count(), 100);
        (0..10).for_each(|n| lanes.succeeded(&lane, n, n));
        assert_eq!((0..200).filter(|_| lanes.may_retry(&lane)).count(), 5);
    }

    #[test]
    fn a_refused_credential_is_the_lanes_unless_others_get_through_with_it() {
        let lane = Arc::new(LaneId::new("openrouter", "default"));
        // Nobody ever got through.
        assert_eq!(Lanes::default().refused(&lane, 100, None, 150), RefusalOf::Lane);
        // It was taken a moment before, and replies of then are still on their way: the third says that it is not any more.
        let lanes = Lanes::default();
        lanes.succeeded(&lane, 90, 130);
        assert_eq!(lanes.refused(&lane, 100, None, 140), RefusalOf::Unknown);
        lanes.succeeded(&lane, 95, 150);
        assert_eq!(lanes.refused(&lane, 100, None, 160), RefusalOf::Unknown);
        assert_eq!(lanes.refused(&lane, 101, None, 170), RefusalOf::Lane);
        // One that began later got through, so the lane works.
        lanes.succeeded(&lane, 180, 200);
        assert_eq!(lanes.refused(&lane, 190, None, 210), RefusalOf::Unknown);
        // Refused twice: whether others were in between tells.
        assert_eq!(lanes.refused(&lane, 15_000, Some(199), 15_010), RefusalOf::Item);
        assert_eq!(lanes.refused(&lane, 15_000, Some(210), 15_010), RefusalOf::Lane);
    }

    #[test]
    fn what_a_failure_says_of_its_lane_follows_from_its_cause() {
        let wait = Some(std::time::Duration::from_secs(3));
        let with = |kind, status: Option<u16>| {
            let mut failure = CallFailure::new(kind, "");
            (failure.status, failure.retry_after) = (status, wait);
            report(&Err(failure)).end
        };
        let too_often = CallEnd::TooOften { retry_after: wait };
        assert_eq!(with(FailureKind::RateLimited, Some(429)), too_often);
        assert_eq!(with(FailureKind::ProviderOverloaded, Some(503)), CallEnd::TooMany { retry_after: wait });
        for (kind, status) in [
            (FailureKind::ConnectionFailed, None),
            (FailureKind::Timeout, None),
            (FailureKind::ProviderError, Some(502)),
        ] {
            assert_eq!(with(kind, status), CallEnd::Away, "{kind:?}");
        }
        for (kind, status) in [
            (FailureKind::ProviderError, Some(200)),
            (FailureKind::ContentRefused, Some(403)),
            (FailureKind::EmptyReply, Some(200)),
            (FailureKind::MalformedReply, Some(200)),
        ] {
            assert_eq!(with(kind, status), CallEnd::Taken, "{kind:?}");
        }
    }
}
