//! The store's reading side: batches and their counts, outcomes, rows, and what a tenant has used.

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::{Batch, BatchId, BatchState, Counts, ItemCode, RowsRef, TenantId};

use crate::{StoreError, StoreResult};

/// Counts of a batch at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The batch's state at that moment.
    pub state: BatchState,
    /// The counts; their total is the number of rows that were submitted, or that have a head so far while the batch is being submitted.
    pub counts: Counts,
    /// Chunks that are neither done nor sealed.
    pub open_chunks: u32,
}

/// An outcome that its head's byte names.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredOutcome {
    /// Index of the item.
    pub index: u32,
    /// How it ended.
    pub code: ItemCode,
    /// The encoded body; `None` for an item that was closed without one (sealed, or a worker killer). A stored body whose code is
    /// not the one in the head came too late and is never shown.
    pub body: Option<Bytes>,
}

/// How much one page may hold; at least one record is always given.
#[derive(Debug, Clone, Copy)]
pub struct PageLimit {
    /// Records.
    pub items: u32,
    /// Bytes of bodies.
    pub bytes: usize,
}

impl PageLimit {
    /// So many records, however large they are.
    pub const fn items(items: u32) -> Self {
        Self { items, bytes: usize::MAX }
    }
}

/// A run of outcomes in the order of their index.
#[derive(Debug, Clone)]
pub struct OutcomePage {
    /// The outcomes; items without one are left out.
    pub outcomes: Vec<StoredOutcome>,
    /// Where the next page begins; `None` at the end of the batch.
    pub next: Option<u32>,
}

/// One stored block of rows with the items it became.
#[derive(Debug, Clone)]
pub struct BlockRow {
    /// Index of the item that is the first of the chunk's rows.
    pub base: u32,
    /// Where in the block the chunk's rows begin.
    pub rows: RowsRef,
    /// Number of items.
    pub len: u32,
    /// The block.
    pub bytes: Bytes,
}

/// Where a reading of outcomes in the order of their settling stands. Opaque but for its start.
///
/// It is of the epoch of its store: an import makes an order of its own, in which a place of the one before would mean something else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SettledCursor(pub u64);

impl SettledCursor {
    /// Behind so many items of the record of that number.
    pub fn at(epoch: u16, record: u32, items: u16) -> Self {
        Self(u64::from(epoch) << 48 | u64::from(record) << 16 | u64::from(items))
    }

    /// The epoch it is of.
    pub const fn epoch(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// The record and how many of its items were given.
    ///
    /// # Errors
    /// `Conflict` when it is of another epoch.
    pub fn place_in(self, epoch: u16) -> StoreResult<(u32, u16)> {
        let [_, _, r3, r2, r1, r0, i1, i0] = self.0.to_be_bytes();
        if self != Self::default() && self.epoch() != epoch {
            let words = "this place is in an order that there was before an import; begin anew";
            return Err(StoreError::Conflict(words.to_owned()));
        }
        Ok((u32::from_be_bytes([r3, r2, r1, r0]), u16::from_be_bytes([i1, i0])))
    }
}

/// A run of outcomes in the order in which they settled.
#[derive(Debug, Clone)]
pub struct SettledPage {
    /// The outcomes, each with where a reading goes on behind it.
    pub outcomes: Vec<(StoredOutcome, SettledCursor)>,
    /// Where the next page begins; the same as asked for when there was nothing.
    pub next: SettledCursor,
    /// Whether nothing has settled behind `next` at this moment.
    pub caught_up: bool,
}

/// Which batches a list is about; every field that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchFilter {
    /// The name of the state ([`BatchState::as_str`]).
    pub state: Option<String>,
    /// The whole name.
    pub name: Option<String>,
    /// Labels, each with its value.
    pub labels: Vec<(String, String)>,
    /// Created at or after, Unix milliseconds.
    pub created_from_ms: Option<u64>,
    /// Created before, Unix milliseconds.
    pub created_before_ms: Option<u64>,
}

/// A run of batches in the order of a list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BatchPage {
    /// The batches.
    pub batches: Vec<Batch>,
    /// Whether more follow behind the last of them.
    pub more: bool,
}

/// The committed content of one part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// 0-based number.
    pub part: u32,
    /// Digest of the rows.
    pub digest: [u8; 32],
    /// How many rows.
    pub rows: u64,
}

/// The hashes of one committed block's custom ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockIds {
    /// Its part.
    pub part: u32,
    /// Its number in the part's upload.
    pub seq: u32,
    /// Number of rows.
    pub len: u32,
    /// As [`RowBlock::ids`](crate::RowBlock::ids).
    pub ids: Bytes,
}

/// What a tenant has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Rows submitted on the day (UTC) asked for.
    pub rows: u64,
    /// Bytes of rows and of outcomes that are stored, as they are stored.
    pub bytes: u64,
    /// Bytes of the other records that are stored: specs of batches, versions of templates, generations, answers kept for repeated
    /// requests with their keys.
    pub record_bytes: u64,
}

impl Usage {
    /// All bytes that are stored.
    pub const fn stored_bytes(&self) -> u64 {
        self.bytes.saturating_add(self.record_bytes)
    }
}

/// What can be read. Nothing here changes anything.
#[async_trait]
pub trait Read: Send + Sync {
    /// A batch.
    async fn batch(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Batch>;

    /// Counts of a batch, computed from its heads in one snapshot.
    async fn progress(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Progress>;

    /// Outcomes from index `from` on, as far as `limit` allows.
    async fn outcomes(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        from: u32,
        limit: PageLimit,
    ) -> StoreResult<OutcomePage>;

    /// The rows of the chunk that holds item `index`.
    async fn rows(&self, tenant: &TenantId, batch: BatchId, index: u32) -> StoreResult<BlockRow>;

    /// Outcomes in the order in which they settled, as far as `limit` allows. Whoever reads on from `next` of the page before gets every
    /// outcome exactly once; what an item became never changes, so one that was given is never given differently.
    ///
    /// # Errors
    /// `Conflict` when `after` is of another order, which an import replaced.
    async fn settled(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        after: SettledCursor,
        limit: PageLimit,
    ) -> StoreResult<SettledPage>;

    /// Batches of the tenant that `filter` names, newest first, those before `before` in that order, as far as `limit` allows; its bytes
    /// are those of their specs, which hold whole templates.
    async fn batches(
        &self,
        tenant: &TenantId,
        filter: &BatchFilter,
        before: Option<BatchId>,
        limit: PageLimit,
    ) -> StoreResult<BatchPage>;

    /// What the tenant has used, its rows those of the day (UTC) of `now_ms`.
    async fn usage(&self, tenant: &TenantId, now_ms: u64) -> StoreResult<Usage>;

    /// The fleet-wide change counter of batches, as [`BeatAnswer::Alive`](crate::BeatAnswer::Alive) gives it.
    async fn changes(&self) -> StoreResult<u64>;
}

/// What can be read of the rows that were committed, before the submit as after it.
#[async_trait]
pub trait Rows: Send + Sync {
    /// The committed parts of a batch, by part.
    async fn parts(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Vec<Part>>;

    /// Hashes of custom ids by (part, seq), those behind `after`, at most `limit` blocks. Blocks without any are given too: their
    /// lengths tell the index of what follows.
    async fn block_ids(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        after: Option<(u32, u32)>,
        limit: u32,
    ) -> StoreResult<Vec<BlockIds>>;

    /// The rows of one block.
    async fn block(&self, tenant: &TenantId, batch: BatchId, part: u32, seq: u32) -> StoreResult<Bytes>;
}
