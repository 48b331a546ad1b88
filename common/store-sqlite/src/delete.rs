//! Deleting a batch in bounded steps: marked first, so that nobody sees half of one; its own row last.
//!
//! What is deleted is overwritten page by page, so a step is bounded in bytes too: the writer must not stand still for as long as a
//! session may be silent. A deletion that a crash cut short is taken up again by the writer thread after the next start.

use promptmill_domain::{BatchId, BatchSpec, TenantId};
use promptmill_ports::{StoreError, StoreResult};
use rusqlite::{Connection, OptionalExtension as _, Params, params};

use crate::SqliteStore;
use crate::batches::{BatchNum, Phase, from_json, int};
use crate::fault::Fault;
use crate::{deliveries, replies, uploads, usage};

/// Records deleted in one step.
const RECORDS: usize = 1_000;
/// Blocks of rows removed in one step.
const BLOCKS: usize = 64;
/// Bytes removed in one step, and about what it adds to its group: little else should stand in it.
pub(crate) const STEP_BYTES: usize = 4 * 1024 * 1024;

/// What a step may still remove. Its first record always fits.
#[derive(Debug)]
pub(crate) struct Room {
    records: usize,
    bytes: u64,
    fresh: bool,
}

impl Room {
    /// Of a step that removes blocks of rows.
    pub(crate) const fn blocks() -> Self {
        Self::records(BLOCKS)
    }

    /// Of a step that removes so many records at most.
    pub(crate) const fn records(records: usize) -> Self {
        Self { records, bytes: STEP_BYTES as u64, fresh: true }
    }

    fn take(&mut self, bytes: u64) -> bool {
        let fits = self.records > 0 && (self.fresh || bytes <= self.bytes);
        if fits {
            self.records -= 1;
            self.bytes = self.bytes.saturating_sub(bytes);
            self.fresh = false;
        }
        fits
    }
}

/// The records that a query gives as key and bytes, as far as there is room for them, and whether those are all.
pub(crate) fn some(
    db: &Connection,
    sql: &str,
    values: impl Params,
    room: &mut Room,
) -> Result<(Vec<(i64, u64)>, bool), Fault> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, bytes) = (row.get(0)?, row.get(1)?);
        if !room.take(bytes) {
            return Ok((found, false));
        }
        found.push((id, bytes));
    }
    Ok((found, true))
}

/// Records that are forgotten when they are old.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forgettable {
    /// Gives those from before `?1` as key and bytes, oldest first.
    pub(crate) find: &'static str,
    /// Deletes the one with the key `?1`.
    pub(crate) delete: &'static str,
}

impl SqliteStore {
    /// Forgets up to `limit` records from before `before_ms`, in as many steps as that takes. Answers how many.
    pub(crate) async fn forget(&self, what: Forgettable, before_ms: u64, limit: u32) -> StoreResult<u32> {
        let mut forgotten = 0;
        while forgotten < limit {
            let room = (limit - forgotten) as usize;
            let (records, last) =
                self.write(STEP_BYTES, move |db| forget_some(db, what, before_ms, room)).await?;
            forgotten += records;
            if last {
                break;
            }
        }
        Ok(forgotten)
    }
}

/// One step of forgetting; answers how many, and whether there are no more.
fn forget_some(
    db: &Connection,
    what: Forgettable,
    before_ms: u64,
    limit: usize,
) -> Result<(u32, bool), Fault> {
    let (found, last) = some(db, what.find, [int(before_ms)], &mut Room::records(limit.min(RECORDS)))?;
    let mut delete = db.prepare_cached(what.delete)?;
    for (id, _) in &found {
        delete.execute([id])?;
    }
    Ok((u32::try_from(found.len()).unwrap_or(u32::MAX), last))
}

/// Marks the batch as being deleted, or finds it so marked.
///
/// # Errors
/// `NotFound`, or `Conflict` when it is neither a draft nor final.
pub(crate) fn mark(db: &Connection, tenant: &TenantId, batch: BatchId) -> Result<BatchNum, Fault> {
    let sql = "SELECT num, phase FROM batches WHERE id = ?1 AND tenant = ?2";
    let known = params![batch.as_bytes(), tenant.as_str()];
    let found = db
        .prepare_cached(sql)?
        .query_row(known, |row| Ok((BatchNum(row.get(0)?), row.get::<_, i64>(1)?)))
        .optional()?;
    let Some((num, phase)) = found else {
        return Err(Fault::Store(StoreError::NotFound));
    };
    if phase == Phase::Open as i64 {
        return Err(Fault::conflict("a batch that is not final cannot be deleted; cancel it first"));
    }
    if phase != Phase::Deleting as i64 {
        // The key may make another batch from now on.
        let sql = "UPDATE batches SET phase = ?2, idem_key = NULL WHERE num = ?1";
        db.prepare_cached(sql)?.execute(params![num.0, Phase::Deleting as i64])?;
        forget_listing(db, tenant, batch, num)?;
    }
    Ok(num)
}

