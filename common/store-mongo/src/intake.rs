//! `Intake`: rows come in, a draft becomes a queued batch.

use std::sync::Arc;

use async_trait::async_trait;
use mongodb::bson::raw::cstr;
use mongodb::bson::{Bson, Document, RawBsonRef, doc};
use promptmill_domain::chunk::{ChunkCut, FrozenPart, MAX_CHUNK_ROWS};
use promptmill_domain::{BatchEvent, BatchId, BatchState, LaneId, TenantId, UploadId};
use promptmill_ports::{
    Accepted, Created, Intake, NewBatch, PartCommit, RowBlock, StoreError, StoreResult, WholeBatch,
};

use crate::MongoStore;
use crate::batches::{self, Phase, put};
use crate::codec::{Fields, binary, conflict, int, number, range, raw_binary, raw_document, to_json};
use crate::collections::{BATCHES, HEADS, ROW_IDS, ROWS};
use crate::commands::{Commands, Concern, Query, Update, encode, fresh_mark};
use crate::parts::{self, CommittedPart};
use crate::uploads::{self, row_key};
use crate::{accept, heads, usage};

/// How often a create looks again when what stood in its way is gone.
const TRIES: u32 = 8;

#[async_trait]
impl Intake for MongoStore {
    async fn create(&self, tenant: &TenantId, batch: NewBatch) -> StoreResult<Created> {
        let created = create(self.commands(), tenant, &batch).await?;
        if created == Created::New {
            self.kept_bytes().add(tenant, to_json(&batch.spec).len());
        }
        Ok(created)
    }

    async fn accept(&self, tenant: &TenantId, whole: WholeBatch) -> StoreResult<Accepted> {
        let call = accept::Call::new(tenant, whole)?;
        let (bytes, store) = (call.bytes(), self.clone());
        let run = move |calls: Arc<[accept::Call]>| {
            let store = store.clone();
            async move { accept::accept(&store, &calls).await }
        };
        self.together().accepts.call(call, bytes, run).await
    }

    async fn put_rows(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        upload: UploadId,
        blocks: Vec<RowBlock>,
        now_ms: u64,
    ) -> StoreResult<()> {
        put_rows(self.commands(), tenant, batch, upload, &blocks, now_ms).await
    }

    async fn drop_upload(&self, tenant: &TenantId, batch: BatchId, upload: UploadId) -> StoreResult<()> {
        uploads::drop_upload(self.commands(), tenant, batch, upload).await
    }

    async fn commit_part(&self, tenant: &TenantId, batch: BatchId, part: PartCommit) -> StoreResult<()> {
        commit_part(self.commands(), tenant, batch, &part).await
    }

