//! A batch's whole life over the ports, whatever happens to the store meanwhile.

use std::collections::BTreeMap;

use promptmill_domain::{BatchEvent, BatchState, ItemCode, PauseReason, Release, SessionId};
use promptmill_ports::{Created, PageLimit, Settled, SettledCursor, Store};

use crate::scene::{NOW, Scene, group, settle, settling};

const ALL: PageLimit = PageLimit { items: u32::MAX, bytes: usize::MAX };
const ROWS: u32 = 6;

/// A batch's whole life, and that it ended as it must. `before` is called before each step.
pub(crate) async fn live(store: &dyn Store, before: &dyn Fn()) {
    before();
    let mut scene = Scene::running(store, ROWS, before).await.unwrap();
    let (tenant, batch) = (scene.tenant.clone(), scene.batch);
    assert_eq!(store.create(&tenant, scene.new_batch()).await.unwrap(), Created::Existing(batch));
    for n in 0..3 {
        before();
        let lease = scene.lease(store, n).await;
        before();
        let settled = settle(store, settling(&lease, format!("body {n}"))).await.unwrap();
        assert_eq!(settled, Settled::Recorded { done: true });
    }
    let lease = scene.lease(store, 3).await;
    let let_go = promptmill_ports::SettleGroup { release: Release::LetGo, ..group(&lease) };
    before();
    assert_eq!(settle(store, let_go).await.unwrap(), Settled::Recorded { done: false });
    take_over(store, &mut scene, before).await;
    end(store, &scene, before).await;
    check(store, &scene).await;
    while !store.delete(&tenant, batch).await.unwrap() {}
    assert_eq!(store.pending(u32::MAX).await.unwrap().iter().filter(|event| event.batch == batch).count(), 0);
}

/// A session dies over its chunk, the next one ends as planned.
async fn take_over(store: &dyn Store, scene: &mut Scene, before: &dyn Fn()) {
    scene.lease(store, 4).await;
    before();
    assert_eq!(store.bury(scene.session, 0, NOW).await.unwrap(), Some(1));
    scene.session = SessionId::at(NOW, rand::random());
    before();
    store.open(scene.session, "next").await.unwrap();
    assert_eq!(scene.lease(store, 4).await.head.kills, 1);
    before();
    assert_eq!(store.end(scene.session, NOW).await.unwrap(), 1);
}

async fn end(store: &dyn Store, scene: &Scene, before: &dyn Fn()) {
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let pause = BatchEvent::Pause(PauseReason::Requested);
    before();
    let paused = store.steer(tenant, batch, pause, NOW).await.unwrap();
    assert_eq!(paused, BatchState::Paused { reason: PauseReason::Requested });
    before();
    store.steer(tenant, batch, BatchEvent::Cancel, NOW).await.unwrap();
    before();
    while store.seal(tenant, batch, 2, NOW).await.unwrap() > 0 {}
    before();
    let counts = store.close(tenant, batch, NOW).await.unwrap().unwrap();
    assert_eq!((counts.succeeded, counts.cancelled, counts.totals.calls), (3, 3, 4));
    assert_eq!(store.progress(tenant, batch).await.unwrap().counts, counts);
}

/// Every item has its one outcome, in both orders, and each change was told once.
async fn check(store: &dyn Store, scene: &Scene) {
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let outcomes = store.outcomes(tenant, batch, 0, ALL).await.unwrap().outcomes;
    let bodies: Vec<_> = outcomes.iter().map(|outcome| (outcome.index, outcome.body.clone())).collect();
    let wanted: Vec<_> = (0..ROWS).map(|n| (n, (n < 3).then(|| format!("body {n}").into()))).collect();
    assert_eq!(bodies, wanted);
    let page = store.settled(tenant, batch, SettledCursor::default(), ALL).await.unwrap();
    let mut order: Vec<_> = page.outcomes.iter().map(|(outcome, _)| (outcome.index, outcome.code)).collect();
    assert_eq!(order[..3].iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1, 2]);
    order.sort_unstable();
    let codes = outcomes.iter().map(|outcome| (outcome.index, outcome.code)).collect::<Vec<_>>();
    assert_eq!(order, codes);
    assert!(codes[3..].iter().all(|(_, code)| *code == ItemCode::Cancelled));

    let events = store.pending(u32::MAX).await.unwrap();
    let mut mine = BTreeMap::new();
    for event in events.iter().filter(|event| event.batch == batch) {
        *mine.entry(event.kind.as_str()).or_insert(0) += 1;
    }
    assert_eq!(mine, BTreeMap::from([("batch.cancelled", 1), ("batch.paused", 1)]));
    let usage = store.usage(tenant, NOW).await.unwrap();
    assert_eq!(usage.rows, u64::from(ROWS));
    assert!(usage.record_bytes > 0);
}
