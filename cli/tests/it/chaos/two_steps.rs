//! A store that keeps bodies of outcomes apart from the heads, in two steps, as a store of documents does; each worker has a line to it
//! of its own, which can be cut at any place. And three ways of building it wrong.
//!
//! The product's stores are left as they are: everything but the bodies is SQLite's or MongoDB's, behind the same ports that the real worker
//! and the real scheduler use. What a mutation breaks is broken here and nowhere else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::chunk::{ChunkCut, FrozenPart};
use promptmill_domain::{
    Batch, BatchEvent, BatchId, BatchLimits, BatchState, Budget, BudgetScope, ChunkId, Counts, Event,
    EventId, ItemCode, LaneId, LeaseToken, SessionId, TenantId, UploadId, WorkerReport,
};
use promptmill_ports::{
    Accepted, Admission, Assignment, BatchFilter, BatchPage, BeatAnswer, BlockIds, BlockRow, BudgetRecord,
    Budgets, Close, Control, Created, Intake, LaneRecord, Lanes, Lease, NewBatch, Outbox, OutcomePage,
    Outlived, PageLimit, Part, PartCommit, Progress, Read, Replies, ReplyKey, Retention, RowBlock, Rows,
    SessionBeat, Sessions, SettleGroup, Settled, SettledCursor, SettledPage, Store, StoreError, StoreResult,
    StoredOutcome, Usage, WholeBatch, Work,
};
use tokio::sync::{Semaphore, watch};

/// How the store is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// Right: the body first, under a key that derives from the item; the head's byte under the lease's token.
    None,
    /// Whoever settles is taken for the holder of the lease.
    TokenIgnored,
    /// A body's key is drawn anew at every write.
    RandomKey,
    /// The head's byte is written before the body.
    ByteBeforeBody,
}

/// An item, and what else is in the key of its body.
type Key = (BatchId, u32, u64);

/// What all lines lead to, beside the store.
pub(crate) struct Shared {
    mutation: Mutation,
    bodies: Mutex<Vec<(Key, ItemCode, Bytes)>>,
    /// Bases of the chunks and the newest token of each.
    leases: Mutex<HashMap<ChunkId, (u32, LeaseToken)>>,
}

impl Shared {
    pub(crate) fn new(mutation: Mutation) -> Arc<Self> {
        Arc::new(Self { mutation, bodies: Mutex::default(), leases: Mutex::default() })
    }

    /// Stores a body unless its key is there, and answers the code of the one that is.
    fn put_body(&self, batch: BatchId, index: u32, code: ItemCode, body: &Bytes) -> ItemCode {
        let nonce = if self.mutation == Mutation::RandomKey { rand::random() } else { 0 };
        let key = (batch, index, nonce);
        let mut bodies = self.bodies.lock().unwrap();
        if let Some((_, stored, _)) = bodies.iter().find(|(known, ..)| *known == key) {
            return *stored;
        }
        bodies.push((key, code, body.clone()));
        code
    }
}

/// One process's line to the store.
pub(crate) struct Line {
    inner: Arc<dyn Store>,
    shared: Arc<Shared>,
    /// Every this many settles the answer is lost; 0 never.
    pub(crate) loses_answers: u64,
    /// The settle in the midst of which the process dies; 0 never.
    pub(crate) dies_at: u64,
    /// Settles that were begun.
    pub(crate) settles: AtomicU64,
    /// Leave to settle, for each call.
    pub(crate) settle_permits: Semaphore,
    cut: watch::Sender<bool>,
    /// Settles that were answered.
    pub(crate) answered: AtomicU64,
    pub(crate) died: AtomicBool,
}

impl Line {
    pub(crate) fn new(inner: Arc<dyn Store>, shared: &Arc<Shared>) -> Self {
        Self {
            inner,
            shared: Arc::clone(shared),
            loses_answers: 0,
            dies_at: 0,
            settles: AtomicU64::new(0),
            settle_permits: Semaphore::new(Semaphore::MAX_PERMITS),
            cut: watch::Sender::new(false),
            answered: AtomicU64::new(0),
            died: AtomicBool::new(false),
        }
    }

    /// Nothing passes any more but settles that have leave.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }

    async fn passes(&self) {
        let _ = self.cut.subscribe().wait_for(|cut| !cut).await;
    }

    /// The process dies here.
    async fn die(&self) {
        self.cut(true);
        self.died.store(true, Ordering::SeqCst);
        std::future::pending().await
    }

