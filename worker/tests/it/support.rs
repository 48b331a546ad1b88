//! A store in a folder, batches in it, workers over it, and a stand-in for the scheduler, which is another role.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::report::slow_reasons;
use promptmill_domain::{
    Batch, BatchEvent, BatchId, BatchLimits, BatchSpec, BatchState, CacheScope, ChunkId, Counts, Head,
    LaneId, LeaseToken, SessionId, SlowReason, TenantId, UploadId, WorkerReport,
};
use promptmill_ports::{
    Limiter, MemoryHub, NewBatch, PageLimit, PartCommit, Queue, RowBlock, Signals, Store, StoreError,
    StoreResult, StoredOutcome, flow,
};
use promptmill_prompt::Template;
use promptmill_provider::ChatProvider as _;
use promptmill_rowio::{BlockBuilder, StoredRow};
use promptmill_runtime::{Engine, Providers};
use promptmill_store_sqlite::{SqliteOptions, SqliteStore};
use promptmill_worker::{Worker, WorkerConfig};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::provider::Scripted;

const TEMPLATE: &str = r#"{"name":"test","messages":[{"role":"user","content":"Say {{ text }}"}],
    "variables":{"text":{"type":"string"}},"output":{"format":"text"}}"#;

/// How long a condition may take to come true before the test fails; it judges nothing else.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Scene {
    pub(crate) engine: Engine,
    pub(crate) provider: Arc<Scripted>,
    pub(crate) tenant: TenantId,
    scheduler: Option<AbortOnDropHandle<()>>,
    _folder: TempDir,
}

impl Scene {
    /// Over SQLite and the in-memory hub.
    pub(crate) fn new(provider: Arc<Scripted>) -> Self {
        Self::on(MemoryHub::new(), provider)
    }

    /// Over SQLite and this hub.
    pub(crate) fn on(hub: impl Queue + Limiter + Signals + 'static, provider: Arc<Scripted>) -> Self {
        Self::with(hub, provider, |store| store)
    }

    /// Over this hub and what `wrap` makes of SQLite.
    pub(crate) fn with(
        hub: impl Queue + Limiter + Signals + 'static,
        provider: Arc<Scripted>,
        wrap: impl FnOnce(Arc<SqliteStore>) -> Arc<dyn Store>,
    ) -> Self {
        Self::of(hub, vec![provider], wrap)
    }

    /// Over SQLite, the in-memory hub and these providers; the first is the one batches are submitted to unless they say otherwise.
    pub(crate) fn among(providers: Vec<Arc<Scripted>>) -> Self {
        Self::of(MemoryHub::new(), providers, |store| store)
    }

    fn of(
        hub: impl Queue + Limiter + Signals + 'static,
        providers: Vec<Arc<Scripted>>,
        wrap: impl FnOnce(Arc<SqliteStore>) -> Arc<dyn Store>,
    ) -> Self {
        let provider = providers[0].clone();
        let folder = tempfile::tempdir().unwrap();
        let sqlite = Arc::new(SqliteStore::open(folder.path(), SqliteOptions::default()).unwrap());
        let providers = Arc::new(Providers::of(providers.into_iter().map(|provider| provider as Arc<_>)));
        let engine = Engine::over(wrap(sqlite.clone()), sqlite, Arc::new(hub), providers);
        Self { engine, provider, tenant: TenantId::default_tenant(), scheduler: None, _folder: folder }
    }

