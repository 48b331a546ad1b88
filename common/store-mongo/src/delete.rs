//! Deleting a batch in bounded steps: marked first, so that nobody sees half of one; its own document last.
//!
//! What is deleted is gone for every reader at once. The server reuses its space in the files in its own time; whoever must know it overwritten
//! compacts the collections or encrypts the disk.

use mongodb::bson::{Document, doc};
use promptmill_domain::{BatchId, TenantId};
use promptmill_ports::{StoreError, StoreResult};

use crate::MongoStore;
use crate::batches::{Phase, put};
use crate::codec::{Fields, binary, conflict, corrupt, int, range};
use crate::collections::{BATCHES, DELIVERIES, HEADS, OUTCOMES, REPLIES, SETTLED, SLICES, UPLOADS};
use crate::commands::{Commands, Concern, Query, Update, fresh_mark};
use crate::replies::KEY_OF_BATCH;
use crate::{uploads, usage};

/// Records deleted in one step.
const RECORDS: u32 = 1_000;
/// Bytes of outcomes deleted in one step.
const BYTES: u64 = 16 * 1024 * 1024;
/// Documents read at a time on the way there.
const FEW: u32 = 128;
/// How often the mark is tried while others change the batch.
const TRIES: u32 = 16;

/// Marks the batch as being deleted, or finds it so marked.
///
/// # Errors
/// `NotFound`, or `Conflict` when it is neither a draft nor final.
pub(crate) async fn mark(store: &MongoStore, tenant: &TenantId, batch: BatchId) -> StoreResult<()> {
    let commands = store.commands();
    let owned = doc! { "_id": binary(*batch.as_bytes()), "tenant": tenant.as_str() };
    for _ in 0..TRIES {
        let query = Query::of(owned.clone()).fields(doc! { "phase": 1 });
        let found = commands.find_one(BATCHES, query, Concern::Local).await?.ok_or(StoreError::NotFound)?;
        let phase = Fields(&found).small("phase")?;
        if phase == Phase::Deleting.number().unsigned_abs() {
            return Ok(());
        }
        if phase == Phase::Accepting.number().unsigned_abs() {
            return Err(StoreError::NotFound);
        }
        if phase == Phase::Open.number().unsigned_abs() {
            return Err(conflict("a batch that is not final cannot be deleted; cancel it first"));
        }
        let mut filter = owned.clone();
        filter.insert("phase", i64::from(phase));
        if commands.update(BATCHES, vec![Update::one(filter, marking())]).await?.n == 1 {
            store.logs().forget(batch);
            return Ok(());
        }
    }
    Err(StoreError::unavailable("a batch is changed by too many at once"))
}

/// The phases of batches that are outlived when nothing came to them for long: drafts, and what an accept left that was cut off.
pub(crate) fn unfinished() -> Document {
    doc! { "$in": [Phase::Draft.number(), Phase::Accepting.number()] }
}

/// Marks such a batch that took nothing since `before_ms`, unless someone sent to it meanwhile; answers whether it did.
pub(crate) async fn mark_draft(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    before_ms: u64,
) -> StoreResult<bool> {
    let filter = doc! {
        "_id": binary(*batch.as_bytes()), "tenant": tenant.as_str(), "phase": unfinished(),
        "touched_ms": { "$lt": int(before_ms) },
    };
    Ok(commands.update(BATCHES, vec![Update::one(filter, marking())]).await?.n == 1)
}

/// Takes the batch off every list; its key may make another one from now on, and nobody can be told of it any more.
fn marking() -> Document {
    let mut change = doc! {
        "$unset": { "idem_key": "", "labels": "", "name": "", "outbox": "" }, "$inc": { "rev": 1_i64 },
    };
    put(&mut change, "$set", "phase", Phase::Deleting.number().into());
    put(&mut change, "$set", "mark", fresh_mark());
    change
}

