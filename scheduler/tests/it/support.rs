//! A store in a folder, batches in it, and a session that claims and settles by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use promptmill_domain::{
    BatchEvent, BatchId, BatchLimits, BatchReport, BatchSpec, BatchState, ChunkId, Counts, LaneId,
    LeaseToken, Release, SessionId, SettledItem, TenantId, Totals, UploadId, WorkerReport,
};
use promptmill_ports::{
    Clock, Lease, Limiter, NewBatch, PartCommit, Queue, RowBlock, SettleGroup, Settled, Signals, flow,
};
use promptmill_rowio::{BlockBuilder, StoredRow};
use promptmill_runtime::{Engine, Providers, SystemClock};
use promptmill_store_sqlite::{SqliteOptions, SqliteStore};
use tempfile::TempDir;

/// How long a condition may take to come true before the test fails; it judges nothing else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Slots of the worker the test plays.
pub(crate) const SLOTS: u32 = 32;

/// The system's clock, put forward by the test.
#[derive(Default)]
pub(crate) struct ForwardClock(AtomicU64);

impl ForwardClock {
    pub(crate) fn advance_ms(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ForwardClock {
    fn now_ms(&self) -> u64 {
        SystemClock.now_ms() + self.0.load(Ordering::SeqCst)
    }
}

pub(crate) struct Scene {
    pub(crate) engine: Engine,
    pub(crate) clock: Arc<ForwardClock>,
    pub(crate) tenant: TenantId,
    session: SessionId,
    beats: AtomicU64,
    _folder: TempDir,
}

impl Scene {
    pub(crate) async fn on(hub: impl Queue + Limiter + Signals + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path(), SqliteOptions::default()).unwrap());
        let mut engine = Engine::over(store.clone(), store, Arc::new(hub), Arc::new(Providers::of([])));
        let clock = Arc::new(ForwardClock::default());
        engine.clock = clock.clone();
        let session = SessionId::at(engine.clock.now_ms(), rand::random());
        engine.store.open(session, "test").await.unwrap();
        let beats = AtomicU64::new(0);
        let scene =
            Self { engine, clock, tenant: TenantId::default_tenant(), session, beats, _folder: folder };
        scene.beat().await;
        scene
    }

    /// A draft with one part; one of up to 32 rows gets one row a chunk.
    pub(crate) async fn draft(&self, rows: u32, change: impl FnOnce(&mut NewBatch)) -> BatchId {
        self.draft_of(&self.tenant, rows, change).await
    }

    async fn draft_of(&self, tenant: &TenantId, rows: u32, change: impl FnOnce(&mut NewBatch)) -> BatchId {
        let now_ms = self.engine.clock.now_ms();
        let (id, upload) = (BatchId::at(now_ms, rand::random()), UploadId::at(now_ms, rand::random()));
        let spec = BatchSpec::new("{}".to_owned(), "scripted:any".parse().unwrap(), lane());
        let store = &self.engine.store;
        let mut new = NewBatch { id, spec, limits: BatchLimits::default(), idem_key: None, now_ms };
        change(&mut new);
        store.create(tenant, new).await.unwrap();
        self.upload_of(tenant, id, upload, rows).await;
        let blocks = rows.div_ceil(256);
        let part = PartCommit { part: 0, upload, blocks, digest: [0; 32] };
        store.commit_part(tenant, id, part).await.unwrap();
        id
    }

    /// Stores rows that no part names.
    pub(crate) async fn upload(&self, batch: BatchId, upload: UploadId, rows: u32) {
        self.upload_of(&self.tenant, batch, upload, rows).await;
    }

    async fn upload_of(&self, tenant: &TenantId, batch: BatchId, upload: UploadId, rows: u32) {
        let mut builder = BlockBuilder::new();
        let row = StoredRow::of_variables(None, "{}");
        let mut blocks: Vec<_> = (0..rows).filter_map(|_| builder.push(&row)).collect();
        blocks.extend(builder.finish());
        for (seq, block) in (0..).zip(blocks) {
            let (bytes, ids) = (block.bytes.into(), block.ids.into());
            let block = RowBlock { seq, len: block.len, bytes, ids };
            let now_ms = self.engine.clock.now_ms();
            self.engine.store.put_rows(tenant, batch, upload, vec![block], now_ms).await.unwrap();
        }
    }

    /// A queued batch.
    pub(crate) async fn submit_with(&self, rows: u32, change: impl FnOnce(&mut NewBatch)) -> BatchId {
        self.submit_of(&self.tenant, rows, change).await
    }

    /// A queued batch of any tenant.
    pub(crate) async fn submit_of(
        &self,
        tenant: &TenantId,
        rows: u32,
        change: impl FnOnce(&mut NewBatch),
    ) -> BatchId {
        let id = self.draft_of(tenant, rows, change).await;
        let (store, now_ms) = (self.engine.store.as_ref(), self.engine.clock.now_ms());
        let lane = store.batch(tenant, id).await.unwrap().spec.lane;
        flow::submit(store, tenant, id, &lane, now_ms).await.unwrap();
        id
    }

