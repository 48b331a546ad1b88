//! The writing steps of the record ports, in a row.

use bytes::Bytes;
use promptmill_domain::{
    BatchId, DeliveryId, EventId, EventKind, GenerationId, KeyId, SessionId, TemplateId, TenantId,
};
use promptmill_ports::{
    Accounts as _, ApiKey, Attempted, Claim, Claimed, Claims as _, Deliveries as _, Delivery,
    DeliveryAttempt, DeliveryState, Generation, Generations as _, Role, StoreError, StoredAnswer,
    TemplateKey, TemplateLabel, TemplateLabels as _, Templates as _, Tenant,
};
use promptmill_store_mongo::MongoStore;

const NOW: u64 = 1_790_000_000_000;

/// Every writing step of the record ports once, each after `before`; what it answers and leaves is as if nothing had happened.
pub(crate) async fn check_every_step(store: &MongoStore, before: impl Fn()) {
    let tenant: TenantId = format!("tenant-{:016x}", rand::random::<u64>()).parse().unwrap();
    accounts(store, &tenant, &before).await;
    templates(store, &tenant, &before).await;
    claims(store, &tenant, &before).await;
    generations(store, &tenant, &before).await;
    deliveries(store, &tenant, &before).await;
}

async fn accounts(store: &MongoStore, tenant: &TenantId, before: &impl Fn()) {
    let record = Tenant { id: tenant.clone(), created_ms: NOW };
    before();
    assert!(store.add_tenant(&record).await.unwrap());
    before();
    assert!(!store.add_tenant(&record).await.unwrap());
    let key = ApiKey {
        id: KeyId::at(NOW, rand::random()),
        tenant: tenant.clone(),
        name: "nightly".to_owned(),
        role: Role::Member,
        scopes: Vec::new(),
        hash: [3; 32],
        hint: "abcd".to_owned(),
        created_ms: NOW,
        expires_ms: None,
        revoked_ms: None,
        used_ms: None,
    };
    before();
    store.add_key(&key).await.unwrap();
    before();
    store.keys_used(&[(key.id, NOW + 1)]).await.unwrap();
    before();
    store.revoke_key(tenant, key.id, NOW + 2).await.unwrap();
    let expected = ApiKey { used_ms: Some(NOW + 1), revoked_ms: Some(NOW + 2), ..key };
    assert_eq!(store.keys(tenant).await.unwrap(), [expected]);
}

async fn templates(store: &MongoStore, tenant: &TenantId, before: &impl Fn()) {
    let id = TemplateId::at(NOW, rand::random());
    before();
    assert_eq!(store.add_template(tenant, id, "summary", "one", NOW).await.unwrap().latest, 1);
    before();
    assert_eq!(store.add_version(tenant, id, 1, "two", NOW + 1).await.unwrap().latest, 2);
    assert_eq!(store.versions(tenant, id, None, 9).await.unwrap(), [(2, NOW + 1), (1, NOW)]);
    assert_eq!(store.version(tenant, id, Some(1)).await.unwrap().source, "one");
    for (version, now_ms) in [(1, NOW + 2), (2, NOW + 3)] {
        let put = TemplateLabel { label: "production".to_owned(), version, changed_ms: now_ms };
        before();
        assert_eq!(store.put_label(tenant, id, "production", version, now_ms).await.unwrap(), put);
        assert_eq!(store.labels(tenant, id).await.unwrap(), [put]);
    }
    before();
    assert!(store.remove_label(tenant, id, "production").await.unwrap());
    assert_eq!(store.labels(tenant, id).await.unwrap(), []);
    before();
    store.delete_template(tenant, id, 2).await.unwrap();
    let there = store.template(tenant, &TemplateKey::Id(id)).await;
    assert!(matches!(there, Err(StoreError::NotFound)), "{there:?}");
}

