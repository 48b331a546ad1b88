//! Cases about rows coming in and drafts becoming queued batches.

use promptmill_domain::chunk::{MAX_CHUNK_ROWS, cut};
use promptmill_domain::{BatchState, ChunkState};

use super::scene::*;
use crate::{Created, PageLimit, Part, Store, flow};

/// A second create with the same id, or the same key of the same tenant, answers the first batch.
pub async fn create_is_idempotent_by_id_and_by_key(store: &dyn Store) {
    let (tenant, first, second) = (fresh_tenant(), fresh_batch(), fresh_batch());
    assert_eq!(store.create(&tenant, new_batch(first, Some("k"))).await.unwrap(), Created::New);
    assert_eq!(store.create(&tenant, new_batch(first, Some("k"))).await.unwrap(), Created::Existing(first));
    assert_eq!(store.create(&tenant, new_batch(first, None)).await.unwrap(), Created::Existing(first));
    assert_eq!(store.create(&tenant, new_batch(second, Some("k"))).await.unwrap(), Created::Existing(first));
    check_not_found(store.batch(&tenant, second).await);

    let batch = store.batch(&tenant, first).await.unwrap();
    let asked = new_batch(first, None);
    assert_eq!((batch.id, &batch.tenant, batch.state), (first, &tenant, BatchState::Draft));
    assert_eq!((batch.spec, batch.limits, batch.created_ms), (asked.spec, asked.limits, NOW));
    assert_eq!((batch.total, batch.final_counts), (0, None));
}

/// A key belongs to its tenant.
pub async fn the_same_key_of_two_tenants_makes_two_batches(store: &dyn Store) {
    for _ in 0..2 {
        let (tenant, batch) = (fresh_tenant(), fresh_batch());
        assert_eq!(store.create(&tenant, new_batch(batch, Some("shared"))).await.unwrap(), Created::New);
        assert_eq!(store.batch(&tenant, batch).await.unwrap().id, batch);
    }
}

/// Rows that no part names cannot be submitted.
pub async fn rows_are_invisible_until_their_part_is_committed(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (upload, _) = scene.upload(&[3]).await;
    assert_eq!(store.parts(&scene.tenant, scene.batch).await.unwrap(), []);
    check_conflict(store.begin_submit(&scene.tenant, scene.batch).await);

    store.commit_part(&scene.tenant, scene.batch, part(0, upload, 1)).await.unwrap();
    let committed = Part { part: 0, digest: [0; 32], rows: 3 };
    assert_eq!(store.parts(&scene.tenant, scene.batch).await.unwrap(), [committed]);
    let parts = store.begin_submit(&scene.tenant, scene.batch).await.unwrap();
    assert_eq!(
        parts.iter().map(|part| (part.upload, part.blocks.clone())).collect::<Vec<_>>(),
        [(upload, vec![3])]
    );
}

/// The last upload committed for a part is the part; parts are joined by their number.
pub async fn a_part_that_is_sent_again_replaces_what_it_was(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let (old, new, other) = (fresh_upload(), fresh_upload(), fresh_upload());
    store.put_rows(tenant, batch, other, vec![block(0, 9, "nine")], NOW).await.unwrap();
    store.commit_part(tenant, batch, part(1, other, 1)).await.unwrap();
    store.put_rows(tenant, batch, old, vec![block(0, 5, "old")], NOW).await.unwrap();
    store.commit_part(tenant, batch, part(0, old, 1)).await.unwrap();
    store.put_rows(tenant, batch, new, vec![block(1, 1, "new 1"), block(0, 2, "new 0")], NOW).await.unwrap();
    let replacement = crate::PartCommit { digest: [9; 32], ..part(0, new, 2) };
    store.commit_part(tenant, batch, replacement.clone()).await.unwrap();
    store.commit_part(tenant, batch, replacement).await.unwrap();

    let parts = [Part { part: 0, digest: [9; 32], rows: 3 }, Part { part: 1, digest: [1; 32], rows: 9 }];
    assert_eq!(store.parts(tenant, batch).await.unwrap(), parts);
    let frozen = store.begin_submit(tenant, batch).await.unwrap();
    let frozen: Vec<_> = frozen.into_iter().map(|part| (part.upload, part.blocks)).collect();
    assert_eq!(frozen, [(new, vec![2, 1]), (other, vec![9])]);
}

