//! The conformance suite of the transfer port: each function is one sentence about a fresh store and panics where it is not true.
//!
//! [`transfer_conformance!`](crate::transfer_conformance) makes a test of each. What moves, and what it is afterwards, is tested with the archive.
#![expect(clippy::unwrap_used, reason = "a conformance case is a test that lives outside cfg(test)")]

use bytes::Bytes;
use promptmill_domain::batch::PauseReason;
use promptmill_domain::{
    BatchEvent, BatchId, Endpoint, EndpointId, EndpointSecret, EndpointState, GenerationId, Release,
    SessionId, TenantId, Webhook,
};

use super::store::scene::{
    NOW, Scene, check_conflict, check_not_found, fresh_batch, fresh_tenant, group, new_batch, parked,
};
use crate::{
    Beside, Claim, Claims, Generation, Installation, NewBatch, PageLimit, SettleGroup, StoredAnswer, Tenant,
};

/// Makes a `#[tokio::test]` of every case. The expression makes a fresh store: anything that dereferences to an
/// [`Installation`]; it may await, and is dropped at the end of the case.
#[macro_export]
macro_rules! transfer_conformance {
    ($make:expr) => {
        $crate::conformance_tests! { transfer, $make;
            what_stands_beside_a_batch_is_its_key_and_its_events
            a_stamped_batch_has_the_version_and_the_events_it_is_given
            a_tenant_with_an_endpoint_is_told_of_batches_without_a_webhook
            heads_come_by_number_with_whole_histories
            claims_come_in_the_order_of_their_keys_page_by_page
            generations_come_by_id_page_by_page
            only_an_empty_store_is_filled_and_by_one_import
        }
    };
}

async fn paused(store: &dyn Installation) -> (TenantId, BatchId) {
    let tenant = fresh_tenant();
    let mut new: NewBatch = new_batch(fresh_batch(), Some("the client's key, ä"));
    let url = "https://receiver.example/".to_owned();
    new.spec.webhook = Some(Webhook { url, sealed_secret: "pmv1.k.AAAA".to_owned(), results: true });
    let scene = Scene::of(store, tenant.clone(), new).await;
    scene.queue(&[2], NOW).await;
    for event in [BatchEvent::Pause(PauseReason::Requested), BatchEvent::Resume] {
        store.steer(&tenant, scene.batch, event, NOW).await.unwrap();
    }
    store.steer(&tenant, scene.batch, BatchEvent::Pause(PauseReason::Budget), NOW + 1).await.unwrap();
    (tenant, scene.batch)
}

/// Of its own tenant alone, and the events oldest first.
pub async fn what_stands_beside_a_batch_is_its_key_and_its_events(store: &dyn Installation) {
    let (tenant, batch) = paused(store).await;
    let beside = store.beside(&tenant, batch).await.unwrap();
    assert_eq!(beside.idem_key.as_deref(), Some("the client's key, ä"));
    assert_eq!(beside.events, store.pending(10).await.unwrap());
    assert_eq!(beside.events.iter().map(|event| event.at_ms).collect::<Vec<_>>(), [NOW, NOW + 1]);
    let plain = Scene::draft(store).await;
    assert_eq!(store.beside(&plain.tenant, plain.batch).await.unwrap(), Beside::default());
    check_not_found(store.beside(&plain.tenant, batch).await);
    check_not_found(store.beside(&tenant, fresh_batch()).await);
}

