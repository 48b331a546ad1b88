//! Prints how many items a second a MongoDB of this machine (a replica set of one) accepts, settles, counts, reads in the order of
//! their settling and deletes, and how many commands an item takes.
//!
//! `cargo run --release -p promptmill-store-mongo --example settle_rate -- [ITEMS] [WORKERS]`: ITEMS rows (default 1,000,000) in
//! chunks of 256, WORKERS (default 8) settling groups of 64 bodies of 300 bytes at the same time.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mongodb::bson::doc;
use promptmill_domain::chunk::MAX_CHUNK_ROWS;
use promptmill_domain::{
    BatchId, BatchLimits, BatchSpec, ChunkId, ItemCode, LaneId, LeaseToken, Release, SessionId, SettledItem,
    TenantId, Totals, UploadId,
};
use promptmill_ports::{
    Admission, Close, Intake, Lease, NewBatch, PageLimit, PartCommit, Read, RowBlock, Sessions, SettleGroup,
    SettledCursor, StoreResult, Work, flow,
};
use promptmill_store_mongo::{MongoOptions, MongoStore};
use promptmill_test_servers::MongoServer;

const GROUP: usize = 64;
const BODY: usize = 300;
const BATCH: BatchId = BatchId::from_bytes([1; 16]);
const SESSION: SessionId = SessionId::from_bytes([3; 16]);

type Failure = Box<dyn Error + Send + Sync>;

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<u32>());
    let items = numbers.next().transpose()?.unwrap_or(1_000_000);
    let workers = numbers.next().transpose()?.unwrap_or(8).max(1);
    let server = MongoServer::start();
    let store = Arc::new(MongoStore::connect(&MongoOptions::new(server.uri().into(), "promptmill")).await?);

    let begun = Instant::now();
    let chunks = submit(&store, items).await?;
    report("accepted", items, begun);

    let (begun, commands) = (Instant::now(), commands(&server));
    let tasks: Vec<_> = (0..workers)
        .map(|worker| tokio::spawn(settle(Arc::clone(&store), worker, workers, chunks)))
        .collect();
    for task in tasks {
        task.await??;
    }
    report("settled", items, begun);
    let taken = self::commands(&server) - commands;
    println!("  in {taken} commands, {:.4} an item", taken as f64 / f64::from(items));

    let begun = Instant::now();
    let progress = store.progress(&TenantId::default_tenant(), BATCH).await?;
    println!("counted {} items in {:?}", progress.counts.succeeded, begun.elapsed());

    let begun = Instant::now();
    let mut after = SettledCursor::default();
    loop {
        let limit = PageLimit { items: 1_000, bytes: 4 * 1024 * 1024 };
        let page = store.settled(&TenantId::default_tenant(), BATCH, after, limit).await?;
        after = page.next;
        if page.caught_up {
            break;
        }
    }
    report("read in the order of settling", items, begun);

    store.close(&TenantId::default_tenant(), BATCH, 0).await?;
    let begun = Instant::now();
    while !store.delete(&TenantId::default_tenant(), BATCH).await? {}
    report("deleted", items, begun);
    Ok(())
}

/// Commands the server has run.
fn commands(server: &MongoServer) -> i64 {
    let status = server.command("admin", doc! { "serverStatus": 1 });
    let commands = status.get_document("metrics").and_then(|metrics| metrics.get_document("commands"));
    let total = |name: &str| {
        let command = commands.as_ref().ok().and_then(|commands| commands.get_document(name).ok());
        command.and_then(|command| command.get_i64("total").ok()).unwrap_or(0)
    };
    ["find", "getMore", "insert", "update", "delete", "aggregate", "findAndModify"]
        .into_iter()
        .map(total)
        .sum()
}

fn report(what: &str, items: u32, begun: Instant) {
    let elapsed = begun.elapsed();
    println!("{what} {items} items in {elapsed:?}: {:.0} a second", f64::from(items) / elapsed.as_secs_f64());
}

/// Makes the batch and lets all of its chunks run; answers how many there are.
async fn submit(store: &MongoStore, items: u32) -> Result<u32, Failure> {
    let tenant = TenantId::default_tenant();
    let lane = LaneId::new("demo", "none");
    let spec = BatchSpec::new("{}".to_owned(), "demo:any".parse()?, lane.clone());
    store
        .create(
            &tenant,
            NewBatch { id: BATCH, spec, limits: BatchLimits::default(), idem_key: None, now_ms: 0 },
        )
        .await?;
    let upload = UploadId::from_bytes([2; 16]);
    let blocks = items.div_ceil(MAX_CHUNK_ROWS);
    let block = |seq: u32| {
        let len = MAX_CHUNK_ROWS.min(items - seq * MAX_CHUNK_ROWS);
        RowBlock { seq, len, bytes: vec![0; 8 * 1024].into(), ids: Bytes::new() }
    };
    for first in (0..blocks).step_by(64) {
        store
            .put_rows(&tenant, BATCH, upload, (first..blocks.min(first + 64)).map(block).collect(), 0)
            .await?;
    }
    store.commit_part(&tenant, BATCH, PartCommit { part: 0, upload, blocks, digest: [0; 32] }).await?;
    flow::submit(store, &tenant, BATCH, &lane, 0).await?;
    store.open(SESSION, "bench").await?;
    let chunks = store.waiting(BATCH, u32::MAX).await?;
    for some in chunks.chunks(256) {
        store.admit(some, 0).await?;
    }
    Ok(u32::try_from(chunks.len())?)
}

/// Claims every `workers`-th chunk and settles it in groups.
async fn settle(store: Arc<MongoStore>, worker: u32, workers: u32, chunks: u32) -> StoreResult<()> {
    for n in (worker..chunks).step_by(workers as usize) {
        let wanted = [(ChunkId { batch: BATCH, n }, LeaseToken::from_bytes([7; 16]))];
        for lease in store.claim(SESSION, &wanted, 0).await? {
            settle_chunk(&store, &lease).await?;
        }
    }
    Ok(())
}

async fn settle_chunk(store: &MongoStore, lease: &Lease) -> StoreResult<()> {
    let offsets: Vec<u32> = (0..lease.head.len()).collect();
    for (some, seq) in offsets.chunks(GROUP).zip(1u32..) {
        let body = Bytes::from(vec![b'x'; BODY]);
        let settled = some
            .iter()
            .map(|&offset| (SettledItem { offset, code: ItemCode::Succeeded }, body.clone()))
            .collect();
        let spent = Totals { calls: some.len() as u64, ..Totals::default() };
        let (chunk, token) = (lease.head.chunk, lease.token);
        let group =
            SettleGroup { chunk, token, settled, parked: Vec::new(), seq, spent, release: Release::Keep };
        store.settle([group].into(), 0).await?;
    }
    Ok(())
}
