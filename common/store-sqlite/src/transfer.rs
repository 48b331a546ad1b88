//! `Transfer`: what an export reads and an import writes beyond the engine's steps.

use async_trait::async_trait;
use promptmill_domain::{BatchId, Event, GenerationId, Head, TenantId};
use promptmill_ports::{Beside, Claim, Generation, KeptClaim, PageLimit, StoreError, StoreResult, Transfer};
use rusqlite::{Connection, Row, params};

use crate::SqliteStore;
use crate::batches::{self, from_json, int, to_json};
use crate::claims::Earlier;
use crate::fault::Fault;
use crate::generations::{COLUMNS, RawGeneration};
use crate::{heads, order};

/// About what a step of these costs in a group.
const SMALL: usize = 512;
/// The key in `meta` of a store that is being filled.
const IMPORT: &str = "import";

#[async_trait]
impl Transfer for SqliteStore {
    async fn beside(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Beside> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let num = batches::owned(db, &tenant, batch)?.num;
            let sql = "SELECT idem_key FROM batches WHERE num = ?1";
            let idem_key = db.prepare_cached(sql)?.query_row([num.0], |row| row.get(0))?;
            let mut events = db.prepare_cached("SELECT event FROM outbox WHERE num = ?1 ORDER BY seq")?;
            let events = events.query_map([num.0], |row| row.get::<_, String>(0))?;
            let events =
                events.map(|json| from_json(&json?, "an event")).collect::<Result<Vec<_>, Fault>>()?;
            Ok(Beside { idem_key, events })
        })
        .await
    }

    async fn heads(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        after: Option<u32>,
        limit: u32,
    ) -> StoreResult<Vec<Head>> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let num = batches::owned(db, &tenant, batch)?.num;
            let behind = after.map_or(num.range().0 - 1, |n| num.key(n));
            let mut keys =
                db.prepare_cached("SELECT id FROM heads WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3")?;
            let keys = keys.query_map(params![behind, num.range().1, limit], |row| row.get::<_, i64>(0))?;
            let mut found = Vec::new();
            for key in keys {
                found.extend(heads::load(db, key?)?);
            }
            Ok(found)
        })
        .await
    }

    async fn claims(
        &self,
        tenant: &TenantId,
        after: Option<&str>,
        limit: PageLimit,
    ) -> StoreResult<Vec<KeptClaim>> {
        let (tenant, after) = (tenant.clone(), after.unwrap_or_default().to_owned());
        self.read(move |db| {
            // No key is empty, so all of them stand behind the empty text.
            let sql = "SELECT fingerprint, plan, owner, status, headers, body, key, created_ms FROM claims
                WHERE tenant = ?1 AND key > ?2 ORDER BY key";
            let mut statement = db.prepare_cached(sql)?;
            let claims = statement.query_map(params![tenant.as_str(), after], RawClaim::read)?;
            page(claims.map(|raw| raw?.decode(&tenant)), limit, KeptClaim::size)
        })
        .await
    }

    async fn generations(
        &self,
        tenant: &TenantId,
        after: Option<GenerationId>,
        limit: PageLimit,
    ) -> StoreResult<Vec<Generation>> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = format!("SELECT {COLUMNS} FROM generations WHERE id > ?1 AND tenant = ?2 ORDER BY id");
            let after = after.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
            let mut statement = db.prepare_cached(&sql)?;
            let generations = statement.query_map(params![after, tenant.as_str()], RawGeneration::read)?;
            page(generations.map(|raw| raw?.decode()), limit, Generation::size)
        })
        .await
    }

    async fn stamp(&self, tenant: &TenantId, batch: BatchId, ver: u64, events: &[Event]) -> StoreResult<()> {
        let (tenant, events) = (tenant.clone(), events.to_vec());
        self.write(SMALL * (events.len() + 1), move |db| {
            let num = batches::owned(db, &tenant, batch)?.num;
            let sql = "UPDATE batches SET ver = ?2 WHERE num = ?1";
            db.prepare_cached(sql)?.execute(params![num.0, int(ver)])?;
            db.prepare_cached("DELETE FROM outbox WHERE num = ?1")?.execute([num.0])?;
            let mut insert = db.prepare_cached("INSERT INTO outbox(id, num, event) VALUES (?1, ?2, ?3)")?;
            for event in &events {
                insert.execute(params![event.id.as_bytes(), num.0, to_json(event)])?;
            }
            Ok(())
        })
        .await
    }

    async fn begin_import(&self) -> StoreResult<()> {
        self.write(SMALL, |db| {
            check_import(db)?;
            let sql = "SELECT EXISTS (SELECT 1 FROM tenants) OR EXISTS (SELECT 1 FROM batches)
                OR EXISTS (SELECT 1 FROM templates) OR EXISTS (SELECT 1 FROM generations)";
            if db.prepare_cached(sql)?.query_row([], |row| row.get(0))? {
                return Err(Fault::conflict("the store is not empty"));
            }
            db.prepare_cached("INSERT INTO meta VALUES (?1, 1)")?.execute([IMPORT])?;
            Ok(())
        })
        .await
    }

    async fn end_import(&self, epoch: u16) -> StoreResult<()> {
        self.write(SMALL, move |db| {
            order::begin_epoch(db, epoch)?;
            db.prepare_cached("DELETE FROM meta WHERE key = ?1")?.execute([IMPORT])?;
            Ok(())
        })
        .await
    }
}

