//! What several processes leave to each other: half of a step, of whoever died in the middle.

use mongodb::bson::{Document, doc};
use promptmill_domain::{BatchEvent, BatchState, ChunkState, LeaseToken, PauseReason};
use promptmill_ports::{
    Admission as _, Close as _, Control as _, PageLimit, Read as _, Retention as _, Sessions as _, Settled,
    SettledCursor, StoreError, Work as _,
};

use crate::TemporaryStore;
use crate::scene::{NOW, Scene, but_fences, settle, settling};

const ALL: PageLimit = PageLimit { items: u32::MAX, bytes: usize::MAX };

#[tokio::test]
async fn a_change_that_a_crash_kept_from_the_order_is_in_it_when_the_batch_closes_and_once() {
    let store = TemporaryStore::new().await;
    let scene = Scene::running(&*store, 4, &|| {}).await.unwrap();
    for n in 0..3 {
        let lease = scene.lease(&*store, n).await;
        settle(&*store, settling(&lease, "body")).await.unwrap();
    }
    // As if the process had died between the head and the order.
    let log = store.raw().await.collection::<Document>("settled");
    let taken = log.find_one_and_delete(doc! {}).await.unwrap().unwrap();
    assert_eq!(taken.get_array("marks").unwrap().len(), 3);
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let other = store.other().await;
    let lease = scene.lease(&other, 3).await;
    settle(&other, settling(&lease, "body")).await.unwrap();
    let settled = async || {
        let page = other.settled(tenant, batch, SettledCursor::default(), ALL).await.unwrap();
        assert!(page.caught_up);
        page.outcomes.iter().map(|(outcome, _)| outcome.index).collect::<Vec<_>>()
    };
    assert_eq!(settled().await, [3]);
    other.close(tenant, batch, NOW).await.unwrap().unwrap();
    assert_eq!(settled().await, [3, 0, 1, 2]);
}

#[tokio::test]
async fn a_log_that_cannot_be_read_keeps_no_other_batch_from_its_own() {
    let store = TemporaryStore::new().await;
    let (bad, good) = (
        Scene::running(&*store, 2, &|| {}).await.unwrap(),
        Scene::running(&*store, 2, &|| {}).await.unwrap(),
    );
    let first = async |scene: &Scene| {
        let lease = scene.lease(&*store, 0).await;
        settle(&*store, settling(&lease, "body")).await.unwrap();
    };
    first(&bad).await;
    let log = store.raw().await.collection::<Document>("settled");
    log.update_many(doc! {}, doc! { "$set": { "count": "many" } }).await.unwrap();
    first(&good).await;
    for scene in [&bad, &good] {
        let lease = scene.lease(&*store, 1).await;
        store.settle([settling(&lease, "body")].into(), NOW).await.unwrap();
    }
    store.order().await.unwrap();
    let page = store.settled(&good.tenant, good.batch, SettledCursor::default(), ALL).await.unwrap();
    assert_eq!(page.outcomes.iter().map(|(outcome, _)| outcome.index).collect::<Vec<_>>(), [0, 1]);
    assert!(matches!(store.close(&bad.tenant, bad.batch, NOW).await, Err(StoreError::Corrupt(_))));
    store.close(&good.tenant, good.batch, NOW).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_log_is_in_order_and_whole_when_it_fills_several_documents() {
    let store = TemporaryStore::new().await;
    let scene = Scene::running(&*store, 24, &|| {}).await.unwrap();
    let other = store.other().await;
    // A document that is nearly full, so that the next ones follow.
    let lease = scene.lease(&*store, 0).await;
    settle(&*store, settling(&lease, "body")).await.unwrap();
    let log = store.raw().await.collection::<Document>("settled");
    log.update_many(doc! {}, doc! { "$set": { "count": 2_047 } }).await.unwrap();
    let work = async |store: &promptmill_store_mongo::MongoStore, parity: u32| {
        for n in (1..24).filter(|n| n % 2 == parity) {
            let lease = scene.lease(store, n).await;
            settle(store, settling(&lease, "body")).await.unwrap();
            log.update_many(doc! { "count": { "$lt": 2_000 } }, doc! { "$inc": { "count": 600 } })
                .await
                .unwrap();
        }
    };
    tokio::join!(work(&store, 0), work(&other, 1));
    let page = store.settled(&scene.tenant, scene.batch, SettledCursor::default(), ALL).await.unwrap();
    let mut seen: Vec<_> = page.outcomes.iter().map(|(outcome, _)| outcome.index).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..24).collect::<Vec<_>>());
    assert!(log.count_documents(doc! {}).await.unwrap() > 3);
    assert!(page.outcomes.is_sorted_by_key(|(_, cursor)| cursor.0));
}

