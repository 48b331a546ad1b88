//! The order in which outcomes settled: one record for each change of a head that gave items their outcome.
//!
//! Records of a batch are numbered from 1 in the transaction of the change, and there is one writer, so their order is that of the
//! commits and a reader that saw a number never misses a smaller one. A cursor is the number of a record and how many of its items
//! were given.

use promptmill_domain::ItemCode;
use promptmill_ports::{PageLimit, SettledCursor, SettledPage};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::batches::{BatchNum, low};
use crate::fault::Fault;
use crate::read::{Page, named_body};

/// The key of the epoch in `meta`.
const EPOCH: &str = "epoch";

/// Bytes of one item in `settled.items`: its offset in the chunk, and its code. A chunk has at most 256 items.
const ITEM: usize = 2;

/// Writes down the items of a head whose byte was open `before` and is not open now.
pub(crate) fn record(
    db: &Connection,
    num: BatchNum,
    base: u32,
    before: &[u8],
    now: &[u8],
) -> Result<(), Fault> {
    if before == now {
        return Ok(());
    }
    let open = ItemCode::Open.byte();
    let mut items = Vec::new();
    for ((offset, byte), before) in (0u8..=u8::MAX).zip(now).zip(before) {
        if *before == open && *byte != open {
            items.extend([offset, *byte]);
        }
    }
    if items.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO settled(id, base, items) VALUES (
        coalesce((SELECT id FROM settled WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1), ?1) + 1, ?3, ?4)";
    let (first, last) = num.range();
    db.prepare_cached(sql)?.execute(params![first, last, base, items])?;
    Ok(())
}

/// The outcomes behind a cursor, as far as `limit` allows.
pub(crate) fn page(
    db: &Connection,
    num: BatchNum,
    after: SettledCursor,
    limit: PageLimit,
) -> Result<SettledPage, Fault> {
    let epoch = epoch(db)?;
    let (number, given) = after.place_in(epoch)?;
    let mut page = Page::new(limit);
    let mut cursors = Vec::new();
    let mut caught_up = true;
    let mut groups =
        db.prepare_cached("SELECT id, base, items FROM settled WHERE id BETWEEN ?1 AND ?2 ORDER BY id")?;
    let mut groups = groups.query([num.key(number), num.range().1])?;
    let mut bodies = db.prepare_cached("SELECT id, code, body FROM outcomes WHERE id = ?1")?;
    'full: while let Some(group) = groups.next()? {
        let group_number = low(group.get(0)?);
        let base: u32 = group.get(1)?;
        let items = group.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
        let skipped = if group_number == number { given } else { 0 };
        for (item, position) in items.chunks_exact(ITEM).zip(1u16..) {
            if position <= skipped {
                continue;
            }
            let (index, byte) = (base + u32::from(item[0]), item[1]);
            let key = num.key(index);
            let mut body = bodies.query([key])?;
            let body = match body.next()? {
                Some(row) => named_body(row, key, byte)?,
                None => None,
            };
            if !page.push(index, byte, body) {
                caught_up = false;
                break 'full;
            }
            cursors.push(SettledCursor::at(epoch, group_number, position));
        }
    }
    let next = cursors.last().copied().unwrap_or(after);
    let outcomes = page.outcomes.into_iter().zip(cursors).collect();
    Ok(SettledPage { outcomes, next, caught_up })
}

/// Which order this is: another one after an import.
fn epoch(db: &Connection) -> Result<u16, Fault> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    Ok(db.prepare_cached(sql)?.query_row([EPOCH], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// Makes the order one of this epoch.
pub(crate) fn begin_epoch(db: &Connection, epoch: u16) -> Result<(), Fault> {
    let sql = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    db.prepare_cached(sql)?.execute(params![EPOCH, epoch])?;
    Ok(())
}

/// Writes an order for what settled before orders were written: that of the chunks.
pub(crate) fn backfill(db: &Connection) -> Result<(), Fault> {
    let mut heads = db.prepare("SELECT id, first, done FROM heads ORDER BY id")?;
    let mut heads = heads.query([])?;
    while let Some(head) = heads.next()? {
        let key: i64 = head.get(0)?;
        let done = head.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
        let open = vec![ItemCode::Open.byte(); done.len()];
        record(db, BatchNum::of_key(key), low(head.get(1)?), &open, done)?;
    }
    Ok(())
}
