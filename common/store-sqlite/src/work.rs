//! `Work`: chunks are claimed, outcomes settle.
//!
//! Settling looks at the lease before it writes a body, and all of it is one transaction, so a fenced group leaves nothing.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::{
    BatchId, ChunkId, ChunkState, Head, HeadEvent, ItemCode, LeaseToken, Refusal, RowsRef, SessionId,
    SettledItem, UploadId,
};
use promptmill_ports::{Assignment, Lease, SettleGroup, Settled, StoreResult, Work};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::SqliteStore;
use crate::batches::{self, BatchNum, Found};
use crate::fault::Fault;
use crate::heads::{self, Before, Changed};
use crate::{counts, sessions, usage};

/// About what a head costs in a group.
const HEAD: usize = 1024;

#[async_trait]
impl Work for SqliteStore {
    async fn claim(
        &self,
        owner: SessionId,
        chunks: &[(ChunkId, LeaseToken)],
        now_ms: u64,
    ) -> StoreResult<Vec<Lease>> {
        let chunks = chunks.to_vec();
        self.write(HEAD * chunks.len(), move |db| claim(db, owner, &chunks, now_ms)).await
    }

    async fn assignments(&self, batches: &[BatchId]) -> StoreResult<Vec<Assignment>> {
        let batches = batches.to_vec();
        self.read(move |db| assignments(db, &batches)).await
    }

    async fn settle(&self, groups: Arc<[SettleGroup]>, now_ms: u64) -> StoreResult<Vec<Settled>> {
        let bodies: usize = groups.iter().flat_map(|group| &group.settled).map(|(_, body)| body.len()).sum();
        let settle_all =
            move |db: &Connection| groups.iter().map(|group| settle(db, group, now_ms)).collect();
        self.write(bodies + HEAD, settle_all).await
    }

    /// Nothing is left for later.
    async fn order(&self) -> StoreResult<()> {
        Ok(())
    }

    async fn try_item(
        &self,
        chunk: ChunkId,
        token: LeaseToken,
        offset: u32,
        now_ms: u64,
    ) -> StoreResult<bool> {
        self.write(HEAD, move |db| try_item(db, chunk, token, offset, now_ms)).await
    }
}

fn assignments(db: &Connection, batches: &[BatchId]) -> Result<Vec<Assignment>, Fault> {
    let mut assignments = Vec::with_capacity(batches.len());
    for id in batches {
        let Some(found) = batches::find(db, *id)? else { continue };
        let batch = batches::load(db, &found.tenant, *id)?;
        let (counts, _) = counts::count(db, found.num)?;
        assignments.push(Assignment { batch, counts });
    }
    Ok(assignments)
}

fn claim(
    db: &Connection,
    owner: SessionId,
    chunks: &[(ChunkId, LeaseToken)],
    now_ms: u64,
) -> Result<Vec<Lease>, Fault> {
    // A lease of a session that is no more would be nobody's to take away.
    if !sessions::is_alive(db, owner)? {
        return Ok(Vec::new());
    }
    let mut batches = HashMap::<BatchId, Option<Found>>::new();
    let mut blocks = HashMap::new();
    let mut leases = Vec::with_capacity(chunks.len());
    for &(chunk, token) in chunks {
        let found = match batches.get(&chunk.batch) {
            Some(found) => found,
            None => batches.entry(chunk.batch).or_insert(batches::find(db, chunk.batch)?),
        };
        let Some(found) = found.as_ref().filter(|found| found.state.may_begin()) else { continue };
        let num = found.num;
        if found.total == 1 {
            // One that was admitted refuses it.
            heads::change(db, num.key(chunk.n), HeadEvent::Admit, now_ms)?;
        }
        let Changed::Applied(head) =
            heads::change(db, num.key(chunk.n), HeadEvent::Claim { owner, token }, now_ms)?
        else {
            continue;
        };
        // Chunks of a small batch share a block.
        let key = (num.0, head.rows.upload, head.rows.seq);
        let rows = match blocks.get(&key) {
            Some(rows) => Bytes::clone(rows),
            None => blocks.entry(key).or_insert(load_block(db, num, head.rows)?).clone(),
        };
        leases.push(Lease { head: *head, token, rows, batch: None });
    }
    Ok(leases)
}