/// From the answer to its making on, and until it is deleted; other tenants are not.
pub async fn a_tenant_with_an_endpoint_is_told_of_batches_without_a_webhook(store: &dyn Installation) {
    let (tenant, other) = (fresh_tenant(), fresh_tenant());
    let endpoint = Endpoint {
        id: EndpointId::at(NOW, rand::random()),
        tenant: tenant.clone(),
        url: "https://receiver.example/".to_owned(),
        description: None,
        kinds: vec![],
        headers: None,
        email: Some("ops@example.com".to_owned()),
        results: true,
        max_per_second: None,
        secrets: vec![EndpointSecret {
            sealed: "sealed".to_owned(),
            public_key: None,
            until_ms: None,
            request: None,
        }],
        state: EndpointState::Enabled,
        failing: None,
        created_ms: NOW,
        since_ms: NOW,
        ver: 1,
    };
    let told = async |tenant: &TenantId| {
        // A pause, an end of one batch, and ends of small ones, which a store may write together.
        let mut batches = Vec::new();
        for lens in [&[2][..], &[1], &[200, 200]] {
            let scene = Scene::of(store, tenant.clone(), new_batch(fresh_batch(), None)).await;
            scene.queue(lens, NOW).await;
            scene.end(NOW + 1).await;
            batches.push(scene.batch);
        }
        let scene = Scene::of(store, tenant.clone(), new_batch(fresh_batch(), None)).await;
        scene.queue(&[1], NOW).await;
        store.steer(tenant, scene.batch, BatchEvent::Pause(PauseReason::Budget), NOW + 1).await.unwrap();
        batches.push(scene.batch);
        let pending = store.pending(u32::MAX).await.unwrap();
        pending.iter().filter(|event| batches.contains(&event.batch)).count()
    };
    assert_eq!(told(&tenant).await, 0);
    assert!(store.put_endpoint(&endpoint).await.unwrap());
    tokio::time::sleep(store.tells_within()).await;
    assert_eq!((told(&tenant).await, told(&other).await), (4, 0));
    assert!(store.delete_endpoint(&tenant, endpoint.id).await.unwrap());
}

/// However often it is stamped; what happens to it next has a later version, and is told.
pub async fn a_stamped_batch_has_the_version_and_the_events_it_is_given(store: &dyn Installation) {
    let (tenant, batch) = paused(store).await;
    let events = store.beside(&tenant, batch).await.unwrap().events;
    for _ in 0..2 {
        store.stamp(&tenant, batch, 77, &events[1..]).await.unwrap();
        assert_eq!(store.batch(&tenant, batch).await.unwrap().ver, 77);
        assert_eq!(store.beside(&tenant, batch).await.unwrap().events, events[1..]);
        assert_eq!(store.pending(10).await.unwrap(), events[1..]);
    }
    store.stamp(&tenant, batch, 80, &[]).await.unwrap();
    assert!(store.pending(10).await.unwrap().is_empty());
    store.steer(&tenant, batch, BatchEvent::Resume, NOW).await.unwrap();
    store.steer(&tenant, batch, BatchEvent::Pause(PauseReason::Requested), NOW).await.unwrap();
    let told: Vec<_> = store.pending(10).await.unwrap().iter().map(|event| event.ver).collect();
    assert_eq!(told, [82]);
    check_not_found(store.stamp(&fresh_tenant(), batch, 1, &[]).await);
}

/// Page by page, and without those that wait where the store does not keep them.
pub async fn heads_come_by_number_with_whole_histories(store: &dyn Installation) {
    let scene = Scene::ready(store, &[1, 3, 2]).await;
    let lease = scene.lease(1).await;
    let mut waits = parked(2, NOW + 5);
    // Too long to stand in a head.
    waits.attempts = vec![waits.attempts[0].clone(); 400];
    let group = SettleGroup { parked: vec![waits.clone()], release: Release::LetGo, ..group(&lease) };
    scene.settle(group).await;
    let heads = store.heads(&scene.tenant, scene.batch, None, 2).await.unwrap();
    assert_eq!(heads.iter().map(|head| (head.chunk.n, head.base)).collect::<Vec<_>>(), [(0, 0), (1, 1)]);
    assert_eq!(heads[1].parked, [waits]);
    let heads = store.heads(&scene.tenant, scene.batch, Some(1), 2).await.unwrap();
    assert_eq!(heads.iter().map(|head| (head.chunk.n, head.len())).collect::<Vec<_>>(), [(2, 2)]);
    for after in [2, u32::MAX] {
        assert!(store.heads(&scene.tenant, scene.batch, Some(after), 2).await.unwrap().is_empty());
    }
    check_not_found(store.heads(&fresh_tenant(), scene.batch, None, 2).await);
}

