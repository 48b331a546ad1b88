//! What can only be seen or caused from inside: a full disk, bodies that came too early, and the groups of the writer.

use bytes::Bytes;
use promptmill_domain::{
    BatchEvent, BatchId, BatchLimits, BatchSpec, ChunkId, FailureKind, ItemCode, LaneId, LeaseToken, Release,
    SessionId, SettledItem, TenantId, Totals, UploadId,
};
use promptmill_ports::{
    Admission as _, Close as _, Control as _, Intake as _, NewBatch, PageLimit, PartCommit, Read as _,
    RowBlock, Sessions as _, SettleGroup, Settled, StoreError, StoredOutcome, Work as _, flow,
};
use rusqlite::{Connection, params};
use tempfile::TempDir;

use crate::fault::Fault;
use crate::{SqliteOptions, SqliteStore};

const NOW: u64 = 1_790_000_000_000;
const BATCH: BatchId = BatchId::from_bytes([1; 16]);
const CHUNK: ChunkId = ChunkId { batch: BATCH, n: 0 };
const TOKEN: LeaseToken = LeaseToken::from_bytes([4; 16]);

fn tenant() -> TenantId {
    TenantId::default_tenant()
}

fn open(folder: &TempDir, max_pages: Option<u32>) -> SqliteStore {
    SqliteStore::open(folder.path(), SqliteOptions { max_pages, ..SqliteOptions::default() }).unwrap()
}

async fn draft(store: &SqliteStore) {
    let spec = BatchSpec::new("{}".to_owned(), "demo:any".parse().unwrap(), LaneId::new("demo", "none"));
    let batch = NewBatch { id: BATCH, spec, limits: BatchLimits::default(), idem_key: None, now_ms: NOW };
    store.create(&tenant(), batch).await.unwrap();
}

/// A batch whose first chunk, of three items, is leased under [`TOKEN`].
async fn leased(store: &SqliteStore) {
    draft(store).await;
    let upload = UploadId::from_bytes([2; 16]);
    let block = RowBlock { seq: 0, len: 96, bytes: Bytes::from_static(b"rows"), ids: Bytes::new() };
    store.put_rows(&tenant(), BATCH, upload, vec![block], NOW).await.unwrap();
    let part = PartCommit { part: 0, upload, blocks: 1, digest: [0; 32] };
    store.commit_part(&tenant(), BATCH, part).await.unwrap();
    flow::submit(store, &tenant(), BATCH, &LaneId::new("demo", "none"), NOW).await.unwrap();
    let session = SessionId::from_bytes([3; 16]);
    store.open(session, "worker").await.unwrap();
    store.admit(&[CHUNK], NOW).await.unwrap();
    assert_eq!(store.claim(session, &[(CHUNK, TOKEN)], NOW).await.unwrap().len(), 1);
}

fn group(settled: Vec<(u32, ItemCode, &'static str)>) -> SettleGroup {
    let item = |(offset, code, body): (u32, ItemCode, &'static str)| {
        (SettledItem { offset, code }, Bytes::from(body))
    };
    SettleGroup {
        chunk: CHUNK,
        token: TOKEN,
        settled: settled.into_iter().map(item).collect(),
        parked: vec![],
        seq: 1,
        spent: Totals::default(),
        release: Release::Keep,
    }
}

/// Puts a body where no head's byte names it, as a writer that stores bodies before heads may leave it.
async fn orphan(store: &SqliteStore, index: u32, code: ItemCode, body: &'static str) {
    let insert = move |db: &rusqlite::Connection| {
        let num: i64 = db.query_row("SELECT num FROM batches", [], |row| row.get(0))?;
        let id = crate::batches::BatchNum(num).key(index);
        db.execute(
            "INSERT INTO outcomes(id, code, body) VALUES (?1, ?2, ?3)",
            params![id, code.byte(), body.as_bytes()],
        )?;
        Ok(())
    };
    store.write(0, insert).await.unwrap();
}

async fn outcomes(store: &SqliteStore) -> Vec<StoredOutcome> {
    store.outcomes(&tenant(), BATCH, 0, PageLimit { items: 100, bytes: 10_000 }).await.unwrap().outcomes
}

#[tokio::test]
async fn a_body_that_is_there_already_is_adopted_with_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, None);
    leased(&store).await;
    let failed = ItemCode::Failed(FailureKind::Timeout);
    orphan(&store, 1, failed, "of the holder before").await;
    assert_eq!(outcomes(&store).await, []);

    let settled =
        store.settle([group(vec![(1, ItemCode::Succeeded, "of the new holder")])].into(), NOW).await.unwrap();
    assert_eq!(settled, [Settled::Recorded { done: false }]);
    let body = Some(Bytes::from("of the holder before"));
    assert_eq!(outcomes(&store).await, [StoredOutcome { index: 1, code: failed, body }]);
    let counts = store.progress(&tenant(), BATCH).await.unwrap().counts;
    assert_eq!((counts.succeeded, counts.all_failed()), (0, 1));
}

