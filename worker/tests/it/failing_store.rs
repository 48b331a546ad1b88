//! A store around SQLite that fails where the test says: before the step, after it, or with a refusal.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::chunk::{ChunkCut, FrozenPart};
use promptmill_domain::{
    Batch, BatchEvent, BatchId, BatchLimits, BatchState, Budget, BudgetScope, ChunkId, Counts, Event,
    EventId, LaneId, LeaseToken, SessionId, TenantId, UploadId, WorkerReport,
};
use promptmill_ports::{
    Accepted, Admission, Assignment, BatchFilter, BatchPage, BeatAnswer, BlockIds, BlockRow, BudgetRecord,
    Budgets, Close, Control, Created, Intake, LaneRecord, Lanes, Lease, NewBatch, Outbox, OutcomePage,
    Outlived, PageLimit, Part, PartCommit, Progress, Read, Replies, ReplyKey, Retention, RowBlock, Rows,
    SessionBeat, Sessions, SettleGroup, Settled, SettledCursor, SettledPage, StoreError, StoreResult, Usage,
    WholeBatch, Work,
};
use promptmill_store_sqlite::SqliteStore;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Works,
    /// Nothing happens, and the store is away.
    FailsBefore,
    /// The step happens, and the answer is lost.
    FailsAfter,
    /// Nothing happens if the call has several groups: as if one of them were damaged.
    RefusesSeveral,
}

pub(crate) struct FailingStore {
    inner: Arc<SqliteStore>,
    fate: Box<dyn Fn(&str) -> Fate + Send + Sync>,
}

impl FailingStore {
    /// `fate` is asked with the name of every method that is called.
    pub(crate) fn new(inner: Arc<SqliteStore>, fate: impl Fn(&str) -> Fate + Send + Sync + 'static) -> Self {
        Self { inner, fate: Box::new(fate) }
    }

    async fn fated<T>(&self, method: &str, step: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
        match (self.fate)(method) {
            Fate::Works | Fate::RefusesSeveral => step.await,
            Fate::FailsBefore => Err(away()),
            Fate::FailsAfter => step.await.and(Err(away())),
        }
    }
}

fn away() -> StoreError {
    StoreError::unavailable("the store was told to fail")
}

#[async_trait]
impl Intake for FailingStore {
    async fn create(&self, tenant: &TenantId, batch: NewBatch) -> StoreResult<Created> {
        self.fated("create", self.inner.create(tenant, batch)).await
    }

    async fn accept(&self, tenant: &TenantId, whole: WholeBatch) -> StoreResult<Accepted> {
        self.fated("accept", self.inner.accept(tenant, whole)).await
    }

    async fn put_rows(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        upload: UploadId,
        blocks: Vec<RowBlock>,
        now_ms: u64,
    ) -> StoreResult<()> {
        self.fated("put_rows", self.inner.put_rows(tenant, batch, upload, blocks, now_ms)).await
    }

    async fn drop_upload(&self, tenant: &TenantId, batch: BatchId, upload: UploadId) -> StoreResult<()> {
        self.fated("drop_upload", self.inner.drop_upload(tenant, batch, upload)).await
    }

    async fn commit_part(&self, tenant: &TenantId, batch: BatchId, part: PartCommit) -> StoreResult<()> {
        self.fated("commit_part", self.inner.commit_part(tenant, batch, part)).await
    }

    async fn begin_submit(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Vec<FrozenPart>> {
        self.fated("begin_submit", self.inner.begin_submit(tenant, batch)).await
    }

    async fn put_heads(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        lane: &LaneId,
        cuts: &[ChunkCut],
    ) -> StoreResult<()> {
        self.fated("put_heads", self.inner.put_heads(tenant, batch, lane, cuts)).await
    }

    async fn finish_submit(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        chunks: u32,
        total: u32,
        now_ms: u64,
    ) -> StoreResult<()> {
        self.fated("finish_submit", self.inner.finish_submit(tenant, batch, chunks, total, now_ms)).await
    }
}

#[async_trait]
impl Work for FailingStore {
    async fn assignments(&self, batches: &[BatchId]) -> StoreResult<Vec<Assignment>> {
        self.fated("assignments", self.inner.assignments(batches)).await
    }

    async fn settle(&self, groups: Arc<[SettleGroup]>, now_ms: u64) -> StoreResult<Vec<Settled>> {
        match (self.fate)("settle") {
            Fate::RefusesSeveral if groups.len() > 1 => Err(StoreError::Corrupt("a head".to_owned())),
            Fate::Works | Fate::RefusesSeveral => self.inner.settle(groups, now_ms).await,
            Fate::FailsBefore => Err(away()),
            Fate::FailsAfter => self.inner.settle(groups, now_ms).await.and(Err(away())),
        }
    }

