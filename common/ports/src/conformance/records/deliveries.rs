//! Cases about deliveries.

use promptmill_domain::{BatchId, DeliveryId, EventId, TenantId};

use super::scene::*;
use crate::{Attempted, Delivery, DeliveryAttempt, DeliveryState, Records, Replay};

fn refused(at_ms: u64) -> DeliveryAttempt {
    DeliveryAttempt {
        at_ms,
        duration_ms: 12,
        status: Some(503),
        error: Some("answered 503".to_owned()),
        answer: Some("Überlast".to_owned()),
    }
}

fn taken(at_ms: u64) -> DeliveryAttempt {
    DeliveryAttempt { at_ms, duration_ms: 7, status: Some(204), error: None, answer: None }
}

/// Deliveries of one batch with these due times, in that order.
async fn made(store: &dyn Records, due: &[u64]) -> (TenantId, BatchId, Vec<Delivery>) {
    let (tenant, batch) = (fresh_tenant(), fresh_batch());
    let created = |(&due_ms, age): (&u64, u64)| Delivery {
        created_ms: NOW + age,
        ..fresh_delivery(&tenant, batch, due_ms)
    };
    let deliveries: Vec<_> = due.iter().zip(0..).map(created).collect();
    store.add_deliveries(&deliveries).await.unwrap();
    (tenant, batch, deliveries)
}

async fn stored(store: &dyn Records, delivery: &Delivery) -> Delivery {
    let all = store.deliveries(&delivery.tenant, delivery.batch.unwrap(), 100).await.unwrap();
    all.into_iter().find(|stored| stored.id == delivery.id).unwrap()
}

fn ids(deliveries: &[Delivery]) -> Vec<DeliveryId> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

async fn record(
    store: &dyn Records,
    id: DeliveryId,
    attempt: &DeliveryAttempt,
    state: DeliveryState,
    due_ms: u64,
) {
    let attempt = Some(attempt.clone());
    store.record_attempts(&[Attempted { id, attempt, state, due_ms }]).await.unwrap();
}

/// Every field comes back; adding it again, also among others, changes nothing.
pub async fn a_delivery_is_kept_once_and_as_it_was_given(store: &dyn Records) {
    store.add_deliveries(&[]).await.unwrap();
    let (tenant, batch, mut deliveries) = made(store, &[NOW, NOW + 1]).await;
    assert_eq!(store.deliveries(&tenant, batch, 10).await.unwrap(), deliveries);
    let given_up = Delivery {
        state: DeliveryState::GivenUp,
        attempts: vec![refused(NOW), DeliveryAttempt { status: None, ..refused(NOW + 1) }],
        created_ms: NOW + 9,
        ..fresh_delivery(&tenant, batch, NOW)
    };
    let changed = Delivery { url: "https://elsewhere.example".to_owned(), ..deliveries[0].clone() };
    store.add_deliveries(&[changed, given_up.clone(), given_up.clone()]).await.unwrap();
    deliveries.push(given_up);
    assert_eq!(store.deliveries(&tenant, batch, 10).await.unwrap(), deliveries);
}

/// However many ask at the same moment.
pub async fn a_due_delivery_is_taken_by_one_caller(store: &dyn Records) {
    let (_, _, deliveries) = made(store, &[NOW; 12]).await;
    let take = || store.take_due(NOW, NOW + 1_000, 5);
    let (one, two, three, four) = tokio::join!(take(), take(), take(), take());
    let mut all = [one.unwrap(), two.unwrap(), three.unwrap(), four.unwrap()].concat();
    all.sort_by_key(|delivery| delivery.created_ms);
    let expected: Vec<_> =
        deliveries.into_iter().map(|delivery| Delivery { due_ms: NOW + 1_000, ..delivery }).collect();
    assert_eq!(all, expected);
}

/// Those that are not due yet stay.
pub async fn the_earliest_due_deliveries_are_taken_first(store: &dyn Records) {
    let (_, _, deliveries) = made(store, &[NOW + 3, NOW + 1, NOW + 4, NOW + 2]).await;
    let [third, first, fourth, second] = &ids(&deliveries)[..] else { panic!("four were made") };
    assert_eq!(store.take_due(NOW, NOW + 100, 10).await.unwrap(), []);
    assert_eq!(ids(&store.take_due(NOW + 3, NOW + 100, 2).await.unwrap()), [*first, *second]);
    assert_eq!(ids(&store.take_due(NOW + 3, NOW + 100, 2).await.unwrap()), [*third]);
    assert_eq!(ids(&store.take_due(NOW + 4, NOW + 100, 2).await.unwrap()), [*fourth]);
}

/// Whoever took it may have died.
pub async fn a_delivery_that_was_taken_and_never_tried_is_due_again(store: &dyn Records) {
    let (_, _, deliveries) = made(store, &[NOW]).await;
    for until_ms in [NOW + 10, NOW + 20] {
        let again = store.take_due(until_ms - 10, until_ms, 10).await.unwrap();
        assert_eq!(again, [Delivery { due_ms: until_ms, ..deliveries[0].clone() }]);
        assert_eq!(store.take_due(until_ms - 1, NOW + 99, 10).await.unwrap(), []);
        assert_eq!(store.next_due().await.unwrap(), Some(until_ms));
    }
}

