//! Cases about batches that are made and queued in one step.

use futures_util::future::join_all;
use promptmill_domain::chunk::MAX_CHUNK_ROWS;
use promptmill_domain::{Batch, BatchId, BatchState};

use super::scene::*;
use crate::{Accepted, BlockIds, Created, Part, Settled, Store, StoreError, Usage, WholeBatch, flow};

fn whole(id: BatchId, idem_key: Option<&str>, rows: u32) -> WholeBatch {
    let ids = vec![9; 8 * rows as usize].into();
    let rows = crate::RowBlock { ids, ..block(0, rows, "the rows") };
    WholeBatch { batch: new_batch(id, idem_key), rows, digest: [5; 32] }
}

/// A queued batch of a single row that was accepted, and a live session.
pub(super) async fn accepted_row(store: &dyn Store) -> Scene<'_> {
    let (tenant, whole) = (fresh_tenant(), whole(fresh_batch(), None, 1));
    let batch = check_new(store.accept(&tenant, whole).await.unwrap()).id;
    let scene = Scene { store, tenant, batch, session: fresh_session() };
    store.open(scene.session, "worker").await.unwrap();
    scene
}

#[track_caller]
fn check_new(accepted: Accepted) -> Batch {
    match accepted {
        Accepted::New(batch) => *batch,
        Accepted::Existing(id) => panic!("{id} exists already"),
    }
}

/// State, rows and chunks are those that a draft with this one part has when it is submitted, for small and for larger batches.
pub async fn an_accepted_batch_is_what_the_steps_of_a_submit_make(store: &dyn Store) {
    for rows in [1, 5, 32, 33, MAX_CHUNK_ROWS] {
        let tenant = fresh_tenant();
        let (stepped, accepted) = (whole(fresh_batch(), None, rows), whole(fresh_batch(), None, rows));
        let (id, upload) = (stepped.batch.id, stepped.upload());
        store.create(&tenant, stepped.batch.clone()).await.unwrap();
        store.put_rows(&tenant, id, upload, vec![stepped.rows.clone()], NOW).await.unwrap();
        let commit = crate::PartCommit { part: 0, upload, blocks: 1, digest: stepped.digest };
        store.commit_part(&tenant, id, commit).await.unwrap();
        assert_eq!(flow::submit(store, &tenant, id, &lane(), NOW).await.unwrap(), rows);
        let wanted = store.batch(&tenant, id).await.unwrap();
        let of_one = store.usage(&tenant, NOW).await.unwrap();

        let batch = check_new(store.accept(&tenant, accepted.clone()).await.unwrap());
        assert_eq!(batch, store.batch(&tenant, accepted.batch.id).await.unwrap());
        assert_eq!((batch.state.clone(), batch.total), (BatchState::Queued, rows));
        assert_eq!(Batch { id, ver: wanted.ver, ..batch.clone() }, wanted);
        let parts = [Part { part: 0, digest: [5; 32], rows: u64::from(rows) }];
        assert_eq!(store.parts(&tenant, batch.id).await.unwrap(), parts);
        let ids = BlockIds { part: 0, seq: 0, len: rows, ids: accepted.rows.ids };
        assert_eq!(store.block_ids(&tenant, batch.id, None, 2).await.unwrap(), [ids]);
        assert_eq!(store.block(&tenant, batch.id, 0, 0).await.unwrap(), "the rows");
        let numbers = async |batch| {
            let chunks = store.waiting(batch, 1_000).await.unwrap();
            chunks.into_iter().map(|chunk| chunk.n).collect::<Vec<_>>()
        };
        assert_eq!(numbers(batch.id).await, numbers(id).await);
        for index in [0, rows / 2, rows - 1] {
            let place = async |batch| {
                let place = store.rows(&tenant, batch, index).await.unwrap();
                (place.base, place.len, place.rows.seq, place.rows.skip, place.bytes)
            };
            assert_eq!(place(batch.id).await, place(id).await);
        }
        let of_both = store.usage(&tenant, NOW).await.unwrap();
        let twice =
            Usage { rows: 2 * of_one.rows, bytes: 2 * of_one.bytes, record_bytes: 2 * of_one.record_bytes };
        assert_eq!(of_both, twice);
        assert!(store.open_batches().await.unwrap().contains(&batch));
    }
}

