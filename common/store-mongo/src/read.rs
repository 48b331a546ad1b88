//! `Read`: what can be read, all of it as the majority has it.

use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use promptmill_domain::{Batch, BatchId, FailureKind, ItemCode, RowsRef, TenantId, UploadId};
use promptmill_ports::{
    BatchFilter, BatchPage, BlockRow, OutcomePage, PageLimit, Progress, Read, SettledCursor, SettledPage,
    StoreError, StoreResult, StoredOutcome, Usage,
};

use crate::MongoStore;
use crate::bodies::{Bodies, Body, Part, part_fields, part_of};
use crate::codec::{Fields, binary, corrupt, key};
use crate::collections::{BATCHES, HEADS};
use crate::commands::{Commands, Concern, Query};
use crate::heads::Stored;
use crate::unwritten::OwnRows;
use crate::{batches, counts, lists, order, usage, work};

/// Heads read at a time.
const HEADS_TOGETHER: u32 = 32;
/// Items whose bodies are looked for at a time, to a chunk more.
const ITEMS_TOGETHER: usize = 512;

#[async_trait]
impl Read for MongoStore {
    async fn batch(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Batch> {
        let fields = batches::all_fields();
        batches::decode(&batches::owned(self.commands(), tenant, batch, fields, Concern::Majority).await?)
    }

    async fn progress(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Progress> {
        counts::progress(self.commands(), tenant, batch).await
    }

    async fn outcomes(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        from: u32,
        limit: PageLimit,
    ) -> StoreResult<OutcomePage> {
        batches::check(self.commands(), tenant, batch).await?;
        outcomes(self.commands(), batch, from, limit).await
    }

    async fn rows(&self, tenant: &TenantId, batch: BatchId, index: u32) -> StoreResult<BlockRow> {
        batches::check(self.commands(), tenant, batch).await?;
        rows(self.commands(), batch, index).await
    }

    async fn settled(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        after: SettledCursor,
        limit: PageLimit,
    ) -> StoreResult<SettledPage> {
        let (is_theirs, page) = tokio::join!(
            batches::check(self.commands(), tenant, batch),
            order::page(self.commands(), self.epoch(), batch, after, limit),
        );
        is_theirs.and(page)
    }

    async fn batches(
        &self,
        tenant: &TenantId,
        filter: &BatchFilter,
        before: Option<BatchId>,
        limit: PageLimit,
    ) -> StoreResult<BatchPage> {
        lists::load(self.commands(), tenant, filter, before, limit).await
    }

    async fn usage(&self, tenant: &TenantId, now_ms: u64) -> StoreResult<Usage> {
        let (usage, records) =
            tokio::join!(usage::of(self.commands(), tenant, now_ms), self.record_bytes(tenant));
        Ok(Usage { record_bytes: records?, ..usage? })
    }

    async fn changes(&self) -> StoreResult<u64> {
        batches::changes(self.commands()).await
    }
}

/// The head of the chunk that holds item `index`, or of the batch's last chunk when there is no such item.
async fn head_at(commands: &Commands, batch: BatchId, index: u32) -> StoreResult<Option<Document>> {
    let until = doc! { "$gte": binary(key(batch, 0)), "$lte": binary(key(batch, index)) };
    let query = Query::of(doc! { "first": until }).sort(doc! { "first": -1 });
    commands.find_one(HEADS, query, Concern::Majority).await
}

async fn outcomes(
    commands: &Commands,
    batch: BatchId,
    from: u32,
    limit: PageLimit,
) -> StoreResult<OutcomePage> {
    let mut page = Page::new(commands, batch, limit);
    // Of a small batch the heads before may be missing.
    let first = match head_at(commands, batch, from).await? {
        Some(first) => Fields(&first).id("_id")?,
        None => key(batch, 0),
    };
    let behind = doc! { "$gte": binary(first), "$lte": binary(key(batch, u32::MAX)) };
    let query = Query::of(doc! { "_id": behind }).fields(part_fields()).sort(doc! { "_id": 1 });
    let mut heads = commands.stream(HEADS, query, Concern::Majority, HEADS_TOGETHER).await?;
    loop {
        let mut parts = Vec::new();
        while parts.len() < HEADS_TOGETHER as usize
            && let Some(head) = heads.next().await?
        {
            let head = Document::try_from(head).map_err(|_| corrupt("a chunk"))?;
            parts.push(part_of(&head, from)?);
        }
        if parts.is_empty() {
            return Ok(OutcomePage { outcomes: page.outcomes, next: None });
        }
        let taken = page.fill(&parts).await?;
        if let Some((index, _)) = parts.iter().flat_map(|part| &part.items).nth(taken) {
            return Ok(OutcomePage { outcomes: page.outcomes, next: Some(*index) });
        }
    }
}

async fn rows(commands: &Commands, batch: BatchId, index: u32) -> StoreResult<BlockRow> {
    if let Some(own) = own_rows(commands, batch).await? {
        // Each row is a chunk, whether or not its head is there.
        let rows = RowsRef { upload: UploadId::from_bytes(*batch.as_bytes()), seq: 0, skip: index };
        let row = BlockRow { base: index, rows, len: 1, bytes: own.bytes };
        return if index < own.len { Ok(row) } else { Err(StoreError::NotFound) };
    }
    let found = head_at(commands, batch, index).await?.ok_or(StoreError::NotFound)?;
    let head = Stored::of(&found)?.head;
    if index - head.base >= head.len() {
        return Err(StoreError::NotFound);
    }
    let block = work::load_blocks(commands, std::iter::once(&head)).await?.into_values().next();
    let bytes = block.ok_or_else(|| corrupt("a chunk's rows are missing"))?;
    Ok(BlockRow { base: head.base, rows: head.rows, len: head.len(), bytes })
}

/// The rows of the batch, if they stand in its document.
async fn own_rows(commands: &Commands, batch: BatchId) -> StoreResult<Option<OwnRows>> {
    let query = Query::of(batches::existing(batch)).fields(OwnRows::fields());
    let found = commands.find_one(BATCHES, query, Concern::Majority).await?;
    found.map_or(Ok(None), |mut found| OwnRows::of(&mut found))
}

/// A page of outcomes being filled.
pub(crate) struct Page<'a> {
    commands: &'a Commands,
    batch: BatchId,
    limit: PageLimit,
    /// What it holds so far.
    pub(crate) outcomes: Vec<StoredOutcome>,
    bytes: usize,
    bodies: Bodies<'a>,
}

impl<'a> Page<'a> {
    /// An empty one.
    pub(crate) fn new(commands: &'a Commands, batch: BatchId, limit: PageLimit) -> Self {
        let bodies = Bodies::new(commands, batch);
        Self { commands, batch, limit, outcomes: Vec::new(), bytes: 0, bodies }
    }

