//! What only a store in a file promises: it survives its process, and its folder has one user.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use promptmill_domain::{
    BatchEvent, BatchId, BatchLimits, BatchSpec, ChunkId, FailureKind, ItemCode, LaneId, LeaseToken,
    PauseReason, Release, SessionId, SettledItem, TenantId, Totals, UploadId, Webhook,
};
use promptmill_ports::{
    Admission as _, Close as _, Control as _, Intake as _, NewBatch, PageLimit, PartCommit, Read as _,
    RowBlock, Sessions as _, SettleGroup, StoreError, Work as _, flow,
};
use promptmill_store_sqlite::{SqliteOptions, SqliteStore};
use rusqlite::Connection;

use crate::{TemporaryStore, open};

const NOW: u64 = 1_790_000_000_000;
const BATCH: BatchId = BatchId::from_bytes([1; 16]);
const UPLOAD: UploadId = UploadId::from_bytes([2; 16]);
const SESSION: SessionId = SessionId::from_bytes([3; 16]);
const ROWS: u32 = 64;

fn tenant() -> TenantId {
    TenantId::default_tenant()
}

/// A queued batch of [`ROWS`] rows in chunks of two.
async fn queued(store: &SqliteStore) {
    let spec = BatchSpec::new("{}".to_owned(), "demo:any".parse().unwrap(), LaneId::new("demo", "none"));
    let batch = NewBatch { id: BATCH, spec, limits: BatchLimits::default(), idem_key: None, now_ms: NOW };
    store.create(&tenant(), batch).await.unwrap();
    let block = RowBlock { seq: 0, len: ROWS, bytes: Bytes::from_static(b"rows"), ids: Bytes::new() };
    store.put_rows(&tenant(), BATCH, UPLOAD, vec![block], NOW).await.unwrap();
    let part = PartCommit { part: 0, upload: UPLOAD, blocks: 1, digest: [0; 32] };
    store.commit_part(&tenant(), BATCH, part).await.unwrap();
    flow::submit(store, &tenant(), BATCH, &LaneId::new("demo", "none"), NOW).await.unwrap();
    store.open(SESSION, "worker").await.unwrap();
}

/// Admits and claims chunk `n` and settles its first item; answers the lease's token.
async fn work_on(store: &SqliteStore, n: u32) -> LeaseToken {
    let (chunk, token) =
        (ChunkId { batch: BATCH, n }, LeaseToken::from_bytes([u8::try_from(n).unwrap(); 16]));
    store.admit(&[chunk], NOW).await.unwrap();
    assert_eq!(store.claim(SESSION, &[(chunk, token)], NOW).await.unwrap().len(), 1);
    let settled =
        vec![(SettledItem { offset: 0, code: ItemCode::Succeeded }, Bytes::from(format!("body {n}")))];
    let spent = Totals { calls: 1, ..Totals::default() };
    let group = SettleGroup { chunk, token, settled, parked: vec![], seq: 1, spent, release: Release::Keep };
    store.settle([group].into(), NOW).await.unwrap();
    token
}

/// Everything that was acknowledged while `chunks` chunks were worked on is there, and nobody holds them any more.
async fn check_recovered(store: &SqliteStore, chunks: u32) {
    let progress = store.progress(&tenant(), BATCH).await.unwrap();
    let counts = &progress.counts;
    assert_eq!((counts.total(), counts.succeeded, counts.leased), (u64::from(ROWS), u64::from(chunks), 0));
    assert_eq!(counts.totals.calls, u64::from(chunks));
    let limit = PageLimit { items: 1_000, bytes: 1_000_000 };
    let outcomes = store.outcomes(&tenant(), BATCH, 0, limit).await.unwrap().outcomes;
    let bodies: Vec<_> = outcomes.into_iter().map(|outcome| (outcome.index, outcome.body.unwrap())).collect();
    assert_eq!(bodies, (0..chunks).map(|n| (2 * n, Bytes::from(format!("body {n}")))).collect::<Vec<_>>());
    assert_eq!(store.sessions().await.unwrap(), []);

    let session = SessionId::from_bytes([9; 16]);
    store.open(session, "next").await.unwrap();
    let wanted: Vec<_> =
        (0..chunks).map(|n| (ChunkId { batch: BATCH, n }, LeaseToken::from_bytes([100; 16]))).collect();
    let leases = store.claim(session, &wanted, NOW).await.unwrap();
    assert_eq!(
        leases.iter().map(|lease| (lease.head.kills, lease.head.open())).collect::<Vec<_>>(),
        vec![(1, 1); wanted.len()]
    );
}

