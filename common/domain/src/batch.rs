//! A batch: what a client submits, and the states it goes through.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::budget::Period;
use crate::chat::{ModelRef, ModelSettings};
use crate::chunk::MAX_CHUNK_ROWS;
use crate::fallback::Fallback;
use crate::filter::ItemFilter;
use crate::head::{ChunkState, Head};
use crate::ids::{BatchId, LaneId, ScheduleId, TemplateId, TenantId};
use crate::money::Money;
use crate::outcome::{FailureKind, ItemCode, Totals};

/// What to do, fixed when the batch is created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchSpec {
    /// The pinned template version: its JSON text.
    pub template: String,
    /// The stored template version the text was taken from, where it was.
    #[serde(default)]
    pub template_ref: Option<TemplateRef>,
    /// The model that answers.
    pub model: ModelRef,
    /// The lane its calls go through.
    pub lane: LaneId,
    /// What is asked when that model does not do.
    #[serde(default, skip_serializing_if = "Fallback::is_empty")]
    pub fallback: Fallback,
    /// Settings that win over the template's, field by field.
    #[serde(default)]
    pub settings: ModelSettings,
    /// Attempts at an item before it fails, those not counted that failed for the whole lane's trouble.
    #[serde(default = "BatchSpec::default_max_attempts")]
    pub max_attempts: u32,
    /// How long after its first attempt an item is given up whose provider stays in trouble, milliseconds; `None` is the worker's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_up_after_ms: Option<u64>,
    /// How long after its submit the batch is due, milliseconds, where that was said instead of a deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_window_ms: Option<u64>,
    /// The most rows of one of its chunks; fixed here, so that a submit that is repeated cuts the same.
    #[serde(default = "BatchSpec::default_chunk_rows")]
    pub chunk_rows: u32,
    /// Which raw replies are kept in the history of calls.
    #[serde(default)]
    pub store_replies: StoreReplies,
    /// Among whose rows a reply is given again to a request that is the same; `None` where each row is a call of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheScope>,
    /// What people call it.
    #[serde(default)]
    pub name: Option<String>,
    /// For lists to filter by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The submitter's own JSON, given back as it is.
    #[serde(default)]
    pub metadata: Option<String>,
    /// How long after its end the batch is kept, milliseconds; `None` is the installation's default.
    #[serde(default)]
    pub retention_ms: Option<u64>,
    /// Who is told about its events.
    #[serde(default)]
    pub webhook: Option<Webhook>,
    /// The parts of its items, in per cent, of which it is told when they have an outcome: 1 to 99, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub progress_at: Vec<u8>,
    /// The batch whose failed rows it runs again.
    #[serde(default)]
    pub retry_of: Option<RetryOf>,
    /// The tick of a schedule that it is a run of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick: Option<TickRef>,
}

/// A tick of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TickRef {
    /// Whose.
    pub schedule: ScheduleId,
    /// Its time, Unix milliseconds.
    pub at_ms: u64,
}

impl BatchSpec {
    /// A spec of what cannot be left out; the rest at its defaults.
    pub fn new(template: String, model: ModelRef, lane: LaneId) -> Self {
        Self {
            template,
            template_ref: None,
            model,
            lane,
            fallback: Fallback::default(),
            settings: ModelSettings::default(),
            max_attempts: Self::default_max_attempts(),
            give_up_after_ms: None,
            completion_window_ms: None,
            chunk_rows: Self::default_chunk_rows(),
            store_replies: StoreReplies::None,
            cache: None,
            name: None,
            labels: BTreeMap::new(),
            metadata: None,
            retention_ms: None,
            webhook: None,
            progress_at: Vec::new(),
            retry_of: None,
            tick: None,
        }
    }

    /// Every model, the one that is asked first before those that follow.
    pub fn models(&self) -> impl Iterator<Item = &ModelRef> {
        [&self.model].into_iter().chain(self.fallback.models.iter().map(|further| &further.model))
    }

