//! The store ports. A backend implements all of them over one database; [`Store`] names the sum.
//!
//! Every call carries the tenant or is about the fleet as a whole; a record of another tenant is [`StoreError::NotFound`].
//! "Atomic" means: after a crash at any moment either all of the step is there or nothing of it, and when the call
//! returned `Ok` it survives a power cut. Time comes from the caller in Unix milliseconds (`now_ms`).
//!
//! [`StoreError::NotFound`]: crate::StoreError::NotFound

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::chunk::{ChunkCut, FrozenPart};
use promptmill_domain::{
    Batch, BatchEvent, BatchId, BatchLimits, BatchSpec, BatchState, ChunkId, Counts, Event, EventId, Head,
    LaneId, LeaseToken, ParkedItem, Release, SessionId, SettledItem, TenantId, Totals, UploadId,
    WorkerReport,
};

use crate::StoreResult;
use crate::budgets::Budgets;
use crate::lanes::Lanes;
use crate::reading::{Read, Rows};
use crate::replies::Replies;

/// A batch to be made.
#[derive(Debug, Clone)]
pub struct NewBatch {
    /// Its id, chosen by the caller.
    pub id: BatchId,
    /// What to do.
    pub spec: BatchSpec,
    /// Limits to begin with.
    pub limits: BatchLimits,
    /// The client's key: a second create with the same key of the same tenant makes nothing.
    pub idem_key: Option<String>,
    /// Now.
    pub now_ms: u64,
}

/// What a create did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The batch is new.
    New,
    /// An earlier create with the same key (or id) made this one.
    Existing(BatchId),
}

/// A run of rows that are stored together: at most 256 rows or 4 MiB before compression.
#[derive(Debug, Clone)]
pub struct RowBlock {
    /// 0-based number within the upload.
    pub seq: u32,
    /// Number of rows.
    pub len: u32,
    /// The rows, opaque to the store (zstd NDJSON).
    pub bytes: Bytes,
    /// Eight bytes a row: a hash of its `custom_id`, or zeros where it has none. Empty when no row of the block has one.
    pub ids: Bytes,
}

/// A batch that is made with all of its rows, so few that one block holds them.
#[derive(Debug, Clone)]
pub struct WholeBatch {
    /// The batch. Its rows, their upload and its chunks have ids that derive from its own.
    pub batch: NewBatch,
    /// Its rows: block 0 of its only part.
    pub rows: RowBlock,
    /// Digest of the rows, opaque to the store.
    pub digest: [u8; 32],
}

impl WholeBatch {
    /// The upload that its rows stand under.
    pub const fn upload(&self) -> UploadId {
        UploadId::from_bytes(*self.batch.id.as_bytes())
    }
}

/// What an accept did.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// The batch is new and queued; as it stands.
    New(Box<Batch>),
    /// An earlier call made this one, under the same key or id; it may be anything from a draft to final.
    Existing(BatchId),
}

/// Makes an upload the content of one part of a batch.
#[derive(Debug, Clone)]
pub struct PartCommit {
    /// 0-based number of the part; parts are joined in this order.
    pub part: u32,
    /// The upload whose blocks, `0..blocks` without a gap, are the part.
    pub upload: UploadId,
    /// How many blocks the upload has.
    pub blocks: u32,
    /// Digest of the rows, opaque to the store.
    pub digest: [u8; 32],
}

/// How rows come in and a draft becomes a queued batch.
///
/// [`flow::submit`](crate::flow::submit) strings the three submit steps together; each may be repeated by anyone until
/// the batch is queued, because ids and cuts derive from the frozen parts.
#[async_trait]
pub trait Intake: Send + Sync {
    /// Makes a batch in `draft`. Atomic; repeating it with the same id or key answers [`Created::Existing`].
    ///
    /// # Errors
    /// `Conflict` when the id is that of another tenant's batch, or of one that is being deleted.
    async fn create(&self, tenant: &TenantId, batch: NewBatch) -> StoreResult<Created>;

    /// Makes a batch with all of its rows and queues it, in one step: what [`flow::submit`](crate::flow::submit) makes of a draft with
    /// this one part. Atomic; a batch that an earlier call made, by this step or another, stays as it is. After an unknown result the caller
    /// repeats the same call, and is answered [`Accepted::Existing`] when it was made.
    ///
    /// The rows count as submitted by the tenant as in [`finish_submit`](Self::finish_submit). It need not count as a change for
    /// [`BeatAnswer::Alive`]: no session knows of the batch yet.
    ///
    /// # Errors
    /// `Conflict` as for [`create`](Self::create), and when the block is not number 0, is empty, or has more rows than
    /// [`MAX_CHUNK_ROWS`](promptmill_domain::chunk::MAX_CHUNK_ROWS).
    async fn accept(&self, tenant: &TenantId, whole: WholeBatch) -> StoreResult<Accepted>;

