//! `Intake`: rows come in, a draft becomes a queued batch.

use std::sync::Arc;

use async_trait::async_trait;
use promptmill_domain::chunk::{ChunkCut, FrozenPart, MAX_CHUNK_ROWS};
use promptmill_domain::{BatchEvent, BatchId, BatchState, ItemCode, LaneId, TenantId, UploadId};
use promptmill_ports::{
    Accepted, Created, Intake, NewBatch, PartCommit, RowBlock, StoreResult, WholeBatch, flow,
};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::SqliteStore;
use crate::batches::{self, BatchNum, Found, Phase, int, to_json};
use crate::fault::Fault;
use crate::heads::WAITING;
use crate::{delete, uploads, usage};

/// About what a small record costs in a group.
const SMALL: usize = 512;

#[async_trait]
impl Intake for SqliteStore {
    async fn create(&self, tenant: &TenantId, batch: NewBatch) -> StoreResult<Created> {
        let tenant = tenant.clone();
        self.write(SMALL + batch.spec.template.len(), move |db| create(db, &tenant, &batch)).await
    }

    async fn accept(&self, tenant: &TenantId, whole: WholeBatch) -> StoreResult<Accepted> {
        let tenant = tenant.clone();
        let cuts = flow::cut_whole(&whole, whole.batch.spec.chunk_rows)?;
        let bytes = whole.batch.spec.template.len() + whole.rows.bytes.len() + whole.rows.ids.len();
        self.write(SMALL * (2 + cuts.len()) + bytes, move |db| accept(db, &tenant, &whole, &cuts)).await
    }

    async fn put_rows(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        upload: UploadId,
        blocks: Vec<RowBlock>,
        now_ms: u64,
    ) -> StoreResult<()> {
        let tenant = tenant.clone();
        let bytes = blocks.iter().map(|block| block.bytes.len() + block.ids.len()).sum();
        self.write(bytes, move |db| put_rows(db, &tenant, batch, upload, &blocks, now_ms)).await
    }

    async fn drop_upload(&self, tenant: &TenantId, batch: BatchId, upload: UploadId) -> StoreResult<()> {
        loop {
            let tenant = tenant.clone();
            let step = move |db: &Connection| uploads::drop_some(db, &tenant, batch, upload);
            if self.write(delete::STEP_BYTES, step).await? {
                return Ok(());
            }
        }
    }

    async fn commit_part(&self, tenant: &TenantId, batch: BatchId, part: PartCommit) -> StoreResult<()> {
        let tenant = tenant.clone();
        self.write(SMALL, move |db| commit_part(db, &tenant, batch, &part)).await
    }

    async fn begin_submit(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<Vec<FrozenPart>> {
        let tenant = tenant.clone();
        self.write(SMALL, move |db| begin_submit(db, &tenant, batch)).await
    }

    async fn put_heads(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        lane: &LaneId,
        cuts: &[ChunkCut],
    ) -> StoreResult<()> {
        let (tenant, lane, cuts): (_, _, Arc<[_]>) = (tenant.clone(), lane.clone(), cuts.into());
        self.write(SMALL * cuts.len(), move |db| put_heads(db, &tenant, batch, &lane, &cuts)).await
    }

    async fn finish_submit(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        chunks: u32,
        total: u32,
        now_ms: u64,
    ) -> StoreResult<()> {
        let tenant = tenant.clone();
        self.write(SMALL, move |db| finish_submit(db, &tenant, batch, chunks, total, now_ms)).await
    }
}

fn create(db: &Connection, tenant: &TenantId, batch: &NewBatch) -> Result<Created, Fault> {
    if let Some(key) = &batch.idem_key {
        let sql = "SELECT id FROM batches WHERE tenant = ?1 AND idem_key = ?2";
        let made: Option<[u8; 16]> =
            db.prepare_cached(sql)?.query_row(params![tenant.as_str(), key], |row| row.get(0)).optional()?;
        if let Some(id) = made {
            return Ok(Created::Existing(BatchId::from_bytes(id)));
        }
    }
    let sql = "SELECT tenant = ?2 AND phase <> 3 FROM batches WHERE id = ?1";
    let known = params![batch.id.as_bytes(), tenant.as_str()];
    match db.prepare_cached(sql)?.query_row(known, |row| row.get(0)).optional()? {
        Some(true) => return Ok(Created::Existing(batch.id)),
        Some(false) => return Err(Fault::conflict("the batch id is taken")),
        None => {}
    }
    let sql =
        "INSERT INTO batches(id, tenant, idem_key, phase, state, ver, total, created_ms, limits, name, spec)
        VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6, ?7, ?8, ?9)";
    db.prepare_cached(sql)?.execute(params![
        batch.id.as_bytes(),
        tenant.as_str(),
        batch.idem_key,
        Phase::Draft as i64,
        to_json(&BatchState::Draft),
        int(batch.now_ms),
        to_json(&batch.limits),
        batch.spec.name,
        to_json(&batch.spec),
    ])?;
    if db.last_insert_rowid() > i64::from(i32::MAX) {
        // The number is the upper half of a signed 64-bit key.
        return Err(Fault::conflict("this store has no more numbers for batches"));
    }
    let mut label =
        db.prepare_cached("INSERT INTO batch_labels(tenant, key, value, id) VALUES (?1, ?2, ?3, ?4)")?;
    for (key, value) in &batch.spec.labels {
        label.execute(params![tenant.as_str(), key, value, batch.id.as_bytes()])?;
    }
    Ok(Created::New)
}

