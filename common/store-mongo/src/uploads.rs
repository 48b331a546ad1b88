//! Uploads: they live while blocks come in, become a part, or are given up and take no more.
//!
//! Two documents decide. That of the upload says who still sends, so that a block and a sweep exclude each other; that of the batch says which
//! uploads are parts and which were given up, so that a commit and a drop do. An upload is given up in both before its blocks are
//! removed, and stays known so until its batch goes, so that a slow sender cannot bring it back.

use mongodb::bson::{Bson, Document, doc};
use promptmill_domain::{BatchId, TenantId, UploadId};
use promptmill_ports::{StoreError, StoreResult};

use crate::batches::{self, Phase};
use crate::codec::{Fields, binary, conflict, corrupt, int, range};
use crate::collections::{BATCHES, ROW_IDS, ROWS, UPLOADS};
use crate::commands::{Commands, Concern, Query, Update};
use crate::usage;

/// Blocks removed in one step.
const BLOCKS: u32 = 1_000;
/// Uploads that a batch remembers to have given up: its document has a limit.
pub(crate) const MAX_GIVEN_UP: usize = 100_000;
/// Bytes of a block's key.
pub(crate) const ROW_KEY: usize = 36;
/// Bytes of an upload's key.
const KEY: usize = 32;

/// `state`. Numbers from [`DROPPED`] on are of uploads that were given up.
const LIVE: i32 = 0;
/// A part names it.
const PART: i32 = 1;
/// Given up; it may still have blocks.
const DROPPED: i32 = 2;
/// Given up, and without blocks.
const GONE: i32 = 3;

/// The key of an upload.
pub(crate) fn upload_key(batch: BatchId, upload: UploadId) -> [u8; KEY] {
    let mut key = [0; KEY];
    key[..16].copy_from_slice(batch.as_bytes());
    key[16..].copy_from_slice(upload.as_bytes());
    key
}

/// The key of a block.
pub(crate) fn row_key(batch: BatchId, upload: UploadId, seq: u32) -> [u8; ROW_KEY] {
    let mut key = [0; ROW_KEY];
    key[..KEY].copy_from_slice(&upload_key(batch, upload));
    key[KEY..].copy_from_slice(&seq.to_be_bytes());
    key
}

fn one(batch: BatchId, upload: UploadId) -> Document {
    doc! { "_id": binary(upload_key(batch, upload)) }
}

/// That an upload was given up, as callers hear it.
pub(crate) fn given_up() -> StoreError {
    conflict("the upload was given up")
}

/// Notes a sign of life of an upload, which may be its first.
///
/// # Errors
/// `Conflict` when it was given up.
pub(crate) async fn touch(
    commands: &Commands,
    batch: BatchId,
    upload: UploadId,
    now_ms: u64,
) -> StoreResult<()> {
    let mut living = one(batch, upload);
    living.insert("state", doc! { "$lt": DROPPED });
    let change = doc! { "$max": { "touched_ms": int(now_ms) }, "$setOnInsert": { "state": LIVE } };
    let written = commands.update(UPLOADS, vec![Update::upsert(living.clone(), change.clone())]).await?;
    if written.duplicates.is_empty() {
        return Ok(());
    }
    // It is given up, or two made it at once.
    if commands.update(UPLOADS, vec![Update::one(living, change)]).await?.n == 1 {
        Ok(())
    } else {
        Err(given_up())
    }
}

/// Whether the upload takes blocks.
pub(crate) async fn is_living(commands: &Commands, batch: BatchId, upload: UploadId) -> StoreResult<bool> {
    let query = Query::of(one(batch, upload)).fields(doc! { "state": 1 });
    let found = commands.find_one(UPLOADS, query, Concern::Local).await?;
    found.map_or(Ok(false), |found| Ok(Fields(&found).small("state")? < DROPPED.unsigned_abs()))
}

/// Notes that a part names the upload, whatever was noted before: the batch's document has decided.
pub(crate) async fn note_part(commands: &Commands, batch: BatchId, upload: UploadId) -> StoreResult<()> {
    let change = doc! { "$set": { "state": PART }, "$max": { "touched_ms": 0_i64 } };
    commands.update(UPLOADS, vec![Update::upsert(one(batch, upload), change)]).await.map(|_| ())
}

async fn note_given_up(commands: &Commands, batch: BatchId, upload: UploadId, state: i32) -> StoreResult<()> {
    let change = doc! { "$max": { "state": state, "touched_ms": 0_i64 } };
    commands.update(UPLOADS, vec![Update::upsert(one(batch, upload), change)]).await.map(|_| ())
}

/// Gives the upload up in the batch's document, unless a part names it. Answers whether it is given up.
///
/// # Errors
/// `NotFound` when the tenant has no such batch.
async fn decide_given_up(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    upload: UploadId,
) -> StoreResult<bool> {
    let id = binary(*upload.as_bytes());
    let mut filter = batches::existing_of(tenant, batch);
    filter.insert("parts.upload", doc! { "$ne": id.clone() });
    // Whoever is about to name it must look again.
    let change = doc! { "$addToSet": { "given_up": id }, "$inc": { "rev": 1_i64 } };
    if commands.update(BATCHES, vec![Update::one(filter, change)]).await?.n == 1 {
        return Ok(true);
    }
    batches::owned(commands, tenant, batch, doc! { "_id": 1 }, Concern::Local).await.map(|_| false)
}

/// Drops an upload of this tenant's batch, all of it.
///
/// # Errors
/// `NotFound` when there is no such batch.
pub(crate) async fn drop_upload(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    upload: UploadId,
) -> StoreResult<()> {
    if decide_given_up(commands, tenant, batch, upload).await? {
        remove(commands, tenant, batch, upload).await?;
    }
    Ok(())
}