    /// The lanes of its models, in the same order.
    pub fn lanes(&self) -> impl Iterator<Item = &LaneId> {
        [&self.lane].into_iter().chain(self.fallback.models.iter().map(|further| &further.lane))
    }

    /// As many as a chunk may have.
    pub const fn default_chunk_rows() -> u32 {
        MAX_CHUNK_ROWS
    }

    /// Five attempts.
    pub const fn default_max_attempts() -> u32 {
        5
    }
}

/// A version of a stored template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateRef {
    /// Which template.
    pub id: TemplateId,
    /// Which of its versions, from 1.
    pub version: u32,
}

/// Which raw replies are kept in the history of calls, each cut at 1 MiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreReplies {
    /// None; an accepted reply is kept only as the outcome's output.
    #[default]
    None,
    /// Those that were not accepted.
    Failed,
    /// All.
    All,
}

/// Among whose rows an accepted reply is given again to a request that is the same: same model, messages, settings and format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheScope {
    /// Those of the batch.
    Batch,
    /// Those of every batch of the tenant that says so.
    Tenant,
}

impl CacheScope {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Batch, Self::Tenant];

    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Tenant => "tenant",
        }
    }
}

/// One receiver of a batch's events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Where events are posted.
    pub url: String,
    /// The signing secret as it is kept: encrypted, never in clear.
    pub sealed_secret: String,
    /// Whether the results stand in the event that tells the end, where they are small.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub results: bool,
}

impl Webhook {
    /// What its secret is sealed for: a copy in another batch does not open.
    pub fn context(tenant: &TenantId, batch: BatchId) -> String {
        format!("{tenant}|webhook|{batch}")
    }
}

/// What a retry took from another batch: the items whose outcome the filter matches, in the order of their index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryOf {
    /// The other batch; it was final when its rows were taken.
    pub batch: BatchId,
    /// Which of its items.
    pub filter: ItemFilter,
}

/// Limits that may change while the batch runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchLimits {
    /// The most provider calls at the same time.
    pub max_concurrency: Option<u32>,
    /// No call begins once this much is spent; calls already begun may end above it.
    pub max_cost: Option<Money>,
    /// Whether to pause when the first items all fail for one cause that lies outside the rows.
    pub guard: bool,
    /// Larger is served earlier.
    pub priority: i16,
    /// When what is still open expires, Unix milliseconds.
    pub deadline_ms: Option<u64>,
}

impl Default for BatchLimits {
    /// No limit, and the guard on.
    fn default() -> Self {
        Self { max_concurrency: None, max_cost: None, guard: true, priority: 0, deadline_ms: None }
    }
}

/// Settled items before the doomed-batch guard gives its opinion.
pub const GUARD_SAMPLE: u32 = 20;

/// Why a batch stands still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseReason {
    /// Someone asked for it.
    Requested,
    /// Its cost limit is reached.
    Budget,
    /// The cost limit of its tenant is reached, for a day or a month.
    TenantBudget {
        /// Which of the two.
        period: Period,
        /// Which day or month ([`Period::of`]); after it the batch goes on.
        name: String,
    },
    /// The first items all failed for this cause, which lies outside the rows; or the provider refuses the credential.
    Suspect {
        /// The cause.
        kind: FailureKind,
        /// The provider's words.
        message: String,
    },
}

/// Where a batch stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum BatchState {
    /// Rows are coming in.
    Draft,
    /// The parts are frozen, the heads are being written.
    Submitting,
    /// Every row is acknowledged; nothing was admitted yet, but for what a crash in the midst of the first
    /// admission left, and a single row, which may be worked on for a moment before it is admitted.
    Queued,
    /// At least one chunk was admitted, or was worked on when it was to be.
    Running,
    /// Nothing new begins.
    Paused {
        /// Why.
        reason: PauseReason,
    },
    /// Chunks are being sealed.
    Cancelling,
    /// Chunks are being sealed because the deadline passed.
    Expiring,
    /// Every item was worked on.
    Completed,
    /// Cancelled; what was open is `cancelled`.
    Cancelled,
    /// The deadline passed; what was open is `expired`.
    Expired,
}

