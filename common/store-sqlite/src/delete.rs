//! Deleting a batch in bounded steps: marked first, so that nobody sees half of one; its own row last.
//!
//! A deletion that a crash cut short is taken up again by the writer thread after the next start.

use promptmill_domain::{BatchId, BatchSpec, TenantId};
use promptmill_ports::StoreError;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::batches::{BatchNum, Phase, from_json};
use crate::fault::Fault;
use crate::{deliveries, uploads};

/// Records deleted in one step.
const RECORDS: usize = 1_000;
/// About what a step adds to its group: little else should stand in it.
pub(crate) const STEP_BYTES: usize = 4 * 1024 * 1024;

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
    let mut room = RECORDS;
    for table in ["outcomes", "settled", "heads"] {
        let sql = format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE id BETWEEN ?1 AND ?2 LIMIT ?3)"
        );
        room -= db.prepare_cached(&sql)?.execute(params![first, last, room])?.min(room);
        if room == 0 {
            return Ok(false);
        }
    }
    if uploads::remove_some(db, num)? == uploads::BLOCKS {
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