fn copy_files(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[tokio::test]
async fn a_store_that_is_opened_again_has_everything_and_its_old_sessions_are_dead() {
    let store = TemporaryStore::new();
    queued(&store).await;
    for n in 0..3 {
        work_on(&store, n).await;
    }
    let store = store.reopen();
    check_recovered(&store, 3).await;
}

#[tokio::test]
async fn every_acknowledged_write_survives_a_kill() {
    let store = TemporaryStore::new();
    queued(&store).await;
    for n in 0..6 {
        work_on(&store, n).await;
        // What a kill at this moment would leave: the files as they are, the log not yet checkpointed.
        let left = tempfile::tempdir().unwrap();
        copy_files(store.path(), left.path(), &["promptmill.db", "promptmill.db-wal"]);
        check_recovered(&open(left.path()), n + 1).await;
    }
}

#[tokio::test]
async fn a_torn_last_write_costs_nothing_that_was_acknowledged() {
    let store = TemporaryStore::new();
    queued(&store).await;
    work_on(&store, 0).await;
    let left = tempfile::tempdir().unwrap();
    copy_files(store.path(), left.path(), &["promptmill.db", "promptmill.db-wal"]);
    let log = left.path().join("promptmill.db-wal");
    let mut torn = fs::read(&log).unwrap();
    torn.extend((0..5_000u32).map(|i| u8::try_from(i * 31 % 251).unwrap()));
    fs::write(&log, torn).unwrap();
    check_recovered(&open(left.path()), 1).await;
}

#[tokio::test]
async fn a_folder_has_one_user_at_a_time() {
    let store = TemporaryStore::new();
    let second = SqliteStore::open(store.path(), SqliteOptions::default());
    assert!(
        matches!(&second, Err(StoreError::Conflict(words)) if words.contains("another process")),
        "{second:?}"
    );
    drop(store.reopen());
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let file = folder.path().join("promptmill.db");
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 999).unwrap();
    let refused = SqliteStore::open(folder.path(), SqliteOptions::default());
    assert!(matches!(&refused, Err(StoreError::Conflict(words)) if words.contains("999")), "{refused:?}");
    let version: i64 =
        Connection::open(&file).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 999);
}

#[tokio::test]
async fn a_file_of_another_program_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("promptmill.db");
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE notes(text)").unwrap();
    assert!(matches!(
        SqliteStore::open(folder.path(), SqliteOptions::default()),
        Err(StoreError::Conflict(_))
    ));
    fs::write(&file, [7; 10_000]).unwrap();
    assert!(matches!(
        SqliteStore::open(folder.path(), SqliteOptions::default()),
        Err(StoreError::Corrupt(_))
    ));
}

/// A text that stands nowhere else, in `what`.
fn mark(what: &str) -> String {
    format!("a-mark-in-{what}-{what}")
}

#[tokio::test]
async fn a_deleted_batch_leaves_no_trace_in_the_files() {
    let store = TemporaryStore::new();
    let mut spec = BatchSpec::new(mark("template"), "demo:any".parse().unwrap(), LaneId::new("demo", "none"));
    spec.name = Some(mark("name"));
    spec.labels.insert(mark("label"), mark("value"));
    spec.metadata = Some(mark("metadata"));
    spec.webhook = Some(Webhook { url: mark("url"), sealed_secret: mark("secret"), results: false });
    let (batch, limits) = (BatchId::from_bytes([7; 16]), BatchLimits::default());
    let key = Some(mark("key"));
    store.create(&tenant(), NewBatch { id: batch, spec, limits, idem_key: key, now_ms: NOW }).await.unwrap();
    // Large enough for pages of their own, many enough to be deleted in steps.
    let large = |what: &str| Bytes::from(mark(what).repeat(2_000));
    let block =
        |seq| RowBlock { seq, len: 16, bytes: large("rows"), ids: Bytes::from(mark("ids").repeat(8)) };
    let blocks = (0..80).map(block).collect();
    store.put_rows(&tenant(), batch, UPLOAD, blocks, NOW).await.unwrap();
    let part = PartCommit { part: 0, upload: UPLOAD, blocks: 80, digest: [0; 32] };
    store.commit_part(&tenant(), batch, part).await.unwrap();
    flow::submit(&*store, &tenant(), batch, &LaneId::new("demo", "none"), NOW).await.unwrap();
    store.open(SESSION, "worker").await.unwrap();
    let chunks = store.waiting(batch, 20).await.unwrap();
    store.admit(&chunks, NOW).await.unwrap();
    for chunk in chunks {
        let token = LeaseToken::from_bytes([5; 16]);
        assert_eq!(store.claim(SESSION, &[(chunk, token)], NOW).await.unwrap().len(), 1);
        let small = (SettledItem { offset: 0, code: ItemCode::Succeeded }, Bytes::from(mark("body")));
        let big = (SettledItem { offset: 1, code: ItemCode::Repaired }, large("body"));
        let (settled, spent) = (vec![small, big], Totals::default());
        let group =
            SettleGroup { chunk, token, settled, parked: vec![], seq: 1, spent, release: Release::LetGo };
        store.settle([group].into(), NOW).await.unwrap();
    }
    let pause =
        BatchEvent::Pause(PauseReason::Suspect { kind: FailureKind::Timeout, message: mark("message") });
    store.steer(&tenant(), batch, pause, NOW).await.unwrap();
    store.steer(&tenant(), batch, BatchEvent::Cancel, NOW).await.unwrap();
    while store.seal(&tenant(), batch, 100, NOW).await.unwrap() > 0 {}
    store.close(&tenant(), batch, NOW).await.unwrap();
    // Something that stays, so that the files are not simply empty.
    queued(&store).await;

    let marks = || {
        let mut found = 0;
        for file in fs::read_dir(store.path()).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            found += bytes.windows(10).filter(|window| *window == b"a-mark-in-").count();
        }
        found
    };
    assert!(marks() > 10_000);
    while !store.delete(&tenant(), batch).await.unwrap() {}
    assert_eq!(marks(), 0);
    assert_eq!(store.batch(&tenant(), BATCH).await.unwrap().total, ROWS);
}
