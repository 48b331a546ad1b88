//! What the cases have in common: a tenant with a batch and a session, and short words for the usual steps.

use bytes::Bytes;
use promptmill_domain::chunk::ChunkCut;
use promptmill_domain::{
    BatchId, BatchLimits, BatchSpec, ChunkId, FailureKind, ItemCode, LaneId, LeaseToken, Money, ParkedItem,
    Release, RowsRef, SessionId, SettledItem, TenantId, Tokens, Totals, UploadId,
};

use promptmill_domain::Counts;

use crate::{
    Lease, NewBatch, OutcomePage, PageLimit, PartCommit, RowBlock, SettleGroup, Settled, Store, StoreError,
    StoreResult,
};

/// The time at which the scenes begin, Unix milliseconds.
pub(super) const NOW: u64 = 1_790_000_000_000;

/// A batch of a tenant of its own, and a living session.
pub(super) struct Scene<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) tenant: TenantId,
    pub(super) batch: BatchId,
    pub(super) session: SessionId,
}

pub(super) fn fresh_batch() -> BatchId {
    BatchId::at(NOW, rand::random())
}

pub(super) fn fresh_session() -> SessionId {
    SessionId::at(NOW, rand::random())
}

pub(super) fn fresh_token() -> LeaseToken {
    LeaseToken::from_bytes(rand::random())
}

pub(super) fn fresh_upload() -> UploadId {
    UploadId::at(NOW, rand::random())
}

pub(super) fn fresh_tenant() -> TenantId {
    format!("tenant-{:016x}", rand::random::<u64>()).parse().unwrap()
}

pub(super) fn lane() -> LaneId {
    LaneId::new("demo", "none")
}

pub(super) fn new_batch(id: BatchId, idem_key: Option<&str>) -> NewBatch {
    let spec = BatchSpec {
        template: r#"{"name":"t","messages":[]}"#.to_owned(),
        model: "demo:any".parse().unwrap(),
        settings: promptmill_domain::ModelSettings::default(),
        max_attempts: 3,
        priority: 7,
    };
    let limits = BatchLimits { max_concurrency: Some(8), max_cost: None, ..BatchLimits::default() };
    NewBatch { id, spec, limits, idem_key: idem_key.map(str::to_owned), now_ms: NOW }
}

