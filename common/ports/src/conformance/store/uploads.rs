//! Cases about uploads that live, become parts and are given up, and about what is kept of their rows.

use super::scene::*;
use crate::{BlockIds, Part, RowBlock, Store, flow};

/// Eight bytes of a hash for each of these rows, zeros for 0.
fn hashes(of_rows: &[u8]) -> bytes::Bytes {
    of_rows.iter().flat_map(|row| [*row; 8]).collect()
}

fn with_ids(block: RowBlock, of_rows: &[u8]) -> RowBlock {
    RowBlock { ids: hashes(of_rows), ..block }
}

/// What was given up takes neither a block nor a part, however often it is tried, and leaves no bytes.
pub async fn a_dropped_upload_takes_no_more_and_becomes_no_part(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let (upload, other) = (fresh_upload(), fresh_upload());
    let blocks = (0..200).map(|seq| block(seq, 1, "rows")).collect();
    store.put_rows(tenant, batch, upload, blocks, NOW).await.unwrap();
    store.put_rows(tenant, batch, other, vec![block(0, 1, "other")], NOW).await.unwrap();
    assert_eq!(store.usage(tenant, NOW).await.unwrap().bytes, 805);
    for _ in 0..2 {
        store.drop_upload(tenant, batch, upload).await.unwrap();
        check_conflict(store.put_rows(tenant, batch, upload, vec![block(200, 1, "late")], NOW).await);
        check_conflict(store.put_rows(tenant, batch, upload, vec![block(0, 1, "again")], NOW + 1).await);
        check_conflict(store.commit_part(tenant, batch, part(0, upload, 200)).await);
        check_conflict(store.commit_part(tenant, batch, part(0, upload, 0)).await);
    }
    assert_eq!(store.usage(tenant, NOW).await.unwrap().bytes, 5);
    assert_eq!(store.parts(tenant, batch).await.unwrap(), []);
    store.commit_part(tenant, batch, part(0, other, 1)).await.unwrap();
    assert_eq!(flow::submit(store, tenant, batch, &lane(), NOW).await.unwrap(), 1);
}

/// A block that was still under way when its upload was given up comes too late, even when it is the first.
pub async fn an_upload_dropped_before_its_first_block_takes_none(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let upload = fresh_upload();
    store.drop_upload(&scene.tenant, scene.batch, upload).await.unwrap();
    let late = vec![block(0, 1, "late")];
    check_conflict(store.put_rows(&scene.tenant, scene.batch, upload, late, NOW).await);
}

/// Giving up or sweeping an upload that a part names changes nothing.
pub async fn an_upload_that_became_a_part_stays(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let (upload, _) = scene.upload(&[3]).await;
    store.commit_part(tenant, batch, part(4, upload, 1)).await.unwrap();
    let there = async || {
        store.drop_upload(tenant, batch, upload).await.unwrap();
        while store.drop_stale_uploads(u64::MAX).await.unwrap() > 0 {}
        assert_eq!(store.block(tenant, batch, 4, 0).await.unwrap(), "the rows");
    };
    there().await;
    // The same upload may be a second part, and stays when it is no longer the first.
    store.commit_part(tenant, batch, part(5, upload, 1)).await.unwrap();
    let other = fresh_upload();
    store.put_rows(tenant, batch, other, vec![block(0, 1, "x")], NOW).await.unwrap();
    store.commit_part(tenant, batch, part(5, other, 1)).await.unwrap();
    there().await;
    assert_eq!(flow::submit(store, tenant, batch, &lane(), NOW).await.unwrap(), 4);
    there().await;
    assert_eq!(store.rows(tenant, batch, 2).await.unwrap().bytes, "the rows");
}

