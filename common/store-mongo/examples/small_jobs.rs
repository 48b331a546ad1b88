//! Prints how many batches of a single row a second go through a MongoDB of this machine (a replica set of one) with clients that each wait for
//! the outcome before they send the next, how long one of them takes, and how many commands a job costs at each role.
//!
//! `cargo run --release -p promptmill-store-mongo --example small_jobs -- [JOBS] [CLIENTS]`: JOBS batches (default 10,000) of CLIENTS
//! (default 64), then 200 of one client alone. Nobody calls a model. Each role has a store of its own, as processes have, and does what came
//! in since it looked last.

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use promptmill_domain::{
    Batch, BatchId, BatchLimits, BatchSpec, ChunkId, ItemCode, LaneId, LeaseToken, Release, SessionId,
    SettledItem, TenantId, Totals,
};
use promptmill_ports::{
    Accepted, Admission, Close, Intake, Lease, NewBatch, RowBlock, Sessions, SettleGroup, StoreResult,
    WholeBatch, Work,
};
use promptmill_store_mongo::{MongoOptions, MongoStore};
use promptmill_test_servers::MongoServer;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

const NOW: u64 = 1_790_000_000_000;
const SESSION: SessionId = SessionId::from_bytes([3; 16]);
/// Jobs of the client that is alone.
const ALONE: u32 = 200;

type Failure = Box<dyn Error + Send + Sync>;

/// Who waits for the outcome of which batch.
type Waiting = Arc<Mutex<HashMap<BatchId, oneshot::Sender<()>>>>;

/// The roles, each with its store.
struct Roles {
    api: MongoStore,
    scheduler: MongoStore,
    closer: MongoStore,
    worker: MongoStore,
}

impl Roles {
    async fn connect(uri: &str) -> StoreResult<Self> {
        let connect = || async { MongoStore::connect(&MongoOptions::new(uri.into(), "promptmill")).await };
        let roles = Self {
            api: connect().await?,
            scheduler: connect().await?,
            closer: connect().await?,
            worker: connect().await?,
        };
        roles.worker.open(SESSION, "bench").await?;
        Ok(roles)
    }