    /// Stores blocks of an upload, invisible until a part names it. Repeating a block is a no-op. The upload counts as alive at
    /// `now_ms` ([`Retention::drop_stale_uploads`]).
    ///
    /// # Errors
    /// `Conflict` when the batch is not a draft, or the upload was dropped.
    async fn put_rows(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        upload: UploadId,
        blocks: Vec<RowBlock>,
        now_ms: u64,
    ) -> StoreResult<()>;

    /// Gives an upload up: its blocks are removed, and it takes no more. Repeatable; an upload that became a part stays as it is.
    async fn drop_upload(&self, tenant: &TenantId, batch: BatchId, upload: UploadId) -> StoreResult<()>;

    /// Makes the upload the content of the part, replacing what the part was before. Atomic and repeatable.
    ///
    /// # Errors
    /// `Conflict` when the batch is not a draft, or a block of the upload is missing, or the upload was dropped.
    async fn commit_part(&self, tenant: &TenantId, batch: BatchId, part: PartCommit) -> StoreResult<()>;

    /// Moves a draft to `submitting` and answers its parts in order; from then on they cannot change. Repeatable.
    ///
    /// # Errors
    /// `Conflict` when the batch is past submitting, or has no rows or more than an index can number.
    async fn begin_submit(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Vec<FrozenPart>>;

    /// Writes heads in state `waiting`, leaving out those that exist. Repeatable; past submitting it does nothing.
    ///
    /// # Errors
    /// `Conflict` when the batch is a draft, or a cut is longer than [`MAX_CHUNK_ROWS`](promptmill_domain::chunk::MAX_CHUNK_ROWS).
    async fn put_heads(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        lane: &LaneId,
        cuts: &[ChunkCut],
    ) -> StoreResult<()>;

    /// Moves a submitting batch, all of whose `chunks` heads exist, to `queued` with its `total` of rows. Atomic and
    /// repeatable; past submitting it does nothing. Counts as a change for [`BeatAnswer::Alive`], and the rows count as
    /// submitted by the tenant on the day (UTC) of `now_ms` ([`Read::usage`]).
    ///
    /// # Errors
    /// `Conflict` when a head is missing, or the batch is a draft.
    async fn finish_submit(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        chunks: u32,
        total: u32,
        now_ms: u64,
    ) -> StoreResult<()>;
}

/// A chunk in the hands of a worker.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The head as it was leased; its state holds owner and token.
    pub head: Head,
    /// The proof to settle with.
    pub token: LeaseToken,
    /// The block that holds the chunk's rows; `head.rows.skip` and `head.len()` say which of its rows.
    pub rows: Bytes,
    /// What [`Work::assignments`] would say of the chunk's batch, where the store knows it from leasing the chunk.
    pub batch: Option<Assignment>,
}

/// What a worker records about one chunk in one step.
#[derive(Debug, Clone)]
pub struct SettleGroup {
    /// Which chunk.
    pub chunk: ChunkId,
    /// The lease's token.
    pub token: LeaseToken,
    /// Items with their outcome and its encoded body ([`encode_outcome`](crate::encode_outcome)).
    pub settled: Vec<(SettledItem, Bytes)>,
    /// Items that wait.
    pub parked: Vec<ParkedItem>,
    /// The worker's number of this group within the lease: 1, 2, 3...
    pub seq: u32,
    /// Calls made since the group before.
    pub spent: Totals,
    /// Whether the worker lets go of the chunk.
    pub release: Release,
}

/// What became of a [`SettleGroup`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is recorded. `done`: every item of the chunk now has its outcome.
    Recorded {
        /// Whether the chunk is done.
        done: bool,
    },
    /// The lease is no longer held: nothing of the group was recorded, the worker drops the chunk.
    Fenced,
}

/// What whoever works on chunks of a batch must know of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// The batch.
    pub batch: Batch,
    /// What was counted of it so far.
    pub counts: Counts,
}

/// What a worker does with chunks.
#[async_trait]
pub trait Work: Send + Sync {
    /// Leases each chunk that is `ready` to `owner` under the token given with it; others are left out of the answer. The chunk of a batch of a
    /// single row is leased while it is `waiting`, too: whoever hints it need not admit it before. Its batch stays `queued` then until somebody
    /// does, or until it ends.
    ///
    /// A chunk whose batch may not begin items (paused, cancelling...) is left out too, and a session that is not known to be
    /// alive gets none. Atomic per chunk. After an unknown
    /// result a lease may exist that nobody knows of; it ends with the session.
    async fn claim(
        &self,
        owner: SessionId,
        chunks: &[(ChunkId, LeaseToken)],
        now_ms: u64,
    ) -> StoreResult<Vec<Lease>>;

