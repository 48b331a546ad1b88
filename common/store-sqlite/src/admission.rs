//! `Admission`: which chunks may run, and which wait to be hinted again.

use std::collections::HashMap;

use async_trait::async_trait;
use promptmill_domain::{Batch, BatchEvent, BatchId, ChunkId, HeadEvent};
use promptmill_ports::{Admission, StoreResult};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::SqliteStore;
use crate::batches::{self, BatchNum, Found, int, low};
use crate::fault::Fault;
use crate::heads::{self, Changed, READY, WAITING};

/// About what a head costs in a group.
const HEAD: usize = 1024;

#[async_trait]
impl Admission for SqliteStore {
    async fn open_batches(&self) -> StoreResult<Vec<Batch>> {
        let known = self.known_open_batches();
        self.read(move |db| known.load(db)).await
    }

    async fn open_among(&self, batches: &[BatchId]) -> StoreResult<Vec<Batch>> {
        let batches = batches.to_vec();
        self.read(move |db| batches::load_open(db, &batches)).await
    }

    async fn waiting(&self, batch: BatchId, limit: u32) -> StoreResult<Vec<ChunkId>> {
        self.read(move |db| {
            let Some(found) = batches::find(db, batch)? else {
                return Ok(Vec::new());
            };
            let keys = heads::in_state(db, found.num, WAITING, found.num.key(0) - 1, limit)?;
            Ok(keys.into_iter().map(|key| ChunkId { batch, n: low(key) }).collect())
        })
        .await
    }

    async fn admit(&self, chunks: &[ChunkId], now_ms: u64) -> StoreResult<Vec<ChunkId>> {
        let chunks = chunks.to_vec();
        self.write(HEAD * chunks.len(), move |db| admit(db, &chunks, now_ms)).await
    }

    async fn wake(&self, limit: u32, now_ms: u64) -> StoreResult<Vec<ChunkId>> {
        self.write(HEAD, move |db| wake(db, limit, now_ms)).await
    }

    async fn ready(&self, after: Option<ChunkId>, limit: u32) -> StoreResult<Vec<ChunkId>> {
        self.read(move |db| ready(db, after, limit)).await
    }
}

fn admit(db: &Connection, chunks: &[ChunkId], now_ms: u64) -> Result<Vec<ChunkId>, Fault> {
    let mut known = HashMap::<BatchId, Option<Found>>::new();
    let mut admitted = Vec::with_capacity(chunks.len());
    for &chunk in chunks {
        let found = match known.get_mut(&chunk.batch) {
            Some(found) => found,
            None => known.entry(chunk.batch).or_insert(batches::find(db, chunk.batch)?),
        };
        let Some(found) = found else { continue };
        // A paused or closing batch admits nothing.
        let Ok(running) = found.state.decide(&BatchEvent::Admit) else {
            continue;
        };
        let is_admitted = match heads::change(db, found.num.key(chunk.n), HeadEvent::Admit, now_ms)? {
            Changed::Applied(_) => true,
            // It may have been claimed as it was hinted.
            Changed::Refused(_) => false,
            Changed::Missing => continue,
        };
        if running != found.state {
            batches::set_state(db, found.num, &running)?;
            found.state = running;
        }
        admitted.extend(is_admitted.then_some(chunk));
    }
    Ok(admitted)
}

fn wake(db: &Connection, limit: u32, now_ms: u64) -> Result<Vec<ChunkId>, Fault> {
    let mut statement = db.prepare_cached("SELECT id FROM heads WHERE due <= ?1 ORDER BY due LIMIT ?2")?;
    let due = statement
        .query_map(params![int(now_ms), limit], |row| row.get(0))?
        .collect::<Result<Vec<i64>, _>>()?;
    let mut woken = Vec::with_capacity(due.len());
    for key in due {
        if let Changed::Applied(head) = heads::change(db, key, HeadEvent::Wake, now_ms)? {
            woken.push(head.chunk);
        }
    }
    Ok(woken)
}

fn ready(db: &Connection, after: Option<ChunkId>, limit: u32) -> Result<Vec<ChunkId>, Fault> {
    let mut batches = with_ready(db)?;
    batches.sort_unstable_by_key(|(_, batch)| *batch);
    batches.retain(|(_, batch)| after.is_none_or(|after| *batch >= after.batch));
    let mut ready = Vec::new();
    for (num, batch) in batches {
        let room = limit.saturating_sub(u32::try_from(ready.len()).unwrap_or(limit));
        if room == 0 {
            break;
        }
        let before = match after {
            Some(after) if after.batch == batch => num.key(after.n),
            Some(_) | None => num.key(0) - 1,
        };
        let keys = heads::in_state(db, num, READY, before, room)?;
        ready.extend(keys.into_iter().map(|key| ChunkId { batch, n: low(key) }));
    }
    Ok(ready)
}

/// The open batches that have a ready chunk, by one look each: most open batches may have none.
fn with_ready(db: &Connection) -> Result<Vec<(BatchNum, BatchId)>, Fault> {
    let sql = "SELECT id FROM heads WHERE state = ?1 AND state < 4 AND id > ?2 ORDER BY id LIMIT 1";
    let mut next = db.prepare_cached(sql)?;
    let mut open = db.prepare_cached("SELECT id FROM batches WHERE num = ?1 AND phase = 1")?;
    let mut found = Vec::new();
    let mut behind = 0;
    while let Some(key) = next.query_row(params![READY, behind], |row| row.get(0)).optional()? {
        let num = BatchNum::of_key(key);
        let id = open.query_row([num.0], |row| row.get(0).map(BatchId::from_bytes)).optional()?;
        found.extend(id.map(|id| (num, id)));
        behind = num.range().1;
    }
    Ok(found)
}