    fn sent(&self) -> [(&'static str, u64); 4] {
        [
            ("accept", self.api.commands_sent()),
            ("admit", self.scheduler.commands_sent()),
            ("claim and settle", self.worker.commands_sent()),
            ("close", self.closer.commands_sent()),
        ]
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<u32>());
    let jobs = numbers.next().transpose()?.unwrap_or(10_000);
    let clients = numbers.next().transpose()?.unwrap_or(64).max(1);
    let server = MongoServer::start();
    let roles = Arc::new(Roles::connect(&server.uri()).await?);
    let waiting = Waiting::default();
    let (submitted, to_admit) = mpsc::unbounded_channel();
    let (admitted, to_claim) = mpsc::unbounded_channel();
    let (claimed, to_settle) = mpsc::unbounded_channel();
    let (settled, to_close) = mpsc::unbounded_channel();
    let mut work = JoinSet::new();
    work.spawn(admit(roles.scheduler.clone(), to_admit, admitted));
    work.spawn(claim(roles.worker.clone(), to_claim, claimed));
    work.spawn(settle(roles.worker.clone(), to_settle, waiting.clone(), settled));
    work.spawn(close(roles.closer.clone(), to_close));
    for (jobs, clients) in [(jobs, clients), (ALONE, 1)] {
        let (before, begun) = (roles.sent(), Instant::now());
        let left = Arc::new(AtomicU32::new(jobs));
        let mut all = JoinSet::new();
        for _ in 0..clients {
            all.spawn(client(roles.api.clone(), left.clone(), waiting.clone(), submitted.clone()));
        }
        let mut took = Vec::new();
        while let Some(times) = all.join_next().await {
            took.extend(times??);
        }
        let elapsed = begun.elapsed();
        // What the last ones leave to the closer.
        tokio::time::sleep(Duration::from_millis(500)).await;
        report(jobs, clients, elapsed, took, before, roles.sent());
    }
    drop(submitted);
    while let Some(ended) = work.join_next().await {
        ended??;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn report(
    jobs: u32,
    clients: u32,
    elapsed: Duration,
    mut took: Vec<Duration>,
    before: [(&'static str, u64); 4],
    after: [(&'static str, u64); 4],
) {
    took.sort_unstable();
    let part = |hundredths: usize| took.get(took.len() * hundredths / 100).copied().unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{jobs} jobs of {clients} clients: {:.0} a second, p50 {:?}, p99 {:?}; load {}",
        f64::from(jobs) / elapsed.as_secs_f64(),
        part(50),
        part(99),
        load.trim()
    );
    let mut all = 0.0;
    for ((role, before), (_, after)) in before.into_iter().zip(after) {
        let each = (after - before) as f64 / f64::from(jobs);
        all += each;
        println!("  {role}: {each:.2} commands a job");
    }
    println!("  together {all:.2}");
}

/// Sends a job, waits for its outcome, and so on; answers how long each took.
async fn client(
    store: MongoStore,
    left: Arc<AtomicU32>,
    waiting: Waiting,
    submitted: mpsc::UnboundedSender<BatchId>,
) -> Result<Vec<Duration>, Failure> {
    let mut took = Vec::new();
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let begun = Instant::now();
        let id = BatchId::at(NOW, rand::random());
        let (tell, told) = oneshot::channel();
        waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, tell);
        submit(&store, id).await?;
        submitted.send(id)?;
        told.await?;
        took.push(begun.elapsed());
    }
    Ok(took)
}

async fn submit(store: &MongoStore, id: BatchId) -> Result<Batch, Failure> {
    let tenant = TenantId::default_tenant();
    let lane = LaneId::new("demo", "none");
    let template = format!("{{\"name\":\"t\",\"messages\":[{:?}]}}", "x".repeat(300));
    let spec = BatchSpec::new(template, "demo:any".parse()?, lane);
    let batch = NewBatch { id, spec, limits: BatchLimits::default(), idem_key: None, now_ms: NOW };
    let block = RowBlock { seq: 0, len: 1, bytes: Bytes::from(vec![7; 200]), ids: Bytes::new() };
    let whole = WholeBatch { batch, rows: block, digest: [0; 32] };
    match store.accept(&tenant, whole).await? {
        Accepted::New(batch) => Ok(*batch),
        Accepted::Existing(id) => Err(format!("{id} exists already").into()),
    }
}

/// What came in since the last time, one thing at least; nothing when nothing will come any more.
async fn gather<T>(inbox: &mut mpsc::UnboundedReceiver<T>) -> Vec<T> {
    let mut all = Vec::new();
    inbox.recv_many(&mut all, 1_000).await;
    all
}

async fn admit(
    store: MongoStore,
    mut inbox: mpsc::UnboundedReceiver<BatchId>,
    admitted: mpsc::UnboundedSender<ChunkId>,
) -> StoreResult<()> {
    loop {
        let batches = gather(&mut inbox).await;
        if batches.is_empty() {
            return Ok(());
        }
        // As a scheduler looks before it lets anything run.
        store.open_batches().await?;
        store.ready(None, 500).await?;
        let chunks: Vec<_> = batches.into_iter().map(|batch| ChunkId { batch, n: 0 }).collect();
        for chunk in store.admit(&chunks, NOW).await? {
            let _ = admitted.send(chunk);
        }
    }
}

async fn claim(
    store: MongoStore,
    mut inbox: mpsc::UnboundedReceiver<ChunkId>,
    claimed: mpsc::UnboundedSender<Lease>,
) -> StoreResult<()> {
    loop {
        let chunks = gather(&mut inbox).await;
        if chunks.is_empty() {
            return Ok(());
        }
        let wanted: Vec<_> =
            chunks.into_iter().map(|chunk| (chunk, LeaseToken::from_bytes(rand::random()))).collect();
        for lease in store.claim(SESSION, &wanted, NOW).await? {
            let _ = claimed.send(lease);
        }
    }
}

async fn settle(
    store: MongoStore,
    mut inbox: mpsc::UnboundedReceiver<Lease>,
    waiting: Waiting,
    settled: mpsc::UnboundedSender<BatchId>,
) -> StoreResult<()> {
    loop {
        let leases = gather(&mut inbox).await;
        if leases.is_empty() {
            return Ok(());
        }
        let groups: Vec<_> = leases.iter().map(group).collect();
        store.settle(groups.into(), NOW).await?;
        for lease in leases {
            let batch = lease.head.chunk.batch;
            let told = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&batch);
            let _ = told.map(|told| told.send(()));
            let _ = settled.send(batch);
        }
    }
}

fn group(lease: &Lease) -> SettleGroup {
    let item = SettledItem { offset: 0, code: ItemCode::Succeeded };
    SettleGroup {
        chunk: lease.head.chunk,
        token: lease.token,
        settled: vec![(item, Bytes::from(vec![b'x'; 300]))],
        parked: Vec::new(),
        seq: 1,
        spent: Totals { calls: 1, ..Totals::default() },
        release: Release::LetGo,
    }
}

async fn close(store: MongoStore, mut inbox: mpsc::UnboundedReceiver<BatchId>) -> StoreResult<()> {
    loop {
        let batches = gather(&mut inbox).await;
        if batches.is_empty() {
            return Ok(());
        }
        let mut closing = JoinSet::new();
        for batch in batches {
            let store = store.clone();
            closing.spawn(async move { store.close(&TenantId::default_tenant(), batch, NOW).await });
        }
        while let Some(closed) = closing.join_next().await {
            match closed {
                Ok(closed) => drop(closed?),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }
}
