//! Fresh records, and short words for the usual checks.

use bytes::Bytes;
use promptmill_domain::{
    BatchId, DeliveryId, EventId, EventKind, GenerationId, KeyId, SessionId, TemplateId, TenantId,
};

use crate::{ApiKey, Claim, Delivery, DeliveryState, Generation, Role, StoreError, StoreResult};

/// The time at which the cases begin, Unix milliseconds.
pub(super) const NOW: u64 = 1_790_000_000_000;

pub(super) fn fresh_tenant() -> TenantId {
    format!("tenant-{:016x}", rand::random::<u64>()).parse().unwrap()
}

pub(super) fn fresh_batch() -> BatchId {
    BatchId::at(NOW, rand::random())
}

pub(super) fn fresh_template() -> TemplateId {
    TemplateId::at(NOW, rand::random())
}

/// A key with every field set, so that a field that is lost shows.
pub(super) fn fresh_key(tenant: &TenantId) -> ApiKey {
    ApiKey {
        id: KeyId::at(NOW, rand::random()),
        tenant: tenant.clone(),
        name: "nightly, Zürich".to_owned(),
        role: Role::Admin,
        scopes: vec!["batches:read".to_owned(), "admin:keys".to_owned()],
        hash: rand::random(),
        hint: "x4Zq".to_owned(),
        created_ms: NOW,
        expires_ms: Some(NOW + 1_000),
        revoked_ms: None,
        used_ms: None,
    }
}

pub(super) fn fresh_claim(tenant: &TenantId, key: &str) -> Claim {
    Claim {
        tenant: tenant.clone(),
        key: key.to_owned(),
        fingerprint: [7; 32],
        plan: rand::random(),
        owner: rand::random(),
    }
}

/// A generation that runs.
pub(super) fn fresh_generation(tenant: &TenantId, created_ms: u64) -> Generation {
    Generation {
        id: GenerationId::at(created_ms, rand::random()),
        tenant: tenant.clone(),
        request: Bytes::from_static(b"{\"model\":\"demo:any\"}"),
        outcome: None,
        created_ms,
        owner: SessionId::at(created_ms, rand::random()),
    }
}

/// A pending delivery with every field set.
pub(super) fn fresh_delivery(tenant: &TenantId, batch: BatchId, due_ms: u64) -> Delivery {
    let event = EventId::at(NOW, rand::random());
    Delivery {
        id: DeliveryId::to_batch_webhook(event),
        tenant: tenant.clone(),
        batch: Some(batch),
        event,
        kind: EventKind::BatchCompleted,
        url: "https://receiver.example/hook?a=ä".to_owned(),
        sealed_secret: "pmv1.key.AAAA".to_owned(),
        endpoint: None,
        body: Bytes::from_static(b"{\"type\":\"batch.completed\"}"),
        state: DeliveryState::Pending,
        due_ms,
        attempts: Vec::new(),
        created_ms: NOW,
    }
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "a result is checked where it is made")]
pub(super) fn check_conflict<T: std::fmt::Debug>(result: StoreResult<T>) {
    assert!(matches!(result, Err(StoreError::Conflict(_))), "expected a conflict, got {result:?}");
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "a result is checked where it is made")]
pub(super) fn check_not_found<T: std::fmt::Debug>(result: StoreResult<T>) {
    assert!(matches!(result, Err(StoreError::NotFound)), "expected not found, got {result:?}");
}
