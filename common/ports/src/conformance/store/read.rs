//! Cases about what can be read, and by whom.

use promptmill_domain::{BatchEvent, BatchLimits, BatchState};

use super::scene::*;
use crate::{BatchFilter, PageLimit, SettledCursor, Store, StoredOutcome, Usage};

/// Pages join to all outcomes in the order of their index; open items are left out.
pub async fn outcomes_come_in_order_of_index_and_page_by_page(store: &dyn Store) {
    let scene = Scene::ready(store, &[4, 4, 4]).await;
    let (last, first) = (scene.lease(2).await, scene.lease(0).await);
    scene.settle(settling(&last, [3, 0])).await;
    scene.settle(settling(&first, [1, 3, 2])).await;
    let settled = [1, 2, 3, 8, 11];
    for items in [1, 2, 3, 5, 100] {
        let mut seen = Vec::new();
        let mut from = Some(0);
        while let Some(start) = from {
            let limit = PageLimit { items, bytes: usize::MAX };
            let page = store.outcomes(&scene.tenant, scene.batch, start, limit).await.unwrap();
            assert!(page.outcomes.len() <= items as usize);
            assert!(page.next.is_none_or(|next| next > start));
            seen.extend(page.outcomes);
            from = page.next;
        }
        let wanted = settled.map(|index| StoredOutcome {
            index,
            code: promptmill_domain::ItemCode::Succeeded,
            body: Some(body(index)),
        });
        assert_eq!(seen, wanted, "{items} a page");
    }
    let limit = PageLimit { items: 100, bytes: usize::MAX };
    for (from, rest) in [(2, 4), (4, 2), (9, 1), (12, 0), (u32::MAX, 0)] {
        let page = store.outcomes(&scene.tenant, scene.batch, from, limit).await.unwrap();
        assert_eq!((page.outcomes.len(), page.next), (rest, None), "from {from}");
    }
}

/// The byte limit ends a page early; a body larger than the limit still comes, alone.
pub async fn a_page_is_bounded_by_bytes_and_never_empty(store: &dyn Store) {
    let scene = Scene::ready(store, &[3]).await;
    let lease = scene.lease(0).await;
    scene.settle(settling(&lease, 0..3)).await;
    let size = body(0).len();
    for (bytes, fits) in [(0, 1), (size - 1, 1), (size, 1), (2 * size, 2), (3 * size, 3)] {
        let page =
            store.outcomes(&scene.tenant, scene.batch, 0, PageLimit { items: 10, bytes }).await.unwrap();
        assert_eq!(page.outcomes.len(), fits, "{bytes} bytes");
        assert_eq!(page.next, (fits < 3).then_some(u32::try_from(fits).unwrap()));
    }
    let page = store.outcomes(&scene.tenant, scene.batch, 0, PageLimit { items: 0, bytes: 0 }).await.unwrap();
    assert_eq!(page.outcomes.len(), 1);
}

/// An index leads to its chunk's rows; one beyond the batch leads nowhere.
pub async fn the_rows_of_an_item_are_found_by_its_index(store: &dyn Store) {
    let scene = Scene::queued(store, &[3, 1, 2]).await;
    for (index, base, len) in [(0, 0, 3), (2, 0, 3), (3, 3, 1), (4, 4, 2), (5, 4, 2)] {
        let found = store.rows(&scene.tenant, scene.batch, index).await.unwrap();
        assert_eq!((found.base, found.rows.skip, found.len), (base, base, len), "index {index}");
        assert_eq!(found.bytes, "the rows");
    }
    check_not_found(store.rows(&scene.tenant, scene.batch, 6).await);
    let draft = Scene::draft(store).await;
    check_not_found(store.rows(&draft.tenant, draft.batch, 0).await);
}

/// Walking the ready chunks sees each of them once, in the order of their ids.
pub async fn ready_chunks_come_page_by_page(store: &dyn Store) {
    let scenes = [Scene::ready(store, &[1; 5]).await, Scene::ready(store, &[1; 3]).await];
    scenes[0].lease(2).await;
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.ready(after, 2).await.unwrap();
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        after = Some(*last);
        seen.extend(page);
    }
    assert!(seen.is_sorted());
    let count = |scene: &Scene<'_>| seen.iter().filter(|chunk| chunk.batch == scene.batch).count();
    assert_eq!((count(&scenes[0]), count(&scenes[1])), (4, 3));
    assert!(!seen.contains(&scenes[0].chunk(2)));
}