    /// Adds items with their bodies; answers how many of them there was room for.
    pub(crate) async fn fill(&mut self, mut parts: &[Part]) -> StoreResult<usize> {
        let mut all_taken = 0;
        while !parts.is_empty() && !self.is_full() {
            // Where bodies are is looked up for no more items than there may be room for.
            let room = (self.limit.items as usize).saturating_sub(self.outcomes.len()).min(ITEMS_TOGETHER);
            let mut items = 0;
            let few = parts.iter().take_while(|part| {
                let has_room = items < room.max(1);
                items += part.items.len();
                has_room
            });
            let (few, rest) = parts.split_at(few.count());
            let taken = self.fill_some(few).await?;
            all_taken += taken;
            if taken < few.iter().map(|part| part.items.len()).sum() {
                break;
            }
            parts = rest;
        }
        Ok(all_taken)
    }

    async fn fill_some(&mut self, parts: &[Part]) -> StoreResult<usize> {
        let places = self.bodies.locate(parts).await?;
        let items: Vec<_> = parts
            .iter()
            .flat_map(|part| part.items.iter().map(|(index, byte)| (part.base, *index, *byte)))
            .collect();
        for (taken, (base, index, byte)) in items.iter().enumerate() {
            if self.is_full() {
                return Ok(taken);
            }
            let mut body = None;
            if let Some(place) = places.get(index) {
                if !self.bodies.has(place) {
                    if !self.outcomes.is_empty() && self.bytes >= self.limit.bytes {
                        return Ok(taken);
                    }
                    let room = (self.limit.items as usize).saturating_sub(self.outcomes.len()).max(1);
                    let next = items[taken..].iter().take(room).filter_map(|(_, index, _)| places.get(index));
                    self.bodies.fetch(next, self.limit.bytes.saturating_sub(self.bytes)).await?;
                }
                body = self.bodies.of(place, *base, *index);
            }
            let bytes = self.bytes.saturating_add(body.as_ref().map_or(0, Body::len));
            if !self.outcomes.is_empty() && bytes > self.limit.bytes {
                return Ok(taken);
            }
            let body = match body {
                Some(body) => Some(body.load(self.commands, self.batch).await?),
                None => None,
            };
            // As in the counts: what a later release wrote is an outcome of which we can claim nothing.
            let code = ItemCode::from_byte(*byte).unwrap_or(ItemCode::Failed(FailureKind::Internal));
            self.outcomes.push(StoredOutcome { index: *index, code, body });
            self.bytes = bytes;
        }
        Ok(items.len())
    }

    fn is_full(&self) -> bool {
        !self.outcomes.is_empty() && self.outcomes.len() >= self.limit.items as usize
    }
}