    async fn begin_submit(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Vec<FrozenPart>> {
        begin_submit(self.commands(), tenant, batch).await
    }

    async fn put_heads(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        lane: &LaneId,
        cuts: &[ChunkCut],
    ) -> StoreResult<()> {
        put_heads(self.commands(), tenant, batch, lane, cuts).await
    }

    async fn finish_submit(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        chunks: u32,
        total: u32,
        now_ms: u64,
    ) -> StoreResult<()> {
        finish_submit(self.commands(), tenant, batch, chunks, total, now_ms).await
    }
}

async fn create(commands: &Commands, tenant: &TenantId, batch: &NewBatch) -> StoreResult<Created> {
    let mark = fresh_mark();
    let spec = to_json(&batch.spec);
    let document = new_document(tenant, batch, spec, mark.clone());
    for _ in 0..TRIES {
        // One that is there may be ours: the answer to its insert was lost.
        if commands.insert_one(BATCHES, &document).await? || is_mine(commands, batch.id, &mark).await? {
            return Ok(Created::New);
        }
        if let Some(made) = made_before(commands, tenant, batch).await? {
            return made;
        }
    }
    Err(StoreError::unavailable("a batch is made and deleted by too many at once"))
}

async fn is_mine(commands: &Commands, batch: BatchId, mark: &Bson) -> StoreResult<bool> {
    let query = Query::of(doc! { "_id": binary(*batch.as_bytes()), "mark": mark.clone() });
    Ok(commands.find_one(BATCHES, query.fields(doc! { "_id": 1 }), Concern::Local).await?.is_some())
}

/// What an earlier create made: under the key, or else under the id.
async fn made_before(
    commands: &Commands,
    tenant: &TenantId,
    batch: &NewBatch,
) -> StoreResult<Option<StoreResult<Created>>> {
    let mut either = vec![doc! { "_id": binary(*batch.id.as_bytes()) }];
    if let Some(key) = &batch.idem_key {
        either.push(doc! { "tenant": tenant.as_str(), "idem_key": key });
    }
    let fields = doc! { "tenant": 1, "phase": 1, "idem_key": 1 };
    let found =
        commands.find(BATCHES, Query::of(doc! { "$or": either }).fields(fields), Concern::Local).await?;
    let has_key = |found: &&Document| {
        batch.idem_key.is_some()
            && found.get_str("tenant").ok() == Some(tenant.as_str())
            && found.get_str("idem_key").ok() == batch.idem_key.as_deref()
    };
    let Some(one) = found.iter().find(has_key).or(found.first()) else {
        return Ok(None);
    };
    let id = BatchId::from_bytes(Fields(one).id("_id")?);
    let phase = Phase::from_number(Fields(one).small("phase")?)?;
    if Fields(one).tenant("tenant")? != *tenant || phase == Phase::Deleting {
        return Ok(Some(Err(conflict("the batch id is taken"))));
    }
    if phase == Phase::Accepting {
        return Ok(Some(Err(StoreError::unavailable("the batch is being made by someone else"))));
    }
    Ok(Some(Ok(Created::Existing(id))))
}

/// The document of a batch as it is made.
pub(crate) fn new_document(tenant: &TenantId, batch: &NewBatch, spec: String, mark: Bson) -> Document {
    let mut document = doc! {
        "_id": binary(*batch.id.as_bytes()), "tenant": tenant.as_str(), "rev": 0_i64, "mark": mark, "total": 0_i64,
        "bytes": int(spec.len() as u64),
        "created_ms": int(batch.now_ms), "touched_ms": int(batch.now_ms), "limits": to_json(&batch.limits), "spec": spec,
        "tells": batch.spec.webhook.is_some(),
    };
    document.extend(batches::set_state(&BatchState::Draft, 0));
    if let Some(key) = &batch.idem_key {
        document.insert("idem_key", key);
    }
    if let Some(name) = &batch.spec.name {
        document.insert("name", name);
    }
    if let Some(retention_ms) = batch.spec.retention_ms {
        document.insert("retention_ms", int(retention_ms));
    }
    let labels: Vec<_> =
        batch.spec.labels.iter().map(|(key, value)| crate::lists::label(key, value)).collect();
    if !labels.is_empty() {
        document.insert("labels", labels);
    }
    document
}

/// That a batch in this state takes no more.
fn takes_no(state: &BatchState, what: &str) -> StoreError {
    conflict(format!("a batch that is {} takes no {what}", state.as_str()))
}

async fn put_rows(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    upload: UploadId,
    blocks: &[RowBlock],
    now_ms: u64,
) -> StoreResult<()> {
    touch_draft(commands, tenant, batch, upload, now_ms).await?;
    uploads::touch(commands, batch, upload, now_ms).await?;
    let placed: Vec<_> = blocks.iter().map(|block| (batch, upload, block)).collect();
    let is_new = insert_blocks(commands, &placed).await?;
    let inserted: Vec<_> =
        blocks.iter().zip(is_new).filter_map(|(block, is_new)| is_new.then_some(block)).collect();
    let bytes: u64 = inserted.iter().map(|block| block.bytes.len() as u64).sum();
    // Whoever gave the upload up, or the batch, may have removed its blocks before these were there.
    let (counted, owned, living) = tokio::join!(
        usage::add(commands, tenant, int(bytes)),
        batches::owned(commands, tenant, batch, doc! { "_id": 1 }, Concern::Local),
        uploads::is_living(commands, batch, upload),
    );
    counted?;
    if owned.is_ok() && living? {
        return Ok(());
    }
    for block in inserted {
        uploads::remove_blocks(commands, tenant, &row_key(batch, upload, block.seq), 1).await?;
    }
    owned.and(Err(uploads::given_up()))
}

/// Notes a sign of life of the draft.
async fn touch_draft(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    upload: UploadId,
    now_ms: u64,
) -> StoreResult<()> {
    let mut draft = doc! {
        "_id": binary(*batch.as_bytes()), "tenant": tenant.as_str(), "phase": Phase::Draft.number(),
        "given_up": { "$ne": binary(*upload.as_bytes()) },
    };
    draft.insert(format!("given_up.{}", uploads::MAX_GIVEN_UP), doc! { "$exists": false });
    let change = doc! { "$max": { "touched_ms": int(now_ms) } };
    if commands.update(BATCHES, vec![Update::one(draft, change)]).await?.n == 1 {
        return Ok(());
    }
    let fields = doc! { "state": 1, "given_up": 1 };
    let found = batches::owned(commands, tenant, batch, fields, Concern::Local).await?;
    let state = batches::state_of(&found)?;
    if state != BatchState::Draft {
        return Err(takes_no(&state, "rows"));
    }
    if uploads::was_given_up(&found, upload) {
        return Err(uploads::given_up());
    }
    Err(conflict("too many uploads of the batch were given up"))
}

/// Inserts the blocks that are not there; answers for each whether it is new. Hashes of custom ids come first, so that no block is
/// without its own.
pub(crate) async fn insert_blocks(
    commands: &Commands,
    blocks: &[(BatchId, UploadId, &RowBlock)],
) -> StoreResult<Vec<bool>> {
    let with_ids = blocks.iter().filter(|(_, _, block)| !block.ids.is_empty());
    let ids = with_ids.map(|(batch, upload, block)| {
        let key = row_key(*batch, *upload, block.seq);
        raw_document(&[(cstr!("_id"), raw_binary(&key)), (cstr!("ids"), raw_binary(&block.ids))])
    });
    let ids: Vec<_> = ids.collect();
    if !ids.is_empty() {
        commands.insert(ROW_IDS, ids).await?;
    }
    let rows = blocks.iter().map(|(batch, upload, block)| {
        let key = row_key(*batch, *upload, block.seq);
        let size = i64::try_from(block.bytes.len()).unwrap_or(i64::MAX);
        raw_document(&[
            (cstr!("_id"), raw_binary(&key)),
            (cstr!("len"), RawBsonRef::Int64(i64::from(block.len))),
            (cstr!("size"), RawBsonRef::Int64(size)),
            (cstr!("bytes"), raw_binary(&block.bytes)),
        ])
    });
    let there = commands.insert(ROWS, rows.collect()).await?.duplicates;
    Ok((0..blocks.len()).map(|at| !there.contains(&at)).collect())
}

async fn commit_part(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    part: &PartCommit,
) -> StoreResult<()> {
    let fields = doc! { "state": 1, "parts": 1, "given_up": 1 };
    let (found, lens) = tokio::join!(
        batches::to_change(commands, tenant, batch, fields.clone()),
        parts::lens(commands, batch, part.upload, part.blocks),
    );
    let (found, lens) = (found?, lens?);
    let state = batches::state_of(&found)?;
    if state != BatchState::Draft {
        return Err(takes_no(&state, "parts"));
    }
    if lens.len() != part.blocks as usize {
        let (stored, wanted) = (lens.len(), part.blocks);
        return Err(conflict(format!("the upload has {stored} of its {wanted} blocks")));
    }
    let rows = lens.iter().map(|len| u64::from(*len)).sum();
    let committed = CommittedPart {
        part: part.part,
        upload: part.upload,
        blocks: part.blocks,
        digest: part.digest,
        rows,
    };
    if let Some(old) = parts::replaced(&found, &committed)? {
        uploads::note_replacing(commands, batch, old).await?;
    }
    let mut given_up = None;
    batches::change_found(commands, tenant, batch, fields, found, |found| {
        let state = batches::state_of(found)?;
        if state != BatchState::Draft {
            return Err(takes_no(&state, "parts"));
        }
        // Blocks go only after this was said, so they are all there unless it was.
        if uploads::was_given_up(found, part.upload) {
            return Err(uploads::given_up());
        }
        given_up = parts::replaced(found, &committed)?;
        parts::with(found, &committed)
    })
    .await?;
    uploads::note_part(commands, batch, part.upload).await?;
    match given_up {
        Some(old) => uploads::remove(commands, tenant, batch, old).await,
        None => Ok(()),
    }
}

async fn begin_submit(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
) -> StoreResult<Vec<FrozenPart>> {
    let fields = doc! { "state": 1, "ver": 1, "parts": 1 };
    let mut frozen = Vec::new();
    batches::change(commands, tenant, batch, fields, |found| {
        let state = batches::state_of(found)?;
        let next = state.decide(&BatchEvent::BeginSubmit)?;
        frozen = parts::of(found)?;
        let rows: u64 = frozen.iter().map(|part| part.rows).sum();
        if rows == 0 {
            return Err(conflict("the batch has no rows"));
        }
        if rows > u64::from(u32::MAX) {
            return Err(conflict("the batch has too many rows"));
        }
        let ver = Fields(found).uint("ver")? + 1;
        Ok((next != state).then(|| doc! { "$set": batches::set_state(&next, ver) }))
    })
    .await?;
    let mut answer = Vec::with_capacity(frozen.len());
    for part in frozen {
        let blocks = parts::lens(commands, batch, part.upload, part.blocks).await?;
        answer.push(FrozenPart { upload: part.upload, blocks });
    }
    Ok(answer)
}

async fn put_heads(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    lane: &LaneId,
    cuts: &[ChunkCut],
) -> StoreResult<()> {
    let found = batches::owned(commands, tenant, batch, doc! { "state": 1 }, Concern::Local).await?;
    match batches::state_of(&found)? {
        BatchState::Draft => return Err(conflict("a draft has no chunks")),
        BatchState::Submitting => {}
        // Someone else finished the same submit: all heads exist.
        _ => return Ok(()),
    }
    if cuts.iter().any(|cut| cut.len > MAX_CHUNK_ROWS) {
        return Err(conflict(format!("a chunk has at most {MAX_CHUNK_ROWS} rows")));
    }
    if cuts.is_empty() {
        return Ok(());
    }
    let documents = cuts.iter().map(|cut| encode(&heads::fresh(tenant, batch, lane, cut)));
    commands.insert(HEADS, documents.collect::<StoreResult<_>>()?).await.map(|_| ())
}

async fn finish_submit(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    chunks: u32,
    total: u32,
    now_ms: u64,
) -> StoreResult<()> {
    let fields = doc! { "state": 1, "ver": 1 };
    let (found, stored) = tokio::join!(
        batches::to_change(commands, tenant, batch, fields.clone()),
        count_heads(commands, batch),
    );
    let (found, stored) = (found?, stored?);
    let changed = batches::change_found(commands, tenant, batch, fields, found, |found| {
        let state = batches::state_of(found)?;
        if !matches!(state, BatchState::Draft | BatchState::Submitting) {
            return Ok(None);
        }
        let next = state.decide(&BatchEvent::FinishSubmit)?;
        if stored != u64::from(chunks) {
            return Err(conflict(format!("{stored} of the batch's {chunks} chunks exist")));
        }
        let ver = Fields(found).uint("ver")? + 1;
        let mut operators = doc! { "$set": batches::set_state(&next, ver) };
        put(&mut operators, "$set", "total", i64::from(total).into());
        put(&mut operators, "$set", "submitted_ms", int(now_ms).into());
        Ok(Some(operators))
    })
    .await?;
    let rows = if changed { total } else { 0 };
    // Whoever repeats the step may be the first to come this far.
    let (counted, told) =
        tokio::join!(usage::add_rows(commands, tenant, rows, now_ms), batches::bump_changes(commands));
    counted.and(told)
}

async fn count_heads(commands: &Commands, batch: BatchId) -> StoreResult<u64> {
    let pipeline =
        vec![doc! { "$match": { "_id": range(batch.as_bytes(), 20) } }, doc! { "$count": "heads" }];
    let counted = commands.aggregate(HEADS, pipeline, Concern::Local).await?;
    Ok(counted.first().and_then(|counted| counted.get("heads")).and_then(number).unwrap_or(0))
}