/// The steps from the create to the submit, one after the other in one transaction.
fn accept(
    db: &Connection,
    tenant: &TenantId,
    whole: &WholeBatch,
    cuts: &[ChunkCut],
) -> Result<Accepted, Fault> {
    let new = &whole.batch;
    if let Created::Existing(id) = create(db, tenant, new)? {
        return Ok(Accepted::Existing(id));
    }
    let upload = whole.upload();
    put_rows(db, tenant, new.id, upload, std::slice::from_ref(&whole.rows), new.now_ms)?;
    let part = PartCommit { part: 0, upload, blocks: 1, digest: whole.digest };
    commit_part(db, tenant, new.id, &part)?;
    begin_submit(db, tenant, new.id)?;
    put_heads(db, tenant, new.id, &new.spec.lane, cuts)?;
    let chunks = u32::try_from(cuts.len()).unwrap_or(u32::MAX);
    finish_submit(db, tenant, new.id, chunks, whole.rows.len, new.now_ms)?;
    Ok(Accepted::New(Box::new(batches::load(db, tenant, new.id)?)))
}

fn draft(db: &Connection, tenant: &TenantId, batch: BatchId, what: &str) -> Result<Found, Fault> {
    let found = batches::owned(db, tenant, batch)?;
    if found.state == BatchState::Draft {
        return Ok(found);
    }
    Err(Fault::conflict(format!("a batch that is {} takes no {what}", found.state.as_str())))
}

fn put_rows(
    db: &Connection,
    tenant: &TenantId,
    batch: BatchId,
    upload: UploadId,
    blocks: &[RowBlock],
    now_ms: u64,
) -> Result<(), Fault> {
    let num = draft(db, tenant, batch, "rows")?.num;
    uploads::touch(db, num, upload, now_ms)?;
    let mut insert = db.prepare_cached(
        "INSERT OR IGNORE INTO row_blocks(num, upload, seq, len, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let mut insert_ids = db.prepare_cached("INSERT INTO row_ids(id, ids) VALUES (?1, ?2)")?;
    let mut stored = 0;
    for block in blocks {
        let values = params![num.0, upload.as_bytes(), block.seq, block.len, &block.bytes[..]];
        if insert.execute(values)? == 0 {
            continue;
        }
        stored += block.bytes.len() as u64;
        if !block.ids.is_empty() {
            insert_ids.execute(params![db.last_insert_rowid(), &block.ids[..]])?;
        }
    }
    usage::add_bytes(db, tenant, stored)
}

fn commit_part(db: &Connection, tenant: &TenantId, batch: BatchId, part: &PartCommit) -> Result<(), Fault> {
    let num = draft(db, tenant, batch, "parts")?.num;
    uploads::become_part(db, num, part.upload)?;
    let sql =
        "SELECT count(*), coalesce(sum(len), 0) FROM row_blocks WHERE num = ?1 AND upload = ?2 AND seq < ?3";
    let (stored, rows): (u32, i64) =
        db.prepare_cached(sql)?.query_row(params![num.0, part.upload.as_bytes(), part.blocks], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    if stored != part.blocks {
        return Err(Fault::conflict(format!("the upload has {stored} of its {} blocks", part.blocks)));
    }
    let sql = "SELECT upload FROM parts WHERE num = ?1 AND part = ?2";
    let old: Option<[u8; 16]> =
        db.prepare_cached(sql)?.query_row(params![num.0, part.part], |row| row.get(0)).optional()?;
    let sql = "INSERT OR REPLACE INTO parts(num, part, upload, blocks, digest, rows) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    db.prepare_cached(sql)?.execute(params![
        num.0,
        part.part,
        part.upload.as_bytes(),
        part.blocks,
        part.digest,
        rows,
    ])?;
    match old.map(UploadId::from_bytes) {
        // What is left of a large one is swept with the abandoned.
        Some(old) if old != part.upload => uploads::give_up(db, num, old).map(|_| ()),
        Some(_) | None => Ok(()),
    }
}

