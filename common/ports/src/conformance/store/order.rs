//! Cases about the order in which outcomes settle.

use std::cell::Cell;

use promptmill_domain::head::{KILLER_AFTER_KILLS_ALONE, QUARANTINE_AFTER_KILLS};
use promptmill_domain::{BatchEvent, FailureKind, ItemCode, SettledItem};

use super::scene::*;
use crate::{PageLimit, SettleGroup, Settled, SettledCursor, Store, StoredOutcome};

const ALL: PageLimit = PageLimit { items: u32::MAX, bytes: usize::MAX };

impl Scene<'_> {
    /// Everything that settled behind a cursor, read in pages of `items`; and where that ends.
    async fn settled(&self, after: SettledCursor, items: u32) -> (Vec<StoredOutcome>, SettledCursor) {
        let (mut seen, mut next) = (Vec::new(), after);
        loop {
            let limit = PageLimit { items, ..ALL };
            let page = self.store.settled(&self.tenant, self.batch, next, limit).await.unwrap();
            assert!(page.outcomes.len() <= items as usize);
            assert_eq!(page.next, page.outcomes.last().map_or(next, |(_, cursor)| *cursor));
            next = page.next;
            seen.extend(page.outcomes.into_iter().map(|(outcome, _)| outcome));
            if page.caught_up {
                return (seen, next);
            }
        }
    }
}

/// Groups come in the order of their settling, with their bodies, each outcome once, however large the pages are.
pub async fn outcomes_come_in_the_order_of_their_settling(store: &dyn Store) {
    let scene = Scene::ready(store, &[4, 4]).await;
    let start = SettledCursor::default();
    assert_eq!(scene.settled(start, 10).await, (vec![], start));
    let (one, two) = (scene.lease(0).await, scene.lease(1).await);
    scene.settle(settling(&two, [2])).await;
    let first = SettleGroup { seq: 1, ..settling(&one, [0, 3]) };
    scene.settle(first.clone()).await;
    // Repeated, it settles nothing a second time; of a group that has more only what is new.
    scene.settle(first).await;
    scene.settle(SettleGroup { seq: 2, ..settling(&one, [3, 1]) }).await;
    let failed = vec![(SettledItem { offset: 0, code: FAILED }, body(4))];
    scene.settle(SettleGroup { seq: 2, settled: failed, ..group(&two) }).await;

    let good = |index| StoredOutcome { index, code: ItemCode::Succeeded, body: Some(body(index)) };
    let wanted = vec![good(6), good(0), good(3), good(1), StoredOutcome { code: FAILED, ..good(4) }];
    for items in [1, 2, 3, 100] {
        assert_eq!(scene.settled(start, items).await.0, wanted, "{items} a page");
    }
    // From behind any outcome the rest comes.
    let page = store.settled(&scene.tenant, scene.batch, start, ALL).await.unwrap();
    for (given, (_, cursor)) in page.outcomes.iter().enumerate() {
        assert_eq!(scene.settled(*cursor, 2).await.0, wanted[given + 1..]);
    }
}

/// What no `order` was asked for has its place before its chunk settles more, in the order of settling, and before its batch closes.
pub async fn what_settled_has_its_place_without_being_asked_for(store: &dyn Store) {
    let scene = Scene::ready(store, &[2, 2]).await;
    let (one, two) = (scene.lease(0).await, scene.lease(1).await);
    let settle = async |seq, settled| {
        let settled = store.settle([SettleGroup { seq, ..settled }].into(), NOW).await.unwrap();
        assert!(matches!(settled[..], [Settled::Recorded { .. }]));
    };
    settle(1, settling(&two, [1])).await;
    settle(1, settling(&one, [0])).await;
    settle(2, settling(&one, [1])).await;
    let indexes = |seen: Vec<StoredOutcome>| seen.iter().map(|outcome| outcome.index).collect::<Vec<_>>();
    let (seen, _) = scene.settled(SettledCursor::default(), 10).await;
    assert_eq!(indexes(seen)[..2], [3, 0]);
    settle(2, settling(&two, [0])).await;
    store.close(&scene.tenant, scene.batch, NOW).await.unwrap().unwrap();
    let (seen, end) = scene.settled(SettledCursor::default(), 10).await;
    assert_eq!(indexes(seen), [3, 0, 1, 2]);
    store.order().await.unwrap();
    assert_eq!(scene.settled(end, 10).await, (vec![], end));
}

