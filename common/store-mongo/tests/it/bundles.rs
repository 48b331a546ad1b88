//! Bodies and heads are two writes: what is left when a holder dies between them, or comes back after it lost its lease.

use bytes::Bytes;
use mongodb::bson::{Binary, Document, doc, spec::BinarySubtype};
use promptmill_domain::{BatchEvent, ItemCode, SessionId};
use promptmill_ports::{Close as _, Control as _, PageLimit, Read as _, Settled, SettledCursor, Store};

use crate::TemporaryStore;
use crate::scene::{NOW, Scene, settle, settling_all};

const ALL: PageLimit = PageLimit { items: u32::MAX, bytes: usize::MAX };
const KIB: usize = 1024;

impl Scene {
    /// The same batch with another worker, for whom the chunks of the one before were handed back.
    async fn next(self, store: &dyn Store) -> Self {
        store.end(self.session, NOW).await.unwrap();
        let next = Self { session: SessionId::at(NOW, rand::random()), ..self };
        store.open(next.session, "next").await.unwrap();
        next
    }

    fn head(&self) -> Document {
        let mut id = self.batch.as_bytes().to_vec();
        id.extend([0; 4]);
        doc! { "_id": Binary { subtype: BinarySubtype::Generic, bytes: id } }
    }

    /// What the first chunk came to: the byte and the body of each item that has an outcome, read in both orders.
    async fn first_chunk(&self, store: &dyn Store, len: u32) -> Vec<(u32, u8, Option<Bytes>)> {
        let seen =
            |outcome: promptmill_ports::StoredOutcome| (outcome.index, outcome.code.byte(), outcome.body);
        let page = store.outcomes(&self.tenant, self.batch, 0, ALL).await.unwrap();
        let by_index: Vec<_> = page.outcomes.into_iter().map(seen).filter(|seen| seen.0 < len).collect();
        let page = store.settled(&self.tenant, self.batch, SettledCursor::default(), ALL).await.unwrap();
        let mut by_order: Vec<_> =
            page.outcomes.into_iter().map(|(outcome, _)| seen(outcome)).filter(|seen| seen.0 < len).collect();
        by_order.sort_unstable_by_key(|seen| seen.0);
        assert_eq!(by_order, by_index);
        by_index
    }
}

