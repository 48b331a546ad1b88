//! Cases about claiming chunks and settling outcomes.

use promptmill_domain::{BatchEvent, BatchState, ItemCode, PauseReason, Release, SettledItem};

use super::accept::accepted_row;
use super::scene::*;
use crate::{SettleGroup, Settled, Store};

/// A chunk that waits, is leased, parked, done or unknown is left out.
pub async fn only_a_ready_chunk_is_claimed(store: &dyn Store) {
    let scene = Scene::queued(store, &[1, 1]).await;
    assert!(scene.claim(0).await.is_empty());
    store.admit(&[scene.chunk(0)], NOW).await.unwrap();
    assert_eq!(store.admit(&[scene.chunk(0)], NOW).await.unwrap(), []);
    assert_eq!(store.batch(&scene.tenant, scene.batch).await.unwrap().state, BatchState::Running);
    let lease = scene.lease(0).await;
    assert!(scene.claim(0).await.is_empty());
    assert!(scene.claim(1).await.is_empty());
    assert!(scene.claim(99).await.is_empty());
    assert_eq!(scene.settle(settling(&lease, [0])).await, Settled::Recorded { done: true });
    assert!(scene.claim(0).await.is_empty());
    assert_eq!(store.admit(&[scene.chunk(0), scene.chunk(99)], NOW).await.unwrap(), []);
}

/// The chunk of a single row is leased as soon as it is hinted, once, and no chunk of another batch is. Who admits of it later changes nothing but
/// the state of the batch; who lets go of it gives it back as a ready one.
pub async fn the_chunk_of_a_single_row_is_claimed_while_it_waits(store: &dyn Store) {
    for scene in [Scene::queued(store, &[1]).await, accepted_row(store).await] {
        let (tenant, batch) = (&scene.tenant, scene.batch);
        let state = async || store.batch(tenant, batch).await.unwrap().state;
        let is_ready = async || store.ready(None, 1_000).await.unwrap().contains(&scene.chunk(0));
        assert!(scene.claim(1).await.is_empty());
        let lease = scene.lease(0).await;
        assert!(scene.claim(0).await.is_empty());
        assert_eq!(store.waiting(batch, 10).await.unwrap(), []);
        assert!(!is_ready().await);
        assert_eq!(state().await, BatchState::Queued);
        let progress = store.progress(tenant, batch).await.unwrap();
        assert_eq!((progress.counts.leased, progress.open_chunks), (1, 1));
        assert_eq!(store.close(tenant, batch, NOW).await.unwrap(), None);
        assert_eq!(store.admit(&[scene.chunk(0)], NOW).await.unwrap(), []);
        assert_eq!(state().await, BatchState::Running);
        let let_go = SettleGroup { release: Release::LetGo, ..settling(&lease, []) };
        assert_eq!(scene.settle(let_go).await, Settled::Recorded { done: false });
        assert!(is_ready().await);
        let lease = scene.lease(0).await;
        assert_eq!(scene.settle(settling(&lease, [0])).await, Settled::Recorded { done: true });
        let counts = store.close(tenant, batch, NOW).await.unwrap().unwrap();
        assert_eq!((counts.succeeded, counts.total()), (1, 1));
    }
}

/// The chunk of a single row in a batch that is paused or being cancelled is not claimed, and one that was is sealed.
pub async fn the_chunk_of_a_single_row_is_held_by_the_state_of_its_batch(store: &dyn Store) {
    for scene in [Scene::queued(store, &[1]).await, accepted_row(store).await] {
        let (tenant, batch) = (&scene.tenant, scene.batch);
        store.steer(tenant, batch, BatchEvent::Pause(PauseReason::Requested), NOW).await.unwrap();
        assert!(scene.claim(0).await.is_empty());
        assert_eq!(store.waiting(batch, 10).await.unwrap(), [scene.chunk(0)]);
        store.steer(tenant, batch, BatchEvent::Resume, NOW).await.unwrap();
        let lease = scene.lease(0).await;
        store.steer(tenant, batch, BatchEvent::Cancel, NOW).await.unwrap();
        while store.seal(tenant, batch, 10, NOW).await.unwrap() > 0 {}
        assert_eq!(scene.settle(settling(&lease, [0])).await, Settled::Fenced);
        let counts = store.close(tenant, batch, NOW).await.unwrap().unwrap();
        assert_eq!((counts.cancelled, counts.total()), (1, 1));
        assert!(scene.claim(0).await.is_empty());
    }
}

