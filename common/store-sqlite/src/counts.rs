//! Counting a batch's items from its heads: one pass over the rows that decodes nothing it does not count.
//!
//! The rules are those of `Counts::add` in the domain, applied to all heads at once; the conformance suite holds the two together.

use promptmill_domain::{Counts, FailureKind, ItemCode};
use rusqlite::Connection;

use crate::batches::BatchNum;
use crate::fault::Fault;
use crate::heads::{self, LEASED, PARKED};

/// Counts of a batch, and how many of its chunks are not final.
pub(crate) fn count(db: &Connection, num: BatchNum) -> Result<(Counts, u32), Fault> {
    let sql = "SELECT state, parked_len, calls, prompt_tokens, completion_tokens, cost, cached, done FROM heads WHERE id BETWEEN ?1 AND ?2";
    let (first, last) = num.range();
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([first, last])?;
    let mut counts = Counts::default();
    let mut histogram = [0u64; 256];
    let mut open_chunks = 0;
    while let Some(row) = rows.next()? {
        let state: i64 = row.get(0)?;
        let parked: u64 = row.get(1)?;
        let open_before = histogram[usize::from(ItemCode::Open.byte())];
        for byte in row.get_ref(7)?.as_blob().map_err(rusqlite::Error::from)? {
            histogram[usize::from(*byte)] += 1;
        }
        let open = histogram[usize::from(ItemCode::Open.byte())] - open_before;
        // A chunk that is parked for its lane waits as a whole.
        let waits = if state == PARKED { open } else { parked.min(open) };
        counts.parked += waits;
        if state == LEASED {
            counts.leased += open - waits;
        } else {
            counts.waiting += open - waits;
        }
        counts.totals += heads::read_totals(row, 2)?;
        open_chunks += u32::from(state < heads::DONE);
    }
    for (byte, items) in (0u8..=255).zip(histogram).filter(|(_, items)| *items > 0) {
        match ItemCode::from_byte(byte) {
            Some(ItemCode::Open) => {}
            Some(ItemCode::Succeeded) => counts.succeeded += items,
            Some(ItemCode::Repaired) => counts.repaired += items,
            Some(ItemCode::Failed(kind)) => *counts.failed.entry(kind).or_default() += items,
            Some(ItemCode::Cancelled) => counts.cancelled += items,
            Some(ItemCode::Expired) => counts.expired += items,
            // As in `Counts::add`: a later release wrote it.
            None => *counts.failed.entry(FailureKind::Internal).or_default() += items,
        }
    }
    Ok((counts, open_chunks))
}