#[tokio::test]
async fn a_lease_of_a_session_that_is_no_more_is_taken_by_the_sweep() {
    let store = TemporaryStore::new().await;
    let scene = Scene::running(&*store, 2, &|| {}).await.unwrap();
    let lease = scene.lease(&*store, 0).await;
    scene.lease(&*store, 1).await;
    assert_eq!(store.wake(10, NOW).await.unwrap(), []);
    // As if the claim had come just after the session was buried, and its process had died before it saw that.
    let sessions = store.raw().await.collection::<Document>("sessions");
    sessions.update_one(doc! {}, doc! { "$set": { "alive": false } }).await.unwrap();
    // It does not look at every step.
    let swept = async || {
        while store.ready(None, 10).await.unwrap().len() < 2 {
            store.wake(10, NOW).await.unwrap();
        }
    };
    swept().await;
    assert_eq!(store.ready(None, 10).await.unwrap(), [scene.chunk(0), scene.chunk(1)]);
    assert_eq!(settle(&*store, settling(&lease, "late")).await.unwrap(), Settled::Fenced);
    let next = Scene { session: promptmill_domain::SessionId::at(NOW, rand::random()), ..scene };
    store.open(next.session, "next").await.unwrap();
    let lease = next.lease(&*store, 0).await;
    assert_eq!(lease.head.kills, 1);
    // One that ended as planned costs nobody anything.
    sessions.delete_many(doc! {}).await.unwrap();
    swept().await;
    store.open(next.session, "again").await.unwrap();
    let lease = next.lease(&*store, 0).await;
    assert_eq!(lease.head.kills, 1);
    assert!(matches!(lease.head.state, ChunkState::Leased { .. }));
}

#[tokio::test]
async fn a_queued_batch_whose_chunks_a_crash_left_ready_runs_and_ends() {
    let store = TemporaryStore::new().await;
    let scene = Scene::running(&*store, 1, &|| {}).await.unwrap();
    // As if the admitting process had died after the heads and before the batch.
    let batches = store.raw().await.collection::<Document>("batches");
    let state = serde_json::to_string(&BatchState::Queued).unwrap();
    let queued = doc! { "$set": { "state": state, "state_name": "queued" } };
    assert_eq!(batches.update_many(doc! {}, queued).await.unwrap().modified_count, 1);
    let (tenant, batch) = (&scene.tenant, scene.batch);
    assert_eq!(store.batch(tenant, batch).await.unwrap().state, BatchState::Queued);
    let lease = scene.lease(&*store, 0).await;
    settle(&*store, settling(&lease, "body")).await.unwrap();
    assert_eq!(store.close(tenant, batch, NOW).await.unwrap().unwrap().succeeded, 1);
    assert_eq!(store.batch(tenant, batch).await.unwrap().state, BatchState::Completed);
}

#[tokio::test]
async fn a_chunk_that_is_admitted_in_the_moment_of_a_pause_waits_for_the_resume() {
    let store = TemporaryStore::new().await;
    let scene = Scene::submitted(&*store, 4, &|| {}).await.unwrap();
    let (tenant, batch, other) = (&scene.tenant, scene.batch, store.other().await);
    for n in 0..2 {
        assert_eq!(store.admit(&[scene.chunk(n)], NOW).await.unwrap(), [scene.chunk(n)]);
    }
    // The admitting process may not have heard of it yet.
    other.steer(tenant, batch, BatchEvent::Pause(PauseReason::Requested), NOW).await.unwrap();
    let moved = store.admit(&[scene.chunk(2)], NOW).await.unwrap();
    let claim = async || {
        let token = LeaseToken::from_bytes(rand::random());
        store.claim(scene.session, &[(scene.chunk(2), token)], NOW).await.unwrap().len()
    };
    assert_eq!(claim().await, 0);
    other.steer(tenant, batch, BatchEvent::Resume, NOW).await.unwrap();
    if moved.is_empty() {
        assert_eq!(store.admit(&[scene.chunk(2)], NOW).await.unwrap(), [scene.chunk(2)]);
    }
    assert!(store.ready(None, 10).await.unwrap().contains(&scene.chunk(2)));
    assert_eq!(claim().await, 1);
    // Who steers it, with nobody admitting beside it, knows at once.
    store.admit(&[scene.chunk(2)], NOW).await.unwrap();
    store.steer(tenant, batch, BatchEvent::Pause(PauseReason::Requested), NOW).await.unwrap();
    assert_eq!(store.admit(&[scene.chunk(3)], NOW).await.unwrap(), []);
}

#[tokio::test]
async fn an_outcome_that_comes_after_its_batch_was_deleted_leaves_nothing() {
    let store = TemporaryStore::new().await;
    let scene = Scene::running(&*store, 1, &|| {}).await.unwrap();
    let lease = scene.lease(&*store, 0).await;
    // Another process ends and deletes it; this one remembers its lease for a moment.
    let (tenant, batch, other) = (&scene.tenant, scene.batch, store.other().await);
    other.steer(tenant, batch, BatchEvent::Cancel, NOW).await.unwrap();
    other.seal(tenant, batch, 10, NOW).await.unwrap();
    other.close(tenant, batch, NOW).await.unwrap().unwrap();
    while !other.delete(tenant, batch).await.unwrap() {}
    assert_eq!(settle(&*store, settling(&lease, "late")).await.unwrap(), Settled::Fenced);
    for (tenant, batch) in other.outlived(NOW, 1_000, 0, 10).await.unwrap() {
        while !other.delete(&tenant, batch).await.unwrap() {}
    }
    for left in ["outcomes", "batches", "heads", "settled"] {
        let left = store.raw().await.collection::<Document>(left);
        assert_eq!(left.count_documents(but_fences()).await.unwrap(), 0, "{}", left.name());
    }
}