/// What a cancel closes, and what a dying worker leaves, settles like everything else.
pub async fn sealed_and_killing_items_have_their_place_in_the_order(store: &dyn Store) {
    let mut scene = Scene::ready(store, &[3, 2]).await;
    for death in 0..QUARANTINE_AFTER_KILLS + KILLER_AFTER_KILLS_ALONE {
        let lease = scene.lease(0).await;
        if death >= QUARANTINE_AFTER_KILLS {
            assert!(store.try_item(lease.head.chunk, lease.token, 1, NOW).await.unwrap());
        }
        store.bury(scene.session, 0, NOW).await.unwrap();
        scene.session = fresh_session();
        store.open(scene.session, "next").await.unwrap();
    }
    let (seen, cursor) = scene.settled(SettledCursor::default(), 10).await;
    let killer = ItemCode::Failed(FailureKind::WorkerKiller);
    assert_eq!(seen, [StoredOutcome { index: 1, code: killer, body: None }]);

    let lease = scene.lease(1).await;
    scene.settle(settling(&lease, [1])).await;
    store.steer(&scene.tenant, scene.batch, BatchEvent::Cancel, NOW).await.unwrap();
    while store.seal(&scene.tenant, scene.batch, 1, NOW).await.unwrap() > 0 {}
    let (mut seen, end) = scene.settled(cursor, 1).await;
    assert_eq!(seen.remove(0), StoredOutcome { index: 4, code: ItemCode::Succeeded, body: Some(body(4)) });
    seen.sort_by_key(|outcome| outcome.index);
    let cancelled = |index| StoredOutcome { index, code: ItemCode::Cancelled, body: None };
    assert_eq!(seen, [cancelled(0), cancelled(2), cancelled(3)]);
    store.close(&scene.tenant, scene.batch, NOW).await.unwrap().unwrap();
    assert_eq!(scene.settled(end, 10).await, (vec![], end));
}

/// A page ends at its limit, inside a group too, holds one outcome at least, and says whether that was all.
pub async fn a_page_of_the_order_is_bounded_and_says_whether_it_caught_up(store: &dyn Store) {
    let scene = Scene::ready(store, &[3]).await;
    let lease = scene.lease(0).await;
    scene.settle(settling(&lease, 0..3)).await;
    let size = body(0).len();
    let sized = |bytes| PageLimit { bytes, ..ALL };
    let counted = |items| PageLimit { items, ..ALL };
    for (limit, fits) in [
        (sized(0), 1),
        (sized(size), 1),
        (sized(3 * size - 1), 2),
        (sized(3 * size), 3),
        (counted(0), 1),
        (counted(2), 2),
        (counted(3), 3),
    ] {
        let page = store.settled(&scene.tenant, scene.batch, SettledCursor::default(), limit).await.unwrap();
        assert_eq!((page.outcomes.len(), page.caught_up), (fits, fits == 3), "{limit:?}");
    }
    // What never was a cursor is behind everything or somewhere, and no error.
    for wild in
        [SettledCursor::at(0, u32::MAX, u16::MAX), SettledCursor::at(0, u32::MAX, 0), SettledCursor(0xffff)]
    {
        let page = store.settled(&scene.tenant, scene.batch, wild, ALL).await.unwrap();
        assert!(page.outcomes.len() <= 3 && page.caught_up);
    }
    for of_another_order in [SettledCursor(u64::MAX), SettledCursor::at(1, 0, 1)] {
        check_conflict(store.settled(&scene.tenant, scene.batch, of_another_order, ALL).await);
    }
}

/// Who reads while others settle sees each outcome exactly once.
pub async fn a_reader_of_the_order_misses_nothing_while_others_settle(store: &dyn Store) {
    let lens = [64; 6];
    let scene = Scene::ready(store, &lens).await;
    let mut leases = Vec::new();
    for n in 0..6 {
        leases.push(scene.lease(n).await);
    }
    let work = async |lease: &crate::Lease| {
        for (offset, seq) in (0..64u32).step_by(4).zip(1u32..) {
            scene.settle(SettleGroup { seq, ..settling(lease, offset..offset + 4) }).await;
        }
    };
    let worked = Cell::new(false);
    let work_all = async {
        let [a, b, c, d, e, f] = &leases[..] else { panic!("six leases") };
        tokio::join!(work(a), work(b), work(c), work(d), work(e), work(f));
        worked.set(true);
    };
    let read = async {
        let (mut seen, mut cursor) = (Vec::new(), SettledCursor::default());
        loop {
            let was_all = worked.get();
            let limit = PageLimit { items: 7, ..ALL };
            let page = store.settled(&scene.tenant, scene.batch, cursor, limit).await.unwrap();
            seen.extend(page.outcomes.iter().map(|(outcome, _)| outcome.index));
            cursor = page.next;
            if was_all && page.caught_up {
                return seen;
            }
            tokio::task::yield_now().await;
        }
    };
    let ((), mut seen) = tokio::join!(work_all, read);
    seen.sort_unstable();
    assert_eq!(seen, (0..6 * 64).collect::<Vec<_>>());
}
