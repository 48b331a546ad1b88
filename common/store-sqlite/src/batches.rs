//! The batch's row: how it is found, read and changed.
//!
//! Every lookup by id goes through [`find`] or [`owned`], so that a foreign tenant and a batch that is being deleted are
//! the same as no batch.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use promptmill_domain::{Batch, BatchId, BatchState, TenantId};
use promptmill_ports::{BatchPage, PageLimit, StoreError};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::fault::Fault;

/// A batch's number: the upper half of the keys of its heads and outcomes. Never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchNum(pub(crate) i64);

impl BatchNum {
    /// The key of the head or outcome with the number `low` in the batch.
    pub(crate) fn key(self, low: u32) -> i64 {
        (self.0 << 32) | i64::from(low)
    }

    /// The number in a key.
    pub(crate) const fn of_key(key: i64) -> Self {
        Self(key >> 32)
    }

    /// First and last key of the batch.
    pub(crate) fn range(self) -> (i64, i64) {
        (self.key(0), self.key(u32::MAX))
    }
}

/// The lower half of a key.
pub(crate) fn low(key: i64) -> u32 {
    u32::try_from(key & i64::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// `batches.phase`: the state as far as an index needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Rows are coming in.
    Draft = 0,
    /// Neither draft nor final.
    Open = 1,
    /// Final.
    Final = 2,
    /// Being deleted, and gone for everyone but that.
    Deleting = 3,
}

impl Phase {
    /// The phase of a state.
    pub(crate) fn of(state: &BatchState) -> Self {
        match state {
            BatchState::Draft => Self::Draft,
            state if state.is_final() => Self::Final,
            _ => Self::Open,
        }
    }
}

/// What most steps need to know of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Its number.
    pub(crate) num: BatchNum,
    /// Whose it is.
    pub(crate) tenant: TenantId,
    /// Where it stands.
    pub(crate) state: BatchState,
    /// How many rows it has.
    pub(crate) total: u32,
}

/// The batch of any tenant.
pub(crate) fn find(db: &Connection, batch: BatchId) -> Result<Option<Found>, Fault> {
    let sql = "SELECT num, tenant, state, total FROM batches WHERE id = ?1 AND phase <> 3";
    let read = |row: &Row<'_>| {
        Ok((BatchNum(row.get(0)?), row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get(3)?))
    };
    let Some((num, tenant, state, total)) =
        db.prepare_cached(sql)?.query_row([batch.as_bytes()], read).optional()?
    else {
        return Ok(None);
    };
    Ok(Some(Found { num, tenant: parse_tenant(&tenant)?, state: from_json(&state, "batch state")?, total }))
}

/// The batch of this tenant.
///
/// # Errors
/// `NotFound` when there is none.
pub(crate) fn owned(db: &Connection, tenant: &TenantId, batch: BatchId) -> Result<Found, Fault> {
    match find(db, batch)? {
        Some(found) if found.tenant == *tenant => Ok(found),
        Some(_) | None => Err(Fault::Store(StoreError::NotFound)),
    }
}

/// Writes the state and counts the change; answers the version it gave the batch.
pub(crate) fn set_state(db: &Connection, num: BatchNum, state: &BatchState) -> Result<u64, Fault> {
    let sql = "UPDATE batches SET state = ?2, phase = ?3, ver = ver + 1 WHERE num = ?1 RETURNING ver";
    let values = params![num.0, to_json(state), Phase::of(state) as i64];
    Ok(db.prepare_cached(sql)?.query_row(values, |row| row.get(0))?)
}

/// Counts a change for sessions to see.
pub(crate) fn bump_changes(db: &Connection) -> Result<(), Fault> {
    db.prepare_cached("UPDATE meta SET value = value + 1 WHERE key = 'changes'")?.execute([])?;
    Ok(())
}

/// The change counter.
pub(crate) fn changes(db: &Connection) -> Result<u64, Fault> {
    let sql = "SELECT value FROM meta WHERE key = 'changes'";
    Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// The columns a batch is decoded from.
pub(crate) const COLUMNS: &str = "b.id, b.tenant, b.state, b.ver, b.spec, b.limits, b.total, b.created_ms, \
    b.final_counts, b.submitted_ms, b.finished_ms";

/// The whole batch of this tenant.
///
/// # Errors
/// `NotFound` when there is none.
pub(crate) fn load(db: &Connection, tenant: &TenantId, batch: BatchId) -> Result<Batch, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM batches b WHERE id = ?1 AND tenant = ?2 AND phase <> 3");
    let raw = db
        .prepare_cached(&sql)?
        .query_row(params![batch.as_bytes(), tenant.as_str()], RawBatch::read)
        .optional()?;
    raw.ok_or(Fault::Store(StoreError::NotFound))?.decode()
}

/// The open batches as they were decoded last. They are asked for many times a second and seldom change, and every change of what a
/// batch is decoded from gives it another version.
#[derive(Default)]
pub(crate) struct OpenBatches {
    by_num: Mutex<HashMap<i64, Batch>>,
}