/// Takes a batch off the lists by label, and forgets what nobody can be told any more.
fn forget_listing(db: &Connection, tenant: &TenantId, batch: BatchId, num: BatchNum) -> Result<(), Fault> {
    let sql = "SELECT spec FROM batches WHERE num = ?1";
    let spec: String = db.prepare_cached(sql)?.query_row([num.0], |row| row.get(0))?;
    let spec: BatchSpec = from_json(&spec, "batch spec")?;
    let mut label = db.prepare_cached(
        "DELETE FROM batch_labels WHERE tenant = ?1 AND key = ?2 AND value = ?3 AND id = ?4",
    )?;
    for (key, value) in &spec.labels {
        label.execute(params![tenant.as_str(), key, value, batch.as_bytes()])?;
    }
    db.prepare_cached("DELETE FROM outbox WHERE num = ?1")?.execute([num.0])?;
    Ok(())
}

/// Deletes some of a marked batch; answers whether all of it is gone.
pub(crate) fn step(db: &Connection, num: BatchNum) -> Result<bool, Fault> {
    let (first, last) = num.range();
    let sql = "SELECT id, length(body) FROM outcomes WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
    let (outcomes, all) = some(db, sql, [first, last], &mut Room::records(RECORDS))?;
    if let Some((until, _)) = outcomes.last() {
        db.prepare_cached("DELETE FROM outcomes WHERE id BETWEEN ?1 AND ?2")?.execute([first, *until])?;
        usage::remove_bytes(db, num, outcomes.iter().map(|(_, bytes)| bytes).sum())?;
    }
    if !all {
        return Ok(false);
    }
    let mut room = RECORDS.saturating_sub(outcomes.len());
    for table in ["settled", "heads"] {
        let sql = format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE id BETWEEN ?1 AND ?2 LIMIT ?3)"
        );
        room -= db.prepare_cached(&sql)?.execute(params![first, last, room])?.min(room);
        if room == 0 {
            return Ok(false);
        }
    }
    if !uploads::remove_some(db, num)? {
        return Ok(false);
    }
    if !replies::remove_some(db, num)? {
        return Ok(false);
    }
    let sql = "DELETE FROM uploads WHERE num = ?1 AND upload IN (SELECT upload FROM uploads WHERE num = ?1 LIMIT ?2)";
    if db.prepare_cached(sql)?.execute(params![num.0, RECORDS])? == RECORDS {
        return Ok(false);
    }
    let sql = "DELETE FROM parts WHERE num = ?1 AND part IN (SELECT part FROM parts WHERE num = ?1 LIMIT ?2)";
    if db.prepare_cached(sql)?.execute(params![num.0, RECORDS])? == RECORDS {
        return Ok(false);
    }
    if deliveries::forget_batch(db, num, RECORDS)? == RECORDS {
        return Ok(false);
    }
    db.prepare_cached("DELETE FROM batches WHERE num = ?1 AND phase = 3")?.execute([num.0])?;
    Ok(true)
}

/// Batches whose deletion was begun and not finished.
pub(crate) fn leftovers(db: &Connection) -> Result<Vec<BatchNum>, Fault> {
    let mut statement = db.prepare_cached("SELECT num FROM batches WHERE phase = 3")?;
    let nums = statement.query_map([], |row| row.get(0).map(BatchNum))?;
    Ok(nums.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    const MIB: usize = 1024 * 1024;
    const NUM: BatchNum = BatchNum(1);

    fn database() -> Connection {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        db
    }

    #[test]
    fn a_step_removes_bodies_and_rows_as_far_as_its_bytes_go() {
        let db = database();
        let left = |table: &str| {
            db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, u32>(0)).unwrap()
        };
        for (index, bytes) in [(0, 5 * MIB), (1, 3 * MIB), (2, MIB), (3, 0), (4, 3 * MIB)] {
            let sql = "INSERT INTO outcomes(id, code, body) VALUES (?1, 1, zeroblob(?2))";
            db.execute(sql, params![NUM.key(index), bytes]).unwrap();
            let sql = "INSERT INTO row_blocks(num, upload, seq, len, bytes) VALUES (?1, x'02', ?2, 1, zeroblob(?3))";
            db.execute(sql, params![NUM.0, index, bytes]).unwrap();
        }
        let mut steps = Vec::new();
        while !step(&db, NUM).unwrap() {
            steps.push((left("outcomes"), left("row_blocks")));
        }
        // One that is larger than a step goes alone; the last outcome shares its step with the first block.
        assert_eq!(steps, [(4, 5), (1, 5), (0, 4), (0, 1)]);
        assert_eq!(left("row_blocks"), 0);
    }

    #[test]
    fn a_step_of_forgetting_is_bounded_by_bytes_and_by_records() {
        let db = database();
        for n in 0..6 {
            let sql = "INSERT INTO claims(tenant, key, created_ms, fingerprint, plan, owner, body)
                VALUES ('acme', ?1, ?1, x'', x'', x'', zeroblob(?2))";
            db.execute(sql, params![n, if n == 2 { 4 * MIB } else { 8 }]).unwrap();
        }
        let old = Forgettable {
            find: "SELECT id, coalesce(length(body), 0) FROM claims WHERE created_ms < ?1 ORDER BY created_ms",
            delete: "DELETE FROM claims WHERE id = ?1",
        };
        let step = |limit| forget_some(&db, old, 5, limit).unwrap();
        assert_eq!(step(10), (2, false));
        assert_eq!(step(10), (1, false));
        assert_eq!(step(1), (1, false));
        assert_eq!(step(10), (1, true));
        assert_eq!(step(10), (0, true));
    }
}
