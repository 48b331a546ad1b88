//! Both roles together on a hub that drops, repeats, delays and loses hints and is away now and then: the journey of two thousand
//! rows ends all the same, and no row is called again once it has its outcome.

use std::sync::Arc;

use promptmill_domain::{BatchId, BatchLimits, BatchSpec, BatchState, LaneId, TenantId, UploadId};
use promptmill_doubles::{Config, Doubles, Provider};
use promptmill_ports::hub::{Faults, FaultyHub};
use promptmill_ports::{NewBatch, PartCommit, RowBlock, flow};
use promptmill_rowio::{BlockBuilder, StoredRow};
use promptmill_runtime::{Engine, ProviderSettings, Providers};
use promptmill_scheduler::Scheduler;
use promptmill_store_sqlite::{SqliteOptions, SqliteStore};
use promptmill_worker::{Worker, WorkerConfig};
use tokio_util::sync::CancellationToken;

use crate::support::ticket_template;

const ROWS: u32 = 2_000;

async fn submit(engine: &Engine) -> BatchId {
    let tenant = TenantId::default_tenant();
    let (id, upload) = (BatchId::from_bytes(rand::random()), UploadId::from_bytes(rand::random()));
    let lane = LaneId::new("openai", "default");
    let template = ticket_template().to_string();
    let spec = BatchSpec::new(template, "openai:m".parse().unwrap(), lane.clone());
    let new = NewBatch { id, spec, limits: BatchLimits::default(), idem_key: None, now_ms: 0 };
    engine.store.create(&tenant, new).await.unwrap();
    let mut builder = BlockBuilder::new();
    let rows = (0..ROWS).map(|n| StoredRow::of_variables(None, format!("{{\"n\":{n}}}")));
    let mut blocks: Vec<_> = rows.filter_map(|row| builder.push(&row)).collect();
    blocks.extend(builder.finish());
    let count = u32::try_from(blocks.len()).unwrap();
    let stored = blocks.into_iter().zip(0..).map(|(block, seq)| RowBlock {
        seq,
        len: block.len,
        bytes: block.bytes.into(),
        ids: block.ids.into(),
    });
    engine.store.put_rows(&tenant, id, upload, stored.collect(), 0).await.unwrap();
    let part = PartCommit { part: 0, upload, blocks: count, digest: [0; 32] };
    engine.store.commit_part(&tenant, id, part).await.unwrap();
    assert_eq!(flow::submit(engine.store.as_ref(), &tenant, id, &lane, 0).await.unwrap(), ROWS);
    id
}

async fn journey(seed: u64) {
    let doubles = Doubles::start(Config { seed, ..Config::default() }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut settings = ProviderSettings::default();
    settings.openai.base_url = doubles.base_url(Provider::OpenAi);
    let store = Arc::new(SqliteStore::open(folder.path(), SqliteOptions::default()).unwrap());
    let faults = Faults { drop: 0.3, repeat: 0.3, delay: 0.3, forget: 0.2, fail: 0.05 };
    let hub = Arc::new(FaultyHub::new(seed, faults));
    let providers = Arc::new(Providers::new(settings).unwrap());
    let engine = Engine::over(store.clone(), store, hub, providers);
    let batch = submit(&engine).await;
    let config = WorkerConfig { concurrency: 32, ..WorkerConfig::default() };
    let workers = [
        Worker::start(engine.clone(), config.clone()).await.unwrap(),
        Worker::start(engine.clone(), config).await.unwrap(),
    ];
    let schedulers = [Scheduler::start(engine.clone()), Scheduler::start(engine.clone())];
    let tenant = TenantId::default_tenant();
    let ended = async {
        while engine.store.batch(&tenant, batch).await.unwrap().state != BatchState::Completed {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(120), ended).await.expect("the batch ends");
    for worker in workers {
        worker.stop(&CancellationToken::new()).await;
    }
    for scheduler in schedulers {
        scheduler.stop().await;
    }
    let counts = engine.store.progress(&tenant, batch).await.unwrap().counts;
    assert_eq!((counts.succeeded, counts.total()), (u64::from(ROWS), u64::from(ROWS)), "seed {seed}");
    let seen = doubles.ledger().totals();
    assert_eq!((seen.calls, seen.calls_after_valid), (u64::from(ROWS), 0), "seed {seed}");
    assert_eq!(counts.totals.calls, seen.calls, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_rows_end_on_a_hub_that_loses_hints() {
    for seed in 1..=3 {
        journey(seed).await;
    }
}
