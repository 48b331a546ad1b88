//! Cases about immediate generations.

use bytes::Bytes;
use promptmill_domain::{GenerationId, SessionId};

use super::scene::*;
use crate::{Generation, Records};

fn finished(generation: &Generation, outcome: &'static str) -> Generation {
    Generation { outcome: Some(Bytes::from_static(outcome.as_bytes())), ..generation.clone() }
}

/// Every field comes back, as it was put last.
pub async fn a_generation_is_replaced_until_it_has_its_outcome(store: &dyn Records) {
    let tenant = fresh_tenant();
    let running = fresh_generation(&tenant, NOW);
    store.put_generation(&running).await.unwrap();
    assert_eq!(store.generation(&tenant, running.id).await.unwrap(), running);
    let changed = Generation { request: Bytes::from_static(b"\xff\x00"), ..running };
    store.put_generation(&changed).await.unwrap();
    assert_eq!(store.generation(&tenant, changed.id).await.unwrap(), changed);
    let done = finished(&changed, "outcome");
    store.put_generation(&done).await.unwrap();
    assert_eq!(store.generation(&tenant, done.id).await.unwrap(), done);
    // One may also come with its outcome at once, and an outcome may be empty.
    let at_once = finished(&fresh_generation(&tenant, NOW), "");
    store.put_generation(&at_once).await.unwrap();
    assert_eq!(store.generation(&tenant, at_once.id).await.unwrap(), at_once);
}

/// Neither by another outcome nor by one that still runs.
pub async fn an_outcome_of_a_generation_never_changes(store: &dyn Records) {
    let tenant = fresh_tenant();
    let running = fresh_generation(&tenant, NOW);
    let done = finished(&running, "first");
    for generation in [&running, &done, &finished(&running, "second"), &running] {
        store.put_generation(generation).await.unwrap();
    }
    assert_eq!(store.generation(&tenant, done.id).await.unwrap(), done);
    assert_eq!(store.orphaned(&[], 10).await.unwrap(), []);
    assert!(!store.adopt(done.id, done.owner, SessionId::at(NOW, rand::random())).await.unwrap());
    assert_eq!(store.generation(&tenant, done.id).await.unwrap(), done);
}

/// Of every tenant, a few at a time, and none that a living session runs.
pub async fn generations_that_nobody_living_runs_come_oldest_first(store: &dyn Records) {
    let generations: Vec<_> =
        [3, 1, 2, 0].map(|age| fresh_generation(&fresh_tenant(), NOW + age)).into_iter().collect();
    for generation in &generations {
        store.put_generation(generation).await.unwrap();
    }
    let [third, first, second, done] = &generations[..] else { panic!("four were made") };
    store.put_generation(&finished(done, "outcome")).await.unwrap();
    let all = [first.clone(), second.clone(), third.clone()];
    assert_eq!(store.orphaned(&[], 10).await.unwrap(), all);
    assert_eq!(store.orphaned(&[], 2).await.unwrap(), all[..2]);
    assert_eq!(store.orphaned(&[first.owner], 1).await.unwrap(), all[1..2]);
    assert_eq!(store.orphaned(&[third.owner, first.owner], 10).await.unwrap(), all[1..2]);
    assert_eq!(store.orphaned(&[first.owner, second.owner, third.owner], 10).await.unwrap(), []);
}

/// Of those who want it one gets it, and who has it already keeps it.
pub async fn a_generation_is_adopted_from_the_owner_it_has(store: &dyn Records) {
    let tenant = fresh_tenant();
    let running = fresh_generation(&tenant, NOW);
    store.put_generation(&running).await.unwrap();
    let [one, other] = [1, 2].map(|n| SessionId::at(NOW + n, rand::random()));
    assert!(store.adopt(running.id, running.owner, one).await.unwrap());
    assert!(!store.adopt(running.id, running.owner, other).await.unwrap());
    let adopted = Generation { owner: one, ..running.clone() };
    assert_eq!(store.generation(&tenant, running.id).await.unwrap(), adopted);
    assert_eq!(store.orphaned(&[one], 10).await.unwrap(), []);
    assert!(store.adopt(running.id, one, other).await.unwrap());
    let unknown = GenerationId::at(NOW, rand::random());
    assert!(!store.adopt(unknown, one, other).await.unwrap());
}

/// One that runs is kept however old it is.
pub async fn only_finished_generations_are_forgotten(store: &dyn Records) {
    let tenant = fresh_tenant();
    let running = fresh_generation(&tenant, NOW);
    let done: Vec<_> = (0..4).map(|age| finished(&fresh_generation(&tenant, NOW + age), "outcome")).collect();
    for generation in done.iter().chain([&running]) {
        store.put_generation(generation).await.unwrap();
    }
    assert_eq!(store.forget_generations(NOW + 3, 2).await.unwrap(), 2);
    assert_eq!(store.forget_generations(NOW + 3, 2).await.unwrap(), 1);
    assert_eq!(store.forget_generations(NOW + 3, 2).await.unwrap(), 0);
    for forgotten in &done[..3] {
        check_not_found(store.generation(&tenant, forgotten.id).await);
    }
    for kept in [&done[3], &running] {
        assert_eq!(store.generation(&tenant, kept.id).await.unwrap(), *kept);
    }
}

/// Nor can it put another in its place.
pub async fn a_foreign_tenant_finds_no_generation(store: &dyn Records) {
    let (tenant, foreign) = (fresh_tenant(), fresh_tenant());
    let running = fresh_generation(&tenant, NOW);
    store.put_generation(&running).await.unwrap();
    check_not_found(store.generation(&foreign, running.id).await);
    check_not_found(store.generation(&tenant, GenerationId::at(NOW, rand::random())).await);
    check_not_found(store.put_generation(&Generation { tenant: foreign, ..running.clone() }).await);
    assert_eq!(store.generation(&tenant, running.id).await.unwrap(), running);
}
