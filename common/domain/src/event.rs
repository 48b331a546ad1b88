//! Something that happened and that a receiver is told about.

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
    /// Its first items are worked on. Only those are told who ask for it by name.
    #[serde(rename = "batch.started")]
    BatchStarted,
    /// As many of its items have an outcome as it was to tell of.
    #[serde(rename = "batch.progress")]
    BatchProgress,
    /// Some of its items failed. Only those are told who ask for it by name.
    #[serde(rename = "item.failed")]
    ItemFailed,
    /// What the tenant's batches call stands still for a while: the provider said so, or refused the key.
    #[serde(rename = "lane.paused")]
    LanePaused,
    /// Ticks of a schedule have no run: nobody looked in time, an earlier run went on, or their batch could not be made.
    #[serde(rename = "schedule.missed")]
    ScheduleMissed,
    /// An endpoint of the tenant is switched off, and not because somebody asked for it. The others are told.
    #[serde(rename = "endpoint.disabled")]
    EndpointDisabled,
}

impl EventKind {
    /// Every one.
    pub const ALL: [Self; 11] = [
        Self::BatchCompleted,
        Self::BatchFailed,
        Self::BatchCancelled,
        Self::BatchExpired,
        Self::BatchPaused,
        Self::BatchStarted,
        Self::BatchProgress,
        Self::ItemFailed,
        Self::LanePaused,
        Self::ScheduleMissed,
        Self::EndpointDisabled,
    ];

    /// The type on the wire (Standard Webhooks: dot-separated words).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BatchCompleted => "batch.completed",
            Self::BatchFailed => "batch.failed",
            Self::BatchCancelled => "batch.cancelled",
            Self::BatchExpired => "batch.expired",
            Self::BatchPaused => "batch.paused",
            Self::BatchStarted => "batch.started",
            Self::BatchProgress => "batch.progress",
            Self::ItemFailed => "item.failed",
            Self::LanePaused => "lane.paused",
            Self::ScheduleMissed => "schedule.missed",
            Self::EndpointDisabled => "endpoint.disabled",
        }
    }

    /// Whether it tells that nothing of a batch is open any more.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::BatchCompleted | Self::BatchFailed | Self::BatchCancelled | Self::BatchExpired)
    }

    /// Whether only those are told who ask for it by name.
    pub const fn is_opt_in(self) -> bool {
        matches!(self, Self::BatchStarted | Self::ItemFailed)
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

/// Something on a batch's way that is told once, and that no change of the batch stands for: it is seen when it is there, and its id derives from what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Milestone {
    /// Its first items are worked on.
    Started,
    /// So many per cent of its items have an outcome, 1 to 99.
    Progress(u8),
}

impl Milestone {
    /// What is told of it.
    pub const fn kind(self) -> EventKind {
        match self {
            Self::Started => EventKind::BatchStarted,
            Self::Progress(_) => EventKind::BatchProgress,
        }
    }

    /// No version of a batch is as large as what stands in its place in the id of a milestone's event, which is this at least.
    pub const FIRST_VER: u64 = u64::MAX - u8::MAX as u64;

    /// The id of its event, the same whoever asks.
    pub const fn event_id(self, batch: BatchId) -> EventId {
        let nth = match self {
            Self::Started => 0,
            Self::Progress(percent) => percent,
        };
        EventId::of_batch(batch, u64::MAX - nth as u64)
    }
}

/// An event, written in the same step as the change it tells of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`EventId::of_batch`] of the batch and the version the change gave it, or that of its [`Milestone`].
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
    /// The part of its items that have an outcome, in per cent, where that is what is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
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
        let milestones = [Milestone::Started, Milestone::Progress(1), Milestone::Progress(99)];
        let ids: std::collections::BTreeSet<_> = milestones.iter().map(|of| of.event_id(batch)).collect();
        assert!(ids.len() == 3 && !ids.contains(&EventId::of_batch(batch, 1)));
        let failures = [(0, 0), (0, 1), (1, 0), (u16::MAX, u32::MAX)]
            .map(|(epoch, first)| EventId::of_failures(batch, epoch, first));
        let unlike = failures.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert!(unlike == 4 && failures.iter().all(|id| id.ver_in(batch).is_none()));
    }
}