/// Deletes some of a marked batch; answers whether all of it is gone.
pub(crate) async fn step(commands: &Commands, tenant: &TenantId, batch: BatchId) -> StoreResult<bool> {
    let mut room = RECORDS;
    for (collection, key) in
        [(OUTCOMES, 24), (SLICES, 32), (REPLIES, KEY_OF_BATCH), (SETTLED, 20), (HEADS, 20)]
    {
        let (records, bytes) = some(commands, collection, batch, key, room).await?;
        if bytes > 0 {
            usage::add(commands, tenant, -int(bytes)).await?;
        }
        room -= records;
        if room == 0 || bytes >= BYTES {
            return Ok(false);
        }
    }
    let (blocks, all) = uploads::remove_blocks(commands, tenant, batch.as_bytes(), room).await?;
    room = room.saturating_sub(blocks);
    if !all || room == 0 {
        return Ok(false);
    }
    room -= some(commands, UPLOADS, batch, 32, room).await?.0;
    let told = Query::of(doc! { "batch": binary(*batch.as_bytes()) }).fields(doc! { "_id": 1 });
    let told = commands.find(DELIVERIES, told.limit(room), Concern::Local).await?;
    room -= remove(commands, DELIVERIES, &told).await?;
    if room == 0 {
        return Ok(false);
    }
    finish(commands, tenant, batch).await.map(|()| true)
}

/// Removes the batch itself, and the rows that stand in it.
async fn finish(commands: &Commands, tenant: &TenantId, batch: BatchId) -> StoreResult<()> {
    let marked = doc! { "_id": binary(*batch.as_bytes()), "phase": Phase::Deleting.number() };
    let query = Query::of(marked.clone()).fields(doc! { "size": 1 });
    let found = commands.find_one(BATCHES, query, Concern::Local).await?;
    let rows = found.map_or(Ok(None), |found| Fields(&found).maybe_uint("size"))?.unwrap_or(0);
    if commands.delete(BATCHES, marked).await? > 0 && rows > 0 {
        usage::add(commands, tenant, -int(rows)).await?;
    }
    Ok(())
}

/// Removes up to `limit` of the batch's documents, and no more once their sizes sum up to [`BYTES`]; answers how many, and that sum.
async fn some(
    commands: &Commands,
    collection: &str,
    batch: BatchId,
    key: usize,
    limit: u32,
) -> StoreResult<(u32, u64)> {
    let query = Query::of(doc! { "_id": range(batch.as_bytes(), key) }).fields(doc! { "_id": 1, "size": 1 });
    // The server reads whole documents for it, so it reads no more than are deleted, or a few.
    let mut rows = commands.stream(collection, query.limit(limit), Concern::Local, FEW).await?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while bytes < BYTES
        && let Some(row) = rows.next().await?
    {
        let document = Document::try_from(row).map_err(|_| corrupt(collection))?;
        bytes += Fields(&document).maybe_uint("size")?.unwrap_or(0);
        found.push(document);
    }
    Ok((remove(commands, collection, &found).await?, bytes))
}

async fn remove(commands: &Commands, collection: &str, found: &[Document]) -> StoreResult<u32> {
    let ids: Vec<_> = found.iter().filter_map(|found| found.get("_id").cloned()).collect();
    if !ids.is_empty() {
        commands.delete(collection, doc! { "_id": { "$in": ids } }).await?;
    }
    Ok(u32::try_from(found.len()).unwrap_or(u32::MAX))
}

/// Sees to it that what was written under a batch that is not there is removed. Only a document under its id says whose it is, so it is given one
/// for the sweep of deletions, unless someone else has made the batch meanwhile.
pub(crate) async fn clear_away(commands: &Commands, tenant: &TenantId, batch: BatchId) -> StoreResult<()> {
    let id = binary(*batch.as_bytes());
    let mut deleted = doc! { "_id": id.clone(), "tenant": tenant.as_str(), "rev": 0_i64, "bytes": 0_i64 };
    deleted.insert("phase", Phase::Deleting.number());
    if commands.insert_one(BATCHES, &deleted).await? {
        return Ok(());
    }
    let deleting = Query::of(doc! { "_id": id, "phase": Phase::Deleting.number() }).fields(doc! { "_id": 1 });
    if commands.find_one(BATCHES, deleting, Concern::Local).await?.is_some() {
        // Its deletion may have been past what came late.
        while !step(commands, tenant, batch).await? {}
    }
    Ok(())
}