/// Succeeded items with these bodies, from the first on.
fn succeeded(bodies: &[&'static str]) -> Vec<(u32, u8, Option<Bytes>)> {
    let succeeded = ItemCode::Succeeded.byte();
    (0..)
        .zip(bodies)
        .map(|(index, body)| (index, succeeded, Some(Bytes::from_static(body.as_bytes()))))
        .collect()
}

#[tokio::test]
async fn bodies_that_were_left_without_their_head_are_taken_over_by_the_next_holder() {
    let store = TemporaryStore::new().await;
    let scene = Scene::running(&*store, 160, &|| {}).await.unwrap();
    let heads = store.raw().await.collection::<Document>("heads");
    let lease = scene.lease(&*store, 0).await;
    settle(&*store, settling_all(&lease, 1, [(0, "one 0"), (1, "one 1")])).await.unwrap();
    let before = heads.find_one(scene.head()).await.unwrap().unwrap();
    settle(&*store, settling_all(&lease, 2, [(2, "one 2"), (3, "one 3")])).await.unwrap();
    // As if the holder had died between the bodies and the head.
    heads.replace_one(scene.head(), before).await.unwrap();
    store.raw().await.collection::<Document>("settled").delete_many(doc! {}).await.unwrap();

    let other = store.other().await;
    let scene = scene.next(&other).await;
    let lease = scene.lease(&other, 0).await;
    let last = settling_all(&lease, 1, [(3, "two 3"), (4, "two 4")]);
    assert_eq!(settle(&other, last).await.unwrap(), Settled::Recorded { done: true });
    let page = other.outcomes(&scene.tenant, scene.batch, 0, ALL).await.unwrap();
    let bodies: Vec<_> = page.outcomes.iter().map(|outcome| outcome.body.as_deref().unwrap()).collect();
    assert_eq!(bodies, ["one 0", "one 1", "one 2", "one 3", "two 4"].map(str::as_bytes));
}

#[tokio::test]
async fn what_several_holders_left_one_after_the_other_is_taken_over_too() {
    let store = TemporaryStore::new().await;
    let mut scene = Scene::running(&*store, 160, &|| {}).await.unwrap();
    let heads = store.raw().await.collection::<Document>("heads");
    for (holder, offset) in [("one", 0), ("two", 1)] {
        let this = store.other().await;
        let lease = scene.lease(&this, 0).await;
        let before = heads.find_one(scene.head()).await.unwrap().unwrap();
        settle(&this, settling_all(&lease, 1, [(offset, holder)])).await.unwrap();
        heads.replace_one(scene.head(), before).await.unwrap();
        store.raw().await.collection::<Document>("settled").delete_many(doc! {}).await.unwrap();
        scene = scene.next(&*store).await;
    }
    let last = store.other().await;
    let lease = scene.lease(&last, 0).await;
    settle(&last, settling_all(&lease, 1, [(0, "three"), (1, "three"), (2, "three")])).await.unwrap();
    assert_eq!(scene.first_chunk(&last, 5).await, succeeded(&["one", "two", "three"]));
}

#[tokio::test]
async fn who_lost_its_lease_changes_no_outcome_and_gives_none_to_a_sealed_item() {
    let store = TemporaryStore::new().await;
    let scene = Scene::running(&*store, 160, &|| {}).await.unwrap();
    let stale = scene.lease(&*store, 0).await;
    let other = store.other().await;
    let scene = scene.next(&other).await;
    let lease = scene.lease(&other, 0).await;
    settle(&other, settling_all(&lease, 1, [(0, "next")])).await.unwrap();
    // It remembers the head as it was.
    let late = settling_all(&stale, 1, [(0, "late"), (1, "late"), (2, "late")]);
    assert_eq!(settle(&*store, late).await.unwrap(), Settled::Fenced);
    assert_eq!(scene.first_chunk(&other, 5).await, succeeded(&["next"]));
    settle(&other, settling_all(&lease, 2, [(1, "next"), (3, "next")])).await.unwrap();
    // It is the first body of an item that is stored, whoever made the call.
    assert_eq!(scene.first_chunk(&other, 5).await, succeeded(&["next", "late", "late", "next"]));
    let later = settling_all(&stale, 2, [(4, "later")]);
    assert_eq!(settle(&*store, later).await.unwrap(), Settled::Fenced);
    let (tenant, batch) = (&scene.tenant, scene.batch);
    other.steer(tenant, batch, BatchEvent::Cancel, NOW).await.unwrap();
    while other.seal(tenant, batch, 100, NOW).await.unwrap() > 0 {}
    let mut expected = succeeded(&["next", "late", "late", "next"]);
    expected.push((4, ItemCode::Cancelled.byte(), None));
    assert_eq!(scene.first_chunk(&other, 5).await, expected);
}

#[tokio::test]
async fn many_large_bodies_of_a_chunk_come_back_whole_in_whatever_order_they_came() {
    let store = TemporaryStore::new().await;
    let scene = Scene::running(&*store, 2_560, &|| {}).await.unwrap();
    let lease = scene.lease(&*store, 0).await;
    let len = lease.head.len();
    assert_eq!(len, 80);
    // More than a bundle has room for, and some that have no place in one.
    let body = |offset: u32| {
        let size = if offset % 10 == 9 { 300 * KIB } else { 90 * KIB + offset as usize };
        Bytes::from(vec![u8::try_from(offset).unwrap(); size])
    };
    for (seq, third) in (1..).zip(0..3) {
        let these = (0..len).filter(|offset| offset % 3 == third).map(|offset| (offset, body(offset)));
        settle(&*store, settling_all(&lease, seq, these)).await.unwrap();
    }
    let seen = scene.first_chunk(&*store, len).await;
    assert_eq!(seen.len(), len as usize);
    assert!(seen.iter().all(|(index, _, found)| found.as_ref() == Some(&body(*index))));
    // By pages of few bytes all the same.
    let tight = PageLimit { items: u32::MAX, bytes: 1024 * KIB };
    let (mut from, mut found) = (Some(0), Vec::new());
    while let Some(index) = from {
        let page = store.outcomes(&scene.tenant, scene.batch, index, tight).await.unwrap();
        assert!(
            page.outcomes.iter().map(|outcome| outcome.body.as_ref().unwrap().len()).sum::<usize>()
                <= tight.bytes
        );
        found.extend(page.outcomes.into_iter().map(|outcome| (outcome.index, outcome.body.unwrap())));
        from = page.next;
    }
    assert_eq!(found.len(), len as usize);
    assert!(found.iter().all(|(index, found)| *found == body(*index)));
    let sizes: usize = (0..len).map(|offset| body(offset).len()).sum();
    let (tenant, batch) = (&scene.tenant, scene.batch);
    assert_eq!(store.usage(tenant, NOW).await.unwrap().bytes, sizes as u64 + 4);
    store.steer(tenant, batch, BatchEvent::Cancel, NOW).await.unwrap();
    while store.seal(tenant, batch, 100, NOW).await.unwrap() > 0 {}
    store.close(tenant, batch, NOW).await.unwrap().unwrap();
    while !store.delete(tenant, batch).await.unwrap() {}
    assert_eq!(store.usage(tenant, NOW).await.unwrap().bytes, 0);
    for left in ["outcomes", "slices"] {
        let left = store.raw().await.collection::<Document>(left);
        assert_eq!(left.count_documents(doc! {}).await.unwrap(), 0, "{}", left.name());
    }
}