    fn put_bodies(&self, base: u32, group: &mut SettleGroup) {
        for (item, body) in &mut group.settled {
            item.code = self.shared.put_body(group.chunk.batch, base + item.offset, item.code, body);
        }
    }
}

#[async_trait]
impl Work for Line {
    async fn claim(
        &self,
        owner: SessionId,
        chunks: &[(ChunkId, LeaseToken)],
        now_ms: u64,
    ) -> StoreResult<Vec<Lease>> {
        self.passes().await;
        let leases = self.inner.claim(owner, chunks, now_ms).await?;
        let mut known = self.shared.leases.lock().unwrap();
        for lease in &leases {
            known.insert(lease.head.chunk, (lease.head.base, lease.token));
        }
        Ok(leases)
    }

    async fn assignments(&self, batches: &[BatchId]) -> StoreResult<Vec<Assignment>> {
        self.passes().await;
        self.inner.assignments(batches).await
    }

    async fn order(&self) -> StoreResult<()> {
        self.inner.order().await
    }

    async fn settle(&self, groups: Arc<[SettleGroup]>, now_ms: u64) -> StoreResult<Vec<Settled>> {
        self.settle_permits.acquire().await.unwrap().forget();
        let nth = self.settles.fetch_add(1, Ordering::SeqCst) + 1;
        let dies = nth == self.dies_at;
        let mut results = Vec::new();
        for mut group in groups.iter().cloned() {
            let (base, newest) = self.shared.leases.lock().unwrap()[&group.chunk];
            if self.shared.mutation == Mutation::TokenIgnored {
                group.token = newest;
            }
            let byte_first = self.shared.mutation == Mutation::ByteBeforeBody;
            if !byte_first {
                self.put_bodies(base, &mut group);
                if dies {
                    self.die().await;
                }
            }
            let result = self.inner.settle([group.clone()].into(), now_ms).await?.remove(0);
            if byte_first {
                if dies {
                    self.die().await;
                }
                if result != Settled::Fenced {
                    self.put_bodies(base, &mut group);
                }
            }
            results.push(result);
        }
        self.answered.fetch_add(1, Ordering::SeqCst);
        if self.loses_answers > 0 && nth.is_multiple_of(self.loses_answers) {
            return Err(StoreError::unavailable("the answer was lost"));
        }
        Ok(results)
    }

    async fn try_item(
        &self,
        chunk: ChunkId,
        token: LeaseToken,
        offset: u32,
        now_ms: u64,
    ) -> StoreResult<bool> {
        self.passes().await;
        self.inner.try_item(chunk, token, offset, now_ms).await
    }
}

/// Ports whose methods pass as they are while the line is whole.
macro_rules! passes {
    ($($port:ident { $(fn $method:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)* })*) => {$(
        #[async_trait]
        impl $port for Line {
            $(async fn $method(&self, $($arg: $kind),*) -> StoreResult<$answer> {
                self.passes().await;
                self.inner.$method($($arg),*).await
            })*
        }
    )*};
}