/// A page holds as many as its bytes allow, and at least one.
pub async fn claims_come_in_the_order_of_their_keys_page_by_page(store: &dyn Installation) {
    let tenant = fresh_tenant();
    // The order is that of bytes: capitals first, and ä behind z.
    let keys = ["B", "a", "a b", "z", "ä"];
    for (n, key) in (0_u8..5).zip(keys).rev() {
        let claim = Claim {
            tenant: tenant.clone(),
            key: key.to_owned(),
            fingerprint: [n; 32],
            plan: [n; 16],
            owner: [9; 16],
        };
        Claims::claim(store, &claim, NOW + u64::from(n)).await.unwrap();
        Claims::claim(store, &Claim { tenant: fresh_tenant(), ..claim }, NOW).await.unwrap();
        if key != "z" {
            let body = Bytes::from(vec![b'x'; 10]);
            let headers = vec![("a".to_owned(), "ä".to_owned())];
            store.answer(&tenant, key, &StoredAnswer { status: 201, headers, body }).await.unwrap();
        }
    }
    let all = store.claims(&tenant, None, PageLimit::items(10)).await.unwrap();
    assert_eq!(all.iter().map(|kept| &kept.claim.key[..]).collect::<Vec<_>>(), keys);
    assert!(
        all.iter()
            .zip(0..)
            .all(|(kept, n)| (kept.created_ms, kept.claim.plan) == (NOW + u64::from(n), [n; 16]))
    );
    assert_eq!(all.iter().filter(|kept| kept.answer.is_none()).count(), 1);
    let mut paged = Vec::new();
    for (items, bytes, count) in [(10, 25, 2), (1, 100, 1), (10, 5, 1), (10, 100, 1), (10, 100, 0)] {
        let after = paged.last().map(|kept: &crate::KeptClaim| kept.claim.key.clone());
        let page = store.claims(&tenant, after.as_deref(), PageLimit { items, bytes }).await.unwrap();
        assert_eq!(page.len(), count);
        paged.extend(page);
    }
    assert_eq!(paged, all);
}

/// Those that run and those that ended, of their tenant alone.
pub async fn generations_come_by_id_page_by_page(store: &dyn Installation) {
    let tenant = fresh_tenant();
    let mut made = Vec::new();
    for n in 0..4_u64 {
        let generation = Generation {
            id: GenerationId::at(NOW + n, rand::random()),
            tenant: tenant.clone(),
            request: Bytes::from(vec![b'x'; 10]),
            outcome: (n % 2 == 0).then(|| Bytes::from_static(b"12345")),
            created_ms: NOW,
            owner: SessionId::from_bytes([4; 16]),
        };
        store.put_generation(&generation).await.unwrap();
        let id = GenerationId::at(NOW + n, rand::random());
        let other = Generation { id, tenant: fresh_tenant(), ..generation.clone() };
        store.put_generation(&other).await.unwrap();
        made.push(generation);
    }
    let mut paged = Vec::new();
    for (items, bytes, count) in [(10, 26, 2), (10, 1, 1), (1, 100, 1), (10, 100, 0)] {
        let after = paged.last().map(|generation: &Generation| generation.id);
        let page = store.generations(&tenant, after, PageLimit { items, bytes }).await.unwrap();
        assert_eq!(page.len(), count);
        paged.extend(page);
    }
    assert_eq!(paged, made);
}

/// An import that ended leaves a store that works; one that holds something takes none.
pub async fn only_an_empty_store_is_filled_and_by_one_import(store: &dyn Installation) {
    store.begin_import().await.unwrap();
    check_conflict(store.begin_import().await);
    store.end_import(7).await.unwrap();
    store.end_import(7).await.unwrap();
    store.begin_import().await.unwrap();
    store.end_import(7).await.unwrap();
    store.add_tenant(&Tenant { id: fresh_tenant(), created_ms: NOW }).await.unwrap();
    check_conflict(store.begin_import().await);
}
