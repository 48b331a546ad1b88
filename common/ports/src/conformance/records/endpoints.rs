//! Cases about endpoints.

use promptmill_domain::{
    Endpoint, EndpointId, EndpointSecret, EndpointState, EventKind, Failing, TenantId, WhyDisabled,
};

use super::scene::*;
use crate::{Delivery, Records, StoreError};

fn endpoint(tenant: &TenantId, age: u64) -> Endpoint {
    Endpoint {
        id: EndpointId::at(NOW, rand::random()),
        tenant: tenant.clone(),
        url: "https://receiver.example/hook?a=ä".to_owned(),
        description: Some("the billing system".to_owned()),
        kinds: vec![EventKind::BatchCompleted],
        headers: None,
        email: None,
        results: false,
        max_per_second: None,
        secrets: vec![EndpointSecret {
            sealed: "pmv1.key.AAAA".to_owned(),
            public_key: None,
            until_ms: None,
            request: None,
        }],
        state: EndpointState::Enabled,
        failing: None,
        created_ms: NOW + age,
        since_ms: NOW + age,
        ver: 1,
    }
}

/// Of its tenant alone, oldest first, until it is deleted.
pub async fn endpoints_are_listed_oldest_first_and_are_their_tenants_alone(store: &dyn Records) {
    let (tenant, stranger) = (fresh_tenant(), fresh_tenant());
    let (young, old) = (endpoint(&tenant, 5), endpoint(&tenant, 3));
    for endpoint in [&young, &old, &endpoint(&stranger, 1)] {
        assert!(store.put_endpoint(endpoint).await.unwrap());
    }
    assert_eq!(store.endpoints(&tenant).await.unwrap(), [old.clone(), young.clone()]);
    assert_eq!(store.endpoint(&tenant, old.id).await.unwrap(), old);
    assert!(matches!(store.endpoint(&stranger, old.id).await, Err(StoreError::NotFound)));
    assert!(!store.delete_endpoint(&stranger, old.id).await.unwrap());
    assert!(store.delete_endpoint(&tenant, old.id).await.unwrap());
    assert!(!store.delete_endpoint(&tenant, old.id).await.unwrap());
    assert_eq!(store.endpoints(&tenant).await.unwrap(), [young]);
}

/// Of changes at the same time one holds, and the others are told.
pub async fn an_endpoint_is_changed_only_by_who_knows_its_version(store: &dyn Records) {
    let tenant = fresh_tenant();
    let first = endpoint(&tenant, 0);
    assert!(store.put_endpoint(&first).await.unwrap());
    assert!(!store.put_endpoint(&first).await.unwrap());
    let state = EndpointState::Disabled { why: WhyDisabled::Gone, at_ms: NOW };
    let second =
        Endpoint { ver: 2, state, failing: Some(Failing { since_ms: NOW, last_ms: NOW }), ..first.clone() };
    assert!(store.put_endpoint(&second).await.unwrap());
    for late in [Endpoint { ver: 2, ..first.clone() }, Endpoint { ver: 4, ..first.clone() }, first] {
        assert!(!store.put_endpoint(&late).await.unwrap());
    }
    assert_eq!(store.endpoint(&tenant, second.id).await.unwrap(), second);
    let elsewhere = Endpoint { tenant: fresh_tenant(), ver: 3, ..second.clone() };
    assert!(!store.put_endpoint(&elsewhere).await.unwrap());
    assert!(store.delete_endpoint(&tenant, second.id).await.unwrap());
    assert!(!store.put_endpoint(&Endpoint { ver: 3, ..second }).await.unwrap());
}

/// The newest first, its own alone, of whatever they tell.
pub async fn an_endpoint_lists_what_goes_to_it(store: &dyn Records) {
    let tenant = fresh_tenant();
    let (id, other) = (EndpointId::at(NOW, rand::random()), EndpointId::at(NOW, rand::random()));
    let delivery = |endpoint, age| Delivery {
        endpoint,
        created_ms: NOW + age,
        ..fresh_delivery(&tenant, fresh_batch(), NOW)
    };
    // Not all tell of a batch.
    let of_none = Delivery { batch: None, ..delivery(Some(id), 4) };
    let all = [delivery(Some(id), 1), delivery(Some(other), 2), delivery(None, 3), of_none];
    store.add_deliveries(&all).await.unwrap();
    let [first, _, _, last] = &all;
    assert_eq!(store.deliveries_to(&tenant, id, 9).await.unwrap(), [last.clone(), first.clone()]);
    assert_eq!(store.deliveries_to(&tenant, id, 1).await.unwrap(), std::slice::from_ref(last));
    assert_eq!(store.deliveries_to(&fresh_tenant(), id, 9).await.unwrap(), []);
}