    pub(crate) async fn submit(&self, rows: u32, priority: i16) -> BatchId {
        self.submit_with(rows, |new| new.limits.priority = priority).await
    }

    pub(crate) async fn steer(&self, batch: BatchId, event: BatchEvent) {
        let now_ms = self.engine.clock.now_ms();
        self.engine.store.steer(&self.tenant, batch, event, now_ms).await.unwrap();
    }

    pub(crate) async fn set_limits(&self, batch: BatchId, limits: BatchLimits) {
        self.engine.store.set_limits(&self.tenant, batch, limits).await.unwrap();
    }

    /// Works through a batch that was submitted, chunk by chunk.
    pub(crate) async fn work_through(&self, chunks: usize) {
        let mut done = 0;
        while done < chunks {
            let hints = self.hints(chunks).await;
            for lease in self.claim(&hints).await {
                self.finish(&lease).await;
                done += 1;
            }
        }
    }

    /// Waits until so many hints are queued.
    pub(crate) async fn queued(&self, hints: usize) {
        eventually("so many hints are queued", async || self.engine.queue.depth().await.unwrap() == hints)
            .await;
    }

    /// Takes up to `limit` hints, waiting until there is one.
    pub(crate) async fn hints(&self, limit: usize) -> Vec<ChunkId> {
        let hints = self.engine.queue.pop(limit, PATIENCE).await.unwrap();
        assert!(!hints.is_empty(), "no hint came");
        hints.into_iter().map(|(chunk, _)| chunk).collect()
    }

    /// Keeps the test's session alive where a test takes longer than a session lives without a beat.
    pub(crate) async fn beat(&self) {
        self.tell(SLOTS, vec![]).await;
    }

    /// Beats as a worker with so many slots and those batches in hand.
    pub(crate) async fn tell(&self, slots: u32, batches: Vec<BatchReport>) {
        let beat = self.beats.fetch_add(1, Ordering::SeqCst) + 1;
        let report = WorkerReport { slots, batches, ..WorkerReport::default() };
        self.engine.store.beat(self.session, beat, Some(&report)).await.unwrap();
    }

    /// How many chunks of the batch are admitted and not taken.
    pub(crate) async fn ready(&self, batch: BatchId) -> usize {
        let ready = self.engine.store.ready(None, 10_000).await.unwrap();
        ready.iter().filter(|chunk| chunk.batch == batch).count()
    }

    pub(crate) async fn claim(&self, chunks: &[ChunkId]) -> Vec<Lease> {
        let wanted: Vec<_> =
            chunks.iter().map(|chunk| (*chunk, LeaseToken::from_bytes(rand::random()))).collect();
        self.engine.store.claim(self.session, &wanted, self.engine.clock.now_ms()).await.unwrap()
    }

    /// Settles every item of the lease as succeeded.
    pub(crate) async fn finish(&self, lease: &Lease) -> Settled {
        let code = promptmill_domain::ItemCode::Succeeded;
        let settled = (0..lease.head.len()).map(|offset| (SettledItem { offset, code }, "body".into()));
        self.settle(lease, settled.collect(), Release::Keep).await
    }

    pub(crate) async fn settle(
        &self,
        lease: &Lease,
        settled: Vec<(SettledItem, bytes::Bytes)>,
        release: Release,
    ) -> Settled {
        let group = SettleGroup {
            chunk: lease.head.chunk,
            token: lease.token,
            settled,
            parked: vec![],
            seq: 1,
            spent: Totals::default(),
            release,
        };
        self.engine.store.settle([group].into(), self.engine.clock.now_ms()).await.unwrap().remove(0)
    }

    pub(crate) async fn counts(&self, batch: BatchId) -> Counts {
        self.engine.store.progress(&self.tenant, batch).await.unwrap().counts
    }

    pub(crate) async fn ended(&self, batch: BatchId, state: BatchState) -> Counts {
        eventually("the batch ends", async || self.batch_state(batch).await.is_final()).await;
        assert_eq!(self.batch_state(batch).await, state);
        let batch = self.engine.store.batch(&self.tenant, batch).await.unwrap();
        batch.final_counts.unwrap()
    }

    pub(crate) async fn batch_state(&self, batch: BatchId) -> BatchState {
        self.engine.store.batch(&self.tenant, batch).await.unwrap().state
    }
}

fn lane() -> LaneId {
    LaneId::new("scripted", "none")
}

/// Waits until it is so.
pub(crate) async fn eventually(what: &str, so: impl AsyncFn() -> bool) {
    let waiting = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        panic!("it never came about that {what}");
    }
}
