//! `RowSets`: rows that are stored to be run again and again.
//!
//! A document for each upload says whose it is and when it last took a block. One that a version of its set names is marked so by the sweep that
//! finds it old, and looked at no more until the set gives it up. So a crash leaves nothing but what the next sweep finds.

use async_trait::async_trait;
use mongodb::bson::raw::cstr;
use mongodb::bson::{Document, RawBsonRef, doc};
use promptmill_domain::{RowSetId, TenantId, UploadId};
use promptmill_ports::{RowBlock, RowSet, RowSets, StoreError, StoreResult};

use crate::MongoStore;
use crate::codec::{
    Fields, binary, conflict, corrupt, from_json, int, number_of, range, raw_binary, raw_document, to_json,
};
use crate::collections::{ROW_SETS, SET_BLOCKS, SET_UPLOADS};
use crate::commands::{Commands, Concern, Query, Update};
use crate::schedules::{change, make};
use crate::usage;

/// Bytes of an upload's key, and of a block's.
const UPLOAD_KEY: usize = 32;
const BLOCK_KEY: usize = UPLOAD_KEY + 4;
/// Blocks that are asked for at once.
const BLOCKS: u32 = 16;
/// Blocks of a version that are removed with it; of more the rest is swept.
const REMOVED: u32 = 1_000;
/// Uploads that a sweep looks at.
const UPLOADS: u32 = 64;

fn upload_key(set: RowSetId, upload: UploadId) -> [u8; UPLOAD_KEY] {
    let mut key = [0; UPLOAD_KEY];
    key[..16].copy_from_slice(set.as_bytes());
    key[16..].copy_from_slice(upload.as_bytes());
    key
}

fn block_key(set: RowSetId, upload: UploadId, seq: u32) -> [u8; BLOCK_KEY] {
    let mut key = [0; BLOCK_KEY];
    key[..UPLOAD_KEY].copy_from_slice(&upload_key(set, upload));
    key[UPLOAD_KEY..].copy_from_slice(&seq.to_be_bytes());
    key
}

fn this_upload(set: RowSetId, upload: UploadId) -> Document {
    doc! { "_id": binary(upload_key(set, upload)) }
}

fn of(tenant: &TenantId, id: RowSetId) -> Document {
    doc! { "_id": binary(*id.as_bytes()), "tenant": tenant.as_str() }
}

fn set_of(document: &Document) -> StoreResult<RowSet> {
    from_json(Fields(document).text("row_set")?, "a row set")
}

#[async_trait]
impl RowSets for MongoStore {
    async fn put_set_blocks(
        &self,
        tenant: &TenantId,
        set: RowSetId,
        upload: UploadId,
        blocks: Vec<RowBlock>,
        now_ms: u64,
    ) -> StoreResult<()> {
        let commands = self.commands();
        // Before the blocks, so that there is none that no sweep would find.
        let alive = doc! {
            "$max": { "touched_ms": int(now_ms) }, "$setOnInsert": { "tenant": tenant.as_str() },
        };
        let mut living = this_upload(set, upload);
        living.insert("dropped", doc! { "$exists": false });
        let touch = Update::upsert(living, alive);
        if !commands.update(SET_UPLOADS, vec![touch.clone()]).await?.duplicates.is_empty() {
            // Two made it at once, or it is being removed.
            let again = Update { upsert: false, ..touch };
            if commands.update(SET_UPLOADS, vec![again]).await?.n == 0 {
                return Err(conflict("the upload was dropped"));
            }
        }
        let documents = blocks.iter().map(|block| {
            let key = block_key(set, upload, block.seq);
            raw_document(&[
                (cstr!("_id"), raw_binary(&key)),
                (cstr!("len"), RawBsonRef::Int64(i64::from(block.len))),
                (cstr!("ids"), raw_binary(&block.ids)),
                (cstr!("bytes"), raw_binary(&block.bytes)),
            ])
        });
        let written = commands.insert(SET_BLOCKS, documents.collect()).await?;
        let is_new = |at: &usize| !written.duplicates.contains(at);
        let new = blocks.iter().enumerate().filter(|(at, _)| is_new(at));
        let bytes: u64 = new.map(|(_, block)| block.bytes.len() as u64).sum();
        usage::add(commands, tenant, int(bytes)).await
    }

