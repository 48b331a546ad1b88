//! The conformance suite of the record ports, and what concerns records together with batches or with the file.

use bytes::Bytes;
use promptmill_domain::{
    BatchId, BatchLimits, BatchSpec, DeliveryId, EventId, EventKind, GenerationId, KeyId, LaneId, SessionId,
    TemplateId, TenantId,
};
use promptmill_ports::{
    Accounts as _, ApiKey, Attempted, Claim, Claimed, Claims as _, Close as _, Deliveries as _, Delivery,
    DeliveryAttempt, DeliveryState, Generation, Generations as _, Intake as _, NewBatch, Role, StoreError,
    StoredAnswer, TemplateKey, Templates as _, Tenant,
};
use promptmill_store_sqlite::SqliteStore;

use crate::TemporaryStore;

promptmill_ports::records_conformance!(TemporaryStore::new());

const NOW: u64 = 1_790_000_000_000;

fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

fn delivery(batch: BatchId, n: u16) -> Delivery {
    let event = EventId::of_batch(batch, n.into());
    Delivery {
        id: DeliveryId::to_batch_webhook(event),
        tenant: tenant(),
        batch: Some(batch),
        event,
        kind: EventKind::BatchPaused,
        url: "https://receiver.example/hook".to_owned(),
        sealed_secret: "pmv1.key.AAAA".to_owned(),
        endpoint: None,
        body: Bytes::from_static(b"{}"),
        state: DeliveryState::Pending,
        due_ms: NOW,
        attempts: Vec::new(),
        created_ms: NOW,
    }
}

async fn draft(store: &SqliteStore, byte: u8) -> BatchId {
    let id = BatchId::from_bytes([byte; 16]);
    let spec = BatchSpec::new("{}".to_owned(), "demo:any".parse().unwrap(), LaneId::new("demo", "none"));
    let batch = NewBatch { id, spec, limits: BatchLimits::default(), idem_key: None, now_ms: NOW };
    store.create(&tenant(), batch).await.unwrap();
    id
}

#[tokio::test]
async fn every_record_is_there_after_the_store_was_opened_again() {
    let store = TemporaryStore::new();
    let (tenant, key_id) = (tenant(), KeyId::from_bytes([1; 16]));
    let (template_id, generation_id) = (TemplateId::from_bytes([2; 16]), GenerationId::from_bytes([3; 16]));
    let key = ApiKey {
        id: key_id,
        tenant: tenant.clone(),
        name: "first".to_owned(),
        role: Role::Owner,
        scopes: vec![],
        hash: [4; 32],
        hint: "abcd".to_owned(),
        created_ms: NOW,
        expires_ms: None,
        revoked_ms: Some(NOW + 1),
        used_ms: Some(NOW),
    };
    let claim = Claim {
        tenant: tenant.clone(),
        key: "POST /v1/batches a".to_owned(),
        fingerprint: [5; 32],
        plan: [6; 16],
        owner: [7; 16],
    };
    let answer = StoredAnswer { status: 201, headers: vec![], body: Bytes::from_static(b"{}") };
    let generation = Generation {
        id: generation_id,
        tenant: tenant.clone(),
        request: Bytes::from_static(b"{}"),
        outcome: None,
        created_ms: NOW,
        owner: SessionId::from_bytes([3; 16]),
    };
    let attempt = DeliveryAttempt {
        at_ms: NOW,
        duration_ms: 1,
        status: None,
        error: Some("refused".to_owned()),
        answer: None,
    };
    let sent = delivery(BatchId::from_bytes([9; 16]), 1);
    store.add_tenant(&Tenant { id: tenant.clone(), created_ms: NOW }).await.unwrap();
    store.add_key(&key).await.unwrap();
    store.add_template(&tenant, template_id, "summary", "one", NOW).await.unwrap();
    store.add_version(&tenant, template_id, 1, "two", NOW + 1).await.unwrap();
    assert_eq!(store.claim(&claim, NOW).await.unwrap(), Claimed::Run);
    store.answer(&tenant, &claim.key, &answer).await.unwrap();
    store.put_generation(&generation).await.unwrap();
    store.add_deliveries(std::slice::from_ref(&sent)).await.unwrap();
    let made = Attempted {
        id: sent.id,
        attempt: Some(attempt.clone()),
        state: DeliveryState::Pending,
        due_ms: NOW + 5,
    };
    store.record_attempts(&[made]).await.unwrap();

    let store = store.reopen();
    assert_eq!(store.tenants().await.unwrap(), [Tenant { id: tenant.clone(), created_ms: NOW }]);
    assert_eq!(store.key(key_id).await.unwrap(), Some(key));
    let by_name = TemplateKey::Name("summary".to_owned());
    assert_eq!(store.template(&tenant, &by_name).await.unwrap().latest, 2);
    assert_eq!(store.version(&tenant, template_id, Some(1)).await.unwrap().source, "one");
    assert_eq!(store.claim(&claim, NOW).await.unwrap(), Claimed::Done(answer));
    assert_eq!(store.orphaned(&[], 10).await.unwrap(), [generation]);
    let left = Delivery { attempts: vec![attempt], due_ms: NOW + 5, ..sent };
    assert_eq!(store.take_due(NOW + 5, NOW + 5, 10).await.unwrap(), [left]);
}

#[tokio::test]
async fn a_deleted_batch_takes_its_deliveries_with_it_in_bounded_steps() {
    let store = TemporaryStore::new();
    let (gone, kept) = (draft(&store, 1).await, draft(&store, 2).await);
    // A batch may be paused as often as one likes.
    let told: Vec<_> = (0..2_500).map(|n| delivery(gone, n)).collect();
    store.add_deliveries(&told).await.unwrap();
    store.add_deliveries(&[delivery(kept, 1)]).await.unwrap();
    let mut steps = 1;
    while !store.delete(&tenant(), gone).await.unwrap() {
        steps += 1;
    }
    assert!(steps > 2, "{steps}");
    assert!(matches!(store.delete(&tenant(), gone).await, Err(StoreError::NotFound)));
    assert_eq!(store.deliveries(&tenant(), gone, 10).await.unwrap(), []);
    assert_eq!(store.take_due(NOW, NOW, 10).await.unwrap(), [delivery(kept, 1)]);
}
