//! A file of an older schema opens, and what is in it works on.

use bytes::Bytes;
use promptmill_domain::{
    BatchEvent, BatchId, BatchState, ChunkId, FailureKind, ItemCode, LaneId, LeaseToken, Money, SessionId,
    SettledItem, TenantId, UploadId,
};
use promptmill_ports::{
    Admission as _, BatchFilter, Close as _, Control as _, Intake as _, PageLimit, Part, Read as _,
    Retention as _, RowBlock, Rows as _, Sessions as _, SettleGroup, Settled, SettledCursor, StoreError,
    StoredOutcome, Usage, Work as _, flow,
};
use promptmill_store_sqlite::SqliteStore;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::open;

const NOW: u64 = 1_790_000_100_000;
const OVER: BatchId = BatchId::from_bytes([0x11; 16]);
const RUNNING: BatchId = BatchId::from_bytes([0x12; 16]);
const DRAFT: BatchId = BatchId::from_bytes([0x13; 16]);
const ABANDONED: UploadId = UploadId::from_bytes([0x24; 16]);
const ALL: PageLimit = PageLimit { items: 1_000, bytes: 1_000_000 };

fn tenant() -> TenantId {
    TenantId::default_tenant()
}

/// A store over a file that was made with schema version 1.
fn migrated() -> (SqliteStore, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let db = Connection::open(folder.path().join("promptmill.db")).unwrap();
    db.execute_batch(include_str!("version_1.sql")).unwrap();
    drop(db);
    (open(folder.path()), folder)
}

async fn settled(store: &SqliteStore, batch: BatchId) -> Vec<StoredOutcome> {
    let page = store.settled(&tenant(), batch, SettledCursor::default(), ALL).await.unwrap();
    assert!(page.caught_up);
    page.outcomes.into_iter().map(|(outcome, _)| outcome).collect()
}

#[tokio::test]
async fn a_batch_that_was_over_keeps_its_outcomes_and_gets_an_order() {
    let (store, _folder) = migrated();
    let batch = store.batch(&tenant(), OVER).await.unwrap();
    assert_eq!((batch.state, batch.ver, batch.total), (BatchState::Cancelled, 5, 6));
    assert_eq!((batch.limits.priority, batch.limits.max_concurrency), (7, Some(4)));
    assert_eq!((batch.spec.lane, batch.spec.settings.temperature), (LaneId::new("demo", "none"), Some(0.1)));
    assert_eq!((batch.spec.name, batch.submitted_ms), (None, None));
    assert!(batch.finished_ms.is_some_and(|finished_ms| finished_ms > batch.created_ms));
    let counts = store.progress(&tenant(), OVER).await.unwrap().counts;
    assert_eq!(Some(counts), batch.final_counts);

    let outcome = |index, code, body: Option<&'static [u8]>| StoredOutcome {
        index,
        code,
        body: body.map(Bytes::from_static),
    };
    let wanted = [
        outcome(0, ItemCode::Succeeded, Some(b"\xaa")),
        outcome(1, ItemCode::Failed(FailureKind::Timeout), Some(b"\xbb")),
        outcome(2, ItemCode::Failed(FailureKind::WorkerKiller), None),
        outcome(3, ItemCode::Succeeded, Some(b"\xcc")),
        outcome(4, ItemCode::Cancelled, None),
        outcome(5, ItemCode::Cancelled, None),
    ];
    assert_eq!(store.outcomes(&tenant(), OVER, 0, ALL).await.unwrap().outcomes, wanted);
    assert_eq!(settled(&store, OVER).await, wanted);
    let parts = store.parts(&tenant(), OVER).await.unwrap();
    assert_eq!(parts, [Part { part: 0, digest: [0; 32], rows: 6 }]);
    assert_eq!(store.block(&tenant(), OVER, 0, 1).await.unwrap(), &[5, 6][..]);

    let of_state = BatchFilter { state: Some("cancelled".to_owned()), ..BatchFilter::default() };
    let listed = store.batches(&tenant(), &of_state, None, PageLimit::items(10)).await.unwrap().batches;
    assert_eq!(listed.iter().map(|batch| batch.id).collect::<Vec<_>>(), [OVER]);
    assert_eq!(store.outlived(u64::MAX, 0, 0, 10).await.unwrap(), [(tenant(), OVER)]);
    while !store.delete(&tenant(), OVER).await.unwrap() {}
    let Usage { rows, bytes, .. } = store.usage(&tenant(), NOW).await.unwrap();
    assert_eq!((rows, bytes), (0, 10));
}

