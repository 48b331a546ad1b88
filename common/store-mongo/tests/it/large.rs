//! Values that fit no document: they go in slices and come back whole.

use promptmill_domain::{Attempt, Call, FailureKind, ParkedItem, Release, Totals};
use promptmill_ports::{
    Admission as _, Close as _, Control as _, PageLimit, Read as _, SettleGroup, SettledCursor, Work as _,
};

use crate::TemporaryStore;
use crate::scene::{NOW, Scene, group, settle, settling};

const MIB: usize = 1024 * 1024;

fn parked(bytes: usize, due_ms: u64) -> ParkedItem {
    let call = Call {
        started_ms: NOW,
        duration_ms: 1,
        failure: Some(FailureKind::RateLimited),
        status: Some(429),
        problems: vec!["x".repeat(bytes)],
        ..Call::default()
    };
    let attempts = vec![Attempt { calls: vec![call] }];
    let reason = FailureKind::RateLimited;
    ParkedItem { offset: 0, due_ms, counted: 1, reason, begun_ms: NOW, attempts, cut: Totals::default() }
}

/// Documents of a collection.
async fn count(store: &TemporaryStore, collection: &str) -> u64 {
    let raw = store.raw().await;
    raw.collection::<mongodb::bson::Document>(collection)
        .count_documents(mongodb::bson::doc! {})
        .await
        .unwrap()
}

#[tokio::test]
async fn a_body_of_any_size_comes_back_whole_and_goes_with_its_batch() {
    let store = TemporaryStore::new().await;
    let scene = Scene::running(&*store, 3, &|| {}).await.unwrap();
    // Bytes that differ, so that a slice out of place shows.
    let large: Vec<u8> = (0..17 * MIB).map(|at| u8::try_from(at / 4096 % 251).unwrap()).collect();
    let bodies: [Vec<u8>; 3] = [b"small".to_vec(), large, vec![7; 5 * MIB]];
    for (n, body) in (0..).zip(&bodies) {
        let lease = scene.lease(&*store, n).await;
        settle(&*store, settling(&lease, body.clone())).await.unwrap();
    }
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let all = PageLimit { items: 10, bytes: usize::MAX };
    let page = store.outcomes(tenant, batch, 0, all).await.unwrap();
    let seen: Vec<_> = page.outcomes.iter().map(|outcome| outcome.body.as_deref().unwrap()).collect();
    assert!(seen == bodies.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let settled = store.settled(tenant, batch, SettledCursor::default(), all).await.unwrap();
    assert!(
        settled
            .outcomes
            .iter()
            .zip(&bodies)
            .all(|((outcome, _), body)| outcome.body.as_deref() == Some(body))
    );
    let tight = PageLimit { items: 10, bytes: 6 * MIB };
    assert_eq!(store.outcomes(tenant, batch, 1, tight).await.unwrap().outcomes.len(), 1);
    let stored: usize = bodies.iter().map(Vec::len).sum();
    assert_eq!(store.usage(tenant, NOW).await.unwrap().bytes, stored as u64 + 4);

    store.close(tenant, batch, NOW).await.unwrap().unwrap();
    while !store.delete(tenant, batch).await.unwrap() {}
    assert_eq!((count(&store, "slices").await, count(&store, "outcomes").await), (0, 0));
    assert_eq!(store.usage(tenant, NOW).await.unwrap().bytes, 0);
}

#[tokio::test]
async fn histories_of_parked_items_stand_beside_the_head_and_come_with_the_lease() {
    let store = TemporaryStore::new().await;
    let scene = Scene::running(&*store, 1, &|| {}).await.unwrap();
    let mut due = NOW;
    for bytes in [5 * MIB, 10, 3 * MIB, 100 * 1024] {
        let lease = scene.lease(&*store, 0).await;
        let item = parked(bytes, due + 1);
        let last = SettleGroup { parked: vec![item.clone()], release: Release::LetGo, ..group(&lease) };
        store.settle([last].into(), due).await.unwrap();
        due += 1;
        assert_eq!(store.wake(10, due).await.unwrap(), [scene.chunk(0)]);
        let lease = scene.lease(&*store, 0).await;
        assert!(lease.head.parked == [item.clone()]);
        // One that is left as it is stays so.
        let again = SettleGroup { release: Release::LetGo, ..group(&lease) };
        store.settle([again].into(), NOW).await.unwrap();
        while store.wake(10, due).await.unwrap().is_empty() && store.ready(None, 1).await.unwrap().is_empty()
        {
        }
        let lease = scene.lease(&*store, 0).await;
        assert!(lease.head.parked == [item]);
        store.settle([SettleGroup { release: Release::LetGo, ..group(&lease) }].into(), due).await.unwrap();
    }
    // Those of before are not kept.
    assert_eq!(count(&store, "slices").await, 1);
    let cancel = promptmill_domain::BatchEvent::Cancel;
    store.steer(&scene.tenant, scene.batch, cancel, NOW).await.unwrap();
    while store.seal(&scene.tenant, scene.batch, 10, NOW).await.unwrap() > 0 {}
    assert_eq!(count(&store, "slices").await, 0);
}
