//! The records of an archive, in the order in which they stand there.
//!
//! Tenants come by id. Behind a tenant come its keys, its templates each with its versions and then its labels, its requests with an idempotency key, its generations,
//! its schedules, its row sets, its batches, newest first, and its endpoints. Behind a schedule come its ticks, newest first, and the row set of the rows
//! that came with it. Behind a row set come the blocks of its versions, oldest first. Behind a batch come its blocks, each part behind those it is made
//! of, its chunks each before its outcomes, its events and deliveries, and its end. A field that a later release adds is empty where it is left out, and a
//! record that it adds is missing.

use bytes::Bytes;
use promptmill_domain::head::{KILLER_AFTER_KILLS_ALONE, QUARANTINE_AFTER_KILLS, Trying};
use promptmill_domain::{
    BatchId, BatchLimits, BatchSpec, BatchState, Counts, DeliveryId, Endpoint, EndpointId, Event, EventId,
    EventKind, GenerationId, KeyId, ParkedItem, Schedule, TemplateId, TenantId, Tick, Totals, UploadId,
};
use promptmill_ports::{DeliveryAttempt, DeliveryState, Role, RowSet};
use serde::{Deserialize, Serialize};

use crate::bytes64;

/// About the bytes of an attempt in memory; a reply in it may have more.
const ATTEMPT: usize = 512;

/// A line of an archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A tenant; what follows is its own.
    Tenant(TenantRecord),
    /// A key of the tenant.
    Key(KeyRecord),
    /// A template of the tenant; its versions follow from 1, and its labels behind them.
    Template(TemplateRecord),
    /// The next version of the template.
    Version(VersionRecord),
    /// A label of the template.
    Label(LabelRecord),
    /// A request with an idempotency key.
    Claim(ClaimRecord),
    /// An immediate generation.
    Generation(GenerationRecord),
    /// An endpoint of the tenant, as if it were never changed. It comes behind the batches, which would tell it of their being made again.
    Endpoint(Box<Endpoint>),
    /// A schedule of the tenant, as if it were never changed.
    Schedule(Box<Schedule>),
    /// A row set of the tenant, as if it were never changed; its blocks follow. One without a name is of the schedule before it.
    RowSet(Box<RowSet>),
    /// A tick of the schedule, with its version: whoever decides it again knows of a first one, and changes none that went on.
    Tick(Box<Tick>),
    /// A batch; what follows to its end is of it.
    Batch(Box<BatchRecord>),
    /// The next block of rows of the part that follows, or of the row set before it.
    Block(BlockRecord),
    /// A part, of the blocks before it.
    Part(PartRecord),
    /// What is known of a chunk beside its outcomes, which follow.
    Chunk(Box<ChunkRecord>),
    /// An outcome.
    Outcome(OutcomeRecord),
    /// An event that was not handed on.
    Event(Box<Event>),
    /// A delivery of the batch.
    Delivery(Box<DeliveryRecord>),
    /// The end of the batch: how it stands.
    End(Box<EndRecord>),
    /// The end of the batch, the schedule or the row set: it was deleted while it was read, and is none.
    Gone,
}

impl Record {
    /// Whether it is of a schedule or a row set that may stand before it.
    pub(crate) fn is_of_recurring(&self) -> bool {
        match self {
            Self::Tick(_) | Self::Block(_) | Self::Gone => true,
            Self::RowSet(set) => set.name.is_none(),
            Self::Tenant(_)
            | Self::Key(_)
            | Self::Template(_)
            | Self::Version(_)
            | Self::Label(_)
            | Self::Claim(_)
            | Self::Generation(_)
            | Self::Endpoint(_)
            | Self::Schedule(_)
            | Self::Batch(_)
            | Self::Part(_)
            | Self::Chunk(_)
            | Self::Outcome(_)
            | Self::Event(_)
            | Self::Delivery(_)
            | Self::End(_) => false,
        }
    }
}

/// The uploads whose blocks follow a row set, in that order, and how many blocks each has.
pub(crate) fn uploads_of(set: &RowSet) -> Vec<(UploadId, u32)> {
    let mut uploads: Vec<(UploadId, u32)> = Vec::with_capacity(set.versions.len());
    for version in &set.versions {
        if uploads.iter().all(|(upload, _)| *upload != version.upload) {
            uploads.push((version.upload, version.blocks));
        }
    }
    uploads
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRecord {
    /// Its id.
    pub id: TenantId,
    /// When it was made.
    pub created_ms: u64,
}

/// An API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its public id.
    pub id: KeyId,
    /// What people call it.
    pub name: String,
    /// What its holder is.
    pub role: Role,
    /// What it may do at most.
    pub scopes: Vec<String>,
    /// SHA-256 of its secret.
    #[serde(with = "bytes64")]
    pub hash: [u8; 32],
    /// The last characters of its secret.
    pub hint: String,
    /// When it was made.
    pub created_ms: u64,
    /// From when on it is refused.
    pub expires_ms: Option<u64>,
    /// When it was revoked.
    pub revoked_ms: Option<u64>,
    /// When it was last used.
    pub used_ms: Option<u64>,
}

/// A template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateRecord {
    /// Its id.
    pub id: TemplateId,
    /// Its name.
    pub name: String,
}