/// A sweep takes what took no block for long enough, of drafts as of batches that were submitted meanwhile, and nothing else.
pub async fn only_uploads_that_fell_silent_are_swept(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let (silent, alive, late) = (fresh_upload(), fresh_upload(), fresh_upload());
    let put = async |upload, seq, now_ms| {
        store.put_rows(tenant, batch, upload, vec![block(seq, 1, "rows")], now_ms).await
    };
    for seq in 0..2 {
        put(silent, seq, NOW).await.unwrap();
    }
    put(alive, 0, NOW).await.unwrap();
    // A block that is repeated is a sign of life too; a clock that went back is none of death.
    put(alive, 0, NOW + 50).await.unwrap();
    put(alive, 0, NOW + 10).await.unwrap();
    put(late, 0, NOW + 50).await.unwrap();
    let sweep = async |before_ms| {
        let mut removed = 0;
        loop {
            match store.drop_stale_uploads(before_ms).await.unwrap() {
                0 => return removed,
                some => removed += some,
            }
        }
    };
    // What took its last block at that very moment is left.
    sweep(NOW).await;
    put(silent, 2, NOW).await.unwrap();
    // Other cases may share the store, so the number answered may be larger.
    assert!(sweep(NOW + 1).await >= 3);
    check_conflict(put(silent, 3, NOW + 60).await);
    check_conflict(store.commit_part(tenant, batch, part(0, silent, 3)).await);
    assert_eq!(store.usage(tenant, NOW).await.unwrap().bytes, 8);
    put(alive, 1, NOW + 60).await.unwrap();
    store.commit_part(tenant, batch, part(0, alive, 2)).await.unwrap();
    flow::submit(store, tenant, batch, &lane(), NOW + 70).await.unwrap();
    assert!(sweep(NOW + 51).await >= 1);
    assert_eq!(store.usage(tenant, NOW).await.unwrap().bytes, 8);
    assert_eq!(store.rows(tenant, batch, 1).await.unwrap().bytes, "rows");
}

/// Of a commit and a drop at once one wins: the part is whole, or there is none.
pub async fn a_commit_and_a_drop_at_once_leave_a_whole_part_or_none(store: &dyn Store) {
    for round in 0..20 {
        let scene = Scene::draft(store).await;
        let (tenant, batch, upload) = (&scene.tenant, scene.batch, fresh_upload());
        let blocks = (0..100).map(|seq| block(seq, 1, "rows")).collect();
        store.put_rows(tenant, batch, upload, blocks, NOW).await.unwrap();
        let commit = store.commit_part(tenant, batch, part(0, upload, 100));
        let (committed, dropped) = if round % 2 == 0 {
            tokio::join!(commit, store.drop_upload(tenant, batch, upload))
        } else {
            let (dropped, committed) = tokio::join!(store.drop_upload(tenant, batch, upload), commit);
            (committed, dropped)
        };
        dropped.unwrap();
        let parts = store.parts(tenant, batch).await.unwrap();
        if committed.is_ok() {
            assert_eq!(parts.len(), 1);
            assert_eq!(flow::submit(store, tenant, batch, &lane(), NOW).await.unwrap(), 100);
        } else {
            check_conflict(committed);
            assert_eq!(parts, []);
            assert_eq!(store.usage(tenant, NOW).await.unwrap().bytes, 0);
        }
    }
}

/// A sweep and a sender at once: each block is either refused or part of what is submitted.
pub async fn a_sweep_never_takes_a_block_from_an_upload_that_goes_on(store: &dyn Store) {
    for _ in 0..10 {
        let scene = Scene::draft(store).await;
        let (tenant, batch, upload) = (&scene.tenant, scene.batch, fresh_upload());
        store.put_rows(tenant, batch, upload, vec![block(0, 1, "first")], NOW).await.unwrap();
        let more = vec![block(1, 1, "second")];
        let (put, swept) = tokio::join!(
            store.put_rows(tenant, batch, upload, more, NOW + 100),
            store.drop_stale_uploads(NOW + 50)
        );
        swept.unwrap();
        let committed = store.commit_part(tenant, batch, part(0, upload, 2)).await;
        if put.is_ok() {
            committed.unwrap();
            assert_eq!(store.block(tenant, batch, 0, 0).await.unwrap(), "first");
        } else {
            check_conflict(put);
            check_conflict(committed);
        }
    }
}

