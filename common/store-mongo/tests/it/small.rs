//! Many small batches at once, whatever becomes of the commands that are sent for them together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mongodb::bson::{Document, doc};
use promptmill_domain::{
    BatchEvent, BatchId, BatchState, ChunkId, LaneId, LeaseToken, PauseReason, SessionId, TenantId,
};
use promptmill_ports::{
    Accepted, Admission as _, BatchFilter, Close as _, Control as _, Intake as _, Outbox as _, PageLimit,
    Read as _, Retention as _, RowBlock, Sessions as _, Settled, SettledCursor, StoreError, StoreResult,
    WholeBatch, Work as _,
};
use promptmill_store_mongo::{MongoOptions, MongoStore};
use promptmill_test_servers::MongoServer;
use tokio::task::JoinSet;

use crate::TemporaryStore;
use crate::proxy::Proxy;
use crate::scene::{NOW, Scene, but_fences, settling};

/// For how long what was read with the claim of a single row is used by its close.
const MOMENT: Duration = Duration::from_millis(200);
const ALL: PageLimit = PageLimit { items: u32::MAX, bytes: usize::MAX };
const BATCHES: u32 = 6;
const ROWS: u32 = 2;
const COLLECTIONS: [&str; 7] = ["batches", "rows", "row_ids", "heads", "outcomes", "settled", "uploads"];

async fn connect(uri: String) -> MongoStore {
    MongoStore::connect(&MongoOptions::new(uri.into(), "promptmill")).await.unwrap()
}

fn whole(id: BatchId) -> WholeBatch {
    let batch = promptmill_ports::NewBatch { id, idem_key: None, ..Scene::new().new_batch() };
    let rows = RowBlock {
        seq: 0,
        len: ROWS,
        bytes: Bytes::from_static(b"rows"),
        ids: vec![1; 8 * ROWS as usize].into(),
    };
    WholeBatch { batch, rows, digest: [1; 32] }
}

/// The same with more bytes of rows than its document takes in.
fn large(id: BatchId) -> WholeBatch {
    let mut whole = whole(id);
    whole.rows.bytes = vec![b'r'; 17 * 1024].into();
    whole
}

fn fresh() -> BatchId {
    BatchId::at(NOW, rand::random())
}