fn begin_submit(db: &Connection, tenant: &TenantId, batch: BatchId) -> Result<Vec<FrozenPart>, Fault> {
    let found = batches::owned(db, tenant, batch)?;
    let next = found.state.decide(&BatchEvent::BeginSubmit)?;
    let parts = frozen_parts(db, found.num)?;
    let rows: u64 = parts.iter().flat_map(|part| &part.blocks).map(|len| u64::from(*len)).sum();
    if rows == 0 {
        return Err(Fault::conflict("the batch has no rows"));
    }
    if rows > u64::from(u32::MAX) {
        return Err(Fault::conflict("the batch has too many rows"));
    }
    if next != found.state {
        batches::set_state(db, found.num, &next)?;
    }
    Ok(parts)
}

fn frozen_parts(db: &Connection, num: BatchNum) -> Result<Vec<FrozenPart>, Fault> {
    let mut parts = db.prepare_cached("SELECT upload, blocks FROM parts WHERE num = ?1 ORDER BY part")?;
    let parts = parts.query_map([num.0], |row| Ok((UploadId::from_bytes(row.get(0)?), row.get(1)?)))?;
    let mut lens = db.prepare_cached(
        "SELECT len FROM row_blocks WHERE num = ?1 AND upload = ?2 AND seq < ?3 ORDER BY seq",
    )?;
    let mut frozen = Vec::new();
    for part in parts {
        let (upload, count): (UploadId, u32) = part?;
        let blocks = lens.query_map(params![num.0, upload.as_bytes(), count], |row| row.get(0))?;
        frozen.push(FrozenPart { upload, blocks: blocks.collect::<Result<_, _>>()? });
    }
    Ok(frozen)
}

fn put_heads(
    db: &Connection,
    tenant: &TenantId,
    batch: BatchId,
    lane: &LaneId,
    cuts: &[ChunkCut],
) -> Result<(), Fault> {
    let found = batches::owned(db, tenant, batch)?;
    match Phase::of(&found.state) {
        Phase::Draft => return Err(Fault::conflict("a draft has no chunks")),
        // Someone else finished the same submit: all heads exist.
        _ if found.state != BatchState::Submitting => return Ok(()),
        _ => {}
    }
    let sql = "INSERT OR IGNORE INTO heads(id, first, state, ver, settles, kills, upload, seq, skip, calls, prompt_tokens,
            completion_tokens, cost, lane, parked_len, done) VALUES (?1, ?2, ?3, 0, 0, 0, ?4, ?5, ?6, 0, 0, 0, 0, ?7, 0, ?8)";
    let mut insert = db.prepare_cached(sql)?;
    for cut in cuts {
        if cut.len > MAX_CHUNK_ROWS {
            return Err(Fault::conflict(format!("a chunk has at most {MAX_CHUNK_ROWS} rows")));
        }
        insert.execute(params![
            found.num.key(cut.n),
            found.num.key(cut.base),
            WAITING,
            cut.rows.upload.as_bytes(),
            cut.rows.seq,
            cut.rows.skip,
            lane.as_str(),
            vec![ItemCode::Open.byte(); cut.len as usize],
        ])?;
    }
    Ok(())
}

fn finish_submit(
    db: &Connection,
    tenant: &TenantId,
    batch: BatchId,
    chunks: u32,
    total: u32,
    now_ms: u64,
) -> Result<(), Fault> {
    let found = batches::owned(db, tenant, batch)?;
    if Phase::of(&found.state) != Phase::Draft && found.state != BatchState::Submitting {
        return Ok(());
    }
    let next = found.state.decide(&BatchEvent::FinishSubmit)?;
    let (first, last) = found.num.range();
    let stored: u32 = db
        .prepare_cached("SELECT count(*) FROM heads WHERE id BETWEEN ?1 AND ?2")?
        .query_row([first, last], |row| row.get(0))?;
    if stored != chunks {
        return Err(Fault::conflict(format!("{stored} of the batch's {chunks} chunks exist")));
    }
    db.prepare_cached("UPDATE batches SET total = ?2, submitted_ms = ?3 WHERE num = ?1")?
        .execute(params![found.num.0, total, int(now_ms)])?;
    batches::set_state(db, found.num, &next)?;
    usage::add_rows(db, tenant, total, now_ms)?;
    batches::bump_changes(db)
}
