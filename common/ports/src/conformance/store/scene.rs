//! What the cases have in common: a tenant with a batch and a session, and short words for the usual steps.

use bytes::Bytes;
use promptmill_domain::chunk::ChunkCut;
use promptmill_domain::{
    BatchEvent, BatchId, BatchLimits, BatchSpec, ChunkId, FailureKind, ItemCode, LaneId, LeaseToken, Money,
    ParkedItem, Release, RowsRef, SessionId, SettledItem, TenantId, Tokens, Totals, UploadId,
};

use promptmill_domain::Counts;

use crate::{
    BatchFilter, BatchPage, Lease, NewBatch, OutcomePage, PageLimit, PartCommit, RowBlock, SettleGroup,
    Settled, Store, StoreError, StoreResult,
};

/// The time at which the scenes begin, Unix milliseconds.
pub(in crate::conformance) const NOW: u64 = 1_790_000_000_000;

/// A batch of a tenant of its own, and a living session.
pub(in crate::conformance) struct Scene<'a> {
    pub(in crate::conformance) store: &'a dyn Store,
    pub(in crate::conformance) tenant: TenantId,
    pub(in crate::conformance) batch: BatchId,
    pub(in crate::conformance) session: SessionId,
}

pub(in crate::conformance) fn fresh_batch() -> BatchId {
    BatchId::at(NOW, rand::random())
}

pub(in crate::conformance) fn fresh_session() -> SessionId {
    SessionId::at(NOW, rand::random())
}

pub(in crate::conformance) fn fresh_token() -> LeaseToken {
    LeaseToken::from_bytes(rand::random())
}

pub(in crate::conformance) fn fresh_upload() -> UploadId {
    UploadId::at(NOW, rand::random())
}

pub(in crate::conformance) fn fresh_tenant() -> TenantId {
    format!("tenant-{:016x}", rand::random::<u64>()).parse().unwrap()
}

pub(in crate::conformance) fn lane() -> LaneId {
    LaneId::new("demo", "none")
}

pub(in crate::conformance) fn new_batch(id: BatchId, idem_key: Option<&str>) -> NewBatch {
    let template = r#"{"name":"t","messages":[]}"#.to_owned();
    let spec = BatchSpec { max_attempts: 3, ..BatchSpec::new(template, "demo:any".parse().unwrap(), lane()) };
    let limits = BatchLimits { max_concurrency: Some(8), priority: 7, ..BatchLimits::default() };
    NewBatch { id, spec, limits, idem_key: idem_key.map(str::to_owned), now_ms: NOW }
}

pub(in crate::conformance) fn block(seq: u32, len: u32, text: &str) -> RowBlock {
    RowBlock { seq, len, bytes: Bytes::copy_from_slice(text.as_bytes()), ids: Bytes::new() }
}

pub(in crate::conformance) fn part(part: u32, upload: UploadId, blocks: u32) -> PartCommit {
    PartCommit { part, upload, blocks, digest: [u8::try_from(part % 256).unwrap(); 32] }
}

pub(in crate::conformance) fn spent(calls: u64) -> Totals {
    Totals {
        calls,
        tokens: Tokens { prompt: 10 * calls, completion: 3 * calls },
        cost: Money::from_pico(1_000 * calls),
        cached: 2 * calls,
    }
}

pub(in crate::conformance) fn parked(offset: u32, due_ms: u64) -> ParkedItem {
    let attempts = vec![promptmill_domain::Attempt::default()];
    ParkedItem {
        offset,
        due_ms,
        counted: 1,
        reason: FailureKind::RateLimited,
        begun_ms: NOW,
        attempts,
        cut: spent(1),
    }
}

pub(in crate::conformance) const fn ok(offset: u32) -> SettledItem {
    SettledItem { offset, code: ItemCode::Succeeded }
}

pub(in crate::conformance) const FAILED: ItemCode = ItemCode::Failed(FailureKind::InvalidOutput);

/// An empty group of the lease, its first.
pub(in crate::conformance) fn group(lease: &Lease) -> SettleGroup {
    SettleGroup {
        chunk: lease.head.chunk,
        token: lease.token,
        settled: Vec::new(),
        parked: Vec::new(),
        seq: 1,
        spent: Totals::default(),
        release: Release::Keep,
    }
}

/// A group that settles these offsets as succeeded, each with a body that tells the index.
pub(in crate::conformance) fn settling(lease: &Lease, offsets: impl IntoIterator<Item = u32>) -> SettleGroup {
    let settled = offsets.into_iter().map(|offset| (ok(offset), body(lease.head.base + offset))).collect();
    SettleGroup { settled, ..group(lease) }
}

/// The body that [`settling`] stores for an item.
pub(in crate::conformance) fn body(index: u32) -> Bytes {
    format!("body of {index}").into()
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "a result is checked where it is made")]
pub(in crate::conformance) fn check_conflict<T: std::fmt::Debug>(result: StoreResult<T>) {
    assert!(matches!(result, Err(StoreError::Conflict(_))), "expected a conflict, got {result:?}");
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "a result is checked where it is made")]
pub(in crate::conformance) fn check_not_found<T: std::fmt::Debug>(result: StoreResult<T>) {
    assert!(matches!(result, Err(StoreError::NotFound)), "expected not found, got {result:?}");
}

pub(in crate::conformance) async fn check_no_batches(store: &dyn Store, tenant: &TenantId) {
    let all = store.batches(tenant, &BatchFilter::default(), None, PageLimit::items(10)).await.unwrap();
    assert_eq!(all, BatchPage::default());
}