    /// What is to be known of these batches, those that exist, in no order. Many small ones cost hardly more than one.
    async fn assignments(&self, batches: &[BatchId]) -> StoreResult<Vec<Assignment>>;

    /// Records groups, each atomically: bodies first (a body that exists already is kept and adopted), then the head.
    /// Answers in the order of the groups.
    ///
    /// After an unknown result the caller repeats the same call: what was recorded stays as it is, `spent` counts once by `seq`. A
    /// group that ended its lease the first time is answered [`Settled::Fenced`] then. What is recorded has its place in the order of
    /// settling after the next [`order`](Self::order).
    ///
    /// # Errors
    /// `Conflict` when a group names an item its chunk does not have or a code that is no outcome: a mistake of the caller.
    /// Nothing of that group is recorded; other groups of the call may be.
    async fn settle(&self, groups: Arc<[SettleGroup]>, now_ms: u64) -> StoreResult<Vec<Settled>>;

    /// Gives what this store's calls of [`settle`](Self::settle) recorded its place in the order of settling, where that was left for
    /// later: nobody has to wait for it before going on. Repeatable. What it never came to has its place before its chunk settles anything
    /// more, and before its batch closes.
    async fn order(&self) -> StoreResult<()>;

    /// Records which item the holder of a quarantined chunk begins. Answers whether the lease is still held.
    async fn try_item(
        &self,
        chunk: ChunkId,
        token: LeaseToken,
        offset: u32,
        now_ms: u64,
    ) -> StoreResult<bool>;
}

/// A session's heartbeat as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionBeat {
    /// Which session.
    pub session: SessionId,
    /// What it does, for people: role and host.
    pub label: String,
    /// The last beat; grows by one a second while the session lives.
    pub beat: u64,
    /// What a worker told with it.
    pub report: Option<WorkerReport>,
}

/// What a beat tells the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BeatAnswer {
    /// It lives. The number changes whenever a batch was submitted, steered or given other limits; a session that sees a new one re-reads its batches.
    Alive {
        /// The fleet-wide change counter of batches.
        changes: u64,
    },
    /// It was declared dead; its leases are gone.
    Dead,
}

/// No other process buries a session that began a beat so short a time ago, if that beat was stored.
pub const SAFE_FOR: Duration = Duration::from_secs(4);

/// The life and death of sessions.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Registers a session with beat 0. Repeatable.
    ///
    /// # Errors
    /// `Conflict` when the session was declared dead.
    async fn open(&self, session: SessionId, label: &str) -> StoreResult<()>;

    /// Stores beat `beat` of the session with what it has to tell. A session that is unknown or ended is answered as a dead one.
    async fn beat(
        &self,
        session: SessionId,
        beat: u64,
        report: Option<&WorkerReport>,
    ) -> StoreResult<BeatAnswer>;

    /// All sessions that are neither ended nor dead.
    async fn sessions(&self) -> StoreResult<Vec<SessionBeat>>;

    /// Declares the session dead if its beat is still `beat`, and takes every chunk it holds from it. Answers how many chunks, or
    /// `None` when the session beat meanwhile or is gone. Repeatable: a session that is dead already has its remaining chunks taken.
    ///
    /// Nobody calls it through another store than that of the session before the beat is [`SAFE_FOR`] old.
    ///
    /// # Errors
    /// `Unavailable` also when writes failed a moment ago while reads did not: whoever could not beat is not dead.
    async fn bury(&self, session: SessionId, beat: u64, now_ms: u64) -> StoreResult<Option<u32>>;

    /// Ends a session as planned: its chunks are handed back without counting a death. Answers how many.
    async fn end(&self, session: SessionId, now_ms: u64) -> StoreResult<u32>;
}

/// How the scheduler lets chunks run, and puts lost hints back.
#[async_trait]
pub trait Admission: Send + Sync {
    /// Batches that are neither draft nor final, oldest first (in the order of their ids, which tell the time).
    async fn open_batches(&self) -> StoreResult<Vec<Batch>>;

    /// Those of the batches that are neither draft nor final, oldest first.
    async fn open_among(&self, batches: &[BatchId]) -> StoreResult<Vec<Batch>>;

    /// The first `limit` waiting chunks of a batch, by number.
    async fn waiting(&self, batch: BatchId, limit: u32) -> StoreResult<Vec<ChunkId>>;

    /// Moves waiting chunks to `ready`; answers those it moved. Moves a `queued` batch of theirs to `running`, whether or not its chunks waited.
    async fn admit(&self, chunks: &[ChunkId], now_ms: u64) -> StoreResult<Vec<ChunkId>>;

    /// Moves up to `limit` parked chunks that are due to `ready`; answers them.
    async fn wake(&self, limit: u32, now_ms: u64) -> StoreResult<Vec<ChunkId>>;

