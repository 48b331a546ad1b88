//! How a lane has been doing, as this process saw it: whose fault a failure is, and when the lane should stand still.

use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};

use promptmill_domain::{FailureKind, LaneId};

/// Lane failures in a row, without a success between, after which the lane pauses.
const PAUSE_AFTER: u32 = 8;

/// What the calls of one lane came to lately.
#[derive(Debug, Default)]
struct Health {
    failures_in_a_row: u32,
    last_success_ms: u64,
    paused_until_ms: u64,
    pauses_in_a_row: u32,
    /// How many wait for leave of the lane without a place among the process's calls.
    line: Arc<AtomicU32>,
}

/// The health of every lane.
#[derive(Debug, Default)]
pub(crate) struct Lanes(Mutex<HashMap<LaneId, Health>>);

/// What a failure says about its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneFailure {
    /// The failure is the lane's trouble and must not count against the item.
    pub(crate) not_the_items_fault: bool,
    /// The lane has failed so often in a row that it should stand still; how many pauses came before without a success.
    pub(crate) pause_number: Option<u32>,
}

impl Lanes {
    /// The number of those who wait for leave of the lane without a place among the process's calls; kept by them.
    pub(crate) fn line(&self, lane: &Arc<LaneId>) -> Arc<AtomicU32> {
        let mut lanes = self.lock();
        if let Some(health) = lanes.get(lane.as_ref()) {
            return health.line.clone();
        }
        lanes.entry(LaneId::clone(lane)).or_default().line.clone()
    }

    pub(crate) fn succeeded(&self, lane: &Arc<LaneId>, now_ms: u64) {
        let mut lanes = self.lock();
        if let Some(health) = lanes.get_mut(lane.as_ref()) {
            health.failures_in_a_row = 0;
            health.pauses_in_a_row = 0;
            health.last_success_ms = now_ms;
        } else {
            lanes.insert(LaneId::clone(lane), Health { last_success_ms: now_ms, ..Health::default() });
        }
    }

    /// A call that began at `called_ms` failed. `since_ms` is when the item's failure before was over, or the same moment when there
    /// was none: if others got through since then, the lane works and the item does not.
    pub(crate) fn failed(
        &self,
        lane: &Arc<LaneId>,
        kind: FailureKind,
        called_ms: u64,
        since_ms: u64,
    ) -> LaneFailure {
        let throttled = kind == FailureKind::RateLimited;
        let unreachable = matches!(kind, FailureKind::ProviderOverloaded | FailureKind::ConnectionFailed);
        if !throttled && !unreachable {
            return LaneFailure { not_the_items_fault: false, pause_number: None };
        }
        let mut lanes = self.lock();
        let health = lanes.entry(LaneId::clone(lane)).or_default();
        health.failures_in_a_row = health.failures_in_a_row.saturating_add(1);
        // Calls that were under way when the lane began to stand still tell nothing new.
        let known = called_ms <= health.paused_until_ms;
        let pause_number = (health.failures_in_a_row >= PAUSE_AFTER && !known).then(|| {
            health.pauses_in_a_row = health.pauses_in_a_row.saturating_add(1);
            health.pauses_in_a_row
        });
        LaneFailure {
            // Being told to slow down is never the row's fault. An unreachable provider is, once others get through.
            not_the_items_fault: throttled || health.last_success_ms <= since_ms,
            pause_number,
        }
    }

    pub(crate) fn pausing(&self, lane: &Arc<LaneId>, until_ms: u64) {
        let mut lanes = self.lock();
        let health = lanes.entry(LaneId::clone(lane)).or_default();
        health.paused_until_ms = health.paused_until_ms.max(until_ms);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<LaneId, Health>> {
        // Numbers only: a panic in between leaves them usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_the_lanes_fault_and_a_single_bad_row_is_its_own() {
        let lanes = Lanes::default();
        let lane = Arc::new(LaneId::new("openrouter", "default"));
        assert!(lanes.failed(&lane, FailureKind::ConnectionFailed, 100, 100).not_the_items_fault);
        lanes.succeeded(&lane, 120);
        assert!(!lanes.failed(&lane, FailureKind::ConnectionFailed, 110, 110).not_the_items_fault);
        // A failure so quick that nobody gets through meanwhile is the row's own too, when others did since its last one.
        assert!(lanes.failed(&lane, FailureKind::ConnectionFailed, 130, 130).not_the_items_fault);
        assert!(!lanes.failed(&lane, FailureKind::ConnectionFailed, 130, 115).not_the_items_fault);
        assert!(lanes.failed(&lane, FailureKind::RateLimited, 110, 110).not_the_items_fault);
        assert!(!lanes.failed(&lane, FailureKind::EmptyReply, 200, 200).not_the_items_fault);
    }

    #[test]
    fn a_lane_pauses_after_failures_in_a_row_and_once_per_pause() {
        let lanes = Lanes::default();
        let lane = Arc::new(LaneId::new("openrouter", "default"));
        let pauses: Vec<_> = (1..=u64::from(PAUSE_AFTER))
            .map(|n| lanes.failed(&lane, FailureKind::ConnectionFailed, n, n).pause_number)
            .collect();
        assert_eq!(pauses.iter().flatten().collect::<Vec<_>>(), [&1]);
        assert_eq!(pauses.last(), Some(&Some(1)));
        lanes.pausing(&lane, 1_000);
        assert_eq!(lanes.failed(&lane, FailureKind::ConnectionFailed, 9, 9).pause_number, None);
        assert_eq!(lanes.failed(&lane, FailureKind::ConnectionFailed, 1_001, 1_001).pause_number, Some(2));
        lanes.succeeded(&lane, 1_003);
        assert_eq!(lanes.failed(&lane, FailureKind::ConnectionFailed, 1_004, 1_004).pause_number, None);
    }
}
