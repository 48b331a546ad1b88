//! The ports of recurring batches: schedules, their ticks, and the row sets that runs take their rows from. [`Recurring`] names the sum.
//!
//! As for the other ports each method is one atomic step, an `Ok` survives a power cut, and a record of another tenant is
//! [`StoreError::NotFound`](crate::StoreError::NotFound). A schedule, a tick and a row set are changed by whoever knows their version: of changes at
//! the same time one holds. After an unknown result the caller reads what stands there.

use async_trait::async_trait;
use promptmill_domain::{RowSetId, Schedule, ScheduleId, TenantId, Tick, UploadId};
use serde::{Deserialize, Serialize};

use crate::StoreResult;
use crate::store::RowBlock;

/// The tenants' schedules.
#[async_trait]
pub trait Schedules: Send + Sync {
    /// Keeps a schedule: a new one with version 1, or a change of one whose version is the one before. Answers whether it did.
    async fn put_schedule(&self, schedule: &Schedule) -> StoreResult<bool>;

    /// The tenant's schedule.
    async fn schedule(&self, tenant: &TenantId, id: ScheduleId) -> StoreResult<Schedule>;

    /// Schedules of the tenant by id, oldest first, those behind `after`, at most `limit`.
    async fn schedules(
        &self,
        tenant: &TenantId,
        after: Option<ScheduleId>,
        limit: u32,
    ) -> StoreResult<Vec<Schedule>>;

    /// How many the tenant has.
    async fn schedule_count(&self, tenant: &TenantId) -> StoreResult<u64>;

    /// Forgets a schedule and its ticks; answers whether it was there. Its batches stay.
    async fn delete_schedule(&self, tenant: &TenantId, id: ScheduleId) -> StoreResult<bool>;

    /// Schedules of every tenant that are to be looked at by then ([`Schedule::look_ms`]), earliest first, at most `limit`. One that cannot be read is left out.
    async fn schedules_due(&self, now_ms: u64, limit: u32) -> StoreResult<Vec<Schedule>>;
}

/// Where a list of open ticks goes on: behind this one.
pub type TickKey = (ScheduleId, u64);

/// The ticks of schedules.
#[async_trait]
pub trait Ticks: Send + Sync {
    /// Keeps new ticks, leaving out those that are there.
    async fn add_ticks(&self, ticks: &[Tick]) -> StoreResult<()>;

    /// Changes a tick whose version is the one before. Answers whether it did.
    async fn put_tick(&self, tick: &Tick) -> StoreResult<bool>;

    /// The tick of that time.
    async fn tick(&self, tenant: &TenantId, schedule: ScheduleId, at_ms: u64) -> StoreResult<Tick>;

    /// Ticks of a schedule, newest first, those before `before_ms`, at most `limit`; none of a schedule that is unknown or another tenant's.
    async fn ticks(
        &self,
        tenant: &TenantId,
        schedule: ScheduleId,
        before_ms: Option<u64>,
        limit: u32,
    ) -> StoreResult<Vec<Tick>>;

    /// Open ticks ([`TickState::is_open`](promptmill_domain::TickState::is_open)) of every tenant by schedule and time, those behind `after`, at most
    /// `limit`. One that cannot be read is left out.
    async fn open_ticks(&self, after: Option<TickKey>, limit: u32) -> StoreResult<Vec<Tick>>;

    /// Forgets ticks before that time that are not open, at most `limit`. Answers how many.
    async fn forget_ticks(&self, before_ms: u64, limit: u32) -> StoreResult<u32>;
}

/// Versions a row set may have at the same time.
pub const MOST_ROW_SET_VERSIONS: usize = 100;

/// Rows that are stored to be run again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowSet {
    /// Its id.
    pub id: RowSetId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What people call it; `None` of rows that came with a schedule, which lists leave out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its versions that are there, oldest first; at least one.
    pub versions: Vec<RowSetVersion>,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// Counts its changes, from 1.
    pub ver: u64,
}

/// What a row set was at some time. It never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowSetVersion {
    /// Which version, from 1; a number is given once.
    pub version: u32,
    /// The upload whose blocks, `0..blocks` without a gap, are its rows.
    pub upload: UploadId,
    /// How many blocks there are.
    pub blocks: u32,
    /// How many rows.
    pub rows: u64,
    /// Bytes of the blocks.
    pub bytes: u64,
    /// Digest of the rows, hexadecimal.
    pub digest: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// How the server named them that gave them, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// How a server named rows that it gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What was asked for: a digest of URL, headers and format.
    pub asked: String,
    /// Their entity tag (RFC 9110), as it was sent.
    pub etag: String,
}

impl RowSet {
    /// That version, or the newest.
    pub fn version(&self, version: Option<u32>) -> Option<&RowSetVersion> {
        match version {
            Some(version) => self.versions.iter().find(|one| one.version == version),
            None => self.versions.last(),
        }
    }

    /// Whether one of its versions is that upload.
    pub fn names(&self, upload: UploadId) -> bool {
        self.versions.iter().any(|version| version.upload == upload)
    }
}

/// The tenants' row sets. Their bytes count as stored by the tenant ([`Read::usage`](crate::Read::usage)).
#[async_trait]
pub trait RowSets: Send + Sync {
    /// Stores blocks of an upload of a set that may not be there yet; nobody sees them until a version is that upload. Repeating a block is a no-op. The
    /// upload counts as alive at `now_ms`.
    async fn put_set_blocks(
        &self,
        tenant: &TenantId,
        set: RowSetId,
        upload: UploadId,
        blocks: Vec<RowBlock>,
        now_ms: u64,
    ) -> StoreResult<()>;

    /// Keeps a row set: a new one with version 1, or a change of one whose version is the one before. Answers whether it did. Blocks of versions it does not
    /// have any more are removed, then or by the next [`drop_set_uploads`](Self::drop_set_uploads).
    ///
    /// # Errors
    /// `Conflict` when an upload that it names was dropped, or never had a block.
    async fn put_row_set(&self, set: &RowSet, now_ms: u64) -> StoreResult<bool>;

    /// The tenant's row set.
    async fn row_set(&self, tenant: &TenantId, id: RowSetId) -> StoreResult<RowSet>;

    /// Row sets of the tenant that have a name, by id, oldest first, those behind `after`, at most `limit`.
    async fn row_sets(
        &self,
        tenant: &TenantId,
        after: Option<RowSetId>,
        limit: u32,
    ) -> StoreResult<Vec<RowSet>>;

    /// Blocks of an upload of a set of the tenant, from number `from` on, as long as they have at most `bytes` together, at least one where it is there.
    async fn set_blocks(
        &self,
        tenant: &TenantId,
        set: RowSetId,
        upload: UploadId,
        from: u32,
        bytes: usize,
    ) -> StoreResult<Vec<RowBlock>>;

    /// Forgets a row set with all of its rows; answers whether it was there.
    async fn delete_row_set(&self, tenant: &TenantId, id: RowSetId) -> StoreResult<bool>;

    /// Removes uploads that no version is and that took no block since `before_ms`, about `limit` blocks of them. Answers how many blocks.
    async fn drop_set_uploads(&self, before_ms: u64, limit: u32) -> StoreResult<u32>;
}

/// Everything that recurring batches need of a store beside what batches do.
pub trait Recurring: Schedules + Ticks + RowSets {}

impl<T: Schedules + Ticks + RowSets> Recurring for T {}