/// The first bytes of a block stay.
pub async fn a_block_that_is_sent_again_changes_nothing(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch, upload) = (&scene.tenant, scene.batch, fresh_upload());
    store.put_rows(tenant, batch, upload, vec![block(0, 2, "first")], NOW).await.unwrap();
    store
        .put_rows(tenant, batch, upload, vec![block(0, 2, "again"), block(1, 1, "more")], NOW)
        .await
        .unwrap();
    store.commit_part(tenant, batch, part(0, upload, 2)).await.unwrap();
    assert_eq!(flow::submit(store, tenant, batch, &lane(), NOW).await.unwrap(), 3);
    assert_eq!(store.rows(tenant, batch, 0).await.unwrap().bytes, "first");
    assert_eq!(store.rows(tenant, batch, 2).await.unwrap().bytes, "more");
}

/// A part is committed only when every block of its upload is there.
pub async fn a_part_with_a_missing_block_is_refused(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch, upload) = (&scene.tenant, scene.batch, fresh_upload());
    check_conflict(store.commit_part(tenant, batch, part(0, upload, 1)).await);
    store.put_rows(tenant, batch, upload, vec![block(0, 1, "a"), block(2, 1, "c")], NOW).await.unwrap();
    check_conflict(store.commit_part(tenant, batch, part(0, upload, 2)).await);
    check_conflict(store.commit_part(tenant, batch, part(0, upload, 3)).await);
    assert_eq!(store.parts(tenant, batch).await.unwrap(), []);
    store.put_rows(tenant, batch, upload, vec![block(1, 1, "b")], NOW).await.unwrap();
    store.commit_part(tenant, batch, part(0, upload, 3)).await.unwrap();
}

/// Whoever repeats a step of the submit, even after others went on, changes nothing.
pub async fn every_submit_step_may_be_repeated(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let (upload, cuts) = scene.upload(&[4, 4, 2]).await;
    store.commit_part(tenant, batch, part(0, upload, 1)).await.unwrap();
    let first = store.begin_submit(tenant, batch).await.unwrap();
    assert_eq!(store.begin_submit(tenant, batch).await.unwrap(), first);
    assert_eq!(store.batch(tenant, batch).await.unwrap().state, BatchState::Submitting);
    store.put_heads(tenant, batch, &lane(), &cuts[..2]).await.unwrap();
    store.put_heads(tenant, batch, &lane(), &cuts).await.unwrap();
    store.put_heads(tenant, batch, &lane(), &[]).await.unwrap();
    for _ in 0..2 {
        store.finish_submit(tenant, batch, 3, 10, NOW).await.unwrap();
    }
    assert_eq!(store.batch(tenant, batch).await.unwrap().state, BatchState::Queued);

    // A slow repeater whose batch already runs.
    store.admit(&[scene.chunk(0)], NOW).await.unwrap();
    let lease = scene.lease(0).await;
    scene.settle(settling(&lease, [0])).await;
    store.put_heads(tenant, batch, &lane(), &cuts).await.unwrap();
    store.finish_submit(tenant, batch, 3, 10, NOW).await.unwrap();
    let progress = store.progress(tenant, batch).await.unwrap();
    assert_eq!((progress.state, progress.open_chunks), (BatchState::Running, 3));
    assert_eq!((progress.counts.total(), progress.counts.succeeded), (10, 1));
    assert_eq!(store.batch(tenant, batch).await.unwrap().total, 10);
    check_conflict(store.begin_submit(tenant, batch).await);
}

/// Two that submit the same draft end with its heads once.
pub async fn two_submits_at_once_make_one_set_of_heads(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let upload = fresh_upload();
    let blocks = (0..5).map(|seq| block(seq, 100, "rows")).collect();
    store.put_rows(&scene.tenant, scene.batch, upload, blocks, NOW).await.unwrap();
    store.commit_part(&scene.tenant, scene.batch, part(0, upload, 5)).await.unwrap();
    let lane = lane();
    let submit = || flow::submit(store, &scene.tenant, scene.batch, &lane, NOW);
    let (one, two) = tokio::join!(submit(), submit());
    // The slower one may come when the batch is queued already.
    assert!(one.is_ok() || two.is_ok(), "{one:?} {two:?}");
    for result in [one, two] {
        match result {
            Ok(total) => assert_eq!(total, 500),
            refused => check_conflict(refused),
        }
    }
    let progress = store.progress(&scene.tenant, scene.batch).await.unwrap();
    assert_eq!(
        (progress.state, progress.counts.waiting, progress.counts.total()),
        (BatchState::Queued, 500, 500)
    );
}

