//! A store in a folder, batches in it, and a session that claims and settles by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use promptmill_domain::{
    BatchId, BatchLimits, BatchSpec, BatchState, ChunkId, Counts, LaneId, LeaseToken, ModelSettings, Release,
    SessionId, SettledItem, TenantId, Totals, UploadId,
};
use promptmill_ports::{
    Lease, Limiter, NewBatch, PartCommit, Queue, RowBlock, SettleGroup, Settled, Signals, flow,
};
use promptmill_rowio::{BlockBuilder, StoredRow};
use promptmill_runtime::{Engine, Providers};
use promptmill_store_sqlite::{SqliteOptions, SqliteStore};
use tempfile::TempDir;

/// How long a condition may take to come true before the test fails; it judges nothing else.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Scene {
    pub(crate) engine: Engine,
    pub(crate) tenant: TenantId,
    session: SessionId,
    beats: AtomicU64,
    _folder: TempDir,
}

impl Scene {
    pub(crate) async fn on(hub: impl Queue + Limiter + Signals + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path(), SqliteOptions::default()).unwrap());
        let engine = Engine::over(store, Arc::new(hub), Arc::new(Providers::of([])));
        let session = SessionId::at(engine.clock.now_ms(), rand::random());
        engine.store.open(session, "test").await.unwrap();
        let beats = AtomicU64::new(0);
        Self { engine, tenant: TenantId::default_tenant(), session, beats, _folder: folder }
    }

    /// A queued batch; one of up to 32 rows has one row a chunk.
    pub(crate) async fn submit(&self, rows: u32, priority: i16) -> BatchId {
        let now_ms = self.engine.clock.now_ms();
        let (id, upload) = (BatchId::at(now_ms, rand::random()), UploadId::at(now_ms, rand::random()));
        let spec = BatchSpec {
            template: "{}".to_owned(),
            model: "scripted:any".parse().unwrap(),
            settings: ModelSettings::default(),
            max_attempts: 3,
            priority,
        };
        let store = &self.engine.store;
        let new = NewBatch { id, spec, limits: BatchLimits::default(), idem_key: None, now_ms };
        store.create(&self.tenant, new).await.unwrap();
        let mut builder = BlockBuilder::new();
        let row = StoredRow { custom_id: None, variables_json: "{}".to_owned() };
        let mut blocks: Vec<_> = (0..rows).filter_map(|_| builder.push(&row)).collect();
        blocks.extend(builder.finish());
        let count = u32::try_from(blocks.len()).unwrap();
        for (seq, block) in (0..).zip(blocks) {
            let block = RowBlock { seq, len: block.len, bytes: block.bytes.into() };
            store.put_rows(&self.tenant, id, upload, vec![block]).await.unwrap();
        }
        let part = PartCommit { part: 0, upload, blocks: count, digest: [0; 32] };
        store.commit_part(&self.tenant, id, part).await.unwrap();
        flow::submit(store.as_ref(), &self.tenant, id, &LaneId::new("scripted", "none")).await.unwrap();
        id
    }

    /// Takes up to `limit` hints, waiting until there is one.
    pub(crate) async fn hints(&self, limit: usize) -> Vec<ChunkId> {
        let hints = self.engine.queue.pop(limit, PATIENCE).await.unwrap();
        assert!(!hints.is_empty(), "no hint came");
        hints
    }

    /// Keeps the test's session alive where a test takes longer than a session lives without a beat.
    pub(crate) async fn beat(&self) {
        let beat = self.beats.fetch_add(1, Ordering::SeqCst) + 1;
        self.engine.store.beat(self.session, beat).await.unwrap();
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
        self.engine.store.settle(vec![group], self.engine.clock.now_ms()).await.unwrap().remove(0)
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
