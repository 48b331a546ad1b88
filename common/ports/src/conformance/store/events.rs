//! Cases about events: written with the change they tell of, kept until they are handed on.

use promptmill_domain::{
    BatchEvent, BatchId, BatchLimits, BatchState, Event, EventId, EventKind, FailureKind, PauseReason,
    SettledItem, Webhook,
};

use super::scene::*;
use crate::{SettleGroup, Store};

async fn told<'a>(store: &'a dyn Store, lens: &[u32]) -> Scene<'a> {
    let mut new = new_batch(fresh_batch(), None);
    let url = "https://receiver.test/hook".to_owned();
    new.spec.webhook = Some(Webhook { url, sealed_secret: "sealed".to_owned(), results: true });
    let scene = Scene::of(store, fresh_tenant(), new).await;
    scene.queue(lens, NOW).await;
    scene.admit_all(lens).await;
    scene
}

/// The batch's events, oldest first.
async fn events(store: &dyn Store, batch: BatchId) -> Vec<Event> {
    let pending = store.pending(u32::MAX).await.unwrap();
    pending.into_iter().filter(|event| event.batch == batch).collect()
}

/// Each change that is told writes one event with the state it led to; a step that changes nothing, or is not told, writes none.
pub async fn each_change_that_is_told_writes_one_event(store: &dyn Store) {
    let scene = told(store, &[2]).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let lease = scene.lease(0).await;
    scene.settle(settling(&lease, [0])).await;
    let suspect = PauseReason::Suspect { kind: FailureKind::Timeout, message: "slow".to_owned() };
    let steps = [
        BatchEvent::Pause(suspect.clone()),
        BatchEvent::Pause(suspect.clone()),
        BatchEvent::Pause(PauseReason::Requested),
        // Whoever asked for it is not overruled by a cause of our own.
        BatchEvent::Pause(PauseReason::Budget),
        BatchEvent::Resume,
        BatchEvent::Resume,
        BatchEvent::Cancel,
        BatchEvent::Cancel,
    ];
    for (step, at) in steps.into_iter().zip(1..) {
        store.steer(tenant, batch, step, NOW + at).await.unwrap();
    }
    check_conflict(store.steer(tenant, batch, BatchEvent::Pause(PauseReason::Budget), NOW).await);
    store.set_limits(tenant, batch, BatchLimits::default()).await.unwrap();
    while store.seal(tenant, batch, 10, NOW).await.unwrap() > 0 {}
    for at in 20..22 {
        store.close(tenant, batch, NOW + at).await.unwrap().unwrap();
    }

    let seen = events(store, batch).await;
    let what: Vec<_> =
        seen.iter().map(|event| (event.kind, event.at_ms - NOW, event.state.clone())).collect();
    let paused = |reason| BatchState::Paused { reason };
    assert_eq!(
        what,
        [
            (EventKind::BatchPaused, 1, paused(suspect)),
            (EventKind::BatchPaused, 3, paused(PauseReason::Requested)),
            (EventKind::BatchCancelled, 20, BatchState::Cancelled),
        ]
    );
    let closed = store.batch(tenant, batch).await.unwrap();
    assert_eq!(store.batches_told_of(&[fresh_batch(), batch]).await.unwrap(), std::slice::from_ref(&closed));
    assert_eq!(store.batches_told_of(&[]).await.unwrap(), []);
    let last = &seen[2];
    assert_eq!((last.ver, &last.counts), (closed.ver, &closed.final_counts));
    assert!(last.counts.as_ref().is_some_and(|counts| counts.succeeded == 1 && counts.cancelled == 1));
    assert!(seen.is_sorted_by(|a, b| a.ver < b.ver));
    for event in &seen {
        assert_eq!((event.id, &event.tenant), (EventId::of_batch(batch, event.ver), tenant));
    }
}

/// A batch all of whose items failed has failed, one with a success has completed, one whose time was over has expired.
pub async fn the_event_of_an_end_tells_how_it_ended(store: &dyn Store) {
    for (code, kind) in
        [(FAILED, EventKind::BatchFailed), (promptmill_domain::ItemCode::Repaired, EventKind::BatchCompleted)]
    {
        let scene = told(store, &[1]).await;
        let lease = scene.lease(0).await;
        let settled = vec![(SettledItem { offset: 0, code }, body(0))];
        scene.settle(SettleGroup { settled, ..group(&lease) }).await;
        store.close(&scene.tenant, scene.batch, NOW).await.unwrap().unwrap();
        let seen = events(store, scene.batch).await;
        assert_eq!(seen.iter().map(|event| event.kind).collect::<Vec<_>>(), [kind]);
    }
    let scene = told(store, &[1]).await;
    store.steer(&scene.tenant, scene.batch, BatchEvent::Expire, NOW).await.unwrap();
    assert_eq!(events(store, scene.batch).await, []);
    while store.seal(&scene.tenant, scene.batch, 10, NOW).await.unwrap() > 0 {}
    assert_eq!(store.close(&scene.tenant, scene.batch, NOW).await.unwrap().unwrap().expired, 1);
    assert_eq!(events(store, scene.batch).await[0].kind, EventKind::BatchExpired);
}

/// Nobody to tell, nothing to write.
pub async fn a_batch_without_a_webhook_writes_no_event(store: &dyn Store) {
    let scene = Scene::ready(store, &[1]).await;
    let pause = BatchEvent::Pause(PauseReason::Budget);
    store.steer(&scene.tenant, scene.batch, pause, NOW).await.unwrap();
    scene.end(NOW).await;
    assert_eq!(events(store, scene.batch).await, []);
}

/// Events stay until they are handed on, oldest first; those of a deleted batch are gone with it.
pub async fn events_are_pending_until_they_are_handed_on(store: &dyn Store) {
    let scenes = [told(store, &[1]).await, told(store, &[1]).await, told(store, &[1]).await];
    for scene in &scenes {
        scene.end(NOW).await;
    }
    let mine = async || {
        let pending = store.pending(u32::MAX).await.unwrap();
        let mine = pending.into_iter().filter(|event| scenes.iter().any(|scene| scene.batch == event.batch));
        mine.map(|event| (event.batch, event.id)).collect::<Vec<_>>()
    };
    let seen = mine().await;
    assert_eq!(seen.iter().map(|(batch, _)| *batch).collect::<Vec<_>>(), scenes.each_ref().map(|s| s.batch));
    assert_eq!(store.pending(1).await.unwrap().len(), 1);
    for _ in 0..2 {
        store.handed_on(&[seen[1].1]).await.unwrap();
        assert_eq!(mine().await, [seen[0], seen[2]]);
    }
    // What was handed on is not written again by a close that is repeated.
    store.close(&scenes[1].tenant, scenes[1].batch, NOW).await.unwrap();
    assert_eq!(mine().await, [seen[0], seen[2]]);
    scenes[0].delete().await;
    assert_eq!(mine().await, [seen[2]]);
    store.handed_on(&[]).await.unwrap();
    store.handed_on(&[seen[2].1, seen[0].1]).await.unwrap();
    assert_eq!(mine().await, []);
}