passes! {
    Intake {
        fn create(tenant: &TenantId, batch: NewBatch) -> Created;
        fn accept(tenant: &TenantId, whole: WholeBatch) -> Accepted;
        fn put_rows(tenant: &TenantId, batch: BatchId, upload: UploadId, blocks: Vec<RowBlock>, now_ms: u64) -> ();
        fn drop_upload(tenant: &TenantId, batch: BatchId, upload: UploadId) -> ();
        fn commit_part(tenant: &TenantId, batch: BatchId, part: PartCommit) -> ();
        fn begin_submit(tenant: &TenantId, batch: BatchId) -> Vec<FrozenPart>;
        fn put_heads(tenant: &TenantId, batch: BatchId, lane: &LaneId, cuts: &[ChunkCut]) -> ();
        fn finish_submit(tenant: &TenantId, batch: BatchId, chunks: u32, total: u32, now_ms: u64) -> ();
    }
    Sessions {
        fn open(session: SessionId, label: &str) -> ();
        fn beat(session: SessionId, beat: u64, report: Option<&WorkerReport>) -> BeatAnswer;
        fn sessions() -> Vec<SessionBeat>;
        fn bury(session: SessionId, beat: u64, now_ms: u64) -> Option<u32>;
        fn end(session: SessionId, now_ms: u64) -> u32;
    }
    Admission {
        fn open_batches() -> Vec<Batch>;
        fn open_among(batches: &[BatchId]) -> Vec<Batch>;
        fn waiting(batch: BatchId, limit: u32) -> Vec<ChunkId>;
        fn admit(chunks: &[ChunkId], now_ms: u64) -> Vec<ChunkId>;
        fn wake(limit: u32, now_ms: u64) -> Vec<ChunkId>;
        fn ready(after: Option<ChunkId>, limit: u32) -> Vec<ChunkId>;
    }
    Close {
        fn seal(tenant: &TenantId, batch: BatchId, limit: u32, now_ms: u64) -> u32;
        fn close(tenant: &TenantId, batch: BatchId, now_ms: u64) -> Option<Counts>;
        fn delete(tenant: &TenantId, batch: BatchId) -> bool;
    }
    Control {
        fn steer(tenant: &TenantId, batch: BatchId, event: BatchEvent, now_ms: u64) -> BatchState;
        fn set_limits(tenant: &TenantId, batch: BatchId, limits: BatchLimits) -> ();
    }
    Rows {
        fn parts(tenant: &TenantId, batch: BatchId) -> Vec<Part>;
        fn block_ids(tenant: &TenantId, batch: BatchId, after: Option<(u32, u32)>, limit: u32) -> Vec<BlockIds>;
        fn block(tenant: &TenantId, batch: BatchId, part: u32, seq: u32) -> Bytes;
    }
    Retention {
        fn drop_stale_uploads(before_ms: u64) -> u32;
        fn outlived(now_ms: u64, default_ms: u64, drafts_before_ms: u64, limit: u32) -> Vec<(TenantId, BatchId)>;
        fn has_room() -> bool;
    }
    Outbox {
        fn pending(limit: u32) -> Vec<Event>;
        fn batches_told_of(batches: &[BatchId]) -> Vec<Batch>;
        fn handed_on(events: &[EventId]) -> ();
    }
    Budgets {
        fn budget(scope: &BudgetScope) -> BudgetRecord;
        fn put_budget(scope: &BudgetScope, ver: u64, budget: &Budget, now_ms: u64) -> bool;
        fn open_budgets(after: Option<&BudgetScope>, limit: u32) -> Vec<BudgetScope>;
        fn forget_budgets(before_ms: u64) -> u32;
    }
    Replies {
        fn replies(keys: &[ReplyKey]) -> Vec<Option<Bytes>>;
        fn keep_replies(replies: Vec<(ReplyKey, Bytes)>, now_ms: u64) -> ();
        fn forget_replies(which: &Outlived) -> u32;
    }
    Lanes {
        fn lanes() -> Vec<LaneRecord>;
        fn keep_lanes(lanes: &[LaneRecord]) -> ();
    }
}

#[async_trait]
impl Read for Line {
    async fn batch(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Batch> {
        self.passes().await;
        self.inner.batch(tenant, batch).await
    }

    async fn progress(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Progress> {
        self.passes().await;
        self.inner.progress(tenant, batch).await
    }

    /// The bodies of the items whose byte is set: as many as the store has under their keys.
    async fn outcomes(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        from: u32,
        limit: PageLimit,
    ) -> StoreResult<OutcomePage> {
        self.passes().await;
        let named = self.inner.outcomes(tenant, batch, from, limit).await?;
        let bodies = self.shared.bodies.lock().unwrap();
        let mut outcomes = Vec::new();
        for StoredOutcome { index, .. } in named.outcomes {
            let of_item = bodies.iter().filter(|((of, item, _), ..)| (*of, *item) == (batch, index));
            outcomes.extend(of_item.map(|(_, code, body)| StoredOutcome {
                index,
                code: *code,
                body: Some(body.clone()),
            }));
        }
        Ok(OutcomePage { outcomes, next: named.next })
    }

    async fn rows(&self, tenant: &TenantId, batch: BatchId, index: u32) -> StoreResult<BlockRow> {
        self.passes().await;
        self.inner.rows(tenant, batch, index).await
    }

    async fn settled(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        after: SettledCursor,
        limit: PageLimit,
    ) -> StoreResult<SettledPage> {
        self.passes().await;
        self.inner.settled(tenant, batch, after, limit).await
    }

    async fn batches(
        &self,
        tenant: &TenantId,
        filter: &BatchFilter,
        before: Option<BatchId>,
        limit: PageLimit,
    ) -> StoreResult<BatchPage> {
        self.passes().await;
        self.inner.batches(tenant, filter, before, limit).await
    }

    async fn usage(&self, tenant: &TenantId, now_ms: u64) -> StoreResult<Usage> {
        self.passes().await;
        self.inner.usage(tenant, now_ms).await
    }

    async fn changes(&self) -> StoreResult<u64> {
        self.passes().await;
        self.inner.changes().await
    }
}