/// Does this for every batch at the same time; answers in their order.
async fn at_once<T, F, Fut>(ids: &[BatchId], each: F) -> Vec<StoreResult<T>>
where
    T: Send + 'static,
    F: Fn(BatchId) -> Fut,
    Fut: Future<Output = StoreResult<T>> + Send + 'static,
{
    let mut set = JoinSet::new();
    for (at, id) in ids.iter().enumerate() {
        let one = each(*id);
        set.spawn(async move { (at, one.await) });
    }
    let mut answers: Vec<_> = set.join_all().await;
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// How a batch is made of an id.
type Make = fn(BatchId) -> WholeBatch;

async fn accept_all(
    store: &MongoStore,
    tenant: &TenantId,
    ids: &[BatchId],
    make: Make,
) -> Vec<StoreResult<Accepted>> {
    at_once(ids, |id| {
        let (store, tenant) = (store.clone(), tenant.clone());
        async move { store.accept(&tenant, make(id)).await }
    })
    .await
}

/// Some batches' whole life, and that each ended as it must. `before` is called before each step.
async fn live(store: &MongoStore, make: Make, before: &dyn Fn()) {
    let scene = Scene::new();
    let (tenant, session) = (&scene.tenant, scene.session);
    store.open(session, "worker").await.unwrap();
    let ids: Vec<_> = (0..BATCHES).map(|_| fresh()).collect();
    before();
    for accepted in accept_all(store, tenant, &ids, make).await {
        assert!(matches!(accepted.unwrap(), Accepted::New(_)));
    }
    let chunks: Vec<_> = ids.iter().flat_map(|id| (0..ROWS).map(|n| ChunkId { batch: *id, n })).collect();
    before();
    assert_eq!(store.admit(&chunks, NOW).await.unwrap(), chunks);
    let wanted: Vec<_> =
        chunks.iter().map(|chunk| (*chunk, LeaseToken::from_bytes(rand::random()))).collect();
    before();
    let leases = store.claim(session, &wanted, NOW).await.unwrap();
    assert_eq!(leases.len(), chunks.len());
    let (first, second): (Vec<_>, Vec<_>) = leases.iter().partition(|lease| lease.head.chunk.n == 0);
    for some in [first, second] {
        let groups: Vec<_> =
            some.iter().map(|lease| settling(lease, format!("body {}", lease.head.base))).collect();
        before();
        let settled = store.settle(groups.into(), NOW).await.unwrap();
        assert_eq!(settled, vec![Settled::Recorded { done: true }; some.len()]);
        before();
        store.order().await.unwrap();
    }
    before();
    let closed = at_once(&ids, |id| {
        let (store, tenant) = (store.clone(), tenant.clone());
        async move { store.close(&tenant, id, NOW).await }
    });
    for counts in closed.await {
        let counts = counts.unwrap().unwrap();
        assert_eq!((counts.succeeded, counts.totals.calls), (u64::from(ROWS), u64::from(ROWS)));
    }
    check(store, tenant, &ids, make).await;
}

async fn check(store: &MongoStore, tenant: &TenantId, ids: &[BatchId], make: Make) {
    let mut told = BTreeMap::new();
    for event in store.pending(u32::MAX).await.unwrap() {
        *told.entry(event.batch).or_insert(0) += 1;
    }
    for id in ids {
        let batch = store.batch(tenant, *id).await.unwrap();
        assert_eq!((batch.state, batch.total), (BatchState::Completed, ROWS));
        assert_eq!(batch.final_counts, Some(store.progress(tenant, *id).await.unwrap().counts));
        let page = store.settled(tenant, *id, SettledCursor::default(), ALL).await.unwrap();
        let seen: Vec<_> =
            page.outcomes.into_iter().map(|(outcome, _)| (outcome.index, outcome.body.unwrap())).collect();
        assert_eq!(seen, [(0, "body 0".into()), (1, "body 1".into())]);
        assert_eq!(told.get(id), Some(&1));
    }
    let used = store.usage(tenant, NOW).await.unwrap();
    let stored = u64::from(BATCHES) * (make(ids[0]).rows.bytes.len() as u64 + u64::from(ROWS) * 6);
    assert_eq!(used.rows, u64::from(BATCHES * ROWS));
    // Whoever does not know whether an insert was its own counts nothing for it.
    assert!(used.bytes <= stored, "{} bytes", used.bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_for_many_whose_answer_is_lost_after_it_took_effect_changes_nothing_when_repeated() {
    let server = MongoServer::start();
    let proxy = Proxy::before(server.port());
    let store = connect(proxy.uri()).await;
    // An accept inserts batches, and of larger ones hashes, rows and heads, and updates batches; an admission inserts heads of small batches, and
    // updates batches and heads.
    let inserts = (0..4).map(|first| (&["insert"][..], first));
    let updates = (0..2).map(|first| (&["update"][..], first));
    for (commands, first) in inserts.chain(updates).chain([(&["findAndModify"][..], 0)]) {
        let lost = proxy.lost();
        live(&store, large, &|| proxy.lose_answer_to(commands, first)).await;
        assert!(proxy.lost() > lost, "{commands:?}, {first}");
    }
    for commands in [&["insert"][..], &["update"], &["findAndModify"]] {
        let lost = proxy.lost();
        live(&store, whole, &|| proxy.lose_answer_to(commands, 0)).await;
        assert!(proxy.lost() > lost, "{commands:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_for_many_that_fails_on_its_way_or_is_not_replicated_in_time_is_repeated() {
    let server = MongoServer::start();
    let store = connect(server.uri()).await;
    let stepped_down = doc! { "code": 189, "codeName": "PrimarySteppedDown", "errmsg": "stepped down" };
    for command in ["insert", "update", "findAndModify"] {
        for how in [doc! { "closeConnection": true }, doc! { "writeConcernError": stepped_down.clone() }] {
            let mut data = doc! { "failCommands": [command], "appName": "promptmill" };
            data.extend(how);
            let fail = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data };
            for make in [whole, large] {
                live(&store, make, &|| drop(server.command("admin", fail.clone()))).await;
            }
        }
    }
}

/// From now on commands of this name fail for good, but for the first few.
fn fail_after(server: &MongoServer, command: &str, first: i32) {
    let data = doc! { "failCommands": [command], "errorCode": 50, "appName": "promptmill" };
    let fail = doc! { "configureFailPoint": "failCommand", "mode": { "skip": first }, "data": data };
    server.command("admin", fail);
}

fn fail_no_more(server: &MongoServer) {
    server.command("admin", doc! { "configureFailPoint": "failCommand", "mode": "off" });
}

async fn raw(server: &MongoServer) -> mongodb::Database {
    mongodb::Client::with_uri_str(server.uri()).await.unwrap().database("promptmill")
}

/// That the batch is there for nobody.
async fn check_absent(store: &MongoStore, tenant: &TenantId, id: BatchId) {
    assert!(matches!(store.batch(tenant, id).await, Err(StoreError::NotFound)));
    let page = store.batches(tenant, &BatchFilter::default(), None, ALL).await.unwrap();
    assert_eq!(page.batches, []);
    let queued = BatchFilter { state: Some("queued".to_owned()), ..BatchFilter::default() };
    assert_eq!(store.batches(tenant, &queued, None, ALL).await.unwrap().batches, []);
    assert_eq!(store.open_batches().await.unwrap(), []);
    assert!(matches!(store.delete(tenant, id).await, Err(StoreError::NotFound)));
    assert_eq!(store.admit(&[ChunkId { batch: id, n: 0 }], NOW).await.unwrap(), []);
    // Whoever would make it by steps is not to find half of it.
    assert!(matches!(store.create(tenant, large(id).batch).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn an_accept_that_is_cut_off_is_there_for_nobody_and_is_finished_by_whoever_repeats_it() {
    let server = MongoServer::start();
    let store = connect(server.uri()).await;
    for (command, first) in [("insert", 1), ("insert", 2), ("insert", 3), ("update", 0)] {
        let (tenant, id) = (Scene::new().tenant, fresh());
        fail_after(&server, command, first);
        assert!(matches!(store.accept(&tenant, large(id)).await, Err(StoreError::Unavailable(_))));
        fail_no_more(&server);
        check_absent(&store, &tenant, id).await;

        // The template of the name was changed meanwhile: what was stored first counts.
        let mut again = large(id);
        again.batch.spec.lane = LaneId::new("another", "none");
        assert_eq!(store.accept(&tenant, again.clone()).await.unwrap(), Accepted::Existing(id));
        let batch = store.batch(&tenant, id).await.unwrap();
        assert_eq!((batch.state, &batch.spec), (BatchState::Queued, &large(id).batch.spec));
        let chunks: Vec<_> = (0..ROWS).map(|n| ChunkId { batch: id, n }).collect();
        assert_eq!(store.admit(&chunks, NOW).await.unwrap(), chunks);
        let session = SessionId::at(NOW, rand::random());
        store.open(session, "worker").await.unwrap();
        let wanted: Vec<_> =
            chunks.iter().map(|chunk| (*chunk, LeaseToken::from_bytes(rand::random()))).collect();
        let leases = store.claim(session, &wanted, NOW).await.unwrap();
        assert_eq!(leases.len(), chunks.len());
        for lease in leases {
            assert_eq!((&lease.head.lane, &lease.rows), (&batch.spec.lane, &again.rows.bytes));
            store.settle([settling(&lease, "body")].into(), NOW).await.unwrap();
        }
        store.close(&tenant, id, NOW).await.unwrap().unwrap();
        assert_eq!(store.accept(&tenant, again).await.unwrap(), Accepted::Existing(id));
        // Other rows under the same id are another batch's.
        let other = WholeBatch { digest: [2; 32], ..large(fresh()) };
        fail_after(&server, "update", 0);
        assert!(store.accept(&tenant, other.clone()).await.is_err());
        fail_no_more(&server);
        let changed = WholeBatch { digest: [3; 32], ..other };
        assert!(matches!(store.accept(&tenant, changed).await, Err(StoreError::Conflict(_))));
    }
}

async fn check_nothing_left(server: &MongoServer) {
    let database = raw(server).await;
    for name in COLLECTIONS {
        let left = database.collection::<Document>(name).count_documents(but_fences()).await.unwrap();
        assert_eq!(left, 0, "{name}");
    }
}

#[tokio::test]
async fn what_an_accept_left_that_was_cut_off_goes_with_the_outlived_drafts() {
    let server = MongoServer::start();
    let store = connect(server.uri()).await;
    let (tenant, id) = (Scene::new().tenant, fresh());
    fail_after(&server, "update", 0);
    assert!(store.accept(&tenant, large(id)).await.is_err());
    fail_no_more(&server);
    assert_eq!(store.outlived(NOW, 0, NOW, 10).await.unwrap(), [], "it may still be under way");
    assert_eq!(store.outlived(NOW, 0, NOW + 1, 10).await.unwrap(), [(tenant.clone(), id)]);
    assert!(matches!(store.accept(&tenant, large(id)).await, Err(StoreError::Conflict(_))));
    while !store.delete(&tenant, id).await.unwrap() {}
    check_nothing_left(&server).await;
    assert!(matches!(store.accept(&tenant, large(id)).await.unwrap(), Accepted::New(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accept_that_is_slower_than_the_sweep_makes_no_batch_and_leaves_nothing() {
    let server = MongoServer::start();
    let store = Arc::new(connect(server.uri()).await);
    let sweeper = connect(server.uri()).await;
    let database = raw(&server).await;
    let heads = database.collection::<Document>("heads");
    for is_gone in [true, false] {
        let (tenant, id) = (Scene::new().tenant, fresh());
        // Its last command, but for the sums, waits long enough for others to be done meanwhile.
        let data = doc! {
            "failCommands": ["update"], "blockConnection": true, "blockTimeMS": 2_000, "appName": "promptmill",
        };
        let block = doc! { "configureFailPoint": "failCommand", "mode": { "times": 3 }, "data": data };
        server.command("admin", block);
        let slow = tokio::spawn({
            let (store, tenant) = (Arc::clone(&store), tenant.clone());
            async move { store.accept(&tenant, large(id)).await }
        });
        while heads.count_documents(but_fences()).await.unwrap() < u64::from(ROWS) {
            tokio::task::yield_now().await;
        }
        // As the sweep does it, in the name of someone whose commands are not held up.
        let batches = database.collection::<Document>("batches");
        batches.update_one(doc! {}, doc! { "$set": { "phase": 3 } }).await.unwrap();
        if is_gone {
            for name in COLLECTIONS {
                database.collection::<Document>(name).delete_many(doc! {}).await.unwrap();
            }
        }
        assert!(matches!(slow.await.unwrap(), Err(StoreError::Unavailable(_))));
        fail_no_more(&server);
        for (tenant, id) in sweeper.outlived(NOW, 0, 0, 10).await.unwrap() {
            while !sweeper.delete(&tenant, id).await.unwrap() {}
        }
        check_nothing_left(&server).await;
    }
}

fn one_row(id: BatchId) -> WholeBatch {
    let mut one = whole(id);
    (one.rows.len, one.rows.ids) = (1, Bytes::new());
    one
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_of_a_single_row_is_had_although_the_answer_to_it_was_lost() {
    let server = MongoServer::start();
    let proxy = Proxy::before(server.port());
    let store = connect(proxy.uri()).await;
    let (tenant, id) = (Scene::new().tenant, fresh());
    let session = SessionId::at(NOW, rand::random());
    store.open(session, "worker").await.unwrap();
    store.accept(&tenant, one_row(id)).await.unwrap();
    let chunk = ChunkId { batch: id, n: 0 };
    let claim =
        async |byte| store.claim(session, &[(chunk, LeaseToken::from_bytes([byte; 16]))], NOW).await.unwrap();
    let lost = proxy.lost();
    proxy.lose_answer_to(&["insert"], 0);
    let lease = claim(1).await.remove(0);
    assert!(proxy.lost() > lost);
    assert!(claim(2).await.is_empty());
    let settled = store.settle([settling(&lease, "body")].into(), NOW).await.unwrap();
    assert_eq!(settled, [Settled::Recorded { done: true }]);
    assert_eq!(store.close(&tenant, id, NOW).await.unwrap().unwrap().succeeded, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_row_that_is_leased_in_the_moment_in_which_its_batch_is_deleted_leaves_nothing() {
    let server = MongoServer::start();
    let store = Arc::new(connect(server.uri()).await);
    let (tenant, id) = (Scene::new().tenant, fresh());
    let session = SessionId::at(NOW, rand::random());
    store.open(session, "worker").await.unwrap();
    store.accept(&tenant, one_row(id)).await.unwrap();
    let data = doc! {
        "failCommands": ["insert"], "blockConnection": true, "blockTimeMS": 4_000, "appName": "promptmill",
    };
    server
        .command("admin", doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data });
    let chunk = ChunkId { batch: id, n: 0 };
    let slow = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.claim(session, &[(chunk, LeaseToken::from_bytes([7; 16]))], NOW).await }
    });
    let held_up = doc! { "currentOp": 1, "command.insert": "heads" };
    let begun = std::time::Instant::now();
    while server.command("admin", held_up.clone()).get_array("inprog").unwrap().is_empty() {
        assert!(begun.elapsed().as_secs() < 60, "the claim inserts nothing");
        tokio::task::yield_now().await;
    }
    store.steer(&tenant, id, BatchEvent::Cancel, NOW).await.unwrap();
    while store.seal(&tenant, id, 10, NOW).await.unwrap() > 0 {}
    store.close(&tenant, id, NOW).await.unwrap().unwrap();
    while !store.delete(&tenant, id).await.unwrap() {}
    assert!(slow.await.unwrap().unwrap().is_empty());
    for (tenant, id) in store.outlived(NOW, 0, 0, 10).await.unwrap() {
        while !store.delete(&tenant, id).await.unwrap() {}
    }
    check_nothing_left(&server).await;
}

#[tokio::test]
async fn the_commands_for_many_batches_are_about_as_many_as_for_one() {
    let store = TemporaryStore::new().await;
    let tenant = Scene::new().tenant;
    let session = SessionId::at(NOW, rand::random());
    store.open(session, "worker").await.unwrap();
    let mut taken = Vec::new();
    for count in [1, 50] {
        let ids: Vec<_> = (0..count).map(|_| fresh()).collect();
        let mut steps = Vec::new();
        let mut before = store.commands_sent();
        let mut step = |name: &'static str| {
            let now = store.commands_sent();
            steps.push((name, now - std::mem::replace(&mut before, now)));
        };
        accept_all(&store, &tenant, &ids, whole)
            .await
            .into_iter()
            .for_each(|accepted| drop(accepted.unwrap()));
        step("accept");
        let close_all = async || {
            let close = |id| {
                let (store, tenant) = (store.clone(), tenant.clone());
                async move { store.close(&tenant, id, NOW).await }
            };
            at_once(&ids, close).await.into_iter().map(Result::unwrap).collect::<Vec<_>>()
        };
        assert!(close_all().await.iter().all(Option::is_none));
        step("close too early");
        let chunks: Vec<_> = ids.iter().map(|id| ChunkId { batch: *id, n: 0 }).collect();
        assert_eq!(store.admit(&chunks, NOW).await.unwrap().len(), ids.len());
        step("admit");
        let wanted: Vec<_> =
            chunks.iter().map(|chunk| (*chunk, LeaseToken::from_bytes(rand::random()))).collect();
        let leases = store.claim(session, &wanted, NOW).await.unwrap();
        step("claim");
        let groups: Vec<_> = leases.iter().map(|lease| settling(lease, "body")).collect();
        store.settle(groups.into(), NOW).await.unwrap();
        store.order().await.unwrap();
        step("settle");
        let rest: Vec<_> = ids.iter().map(|id| ChunkId { batch: *id, n: 1 }).collect();
        store.admit(&rest, NOW).await.unwrap();
        let wanted: Vec<_> =
            rest.iter().map(|chunk| (*chunk, LeaseToken::from_bytes(rand::random()))).collect();
        let leases = store.claim(session, &wanted, NOW).await.unwrap();
        let groups: Vec<_> = leases.iter().map(|lease| settling(lease, "body")).collect();
        store.settle(groups.into(), NOW).await.unwrap();
        store.order().await.unwrap();
        step("the rest");
        assert!(close_all().await.iter().all(Option::is_some));
        step("close");
        store.open_batches().await.unwrap();
        step("look");
        taken.push(steps);
    }
    for ((name, one), (_, many)) in taken[0].iter().zip(&taken[1]) {
        // What is gathered goes in two groups: the first call goes at once.
        let groups = if ["accept", "close too early", "close"].contains(name) { 2 } else { 1 };
        assert!(*many <= groups * one, "{name}: {one} commands for one batch, {many} for fifty");
    }
    let of_one: BTreeMap<_, _> = taken[0].iter().copied().collect();
    assert!(of_one["accept"] <= 7 && of_one["admit"] <= 4 && of_one["claim"] <= 5, "{of_one:?}");
    assert!(of_one["settle"] <= 5 && of_one["close"] <= 5 && of_one["look"] <= 1, "{of_one:?}");
}

#[tokio::test]
async fn an_outcome_that_comes_after_the_cancel_counts_for_nothing() {
    let store = TemporaryStore::new().await;
    let scene = Scene { batch: fresh(), ..Scene::new() };
    store.accept(&scene.tenant, whole(scene.batch)).await.unwrap();
    store.open(scene.session, "worker").await.unwrap();
    store.admit(&[scene.chunk(0)], NOW).await.unwrap();
    let lease = scene.lease(&*store, 0).await;
    // Another process does it; this one remembers its lease for a moment.
    let other = store.other().await;
    other.steer(&scene.tenant, scene.batch, BatchEvent::Cancel, NOW).await.unwrap();
    while other.seal(&scene.tenant, scene.batch, 10, NOW).await.unwrap() > 0 {}
    let settled = store.settle([settling(&lease, "late")].into(), NOW).await.unwrap();
    assert_eq!(settled, [Settled::Fenced]);
    let rows = whole(scene.batch).rows.bytes.len() as u64;
    assert_eq!(store.usage(&scene.tenant, NOW).await.unwrap().bytes, rows);
}

#[tokio::test]
async fn a_close_rests_on_nothing_that_someone_else_changed_since_the_single_row_was_claimed() {
    let store = TemporaryStore::new().await;
    let other = store.other().await;
    for is_cancelled in [false, true] {
        // What was read with the claim is good for a moment; where that passed, the commands show nothing of it, and it is done again.
        for _ in 0..20 {
            let scene = Scene { batch: fresh(), ..Scene::new() };
            store.accept(&scene.tenant, one_row(scene.batch)).await.unwrap();
            store.open(scene.session, "worker").await.unwrap();
            let another = fresh();
            store.accept(&scene.tenant, one_row(another)).await.unwrap();
            let claimed = Instant::now();
            // A pause asks which tenants have endpoints, which the close then knows.
            store
                .steer(&scene.tenant, another, BatchEvent::Pause(PauseReason::Requested), NOW)
                .await
                .unwrap();
            let lease = scene.lease(&*store, 0).await;
            assert!(lease.batch.is_some());
            settle_body(&store, &lease, "body").await;
            if is_cancelled {
                other.steer(&scene.tenant, scene.batch, BatchEvent::Cancel, NOW).await.unwrap();
            }
            let before = store.commands_sent();
            let counts = store.close(&scene.tenant, scene.batch, NOW).await.unwrap().unwrap();
            let (sent, was_quick) = (store.commands_sent() - before, claimed.elapsed() < MOMENT);
            assert_eq!((counts.succeeded, counts.total()), (1, 1));
            let batch = other.batch(&scene.tenant, scene.batch).await.unwrap();
            let state = if is_cancelled { BatchState::Cancelled } else { BatchState::Completed };
            assert_eq!((batch.state, batch.final_counts), (state, Some(counts)));
            if was_quick {
                // One gives the event its number, and one ends the batch.
                assert!(if is_cancelled { sent > 2 } else { sent == 2 }, "{sent} commands");
                break;
            }
        }
    }
}

/// How many documents each of the collections holds that has any.
async fn documents(store: &TemporaryStore) -> Vec<(&'static str, u64)> {
    let database = store.raw().await;
    let mut counted = Vec::new();
    for name in COLLECTIONS.into_iter().chain(["slices"]) {
        let count = database.collection::<Document>(name).count_documents(but_fences()).await.unwrap();
        counted.extend((count > 0).then_some((name, count)));
    }
    counted
}

#[tokio::test]
async fn a_small_batch_is_one_document_until_something_of_it_runs() {
    let store = TemporaryStore::new().await;
    let (tenant, id) = (Scene::new().tenant, fresh());
    store.accept(&tenant, whole(id)).await.unwrap();
    assert_eq!(documents(&store).await, [("batches", 1)]);
    let chunks: Vec<_> = (0..ROWS).map(|n| ChunkId { batch: id, n }).collect();
    assert_eq!(store.waiting(id, 10).await.unwrap(), chunks);
    assert_eq!(store.waiting(id, 1).await.unwrap(), chunks[..1]);
    let progress = store.progress(&tenant, id).await.unwrap();
    assert_eq!((progress.counts.waiting, progress.open_chunks), (2, 2));
    assert_eq!(store.close(&tenant, id, NOW).await.unwrap(), None);
    assert!(matches!(store.rows(&tenant, id, 2).await, Err(StoreError::NotFound)));
    // The second of its rows runs, and the first still waits.
    assert_eq!(store.admit(&chunks[1..], NOW).await.unwrap(), chunks[1..]);
    assert_eq!(store.admit(&chunks[1..], NOW).await.unwrap(), []);
    assert_eq!(store.waiting(id, 10).await.unwrap(), chunks[..1]);
    let scene = Scene { tenant, batch: id, ..Scene::new() };
    store.open(scene.session, "worker").await.unwrap();
    let lease = scene.lease(&*store, 1).await;
    assert_eq!((lease.rows.as_ref(), lease.head.rows.skip), (&b"rows"[..], 1));
    settle_body(&store, &lease, "body").await;
    let progress = store.progress(&scene.tenant, id).await.unwrap();
    assert_eq!((progress.counts.waiting, progress.counts.succeeded, progress.open_chunks), (1, 1, 1));
    assert_eq!(store.close(&scene.tenant, id, NOW).await.unwrap(), None);
    let outcomes = store.outcomes(&scene.tenant, id, 0, ALL).await.unwrap().outcomes;
    assert_eq!(outcomes.iter().map(|outcome| outcome.index).collect::<Vec<_>>(), [1]);
    // What never had a head is sealed as well.
    store.steer(&scene.tenant, id, BatchEvent::Cancel, NOW).await.unwrap();
    assert_eq!(store.seal(&scene.tenant, id, 10, NOW).await.unwrap(), 1);
    assert_eq!(store.seal(&scene.tenant, id, 10, NOW).await.unwrap(), 0);
    let counts = store.close(&scene.tenant, id, NOW).await.unwrap().unwrap();
    assert_eq!((counts.succeeded, counts.cancelled), (1, 1));
    let page = store.settled(&scene.tenant, id, SettledCursor::default(), ALL).await.unwrap();
    assert_eq!(page.outcomes.iter().map(|(outcome, _)| outcome.index).collect::<Vec<_>>(), [1, 0]);
    while !store.delete(&scene.tenant, id).await.unwrap() {}
    assert_eq!(documents(&store).await, []);
    assert_eq!(store.usage(&scene.tenant, NOW).await.unwrap().bytes, 0);
}

async fn settle_body(store: &MongoStore, lease: &promptmill_ports::Lease, body: &str) {
    let settled = store.settle([settling(lease, body.to_owned())].into(), NOW).await.unwrap();
    assert_eq!(settled, [Settled::Recorded { done: true }]);
}

#[tokio::test]
async fn a_job_of_one_row_is_two_documents_unless_its_outcome_is_large() {
    let store = TemporaryStore::new().await;
    let ended: [&[(&str, u64)]; 2] =
        [&[("batches", 1), ("heads", 1)], &[("batches", 1), ("heads", 1), ("outcomes", 1)]];
    for (body, ended) in ["small".to_owned(), "x".repeat(17 * 1024)].into_iter().zip(ended) {
        let scene = Scene::new();
        let (tenant, id) = (&scene.tenant, fresh());
        store.accept(tenant, one_row(id)).await.unwrap();
        let scene = Scene { batch: id, tenant: tenant.clone(), ..scene };
        store.open(scene.session, "worker").await.unwrap();
        assert_eq!(store.admit(&[scene.chunk(0)], NOW).await.unwrap(), [scene.chunk(0)]);
        let settled = async |after| store.settled(&scene.tenant, id, after, ALL).await.unwrap();
        assert_eq!(settled(SettledCursor::default()).await.outcomes, []);
        let lease = scene.lease(&*store, 0).await;
        settle_body(&store, &lease, &body).await;
        let other = store.other().await;
        let counts = other.close(&scene.tenant, id, NOW).await.unwrap().unwrap();
        assert_eq!(counts.succeeded, 1);
        assert_eq!(documents(&store).await, ended);
        let outcomes = other.outcomes(&scene.tenant, id, 0, ALL).await.unwrap().outcomes;
        assert_eq!(
            outcomes.iter().map(|one| one.body.as_deref()).collect::<Vec<_>>(),
            [Some(body.as_bytes())]
        );
        let page = settled(SettledCursor::default()).await;
        assert_eq!(page.outcomes, [(outcomes[0].clone(), page.next)]);
        assert!(page.caught_up);
        let behind = settled(page.next).await;
        assert_eq!((behind.outcomes, behind.next, behind.caught_up), (vec![], page.next, true));
        while !other.delete(&scene.tenant, id).await.unwrap() {}
        assert_eq!(documents(&store).await, []);
        assert_eq!(other.usage(&scene.tenant, NOW).await.unwrap().bytes, 0);
    }
}

#[tokio::test]
async fn what_was_admitted_of_a_batch_that_is_no_more_is_cleared_away() {
    let store = TemporaryStore::new().await;
    let batches = store.raw().await.collection::<Document>("batches");
    for is_claimed in [true, false] {
        let scene = Scene { batch: fresh(), ..Scene::new() };
        store.accept(&scene.tenant, whole(scene.batch)).await.unwrap();
        store.open(scene.session, "worker").await.unwrap();
        store.admit(&[scene.chunk(0)], NOW).await.unwrap();
        // As if the batch had been sealed, ended and deleted just before the head was written.
        batches.delete_many(doc! {}).await.unwrap();
        if is_claimed {
            let wanted = [(scene.chunk(0), LeaseToken::from_bytes(rand::random()))];
            assert!(store.claim(scene.session, &wanted, NOW).await.unwrap().is_empty());
        }
        let gone = store.outlived(NOW, 1_000, 0, 10).await.unwrap();
        assert_eq!(gone, [(scene.tenant.clone(), scene.batch)]);
        while !store.delete(&scene.tenant, scene.batch).await.unwrap() {}
        assert_eq!(documents(&store).await, []);
    }
}