/// Reads the block a chunk's rows are in.
pub(crate) fn load_block(db: &Connection, num: BatchNum, rows: RowsRef) -> Result<Bytes, Fault> {
    let sql = "SELECT bytes FROM row_blocks WHERE num = ?1 AND upload = ?2 AND seq = ?3";
    let upload: UploadId = rows.upload;
    let bytes: Option<Vec<u8>> = db
        .prepare_cached(sql)?
        .query_row(params![num.0, upload.as_bytes(), rows.seq], |row| row.get(0))
        .optional()?;
    bytes.map(Bytes::from).ok_or_else(|| Fault::corrupt("a chunk's rows are missing"))
}

fn settle(db: &Connection, group: &SettleGroup, now_ms: u64) -> Result<Settled, Fault> {
    let Some(found) = batches::find(db, group.chunk.batch)? else {
        return Ok(Settled::Fenced);
    };
    let key = found.num.key(group.chunk.n);
    let Some(mut head) = heads::load(db, key)? else {
        return Ok(Settled::Fenced);
    };
    if !matches!(&head.state, ChunkState::Leased { token, .. } if *token == group.token) {
        return Ok(Settled::Fenced);
    }
    let (settled, stored) = store_bodies(db, found.num, &head, group)?;
    usage::add_bytes(db, &found.tenant, stored)?;
    let before = Before::of(&head);
    let event = HeadEvent::Settle {
        token: group.token,
        settled: &settled,
        parked: &group.parked,
        seq: group.seq,
        spent: group.spent,
        release: group.release,
    };
    match head.apply(event, now_ms) {
        Ok(()) => {}
        Err(Refusal::Fenced) => return Ok(Settled::Fenced),
        Err(refusal @ (Refusal::WrongState(_) | Refusal::NoSuchItem)) => {
            return Err(Fault::conflict(refusal.to_string()));
        }
    }
    heads::save(db, key, &head, &before)?;
    Ok(Settled::Recorded { done: head.state == ChunkState::Done })
}

/// Stores the bodies of items that are open, and answers all items with the code of the body that is stored for them, and how many bytes
/// were stored.
fn store_bodies(
    db: &Connection,
    num: BatchNum,
    head: &Head,
    group: &SettleGroup,
) -> Result<(Vec<SettledItem>, u64), Fault> {
    let mut insert =
        db.prepare_cached("INSERT OR IGNORE INTO outcomes(id, code, body) VALUES (?1, ?2, ?3)")?;
    let mut settled = Vec::with_capacity(group.settled.len());
    let mut stored = 0;
    for (item, body) in &group.settled {
        let byte = head.done.get(item.offset as usize).copied();
        if byte.is_none() || item.code == ItemCode::Open {
            return Err(Fault::conflict(Refusal::NoSuchItem.to_string()));
        }
        let mut code = item.code;
        if byte == Some(ItemCode::Open.byte()) {
            let id = num.key(head.base + item.offset);
            if insert.execute(params![id, item.code.byte(), &body[..]])? == 0 {
                code = stored_code(db, id)?;
            } else {
                stored += body.len() as u64;
            }
        }
        settled.push(SettledItem { offset: item.offset, code });
    }
    Ok((settled, stored))
}

fn stored_code(db: &Connection, id: i64) -> Result<ItemCode, Fault> {
    let byte: u8 =
        db.prepare_cached("SELECT code FROM outcomes WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
    match ItemCode::from_byte(byte) {
        Some(ItemCode::Open) | None => Err(Fault::corrupt("the code of an outcome")),
        Some(code) => Ok(code),
    }
}

fn try_item(
    db: &Connection,
    chunk: ChunkId,
    token: LeaseToken,
    offset: u32,
    now_ms: u64,
) -> Result<bool, Fault> {
    let Some(found) = batches::find(db, chunk.batch)? else {
        return Ok(false);
    };
    match heads::change(db, found.num.key(chunk.n), HeadEvent::Try { token, offset }, now_ms)? {
        Changed::Applied(_) => Ok(true),
        Changed::Missing | Changed::Refused(Refusal::Fenced) => Ok(false),
        Changed::Refused(refusal @ (Refusal::WrongState(_) | Refusal::NoSuchItem)) => {
            Err(Fault::conflict(refusal.to_string()))
        }
    }
}
