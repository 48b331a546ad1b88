//! `Endpoints`: who is told of a tenant's events, one document each.
//!
//! Whether a tenant has any is asked with each change of its batches, so a process remembers the answer for a moment ([`KEPT`]). Who makes
//! an endpoint waits until every process knows of it ([`tells_within`](Endpoints::tells_within)).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use promptmill_domain::{Endpoint, EndpointId, TenantId};
use promptmill_ports::{Endpoints, StoreError, StoreResult};
use tokio::sync::Mutex;

use crate::MongoStore;
use crate::codec::{Fields, binary, from_json, int, to_json};
use crate::collections::ENDPOINTS;
use crate::commands::{Commands, Concern, Query, Update};

/// How long it is taken for true which tenants have endpoints.
const KEPT: Duration = Duration::from_millis(500);

/// Which tenants have endpoints, and when that was asked for. Held while it is asked for, so that many who want to know ask once.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<Option<(Instant, Arc<HashSet<TenantId>>)>>);

/// The tenants that have endpoints.
pub(crate) async fn tenants(commands: &Commands) -> StoreResult<Arc<HashSet<TenantId>>> {
    let mut kept = commands.told().0.lock().await;
    if let Some((at, tenants)) = &*kept
        && at.elapsed() < KEPT
    {
        return Ok(tenants.clone());
    }
    let asked_at = Instant::now();
    let group = vec![doc! { "$group": { "_id": "$tenant" } }];
    let found = commands.aggregate(ENDPOINTS, group, Concern::Majority).await?;
    let tenants =
        found.iter().map(|tenant| Fields(tenant).tenant("_id")).collect::<StoreResult<HashSet<_>>>()?;
    let tenants = Arc::new(tenants);
    *kept = Some((asked_at, tenants.clone()));
    Ok(tenants)
}

fn of(tenant: &TenantId, id: EndpointId) -> Document {
    doc! { "_id": binary(*id.as_bytes()), "tenant": tenant.as_str() }
}

#[async_trait]
impl Endpoints for MongoStore {
    async fn put_endpoint(&self, endpoint: &Endpoint) -> StoreResult<bool> {
        let commands = self.commands();
        if endpoint.ver > 1 {
            let mut before = of(&endpoint.tenant, endpoint.id);
            before.insert("ver", int(endpoint.ver) - 1);
            let change = doc! { "$set": { "ver": int(endpoint.ver), "endpoint": to_json(endpoint) } };
            return Ok(commands.update(ENDPOINTS, vec![Update::this(before, change)]).await?.n == 1);
        }
        let mut document = of(&endpoint.tenant, endpoint.id);
        document.extend(doc! {
            "ver": 1_i64, "created_ms": int(endpoint.created_ms), "endpoint": to_json(endpoint),
        });
        commands.insert_one(ENDPOINTS, &document).await
    }

    fn tells_within(&self) -> Duration {
        // What was asked for a moment before may be used for as long, and a change that was begun then takes its time.
        2 * KEPT
    }

    async fn endpoint(&self, tenant: &TenantId, id: EndpointId) -> StoreResult<Endpoint> {
        let found = self.commands().find_one(ENDPOINTS, Query::of(of(tenant, id)), Concern::Majority).await?;
        from_document(&found.ok_or(StoreError::NotFound)?)
    }

    async fn endpoints(&self, tenant: &TenantId) -> StoreResult<Vec<Endpoint>> {
        let query = Query::of(doc! { "tenant": tenant.as_str() }).sort(doc! { "created_ms": 1, "_id": 1 });
        let found = self.commands().find(ENDPOINTS, query, Concern::Majority).await?;
        found.iter().map(from_document).collect()
    }

    async fn delete_endpoint(&self, tenant: &TenantId, id: EndpointId) -> StoreResult<bool> {
        Ok(self.commands().delete(ENDPOINTS, of(tenant, id)).await? == 1)
    }
}

fn from_document(document: &Document) -> StoreResult<Endpoint> {
    from_json(Fields(document).text("endpoint")?, "an endpoint")
}
