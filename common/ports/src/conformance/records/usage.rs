//! Cases about what the records of a tenant take.

use bytes::Bytes;

use super::scene::*;
use crate::{Claimed, Generation, Read, Records, StoredAnswer};

/// Versions, generations and kept answers count from when they are stored until they are deleted or forgotten, each time they are.
pub async fn the_bytes_of_records_are_counted_until_they_are_forgotten(store: &(impl Records + Read)) {
    let tenant = fresh_tenant();
    let counted = async || store.usage(&tenant, NOW).await.unwrap().record_bytes;
    assert_eq!(counted().await, 0);

    let template = fresh_template();
    for _ in 0..2 {
        store.add_template(&tenant, template, "greet", "0123456789", NOW).await.unwrap();
        assert_eq!(counted().await, 10);
    }
    // Bytes are counted, not characters.
    store.add_version(&tenant, template, 1, "äö", NOW).await.unwrap();
    assert_eq!(counted().await, 14);
    store.delete_template(&tenant, template, 2).await.unwrap();
    assert_eq!(counted().await, 0);

    let claim = fresh_claim(&tenant, "POST /v1/x k");
    assert_eq!(store.claim(&claim, NOW).await.unwrap(), Claimed::Run);
    assert_eq!(counted().await, 12);
    let answer = StoredAnswer { status: 200, headers: Vec::new(), body: Bytes::from_static(b"made") };
    for _ in 0..2 {
        store.answer(&tenant, &claim.key, &answer).await.unwrap();
        assert_eq!(counted().await, 16);
    }
    let released = fresh_claim(&tenant, "y");
    store.claim(&released, NOW).await.unwrap();
    store.release(&tenant, &released.key, released.owner).await.unwrap();
    assert_eq!(counted().await, 16);
    while store.forget_claims(NOW + 1, 10).await.unwrap() > 0 {}
    assert_eq!(counted().await, 0);

    let running = fresh_generation(&tenant, NOW);
    let bytes = running.request.len() as u64;
    store.put_generation(&running).await.unwrap();
    assert_eq!(counted().await, bytes);
    let done = Generation { outcome: Some(Bytes::from_static(b"an outcome")), ..running };
    for _ in 0..2 {
        store.put_generation(&done).await.unwrap();
        assert_eq!(counted().await, bytes + 10);
    }
    while store.forget_generations(NOW + 1, 10).await.unwrap() > 0 {}
    assert_eq!(counted().await, 0);
}
