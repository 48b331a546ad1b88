//! What a worker tells with each beat, and what that says about why a batch is not faster.

use serde::{Deserialize, Serialize};

use crate::batch::{BatchLimits, BatchState, Counts, PauseReason};
use crate::ids::{BatchId, LaneId};

/// A worker's account of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerReport {
    /// Calls it may make at the same time.
    pub concurrency: u32,
    /// Items that are of use in its hands, begun and not settled; 0 from a worker that does not tell.
    pub slots: u32,
    /// Calls under way.
    pub calls: u32,
    /// The batches it has items of.
    pub batches: Vec<BatchReport>,
}

impl WorkerReport {
    /// Items that are of use in its hands: at least as many as it makes calls.
    pub fn live_slots(&self) -> u32 {
        self.slots.max(self.concurrency)
    }
}

/// Where the items of one batch stand that a worker has begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchReport {
    /// Which batch.
    pub batch: BatchId,
    /// The lane of its calls.
    pub lane: LaneId,
    /// Items whose call is under way.
    pub calling: u32,
    /// Items that wait for one of the worker's places.
    pub waiting_place: u32,
    /// Items that wait for leave of the lane.
    pub waiting_lane: u32,
    /// Items that wait for the batch's own `max_concurrency`.
    pub waiting_batch: u32,
    /// Items that wait to be tried again.
    pub waiting_retry: u32,
    /// Items that wait for money, because what is left of a limit is held for calls under way; 0 from a worker that does not tell.
    #[serde(default)]
    pub waiting_money: u32,
    /// Items that wait for the reply of another one that asks the same; 0 from a worker that does not tell.
    #[serde(default)]
    pub waiting_reply: u32,
    /// Items settled a second, averaged over about the last ten seconds.
    pub settled_per_s: f64,
    /// Items of the chunks it claimed, on average and rounded up; 0 from a worker that does not tell.
    #[serde(default)]
    pub chunk_items: u32,
}

impl BatchReport {
    /// Items in the worker's hands that wait for something or are being called for.
    pub fn in_hand(&self) -> u64 {
        let waiting = [
            self.waiting_place,
            self.waiting_lane,
            self.waiting_batch,
            self.waiting_retry,
            self.waiting_money,
            self.waiting_reply,
        ];
        u64::from(self.calling) + waiting.into_iter().map(u64::from).sum::<u64>()
    }

    /// Whether it is being worked on, or was a moment ago.
    pub fn is_worked_on(&self) -> bool {
        self.in_hand() > 0 || self.settled_per_s >= 1.0
    }
}

/// A reason why a batch is not faster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum SlowReason {
    /// It stands still until someone resumes it.
    Paused,
    /// What is left of its `max_cost`, or of its tenant's limit, is held for calls under way; or it stands still because one is spent.
    Budget,
    /// It stands still because the first items all failed for one cause outside the rows.
    Suspect,
    /// No worker lives.
    NoWorkers,
    /// Its items wait for a place among the calls the workers may make.
    WorkerSlots,
    /// Its own `max_concurrency` is reached.
    MaxConcurrency,
    /// Its items wait for leave of the lane.
    LaneLimit {
        /// Which lane.
        lane: LaneId,
    },
    /// Items wait for the reply of another one that asks the same.
    SharedReply,
    /// Items wait to be tried again after a failure.
    RetryDelay,
    /// Nothing of it was begun yet: other batches come first.
    Queued,
}

