//! Cases about what was kept long enough, and about the times it is measured from.

use promptmill_domain::{BatchId, BatchState, WorkerReport};

use super::scene::*;
use crate::{NewBatch, Store};

const DEFAULT: u64 = 1_000;

/// Those of `batches` that are to be deleted, in their order.
async fn outlived(
    store: &dyn Store,
    now_ms: u64,
    drafts_before_ms: u64,
    batches: &[BatchId],
) -> Vec<BatchId> {
    let all = store.outlived(now_ms, DEFAULT, drafts_before_ms, u32::MAX).await.unwrap();
    let found: Vec<_> = all.iter().map(|(_, batch)| *batch).filter(|batch| batches.contains(batch)).collect();
    for batch in batches {
        assert!(found.iter().filter(|other| *other == batch).count() <= 1, "{batch} is named twice");
    }
    batches.iter().copied().filter(|batch| found.contains(batch)).collect()
}

/// A batch tells when its submit was finished and when it ended, whoever repeats a step later.
pub async fn a_batch_tells_when_it_was_submitted_and_when_it_ended(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let times = async || {
        let batch = store.batch(tenant, batch).await.unwrap();
        (batch.submitted_ms, batch.finished_ms)
    };
    assert_eq!(times().await, (None, None));
    scene.queue(&[1], NOW + 5).await;
    store.finish_submit(tenant, batch, 1, 1, NOW + 6).await.unwrap();
    assert_eq!(times().await, (Some(NOW + 5), None));
    scene.end(NOW + 9).await;
    store.close(tenant, batch, NOW + 10).await.unwrap();
    assert_eq!(times().await, (Some(NOW + 5), Some(NOW + 9)));
    let one = crate::PageLimit::items(1);
    let listed = store.batches(tenant, &crate::BatchFilter::default(), None, one).await.unwrap().batches;
    assert_eq!((listed[0].submitted_ms, listed[0].finished_ms), times().await);
}

/// A final batch is kept for its own retention, or else the default, from its end on; one that is not final is kept.
pub async fn a_final_batch_is_kept_as_long_as_it_asked_for(store: &dyn Store) {
    let retained = async |retention_ms| {
        let mut new = new_batch(fresh_batch(), None);
        new.spec.retention_ms = retention_ms;
        let scene = Scene::of(store, fresh_tenant(), new).await;
        scene.queue(&[1], NOW).await;
        scene
    };
    let scenes = [retained(None).await, retained(Some(10)).await, retained(Some(5_000)).await];
    let batches = scenes.each_ref().map(|scene| scene.batch);
    assert_eq!(outlived(store, u64::MAX, 0, &batches).await, []);
    for scene in &scenes {
        scene.end(NOW + 100).await;
    }
    let [default, short, long] = batches;
    for (at, wanted) in [
        (109, vec![]),
        (110, vec![short]),
        (1_099, vec![short]),
        (1_100, vec![default, short]),
        (5_099, vec![default, short]),
        (5_100, vec![default, short, long]),
    ] {
        assert_eq!(outlived(store, NOW + at, 0, &batches).await, wanted, "at {at}");
    }
    let named = store.outlived(NOW + 5_100, DEFAULT, 0, u32::MAX).await.unwrap();
    assert!(named.contains(&(scenes[2].tenant.clone(), long)));
    assert_eq!(store.outlived(NOW + 5_100, DEFAULT, 0, 2).await.unwrap().len(), 2);
    assert_eq!(store.outlived(NOW + 5_100, DEFAULT, 0, 0).await.unwrap(), []);
    for scene in &scenes {
        scene.delete().await;
    }
    assert_eq!(outlived(store, u64::MAX, 0, &batches).await, []);
}

/// A draft is outlived when it was made, and took its last block, long enough ago.
pub async fn a_draft_is_outlived_by_its_last_block(store: &dyn Store) {
    let scenes = [Scene::draft(store).await, Scene::draft(store).await, Scene::queued(store, &[1]).await];
    let batches = scenes.each_ref().map(|scene| scene.batch);
    let (tenant, touched) = (&scenes[1].tenant, scenes[1].batch);
    let put = async |now_ms| {
        store.put_rows(tenant, touched, fresh_upload(), vec![block(0, 1, "x")], now_ms).await.unwrap();
    };
    put(NOW + 50).await;
    put(NOW + 20).await;
    for (before, wanted) in
        [(0, vec![]), (1, vec![batches[0]]), (50, vec![batches[0]]), (51, batches[..2].to_vec())]
    {
        assert_eq!(outlived(store, NOW, NOW + before, &batches).await, wanted, "before {before}");
    }
    // Made late, it is young without any block.
    let late = NewBatch { now_ms: NOW + 60, ..new_batch(fresh_batch(), None) };
    let late = Scene::of(store, fresh_tenant(), late).await.batch;
    assert_eq!(outlived(store, NOW, NOW + 60, &[late]).await, []);
    assert_eq!(outlived(store, NOW, NOW + 61, &[late]).await, [late]);
}

/// A deletion that someone began and left lying is named until it is done.
pub async fn a_deletion_that_was_begun_is_named_until_it_is_done(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let blocks = (0..1_500).map(|seq| block(seq, 1, "x")).collect();
    store.put_rows(tenant, batch, fresh_upload(), blocks, NOW).await.unwrap();
    assert_eq!(outlived(store, NOW, 0, &[batch]).await, []);
    assert!(!store.delete(tenant, batch).await.unwrap(), "1,500 blocks are more than one step");
    assert_eq!(outlived(store, NOW, 0, &[batch]).await, [batch]);
    scene.delete().await;
    assert_eq!(outlived(store, NOW, 0, &[batch]).await, []);
}

/// There is room in a store that was just made.
pub async fn a_fresh_store_has_room(store: &dyn Store) {
    assert!(store.has_room().await.unwrap());
}

/// The list of sessions has what each told with its last beat.
pub async fn a_session_is_listed_with_its_last_report(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let report = async || {
        let sessions = store.sessions().await.unwrap();
        sessions.into_iter().find(|beat| beat.session == scene.session).unwrap().report
    };
    assert_eq!(report().await, None);
    let told = |calls| WorkerReport {
        concurrency: 8,
        slots: 330,
        calls,
        batches: vec![promptmill_domain::BatchReport {
            batch: scene.batch,
            lane: lane(),
            calling: calls,
            waiting_place: 1,
            waiting_lane: 2,
            waiting_batch: 3,
            waiting_money: 0,
            waiting_reply: 5,
            waiting_retry: 4,
            settled_per_s: 1.5,
            chunk_items: 7,
        }],
    };
    for (beat, calls) in [(1, 5), (2, 6)] {
        store.beat(scene.session, beat, Some(&told(calls))).await.unwrap();
        assert_eq!(report().await, Some(told(calls)));
    }
    store.beat(scene.session, 3, None).await.unwrap();
    assert_eq!(report().await, None);
}

/// Limits may be changed while the batch runs, its priority among them, and are those of the next reading.
pub async fn limits_in_force_are_the_last_ones_set(store: &dyn Store) {
    let scene = Scene::ready(store, &[1]).await;
    let mut limits = new_batch(scene.batch, None).limits;
    for priority in [-100, 0, 100] {
        limits.priority = priority;
        limits.deadline_ms = Some(NOW + 1);
        store.set_limits(&scene.tenant, scene.batch, limits).await.unwrap();
        let open = store.open_batches().await.unwrap();
        let open = open.into_iter().find(|open| open.id == scene.batch).unwrap();
        assert_eq!((open.limits, open.state), (limits, BatchState::Running));
    }
}