/// Hashes come as they were given, over all parts in order and page by page, before the submit as after it.
pub async fn hashes_of_custom_ids_come_in_the_order_of_the_rows(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let (first, second, replaced) = (fresh_upload(), fresh_upload(), fresh_upload());
    let blocks =
        vec![with_ids(block(1, 1, "1"), &[3]), with_ids(block(0, 2, "0"), &[1, 0]), block(2, 3, "2")];
    store.put_rows(tenant, batch, first, blocks, NOW).await.unwrap();
    // What is sent again stays as it was.
    store.put_rows(tenant, batch, first, vec![with_ids(block(0, 2, "0"), &[8, 8])], NOW).await.unwrap();
    store.put_rows(tenant, batch, replaced, vec![with_ids(block(0, 1, "old"), &[9])], NOW).await.unwrap();
    store.put_rows(tenant, batch, second, vec![with_ids(block(0, 1, "new"), &[5])], NOW).await.unwrap();
    store.commit_part(tenant, batch, part(2, first, 3)).await.unwrap();
    store.commit_part(tenant, batch, part(7, replaced, 1)).await.unwrap();
    store.commit_part(tenant, batch, part(7, second, 1)).await.unwrap();

    let ids = |part, seq, len, of_rows: &[u8]| BlockIds { part, seq, len, ids: hashes(of_rows) };
    let wanted = [ids(2, 0, 2, &[1, 0]), ids(2, 1, 1, &[3]), ids(2, 2, 3, &[]), ids(7, 0, 1, &[5])];
    let check = async || {
        for limit in [1, 2, 3, 100] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = store.block_ids(tenant, batch, after, limit).await.unwrap();
                assert!(page.len() <= limit as usize);
                let Some(last) = page.last() else { break };
                after = Some((last.part, last.seq));
                seen.extend(page);
            }
            assert_eq!(seen, wanted, "{limit} a page");
        }
        assert_eq!(store.block_ids(tenant, batch, Some((2, 9)), 10).await.unwrap(), wanted[3..]);
        assert_eq!(store.block_ids(tenant, batch, Some((5, 0)), 10).await.unwrap(), wanted[3..]);
    };
    check().await;
    flow::submit(store, tenant, batch, &lane(), NOW).await.unwrap();
    check().await;
}

/// A committed block is found by part and place; what no part names is not.
pub async fn a_block_is_read_by_its_place_in_the_part(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch, upload) = (&scene.tenant, scene.batch, fresh_upload());
    let blocks = (0..3).map(|seq| block(seq, 2, &format!("block {seq}"))).collect();
    store.put_rows(tenant, batch, upload, blocks, NOW).await.unwrap();
    check_not_found(store.block(tenant, batch, 3, 0).await);
    // A part may leave out the end of its upload.
    store.commit_part(tenant, batch, part(3, upload, 2)).await.unwrap();
    let committed = Part { part: 3, digest: [3; 32], rows: 4 };
    for _ in 0..2 {
        assert_eq!(store.parts(tenant, batch).await.unwrap(), [committed]);
        assert_eq!(store.block(tenant, batch, 3, 1).await.unwrap(), "block 1");
        check_not_found(store.block(tenant, batch, 3, 2).await);
        check_not_found(store.block(tenant, batch, 0, 0).await);
        assert_eq!(store.block_ids(tenant, batch, None, 10).await.unwrap().len(), 2);
        if store.batch(tenant, batch).await.unwrap().total == 0 {
            flow::submit(store, tenant, batch, &lane(), NOW).await.unwrap();
        }
    }
}