#[tokio::test]
async fn a_body_that_no_byte_names_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, None);
    leased(&store).await;
    orphan(&store, 0, ItemCode::Succeeded, "too late").await;
    orphan(&store, 2, ItemCode::Succeeded, "not yet").await;
    store.settle([group(vec![(1, ItemCode::Succeeded, "in time")])].into(), NOW).await.unwrap();
    store.steer(&tenant(), BATCH, BatchEvent::Cancel, NOW).await.unwrap();
    store.seal(&tenant(), BATCH, 100, NOW).await.unwrap();
    let seen: Vec<_> =
        outcomes(&store).await.into_iter().take(3).map(|o| (o.index, o.code, o.body)).collect();
    let cancelled = |index| (index, ItemCode::Cancelled, None);
    assert_eq!(seen, [cancelled(0), (1, ItemCode::Succeeded, Some(Bytes::from("in time"))), cancelled(2)]);
}

#[tokio::test]
async fn a_full_disk_is_unavailable_and_forgiven_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, Some(100));
    draft(&store).await;
    let upload = UploadId::from_bytes([2; 16]);
    let put = async |seq: u32| {
        let block = RowBlock { seq, len: 1, bytes: vec![1; 64 * 1024].into(), ids: Bytes::new() };
        store.put_rows(&tenant(), BATCH, upload, vec![block], NOW).await
    };
    let mut stored = 0;
    let refused = loop {
        match put(stored).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    assert!((1..10).contains(&stored), "{stored}");
    assert!(matches!(put(stored).await, Err(StoreError::Unavailable(_))));
    // What is there can be read all the while.
    assert_eq!(store.batch(&tenant(), BATCH).await.unwrap().id, BATCH);

    store.write(0, |db| Ok(db.pragma_update(None, "max_page_count", 10_000)?)).await.unwrap();
    for seq in stored..20 {
        put(seq).await.unwrap();
    }
    let part = PartCommit { part: 0, upload, blocks: 20, digest: [0; 32] };
    store.commit_part(&tenant(), BATCH, part).await.unwrap();
}

/// Writes a group of four, of which the one at `failing` fails behind its write; answers what is there then.
async fn group_of_four(failing: usize) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, None);
    let insert = move |db: &Connection, at: usize| {
        let (sql, label) =
            ("INSERT INTO sessions(id, label, beat, alive) VALUES (?1, ?2, 0, 1)", at.to_string());
        db.execute(sql, params![label.as_bytes(), label])?;
        if at == failing { Err(Fault::conflict("no")) } else { Ok(()) }
    };
    let (held, go) = std::sync::mpsc::channel::<()>();
    // Holds the writer until all the others wait, so that they share one group.
    let first = store.write(0, move |db| {
        go.recv().map_err(|_| Fault::corrupt("nobody let go"))?;
        insert(db, 0)
    });
    let inserts = |at| store.write(0, move |db| insert(db, at));
    let release = async move {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        held.send(()).unwrap();
    };
    let (first, one, two, three, ()) = tokio::join!(first, inserts(1), inserts(2), inserts(3), release);
    for (result, at) in [first, one, two, three].into_iter().zip(0..) {
        assert_eq!(matches!(result, Err(StoreError::Conflict(_))), at == failing, "{at}: {result:?}");
        assert!(result.is_ok() || at == failing, "{at}: {result:?}");
    }
    let labels = store.read(|db| {
        let mut labels = db.prepare("SELECT label FROM sessions ORDER BY label")?;
        let labels = labels.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
        Ok(labels)
    });
    labels.await.unwrap()
}

#[tokio::test]
async fn a_command_that_fails_takes_nothing_of_its_group_with_it() {
    assert_eq!(group_of_four(0).await, ["1", "2", "3"]);
    assert_eq!(group_of_four(2).await, ["0", "1", "3"]);
    assert_eq!(group_of_four(4).await, ["0", "1", "2", "3"]);
}

