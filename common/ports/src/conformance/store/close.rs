//! Cases about the end of a batch, and about steering it until then.

use promptmill_domain::{BatchEvent, BatchLimits, BatchState, ItemCode, Money, PauseReason};

use super::scene::*;
use crate::{BeatAnswer, SettleGroup, Settled, Store};

/// A cancel gives every open item its code; who held the chunk is too late.
pub async fn sealing_closes_open_items_and_fences_the_holder(store: &dyn Store) {
    let scene = Scene::ready(store, &[3, 1, 1]).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let (lease, done) = (scene.lease(0).await, scene.lease(1).await);
    scene.settle(settling(&done, [0])).await;
    scene.settle(SettleGroup { parked: vec![parked(2, NOW + 9)], ..settling(&lease, [1]) }).await;
    store.steer(tenant, batch, BatchEvent::Cancel, NOW).await.unwrap();

    // In flight when the cancel came, and still in time.
    scene.settle(SettleGroup { seq: 2, spent: spent(1), ..group(&lease) }).await;
    assert_eq!(store.seal(tenant, batch, 1, NOW).await.unwrap(), 1);
    assert_eq!(store.seal(tenant, batch, 10, NOW).await.unwrap(), 1);
    assert_eq!(store.seal(tenant, batch, 10, NOW).await.unwrap(), 0);
    assert_eq!(scene.settle(SettleGroup { seq: 3, ..settling(&lease, [0, 2]) }).await, Settled::Fenced);

    let seen: Vec<_> =
        scene.outcomes().await.outcomes.into_iter().map(|o| (o.index, o.code, o.body)).collect();
    let cancelled = |index| (index, ItemCode::Cancelled, None);
    let succeeded = |index| (index, ItemCode::Succeeded, Some(body(index)));
    assert_eq!(seen, [cancelled(0), succeeded(1), cancelled(2), succeeded(3), cancelled(4)]);
    let counts = store.close(tenant, batch, NOW).await.unwrap().unwrap();
    assert_eq!((counts.succeeded, counts.cancelled, counts.open(), counts.totals), (2, 3, 0, spent(1)));
    assert_eq!(store.batch(tenant, batch).await.unwrap().state, BatchState::Cancelled);
    assert_eq!(store.seal(tenant, batch, 10, NOW).await.unwrap(), 0);
}

/// Sealing is for batches that are being cancelled or expire.
pub async fn sealing_is_refused_while_the_batch_runs(store: &dyn Store) {
    let scene = Scene::ready(store, &[1]).await;
    check_conflict(store.seal(&scene.tenant, scene.batch, 10, NOW).await);
    let draft = Scene::draft(store).await;
    check_conflict(store.seal(&draft.tenant, draft.batch, 10, NOW).await);
}

/// The final counts are those of the heads, are frozen, and are answered again to who repeats.
pub async fn a_batch_closes_only_when_every_chunk_is_final(store: &dyn Store) {
    let scene = Scene::ready(store, &[2, 1]).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let (one, two) = (scene.lease(0).await, scene.lease(1).await);
    scene.settle(SettleGroup { spent: spent(2), ..settling(&one, [0, 1]) }).await;
    assert_eq!(store.close(tenant, batch, NOW).await.unwrap(), None);
    assert_eq!(store.batch(tenant, batch).await.unwrap().state, BatchState::Running);
    let failed = vec![(promptmill_domain::SettledItem { offset: 0, code: FAILED }, body(2))];
    scene.settle(SettleGroup { settled: failed, spent: spent(1), ..group(&two) }).await;

    let counts = store.close(tenant, batch, NOW).await.unwrap().unwrap();
    assert_eq!((counts.succeeded, counts.all_failed(), counts.total(), counts.totals), (2, 1, 3, spent(3)));
    assert_eq!(store.close(tenant, batch, NOW + 1).await.unwrap(), Some(counts.clone()));
    let closed = store.batch(tenant, batch).await.unwrap();
    assert_eq!(
        (closed.state, closed.final_counts.as_ref(), closed.total),
        (BatchState::Completed, Some(&counts), 3)
    );
    let progress = store.progress(tenant, batch).await.unwrap();
    assert_eq!((progress.counts, progress.open_chunks), (counts, 0));
    let draft = Scene::draft(store).await;
    check_conflict(store.close(&draft.tenant, draft.batch, NOW).await);
}

/// The deadline is a seal with another code.
pub async fn an_expired_batch_keeps_what_was_settled(store: &dyn Store) {
    let scene = Scene::ready(store, &[2]).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let lease = scene.lease(0).await;
    scene.settle(settling(&lease, [0])).await;
    store.steer(tenant, batch, BatchEvent::Pause(PauseReason::Budget), NOW).await.unwrap();
    assert_eq!(store.steer(tenant, batch, BatchEvent::Expire, NOW).await.unwrap(), BatchState::Expiring);
    check_conflict(store.steer(tenant, batch, BatchEvent::Cancel, NOW).await);
    assert_eq!(store.seal(tenant, batch, 10, NOW).await.unwrap(), 1);
    let counts = store.close(tenant, batch, NOW).await.unwrap().unwrap();
    assert_eq!((counts.succeeded, counts.expired), (1, 1));
    assert_eq!(store.batch(tenant, batch).await.unwrap().state, BatchState::Expired);
}