/// That the store is none that an import was to fill and did not.
pub(crate) fn check_import(db: &Connection) -> Result<(), Fault> {
    let sql = "SELECT EXISTS (SELECT 1 FROM meta WHERE key = ?1)";
    if db.prepare_cached(sql)?.query_row([IMPORT], |row| row.get(0))? {
        return Err(Fault::Store(StoreError::unfinished_import()));
    }
    Ok(())
}

/// As many of the records as `limit` allows, and at least one.
fn page<T>(
    records: impl Iterator<Item = Result<T, Fault>>,
    limit: PageLimit,
    size: impl Fn(&T) -> usize,
) -> Result<Vec<T>, Fault> {
    let (mut page, mut bytes) = (Vec::new(), 0_usize);
    for record in records.take(limit.items as usize) {
        let record = record?;
        bytes = bytes.saturating_add(size(&record));
        if !page.is_empty() && bytes > limit.bytes {
            break;
        }
        page.push(record);
    }
    Ok(page)
}

struct RawClaim {
    earlier: Earlier,
    key: String,
    created_ms: u64,
}

impl RawClaim {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { earlier: Earlier::read(row)?, key: row.get(6)?, created_ms: row.get(7)? })
    }

    fn decode(self, tenant: &TenantId) -> Result<KeptClaim, Fault> {
        let Earlier { fingerprint, plan, owner, .. } = self.earlier;
        let answer = self.earlier.answer()?;
        let claim = Claim { tenant: tenant.clone(), key: self.key, fingerprint, plan, owner };
        Ok(KeptClaim { claim, created_ms: self.created_ms, answer })
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use crate::schema;

    /// What an archive takes.
    const TAKEN: &[&str] = &[
        "api_keys",
        "batch_labels",
        "batches",
        "claims",
        "deliveries",
        "generations",
        "endpoints",
        "heads",
        "outbox",
        "outcomes",
        "parts",
        "row_blocks",
        "row_ids",
        "row_sets",
        "schedules",
        "set_blocks",
        "set_uploads",
        "template_labels",
        "template_versions",
        "templates",
        "tenants",
        "ticks",
    ];
    /// What it does not: of the store alone, of processes, of uploads under way, an order that is made anew, sums that follow or begin anew, what lanes
    /// learn again, and replies that are there to save calls.
    const LEFT: &[&str] = &[
        "budgets",
        "lanes",
        "meta",
        "replies",
        "sessions",
        "settled",
        "sqlite_sequence",
        "stored_bytes",
        "submitted_rows",
        "uploads",
    ];

    #[test]
    fn every_table_is_one_that_an_archive_takes_or_that_it_leaves_for_a_reason() {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        let mut tables =
            db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
        let tables: Vec<String> =
            tables.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        let mut known = [TAKEN, LEFT].concat();
        known.sort_unstable();
        assert_eq!(tables, known);
    }
}
