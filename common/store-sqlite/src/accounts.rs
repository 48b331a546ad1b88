//! `Accounts`: tenants and their keys.

use async_trait::async_trait;
use promptmill_domain::{KeyId, TenantId};
use promptmill_ports::{Accounts, ApiKey, StoreError, StoreResult, Tenant};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::SqliteStore;
use crate::batches::{from_json, int, parse_tenant, to_json};
use crate::fault::Fault;

/// About what a key costs in a group.
const SMALL: usize = 512;

#[async_trait]
impl Accounts for SqliteStore {
    async fn add_tenant(&self, tenant: &Tenant) -> StoreResult<bool> {
        let Tenant { id, created_ms } = tenant.clone();
        self.write(SMALL, move |db| {
            let sql = "INSERT INTO tenants(id, created_ms) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            Ok(db.prepare_cached(sql)?.execute(params![id.as_str(), int(created_ms)])? > 0)
        })
        .await
    }

    async fn tenants(&self) -> StoreResult<Vec<Tenant>> {
        self.read(|db| {
            let mut statement = db.prepare_cached("SELECT id, created_ms FROM tenants ORDER BY id")?;
            let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
            rows.map(|row| {
                let (id, created_ms) = row?;
                Ok(Tenant { id: parse_tenant(&id)?, created_ms })
            })
            .collect()
        })
        .await
    }

    async fn add_key(&self, key: &ApiKey) -> StoreResult<()> {
        let key = key.clone();
        self.write(SMALL, move |db| add_key(db, &key)).await
    }

    async fn key(&self, id: KeyId) -> StoreResult<Option<ApiKey>> {
        self.read(move |db| {
            let sql = format!("SELECT {COLUMNS} FROM api_keys WHERE id = ?1");
            let raw = db.prepare_cached(&sql)?.query_row([id.as_bytes()], RawKey::read).optional()?;
            raw.map(RawKey::decode).transpose()
        })
        .await
    }

    async fn keys(&self, tenant: &TenantId) -> StoreResult<Vec<ApiKey>> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = format!("SELECT {COLUMNS} FROM api_keys WHERE tenant = ?1 ORDER BY created_ms, id");
            let mut statement = db.prepare_cached(&sql)?;
            let rows = statement.query_map([tenant.as_str()], RawKey::read)?;
            rows.map(|raw| raw?.decode()).collect()
        })
        .await
    }

    async fn revoke_key(&self, tenant: &TenantId, id: KeyId, now_ms: u64) -> StoreResult<()> {
        let tenant = tenant.clone();
        self.write(SMALL, move |db| {
            let sql =
                "UPDATE api_keys SET revoked_ms = coalesce(revoked_ms, ?3) WHERE id = ?1 AND tenant = ?2";
            match db.prepare_cached(sql)?.execute(params![id.as_bytes(), tenant.as_str(), int(now_ms)])? {
                0 => Err(Fault::Store(StoreError::NotFound)),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn keys_used(&self, used: &[(KeyId, u64)]) -> StoreResult<()> {
        let used = used.to_vec();
        self.write(SMALL * used.len(), move |db| {
            let sql = "UPDATE api_keys SET used_ms = ?2 WHERE id = ?1 AND coalesce(used_ms, 0) < ?2";
            let mut statement = db.prepare_cached(sql)?;
            for (id, used_ms) in &used {
                statement.execute(params![id.as_bytes(), int(*used_ms)])?;
            }
            Ok(())
        })
        .await
    }
}

fn add_key(db: &Connection, key: &ApiKey) -> Result<(), Fault> {
    let known = "SELECT EXISTS (SELECT 1 FROM tenants WHERE id = ?1)";
    if !db.prepare_cached(known)?.query_row([key.tenant.as_str()], |row| row.get::<_, bool>(0))? {
        return Err(Fault::Store(StoreError::NotFound));
    }
    let owner = "SELECT tenant FROM api_keys WHERE id = ?1";
    let owner: Option<String> =
        db.prepare_cached(owner)?.query_row([key.id.as_bytes()], |row| row.get(0)).optional()?;
    match owner {
        // A repeated call must not bring a key back that was revoked since.
        Some(owner) if owner == key.tenant.as_str() => return Ok(()),
        Some(_) => return Err(Fault::conflict("the key id is taken")),
        None => {}
    }
    let sql =
        format!("INSERT INTO api_keys({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)");
    db.prepare_cached(&sql)?.execute(params![
        key.id.as_bytes(),
        key.tenant.as_str(),
        key.name,
        to_json(&key.role),
        to_json(&key.scopes),
        key.hash,
        key.hint,
        int(key.created_ms),
        key.expires_ms.map(int),
        key.revoked_ms.map(int),
        key.used_ms.map(int),
    ])?;
    Ok(())
}

const COLUMNS: &str =
    "id, tenant, name, role, scopes, hash, hint, created_ms, expires_ms, revoked_ms, used_ms";

struct RawKey {
    id: [u8; 16],
    tenant: String,
    name: String,
    role: String,
    scopes: String,
    hash: [u8; 32],
    hint: String,
    created_ms: u64,
    expires_ms: Option<u64>,
    revoked_ms: Option<u64>,
    used_ms: Option<u64>,
}

impl RawKey {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            tenant: row.get(1)?,
            name: row.get(2)?,
            role: row.get(3)?,
            scopes: row.get(4)?,
            hash: row.get(5)?,
            hint: row.get(6)?,
            created_ms: row.get(7)?,
            expires_ms: row.get(8)?,
            revoked_ms: row.get(9)?,
            used_ms: row.get(10)?,
        })
    }

    fn decode(self) -> Result<ApiKey, Fault> {
        Ok(ApiKey {
            id: KeyId::from_bytes(self.id),
            tenant: parse_tenant(&self.tenant)?,
            name: self.name,
            role: from_json(&self.role, "a key's role")?,
            scopes: from_json(&self.scopes, "a key's scopes")?,
            hash: self.hash,
            hint: self.hint,
            created_ms: self.created_ms,
            expires_ms: self.expires_ms,
            revoked_ms: self.revoked_ms,
            used_ms: self.used_ms,
        })
    }
}
