//! Cases about sessions that live, die and end.

use promptmill_domain::head::{KILLER_AFTER_KILLS_ALONE, QUARANTINE_AFTER_KILLS};
use promptmill_domain::{ChunkState, FailureKind, ItemCode, SessionId};

use super::scene::*;
use crate::{BeatAnswer, Settled, Store};

/// A beat since the one that was seen saves the session.
pub async fn a_session_that_beats_is_not_buried(store: &dyn Store) {
    let scene = Scene::ready(store, &[1]).await;
    let lease = scene.lease(0).await;
    assert!(matches!(store.beat(scene.session, 1, None).await.unwrap(), BeatAnswer::Alive { .. }));
    assert_eq!(store.bury(scene.session, 0, NOW).await.unwrap(), None);
    assert!(matches!(store.beat(scene.session, 2, None).await.unwrap(), BeatAnswer::Alive { .. }));
    assert_eq!(scene.settle(settling(&lease, [0])).await, Settled::Recorded { done: true });
    assert_eq!(store.bury(fresh_session(), 0, NOW).await.unwrap(), None);
}

/// A dead session's chunks go to the next one, and remember the death.
pub async fn burying_a_session_takes_its_chunks_and_counts_the_death(store: &dyn Store) {
    let mut scene = Scene::ready(store, &[2, 2, 2]).await;
    let dead = scene.session;
    let (first, _) = (scene.lease(0).await, scene.lease(1).await);
    scene.settle(settling(&first, [0])).await;
    store.beat(dead, 4, None).await.unwrap();
    assert_eq!(store.bury(dead, 4, NOW).await.unwrap(), Some(2));
    assert_eq!(store.bury(dead, 4, NOW).await.unwrap(), Some(0));
    assert_eq!(scene.settle(settling(&first, [1])).await, Settled::Fenced);

    scene.session = fresh_session();
    store.open(scene.session, "next").await.unwrap();
    let next = scene.lease(0).await;
    assert_eq!((next.head.kills, next.head.open()), (1, 1));
    assert_eq!(scene.lease(2).await.head.kills, 0);
    assert_eq!(scene.counts().await.succeeded, 1);
}

/// The dead hear of it at their next beat, and get no further lease.
pub async fn a_dead_session_is_told_so_and_claims_nothing(store: &dyn Store) {
    let scene = Scene::ready(store, &[1]).await;
    store.beat(scene.session, 1, None).await.unwrap();
    assert_eq!(store.bury(scene.session, 1, NOW).await.unwrap(), Some(0));
    assert!(scene.claim(0).await.is_empty());
    assert_eq!(store.beat(scene.session, 2, None).await.unwrap(), BeatAnswer::Dead);
    assert!(scene.claim(0).await.is_empty());
    check_conflict(store.open(scene.session, "again").await);
    assert_eq!(store.beat(fresh_session(), 1, None).await.unwrap(), BeatAnswer::Dead);
}

/// An item during which its holders keep dying gets its outcome; its neighbours do not suffer.
pub async fn a_quarantined_item_that_keeps_killing_fails_alone(store: &dyn Store) {
    let mut scene = Scene::ready(store, &[3]).await;
    for death in 0..QUARANTINE_AFTER_KILLS + KILLER_AFTER_KILLS_ALONE {
        let lease = scene.lease(0).await;
        assert_eq!((lease.head.kills, lease.head.in_quarantine()), (death, death >= QUARANTINE_AFTER_KILLS));
        if lease.head.in_quarantine() {
            assert!(store.try_item(lease.head.chunk, lease.token, 1, NOW).await.unwrap());
        }
        assert_eq!(store.bury(scene.session, 0, NOW).await.unwrap(), Some(1));
        assert!(!store.try_item(lease.head.chunk, lease.token, 1, NOW).await.unwrap());
        scene.session = fresh_session();
        store.open(scene.session, "next").await.unwrap();
    }
    let outcomes = scene.outcomes().await.outcomes;
    assert_eq!(outcomes.len(), 1);
    let killer = &outcomes[0];
    assert_eq!(
        (killer.index, killer.code, &killer.body),
        (1, ItemCode::Failed(FailureKind::WorkerKiller), &None)
    );
    let lease = scene.lease(0).await;
    assert_eq!((lease.head.open(), lease.head.trying), (2, None));
    assert_eq!(scene.settle(settling(&lease, [0, 2])).await, Settled::Recorded { done: true });
}

/// A planned stop costs nobody anything.
pub async fn a_planned_end_hands_chunks_back_without_a_death(store: &dyn Store) {
    let mut scene = Scene::ready(store, &[1, 1]).await;
    let lease = scene.lease(0).await;
    store.beat(scene.session, 1, None).await.unwrap();
    assert_eq!(store.end(scene.session, NOW).await.unwrap(), 1);
    assert_eq!(store.end(scene.session, NOW).await.unwrap(), 0);
    assert_eq!(scene.settle(settling(&lease, [0])).await, Settled::Fenced);
    assert!(scene.claim(1).await.is_empty());
    assert_eq!(store.beat(scene.session, 2, None).await.unwrap(), BeatAnswer::Dead);
    assert!(scene.claim(1).await.is_empty());
    scene.session = fresh_session();
    store.open(scene.session, "next").await.unwrap();
    let next = scene.lease(0).await;
    assert_eq!(next.head.kills, 0);
    assert_eq!(next.head.state, ChunkState::Leased { owner: scene.session, token: next.token });
}

/// The list has the sessions that are neither ended nor dead, with their label and last beat.
pub async fn sessions_lists_only_the_living(store: &dyn Store) {
    let [alive, ended, dead]: [SessionId; 3] = [fresh_session(), fresh_session(), fresh_session()];
    for session in [alive, ended, dead, alive] {
        store.open(session, "label").await.unwrap();
    }
    store.beat(alive, 7, None).await.unwrap();
    store.end(ended, NOW).await.unwrap();
    store.bury(dead, 0, NOW).await.unwrap();
    let listed = store.sessions().await.unwrap();
    let found: Vec<_> = listed.iter().filter(|s| [alive, ended, dead].contains(&s.session)).collect();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].session, found[0].label.as_str(), found[0].beat), (alive, "label", 7));
}
