//! `Accounts`: tenants and their keys.
//!
//! Each step is one write of one document, but for adding a key, which looks for its tenant first: a tenant is never removed.

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use promptmill_domain::{KeyId, TenantId};
use promptmill_ports::{Accounts, ApiKey, StoreError, StoreResult, Tenant};

use crate::MongoStore;
use crate::codec::{Fields, binary, conflict, from_json, int, to_json};
use crate::collections::{API_KEYS, TENANTS};
use crate::commands::{Concern, Query, Update, fresh_mark};

#[async_trait]
impl Accounts for MongoStore {
    async fn add_tenant(&self, tenant: &Tenant) -> StoreResult<bool> {
        let mark = fresh_mark();
        let id = tenant.id.as_str();
        let document = doc! { "_id": id, "created_ms": int(tenant.created_ms), "mark": mark.clone() };
        if self.commands().insert_one(TENANTS, &document).await? {
            return Ok(true);
        }
        // It is there, perhaps from a first try of this call whose answer was lost.
        let mine = Query::of(doc! { "_id": id, "mark": mark }).fields(doc! { "_id": 1 });
        Ok(self.commands().find_one(TENANTS, mine, Concern::Majority).await?.is_some())
    }

    async fn tenants(&self) -> StoreResult<Vec<Tenant>> {
        let query = Query::of(doc! {}).sort(doc! { "_id": 1 });
        let found = self.commands().find(TENANTS, query, Concern::Majority).await?;
        let read = |document: &Document| {
            let fields = Fields(document);
            Ok(Tenant { id: fields.tenant("_id")?, created_ms: fields.uint("created_ms")? })
        };
        found.iter().map(read).collect()
    }

    async fn add_key(&self, key: &ApiKey) -> StoreResult<()> {
        let tenant = Query::of(doc! { "_id": key.tenant.as_str() }).fields(doc! { "_id": 1 });
        if self.commands().find_one(TENANTS, tenant, Concern::Majority).await?.is_none() {
            return Err(StoreError::NotFound);
        }
        if self.commands().insert_one(API_KEYS, &to_document(key)).await? {
            return Ok(());
        }
        match self.key(key.id).await? {
            // A repeated call must not bring a key back that was revoked since.
            Some(there) if there.tenant == key.tenant => Ok(()),
            // Keys are never removed, so one that is there is found.
            Some(_) | None => Err(conflict("the key id is taken")),
        }
    }

    async fn key(&self, id: KeyId) -> StoreResult<Option<ApiKey>> {
        let query = Query::of(doc! { "_id": binary(*id.as_bytes()) });
        let found = self.commands().find_one(API_KEYS, query, Concern::Majority).await?;
        found.as_ref().map(from_document).transpose()
    }

    async fn keys(&self, tenant: &TenantId) -> StoreResult<Vec<ApiKey>> {
        let query = Query::of(doc! { "tenant": tenant.as_str() }).sort(doc! { "created_ms": 1, "_id": 1 });
        let found = self.commands().find(API_KEYS, query, Concern::Majority).await?;
        found.iter().map(from_document).collect()
    }

    async fn revoke_key(&self, tenant: &TenantId, id: KeyId, now_ms: u64) -> StoreResult<()> {
        let theirs = doc! { "_id": binary(*id.as_bytes()), "tenant": tenant.as_str() };
        let first = doc! { "$ifNull": ["$revoked_ms", int(now_ms)] };
        let change = Bson::from(vec![doc! { "$set": { "revoked_ms": first } }]);
        let update = Update { change, ..Update::one(theirs, Document::new()) };
        match self.commands().update(API_KEYS, vec![update]).await?.n {
            0 => Err(StoreError::NotFound),
            _ => Ok(()),
        }
    }

    async fn keys_used(&self, used: &[(KeyId, u64)]) -> StoreResult<()> {
        let latest = |(id, used_ms): &(KeyId, u64)| {
            let key = doc! { "_id": binary(*id.as_bytes()) };
            Update::one(key, doc! { "$max": { "used_ms": int(*used_ms) } })
        };
        self.commands().update(API_KEYS, used.iter().map(latest).collect()).await.map(|_| ())
    }
}

fn to_document(key: &ApiKey) -> Document {
    let mut document = doc! {
        "_id": binary(*key.id.as_bytes()),
        "tenant": key.tenant.as_str(),
        "name": &key.name,
        "role": to_json(&key.role),
        "scopes": to_json(&key.scopes),
        "hash": binary(key.hash),
        "hint": &key.hint,
        "created_ms": int(key.created_ms),
    };
    let times = [("expires_ms", key.expires_ms), ("revoked_ms", key.revoked_ms), ("used_ms", key.used_ms)];
    for (name, time) in times {
        if let Some(time) = time {
            document.insert(name, int(time));
        }
    }
    document
}

fn from_document(document: &Document) -> StoreResult<ApiKey> {
    let fields = Fields(document);
    Ok(ApiKey {
        id: KeyId::from_bytes(fields.id("_id")?),
        tenant: fields.tenant("tenant")?,
        name: fields.text("name")?.to_owned(),
        role: from_json(fields.text("role")?, "a key's role")?,
        scopes: from_json(fields.text("scopes")?, "a key's scopes")?,
        hash: fields.id("hash")?,
        hint: fields.text("hint")?.to_owned(),
        created_ms: fields.uint("created_ms")?,
        expires_ms: fields.maybe_uint("expires_ms")?,
        revoked_ms: fields.maybe_uint("revoked_ms")?,
        used_ms: fields.maybe_uint("used_ms")?,
    })
}
