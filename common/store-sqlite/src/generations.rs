//! `Generations`: immediate generations, from the request to the outcome.

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::{GenerationId, SessionId, TenantId};
use promptmill_ports::{Generation, Generations, StoreError, StoreResult};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::SqliteStore;
use crate::batches::{int, parse_tenant};
use crate::delete::Forgettable;
use crate::fault::Fault;

/// About what a generation costs in a group beside its request and outcome.
const SMALL: usize = 512;

#[async_trait]
impl Generations for SqliteStore {
    async fn put_generation(&self, generation: &Generation) -> StoreResult<()> {
        let generation = generation.clone();
        let bytes = SMALL + generation.size();
        self.write(bytes, move |db| put(db, &generation)).await
    }

    async fn generation(&self, tenant: &TenantId, id: GenerationId) -> StoreResult<Generation> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = format!("SELECT {COLUMNS} FROM generations WHERE id = ?1 AND tenant = ?2");
            let known = params![id.as_bytes(), tenant.as_str()];
            let raw = db.prepare_cached(&sql)?.query_row(known, RawGeneration::read).optional()?;
            raw.ok_or(Fault::Store(StoreError::NotFound))?.decode()
        })
        .await
    }

    async fn orphaned(&self, living: &[SessionId], limit: u32) -> StoreResult<Vec<Generation>> {
        let living = living.to_vec();
        self.read(move |db| {
            let sql =
                format!("SELECT {COLUMNS} FROM generations WHERE NOT finished ORDER BY created_ms, num");
            let mut statement = db.prepare_cached(&sql)?;
            let rows = statement.query_map([], RawGeneration::read)?;
            // Few run at any time, and most of those here.
            let orphaned = rows.filter(|raw| {
                raw.as_ref().map_or(true, |raw| !living.contains(&SessionId::from_bytes(raw.owner)))
            });
            orphaned.take(limit as usize).map(|raw| raw?.decode()).collect()
        })
        .await
    }

    async fn adopt(&self, id: GenerationId, from: SessionId, owner: SessionId) -> StoreResult<bool> {
        self.write(SMALL, move |db| {
            let sql = "UPDATE generations SET owner = ?3 WHERE id = ?1 AND owner = ?2 AND NOT finished";
            let adopted = params![id.as_bytes(), from.as_bytes(), owner.as_bytes()];
            Ok(db.prepare_cached(sql)?.execute(adopted)? > 0)
        })
        .await
    }

    async fn forget_generations(&self, before_ms: u64, limit: u32) -> StoreResult<u32> {
        let finished = Forgettable {
            find: "SELECT num, length(request) + coalesce(length(outcome), 0) FROM generations
                WHERE finished AND created_ms < ?1 ORDER BY created_ms",
            delete: "DELETE FROM generations WHERE num = ?1",
        };
        self.forget(finished, before_ms, limit).await
    }
}

fn put(db: &Connection, generation: &Generation) -> Result<(), Fault> {
    let sql = "INSERT INTO generations(id, tenant, created_ms, request, outcome, finished, owner)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
        ON CONFLICT (id) DO UPDATE SET created_ms = ?3, request = ?4, outcome = ?5, finished = ?6, owner = ?7
        WHERE tenant = ?2 AND NOT finished";
    let changed = db.prepare_cached(sql)?.execute(params![
        generation.id.as_bytes(),
        generation.tenant.as_str(),
        int(generation.created_ms),
        &generation.request[..],
        generation.outcome.as_deref(),
        generation.outcome.is_some(),
        generation.owner.as_bytes(),
    ])?;
    if changed > 0 {
        return Ok(());
    }
    let sql = "SELECT tenant = ?2 FROM generations WHERE id = ?1";
    let known = params![generation.id.as_bytes(), generation.tenant.as_str()];
    if db.prepare_cached(sql)?.query_row(known, |row| row.get(0))? {
        Ok(())
    } else {
        Err(Fault::Store(StoreError::NotFound))
    }
}

/// What a generation is read from.
pub(crate) const COLUMNS: &str = "id, tenant, created_ms, request, outcome, owner";

/// A generation as its row has it.
pub(crate) struct RawGeneration {
    id: [u8; 16],
    tenant: String,
    created_ms: u64,
    request: Vec<u8>,
    outcome: Option<Vec<u8>>,
    owner: [u8; 16],
}

impl RawGeneration {
    /// Of a row of [`COLUMNS`].
    pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            tenant: row.get(1)?,
            created_ms: row.get(2)?,
            request: row.get(3)?,
            outcome: row.get(4)?,
            owner: row.get(5)?,
        })
    }

    /// The generation.
    pub(crate) fn decode(self) -> Result<Generation, Fault> {
        Ok(Generation {
            id: GenerationId::from_bytes(self.id),
            tenant: parse_tenant(&self.tenant)?,
            request: self.request.into(),
            outcome: self.outcome.map(Bytes::from),
            created_ms: self.created_ms,
            owner: SessionId::from_bytes(self.owner),
        })
    }
}
