//! `Endpoints`: who is told of a tenant's events, one row each.

use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::{Endpoint, EndpointId, TenantId};
use promptmill_ports::{Endpoints, StoreError, StoreResult};
use rusqlite::{OptionalExtension as _, params};

use crate::SqliteStore;
use crate::batches::{from_json, int, to_json};
use crate::fault::Fault;

/// What the tables gained for endpoints.
pub(crate) const STEP: &str = "
    CREATE TABLE endpoints(
        id BLOB PRIMARY KEY, tenant TEXT NOT NULL, ver INTEGER NOT NULL, created_ms INTEGER NOT NULL, endpoint TEXT NOT NULL)
        WITHOUT ROWID;
    CREATE INDEX endpoints_tenant ON endpoints(tenant, created_ms, id);
    ALTER TABLE deliveries ADD COLUMN endpoint BLOB;
    CREATE INDEX deliveries_given_up ON deliveries(tenant, created_ms) WHERE state = 2;
    CREATE INDEX deliveries_endpoint ON deliveries(endpoint, created_ms) WHERE endpoint IS NOT NULL;
";

#[async_trait]
impl Endpoints for SqliteStore {
    async fn put_endpoint(&self, endpoint: &Endpoint) -> StoreResult<bool> {
        let (endpoint, text) = (endpoint.clone(), to_json(endpoint));
        self.write(text.len(), move |db| {
            let id = endpoint.id.as_bytes();
            let changed = match endpoint.ver {
                0 | 1 => {
                    let sql = "INSERT INTO endpoints(id, tenant, ver, created_ms, endpoint) VALUES (?1, ?2, 1, ?3, ?4) ON CONFLICT DO NOTHING";
                    db.prepare_cached(sql)?.execute(params![
                        id,
                        endpoint.tenant.as_str(),
                        int(endpoint.created_ms),
                        text
                    ])?
                }
                ver => {
                    let sql = "UPDATE endpoints SET ver = ?3, endpoint = ?4 WHERE id = ?1 AND tenant = ?2 AND ver = ?3 - 1";
                    db.prepare_cached(sql)?.execute(params![id, endpoint.tenant.as_str(), int(ver), text])?
                }
            };
            Ok(changed == 1)
        })
        .await
    }

    fn tells_within(&self) -> Duration {
        Duration::ZERO
    }

    async fn endpoint(&self, tenant: &TenantId, id: EndpointId) -> StoreResult<Endpoint> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = "SELECT endpoint FROM endpoints WHERE id = ?1 AND tenant = ?2";
            let known = params![id.as_bytes(), tenant.as_str()];
            let found = db.prepare_cached(sql)?.query_row(known, |row| row.get::<_, String>(0)).optional()?;
            from_json(&found.ok_or(Fault::Store(StoreError::NotFound))?, "an endpoint")
        })
        .await
    }

    async fn endpoints(&self, tenant: &TenantId) -> StoreResult<Vec<Endpoint>> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = "SELECT endpoint FROM endpoints WHERE tenant = ?1 ORDER BY created_ms, id";
            let mut statement = db.prepare_cached(sql)?;
            let found = statement.query_map([tenant.as_str()], |row| row.get::<_, String>(0))?;
            found.map(|text| from_json(&text?, "an endpoint")).collect()
        })
        .await
    }

    async fn delete_endpoint(&self, tenant: &TenantId, id: EndpointId) -> StoreResult<bool> {
        let tenant = tenant.clone();
        self.write(256, move |db| {
            let sql = "DELETE FROM endpoints WHERE id = ?1 AND tenant = ?2";
            Ok(db.prepare_cached(sql)?.execute(params![id.as_bytes(), tenant.as_str()])? == 1)
        })
        .await
    }
}