    async fn order(&self) -> StoreResult<()> {
        self.fated("order", self.inner.order()).await
    }

    async fn claim(
        &self,
        owner: SessionId,
        chunks: &[(ChunkId, LeaseToken)],
        now_ms: u64,
    ) -> StoreResult<Vec<Lease>> {
        self.fated("claim", self.inner.claim(owner, chunks, now_ms)).await
    }

    async fn try_item(
        &self,
        chunk: ChunkId,
        token: LeaseToken,
        offset: u32,
        now_ms: u64,
    ) -> StoreResult<bool> {
        self.fated("try_item", self.inner.try_item(chunk, token, offset, now_ms)).await
    }
}

#[async_trait]
impl Sessions for FailingStore {
    async fn open(&self, session: SessionId, label: &str) -> StoreResult<()> {
        self.fated("open", self.inner.open(session, label)).await
    }

    async fn beat(
        &self,
        session: SessionId,
        beat: u64,
        report: Option<&WorkerReport>,
    ) -> StoreResult<BeatAnswer> {
        self.fated("beat", self.inner.beat(session, beat, report)).await
    }

    async fn sessions(&self) -> StoreResult<Vec<SessionBeat>> {
        self.fated("sessions", self.inner.sessions()).await
    }

    async fn bury(&self, session: SessionId, beat: u64, now_ms: u64) -> StoreResult<Option<u32>> {
        self.fated("bury", self.inner.bury(session, beat, now_ms)).await
    }

    async fn end(&self, session: SessionId, now_ms: u64) -> StoreResult<u32> {
        self.fated("end", self.inner.end(session, now_ms)).await
    }
}

#[async_trait]
impl Admission for FailingStore {
    async fn open_batches(&self) -> StoreResult<Vec<Batch>> {
        self.fated("open_batches", self.inner.open_batches()).await
    }

    async fn open_among(&self, batches: &[BatchId]) -> StoreResult<Vec<Batch>> {
        self.fated("open_among", self.inner.open_among(batches)).await
    }

    async fn waiting(&self, batch: BatchId, limit: u32) -> StoreResult<Vec<ChunkId>> {
        self.fated("waiting", self.inner.waiting(batch, limit)).await
    }

    async fn admit(&self, chunks: &[ChunkId], now_ms: u64) -> StoreResult<Vec<ChunkId>> {
        self.fated("admit", self.inner.admit(chunks, now_ms)).await
    }

    async fn wake(&self, limit: u32, now_ms: u64) -> StoreResult<Vec<ChunkId>> {
        self.fated("wake", self.inner.wake(limit, now_ms)).await
    }

    async fn ready(&self, after: Option<ChunkId>, limit: u32) -> StoreResult<Vec<ChunkId>> {
        self.fated("ready", self.inner.ready(after, limit)).await
    }
}

#[async_trait]
impl Close for FailingStore {
    async fn seal(&self, tenant: &TenantId, batch: BatchId, limit: u32, now_ms: u64) -> StoreResult<u32> {
        self.fated("seal", self.inner.seal(tenant, batch, limit, now_ms)).await
    }

    async fn close(&self, tenant: &TenantId, batch: BatchId, now_ms: u64) -> StoreResult<Option<Counts>> {
        self.fated("close", self.inner.close(tenant, batch, now_ms)).await
    }

    async fn delete(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<bool> {
        self.fated("delete", self.inner.delete(tenant, batch)).await
    }
}

#[async_trait]
impl Control for FailingStore {
    async fn steer(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        event: BatchEvent,
        now_ms: u64,
    ) -> StoreResult<BatchState> {
        self.fated("steer", self.inner.steer(tenant, batch, event, now_ms)).await
    }