impl<'a> Scene<'a> {
    /// A draft without rows.
    pub(in crate::conformance) async fn draft(store: &'a dyn Store) -> Self {
        Self::draft_of(store, fresh_tenant()).await
    }

    /// A draft of a given tenant.
    pub(in crate::conformance) async fn draft_of(store: &'a dyn Store, tenant: TenantId) -> Self {
        Self::of(store, tenant, new_batch(fresh_batch(), None)).await
    }

    /// A draft as given.
    pub(in crate::conformance) async fn of(store: &'a dyn Store, tenant: TenantId, new: NewBatch) -> Self {
        let (batch, session) = (new.id, fresh_session());
        store.create(&tenant, new).await.unwrap();
        store.open(session, "worker on host-1").await.unwrap();
        Self { store, tenant, batch, session }
    }

    /// A queued batch with chunks of these lengths, all rows in one block.
    pub(in crate::conformance) async fn queued(store: &'a dyn Store, lens: &[u32]) -> Self {
        let scene = Self::draft(store).await;
        scene.queue(lens, NOW).await;
        scene
    }

    /// The same with every chunk ready.
    pub(in crate::conformance) async fn ready(store: &'a dyn Store, lens: &[u32]) -> Self {
        let scene = Self::queued(store, lens).await;
        scene.admit_all(lens).await;
        scene
    }

    /// Makes the draft a queued batch with chunks of these lengths.
    pub(in crate::conformance) async fn queue(&self, lens: &[u32], now_ms: u64) {
        let (tenant, batch) = (&self.tenant, self.batch);
        let (upload, cuts) = self.upload(lens).await;
        self.store.commit_part(tenant, batch, part(0, upload, 1)).await.unwrap();
        self.store.begin_submit(tenant, batch).await.unwrap();
        self.store.put_heads(tenant, batch, &lane(), &cuts).await.unwrap();
        let (chunks, total) = (u32::try_from(lens.len()).unwrap(), lens.iter().sum());
        self.store.finish_submit(tenant, batch, chunks, total, now_ms).await.unwrap();
    }

    /// Lets every chunk run.
    pub(in crate::conformance) async fn admit_all(&self, lens: &[u32]) {
        let chunks: Vec<_> = (0..u32::try_from(lens.len()).unwrap()).map(|n| self.chunk(n)).collect();
        assert_eq!(self.store.admit(&chunks, NOW).await.unwrap(), chunks);
    }

    /// Cancels the batch and closes it.
    pub(in crate::conformance) async fn end(&self, now_ms: u64) {
        let (tenant, batch) = (&self.tenant, self.batch);
        self.store.steer(tenant, batch, BatchEvent::Cancel, now_ms).await.unwrap();
        while self.store.seal(tenant, batch, 1_000, now_ms).await.unwrap() > 0 {}
        self.store.close(tenant, batch, now_ms).await.unwrap().unwrap();
    }

    /// Deletes the batch, all of it.
    pub(in crate::conformance) async fn delete(&self) {
        let mut steps = 0;
        while !self.store.delete(&self.tenant, self.batch).await.unwrap() {
            steps += 1;
            assert!(steps < 1_000, "deleting makes no progress");
        }
    }

    /// Stores one block for chunks of these lengths, and answers the cuts that make them.
    pub(in crate::conformance) async fn upload(&self, lens: &[u32]) -> (UploadId, Vec<ChunkCut>) {
        let upload = fresh_upload();
        let block = block(0, lens.iter().sum(), "the rows");
        self.store.put_rows(&self.tenant, self.batch, upload, vec![block], NOW).await.unwrap();
        let mut base = 0;
        let cuts = lens.iter().zip(0u32..).map(|(&len, n)| {
            let cut = ChunkCut { n, rows: RowsRef { upload, seq: 0, skip: base }, base, len };
            base += len;
            cut
        });
        (upload, cuts.collect())
    }

    pub(in crate::conformance) fn chunk(&self, n: u32) -> ChunkId {
        ChunkId { batch: self.batch, n }
    }

    /// Claims a chunk that must be ready.
    pub(in crate::conformance) async fn lease(&self, n: u32) -> Lease {
        let mut leases = self.claim(n).await;
        assert_eq!(leases.len(), 1, "chunk {n} is not to be had");
        leases.remove(0)
    }

    /// Tries to claim a chunk.
    pub(in crate::conformance) async fn claim(&self, n: u32) -> Vec<Lease> {
        let leases = self.store.claim(self.session, &[(self.chunk(n), fresh_token())], NOW).await.unwrap();
        for known in leases.iter().filter_map(|lease| lease.batch.as_ref()) {
            assert_eq!(&self.store.assignments(&[self.batch]).await.unwrap()[0], known);
        }
        leases
    }

    /// Settles one group, and gives what it settled its place in the order.
    pub(in crate::conformance) async fn settle(&self, group: SettleGroup) -> Settled {
        let settled = self.store.settle([group].into(), NOW).await.unwrap();
        self.store.order().await.unwrap();
        assert_eq!(settled.len(), 1);
        settled[0]
    }

    pub(in crate::conformance) async fn counts(&self) -> Counts {
        self.store.progress(&self.tenant, self.batch).await.unwrap().counts
    }

    /// Every outcome of the batch on one page.
    pub(in crate::conformance) async fn outcomes(&self) -> OutcomePage {
        let limit = PageLimit { items: u32::MAX, bytes: usize::MAX };
        let page = self.store.outcomes(&self.tenant, self.batch, 0, limit).await.unwrap();
        assert_eq!(page.next, None);
        page
    }
}
