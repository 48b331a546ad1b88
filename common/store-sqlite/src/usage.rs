//! What a tenant has used: rows submitted by day, and the bytes of what it has stored. Those of records are kept by triggers.

use promptmill_domain::TenantId;
use promptmill_ports::Usage;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::batches::{BatchNum, int};
use crate::fault::Fault;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// What the tenant has used.
pub(crate) fn of(db: &Connection, tenant: &TenantId, now_ms: u64) -> Result<Usage, Fault> {
    let sql = "SELECT rows FROM submitted_rows WHERE tenant = ?1 AND day = ?2";
    let day = params![tenant.as_str(), int(now_ms / DAY_MS)];
    let rows = db.prepare_cached(sql)?.query_row(day, |row| row.get(0)).optional()?;
    let sql = "SELECT bytes, records FROM stored_bytes WHERE tenant = ?1";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let stored = db.prepare_cached(sql)?.query_row([tenant.as_str()], read).optional()?;
    let (bytes, record_bytes) = stored.unwrap_or((0, 0));
    Ok(Usage { rows: rows.unwrap_or(0), bytes, record_bytes })
}

/// Counts rows that were submitted now.
pub(crate) fn add_rows(db: &Connection, tenant: &TenantId, rows: u32, now_ms: u64) -> Result<(), Fault> {
    let sql = "INSERT INTO submitted_rows(tenant, day, rows) VALUES (?1, ?2, ?3)
        ON CONFLICT DO UPDATE SET rows = rows + excluded.rows";
    db.prepare_cached(sql)?.execute(params![tenant.as_str(), int(now_ms / DAY_MS), rows])?;
    Ok(())
}

/// Counts bytes of rows or outcomes that were stored.
pub(crate) fn add_bytes(db: &Connection, tenant: &TenantId, bytes: u64) -> Result<(), Fault> {
    if bytes == 0 {
        return Ok(());
    }
    let sql = "INSERT INTO stored_bytes(tenant, bytes) VALUES (?1, ?2)
        ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes";
    db.prepare_cached(sql)?.execute(params![tenant.as_str(), int(bytes)])?;
    Ok(())
}

/// Counts bytes of the batch's rows or outcomes that were removed.
pub(crate) fn remove_bytes(db: &Connection, num: BatchNum, bytes: u64) -> Result<(), Fault> {
    let sql = "UPDATE stored_bytes SET bytes = max(bytes - ?2, 0) WHERE tenant = (SELECT tenant FROM batches WHERE num = ?1)";
    db.prepare_cached(sql)?.execute(params![num.0, int(bytes)])?;
    Ok(())
}
