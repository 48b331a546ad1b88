//! Something that happened to a batch and that a receiver is told about.

use serde::{Deserialize, Serialize};

use crate::batch::{BatchState, Counts};
use crate::ids::{BatchId, EventId, TenantId};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventKind {
    /// Every item was worked on, and at least one succeeded.
    #[serde(rename = "batch.completed")]
    BatchCompleted,
    /// Every item was worked on, and none succeeded.
    #[serde(rename = "batch.failed")]
    BatchFailed,
    /// It was cancelled, and nothing of it is open any more.
    #[serde(rename = "batch.cancelled")]
    BatchCancelled,
    /// Its deadline passed, and nothing of it is open any more.
    #[serde(rename = "batch.expired")]
    BatchExpired,
    /// It stands still.
    #[serde(rename = "batch.paused")]
    BatchPaused,
}

impl EventKind {
    /// Every one.
    pub const ALL: [Self; 5] = [
        Self::BatchCompleted,
        Self::BatchFailed,
        Self::BatchCancelled,
        Self::BatchExpired,
        Self::BatchPaused,
    ];

    /// The type on the wire (Standard Webhooks: dot-separated words).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BatchCompleted => "batch.completed",
            Self::BatchFailed => "batch.failed",
            Self::BatchCancelled => "batch.cancelled",
            Self::BatchExpired => "batch.expired",
            Self::BatchPaused => "batch.paused",
        }
    }

    /// What a batch that has just come to `state` tells; `None` where nobody is told. `counts` are those of a final state.
    pub fn of_state(state: &BatchState, counts: Option<&Counts>) -> Option<Self> {
        match state {
            BatchState::Completed if counts.is_some_and(|counts| counts.all_succeeded() == 0) => {
                Some(Self::BatchFailed)
            }
            BatchState::Completed => Some(Self::BatchCompleted),
            BatchState::Cancelled => Some(Self::BatchCancelled),
            BatchState::Expired => Some(Self::BatchExpired),
            BatchState::Paused { .. } => Some(Self::BatchPaused),
            BatchState::Draft
            | BatchState::Submitting
            | BatchState::Queued
            | BatchState::Running
            | BatchState::Cancelling
            | BatchState::Expiring => None,
        }
    }
}

/// An event, written in the same step as the change it tells of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`EventId::of_batch`] of the batch and the version the change gave it.
    pub id: EventId,
    /// Whose batch.
    pub tenant: TenantId,
    /// Which batch.
    pub batch: BatchId,
    /// What happened.
    pub kind: EventKind,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// The batch's version after the change: later events of a batch have larger ones.
    pub ver: u64,
    /// Its state after the change.
    pub state: BatchState,
    /// Its exact counts, where the state is final.
    pub counts: Option<Counts>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completed_batch_without_a_success_has_failed() {
        let none = Counts::default();
        let some = Counts { repaired: 1, ..Counts::default() };
        let of = |counts| EventKind::of_state(&BatchState::Completed, Some(counts));
        assert_eq!((of(&none), of(&some)), (Some(EventKind::BatchFailed), Some(EventKind::BatchCompleted)));
        assert_eq!(EventKind::of_state(&BatchState::Running, None), None);
    }

    #[test]
    fn events_of_one_batch_have_different_ids_that_anyone_can_derive() {
        let batch = BatchId::at(1, [3; 10]);
        assert_eq!(EventId::of_batch(batch, 4), EventId::of_batch(batch, 4));
        assert_ne!(EventId::of_batch(batch, 4), EventId::of_batch(batch, 5));
    }
}