#[tokio::test]
async fn a_batch_that_ran_runs_on() {
    let (store, _folder) = migrated();
    let batch = store.batch(&tenant(), RUNNING).await.unwrap();
    assert_eq!((batch.limits.priority, batch.limits.guard), (-5, false));
    assert_eq!(batch.limits.max_cost.map(Money::pico), Some(1_500_000_000_000));
    assert_eq!(batch.spec.lane, LaneId::new("ollama", "default"));

    // The session of before is dead, so its chunk is to be had.
    let (session, token) = (SessionId::from_bytes([9; 16]), LeaseToken::from_bytes([8; 16]));
    store.open(session, "next").await.unwrap();
    let chunk = ChunkId { batch: RUNNING, n: 0 };
    let lease = store.claim(session, &[(chunk, token)], NOW).await.unwrap().remove(0);
    assert_eq!((lease.head.kills, lease.head.open(), lease.head.parked.len()), (1, 2, 1));
    assert_eq!(lease.rows, &[7, 8, 9][..]);
    let settle = |seq, offset| SettleGroup {
        chunk,
        token,
        settled: vec![(SettledItem { offset, code: ItemCode::Repaired }, Bytes::from_static(b"new"))],
        parked: vec![],
        seq,
        spent: promptmill_domain::Totals::default(),
        release: promptmill_domain::Release::Keep,
    };
    store.settle([settle(1, 2)].into(), NOW).await.unwrap();
    assert_eq!(store.settle([settle(2, 1)].into(), NOW).await.unwrap(), [Settled::Recorded { done: true }]);
    let order: Vec<_> = settled(&store, RUNNING).await.into_iter().map(|outcome| outcome.index).collect();
    assert_eq!(order, [0, 2, 1]);
    let counts = store.close(&tenant(), RUNNING, NOW).await.unwrap().unwrap();
    assert_eq!((counts.succeeded, counts.repaired, counts.totals.calls), (1, 2, 2));
    assert_eq!(store.batch(&tenant(), RUNNING).await.unwrap().finished_ms, Some(NOW));
    assert!(store.steer(&tenant(), RUNNING, BatchEvent::Cancel, NOW).await.is_err());
}

#[tokio::test]
async fn a_draft_goes_on_and_its_abandoned_upload_is_swept() {
    let (store, _folder) = migrated();
    assert_eq!(store.usage(&tenant(), NOW).await.unwrap().bytes, 20);
    assert_eq!(store.outlived(0, 0, 0, 10).await.unwrap(), []);
    // It is known to live when it sends.
    let block = RowBlock { seq: 1, len: 1, bytes: Bytes::from_static(b"x"), ids: Bytes::new() };
    store.put_rows(&tenant(), DRAFT, ABANDONED, vec![block.clone()], NOW).await.unwrap();
    assert_eq!(store.outlived(0, 0, NOW, 10).await.unwrap(), []);
    assert_eq!(store.drop_stale_uploads(NOW).await.unwrap(), 0);
    assert_eq!(store.drop_stale_uploads(NOW + 1).await.unwrap(), 2);
    let late = store.put_rows(&tenant(), DRAFT, ABANDONED, vec![block], NOW + 2).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))));
    assert_eq!(store.usage(&tenant(), NOW).await.unwrap().bytes, 16);

    let lane = LaneId::new("openrouter", "default");
    assert_eq!(store.batch(&tenant(), DRAFT).await.unwrap().spec.lane, lane);
    assert_eq!(flow::submit(&store, &tenant(), DRAFT, &lane, NOW).await.unwrap(), 2);
    let Usage { rows, bytes, .. } = store.usage(&tenant(), NOW).await.unwrap();
    assert_eq!((rows, bytes), (2, 16));
    assert_eq!(store.waiting(DRAFT, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_draft_that_nobody_sends_to_any_more_is_deleted() {
    let (store, _folder) = migrated();
    assert_eq!(store.outlived(0, 0, NOW, 10).await.unwrap(), [(tenant(), DRAFT)]);
    while !store.delete(&tenant(), DRAFT).await.unwrap() {}
    assert_eq!(store.usage(&tenant(), NOW).await.unwrap().bytes, 14);
}
