//! Cases about tenants and keys.

use promptmill_domain::{KeyId, TenantId};

use super::scene::*;
use crate::{ApiKey, Records, Role, Tenant};

async fn made_tenant(store: &dyn Records) -> TenantId {
    let id = fresh_tenant();
    assert!(store.add_tenant(&Tenant { id: id.clone(), created_ms: NOW }).await.unwrap());
    id
}

/// Adding a tenant again changes nothing and says so.
pub async fn a_tenant_is_made_once(store: &dyn Records) {
    let (one, two) = (made_tenant(store).await, made_tenant(store).await);
    assert!(!store.add_tenant(&Tenant { id: one.clone(), created_ms: NOW + 1 }).await.unwrap());
    let all = store.tenants().await.unwrap();
    assert!(all.is_sorted_by_key(|tenant| tenant.id.clone()));
    for id in [one, two] {
        assert!(all.contains(&Tenant { id, created_ms: NOW }));
    }
}

/// Every field comes back; a key that is added again stays as it is.
pub async fn a_key_is_kept_as_it_was_given(store: &dyn Records) {
    let tenant = made_tenant(store).await;
    let full = fresh_key(&tenant);
    let bare = ApiKey {
        role: Role::Viewer,
        scopes: vec![],
        expires_ms: None,
        name: String::new(),
        ..fresh_key(&tenant)
    };
    for key in [&full, &bare] {
        store.add_key(key).await.unwrap();
        assert_eq!(store.key(key.id).await.unwrap().as_ref(), Some(key));
    }
    store.add_key(&ApiKey { name: "renamed".to_owned(), ..full.clone() }).await.unwrap();
    assert_eq!(store.key(full.id).await.unwrap(), Some(full));
    assert_eq!(store.key(KeyId::at(NOW, rand::random())).await.unwrap(), None);
}

/// Nobody has a key without a tenant, and an id is one tenant's.
pub async fn a_key_needs_its_tenant(store: &dyn Records) {
    let key = fresh_key(&fresh_tenant());
    check_not_found(store.add_key(&key).await);
    assert_eq!(store.key(key.id).await.unwrap(), None);

    let (one, two) = (made_tenant(store).await, made_tenant(store).await);
    let key = fresh_key(&one);
    store.add_key(&key).await.unwrap();
    check_conflict(store.add_key(&ApiKey { tenant: two, ..key.clone() }).await);
    assert_eq!(store.key(key.id).await.unwrap(), Some(key));
}

/// A list has the tenant's keys only, revoked ones too.
pub async fn a_tenant_lists_its_own_keys_oldest_first(store: &dyn Records) {
    let (one, two) = (made_tenant(store).await, made_tenant(store).await);
    let young = ApiKey { created_ms: NOW + 2, ..fresh_key(&one) };
    let old = ApiKey { created_ms: NOW + 1, revoked_ms: Some(NOW + 3), ..fresh_key(&one) };
    let foreign = fresh_key(&two);
    for key in [&young, &foreign, &old] {
        store.add_key(key).await.unwrap();
    }
    assert_eq!(store.keys(&one).await.unwrap(), [old, young]);
    assert_eq!(store.keys(&two).await.unwrap(), [foreign]);
    assert_eq!(store.keys(&fresh_tenant()).await.unwrap(), []);
}

/// The first time counts, nothing brings a key back, and nobody revokes another's.
pub async fn a_key_is_revoked_once_and_for_good(store: &dyn Records) {
    let tenant = made_tenant(store).await;
    let key = fresh_key(&tenant);
    store.add_key(&key).await.unwrap();
    check_not_found(store.revoke_key(&made_tenant(store).await, key.id, NOW).await);
    check_not_found(store.revoke_key(&tenant, KeyId::at(NOW, rand::random()), NOW).await);
    assert_eq!(store.key(key.id).await.unwrap().unwrap().revoked_ms, None);

    store.revoke_key(&tenant, key.id, NOW + 5).await.unwrap();
    store.revoke_key(&tenant, key.id, NOW + 9).await.unwrap();
    store.add_key(&key).await.unwrap();
    let revoked = ApiKey { revoked_ms: Some(NOW + 5), ..key };
    assert_eq!(store.key(revoked.id).await.unwrap(), Some(revoked));
}

/// Reports come late and out of order; the latest use is what stays. Unknown keys are left out.
pub async fn the_last_use_of_a_key_never_goes_back(store: &dyn Records) {
    let tenant = made_tenant(store).await;
    let (one, two) = (fresh_key(&tenant), fresh_key(&tenant));
    store.add_key(&one).await.unwrap();
    store.add_key(&two).await.unwrap();
    store.keys_used(&[]).await.unwrap();
    store.keys_used(&[(one.id, NOW + 9), (KeyId::at(NOW, rand::random()), NOW)]).await.unwrap();
    store.keys_used(&[(one.id, NOW + 3), (two.id, NOW + 1), (two.id, NOW + 4)]).await.unwrap();
    for (id, used_ms) in [(one.id, NOW + 9), (two.id, NOW + 4)] {
        assert_eq!(store.key(id).await.unwrap().unwrap().used_ms, Some(used_ms));
    }
}