impl BatchState {
    /// The name in JSON, stores, metrics and logs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Submitting => "submitting",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused { .. } => "paused",
            Self::Cancelling => "cancelling",
            Self::Expiring => "expiring",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Whether nothing can change any more.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Completed | Self::Cancelled | Self::Expired => true,
            Self::Draft
            | Self::Submitting
            | Self::Queued
            | Self::Running
            | Self::Paused { .. }
            | Self::Cancelling
            | Self::Expiring => false,
        }
    }

    /// Whether workers may begin items.
    pub const fn may_begin(&self) -> bool {
        matches!(self, Self::Queued | Self::Running)
    }

    /// What open items become while the batch is being closed early.
    pub const fn seals_with(&self) -> Option<ItemCode> {
        match self {
            Self::Cancelling => Some(ItemCode::Cancelled),
            Self::Expiring => Some(ItemCode::Expired),
            Self::Draft
            | Self::Submitting
            | Self::Queued
            | Self::Running
            | Self::Paused { .. }
            | Self::Completed
            | Self::Cancelled
            | Self::Expired => None,
        }
    }

    /// The state after `event`, or why there is none. An event that already happened gives the same state again.
    pub fn decide(&self, event: &BatchEvent) -> Result<Self, BatchRefusal> {
        use BatchEvent as E;
        let refused = || Err(BatchRefusal { state: self.as_str(), event: event.as_str() });
        match (self, event) {
            (Self::Draft | Self::Submitting, E::BeginSubmit) => Ok(Self::Submitting),
            (Self::Submitting, E::FinishSubmit) => Ok(Self::Queued),
            (Self::Queued | Self::Running, E::FinishSubmit) => Ok(self.clone()),
            (Self::Queued | Self::Running, E::Admit) => Ok(Self::Running),
            // What was paused is not paused again for a cause of our own: whoever did may mean it.
            (Self::Paused { .. }, E::Pause(reason)) if *reason != PauseReason::Requested => Ok(self.clone()),
            (Self::Queued | Self::Running | Self::Paused { .. }, E::Pause(reason)) => {
                Ok(Self::Paused { reason: reason.clone() })
            }
            (Self::Paused { .. }, E::Resume) => Ok(Self::Running),
            (Self::Queued | Self::Running, E::Resume) => Ok(self.clone()),
            (Self::Queued | Self::Running | Self::Paused { .. } | Self::Cancelling, E::Cancel) => {
                Ok(Self::Cancelling)
            }
            (Self::Queued | Self::Running | Self::Paused { .. } | Self::Expiring, E::Expire) => {
                Ok(Self::Expiring)
            }
            // A paused batch whose last items settled meanwhile has nothing left to resume.
            (Self::Queued | Self::Running | Self::Paused { .. } | Self::Completed, E::Close) => {
                Ok(Self::Completed)
            }
            (Self::Cancelling | Self::Cancelled, E::Close) => Ok(Self::Cancelled),
            (Self::Expiring | Self::Expired, E::Close) => Ok(Self::Expired),
            (
                Self::Draft
                | Self::Submitting
                | Self::Queued
                | Self::Running
                | Self::Paused { .. }
                | Self::Cancelling
                | Self::Expiring
                | Self::Completed
                | Self::Cancelled
                | Self::Expired,
                E::BeginSubmit
                | E::FinishSubmit
                | E::Admit
                | E::Pause(_)
                | E::Resume
                | E::Cancel
                | E::Expire
                | E::Close,
            ) => refused(),
        }
    }
}

/// What may happen to a batch as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchEvent {
    /// Freeze the parts.
    BeginSubmit,
    /// All heads are written.
    FinishSubmit,
    /// The first chunk was admitted, or was worked on when it was to be.
    Admit,
    /// Stop beginning items.
    Pause(PauseReason),
    /// Go on.
    Resume,
    /// End early, by request.
    Cancel,
    /// End early, by the deadline.
    Expire,
    /// Every head is done or sealed.
    Close,
}