    async fn set_limits(&self, tenant: &TenantId, batch: BatchId, limits: BatchLimits) -> StoreResult<()> {
        self.fated("set_limits", self.inner.set_limits(tenant, batch, limits)).await
    }
}

#[async_trait]
impl Read for FailingStore {
    async fn batch(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Batch> {
        self.fated("batch", self.inner.batch(tenant, batch)).await
    }

    async fn progress(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Progress> {
        self.fated("progress", self.inner.progress(tenant, batch)).await
    }

    async fn outcomes(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        from: u32,
        limit: PageLimit,
    ) -> StoreResult<OutcomePage> {
        self.fated("outcomes", self.inner.outcomes(tenant, batch, from, limit)).await
    }

    async fn rows(&self, tenant: &TenantId, batch: BatchId, index: u32) -> StoreResult<BlockRow> {
        self.fated("rows", self.inner.rows(tenant, batch, index)).await
    }

    async fn settled(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        after: SettledCursor,
        limit: PageLimit,
    ) -> StoreResult<SettledPage> {
        self.fated("settled", self.inner.settled(tenant, batch, after, limit)).await
    }

    async fn batches(
        &self,
        tenant: &TenantId,
        filter: &BatchFilter,
        before: Option<BatchId>,
        limit: PageLimit,
    ) -> StoreResult<BatchPage> {
        self.fated("batches", self.inner.batches(tenant, filter, before, limit)).await
    }

    async fn usage(&self, tenant: &TenantId, now_ms: u64) -> StoreResult<Usage> {
        self.fated("usage", self.inner.usage(tenant, now_ms)).await
    }

    async fn changes(&self) -> StoreResult<u64> {
        self.fated("changes", self.inner.changes()).await
    }
}

#[async_trait]
impl Rows for FailingStore {
    async fn parts(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Vec<Part>> {
        self.fated("parts", self.inner.parts(tenant, batch)).await
    }

    async fn block_ids(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        after: Option<(u32, u32)>,
        limit: u32,
    ) -> StoreResult<Vec<BlockIds>> {
        self.fated("block_ids", self.inner.block_ids(tenant, batch, after, limit)).await
    }

    async fn block(&self, tenant: &TenantId, batch: BatchId, part: u32, seq: u32) -> StoreResult<Bytes> {
        self.fated("block", self.inner.block(tenant, batch, part, seq)).await
    }
}

#[async_trait]
impl Budgets for FailingStore {
    async fn budget(&self, scope: &BudgetScope) -> StoreResult<BudgetRecord> {
        self.inner.budget(scope).await
    }

    async fn put_budget(
        &self,
        scope: &BudgetScope,
        ver: u64,
        budget: &Budget,
        now_ms: u64,
    ) -> StoreResult<bool> {
        self.inner.put_budget(scope, ver, budget, now_ms).await
    }

    async fn open_budgets(&self, after: Option<&BudgetScope>, limit: u32) -> StoreResult<Vec<BudgetScope>> {
        self.inner.open_budgets(after, limit).await
    }

    async fn forget_budgets(&self, before_ms: u64) -> StoreResult<u32> {
        self.inner.forget_budgets(before_ms).await
    }
}

#[async_trait]
impl Replies for FailingStore {
    async fn replies(&self, keys: &[ReplyKey]) -> StoreResult<Vec<Option<Bytes>>> {
        self.fated("replies", self.inner.replies(keys)).await
    }

    async fn keep_replies(&self, replies: Vec<(ReplyKey, Bytes)>, now_ms: u64) -> StoreResult<()> {
        self.fated("keep_replies", self.inner.keep_replies(replies, now_ms)).await
    }

    async fn forget_replies(&self, which: &Outlived) -> StoreResult<u32> {
        self.inner.forget_replies(which).await
    }
}

#[async_trait]
impl Lanes for FailingStore {
    async fn lanes(&self) -> StoreResult<Vec<LaneRecord>> {
        self.inner.lanes().await
    }

    async fn keep_lanes(&self, lanes: &[LaneRecord]) -> StoreResult<()> {
        self.inner.keep_lanes(lanes).await
    }
}

#[async_trait]
impl Retention for FailingStore {
    async fn drop_stale_uploads(&self, before_ms: u64) -> StoreResult<u32> {
        self.fated("drop_stale_uploads", self.inner.drop_stale_uploads(before_ms)).await
    }

    async fn outlived(
        &self,
        now_ms: u64,
        default_ms: u64,
        drafts_before_ms: u64,
        limit: u32,
    ) -> StoreResult<Vec<(TenantId, BatchId)>> {
        self.fated("outlived", self.inner.outlived(now_ms, default_ms, drafts_before_ms, limit)).await
    }

    async fn has_room(&self) -> StoreResult<bool> {
        self.fated("has_room", self.inner.has_room()).await
    }
}

#[async_trait]
impl Outbox for FailingStore {
    async fn pending(&self, limit: u32) -> StoreResult<Vec<Event>> {
        self.fated("pending", self.inner.pending(limit)).await
    }

    async fn batches_told_of(&self, batches: &[BatchId]) -> StoreResult<Vec<Batch>> {
        self.fated("batches_told_of", self.inner.batches_told_of(batches)).await
    }

    async fn handed_on(&self, events: &[EventId]) -> StoreResult<()> {
        self.fated("handed_on", self.inner.handed_on(events)).await
    }
}