#[tokio::test]
async fn a_group_that_cannot_be_committed_is_unavailable_and_the_next_one_works() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, None);
    // Ends the transaction behind the writer's back, as SQLite itself does when the disk fails.
    let lost = store.write(0, |db| {
        db.execute("INSERT INTO sessions(id, label, beat, alive) VALUES (x'01', 'lost', 0, 1)", [])?;
        Ok(db.execute_batch("ROLLBACK")?)
    });
    assert!(matches!(lost.await, Err(StoreError::Unavailable(_))));
    assert_eq!(store.sessions().await.unwrap(), []);
    draft(&store).await;
}

#[tokio::test]
async fn a_deletion_that_was_cut_short_is_finished_after_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, None);
    leased(&store).await;
    store.settle([group(vec![(0, ItemCode::Succeeded, "body")])].into(), NOW).await.unwrap();
    store.write(0, |db| Ok(db.execute_batch("UPDATE batches SET phase = 3")?)).await.unwrap();
    drop(store);
    let store = open(&folder, None);
    let left = async || {
        let sql = "SELECT (SELECT count(*) FROM batches) + (SELECT count(*) FROM heads) + (SELECT count(*) FROM outcomes)
            + (SELECT count(*) FROM row_blocks) + (SELECT count(*) FROM parts)";
        store.read(move |db| Ok(db.query_row(sql, [], |row| row.get::<_, u64>(0))?)).await.unwrap()
    };
    // It happens while the writer has nothing else to do; each look gives it time.
    let mut looks = 0;
    while left().await > 0 {
        looks += 1;
        assert!(looks < 100_000, "the leftovers stay");
    }
}

#[tokio::test]
async fn open_batches_are_told_as_they_are_now_and_ready_chunks_in_the_order_of_ids() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, None);
    leased(&store).await;
    let earlier = BatchId::from_bytes([0; 16]);
    let lane = LaneId::new("demo", "none");
    let spec = BatchSpec::new("a-prompt".to_owned(), "demo:any".parse().unwrap(), lane.clone());
    let limits = BatchLimits::default();
    let new = NewBatch { id: earlier, spec, limits, idem_key: None, now_ms: NOW };
    store.create(&tenant(), new).await.unwrap();
    let upload = UploadId::from_bytes([5; 16]);
    let block = RowBlock { seq: 0, len: 1, bytes: Bytes::from_static(b"rows"), ids: Bytes::new() };
    store.put_rows(&tenant(), earlier, upload, vec![block], NOW).await.unwrap();
    let part = PartCommit { part: 0, upload, blocks: 1, digest: [0; 32] };
    store.commit_part(&tenant(), earlier, part).await.unwrap();

    let check = async |wanted: &[BatchId]| {
        let open = store.open_batches().await.unwrap();
        assert_eq!(open.iter().map(|batch| batch.id).collect::<Vec<_>>(), wanted);
        for batch in open {
            assert_eq!(batch, store.batch(&tenant(), batch.id).await.unwrap());
        }
    };
    check(&[BATCH]).await;
    store.begin_submit(&tenant(), earlier).await.unwrap();
    check(&[earlier, BATCH]).await;
    flow::submit(&store, &tenant(), earlier, &lane, NOW).await.unwrap();
    check(&[earlier, BATCH]).await;
    store.set_limits(&tenant(), BATCH, BatchLimits { priority: 5, ..limits }).await.unwrap();
    check(&[earlier, BATCH]).await;
    assert!(!format!("{store:?}").contains("a-prompt"));

    assert_eq!(store.ready(None, 10).await.unwrap(), []);
    let first = ChunkId { batch: earlier, n: 0 };
    let [second, third] = [1, 2].map(|n| ChunkId { batch: BATCH, n });
    store.admit(&[third, second, first], NOW).await.unwrap();
    assert_eq!(store.ready(None, 10).await.unwrap(), [first, second, third]);
    assert_eq!(store.ready(None, 2).await.unwrap(), [first, second]);
    assert_eq!(store.ready(Some(second), 10).await.unwrap(), [third]);

    store.steer(&tenant(), earlier, BatchEvent::Cancel, NOW).await.unwrap();
    while store.seal(&tenant(), earlier, 100, NOW).await.unwrap() > 0 {}
    check(&[earlier, BATCH]).await;
    store.close(&tenant(), earlier, NOW).await.unwrap();
    check(&[BATCH]).await;
}
