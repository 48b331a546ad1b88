//! `Rows`: what was committed of a batch's rows.

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::{BatchId, TenantId, UploadId};
use promptmill_ports::{BlockIds, Part, Rows, StoreError, StoreResult};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::SqliteStore;
use crate::batches::{self, BatchNum};
use crate::fault::Fault;

#[async_trait]
impl Rows for SqliteStore {
    async fn parts(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Vec<Part>> {
        let tenant = tenant.clone();
        self.read(move |db| parts(db, batches::owned(db, &tenant, batch)?.num)).await
    }

    async fn block_ids(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        after: Option<(u32, u32)>,
        limit: u32,
    ) -> StoreResult<Vec<BlockIds>> {
        let tenant = tenant.clone();
        self.read(move |db| block_ids(db, batches::owned(db, &tenant, batch)?.num, after, limit)).await
    }

    async fn block(&self, tenant: &TenantId, batch: BatchId, part: u32, seq: u32) -> StoreResult<Bytes> {
        let tenant = tenant.clone();
        self.read(move |db| block(db, batches::owned(db, &tenant, batch)?.num, part, seq)).await
    }
}

fn parts(db: &Connection, num: BatchNum) -> Result<Vec<Part>, Fault> {
    let sql = "SELECT part, digest, rows FROM parts WHERE num = ?1 ORDER BY part";
    let mut statement = db.prepare_cached(sql)?;
    let parts = statement
        .query_map([num.0], |row| Ok(Part { part: row.get(0)?, digest: row.get(1)?, rows: row.get(2)? }))?;
    Ok(parts.collect::<Result<_, _>>()?)
}

fn block_ids(
    db: &Connection,
    num: BatchNum,
    after: Option<(u32, u32)>,
    limit: u32,
) -> Result<Vec<BlockIds>, Fault> {
    let (from_part, after_seq) = after.map_or((0, -1), |(part, seq)| (part, i64::from(seq)));
    let mut parts = db.prepare_cached(
        "SELECT part, upload, blocks FROM parts WHERE num = ?1 AND part >= ?2 ORDER BY part",
    )?;
    let mut parts = parts.query(params![num.0, from_part])?;
    let mut blocks = db.prepare_cached(
        "SELECT r.seq, r.len, i.ids FROM row_blocks r LEFT JOIN row_ids i ON i.id = r.id
            WHERE r.num = ?1 AND r.upload = ?2 AND r.seq > ?3 AND r.seq < ?4 ORDER BY r.seq LIMIT ?5",
    )?;
    let mut found = Vec::new();
    while let Some(row) = parts.next()? {
        let room = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(limit));
        if room == 0 {
            break;
        }
        let part: u32 = row.get(0)?;
        let upload = UploadId::from_bytes(row.get(1)?);
        let count: u32 = row.get(2)?;
        let behind = if part == from_part { after_seq } else { -1 };
        let some = blocks.query_map(params![num.0, upload.as_bytes(), behind, count, room], |row| {
            let ids: Option<Vec<u8>> = row.get(2)?;
            let ids = Bytes::from(ids.unwrap_or_default());
            Ok(BlockIds { part, seq: row.get(0)?, len: row.get(1)?, ids })
        })?;
        for block in some {
            found.push(block?);
        }
    }
    Ok(found)
}

fn block(db: &Connection, num: BatchNum, part: u32, seq: u32) -> Result<Bytes, Fault> {
    let sql = "SELECT r.bytes FROM parts p JOIN row_blocks r ON r.num = p.num AND r.upload = p.upload AND r.seq = ?3
        WHERE p.num = ?1 AND p.part = ?2 AND p.blocks > ?3";
    let bytes: Option<Vec<u8>> =
        db.prepare_cached(sql)?.query_row(params![num.0, part, seq], |row| row.get(0)).optional()?;
    bytes.map(Bytes::from).ok_or(Fault::Store(StoreError::NotFound))
}
