//! Uploads: they live while blocks come in, become a part, or are given up and take no more.
//!
//! An upload that is given up is marked first and loses its blocks in bounded steps; what is left of it until its batch goes is a
//! record without blocks, so that a slow sender cannot bring it back.

use promptmill_domain::{BatchId, TenantId, UploadId};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::batches::{self, BatchNum, int};
use crate::delete::{self, Room};
use crate::fault::Fault;
use crate::usage;

/// Uploads looked at in one step.
const UPLOADS: u32 = 64;

/// `uploads.state`. Numbers from [`DROPPED`] on are of uploads that were given up.
const LIVE: i64 = 0;
/// A part names it.
const PART: i64 = 1;
/// Given up; it may still have blocks.
const DROPPED: i64 = 2;
/// Given up, and without blocks.
const GONE: i64 = 3;

/// Notes a sign of life of an upload, which may be its first.
///
/// # Errors
/// `Conflict` when it was given up.
pub(crate) fn touch(db: &Connection, num: BatchNum, upload: UploadId, now_ms: u64) -> Result<(), Fault> {
    let sql = "INSERT INTO uploads(num, upload, state, touched_ms) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO UPDATE SET touched_ms = max(touched_ms, excluded.touched_ms) WHERE state < ?5";
    let known = params![num.0, upload.as_bytes(), LIVE, int(now_ms), DROPPED];
    if db.prepare_cached(sql)?.execute(known)? == 1 { Ok(()) } else { Err(given_up()) }
}

/// Notes that a part names the upload.
///
/// # Errors
/// `Conflict` when it was given up.
pub(crate) fn become_part(db: &Connection, num: BatchNum, upload: UploadId) -> Result<(), Fault> {
    let sql = "INSERT INTO uploads(num, upload, state, touched_ms) VALUES (?1, ?2, ?3, 0)
        ON CONFLICT DO UPDATE SET state = excluded.state WHERE state < ?4";
    let known = params![num.0, upload.as_bytes(), PART, DROPPED];
    if db.prepare_cached(sql)?.execute(known)? == 1 { Ok(()) } else { Err(given_up()) }
}

fn given_up() -> Fault {
    Fault::conflict("the upload was given up")
}

/// Gives the upload up, whether it is known yet or not, and removes some of its blocks; one that a part names stays as it is.
/// Answers whether nothing is left to do.
pub(crate) fn give_up(db: &Connection, num: BatchNum, upload: UploadId) -> Result<bool, Fault> {
    let sql = "SELECT EXISTS (SELECT 1 FROM parts WHERE num = ?1 AND upload = ?2)";
    if db.prepare_cached(sql)?.query_row(params![num.0, upload.as_bytes()], |row| row.get(0))? {
        return Ok(true);
    }
    let sql = "INSERT INTO uploads(num, upload, state, touched_ms) VALUES (?1, ?2, ?3, 0)
        ON CONFLICT DO UPDATE SET state = excluded.state WHERE state < excluded.state";
    db.prepare_cached(sql)?.execute(params![num.0, upload.as_bytes(), DROPPED])?;
    clear(db, num, upload, &mut Room::blocks()).map(|(_, empty)| empty)
}

/// One step of dropping an upload of this tenant's batch; answers whether it was the last.
///
/// # Errors
/// `NotFound` when there is no such batch.
pub(crate) fn drop_some(
    db: &Connection,
    tenant: &TenantId,
    batch: BatchId,
    upload: UploadId,
) -> Result<bool, Fault> {
    give_up(db, batches::owned(db, tenant, batch)?.num, upload)
}

/// One step of dropping what was given up before and what took no block since `before_ms`. Answers how many blocks were removed,
/// and whether it was the last step.
pub(crate) fn drop_stale(db: &Connection, before_ms: u64) -> Result<(u32, bool), Fault> {
    let mut removed = 0;
    let mut room = Room::blocks();
    for _ in 0..UPLOADS {
        let Some((num, upload)) = next_stale(db, before_ms)? else {
            return Ok((removed, true));
        };
        let sql = "UPDATE uploads SET state = ?3 WHERE num = ?1 AND upload = ?2";
        db.prepare_cached(sql)?.execute(params![num.0, upload.as_bytes(), DROPPED])?;
        let (blocks, empty) = clear(db, num, upload, &mut room)?;
        removed += blocks;
        if !empty {
            break;
        }
    }
    Ok((removed, false))
}

fn next_stale(db: &Connection, before_ms: u64) -> Result<Option<(BatchNum, UploadId)>, Fault> {
    let sql =
        "SELECT num, upload FROM uploads WHERE state = ?1 AND touched_ms < ?2 ORDER BY touched_ms LIMIT 1";
    let mut statement = db.prepare_cached(sql)?;
    for (state, before) in [(DROPPED, i64::MAX), (LIVE, int(before_ms))] {
        let read = |row: &rusqlite::Row<'_>| Ok((BatchNum(row.get(0)?), UploadId::from_bytes(row.get(1)?)));
        if let Some(found) = statement.query_row(params![state, before], read).optional()? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Removes blocks of an upload that was given up, as many as there is room for, and notes when none is left. Answers how many, and
/// whether none is left.
fn clear(db: &Connection, num: BatchNum, upload: UploadId, room: &mut Room) -> Result<(u32, bool), Fault> {
    let sql = "SELECT id, length(bytes) FROM row_blocks WHERE num = ?1 AND upload = ?2";
    let (blocks, empty) = delete::some(db, sql, params![num.0, upload.as_bytes()], room)?;
    remove_blocks(db, num, &blocks)?;
    if empty {
        let sql = "UPDATE uploads SET state = ?3 WHERE num = ?1 AND upload = ?2";
        db.prepare_cached(sql)?.execute(params![num.0, upload.as_bytes(), GONE])?;
    }
    Ok((u32::try_from(blocks.len()).unwrap_or(u32::MAX), empty))
}

/// Removes some blocks of any upload of the batch; answers whether none is left.
pub(crate) fn remove_some(db: &Connection, num: BatchNum) -> Result<bool, Fault> {
    let sql = "SELECT id, length(bytes) FROM row_blocks WHERE num = ?1";
    let (blocks, empty) = delete::some(db, sql, [num.0], &mut Room::blocks())?;
    remove_blocks(db, num, &blocks)?;
    Ok(empty)
}

fn remove_blocks(db: &Connection, num: BatchNum, blocks: &[(i64, u64)]) -> Result<(), Fault> {
    let mut block = db.prepare_cached("DELETE FROM row_blocks WHERE id = ?1")?;
    let mut ids = db.prepare_cached("DELETE FROM row_ids WHERE id = ?1")?;
    for (id, _) in blocks {
        block.execute([id])?;
        ids.execute([id])?;
    }
    usage::remove_bytes(db, num, blocks.iter().map(|(_, bytes)| bytes).sum())
}
