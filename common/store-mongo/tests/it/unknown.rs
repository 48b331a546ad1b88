//! Results that never came: whatever was done before the answer was lost, the step repeated ends the same.

use std::cell::{Cell, RefCell};

use mongodb::bson::doc;
use promptmill_domain::{BatchEvent, BatchState};
use promptmill_ports::{
    Admission as _, Control as _, Intake as _, PageLimit, PartCommit, Read as _, Retention as _, RowBlock,
    Rows as _, Sessions as _, Settled, SettledCursor, StoreError, Work as _,
};
use promptmill_store_mongo::{MongoOptions, MongoStore};
use promptmill_test_servers::{MongoReplicaSet, MongoServer};

use crate::life::live;
use crate::proxy::Proxy;
use crate::scene::{NOW, Scene, settling};

async fn connect(uri: String) -> MongoStore {
    MongoStore::connect(&MongoOptions::new(uri.into(), "promptmill")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_answer_is_lost_after_it_took_effect_changes_nothing_when_repeated() {
    let server = MongoServer::start();
    let proxy = Proxy::before(server.port());
    let store = connect(proxy.uri()).await;
    // A settle updates heads, sums and the order.
    let updates = (0..3).map(|first| (&["update"][..], first));
    for (commands, first) in updates.chain([(&["insert"][..], 0), (&["delete", "findAndModify"], 0)]) {
        let lost = proxy.lost();
        live(&store, &|| proxy.lose_answer_to(commands, first)).await;
        assert!(proxy.lost() >= lost + 2, "{commands:?}, {first}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_fails_on_its_way_or_is_not_replicated_in_time_is_repeated() {
    let server = MongoServer::start();
    let store = connect(server.uri()).await;
    let stepped_down = doc! { "code": 189, "codeName": "PrimarySteppedDown", "errmsg": "stepped down" };
    let cases = [
        ("insert", doc! { "closeConnection": true }),
        ("update", doc! { "closeConnection": true }),
        ("update", doc! { "errorCode": 91 }),
        ("update", doc! { "writeConcernError": stepped_down.clone() }),
        ("insert", doc! { "writeConcernError": stepped_down }),
    ];
    for (command, how) in cases {
        let mut data = doc! { "failCommands": [command], "appName": "promptmill" };
        data.extend(how);
        let fail = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data };
        let arm = || drop(server.command("admin", fail.clone()));
        live(&store, &arm).await;
    }
}

/// The next update takes effect, and is not known to be replicated.
fn replicate_late(server: &MongoServer) {
    let late =
        doc! { "code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting for replication timed out" };
    let data = doc! { "failCommands": ["update"], "writeConcernError": late };
    server
        .command("admin", doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data });
}

#[tokio::test]
async fn a_settle_that_took_effect_and_failed_has_its_place_in_the_order_once_it_is_repeated() {
    let server = MongoServer::start();
    let store = connect(server.uri()).await;
    let scene = Scene::running(&store, 64, &|| {}).await.unwrap();
    let group = settling(&scene.lease(&store, 0).await, "body");
    replicate_late(&server);
    assert!(matches!(store.settle([group.clone()].into(), NOW).await, Err(StoreError::Unavailable(_))));
    assert_eq!(
        store.settle([group].into(), NOW).await.unwrap(),
        [Settled::Recorded { done: false }],
        "nothing more of the chunk settles, and its batch does not close"
    );
    store.order().await.unwrap();
    let all = PageLimit { items: u32::MAX, bytes: usize::MAX };
    let page = store.settled(&scene.tenant, scene.batch, SettledCursor::default(), all).await.unwrap();
    assert_eq!(page.outcomes.iter().map(|(outcome, _)| outcome.index).collect::<Vec<_>>(), [0]);
}

#[tokio::test]
async fn a_write_that_is_not_replicated_in_time_is_unavailable_and_nobody_is_buried_for_it() {
    let server = MongoServer::start();
    let store = connect(server.uri()).await;
    let scene = Scene::running(&store, 1, &|| {}).await.unwrap();
    replicate_late(&server);
    assert!(matches!(store.beat(scene.session, 1, None).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.has_room().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.bury(scene.session, 1, NOW).await, Err(StoreError::Unavailable(_))));
    store.beat(scene.session, 2, None).await.unwrap();
    assert!(store.has_room().await.unwrap());
    // What stood still before says nothing yet.
    assert!(matches!(store.bury(scene.session, 2, NOW).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_steps_down_or_is_killed_in_the_middle_costs_time_and_nothing_else() {
    let set = RefCell::new(MongoReplicaSet::start());
    let uri = set.borrow().uri();
    let store = connect(uri).await;
    let steps = Cell::new(0);
    let before = || {
        steps.set(steps.get() + 1);
        match steps.get() {
            4 => set.borrow().step_down(20),
            9 | 16 => {
                let primary = set.borrow().primary();
                set.borrow_mut().kill(primary);
                if steps.get() == 9 {
                    set.borrow_mut().restart(primary);
                }
            }
            _ => {}
        }
    };
    live(&store, &before).await;
    assert!(steps.get() > 16);
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

#[tokio::test]
async fn a_change_that_nobody_was_told_of_is_told_by_whoever_looks_at_the_open_batches_next() {
    let server = MongoServer::start();
    let store = connect(server.uri()).await;
    let scene = Scene::running(&store, 1, &|| {}).await.unwrap();
    let known = |batches: Vec<promptmill_domain::Batch>| {
        batches.into_iter().map(|batch| batch.state).collect::<Vec<_>>()
    };
    assert_eq!(known(store.open_batches().await.unwrap()), [BatchState::Running]);
    let seen = store.changes().await.unwrap();
    fail_after(&server, "update", 1);
    assert!(store.steer(&scene.tenant, scene.batch, BatchEvent::Cancel, NOW).await.is_err());
    fail_no_more(&server);
    assert_eq!(store.changes().await.unwrap(), seen);
    assert_eq!(known(store.open_batches().await.unwrap()), [BatchState::Cancelling]);
    let told = store.changes().await.unwrap();
    assert!(told > seen);
    store.open_batches().await.unwrap();
    assert_eq!(store.changes().await.unwrap(), told);
}

#[tokio::test]
async fn rows_of_a_part_that_was_replaced_before_a_crash_are_swept() {
    let server = MongoServer::start();
    let store = connect(server.uri()).await;
    let scene = Scene::new();
    let (tenant, batch) = (&scene.tenant, scene.batch);
    store.create(tenant, scene.new_batch()).await.unwrap();
    let uploads = [scene.upload, promptmill_domain::UploadId::at(NOW, rand::random())];
    for (upload, rows) in uploads.into_iter().zip(["old rows", "new"]) {
        let block = RowBlock { seq: 0, len: 1, bytes: rows.into(), ids: bytes::Bytes::new() };
        store.put_rows(tenant, batch, upload, vec![block], NOW).await.unwrap();
    }
    let commit = async |upload| {
        store.commit_part(tenant, batch, PartCommit { part: 0, upload, blocks: 1, digest: [0; 32] }).await
    };
    commit(uploads[0]).await.unwrap();
    // The batch names the new one; neither upload knows.
    fail_after(&server, "update", 2);
    assert!(commit(uploads[1]).await.is_err());
    fail_no_more(&server);
    let bytes = async || store.usage(tenant, NOW).await.unwrap().bytes;
    assert_eq!((bytes().await, store.block(tenant, batch, 0, 0).await.unwrap()), (11, "new".into()));
    while store.drop_stale_uploads(u64::MAX).await.unwrap() > 0 {}
    assert_eq!((bytes().await, store.block(tenant, batch, 0, 0).await.unwrap()), (3, "new".into()));
    commit(uploads[1]).await.unwrap();
    assert!(matches!(commit(uploads[0]).await, Err(StoreError::Conflict(_))));
}