/// Whoever accepts again, under the same id or the same key, is told of what there is, whatever has become of it.
pub async fn an_accept_that_is_repeated_changes_nothing(store: &dyn Store) {
    let tenant = fresh_tenant();
    let (first, second) = (whole(fresh_batch(), Some("k"), 2), whole(fresh_batch(), Some("k"), 3));
    let id = first.batch.id;
    let made = check_new(store.accept(&tenant, first.clone()).await.unwrap());
    let used = store.usage(&tenant, NOW).await.unwrap();
    let again = async |whole: &WholeBatch| store.accept(&tenant, whole.clone()).await.unwrap();
    assert_eq!(again(&first).await, Accepted::Existing(id));
    assert_eq!(again(&second).await, Accepted::Existing(id));
    check_not_found(store.batch(&tenant, second.batch.id).await);
    assert_eq!(store.create(&tenant, first.batch.clone()).await.unwrap(), Created::Existing(id));
    check_conflict(store.begin_submit(&tenant, id).await);
    assert_eq!(store.batch(&tenant, id).await.unwrap(), made);
    let scene = Scene { store, tenant: tenant.clone(), batch: id, session: fresh_session() };
    store.open(scene.session, "worker").await.unwrap();
    scene.admit_all(&[1, 1]).await;
    assert_eq!(again(&first).await, Accepted::Existing(id));
    assert_eq!(store.batch(&tenant, id).await.unwrap().state, BatchState::Running);
    assert_eq!(store.usage(&tenant, NOW).await.unwrap(), used);
    scene.end(NOW).await;
    assert_eq!(again(&first).await, Accepted::Existing(id));
    assert_eq!(store.batch(&tenant, id).await.unwrap().state, BatchState::Cancelled);

    // A draft stays one.
    let draft = Scene::draft(store).await;
    let accepted = store.accept(&draft.tenant, whole(draft.batch, None, 1)).await.unwrap();
    assert_eq!(accepted, Accepted::Existing(draft.batch));
    assert_eq!(store.batch(&draft.tenant, draft.batch).await.unwrap().state, BatchState::Draft);
    assert_eq!(store.parts(&draft.tenant, draft.batch).await.unwrap(), []);
}