/// Another try at a later time, or the end.
pub async fn an_attempt_says_what_follows(store: &dyn Records) {
    let (_, _, deliveries) = made(store, &[NOW, NOW]).await;
    let [one, two] = &deliveries[..] else { panic!("two were made") };
    record(store, one.id, &refused(NOW), DeliveryState::Pending, NOW + 50).await;
    let expected = Delivery { due_ms: NOW + 50, attempts: vec![refused(NOW)], ..one.clone() };
    assert_eq!(stored(store, one).await, expected);
    assert_eq!(ids(&store.take_due(NOW + 49, NOW + 100, 10).await.unwrap()), [two.id]);
    assert_eq!(
        store.take_due(NOW + 50, NOW + 100, 10).await.unwrap(),
        [Delivery { due_ms: NOW + 100, ..expected }]
    );

    let ends = [
        Attempted {
            id: one.id,
            attempt: Some(taken(NOW + 60)),
            state: DeliveryState::Delivered,
            due_ms: NOW + 60,
        },
        Attempted {
            id: two.id,
            attempt: Some(refused(NOW + 60)),
            state: DeliveryState::GivenUp,
            due_ms: NOW + 60,
        },
    ];
    store.record_attempts(&ends).await.unwrap();
    store.record_attempts(&[]).await.unwrap();
    let one = stored(store, one).await;
    assert_eq!(
        (one.state, &one.attempts[..]),
        (DeliveryState::Delivered, &[refused(NOW), taken(NOW + 60)][..])
    );
    assert_eq!(stored(store, two).await.state, DeliveryState::GivenUp);
    assert_eq!(store.take_due(u64::MAX, u64::MAX, 10).await.unwrap(), []);
}

/// Nothing is added to its tries.
pub async fn a_delivery_may_be_put_off_without_a_try(store: &dyn Records) {
    let (_, _, deliveries) = made(store, &[NOW]).await;
    let delivery = &deliveries[0];
    record(store, delivery.id, &refused(NOW), DeliveryState::Pending, NOW + 10).await;
    let put_off =
        Attempted { id: delivery.id, attempt: None, state: DeliveryState::Pending, due_ms: NOW + 70 };
    store.record_attempts(std::slice::from_ref(&put_off)).await.unwrap();
    let expected = Delivery { due_ms: NOW + 70, attempts: vec![refused(NOW)], ..delivery.clone() };
    assert_eq!(stored(store, delivery).await, expected);
    record(store, delivery.id, &taken(NOW + 70), DeliveryState::Delivered, NOW + 70).await;
    let over = stored(store, delivery).await;
    store.record_attempts(&[put_off]).await.unwrap();
    assert_eq!(stored(store, delivery).await, over);
}

/// A caller that does not know whether its step was done repeats it.
pub async fn an_attempt_that_is_recorded_again_is_recorded_once(store: &dyn Records) {
    let (_, _, deliveries) = made(store, &[NOW]).await;
    let id = deliveries[0].id;
    for _ in 0..2 {
        record(store, id, &refused(NOW), DeliveryState::Pending, NOW + 50).await;
    }
    record(store, id, &refused(NOW + 50), DeliveryState::Pending, NOW + 90).await;
    assert_eq!(stored(store, &deliveries[0]).await.attempts, [refused(NOW), refused(NOW + 50)]);
}

/// Neither another try nor another end changes it; one that nobody knows is nothing to anybody.
pub async fn a_delivery_that_is_over_never_changes(store: &dyn Records) {
    let (_, _, deliveries) = made(store, &[NOW, NOW]).await;
    for (delivery, state) in deliveries.iter().zip([DeliveryState::Delivered, DeliveryState::GivenUp]) {
        record(store, delivery.id, &taken(NOW), state, NOW).await;
        let over = stored(store, delivery).await;
        assert_eq!(over.state, state);
        for late in [DeliveryState::Pending, DeliveryState::Delivered, DeliveryState::GivenUp] {
            record(store, delivery.id, &refused(NOW + 5), late, NOW + 5).await;
        }
        store.add_deliveries(std::slice::from_ref(delivery)).await.unwrap();
        assert_eq!(stored(store, delivery).await, over);
    }
    let unknown = DeliveryId::to_batch_webhook(EventId::at(NOW, rand::random()));
    record(store, unknown, &taken(NOW), DeliveryState::Delivered, NOW).await;
}

