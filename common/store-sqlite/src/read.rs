//! `Read`: what can be read, each call from one snapshot.

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::{Batch, BatchId, FailureKind, ItemCode, RowsRef, TenantId, UploadId};
use promptmill_ports::{
    BatchFilter, BatchPage, BlockRow, OutcomePage, PageLimit, Progress, Read, SettledCursor, SettledPage,
    StoreError, StoreResult, StoredOutcome, Usage,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::SqliteStore;
use crate::batches::{self, BatchNum, low};
use crate::fault::Fault;
use crate::{counts, lists, order, usage, work};

#[async_trait]
impl Read for SqliteStore {
    async fn batch(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Batch> {
        let tenant = tenant.clone();
        self.read(move |db| batches::load(db, &tenant, batch)).await
    }

    async fn progress(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Progress> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let found = batches::owned(db, &tenant, batch)?;
            let (counts, open_chunks) = counts::count(db, found.num)?;
            Ok(Progress { state: found.state, counts, open_chunks })
        })
        .await
    }

    async fn outcomes(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        from: u32,
        limit: PageLimit,
    ) -> StoreResult<OutcomePage> {
        let tenant = tenant.clone();
        self.read(move |db| outcomes(db, batches::owned(db, &tenant, batch)?.num, from, limit)).await
    }

    async fn rows(&self, tenant: &TenantId, batch: BatchId, index: u32) -> StoreResult<BlockRow> {
        let tenant = tenant.clone();
        self.read(move |db| rows(db, batches::owned(db, &tenant, batch)?.num, index)).await
    }

    async fn settled(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        after: SettledCursor,
        limit: PageLimit,
    ) -> StoreResult<SettledPage> {
        let tenant = tenant.clone();
        self.read(move |db| order::page(db, batches::owned(db, &tenant, batch)?.num, after, limit)).await
    }

    async fn batches(
        &self,
        tenant: &TenantId,
        filter: &BatchFilter,
        before: Option<BatchId>,
        limit: PageLimit,
    ) -> StoreResult<BatchPage> {
        let (tenant, filter) = (tenant.clone(), filter.clone());
        self.read(move |db| lists::load(db, &tenant, &filter, before, limit)).await
    }

    async fn usage(&self, tenant: &TenantId, now_ms: u64) -> StoreResult<Usage> {
        let tenant = tenant.clone();
        self.read(move |db| usage::of(db, &tenant, now_ms)).await
    }

    async fn changes(&self) -> StoreResult<u64> {
        self.read(batches::changes).await
    }
}

/// The key in `heads.first` of the chunk that holds item `index`, or of the batch's last chunk when there is no such item.
fn first_of(db: &Connection, num: BatchNum, index: u32) -> Result<Option<i64>, Fault> {
    let sql = "SELECT first FROM heads WHERE first BETWEEN ?1 AND ?2 ORDER BY first DESC LIMIT 1";
    Ok(db.prepare_cached(sql)?.query_row([num.key(0), num.key(index)], |row| row.get(0)).optional()?)
}

fn outcomes(db: &Connection, num: BatchNum, from: u32, limit: PageLimit) -> Result<OutcomePage, Fault> {
    let mut page = Page::new(limit);
    let Some(first) = first_of(db, num, from)? else {
        return Ok(OutcomePage { outcomes: page.outcomes, next: None });
    };
    let mut heads =
        db.prepare_cached("SELECT first, done FROM heads WHERE first BETWEEN ?1 AND ?2 ORDER BY first")?;
    let mut heads = heads.query([first, num.range().1])?;
    let mut bodies =
        db.prepare_cached("SELECT id, code, body FROM outcomes WHERE id BETWEEN ?1 AND ?2 ORDER BY id")?;
    while let Some(head) = heads.next()? {
        let base = low(head.get(0)?);
        let done = head.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
        let items = (base..)
            .zip(done.iter().copied())
            .filter(|(index, byte)| *index >= from && *byte != ItemCode::Open.byte());
        let mut items = items.peekable();
        let Some((start, _)) = items.peek().copied() else {
            continue;
        };
        let end = num.key(base) + i64::try_from(done.len()).unwrap_or(i64::MAX >> 1) - 1;
        let mut bodies = bodies.query([num.key(start), end])?;
        let mut body = bodies.next()?;
        for (index, byte) in items {
            let key = num.key(index);
            while let Some(row) = body {
                if row.get::<_, i64>(0)? >= key {
                    break;
                }
                body = bodies.next()?;
            }
            let named = match body {
                Some(row) => named_body(row, key, byte)?,
                None => None,
            };
            if !page.push(index, byte, named) {
                return Ok(OutcomePage { outcomes: page.outcomes, next: Some(index) });
            }
        }
    }
    Ok(OutcomePage { outcomes: page.outcomes, next: None })
}

/// The body at `key`, when it is the one that the head's byte names: a body of another code came too late to be a result.
pub(crate) fn named_body<'a>(row: &'a Row<'_>, key: i64, byte: u8) -> Result<Option<&'a [u8]>, Fault> {
    if row.get::<_, i64>(0)? != key || row.get::<_, u8>(1)? != byte {
        return Ok(None);
    }
    Ok(Some(row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?))
}

/// A page of outcomes being filled.
#[derive(Debug)]
pub(crate) struct Page {
    /// What it holds so far.
    pub(crate) outcomes: Vec<StoredOutcome>,
    bytes: usize,
    limit: PageLimit,
}

impl Page {
    /// An empty one.
    pub(crate) const fn new(limit: PageLimit) -> Self {
        Self { outcomes: Vec::new(), bytes: 0, limit }
    }

    /// Adds an outcome, or says that it does not fit.
    pub(crate) fn push(&mut self, index: u32, byte: u8, body: Option<&[u8]>) -> bool {
        let bytes = self.bytes + body.map_or(0, <[u8]>::len);
        let full = self.outcomes.len() >= self.limit.items as usize || bytes > self.limit.bytes;
        if full && !self.outcomes.is_empty() {
            return false;
        }
        // As in the counts: what a later release wrote is an outcome of which we can claim nothing.
        let code = ItemCode::from_byte(byte).unwrap_or(ItemCode::Failed(FailureKind::Internal));
        self.outcomes.push(StoredOutcome { index, code, body: body.map(Bytes::copy_from_slice) });
        self.bytes = bytes;
        true
    }
}

fn rows(db: &Connection, num: BatchNum, index: u32) -> Result<BlockRow, Fault> {
    let not_found = || Fault::Store(StoreError::NotFound);
    let first = first_of(db, num, index)?.ok_or_else(not_found)?;
    let sql = "SELECT upload, seq, skip, length(done) FROM heads WHERE first = ?1";
    let (rows, len): (RowsRef, u32) = db.prepare_cached(sql)?.query_row(params![first], |row| {
        let rows = RowsRef { upload: UploadId::from_bytes(row.get(0)?), seq: row.get(1)?, skip: row.get(2)? };
        Ok((rows, row.get(3)?))
    })?;
    let base = low(first);
    if index - base >= len {
        return Err(not_found());
    }
    Ok(BlockRow { base, rows, len, bytes: work::load_block(db, num, rows)? })
}