/// Rows count once, on the day of their submit.
pub async fn submitted_rows_count_once_on_the_day_of_their_submit(store: &dyn Store) {
    const DAY: u64 = 24 * 60 * 60 * 1_000;
    let tenant = fresh_tenant();
    let midnight = NOW - NOW % DAY + DAY;
    for (now_ms, lens) in [(midnight - 1, [4, 4]), (midnight, [3, 2]), (midnight + DAY - 1, [1, 1])] {
        let scene = Scene::draft_of(store, tenant.clone()).await;
        scene.queue(&lens, now_ms).await;
        // Repeated, on another day even, it counts no second time.
        store.finish_submit(&tenant, scene.batch, 2, lens.iter().sum(), now_ms).await.unwrap();
        store.finish_submit(&tenant, scene.batch, 2, lens.iter().sum(), now_ms + DAY).await.unwrap();
        scene.end(now_ms).await;
        scene.delete().await;
    }
    for (at, rows) in [(midnight - DAY, 8), (midnight - 1, 8), (midnight, 7), (midnight + DAY, 0)] {
        assert_eq!(store.usage(&tenant, at).await.unwrap().rows, rows);
    }
}

/// Stored bytes are those of every block and outcome there is, until it is removed: with its upload, its replaced part or its batch.
pub async fn stored_bytes_are_counted_until_they_are_removed(store: &dyn Store) {
    let tenant = fresh_tenant();
    let bytes = async || store.usage(&tenant, NOW).await.unwrap().bytes;
    let (one, two) =
        (Scene::draft_of(store, tenant.clone()).await, Scene::draft_of(store, tenant.clone()).await);
    let put = async |scene: &Scene<'_>, upload, text: &str| {
        store.put_rows(&tenant, scene.batch, upload, vec![block(0, 1, text)], NOW).await.unwrap();
    };
    let (old, new) = (fresh_upload(), fresh_upload());
    for _ in 0..2 {
        put(&one, old, "0123456789").await;
        assert_eq!(bytes().await, 10);
    }
    store.commit_part(&tenant, one.batch, part(0, old, 1)).await.unwrap();
    put(&one, new, "01234").await;
    assert_eq!(bytes().await, 15);
    store.commit_part(&tenant, one.batch, part(0, new, 1)).await.unwrap();
    assert_eq!(bytes().await, 5);
    put(&two, fresh_upload(), "012").await;
    flow::submit(store, &tenant, one.batch, &lane(), NOW).await.unwrap();
    one.end(NOW).await;
    assert_eq!(bytes().await, 8);
    one.delete().await;
    assert_eq!(bytes().await, 3);
    two.delete().await;
    assert_eq!(bytes().await, 0);

    let three = Scene::draft_of(store, tenant.clone()).await;
    three.queue(&[2], NOW).await;
    three.admit_all(&[2]).await;
    let rows = bytes().await;
    let lease = three.lease(0).await;
    for _ in 0..2 {
        three.settle(settling(&lease, [1])).await;
        assert_eq!(bytes().await, rows + body(1).len() as u64);
    }
    three.end(NOW).await;
    three.delete().await;
    assert_eq!(bytes().await, 0);
}

/// The spec of a batch counts from when it is made until it is deleted.
pub async fn the_spec_of_a_batch_is_counted_until_it_is_deleted(store: &dyn Store) {
    let tenant = fresh_tenant();
    let counted = async || store.usage(&tenant, NOW).await.unwrap().record_bytes;
    let small = Scene::draft_of(store, tenant.clone()).await;
    let bytes = counted().await;
    assert!(bytes > 0);
    let mut large = new_batch(fresh_batch(), None);
    large.spec.template.push_str(&" ".repeat(1_000));
    let large = Scene::of(store, tenant.clone(), large).await;
    assert_eq!(counted().await, 2 * bytes + 1_000);
    small.delete().await;
    large.delete().await;
    assert_eq!(counted().await, 0);
}