    async fn put_row_set(&self, set: &RowSet, now_ms: u64) -> StoreResult<bool> {
        let commands = self.commands();
        let before = match self.row_set(&set.tenant, set.id).await {
            Ok(before) => Some(before),
            Err(StoreError::NotFound) => None,
            Err(error) => return Err(error),
        };
        let is_named = |upload| before.as_ref().is_some_and(|before| before.names(upload));
        for version in set.versions.iter().filter(|version| !is_named(version.upload)) {
            // From here on it is young, and no sweep takes it.
            let mut mine = this_upload(set.id, version.upload);
            mine.extend(doc! { "tenant": set.tenant.as_str(), "dropped": { "$exists": false } });
            let young = doc! { "$max": { "touched_ms": int(now_ms) } };
            let is_there = commands.update(SET_UPLOADS, vec![Update::this(mine, young)]).await?.n == 1;
            if !is_there || count(commands, set.id, version.upload).await? != u64::from(version.blocks) {
                return Err(conflict("the rows of the upload are not all there"));
            }
        }
        let left = before.iter().flat_map(|before| &before.versions);
        let left: Vec<_> = left.filter(|version| !set.names(version.upload)).collect();
        for version in &left {
            // Should this be cut off, the sweep looks at it again.
            let change = doc! { "$unset": { "is_named": "" }, "$set": { "touched_ms": 0_i64 } };
            commands
                .update(SET_UPLOADS, vec![Update::this(this_upload(set.id, version.upload), change)])
                .await?;
        }
        let this = of(&set.tenant, set.id);
        let json = to_json(set);
        let bytes = json.len();
        let mut fields = doc! { "row_set": json, "bytes": int(bytes as u64) };
        if set.name.is_some() {
            fields.insert("named", true);
        }
        let is_kept = match set.ver {
            0 | 1 => make(commands, ROW_SETS, this, fields).await?,
            ver => change(commands, ROW_SETS, this, ver, fields).await?,
        };
        if is_kept {
            self.kept_bytes().put(&set.tenant, bytes);
            for version in left {
                // What is left of it goes with the next sweep.
                remove(commands, &set.tenant, set.id, version.upload, REMOVED).await?;
            }
        }
        Ok(is_kept)
    }

    async fn row_set(&self, tenant: &TenantId, id: RowSetId) -> StoreResult<RowSet> {
        let found = self.commands().find_one(ROW_SETS, Query::of(of(tenant, id)), Concern::Majority).await?;
        set_of(&found.ok_or(StoreError::NotFound)?)
    }

    async fn row_sets(
        &self,
        tenant: &TenantId,
        after: Option<RowSetId>,
        limit: u32,
    ) -> StoreResult<Vec<RowSet>> {
        let mut which = doc! { "tenant": tenant.as_str(), "named": true };
        if let Some(after) = after {
            which.insert("_id", doc! { "$gt": binary(*after.as_bytes()) });
        }
        let query = Query::of(which).sort(doc! { "_id": 1 }).limit(limit);
        let found = self.commands().find(ROW_SETS, query, Concern::Majority).await?;
        found.iter().map(set_of).collect()
    }

    async fn set_blocks(
        &self,
        tenant: &TenantId,
        set: RowSetId,
        upload: UploadId,
        from: u32,
        bytes: usize,
    ) -> StoreResult<Vec<RowBlock>> {
        let commands = self.commands();
        let mut mine = this_upload(set, upload);
        mine.insert("tenant", tenant.as_str());
        if commands.find_one(SET_UPLOADS, Query::of(mine), Concern::Majority).await?.is_none() {
            return Ok(Vec::new());
        }
        let keys = doc! {
            "$gte": binary(block_key(set, upload, from)), "$lte": binary(block_key(set, upload, u32::MAX)),
        };
        let query = Query::of(doc! { "_id": keys }).sort(doc! { "_id": 1 });
        let mut rows = commands.stream(SET_BLOCKS, query, Concern::Majority, BLOCKS).await?;
        let (mut blocks, mut size) = (Vec::new(), 0);
        while let Some(row) = rows.next().await? {
            let mut found = Document::try_from(row).map_err(|_| corrupt("a block of rows"))?;
            let (seq, len) = (number_of(Fields(&found).bytes("_id")?), Fields(&found).small("len")?);
            let mut taken = |name| {
                let bytes = found.get_binary_generic_mut(name).map_err(|_| corrupt("a block of rows"))?;
                StoreResult::Ok(std::mem::take(bytes))
            };
            let (ids, bytes_of) = (taken("ids")?, taken("bytes")?);
            size += ids.len() + bytes_of.len();
            if size > bytes && !blocks.is_empty() {
                break;
            }
            blocks.push(RowBlock { seq, len, bytes: bytes_of.into(), ids: ids.into() });
        }
        Ok(blocks)
    }