/// What is over is tried once more when it is asked for, by its tenant alone, and then is over again.
pub async fn a_delivery_is_tried_again_when_its_tenant_asks_for_it(store: &dyn Records) {
    let (tenant, _, deliveries) = made(store, &[NOW, NOW, NOW, NOW + 500]).await;
    let [delivered, given_up, later, pending] = &deliveries[..] else { panic!("four were made") };
    let end = async |delivery: &Delivery, state| {
        record(store, delivery.id, &refused(NOW), state, NOW).await;
    };
    end(delivered, DeliveryState::Delivered).await;
    end(given_up, DeliveryState::GivenUp).await;
    end(later, DeliveryState::GivenUp).await;
    let replay = async |tenant: &TenantId, which| store.replay(tenant, which, NOW + 100).await.unwrap();
    let (stranger, unknown) =
        (fresh_tenant(), DeliveryId::to_batch_webhook(EventId::at(NOW, rand::random())));
    assert_eq!(replay(&stranger, Replay::One(delivered.id)).await, 0);
    assert_eq!(replay(&stranger, Replay::GivenUpSince(0)).await, 0);
    assert_eq!(replay(&tenant, Replay::One(unknown)).await, 0);
    assert_eq!(store.take_due(NOW + 200, NOW + 300, 10).await.unwrap(), []);

    assert_eq!(replay(&tenant, Replay::One(delivered.id)).await, 1);
    assert_eq!(replay(&tenant, Replay::One(pending.id)).await, 1);
    assert_eq!(replay(&tenant, Replay::GivenUpSince(later.created_ms)).await, 1);
    assert_eq!(replay(&tenant, Replay::GivenUpSince(later.created_ms)).await, 0);
    let mut taken = ids(&store.take_due(NOW + 100, NOW + 300, 10).await.unwrap());
    let mut expected = vec![delivered.id, pending.id, later.id];
    taken.sort_unstable();
    expected.sort_unstable();
    assert_eq!(taken, expected);
    let again = stored(store, delivered).await;
    assert_eq!((again.state, again.attempts.as_slice()), (DeliveryState::Pending, &[refused(NOW)][..]));
    record(store, delivered.id, &self::taken(NOW + 110), DeliveryState::Delivered, NOW).await;
    let over = stored(store, delivered).await;
    assert_eq!((over.state, over.attempts.len()), (DeliveryState::Delivered, 2));
    assert_eq!(replay(&tenant, Replay::GivenUpSince(0)).await, 1);
}

/// A receiver that never answers does not make a record that grows for ever.
pub async fn the_newest_attempts_of_many_are_kept(store: &dyn Records) {
    let (_, _, deliveries) = made(store, &[NOW]).await;
    for n in 0..30 {
        let attempt = refused(NOW + n);
        record(store, deliveries[0].id, &attempt, DeliveryState::Pending, NOW + n + 1).await;
    }
    let expected: Vec<_> = (10..30).map(|n| refused(NOW + n)).collect();
    assert_eq!(stored(store, &deliveries[0]).await.attempts, expected);
}

/// Of every tenant; none when nothing is pending.
pub async fn the_next_due_time_is_that_of_the_earliest_pending(store: &dyn Records) {
    assert_eq!(store.next_due().await.unwrap(), None);
    made(store, &[NOW + 7]).await;
    let (_, _, deliveries) = made(store, &[NOW + 9, NOW + 5]).await;
    assert_eq!(store.next_due().await.unwrap(), Some(NOW + 5));
    record(store, deliveries[1].id, &taken(NOW), DeliveryState::Delivered, NOW).await;
    assert_eq!(store.next_due().await.unwrap(), Some(NOW + 7));
    store.take_due(NOW + 7, NOW + 20, 10).await.unwrap();
    assert_eq!(store.next_due().await.unwrap(), Some(NOW + 9));
}

/// At most as many as asked for; another tenant sees none.
pub async fn a_batch_lists_its_own_deliveries_oldest_first(store: &dyn Records) {
    let (tenant, batch, deliveries) = made(store, &[NOW + 3, NOW + 2, NOW + 1]).await;
    made(store, &[NOW]).await;
    assert_eq!(store.deliveries(&tenant, batch, 10).await.unwrap(), deliveries);
    assert_eq!(store.deliveries(&tenant, batch, 2).await.unwrap(), deliveries[..2]);
    assert_eq!(store.deliveries(&fresh_tenant(), batch, 10).await.unwrap(), []);
    assert_eq!(store.deliveries(&tenant, fresh_batch(), 10).await.unwrap(), []);
}

/// One that is pending is kept however old it is.
pub async fn only_deliveries_that_are_over_are_forgotten(store: &dyn Records) {
    let (tenant, batch, deliveries) = made(store, &[NOW; 5]).await;
    for delivery in &deliveries[1..] {
        record(store, delivery.id, &taken(NOW), DeliveryState::Delivered, NOW).await;
    }
    assert_eq!(store.forget_deliveries(NOW + 4, 2).await.unwrap(), 2);
    assert_eq!(store.forget_deliveries(NOW + 4, 2).await.unwrap(), 1);
    assert_eq!(store.forget_deliveries(NOW + 4, 2).await.unwrap(), 0);
    let left = store.deliveries(&tenant, batch, 10).await.unwrap();
    assert_eq!(ids(&left), [deliveries[0].id, deliveries[4].id]);
}