async fn claims(store: &MongoStore, tenant: &TenantId, before: &impl Fn()) {
    let claim = Claim {
        tenant: tenant.clone(),
        key: "POST /v1/batches a".to_owned(),
        fingerprint: [1; 32],
        plan: [2; 16],
        owner: [3; 16],
    };
    before();
    assert_eq!(store.claim(&claim, NOW).await.unwrap(), Claimed::Run);
    before();
    assert!(store.take_over(tenant, &claim.key, claim.owner, [4; 16]).await.unwrap());
    before();
    store.release(tenant, &claim.key, [4; 16]).await.unwrap();
    assert_eq!(store.claim(&claim, NOW).await.unwrap(), Claimed::Run);
    let answer = StoredAnswer { status: 201, headers: Vec::new(), body: Bytes::from_static(b"made") };
    before();
    store.answer(tenant, &claim.key, &answer).await.unwrap();
    assert_eq!(store.claim(&claim, NOW).await.unwrap(), Claimed::Done(answer));
    before();
    store.forget_claims(NOW + 1, 10).await.unwrap();
    assert_eq!(store.claim(&claim, NOW + 9).await.unwrap(), Claimed::Run);
}

async fn generations(store: &MongoStore, tenant: &TenantId, before: &impl Fn()) {
    let running = Generation {
        id: GenerationId::at(NOW, rand::random()),
        tenant: tenant.clone(),
        request: Bytes::from_static(b"{}"),
        outcome: None,
        created_ms: NOW,
        owner: SessionId::from_bytes([3; 16]),
    };
    let done = Generation { outcome: Some(Bytes::from_static(b"done")), ..running.clone() };
    for put in [&running, &done, &running] {
        before();
        store.put_generation(put).await.unwrap();
    }
    assert_eq!(store.generation(tenant, done.id).await.unwrap(), done);
    before();
    store.forget_generations(NOW + 1, 10).await.unwrap();
    let there = store.generation(tenant, done.id).await;
    assert!(matches!(there, Err(StoreError::NotFound)), "{there:?}");
}

async fn deliveries(store: &MongoStore, tenant: &TenantId, before: &impl Fn()) {
    let batch = BatchId::at(NOW, rand::random());
    let made = |age| {
        let event = EventId::at(NOW, rand::random());
        Delivery {
            id: DeliveryId::to_batch_webhook(event),
            tenant: tenant.clone(),
            batch: Some(batch),
            event,
            kind: EventKind::BatchFailed,
            url: "https://receiver.example/".to_owned(),
            sealed_secret: "sealed".to_owned(),
            endpoint: None,
            body: Bytes::from_static(b"{}"),
            state: DeliveryState::Pending,
            due_ms: NOW + age,
            attempts: Vec::new(),
            created_ms: NOW + age,
        }
    };
    let deliveries = [made(0), made(1)];
    before();
    store.add_deliveries(&deliveries).await.unwrap();
    before();
    let taken = store.take_due(NOW + 1, NOW + 60, 10).await.unwrap();
    assert_eq!(taken, deliveries.each_ref().map(|due| Delivery { due_ms: NOW + 60, ..due.clone() }));
    // Words that look like an expression stay words.
    let error = Some("$due_ms".to_owned());
    let attempt = DeliveryAttempt { at_ms: NOW + 2, duration_ms: 5, status: Some(500), error, answer: None };
    for (delivery, state) in deliveries.iter().zip([DeliveryState::Pending, DeliveryState::GivenUp]) {
        before();
        let made = Attempted { id: delivery.id, attempt: Some(attempt.clone()), state, due_ms: NOW + 90 };
        store.record_attempts(&[made]).await.unwrap();
    }
    let stored = store.deliveries(tenant, batch, 10).await.unwrap();
    assert!(stored.iter().all(|stored| stored.attempts == [attempt.clone()]), "{stored:?}");
    before();
    store.forget_deliveries(NOW + 9, 10).await.unwrap();
    assert_eq!(store.deliveries(tenant, batch, 10).await.unwrap().len(), 1);
    // Nothing of this round is due in the next.
    let made = Attempted {
        id: deliveries[0].id,
        attempt: Some(attempt),
        state: DeliveryState::Delivered,
        due_ms: NOW,
    };
    store.record_attempts(&[made]).await.unwrap();
}