/// Neither a draft nor a batch that is over is open; in between it always is.
pub async fn open_batches_are_those_between_draft_and_end(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let state = async || {
        let open = store.open_batches().await.unwrap().into_iter().find(|open| open.id == batch);
        let among = store.open_among(&[fresh_batch(), batch]).await.unwrap();
        assert_eq!(among, open.clone().into_iter().collect::<Vec<_>>());
        open.map(|open| open.state)
    };
    assert_eq!(store.open_among(&[]).await.unwrap(), []);
    let (upload, cuts) = scene.upload(&[1, 1]).await;
    store.commit_part(tenant, batch, part(0, upload, 1)).await.unwrap();
    assert_eq!(state().await, None);
    store.begin_submit(tenant, batch).await.unwrap();
    assert_eq!(state().await, Some(BatchState::Submitting));
    store.put_heads(tenant, batch, &lane(), &cuts).await.unwrap();
    store.finish_submit(tenant, batch, 2, 2, NOW).await.unwrap();
    assert_eq!(state().await, Some(BatchState::Queued));
    store.admit(&[scene.chunk(0)], NOW).await.unwrap();
    assert_eq!(state().await, Some(BatchState::Running));
    store.steer(tenant, batch, BatchEvent::Cancel, NOW).await.unwrap();
    assert_eq!(state().await, Some(BatchState::Cancelling));
    store.seal(tenant, batch, 10, NOW).await.unwrap();
    store.close(tenant, batch, NOW).await.unwrap();
    assert_eq!(state().await, None);
}

/// The list is the tenant's own, newest first, and as long as asked.
pub async fn a_tenant_lists_its_own_batches_newest_first(store: &dyn Store) {
    let tenant = fresh_tenant();
    let ids = [1, 2, 3].map(|at| promptmill_domain::BatchId::at(NOW + at, rand::random()));
    for id in [ids[1], ids[2], ids[0]] {
        store.create(&tenant, new_batch(id, None)).await.unwrap();
    }
    Scene::draft(store).await;
    let listed = async |limit| {
        store
            .batches(&tenant, &BatchFilter::default(), None, PageLimit::items(limit))
            .await
            .unwrap()
            .batches
            .into_iter()
            .map(|batch| batch.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(10).await, [ids[2], ids[1], ids[0]]);
    assert_eq!(listed(2).await, [ids[2], ids[1]]);
    // However little a page may hold, it holds one.
    let tight = PageLimit { items: 10, bytes: 1 };
    let page = store.batches(&tenant, &BatchFilter::default(), Some(ids[2]), tight).await.unwrap();
    assert_eq!((page.batches.len(), page.batches[0].id, page.more), (1, ids[1], true));
    let page = store.batches(&tenant, &BatchFilter::default(), Some(ids[1]), tight).await.unwrap();
    assert_eq!((page.batches.len(), page.batches[0].id, page.more), (1, ids[0], false));
    check_no_batches(store, &fresh_tenant()).await;
}

/// For another tenant the batch does not exist, whatever it asks; and asking changes nothing.
pub async fn a_foreign_tenant_finds_nothing(store: &dyn Store) {
    let scene = Scene::ready(store, &[1]).await;
    let (stranger, batch) = (fresh_tenant(), scene.batch);
    let before = store.batch(&scene.tenant, batch).await.unwrap();
    check_not_found(store.put_rows(&stranger, batch, fresh_upload(), vec![block(0, 1, "x")], NOW).await);
    check_not_found(store.commit_part(&stranger, batch, part(0, fresh_upload(), 0)).await);
    check_not_found(store.begin_submit(&stranger, batch).await);
    check_not_found(store.put_heads(&stranger, batch, &lane(), &[]).await);
    check_not_found(store.finish_submit(&stranger, batch, 1, 1, NOW).await);
    check_not_found(store.seal(&stranger, batch, 1, NOW).await);
    check_not_found(store.close(&stranger, batch, NOW).await);
    check_not_found(store.delete(&stranger, batch).await);
    check_not_found(store.steer(&stranger, batch, BatchEvent::Cancel, NOW).await);
    check_not_found(store.set_limits(&stranger, batch, BatchLimits::default()).await);
    check_not_found(store.batch(&stranger, batch).await);
    check_not_found(store.progress(&stranger, batch).await);
    check_not_found(store.outcomes(&stranger, batch, 0, PageLimit { items: 1, bytes: 1 }).await);
    check_not_found(store.rows(&stranger, batch, 0).await);
    check_not_found(store.parts(&stranger, batch).await);
    check_not_found(store.block_ids(&stranger, batch, None, 1).await);
    check_not_found(store.block(&stranger, batch, 0, 0).await);
    check_not_found(store.drop_upload(&stranger, batch, fresh_upload()).await);
    let limit = PageLimit { items: 1, bytes: 1 };
    check_not_found(store.settled(&stranger, batch, SettledCursor::default(), limit).await);
    assert_eq!(store.usage(&stranger, NOW).await.unwrap(), Usage::default());
    check_no_batches(store, &stranger).await;
    check_conflict(store.create(&stranger, new_batch(batch, None)).await);
    assert_eq!(store.batch(&scene.tenant, batch).await.unwrap(), before);
}
