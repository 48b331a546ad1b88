//! Rows out of one batch into another: those of the items that match, in the order of their index.
//!
//! [`gather`] reads them from the store, [`repack`] packs them on a blocking thread, with a short channel between.

use bytes::Bytes;
use promptmill_domain::{Batch, ItemFilter};
use promptmill_ports::{BlockRow, PageLimit, Read, RowBlock, StoreResult};
use promptmill_prompt::Template;
use promptmill_rowio::{StoredRow, decode_range};
use tokio::sync::mpsc;

use crate::pack::{Packer, Taken};
use crate::recheck::rechecked;
use crate::refused::{BadRows, Broken, Refused};

/// Outcomes that are read in one step.
const PAGE: PageLimit = PageLimit { items: 4_096, bytes: 4 << 20 };

/// Chunks of rows on their way to be packed.
const CHUNKS_IN_FLIGHT: usize = 4;

/// Stored rows on their way to be packed.
pub enum Picked {
    /// Rows of one block, by position, with the index each has in the batch it comes from.
    Rows {
        /// The block.
        block: Bytes,
        /// Positions in the block and indexes in the batch, ascending.
        rows: Vec<(usize, u32)>,
    },
    /// There are no more. A channel that closes without this was cut.
    End,
}

/// A channel from [`gather`] to [`repack`].
pub fn channel() -> (mpsc::Sender<Picked>, mpsc::Receiver<Picked>) {
    mpsc::channel(CHUNKS_IN_FLIGHT)
}

/// Reads the rows of every item of a final batch that matches, in the order of their index.
///
/// # Errors
/// Those of the store.
pub async fn gather(
    store: &(impl Read + ?Sized),
    source: &Batch,
    filter: &ItemFilter,
    to: mpsc::Sender<Picked>,
) -> StoreResult<()> {
    let tenant = &source.tenant;
    let mut from = Some(0);
    let mut chunk: Option<(BlockRow, Vec<(usize, u32)>)> = None;
    while let Some(begin) = from {
        let page = store.outcomes(tenant, source.id, begin, PAGE).await?;
        for outcome in page.outcomes.iter().filter(|outcome| filter.matches(outcome.code)) {
            let index = outcome.index;
            let holds = |row: &BlockRow| (row.base..row.base + row.len).contains(&index);
            if !chunk.as_ref().is_some_and(|(row, _)| holds(row)) {
                let next = store.rows(tenant, source.id, index).await?;
                if let Some((row, rows)) = chunk.replace((next, Vec::new()))
                    && to.send(Picked::Rows { block: row.bytes, rows }).await.is_err()
                {
                    // Whoever packs them knows why it wants no more.
                    return Ok(());
                }
            }
            if let Some((row, rows)) = &mut chunk {
                rows.push(((row.rows.skip + (index - row.base)) as usize, index));
            }
        }
        from = page.next;
    }
    if let Some((row, rows)) = chunk {
        let _ = to.send(Picked::Rows { block: row.bytes, rows }).await;
    }
    let _ = to.send(Picked::End).await;
    Ok(())
}

/// Packs rows anew, checked against `recheck` where that is another template than they were checked against. `keep` takes a full block and answers whether
/// anyone still wants blocks. Blocks the thread.
///
/// # Errors
/// Rows that do not fit, or cannot be read.
pub fn repack(
    mut from: mpsc::Receiver<Picked>,
    recheck: Option<&Template>,
    mut keep: impl FnMut(RowBlock) -> bool,
) -> Result<Taken, Refused> {
    let mut packer = Packer::default();
    let mut bad = BadRows::default();
    loop {
        match from.blocking_recv() {
            None => return Err(Refused::Broken(Broken::Cut)),
            Some(Picked::End) => break,
            Some(Picked::Rows { block, rows }) => {
                for (row, index) in read(&block, &rows)? {
                    bad.rows += 1;
                    let row = match recheck {
                        Some(template) => rechecked(template, row),
                        None => Ok(row),
                    };
                    match row {
                        Err(problems) => bad.add(u64::from(index), problems),
                        Ok(row) if bad.bad == 0 => {
                            if packer.push(&row).is_some_and(|block| !keep(block)) {
                                return Err(Refused::Unwanted);
                            }
                        }
                        Ok(_) => {}
                    }
                }
            }
        }
    }
    if bad.bad > 0 {
        return Err(Refused::Rows(bad));
    }
    let (last, taken) = packer.finish();
    if last.is_some_and(|block| !keep(block)) {
        return Err(Refused::Unwanted);
    }
    Ok(taken)
}

/// The rows of a block at these positions, the first and the last of them told by the ends of the list.
fn read(block: &Bytes, rows: &[(usize, u32)]) -> Result<Vec<(StoredRow, u32)>, Refused> {
    let (Some((first, _)), Some((last, _))) = (rows.first(), rows.last()) else { return Ok(Vec::new()) };
    let stored = decode_range(block, *first, last - first + 1);
    let mut stored = stored.map_err(|error| Refused::Corrupt(error.to_string()))?.into_iter();
    let mut at = *first;
    let mut found = Vec::with_capacity(rows.len());
    for (position, index) in rows {
        if let Some(row) = stored.nth(position - at) {
            found.push((row, *index));
        }
        at = position + 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