    async fn delete_row_set(&self, tenant: &TenantId, id: RowSetId) -> StoreResult<bool> {
        let commands = self.commands();
        let was_there = commands.delete(ROW_SETS, of(tenant, id)).await? == 1;
        self.kept_bytes().removed(tenant);
        // They go with the next sweeps, a few at a time; those too that are left of a deletion that was cut off.
        let all = doc! { "_id": range(id.as_bytes(), UPLOAD_KEY), "tenant": tenant.as_str() };
        let change = doc! { "$unset": { "is_named": "" }, "$set": { "touched_ms": 0_i64 } };
        commands.update(SET_UPLOADS, vec![Update::many(all, change)]).await?;
        Ok(was_there)
    }

    async fn drop_set_uploads(&self, before_ms: u64, limit: u32) -> StoreResult<u32> {
        let commands = self.commands();
        let old = doc! { "is_named": { "$exists": false }, "touched_ms": { "$lt": int(before_ms) } };
        let query = Query::of(old.clone()).sort(doc! { "touched_ms": 1 }).limit(UPLOADS);
        let mut removed = 0;
        for found in commands.find(SET_UPLOADS, query, Concern::Majority).await? {
            let key: [u8; UPLOAD_KEY] = Fields(&found).id("_id")?;
            let (Some(set), Some(upload)) = (key.first_chunk(), key.last_chunk()) else { continue };
            let (set, upload) = (RowSetId::from_bytes(*set), UploadId::from_bytes(*upload));
            let tenant = Fields(&found).tenant("tenant")?;
            let is_named = match self.row_set(&tenant, set).await {
                Ok(set) => set.names(upload),
                Err(StoreError::NotFound) => false,
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                Err(error) => {
                    // The others must not wait for one that is damaged.
                    tracing::error!(error = %error, "a row set cannot be read; its rows stay");
                    true
                }
            };
            let mut still = this_upload(set, upload);
            still.extend(old.clone());
            if is_named {
                let named = doc! { "$set": { "is_named": true } };
                commands.update(SET_UPLOADS, vec![Update::this(still, named)]).await?;
                continue;
            }
            // Whoever names it from here on is refused, and whoever did meanwhile has made it young.
            let dropped = doc! { "$set": { "dropped": true } };
            if commands.update(SET_UPLOADS, vec![Update::this(still, dropped)]).await?.n == 0 {
                continue;
            }
            removed += remove(commands, &tenant, set, upload, limit - removed).await?;
            if removed >= limit {
                break;
            }
        }
        Ok(removed)
    }
}

/// Blocks of an upload.
async fn count(commands: &Commands, set: RowSetId, upload: UploadId) -> StoreResult<u64> {
    let blocks = doc! { "_id": range(&upload_key(set, upload), BLOCK_KEY) };
    let count = vec![doc! { "$match": blocks }, doc! { "$count": "blocks" }];
    let found = commands.aggregate(SET_BLOCKS, count, Concern::Majority).await?;
    found.first().map_or(Ok(0), |found| Fields(found).uint("blocks"))
}

/// Removes blocks of an upload that nobody names, so many at most, and itself when none is left. Answers how many.
async fn remove(
    commands: &Commands,
    tenant: &TenantId,
    set: RowSetId,
    upload: UploadId,
    limit: u32,
) -> StoreResult<u32> {
    let all = doc! { "_id": range(&upload_key(set, upload), BLOCK_KEY) };
    let sizes = vec![
        doc! { "$match": all },
        doc! { "$limit": i64::from(limit.max(1)) },
        doc! { "$project": { "size": { "$binarySize": "$bytes" } } },
    ];
    let found = commands.aggregate(SET_BLOCKS, sizes, Concern::Majority).await?;
    let (mut ids, mut bytes) = (Vec::with_capacity(found.len()), 0);
    for block in &found {
        ids.push(binary(Fields(block).bytes("_id")?));
        bytes += int(Fields(block).uint("size")?);
    }
    let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    // Of two that remove the same the one counts it that found it there.
    if !ids.is_empty() && commands.delete(SET_BLOCKS, doc! { "_id": { "$in": ids } }).await? > 0 {
        usage::add(commands, tenant, -bytes).await?;
    }
    if count < limit {
        commands.delete(SET_UPLOADS, this_upload(set, upload)).await?;
    }
    Ok(count)
}