/// A deleted batch is gone for everyone from the first step on; its key may be used again.
pub async fn deleting_removes_everything_in_bounded_steps(store: &dyn Store) {
    let tenant = fresh_tenant();
    let batch = fresh_batch();
    store.create(&tenant, new_batch(batch, Some("key"))).await.unwrap();
    let session = fresh_session();
    store.open(session, "worker").await.unwrap();
    let scene = Scene { store, tenant, batch, session };
    let tenant = &scene.tenant;
    let lens = [2; 1_200];
    let (upload, cuts) = scene.upload(&lens).await;
    store.commit_part(tenant, batch, part(0, upload, 1)).await.unwrap();
    store.begin_submit(tenant, batch).await.unwrap();
    store.put_heads(tenant, batch, &lane(), &cuts).await.unwrap();
    store.finish_submit(tenant, batch, 1_200, 2_400, NOW).await.unwrap();
    let chunks: Vec<_> = (0..1_200).map(|n| scene.chunk(n)).collect();
    store.admit(&chunks, NOW).await.unwrap();
    let wanted: Vec<_> = chunks.iter().map(|chunk| (*chunk, fresh_token())).collect();
    let leases = store.claim(session, &wanted, NOW).await.unwrap();
    let groups: Vec<_> = leases.iter().map(|lease| settling(lease, 0..2)).collect();
    assert_eq!(store.settle(groups.into(), NOW).await.unwrap().len(), 1_200);
    store.close(tenant, batch, NOW).await.unwrap().unwrap();

    assert!(!store.delete(tenant, batch).await.unwrap(), "2,400 outcomes are more than one step");
    check_not_found(store.batch(tenant, batch).await);
    check_no_batches(store, tenant).await;
    let mut steps = 1;
    while !store.delete(tenant, batch).await.unwrap() {
        steps += 1;
        assert!(steps < 100, "deleting makes no progress");
    }
    check_not_found(store.delete(tenant, batch).await);
    check_not_found(store.progress(tenant, batch).await);

    // Made again under the same id and key it has nothing of before.
    let again = store.create(tenant, new_batch(batch, Some("key"))).await.unwrap();
    assert_eq!(again, crate::Created::New);
    assert_eq!(store.parts(tenant, batch).await.unwrap(), []);
    check_conflict(store.commit_part(tenant, batch, part(0, upload, 1)).await);
}

/// A batch that someone still works on stays; a draft with rows may go.
pub async fn only_a_final_batch_or_a_draft_is_deleted(store: &dyn Store) {
    let scene = Scene::ready(store, &[1]).await;
    check_conflict(store.delete(&scene.tenant, scene.batch).await);
    assert_eq!(scene.claim(0).await.len(), 1);
    let draft = Scene::draft(store).await;
    draft.upload(&[5]).await;
    while !store.delete(&draft.tenant, draft.batch).await.unwrap() {}
    check_not_found(
        store.put_rows(&draft.tenant, draft.batch, fresh_upload(), vec![block(0, 1, "late")], NOW).await,
    );
}

/// Sessions learn from the change counter that batches were submitted, steered or given other limits.
pub async fn steering_and_limits_are_seen_as_changes(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let (upload, cuts) = scene.upload(&[1]).await;
    store.commit_part(tenant, batch, part(0, upload, 1)).await.unwrap();
    store.begin_submit(tenant, batch).await.unwrap();
    store.put_heads(tenant, batch, &lane(), &cuts).await.unwrap();
    let mut seen = store.changes().await.unwrap();
    let mut ver = store.batch(tenant, batch).await.unwrap().ver;
    let limits =
        BatchLimits { max_concurrency: None, max_cost: Some(Money::from_pico(5)), ..BatchLimits::default() };
    for step in 0..4 {
        match step {
            0 => store.finish_submit(tenant, batch, 1, 1, NOW).await.unwrap(),
            1 => store.set_limits(tenant, batch, limits).await.unwrap(),
            2 => drop(
                store.steer(tenant, batch, BatchEvent::Pause(PauseReason::Requested), NOW).await.unwrap(),
            ),
            _ => drop(store.steer(tenant, batch, BatchEvent::Cancel, NOW).await.unwrap()),
        }
        let (now, now_ver) = (store.changes().await.unwrap(), store.batch(tenant, batch).await.unwrap().ver);
        assert!(now != seen && now_ver > ver, "step {step}");
        (seen, ver) = (now, now_ver);
    }
    assert_eq!(store.batch(tenant, batch).await.unwrap().limits, limits);
    // Other cases may share the store, so the counter may have gone on.
    assert!(
        matches!(store.beat(scene.session, 1, None).await.unwrap(), BeatAnswer::Alive { changes } if changes >= seen)
    );
}

/// What the state does not allow is refused and changes nothing; what already happened is no refusal.
pub async fn a_step_that_the_state_forbids_is_a_conflict(store: &dyn Store) {
    let draft = Scene::draft(store).await;
    for event in [BatchEvent::Cancel, BatchEvent::Resume, BatchEvent::Pause(PauseReason::Requested)] {
        check_conflict(store.steer(&draft.tenant, draft.batch, event, NOW).await);
    }
    let scene = Scene::ready(store, &[1]).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    for event in [BatchEvent::BeginSubmit, BatchEvent::FinishSubmit, BatchEvent::Admit, BatchEvent::Close] {
        check_conflict(store.steer(tenant, batch, event, NOW).await);
    }
    for _ in 0..2 {
        assert_eq!(
            store.steer(tenant, batch, BatchEvent::Cancel, NOW).await.unwrap(),
            BatchState::Cancelling
        );
    }
    check_conflict(store.steer(tenant, batch, BatchEvent::Resume, NOW).await);
    store.seal(tenant, batch, 10, NOW).await.unwrap();
    store.close(tenant, batch, NOW).await.unwrap().unwrap();
    check_conflict(store.steer(tenant, batch, BatchEvent::Cancel, NOW).await);
    check_conflict(store.set_limits(tenant, batch, BatchLimits::default()).await);
}