    /// Admits, wakes, hints and closes from now on.
    pub(crate) fn schedule(mut self) -> Self {
        let engine = self.engine.clone();
        self.scheduler = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                // A store that is away is away for everyone; the next step tries again.
                let _ = step(&engine).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })));
        self
    }

    /// One step of what a scheduler does.
    pub(crate) async fn step(&self) {
        step(&self.engine).await.unwrap();
    }

    pub(crate) async fn submit(&self, rows: u32) -> BatchId {
        self.submit_with(rows, BatchLimits::default()).await
    }

    pub(crate) async fn submit_with(&self, rows: u32, limits: BatchLimits) -> BatchId {
        self.submit_rows((0..rows).map(|row| format!("row {row}")), limits).await
    }

    pub(crate) async fn submit_rows(
        &self,
        texts: impl IntoIterator<Item = String>,
        limits: BatchLimits,
    ) -> BatchId {
        let template = Template::parse(TEMPLATE).unwrap();
        let rows = texts.into_iter().map(|text| {
            let row = serde_json::json!({ "text": text }).to_string();
            StoredRow::of_variables(None, template.check(&row).unwrap().to_json())
        });
        self.submit_stored(&self.provider, rows, limits).await
    }

    /// A batch of so many rows for this provider.
    pub(crate) async fn submit_to(&self, provider: &Scripted, rows: u32, limits: BatchLimits) -> BatchId {
        let rows = (0..rows).map(|row| StoredRow::of_variables(None, format!("{{\"text\":\"row {row}\"}}")));
        self.submit_stored(provider, rows, limits).await
    }

    pub(crate) async fn submit_stored(
        &self,
        provider: &Scripted,
        rows: impl IntoIterator<Item = StoredRow>,
        limits: BatchLimits,
    ) -> BatchId {
        self.submit_blocks(provider, blocks_of(rows), limits).await
    }

    /// A batch whose last `damaged` rows stand in a block that cannot be read.
    pub(crate) async fn submit_damaged(
        &self,
        provider: &Scripted,
        rows: impl IntoIterator<Item = StoredRow>,
        damaged: u32,
    ) -> BatchId {
        let mut blocks = blocks_of(rows);
        let seq = u32::try_from(blocks.len()).unwrap();
        blocks.push(RowBlock { seq, len: damaged, bytes: vec![0; 100].into(), ids: Vec::new().into() });
        self.submit_blocks(provider, blocks, BatchLimits::default()).await
    }

    /// A batch of these texts whose rows share replies so.
    pub(crate) async fn submit_sharing(
        &self,
        cache: CacheScope,
        texts: impl IntoIterator<Item = String>,
        limits: BatchLimits,
    ) -> BatchId {
        let row = |text| StoredRow::of_variables(None, serde_json::json!({ "text": text }).to_string());
        let spec = BatchSpec { cache: Some(cache), ..spec(&self.provider) };
        self.submit_spec(spec, blocks_of(texts.into_iter().map(row)), limits).await
    }

    async fn submit_blocks(
        &self,
        provider: &Scripted,
        blocks: Vec<RowBlock>,
        limits: BatchLimits,
    ) -> BatchId {
        self.submit_spec(spec(provider), blocks, limits).await
    }

    async fn submit_spec(&self, spec: BatchSpec, blocks: Vec<RowBlock>, limits: BatchLimits) -> BatchId {
        let lane = spec.lane.clone();
        let now_ms = self.engine.clock.now_ms();
        let (id, upload) = (BatchId::at(now_ms, rand::random()), UploadId::at(now_ms, rand::random()));
        let store = &self.engine.store;
        let new = NewBatch { id, spec, limits, idem_key: None, now_ms };
        store.create(&self.tenant, new).await.unwrap();
        let count = u32::try_from(blocks.len()).unwrap();
        for block in blocks {
            store.put_rows(&self.tenant, id, upload, vec![block], now_ms).await.unwrap();
        }
        let part = PartCommit { part: 0, upload, blocks: count, digest: [0; 32] };
        store.commit_part(&self.tenant, id, part).await.unwrap();
        flow::submit(store.as_ref(), &self.tenant, id, &lane, now_ms).await.unwrap();
        id
    }

    pub(crate) fn lane(&self) -> LaneId {
        lane(&self.provider)
    }

    /// What the living workers last told.
    pub(crate) async fn reports(&self) -> Vec<WorkerReport> {
        let sessions = self.engine.store.sessions().await.unwrap();
        sessions.into_iter().filter_map(|session| session.report).collect()
    }

    /// Why the batch is not faster.
    pub(crate) async fn slow_reasons(&self, id: BatchId) -> Vec<SlowReason> {
        let (batch, counts) = (self.batch(id).await, self.counts(id).await);
        slow_reasons(id, &batch.state, &batch.limits, &counts, &self.reports().await)
    }

    pub(crate) async fn worker(&self, concurrency: usize) -> Worker {
        let config = WorkerConfig { concurrency, ..WorkerConfig::default() };
        Worker::start(self.engine.clone(), config).await.unwrap()
    }

    pub(crate) async fn stop(&self, worker: Worker) {
        worker.stop(&CancellationToken::new()).await;
    }

    /// Asks until the store answers: it may be one that is away now and then.
    pub(crate) async fn batch(&self, batch: BatchId) -> Batch {
        loop {
            match self.engine.store.batch(&self.tenant, batch).await {
                Ok(batch) => return batch,
                Err(StoreError::Unavailable(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) async fn counts(&self, batch: BatchId) -> Counts {
        self.engine.store.progress(&self.tenant, batch).await.unwrap().counts
    }

    pub(crate) async fn steer(&self, batch: BatchId, event: BatchEvent) -> BatchState {
        self.engine.store.steer(&self.tenant, batch, event, self.engine.clock.now_ms()).await.unwrap()
    }

    /// Waits for the final state, which must be this one, and answers the final counts.
    pub(crate) async fn ended(&self, batch: BatchId, state: BatchState) -> Counts {
        eventually("the batch ends", async || match self.engine.store.batch(&self.tenant, batch).await {
            Ok(batch) => batch.state.is_final(),
            Err(_) => false,
        })
        .await;
        let batch = self.batch(batch).await;
        assert_eq!(batch.state, state);
        batch.final_counts.unwrap()
    }

    /// Every outcome of the batch.
    pub(crate) async fn outcomes(&self, batch: BatchId) -> Vec<StoredOutcome> {
        let (mut all, mut from) = (Vec::new(), Some(0));
        while let Some(index) = from {
            let limit = PageLimit { items: 1_000, bytes: usize::MAX };
            let page = self.engine.store.outcomes(&self.tenant, batch, index, limit).await.unwrap();
            all.extend(page.outcomes);
            from = page.next;
        }
        all
    }

    /// Declares the session dead, whatever its beat is at the moment.
    pub(crate) async fn bury(&self, session: SessionId) {
        let store = &self.engine.store;
        eventually("the session is buried", async || {
            let sessions = store.sessions().await.unwrap();
            let Some(found) = sessions.iter().find(|found| found.session == session) else { return true };
            store.bury(session, found.beat, self.engine.clock.now_ms()).await.unwrap().is_some()
        })
        .await;
    }

    /// Takes every ready chunk as another session would, and answers the heads.
    pub(crate) async fn claim_all(&self, batch: BatchId) -> Vec<Head> {
        let session = SessionId::at(self.engine.clock.now_ms(), rand::random());
        self.engine.store.open(session, "test").await.unwrap();
        let wanted: Vec<_> =
            (0..100).map(|n| (ChunkId { batch, n }, LeaseToken::from_bytes(rand::random()))).collect();
        let leases = self.engine.store.claim(session, &wanted, self.engine.clock.now_ms()).await.unwrap();
        leases.into_iter().map(|lease| lease.head).collect()
    }

    #[track_caller]
    pub(crate) fn check_all_succeeded(counts: &Counts, rows: u64) {
        assert_eq!((counts.succeeded, counts.total(), counts.open()), (rows, rows, 0), "{counts:?}");
    }

    /// Each row has exactly one outcome.
    pub(crate) async fn check_one_outcome_each(&self, batch: BatchId, rows: u32) {
        let outcomes = self.outcomes(batch).await;
        let indexes: BTreeSet<_> = outcomes.iter().map(|outcome| outcome.index).collect();
        assert_eq!(outcomes.len(), rows as usize);
        assert!(indexes.into_iter().eq(0..rows));
    }
}

fn lane(provider: &Scripted) -> LaneId {
    LaneId::new(provider.name(), provider.credential_name())
}

async fn step(engine: &Engine) -> StoreResult<()> {
    let store = &engine.store;
    for batch in store.open_batches().await? {
        if batch.state.may_begin() {
            let waiting = store.waiting(batch.id, 1_000).await?;
            store.admit(&waiting, engine.clock.now_ms()).await?;
        }
        if batch.state.seals_with().is_some() {
            while store.seal(&batch.tenant, batch.id, 100, engine.clock.now_ms()).await? > 0 {}
        }
        match store.close(&batch.tenant, batch.id, engine.clock.now_ms()).await {
            Ok(_) | Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    store.wake(1_000, engine.clock.now_ms()).await?;
    let ready = store.ready(None, 1_000).await?;
    // Hints may be lost; the next step puts them back.
    let _ = engine.queue.push(&ready.into_iter().map(|chunk| (chunk, 0)).collect::<Vec<_>>()).await;
    Ok(())
}

fn spec(provider: &Scripted) -> BatchSpec {
    let model = format!("{}:any", provider.name()).parse().unwrap();
    BatchSpec { max_attempts: 3, ..BatchSpec::new(TEMPLATE.to_owned(), model, lane(provider)) }
}

/// Waits until it is so.
#[track_caller]
pub(crate) fn eventually(what: &str, so: impl AsyncFn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let waiting = async {
            while !so().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("it never came about that {what}, at {caller}");
        }
    }
}

fn blocks_of(rows: impl IntoIterator<Item = StoredRow>) -> Vec<RowBlock> {
    let mut builder = BlockBuilder::new();
    let mut blocks = Vec::new();
    for row in rows {
        blocks.extend(builder.push(&row));
    }
    blocks.extend(builder.finish());
    let numbered = (0..).zip(blocks);
    numbered
        .map(|(seq, block)| RowBlock {
            seq,
            len: block.len,
            bytes: block.bytes.into(),
            ids: block.ids.into(),
        })
        .collect()
}