/// Of several that accept the same batch at once at most one made it, and it is there once.
pub async fn accepts_at_once_of_the_same_batch_make_it_once(store: &dyn Store) {
    for _ in 0..4 {
        let (tenant, whole) = (fresh_tenant(), whole(fresh_batch(), Some("k"), 40));
        let answers = join_all((0..6).map(|_| store.accept(&tenant, whole.clone()))).await;
        let mut made = 0;
        for answer in answers {
            match answer {
                Ok(Accepted::New(batch)) => made += usize::from(batch.id == whole.batch.id),
                Ok(Accepted::Existing(id)) => assert_eq!(id, whole.batch.id),
                // Someone else was at it.
                Err(StoreError::Unavailable(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert!(made <= 1);
        assert_eq!(store.accept(&tenant, whole.clone()).await.unwrap(), Accepted::Existing(whole.batch.id));
        let progress = store.progress(&tenant, whole.batch.id).await.unwrap();
        assert_eq!((progress.counts.waiting, progress.open_chunks), (40, 20));
        let used = store.usage(&tenant, NOW).await.unwrap();
        assert_eq!((used.rows, used.bytes), (40, 8));
    }
}

/// What one of them is refused is not held against the others, which are of several tenants.
pub async fn accepts_at_once_are_answered_each_for_itself(store: &dyn Store) {
    let tenants = [fresh_tenant(), fresh_tenant()];
    let foreign = Scene::draft(store).await;
    let earlier = whole(fresh_batch(), Some("earlier"), 1);
    check_new(store.accept(&tenants[0], earlier.clone()).await.unwrap());
    let mut calls: Vec<_> = (0..24)
        .map(|n| (&tenants[n % 2], whole(fresh_batch(), None, 1 + u32::try_from(n).unwrap())))
        .collect();
    calls.insert(3, (&tenants[1], whole(foreign.batch, None, 1)));
    calls.insert(7, (&tenants[0], whole(fresh_batch(), Some("earlier"), 1)));
    calls.insert(9, (&tenants[0], whole(fresh_batch(), None, 0)));
    let answers = join_all(calls.iter().map(|(tenant, whole)| store.accept(tenant, whole.clone()))).await;
    for (at, ((tenant, whole), answer)) in calls.iter().zip(answers).enumerate() {
        match at {
            3 | 9 => check_conflict(answer),
            7 => assert_eq!(answer.unwrap(), Accepted::Existing(earlier.batch.id)),
            _ => {
                let batch = check_new(answer.unwrap());
                assert_eq!((batch.id, &&batch.tenant, batch.total), (whole.batch.id, tenant, whole.rows.len));
                assert_eq!(store.batch(tenant, batch.id).await.unwrap(), batch);
            }
        }
    }
    let used: Vec<_> = join_all(tenants.iter().map(|tenant| store.usage(tenant, NOW))).await;
    let used: Vec<_> =
        used.into_iter().map(|used| used.unwrap()).map(|used| (used.rows, used.bytes)).collect();
    assert_eq!(used, [(12 * 12 + 1, 13 * 8), (12 * 13, 12 * 8)]);
    assert_eq!(store.batch(&foreign.tenant, foreign.batch).await.unwrap().state, BatchState::Draft);
}

/// Rows that are not those of one block are refused before anything is written.
pub async fn an_accept_that_is_refused_leaves_nothing(store: &dyn Store) {
    let tenant = fresh_tenant();
    let good = whole(fresh_batch(), Some("k"), 1);
    let mut second = good.clone();
    second.rows.seq = 1;
    for bad in [second, whole(good.batch.id, None, 0), whole(good.batch.id, None, MAX_CHUNK_ROWS + 1)] {
        check_conflict(store.accept(&tenant, bad).await);
    }
    check_no_batches(store, &tenant).await;
    assert_eq!(store.usage(&tenant, NOW).await.unwrap(), Usage::default());
    check_new(store.accept(&tenant, good).await.unwrap());
}

/// It is admitted, worked on, closed and deleted as any other batch.
pub async fn an_accepted_batch_runs_to_its_end_and_is_deleted(store: &dyn Store) {
    let tenant = fresh_tenant();
    let batch = check_new(store.accept(&tenant, whole(fresh_batch(), None, 3)).await.unwrap());
    let scene = Scene { store, tenant: tenant.clone(), batch: batch.id, session: fresh_session() };
    store.open(scene.session, "worker").await.unwrap();
    scene.admit_all(&[1, 1, 1]).await;
    for n in 0..3 {
        let lease = scene.lease(n).await;
        assert_eq!((lease.rows.as_ref(), lease.head.rows.skip), (&b"the rows"[..], n));
        assert_eq!(scene.settle(settling(&lease, [0])).await, Settled::Recorded { done: true });
    }
    let counts = store.close(&tenant, batch.id, NOW).await.unwrap().unwrap();
    assert_eq!((counts.succeeded, counts.total()), (3, 3));
    let ended = store.batch(&tenant, batch.id).await.unwrap();
    assert_eq!((ended.state, ended.final_counts), (BatchState::Completed, Some(counts)));
    assert_eq!(scene.outcomes().await.outcomes.len(), 3);
    scene.delete().await;
    check_no_batches(store, &tenant).await;
    let used = store.usage(&tenant, NOW).await.unwrap();
    assert_eq!((used.rows, used.bytes, used.record_bytes), (3, 0, 0));
}