/// Of two claims at once one gets the chunk.
pub async fn of_two_claimers_exactly_one_gets_the_chunk(store: &dyn Store) {
    let scene = Scene::ready(store, &[1; 8]).await;
    let rival = fresh_session();
    store.open(rival, "rival").await.unwrap();
    for n in 0..8 {
        let (mine, theirs) = ([(scene.chunk(n), fresh_token())], [(scene.chunk(n), fresh_token())]);
        let (one, two) =
            tokio::join!(store.claim(scene.session, &mine, NOW), store.claim(rival, &theirs, NOW));
        assert_eq!(one.unwrap().len() + two.unwrap().len(), 1);
    }
}

/// Nothing begins in a batch that is paused, being cancelled or over.
pub async fn chunks_of_a_paused_or_closing_batch_are_neither_admitted_nor_claimed(store: &dyn Store) {
    let scene = Scene::queued(store, &[1, 1]).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    store.admit(&[scene.chunk(0)], NOW).await.unwrap();
    store.steer(tenant, batch, BatchEvent::Pause(PauseReason::Requested), NOW).await.unwrap();
    assert!(scene.claim(0).await.is_empty());
    assert_eq!(store.admit(&[scene.chunk(1)], NOW).await.unwrap(), []);
    assert_eq!(store.steer(tenant, batch, BatchEvent::Resume, NOW).await.unwrap(), BatchState::Running);
    assert_eq!(store.admit(&[scene.chunk(1)], NOW).await.unwrap(), [scene.chunk(1)]);
    assert_eq!(scene.claim(1).await.len(), 1);
    store.steer(tenant, batch, BatchEvent::Cancel, NOW).await.unwrap();
    assert!(scene.claim(0).await.is_empty());
    store.seal(tenant, batch, 10, NOW).await.unwrap();
    store.close(tenant, batch, NOW).await.unwrap();
    assert!(scene.claim(0).await.is_empty());
}

/// What a worker must know of several batches is read at once; one that is not there is left out.
pub async fn what_is_to_be_known_of_batches_is_read_together(store: &dyn Store) {
    let row_by_row = Scene::ready(store, &[1, 1]).await;
    let (in_one, large) = (Scene::queued(store, &[2]).await, Scene::ready(store, &[40, 40]).await);
    let (one, other) = (row_by_row.lease(0).await, large.lease(1).await);
    row_by_row.settle(SettleGroup { spent: spent(2), ..settling(&one, [0]) }).await;
    large.settle(settling(&other, [3])).await;
    let asked = [row_by_row.batch, fresh_batch(), in_one.batch, large.batch];
    let found = store.assignments(&asked).await.unwrap();
    assert_eq!(found.len(), 3);
    for scene in [&row_by_row, &in_one, &large] {
        let of = found.iter().find(|of| of.batch.id == scene.batch).unwrap();
        assert_eq!(of.batch, store.batch(&scene.tenant, scene.batch).await.unwrap());
        assert_eq!(of.counts, scene.counts().await);
    }
    assert_eq!(store.assignments(&[]).await.unwrap(), []);
}

/// A lease holds the block of its chunk, also when several chunks share one.
pub async fn a_lease_brings_the_rows_of_its_chunk(store: &dyn Store) {
    let scene = Scene::ready(store, &[2, 3]).await;
    let wanted = [(scene.chunk(1), fresh_token()), (scene.chunk(0), fresh_token())];
    let leases = store.claim(scene.session, &wanted, NOW).await.unwrap();
    let skips: Vec<_> =
        leases.iter().map(|lease| (lease.head.chunk, lease.head.rows.skip, lease.head.len())).collect();
    assert_eq!(skips, [(scene.chunk(1), 2, 3), (scene.chunk(0), 0, 2)]);
    assert!(leases.iter().all(|lease| lease.rows == "the rows"));
}

/// Under any token but that of the lease nothing is recorded.
pub async fn a_stale_token_cannot_settle(store: &dyn Store) {
    let scene = Scene::ready(store, &[2]).await;
    let old = scene.lease(0).await;
    assert_eq!(
        scene.settle(SettleGroup { release: Release::LetGo, ..group(&old) }).await,
        Settled::Recorded { done: false }
    );
    assert_eq!(scene.settle(settling(&old, [0])).await, Settled::Fenced);
    let new = scene.lease(0).await;
    assert_eq!(scene.settle(SettleGroup { spent: spent(5), ..settling(&old, [0]) }).await, Settled::Fenced);
    assert!(!store.try_item(old.head.chunk, old.token, 0, NOW).await.unwrap());
    assert_eq!(scene.outcomes().await.outcomes, []);
    assert_eq!(scene.counts().await.totals, spent(0));

    // What the stale holder had as a body is not adopted.
    let settled = vec![(SettledItem { offset: 0, code: FAILED }, "of the new holder".into())];
    scene.settle(SettleGroup { settled, ..group(&new) }).await;
    let outcomes = scene.outcomes().await.outcomes;
    assert_eq!((outcomes[0].code, outcomes[0].body.as_deref()), (FAILED, Some(&b"of the new holder"[..])));
}