impl OpenBatches {
    /// Every batch that is neither draft nor final, oldest first.
    pub(crate) fn load(&self, db: &Connection) -> Result<Vec<Batch>, Fault> {
        let mut by_num = self.by_num.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *by_num);
        let mut versions = db.prepare_cached("SELECT num, ver FROM batches WHERE phase = 1 ORDER BY id")?;
        let mut one = db.prepare_cached(&format!("SELECT {COLUMNS} FROM batches b WHERE num = ?1"))?;
        let mut open = Vec::with_capacity(before.len());
        for version in versions.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u64>(1)?)))? {
            let (num, ver) = version?;
            let batch = match before.remove(&num).filter(|batch| batch.ver == ver) {
                Some(batch) => batch,
                None => one.query_row([num], RawBatch::read)?.decode()?,
            };
            open.push(batch.clone());
            by_num.insert(num, batch);
        }
        Ok(open)
    }
}

/// Those of the batches that are neither draft nor final, oldest first.
pub(crate) fn load_open(db: &Connection, ids: &[BatchId]) -> Result<Vec<Batch>, Fault> {
    let mut open = load_those(db, ids, "phase = 1")?;
    open.sort_by_key(|batch| batch.id);
    Ok(open)
}

/// Those of the batches that are not deleted.
pub(crate) fn load_any(db: &Connection, ids: &[BatchId]) -> Result<Vec<Batch>, Fault> {
    load_those(db, ids, "phase <> 3")
}

fn load_those(db: &Connection, ids: &[BatchId], such: &str) -> Result<Vec<Batch>, Fault> {
    let mut one = db.prepare_cached(&format!("SELECT {COLUMNS} FROM batches b WHERE id = ?1 AND {such}"))?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        if let Some(raw) = one.query_row([id.as_bytes()], RawBatch::read).optional()? {
            found.push(raw.decode()?);
        }
    }
    Ok(found)
}

impl fmt::Debug for OpenBatches {
    /// Shows nothing of the batches, which hold prompts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenBatches").finish_non_exhaustive()
    }
}

/// The batches of a query that selects [`COLUMNS`] of a table called `b`, as far as the limit allows, and whether it gave more.
pub(crate) fn load_page(
    db: &Connection,
    sql: &str,
    values: &[Value],
    limit: PageLimit,
) -> Result<BatchPage, Fault> {
    let mut statement = db.prepare(sql)?;
    let mut page = BatchPage::default();
    let mut bytes = 0_usize;
    for raw in statement.query_map(rusqlite::params_from_iter(values), RawBatch::read)? {
        let raw = raw?;
        bytes = bytes.saturating_add(raw.spec.len());
        let fits = page.batches.is_empty() || bytes <= limit.bytes;
        if page.batches.len() >= limit.items as usize || !fits {
            page.more = true;
            break;
        }
        page.batches.push(raw.decode()?);
    }
    Ok(page)
}

struct RawBatch {
    id: [u8; 16],
    tenant: String,
    state: String,
    ver: u64,
    spec: String,
    limits: String,
    total: u32,
    created_ms: u64,
    final_counts: Option<String>,
    submitted_ms: Option<u64>,
    finished_ms: Option<u64>,
}

impl RawBatch {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            tenant: row.get(1)?,
            state: row.get(2)?,
            ver: row.get(3)?,
            spec: row.get(4)?,
            limits: row.get(5)?,
            total: row.get(6)?,
            created_ms: row.get(7)?,
            final_counts: row.get(8)?,
            submitted_ms: row.get(9)?,
            finished_ms: row.get(10)?,
        })
    }

    fn decode(self) -> Result<Batch, Fault> {
        Ok(Batch {
            id: BatchId::from_bytes(self.id),
            tenant: parse_tenant(&self.tenant)?,
            state: from_json(&self.state, "batch state")?,
            ver: self.ver,
            spec: from_json(&self.spec, "batch spec")?,
            limits: from_json(&self.limits, "batch limits")?,
            total: self.total,
            created_ms: self.created_ms,
            submitted_ms: self.submitted_ms,
            finished_ms: self.finished_ms,
            final_counts: self.final_counts.map(|json| from_json(&json, "final counts")).transpose()?,
        })
    }
}

/// A tenant id read back.
pub(crate) fn parse_tenant(text: &str) -> Result<TenantId, Fault> {
    text.parse().map_err(|_| Fault::corrupt("a tenant id"))
}

/// A value as it is stored.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our records have string keys only and serialise without failing")
}

/// A value read back; `what` names it should it be damaged. The text itself never reaches an error.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(json: &str, what: &str) -> Result<T, Fault> {
    serde_json::from_str(json).map_err(|_| Fault::corrupt(what))
}

/// An unsigned number as SQLite keeps it; what is beyond the signed range is cut to its end.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