pub(super) fn block(seq: u32, len: u32, text: &str) -> RowBlock {
    RowBlock { seq, len, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

pub(super) fn part(part: u32, upload: UploadId, blocks: u32) -> PartCommit {
    PartCommit { part, upload, blocks, digest: [u8::try_from(part % 256).unwrap(); 32] }
}

pub(super) fn spent(calls: u64) -> Totals {
    Totals {
        calls,
        tokens: Tokens { prompt: 10 * calls, completion: 3 * calls },
        cost: Money::from_pico(1_000 * calls),
    }
}

pub(super) fn parked(offset: u32, due_ms: u64) -> ParkedItem {
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

pub(super) const fn ok(offset: u32) -> SettledItem {
    SettledItem { offset, code: ItemCode::Succeeded }
}

pub(super) const FAILED: ItemCode = ItemCode::Failed(FailureKind::InvalidOutput);

/// An empty group of the lease, its first.
pub(super) fn group(lease: &Lease) -> SettleGroup {
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
pub(super) fn settling(lease: &Lease, offsets: impl IntoIterator<Item = u32>) -> SettleGroup {
    let settled = offsets.into_iter().map(|offset| (ok(offset), body(lease.head.base + offset))).collect();
    SettleGroup { settled, ..group(lease) }
}

/// The body that [`settling`] stores for an item.
pub(super) fn body(index: u32) -> Bytes {
    format!("body of {index}").into()
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "a result is checked where it is made")]
pub(super) fn check_conflict<T: std::fmt::Debug>(result: StoreResult<T>) {
    assert!(matches!(result, Err(StoreError::Conflict(_))), "expected a conflict, got {result:?}");
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "a result is checked where it is made")]
pub(super) fn check_not_found<T: std::fmt::Debug>(result: StoreResult<T>) {
    assert!(matches!(result, Err(StoreError::NotFound)), "expected not found, got {result:?}");
}

impl<'a> Scene<'a> {
    /// A draft without rows.
    pub(super) async fn draft(store: &'a dyn Store) -> Self {
        Self::draft_of(store, fresh_tenant()).await
    }

    /// A draft of a given tenant.
    pub(super) async fn draft_of(store: &'a dyn Store, tenant: TenantId) -> Self {
        let (batch, session) = (fresh_batch(), fresh_session());
        store.create(&tenant, new_batch(batch, None)).await.unwrap();
        store.open(session, "worker on host-1").await.unwrap();
        Self { store, tenant, batch, session }
    }

    /// A queued batch with chunks of these lengths, all rows in one block.
    pub(super) async fn queued(store: &'a dyn Store, lens: &[u32]) -> Self {
        let scene = Self::draft(store).await;
        let (upload, cuts) = scene.upload(lens).await;
        store.commit_part(&scene.tenant, scene.batch, part(0, upload, 1)).await.unwrap();
        store.begin_submit(&scene.tenant, scene.batch).await.unwrap();
        store.put_heads(&scene.tenant, scene.batch, &lane(), &cuts).await.unwrap();
        let (chunks, total) = (u32::try_from(lens.len()).unwrap(), lens.iter().sum());
        store.finish_submit(&scene.tenant, scene.batch, chunks, total).await.unwrap();
        scene
    }

    /// The same with every chunk ready.
    pub(super) async fn ready(store: &'a dyn Store, lens: &[u32]) -> Self {
        let scene = Self::queued(store, lens).await;
        let chunks: Vec<_> = (0..u32::try_from(lens.len()).unwrap()).map(|n| scene.chunk(n)).collect();
        assert_eq!(store.admit(&chunks, NOW).await.unwrap(), chunks);
        scene
    }

    /// Stores one block for chunks of these lengths, and answers the cuts that make them.
    pub(super) async fn upload(&self, lens: &[u32]) -> (UploadId, Vec<ChunkCut>) {
        let upload = fresh_upload();
        let block = block(0, lens.iter().sum(), "the rows");
        self.store.put_rows(&self.tenant, self.batch, upload, vec![block]).await.unwrap();
        let mut base = 0;
        let cuts = lens.iter().zip(0u32..).map(|(&len, n)| {
            let cut = ChunkCut { n, rows: RowsRef { upload, seq: 0, skip: base }, base, len };
            base += len;
            cut
        });
        (upload, cuts.collect())
    }

    pub(super) fn chunk(&self, n: u32) -> ChunkId {
        ChunkId { batch: self.batch, n }
    }

    /// Claims a chunk that must be ready.
    pub(super) async fn lease(&self, n: u32) -> Lease {
        let mut leases = self.claim(n).await;
        assert_eq!(leases.len(), 1, "chunk {n} is not to be had");
        leases.remove(0)
    }

    /// Tries to claim a chunk.
    pub(super) async fn claim(&self, n: u32) -> Vec<Lease> {
        self.store.claim(self.session, &[(self.chunk(n), fresh_token())], NOW).await.unwrap()
    }

    /// Settles one group.
    pub(super) async fn settle(&self, group: SettleGroup) -> Settled {
        let settled = self.store.settle(vec![group], NOW).await.unwrap();
        assert_eq!(settled.len(), 1);
        settled[0]
    }

    pub(super) async fn counts(&self) -> Counts {
        self.store.progress(&self.tenant, self.batch).await.unwrap().counts
    }

    /// Every outcome of the batch on one page.
    pub(super) async fn outcomes(&self) -> OutcomePage {
        let limit = PageLimit { items: u32::MAX, bytes: usize::MAX };
        let page = self.store.outcomes(&self.tenant, self.batch, 0, limit).await.unwrap();
        assert_eq!(page.next, None);
        page
    }
}