/// Repeating a settle after a lost answer counts its items and its calls once.
pub async fn a_settle_that_is_repeated_is_recorded_once(store: &dyn Store) {
    let scene = Scene::ready(store, &[4]).await;
    let lease = scene.lease(0).await;
    let parked = vec![parked(3, NOW + 5)];
    let first = SettleGroup { spent: spent(3), parked, ..settling(&lease, [0, 2]) };
    for _ in 0..3 {
        assert_eq!(scene.settle(first.clone()).await, Settled::Recorded { done: false });
    }
    let counts = scene.counts().await;
    assert_eq!((counts.succeeded, counts.leased, counts.parked, counts.totals), (2, 1, 1, spent(3)));
    let second = SettleGroup { seq: 2, spent: spent(1), ..settling(&lease, [1]) };
    scene.settle(second).await;
    assert_eq!(scene.counts().await.totals, spent(4));
    assert_eq!(scene.outcomes().await.outcomes.len(), 3);

    // The group that ends the lease finds it ended when it is repeated.
    let last = SettleGroup { seq: 3, spent: spent(1), ..settling(&lease, [3]) };
    assert_eq!(scene.settle(last.clone()).await, Settled::Recorded { done: true });
    assert_eq!(scene.settle(last).await, Settled::Fenced);
    assert_eq!(scene.counts().await.totals, spent(5));
}

/// A later outcome of the same item, in the same group or another, changes neither code nor body.
pub async fn an_item_keeps_its_first_outcome(store: &dyn Store) {
    let scene = Scene::ready(store, &[3]).await;
    let lease = scene.lease(0).await;
    let failed = |offset, text: &'static str| (SettledItem { offset, code: FAILED }, text.into());
    let mut twice = settling(&lease, [0]);
    twice.settled.push(failed(0, "second"));
    scene.settle(twice).await;
    let third =
        SettleGroup { settled: vec![failed(0, "third"), failed(1, "other")], seq: 2, ..group(&lease) };
    scene.settle(third).await;
    let outcomes = scene.outcomes().await.outcomes;
    let seen: Vec<_> = outcomes.iter().map(|o| (o.index, o.code, o.body.as_deref())).collect();
    assert_eq!(seen, [(0, ItemCode::Succeeded, Some(&body(0)[..])), (1, FAILED, Some(&b"other"[..]))]);
}

/// An offset beyond the chunk, or a code that is no outcome, is refused and leaves no trace.
pub async fn a_group_that_names_no_item_of_its_chunk_is_refused(store: &dyn Store) {
    let scene = Scene::ready(store, &[2, 2]).await;
    let lease = scene.lease(0).await;
    check_conflict(store.settle([settling(&lease, [0, 2])].into(), NOW).await);
    let open = vec![(SettledItem { offset: 1, code: ItemCode::Open }, body(1))];
    check_conflict(store.settle([SettleGroup { settled: open, ..group(&lease) }].into(), NOW).await);
    let beyond = vec![parked(2, NOW)];
    check_conflict(store.settle([SettleGroup { parked: beyond, ..group(&lease) }].into(), NOW).await);
    check_conflict(store.try_item(lease.head.chunk, lease.token, 2, NOW).await);
    assert_eq!(scene.outcomes().await.outcomes, []);
    assert_eq!(scene.settle(settling(&lease, [0, 1])).await, Settled::Recorded { done: true });
}

/// One call may settle several chunks; each answer stands at the place of its group, and a fenced one disturbs no other.
pub async fn groups_of_one_call_are_answered_in_order(store: &dyn Store) {
    let scene = Scene::ready(store, &[1, 2, 1]).await;
    let (one, two, three) = (scene.lease(0).await, scene.lease(1).await, scene.lease(2).await);
    let stale = SettleGroup { token: fresh_token(), ..settling(&three, [0]) };
    let groups = vec![settling(&two, [1]), stale, settling(&one, [0])];
    let settled = store.settle(groups.into(), NOW).await.unwrap();
    assert_eq!(
        settled,
        [Settled::Recorded { done: false }, Settled::Fenced, Settled::Recorded { done: true }]
    );
    let indexes: Vec<_> = scene.outcomes().await.outcomes.iter().map(|outcome| outcome.index).collect();
    assert_eq!(indexes, [0, 2]);
    assert_eq!(store.settle([].into(), NOW).await.unwrap(), []);
}