    /// Up to `limit` chunks that are `ready`, in the order of their ids, after `after`; those of a paused batch too.
    async fn ready(&self, after: Option<ChunkId>, limit: u32) -> StoreResult<Vec<ChunkId>>;
}

/// How a batch ends.
#[async_trait]
pub trait Close: Send + Sync {
    /// Closes up to `limit` chunks of a batch that is cancelling or expiring: open items get the code of that, leases end. Answers
    /// how many chunks were sealed; 0 means all of them are final.
    ///
    /// # Errors
    /// `Conflict` when the batch goes on, or is not submitted.
    async fn seal(&self, tenant: &TenantId, batch: BatchId, limit: u32, now_ms: u64) -> StoreResult<u32>;

    /// Moves a batch, all of whose chunks are done or sealed, to its final state with its exact counts, in one step. Answers the
    /// counts, or `None` when a chunk is not final. Repeatable. Where the batch has a webhook, its event is written in the same step.
    ///
    /// # Errors
    /// `Conflict` when the batch is not submitted.
    async fn close(&self, tenant: &TenantId, batch: BatchId, now_ms: u64) -> StoreResult<Option<Counts>>;

    /// Deletes a batch that is final or a draft, with rows, heads, outcomes and the events that were not handed on; the batch itself
    /// last. Works through at most about 1,000 records a call; answers whether all is gone, and then nothing of it is readable in the
    /// store's files either, unless someone is reading at that moment; then it is soon. From the first call on the batch is gone for every other call, and its
    /// key may make another one; after the last it is `NotFound` here too.
    ///
    /// # Errors
    /// `Conflict` when the batch is neither final nor a draft.
    async fn delete(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<bool>;
}

/// How a running batch is steered.
#[async_trait]
pub trait Control: Send + Sync {
    /// Applies an event (pause, resume, cancel, expire) and answers the new state. Repeatable. Counts as a change for
    /// [`BeatAnswer::Alive`]. Where the batch has a webhook and its new state is one that is told ([`EventKind::of_state`]), the event
    /// is written in the same step; an event that changes nothing writes none.
    ///
    /// [`EventKind::of_state`]: promptmill_domain::EventKind::of_state
    ///
    /// # Errors
    /// `Conflict` when the state does not allow it.
    async fn steer(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        event: BatchEvent,
        now_ms: u64,
    ) -> StoreResult<BatchState>;

    /// Replaces the limits of a batch that is not final. Counts as a change.
    ///
    /// # Errors
    /// `Conflict` when the batch is final.
    async fn set_limits(&self, tenant: &TenantId, batch: BatchId, limits: BatchLimits) -> StoreResult<()>;
}

/// What was kept long enough. Every step is bounded, and repeated until it finds nothing.
#[async_trait]
pub trait Retention: Send + Sync {
    /// Drops uploads that no part names and that took no block since `before_ms`, as [`Intake::drop_upload`] does, at most about
    /// 1,000 blocks a call. Answers how many blocks were removed.
    async fn drop_stale_uploads(&self, before_ms: u64) -> StoreResult<u32>;

    /// Up to `limit` batches to be deleted ([`Close::delete`]): final ones whose retention (their own, or `default_ms`) is over, drafts
    /// that took nothing since `drafts_before_ms`, and those whose deletion was begun and not finished. The deletion of a draft is begun
    /// with its being named: nobody can send it rows that would be lost.
    async fn outlived(
        &self,
        now_ms: u64,
        default_ms: u64,
        drafts_before_ms: u64,
        limit: u32,
    ) -> StoreResult<Vec<(TenantId, BatchId)>>;

    /// Whether the disk has room for more: `false` below the store's low-water mark. Submissions are refused then.
    ///
    /// # Errors
    /// `Unavailable` also while there is room and the store's writes fail all the same.
    async fn has_room(&self) -> StoreResult<bool>;
}

/// Events that were written with a change of a batch and not handed on yet.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Up to `limit` events, oldest first.
    async fn pending(&self, limit: u32) -> StoreResult<Vec<Event>>;

    /// Those of these batches that are there, whoever's they are, in no order: what events tell of.
    async fn batches_told_of(&self, batches: &[BatchId]) -> StoreResult<Vec<Batch>>;

    /// Forgets events that became deliveries. Repeatable.
    async fn handed_on(&self, events: &[EventId]) -> StoreResult<()>;
}

/// Everything the engine needs of a store.
pub trait Store:
    Intake
    + Work
    + Sessions
    + Admission
    + Close
    + Control
    + Read
    + Rows
    + Retention
    + Outbox
    + Lanes
    + Budgets
    + Replies
{
}

impl<
    T: Intake
        + Work
        + Sessions
        + Admission
        + Close
        + Control
        + Read
        + Rows
        + Retention
        + Outbox
        + Lanes
        + Budgets
        + Replies,
> Store for T
{
}