/// No rows, no batch.
pub async fn an_empty_draft_cannot_be_submitted(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    check_conflict(flow::submit(store, &scene.tenant, scene.batch, &lane(), NOW).await);
    store.commit_part(&scene.tenant, scene.batch, part(0, fresh_upload(), 0)).await.unwrap();
    check_conflict(flow::submit(store, &scene.tenant, scene.batch, &lane(), NOW).await);
    assert_eq!(store.batch(&scene.tenant, scene.batch).await.unwrap().state, BatchState::Draft);
}

/// From the first submit step on rows and parts are refused.
pub async fn rows_and_parts_are_frozen_by_the_submit(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let (upload, _) = scene.upload(&[1]).await;
    check_conflict(store.put_heads(tenant, batch, &lane(), &[]).await);
    store.commit_part(tenant, batch, part(0, upload, 1)).await.unwrap();
    store.begin_submit(tenant, batch).await.unwrap();
    check_conflict(store.put_rows(tenant, batch, upload, vec![block(1, 1, "late")], NOW).await);
    check_conflict(store.commit_part(tenant, batch, part(0, upload, 1)).await);
}

/// A batch is queued only with all of its heads, none of which is longer than a chunk may be.
pub async fn a_submit_with_a_missing_head_is_refused(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let (upload, cuts) = scene.upload(&[2, 2]).await;
    check_conflict(store.finish_submit(tenant, batch, 0, 0, NOW).await);
    store.commit_part(tenant, batch, part(0, upload, 1)).await.unwrap();
    store.begin_submit(tenant, batch).await.unwrap();
    let mut long = cuts.clone();
    long[1].len = MAX_CHUNK_ROWS + 1;
    check_conflict(store.put_heads(tenant, batch, &lane(), &long).await);
    store.put_heads(tenant, batch, &lane(), &cuts[1..]).await.unwrap();
    check_conflict(store.finish_submit(tenant, batch, 2, 4, NOW).await);
    assert_eq!(store.batch(tenant, batch).await.unwrap().state, BatchState::Submitting);
}

/// Heads have the places, bases and lengths of the cut, and the given lane.
pub async fn the_heads_are_the_cut_of_the_rows(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    for number in 0..2 {
        let upload = fresh_upload();
        store.put_rows(tenant, batch, upload, vec![block(0, 50, "a"), block(1, 33, "b")], NOW).await.unwrap();
        store.commit_part(tenant, batch, part(number, upload, 2)).await.unwrap();
    }
    let cuts: Vec<_> = cut(&store.begin_submit(tenant, batch).await.unwrap(), MAX_CHUNK_ROWS).collect();
    assert_eq!(flow::submit(store, tenant, batch, &lane(), NOW).await.unwrap(), 166);
    let chunks = store.waiting(batch, 1_000).await.unwrap();
    assert_eq!(chunks, (0..u32::try_from(cuts.len()).unwrap()).map(|n| scene.chunk(n)).collect::<Vec<_>>());
    assert_eq!(store.waiting(batch, 3).await.unwrap(), chunks[..3]);
    store.admit(&chunks, NOW).await.unwrap();
    let wanted: Vec<_> = chunks.iter().map(|chunk| (*chunk, fresh_token())).collect();
    let leases = store.claim(scene.session, &wanted, NOW).await.unwrap();
    assert_eq!(leases.len(), cuts.len());
    for (lease, cut) in leases.iter().zip(&cuts) {
        let head = &lease.head;
        assert_eq!((head.chunk.n, head.rows, head.base, head.len()), (cut.n, cut.rows, cut.base, cut.len));
        assert_eq!((&head.tenant, &head.lane), (tenant, &lane()));
        assert_eq!(head.state, ChunkState::Leased { owner: scene.session, token: lease.token });
        let place = store.rows(tenant, batch, cut.base + cut.len - 1).await.unwrap();
        assert_eq!((place.base, place.rows, place.len), (cut.base, cut.rows, cut.len));
    }
    let page = store.outcomes(tenant, batch, 0, PageLimit { items: 10, bytes: 10 }).await.unwrap();
    assert_eq!((page.outcomes.len(), page.next), (0, None));
}