/// Why a batch is not faster, the weightiest reason first; empty when it is final, or runs as fast as its provider answers.
///
/// `reports` are those of every living worker.
pub fn slow_reasons(
    batch: BatchId,
    state: &BatchState,
    limits: &BatchLimits,
    counts: &Counts,
    reports: &[WorkerReport],
) -> Vec<SlowReason> {
    match state {
        BatchState::Paused { reason } => {
            return vec![match reason {
                PauseReason::Requested => SlowReason::Paused,
                PauseReason::Budget | PauseReason::TenantBudget { .. } => SlowReason::Budget,
                PauseReason::Suspect { .. } => SlowReason::Suspect,
            }];
        }
        BatchState::Queued | BatchState::Running => {}
        BatchState::Draft
        | BatchState::Submitting
        | BatchState::Cancelling
        | BatchState::Expiring
        | BatchState::Completed
        | BatchState::Cancelled
        | BatchState::Expired => return vec![],
    }
    if reports.is_empty() {
        return vec![SlowReason::NoWorkers];
    }
    let mine: Vec<&BatchReport> =
        reports.iter().flat_map(|report| &report.batches).filter(|report| report.batch == batch).collect();
    let sum =
        |field: fn(&BatchReport) -> u32| mine.iter().map(|report| u64::from(field(report))).sum::<u64>();
    let calling = sum(|report| report.calling);
    let at_limit = limits.max_concurrency.is_some_and(|most| calling >= u64::from(most));
    let lane = mine.iter().find(|report| report.waiting_lane > 0).map(|report| report.lane.clone());
    let waiting_batch = sum(|report| report.waiting_batch).max(u64::from(at_limit));
    let mut reasons: Vec<(u64, SlowReason)> = vec![
        (sum(|report| report.waiting_place), SlowReason::WorkerSlots),
        (waiting_batch, SlowReason::MaxConcurrency),
        (sum(|report| report.waiting_money), SlowReason::Budget),
        (sum(|report| report.waiting_reply), SlowReason::SharedReply),
        (sum(|report| report.waiting_retry).max(counts.parked), SlowReason::RetryDelay),
    ];
    if let Some(lane) = lane {
        reasons.push((sum(|report| report.waiting_lane), SlowReason::LaneLimit { lane }));
    }
    if counts.waiting + counts.leased == 0 {
        // Everything open is under way or waits for its retry; no limit of ours holds it.
        reasons.retain(|(_, reason)| *reason == SlowReason::RetryDelay);
    }
    if mine.is_empty() && counts.waiting > 0 {
        reasons.push((counts.waiting, SlowReason::Queued));
    }
    reasons.retain(|(weight, _)| *weight > 0);
    reasons.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    reasons.into_iter().map(|(_, reason)| reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: BatchId = BatchId::from_bytes([1; 16]);

    fn report(change: impl FnOnce(&mut BatchReport)) -> Vec<WorkerReport> {
        let mut batch = BatchReport {
            batch: BATCH,
            lane: LaneId::new("demo", "none"),
            calling: 4,
            waiting_place: 0,
            waiting_lane: 0,
            waiting_batch: 0,
            waiting_retry: 0,
            waiting_money: 0,
            waiting_reply: 0,
            settled_per_s: 1.0,
            chunk_items: 4,
        };
        change(&mut batch);
        vec![WorkerReport { concurrency: 4, slots: 4, calls: 4, batches: vec![batch] }]
    }

    fn reasons(reports: &[WorkerReport], limits: BatchLimits) -> Vec<SlowReason> {
        let counts = Counts { waiting: 100, leased: 50, ..Counts::default() };
        slow_reasons(BATCH, &BatchState::Running, &limits, &counts, reports)
    }

    #[test]
    fn each_wait_has_its_reason_and_the_longest_queue_comes_first() {
        let free = BatchLimits::default();
        assert_eq!(reasons(&report(|_| {}), free), []);
        assert_eq!(reasons(&report(|r| r.waiting_place = 1), free), [SlowReason::WorkerSlots]);
        assert_eq!(reasons(&report(|r| r.waiting_money = 1), free), [SlowReason::Budget]);
        assert_eq!(reasons(&report(|r| r.waiting_reply = 1), free), [SlowReason::SharedReply]);
        let lane = SlowReason::LaneLimit { lane: LaneId::new("demo", "none") };
        assert_eq!(
            reasons(&report(|r| (r.waiting_lane, r.waiting_retry) = (2, 5)), free),
            [SlowReason::RetryDelay, lane]
        );
        let limited = BatchLimits { max_concurrency: Some(4), ..free };
        assert_eq!(reasons(&report(|_| {}), limited), [SlowReason::MaxConcurrency]);
        assert_eq!(reasons(&[], free), [SlowReason::NoWorkers]);
        let idle = [WorkerReport::default()];
        assert_eq!(reasons(&idle, free), [SlowReason::Queued]);
    }

    #[test]
    fn what_an_older_worker_tells_is_understood() {
        let older = r#"{"concurrency":3,"calls":1,"batches":[{"batch":"batch_01010101010101010101010101010101","lane":"demo/none",
            "calling":1,"waiting_place":2,"waiting_lane":0,"waiting_batch":0,"waiting_retry":4,"settled_per_s":0.5}]}"#;
        let report: WorkerReport = serde_json::from_str(older).unwrap();
        assert_eq!((report.slots, report.live_slots()), (0, 3));
        assert_eq!((report.batches[0].chunk_items, report.batches[0].in_hand()), (0, 7));
        assert_eq!(WorkerReport { slots: 340, ..report }.live_slots(), 340);
    }

    #[test]
    fn a_batch_that_stands_still_says_why_and_a_final_one_says_nothing() {
        let of = |state| slow_reasons(BATCH, &state, &BatchLimits::default(), &Counts::default(), &[]);
        assert_eq!(of(BatchState::Paused { reason: PauseReason::Budget }), [SlowReason::Budget]);
        assert_eq!(of(BatchState::Completed), []);
    }
}