/// Removes an upload that was given up in the batch's document.
pub(crate) async fn remove(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    upload: UploadId,
) -> StoreResult<()> {
    note_given_up(commands, batch, upload, DROPPED).await?;
    while !clear(commands, tenant, batch, upload, BLOCKS).await?.1 {}
    Ok(())
}

/// Notes that a part is about to name another upload instead: should the process die before it removed the blocks of this one, the sweep
/// finds it, and the batch's document tells what it is.
pub(crate) async fn note_replacing(commands: &Commands, batch: BatchId, upload: UploadId) -> StoreResult<()> {
    let mut part = one(batch, upload);
    part.insert("state", PART);
    let change = doc! { "$set": { "state": LIVE } };
    commands.update(UPLOADS, vec![Update::one(part, change)]).await.map(|_| ())
}

/// Whether a batch's document with the field `given_up` says so of the upload.
pub(crate) fn was_given_up(batch: &Document, upload: UploadId) -> bool {
    let given_up = batch.get_array("given_up").map(Vec::as_slice).unwrap_or_default();
    given_up.iter().any(|id| matches!(id, Bson::Binary(id) if id.bytes == upload.as_bytes()))
}

fn upload_of(key: &[u8]) -> StoreResult<(BatchId, UploadId)> {
    match (key.first_chunk(), key.last_chunk()) {
        (Some(batch), Some(upload)) if key.len() == KEY => {
            Ok((BatchId::from_bytes(*batch), UploadId::from_bytes(*upload)))
        }
        _ => Err(corrupt("the key of an upload")),
    }
}

/// Drops what was given up before and what took no block since `before_ms`, about `limit` blocks of it. Answers how many blocks were removed.
pub(crate) async fn drop_stale(commands: &Commands, before_ms: u64, limit: u32) -> StoreResult<u32> {
    let mut removed = 0;
    let stale = [doc! { "state": DROPPED }, doc! { "state": LIVE, "touched_ms": { "$lt": int(before_ms) } }];
    for filter in stale {
        let query = Query::of(filter.clone()).fields(doc! { "_id": 1 }).sort(doc! { "touched_ms": 1 });
        for found in commands.find(UPLOADS, query.limit(limit), Concern::Local).await? {
            if removed >= limit {
                return Ok(removed);
            }
            let (batch, upload) = upload_of(Fields(&found).bytes("_id")?)?;
            // Whoever sent a block meanwhile goes on.
            let mut still = filter.clone();
            still.extend(one(batch, upload));
            let mark = doc! { "$set": { "state": DROPPED } };
            if commands.update(UPLOADS, vec![Update::one(still, mark)]).await?.n == 1 {
                removed += drop_marked(commands, batch, upload, limit - removed).await?;
            }
        }
    }
    Ok(removed)
}

async fn drop_marked(commands: &Commands, batch: BatchId, upload: UploadId, limit: u32) -> StoreResult<u32> {
    let query = Query::of(doc! { "_id": binary(*batch.as_bytes()) }).fields(doc! { "tenant": 1, "phase": 1 });
    let Some(found) = commands.find_one(BATCHES, query, Concern::Local).await? else {
        // A block that was under way when its batch was deleted.
        let blocks = doc! { "_id": range(&upload_key(batch, upload), ROW_KEY) };
        let removed = commands.delete(ROWS, blocks.clone()).await?;
        commands.delete(ROW_IDS, blocks).await?;
        commands.delete(UPLOADS, one(batch, upload)).await?;
        return Ok(u32::try_from(removed).unwrap_or(u32::MAX));
    };
    let tenant = Fields(&found).tenant("tenant")?;
    if Fields(&found).small("phase")? == Phase::Deleting.number().unsigned_abs() {
        return Ok(0);
    }
    match decide_given_up(commands, &tenant, batch, upload).await {
        Ok(true) => Ok(clear(commands, &tenant, batch, upload, limit).await?.0),
        Ok(false) => note_part(commands, batch, upload).await.map(|()| 0),
        Err(StoreError::NotFound) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Removes blocks of an upload that was given up, and notes when none is left. Answers how many, and whether none is left.
async fn clear(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    upload: UploadId,
    limit: u32,
) -> StoreResult<(u32, bool)> {
    let (removed, empty) = remove_blocks(commands, tenant, &upload_key(batch, upload), limit).await?;
    if empty {
        note_given_up(commands, batch, upload, GONE).await?;
    }
    Ok((removed, empty))
}

/// Removes blocks whose key begins with these bytes, so many at most. Answers how many, and whether none is left.
pub(crate) async fn remove_blocks(
    commands: &Commands,
    tenant: &TenantId,
    prefix: &[u8],
    limit: u32,
) -> StoreResult<(u32, bool)> {
    let limit = limit.max(1);
    let all = doc! { "_id": range(prefix, ROW_KEY) };
    let query = Query::of(all.clone()).fields(doc! { "_id": 1, "size": 1 }).covered_by("sizes");
    let found = commands.find(ROWS, query.limit(limit), Concern::Local).await?;
    let mut ids = Vec::with_capacity(found.len());
    let mut bytes = 0_u64;
    for block in &found {
        bytes += Fields(block).uint("size")?;
        ids.push(binary(Fields(block).bytes("_id")?));
    }
    if !ids.is_empty() {
        let these = doc! { "_id": { "$in": ids } };
        commands.delete(ROW_IDS, these.clone()).await?;
        commands.delete(ROWS, these).await?;
        usage::add(commands, tenant, -int(bytes)).await?;
    }
    let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
    let empty = count < limit;
    if empty {
        commands.delete(ROW_IDS, all).await?;
    }
    Ok((count, empty))
}