impl BatchEvent {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::BeginSubmit => "be submitted",
            Self::FinishSubmit => "finish its submit",
            Self::Admit => "be admitted",
            Self::Pause(_) => "be paused",
            Self::Resume => "be resumed",
            Self::Cancel => "be cancelled",
            Self::Expire => "expire",
            Self::Close => "be closed",
        }
    }
}

/// A batch in this state cannot do that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a batch that is {state} cannot {event}")]
pub struct BatchRefusal {
    state: &'static str,
    event: &'static str,
}

/// A batch as a store gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Its id.
    pub id: BatchId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where it stands.
    pub state: BatchState,
    /// Counts the changes of state and limits.
    pub ver: u64,
    /// What to do.
    pub spec: BatchSpec,
    /// Limits in force.
    pub limits: BatchLimits,
    /// Number of rows, final from `queued` on.
    pub total: u32,
    /// When it was created, Unix milliseconds.
    pub created_ms: u64,
    /// When its submit was finished, Unix milliseconds.
    pub submitted_ms: Option<u64>,
    /// When it reached its final state, Unix milliseconds.
    pub finished_ms: Option<u64>,
    /// The exact counts, frozen with a final state.
    pub final_counts: Option<Counts>,
}

/// Items of a batch by where they stand, computed from its heads. `total` is the sum of the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Open items of waiting and ready chunks, those that are parked not counted.
    pub waiting: u64,
    /// Open items of leased chunks, those that are parked not counted.
    pub leased: u64,
    /// Open items that wait for a later attempt, and all open items of parked chunks.
    pub parked: u64,
    /// Succeeded without a repair.
    pub succeeded: u64,
    /// Succeeded after a repair.
    pub repaired: u64,
    /// Failed, by reason; only reasons that occur.
    pub failed: std::collections::BTreeMap<FailureKind, u64>,
    /// Sealed by a cancel.
    pub cancelled: u64,
    /// Sealed by the deadline.
    pub expired: u64,
    /// Calls, tokens and cost.
    pub totals: Totals,
}

impl Counts {
    /// Adds the items of one head.
    pub fn add(&mut self, head: &Head) {
        let mut open = 0;
        for byte in &head.done {
            match ItemCode::from_byte(*byte) {
                Some(ItemCode::Open) => open += 1,
                Some(ItemCode::Succeeded) => self.succeeded += 1,
                Some(ItemCode::Repaired) => self.repaired += 1,
                Some(ItemCode::Failed(kind)) => *self.failed.entry(kind).or_default() += 1,
                Some(ItemCode::Cancelled) => self.cancelled += 1,
                Some(ItemCode::Expired) => self.expired += 1,
                // A later release wrote it; it is an outcome, and `internal` is the kind that claims nothing about the row.
                None => *self.failed.entry(FailureKind::Internal).or_default() += 1,
            }
        }
        let parked = (head.parked.len() as u64).min(open);
        match head.state {
            ChunkState::Parked { .. } => self.parked += open,
            ChunkState::Leased { .. } => {
                self.parked += parked;
                self.leased += open - parked;
            }
            ChunkState::Waiting | ChunkState::Ready | ChunkState::Done | ChunkState::Sealed => {
                self.parked += parked;
                self.waiting += open - parked;
            }
        }
        self.totals += head.totals;
    }

    /// Items that succeeded.
    pub const fn all_succeeded(&self) -> u64 {
        self.succeeded + self.repaired
    }

    /// Items that failed.
    pub fn all_failed(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Items with an outcome.
    pub fn settled(&self) -> u64 {
        self.all_succeeded() + self.all_failed() + self.cancelled + self.expired
    }

    /// Items without one.
    pub const fn open(&self) -> u64 {
        self.waiting + self.leased + self.parked
    }

    /// All items.
    pub fn total(&self) -> u64 {
        self.open() + self.settled()
    }
}

#[cfg(test)]
mod tests;