/// A version of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Its JSON text.
    pub source: String,
    /// When it was made.
    pub created_ms: u64,
}

/// A label of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelRecord {
    /// Its name.
    pub label: String,
    /// The version that has it.
    pub version: u32,
    /// When it was put there.
    pub changed_ms: u64,
}

/// A request with an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {
    /// Method and route with the client's key.
    pub key: String,
    /// When it was begun.
    pub created_ms: u64,
    /// Digest of what was asked.
    #[serde(with = "bytes64")]
    pub fingerprint: [u8; 32],
    /// What the ids of what it makes derive from.
    #[serde(with = "bytes64")]
    pub plan: [u8; 16],
    /// Who began it.
    #[serde(with = "bytes64")]
    pub owner: [u8; 16],
    /// Its answer, where it has one.
    pub answer: Option<AnswerRecord>,
}

/// An answer that is repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// HTTP status.
    pub status: u16,
    /// Headers, as (name, value).
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(with = "bytes64")]
    pub body: Bytes,
}

/// An immediate generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationRecord {
    /// Its id.
    pub id: GenerationId,
    /// When it was asked for.
    pub created_ms: u64,
    /// What was asked.
    #[serde(with = "bytes64")]
    pub request: Bytes,
    /// Its encoded outcome; one without is run again by whoever serves the installation next.
    #[serde(with = "bytes64::maybe")]
    pub outcome: Option<Bytes>,
}

/// How a batch began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchRecord {
    /// Its id.
    pub id: BatchId,
    /// When it was created.
    pub created_ms: u64,
    /// When its submit was finished.
    pub submitted_ms: Option<u64>,
    /// The key its client created it with.
    pub idem_key: Option<String>,
    /// What to do.
    pub spec: BatchSpec,
    /// Limits in force.
    pub limits: BatchLimits,
}

/// A block of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRecord {
    /// How many rows.
    pub len: u32,
    /// The rows as they are stored.
    #[serde(with = "bytes64")]
    pub bytes: Bytes,
    /// Hashes of their custom ids.
    #[serde(with = "bytes64")]
    pub ids: Bytes,
}

/// A part of a batch's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Its number.
    pub part: u32,
    /// Digest of its rows.
    #[serde(with = "bytes64")]
    pub digest: [u8; 32],
    /// How many rows.
    pub rows: u64,
}

/// What is known of a chunk beside its outcomes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChunkRecord {
    /// Its number.
    pub n: u32,
    /// How many holders died holding it, of those that have a meaning: [`most_kills`](Self::most_kills).
    pub kills: u32,
    /// The item that was tried alone and already killed.
    pub trying: Option<Trying>,
    /// Offsets of the items that failed because they killed their holders. They have outcomes without a body.
    #[serde(default)]
    pub killers: Vec<u32>,
    /// Calls, tokens and cost of every recorded call.
    pub totals: Totals,
    /// Open items that wait.
    pub parked: Vec<ParkedItem>,
}

impl ChunkRecord {
    /// More deaths than these say nothing more: those that brought the chunk into quarantine, and those during single items.
    pub fn most_kills(&self) -> u32 {
        let alone = KILLER_AFTER_KILLS_ALONE * u32::try_from(self.killers.len()).unwrap_or(u32::MAX >> 2);
        QUARANTINE_AFTER_KILLS + alone + self.trying.map_or(0, |trying| trying.kills)
    }

    /// About the bytes that it takes in memory.
    pub(crate) fn size(&self) -> usize {
        let attempts: usize = self.parked.iter().map(|item| item.attempts.len()).sum();
        size_of::<Self>() + self.parked.len() * size_of::<ParkedItem>() + attempts * ATTEMPT
    }

    /// Of a chunk of which nothing is known but its outcomes.
    pub fn of(n: u32) -> Self {
        let (killers, parked) = (Vec::new(), Vec::new());
        Self { n, kills: 0, trying: None, killers, totals: Totals::default(), parked }
    }
}

/// An outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeRecord {
    /// Index of its item.
    pub index: u32,
    /// How it ended: the byte that heads have for it.
    pub code: u8,
    /// Its encoded body; an item that was closed has none.
    #[serde(with = "bytes64::maybe")]
    pub body: Option<Bytes>,
}

/// A delivery of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryRecord {
    /// Its id.
    pub id: DeliveryId,
    /// Its event.
    pub event: EventId,
    /// What happened.
    pub kind: EventKind,
    /// Where it goes.
    pub url: String,
    /// The signing secret, sealed under a master key; empty where the endpoint has it.
    pub sealed_secret: String,
    /// The endpoint it goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointId>,
    /// The exact body.
    #[serde(with = "bytes64")]
    pub body: Bytes,
    /// Where it stands.
    pub state: DeliveryState,
    /// When it is to be tried next.
    pub due_ms: u64,
    /// Tries so far.
    pub attempts: Vec<DeliveryAttempt>,
    /// When it was made.
    pub created_ms: u64,
}

/// How a batch stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndRecord {
    /// Its state.
    pub state: BatchState,
    /// Its version.
    pub ver: u64,
    /// When it reached its final state.
    pub finished_ms: Option<u64>,
    /// Its counts, where its state is final.
    pub counts: Option<Counts>,
}