/// A let-go chunk none of whose items can begin is not handed out before the first of them is due.
pub async fn a_chunk_whose_open_items_all_wait_is_parked_until_the_earliest(store: &dyn Store) {
    let scene = Scene::ready(store, &[3]).await;
    let lease = scene.lease(0).await;
    let wait = vec![parked(1, NOW + 200), parked(2, NOW + 100)];
    let last = SettleGroup { parked: wait.clone(), release: Release::LetGo, ..settling(&lease, [0]) };
    assert_eq!(scene.settle(last).await, Settled::Recorded { done: false });
    let counts = scene.counts().await;
    assert_eq!((counts.parked, counts.waiting, counts.leased, counts.succeeded), (2, 0, 0, 1));

    let mine = |woken: Vec<_>| woken.into_iter().filter(|chunk| *chunk == scene.chunk(0)).count();
    assert!(scene.claim(0).await.is_empty());
    assert_eq!(mine(store.wake(100, NOW + 99).await.unwrap()), 0);
    assert!(scene.claim(0).await.is_empty());
    assert_eq!(mine(store.wake(100, NOW + 100).await.unwrap()), 1);
    assert_eq!(mine(store.wake(100, NOW + 100).await.unwrap()), 0);
    let lease = scene.lease(0).await;
    assert_eq!(lease.head.parked, wait);
    assert!(lease.head.is_due(2, NOW + 100) && !lease.head.is_due(1, NOW + 100));
}

/// A chunk parked for its lane waits as a whole, although its items could begin.
pub async fn a_lane_that_stands_still_parks_the_whole_chunk(store: &dyn Store) {
    let scene = Scene::ready(store, &[2]).await;
    let lease = scene.lease(0).await;
    let wait = vec![parked(0, NOW + 10)];
    scene.settle(SettleGroup { parked: wait, release: Release::ParkUntil(NOW + 50), ..group(&lease) }).await;
    let counts = scene.counts().await;
    assert_eq!((counts.parked, counts.waiting), (2, 0));
    assert!(!store.wake(100, NOW + 49).await.unwrap().contains(&scene.chunk(0)));
    assert!(scene.claim(0).await.is_empty());
    assert!(store.wake(100, NOW + 50).await.unwrap().contains(&scene.chunk(0)));
    assert_eq!(scene.claim(0).await.len(), 1);
}

/// What a worker lets go is there for the next, with what was recorded.
pub async fn a_released_chunk_with_open_items_is_ready_again(store: &dyn Store) {
    let scene = Scene::ready(store, &[3]).await;
    let first = scene.lease(0).await;
    let wait = vec![parked(1, NOW + 1_000)];
    scene
        .settle(SettleGroup { parked: wait.clone(), release: Release::LetGo, ..settling(&first, [2]) })
        .await;
    let second = scene.lease(0).await;
    assert_eq!(second.head.done, [0, 0, ItemCode::Succeeded.byte()]);
    assert_eq!((second.head.parked.clone(), second.head.kills), (wait, 0));
    assert!(second.head.ver > first.head.ver);
    scene.settle(settling(&second, [0, 1])).await;
    let counts = scene.counts().await;
    assert_eq!((counts.succeeded, counts.open()), (3, 0));
}

/// The last outcome ends the chunk, asked or not.
pub async fn a_chunk_whose_items_all_settled_is_done(store: &dyn Store) {
    let scene = Scene::ready(store, &[2, 1]).await;
    let lease = scene.lease(0).await;
    assert_eq!(scene.settle(settling(&lease, [1])).await, Settled::Recorded { done: false });
    let last = SettleGroup { seq: 2, ..settling(&lease, [0]) };
    assert_eq!(scene.settle(last).await, Settled::Recorded { done: true });
    assert_eq!(store.progress(&scene.tenant, scene.batch).await.unwrap().open_chunks, 1);
    let bodies: Vec<_> = scene.outcomes().await.outcomes.into_iter().map(|o| (o.index, o.body)).collect();
    assert_eq!(bodies, [(0, Some(body(0))), (1, Some(body(1)))]);
}
