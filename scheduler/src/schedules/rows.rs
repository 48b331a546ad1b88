//! The rows of a run: from where its schedule takes them, for the template of the run, into its batch.

use std::sync::Arc;

use promptmill_domain::schedule::RowSource;
use promptmill_domain::{
    Batch, BatchId, BatchState, Counts, RowSetId, Schedule, ScheduleId, TenantId, Tick, UploadId, chunk,
};
use promptmill_intake::{BadRows, Given, PREVIOUS_RUN, Packer, RowsOf, SCHEDULED_AT, Taken, rechecked};
use promptmill_ports::{
    NewBatch, PartCommit, RowBlock, RowSetVersion, Signal, StoreError, StoreResult, flow,
};
use promptmill_rowio::{RowContent, RowProblem, StoredRow, decode_block};
use promptmill_runtime::Engine;
use promptmill_ticks::local_time;
use serde_json::json;

use super::start::{NotStarted, Pinned};
use crate::config::Recurring;

/// Bytes of blocks that are read and written in one step.
const STEP_BYTES: usize = 1 << 20;

/// Ticks that are looked through for the run before.
const TICKS: u32 = 50;

/// Rows that a run takes.
pub(super) struct Rows {
    version: RowSetVersion,
    /// What is made of each block.
    making: Arc<Making>,
    /// The first of the blocks.
    first: Vec<RowBlock>,
    set: RowSetId,
}

/// How the rows of a run are made of those that are stored.
struct Making {
    rows_of: Arc<RowsOf>,
    /// They are taken as they are: they were checked against this template.
    is_ready: bool,
    /// What the run knows of itself.
    given: Given,
}

impl Rows {
    /// Finds the rows of a tick, and reads the first of them.
    pub(super) async fn of(
        engine: &Engine,
        schedule: &Schedule,
        tick: &Tick,
        pinned: Pinned,
    ) -> Result<Self, NotStarted> {
        let tenant = &schedule.tenant;
        let RowSource::Set { set, version } = schedule.run.rows;
        let found = match engine.records.row_set(tenant, set).await {
            Err(StoreError::NotFound) => return Err(NotStarted::never("the row set was deleted")),
            found => found?,
        };
        let Some(version) = found.version(version).cloned() else {
            return Err(NotStarted::never("the row set has no such version any more"));
        };
        let given = given(engine, schedule, tick, &pinned).await?;
        // Rows that came with the schedule were checked against the template that it had then.
        let is_own = set == Schedule::own_rows(schedule.id);
        let is_ready = is_own && given.is_empty() && pinned.source == schedule.run.spec.template;
        let first = engine.records.set_blocks(tenant, set, version.upload, 0, STEP_BYTES).await?;
        let making = Arc::new(Making { rows_of: pinned.rows_of, is_ready, given });
        Ok(Self { version, making, first, set })
    }

    /// How many there are.
    pub(super) const fn count(&self) -> u64 {
        self.version.rows
    }

    /// All of them with their digest, where one block holds them.
    pub(super) async fn whole(&self) -> Result<Option<(RowBlock, [u8; 32])>, NotStarted> {
        let ([block], 1) = (self.first.as_slice(), self.version.blocks) else { return Ok(None) };
        if block.len > chunk::MAX_CHUNK_ROWS {
            return Ok(None);
        }
        let (making, block) = (self.making.clone(), block.clone());
        let made = blocking(move || {
            let mut made = Maker::new(&making);
            let mut blocks = made.blocks(vec![block])?;
            let (last, taken) = made.finish()?;
            blocks.extend(last);
            Ok((blocks, taken))
        });
        let (mut blocks, taken) = made.await?;
        // They may have become larger than a block with what they were given.
        Ok(blocks.pop().filter(|_| blocks.is_empty()).map(|block| (block, taken.digest)))
    }

    /// Makes the batch, stores the rows in it and submits it; answers when.
    pub(super) async fn fill(
        self,
        engine: &Engine,
        recurring: &Recurring,
        tenant: &TenantId,
        batch: NewBatch,
    ) -> Result<u64, NotStarted> {
        let id = batch.id;
        let fill = async |upload| self.put(engine, recurring, tenant, id, upload).await;
        fill_by(engine, tenant, batch, fill).await
    }

    /// Stores the rows, invisible still.
    async fn put(
        &self,
        engine: &Engine,
        recurring: &Recurring,
        tenant: &TenantId,
        batch: BatchId,
        upload: UploadId,
    ) -> Result<Taken, NotStarted> {
        let Self { version, making, first, set } = self;
        let mut maker = Maker::new(making);
        let mut stored = first.clone();
        let mut next = 0;
        while let Some(last) = stored.last() {
            next = last.seq + 1;
            let (moved, blocks);
            (moved, blocks) = blocking(move || {
                let mut maker = maker;
                let blocks = maker.blocks(stored)?;
                Ok((maker, blocks))
            })
            .await?;
            maker = moved;
            put_rows(engine, recurring, tenant, batch, upload, blocks).await?;
            if next >= version.blocks {
                break;
            }
            stored = engine.records.set_blocks(tenant, *set, version.upload, next, STEP_BYTES).await?;
        }
        if next < version.blocks {
            // A version may be deleted while it is read; the next try takes the newest then, or finds that it is gone.
            return Err(NotStarted::NotNow("rows of the row set are missing".to_owned()));
        }
        let (last, taken) = blocking(move || maker.finish()).await?;
        put_rows(engine, recurring, tenant, batch, upload, last.into_iter().collect()).await?;
        Ok(taken)
    }
}

/// Looks what an earlier try left, finishes what it had to, and takes a draft away: its template, its rows and its deadline may be others by now. Answers when the batch
/// was queued, where it was.
pub(super) async fn earlier(engine: &Engine, tenant: &TenantId, id: BatchId) -> StoreResult<Option<u64>> {
    match engine.store.batch(tenant, id).await {
        Ok(batch) if batch.state == BatchState::Draft => delete(engine, tenant, id).await.map(|()| None),
        Ok(batch) => finish(engine, &batch).await.map(Some),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes a draft, all of it.
async fn delete(engine: &Engine, tenant: &TenantId, id: BatchId) -> StoreResult<()> {
    loop {
        match engine.store.delete(tenant, id).await {
            Ok(false) => {}
            Ok(true) | Err(StoreError::NotFound) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Makes the batch, lets `fill` store its rows under an upload, and submits it; answers when.
pub(super) async fn fill_by(
    engine: &Engine,
    tenant: &TenantId,
    batch: NewBatch,
    fill: impl AsyncFnOnce(UploadId) -> Result<Taken, NotStarted>,
) -> Result<u64, NotStarted> {
    let (store, id) = (&engine.store, batch.id);
    store.create(tenant, batch).await?;
    let made = store.batch(tenant, id).await?;
    if made.state != BatchState::Draft {
        // Somebody else was faster.
        return Ok(finish(engine, &made).await?);
    }
    let upload = UploadId::at(engine.clock.now_ms(), rand::random());
    let committed = match fill(upload).await {
        Ok(taken) => {
            let part = PartCommit { part: 0, upload, blocks: taken.blocks, digest: taken.digest };
            store.commit_part(tenant, id, part).await.map_err(NotStarted::from)
        }
        Err(error) => Err(error),
    };
    let batch = store.batch(tenant, id).await?;
    if let (Err(error), BatchState::Draft) = (committed, &batch.state) {
        delete(engine, tenant, id).await?;
        return Err(error);
    }
    // Where it could not be filled here somebody else did.
    Ok(finish(engine, &batch).await?)
}

/// Stores blocks of a batch, as far as the tenant has room.
pub(super) async fn put_rows(
    engine: &Engine,
    recurring: &Recurring,
    tenant: &TenantId,
    batch: BatchId,
    upload: UploadId,
    blocks: Vec<RowBlock>,
) -> Result<(), NotStarted> {
    if blocks.is_empty() {
        return Ok(());
    }
    let now_ms = engine.clock.now_ms();
    let used = engine.store.usage(tenant, now_ms).await?;
    recurring.quotas.room_bytes(&used)?;
    Ok(engine.store.put_rows(tenant, batch, upload, blocks, now_ms).await?)
}

/// Queues a batch whose rows are all there, unless somebody did; answers when.
pub(super) async fn finish(engine: &Engine, batch: &Batch) -> StoreResult<u64> {
    let now_ms = engine.clock.now_ms();
    if let (BatchState::Draft | BatchState::Submitting, lane) = (&batch.state, &batch.spec.lane) {
        flow::submit(engine.store.as_ref(), &batch.tenant, batch.id, lane, now_ms).await?;
    }
    // Whoever waits for it polls as well.
    let _ = engine.signals.publish(Signal::BatchQueued(batch.id)).await;
    Ok(batch.submitted_ms.unwrap_or(now_ms))
}

/// Runs on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NotStarted> + Send + 'static,
) -> Result<T, NotStarted> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| NotStarted::NotNow("the rows could not be read".to_owned()))?
}

/// Makes blocks of a batch of those of a row set.
struct Maker {
    making: Arc<Making>,
    packer: Packer,
    bad: BadRows,
}

impl Maker {
    fn new(making: &Arc<Making>) -> Self {
        Self { making: making.clone(), packer: Packer::default(), bad: BadRows::default() }
    }

    /// What is full after these blocks. Behind a row that does not fit nothing is made any more.
    fn blocks(&mut self, stored: Vec<RowBlock>) -> Result<Vec<RowBlock>, NotStarted> {
        let mut full = Vec::new();
        for block in stored {
            let rows = decode_block(&block.bytes)
                .map_err(|error| NotStarted::never(format!("the row set cannot be read: {error}")))?;
            for row in rows {
                self.bad.rows += 1;
                let row = match self.making.row(row) {
                    Ok(row) => row,
                    Err(problems) => {
                        self.bad.add(self.bad.rows, problems);
                        continue;
                    }
                };
                if self.bad.bad == 0 {
                    full.extend(self.packer.push(&row));
                }
            }
        }
        Ok(full)
    }

    /// The last block, and what was made.
    fn finish(self) -> Result<(Option<RowBlock>, Taken), NotStarted> {
        let Self { packer, bad, .. } = self;
        if bad.bad > 0 {
            let first = bad.problems.first().map(|bad| format!(": row {}: {}", bad.line, bad.problem));
            let why = format!("{}{}", bad.summary(), first.unwrap_or_default());
            return Err(NotStarted::never(why));
        }
        let (last, taken) = packer.finish();
        if taken.rows == 0 {
            return Err(NotStarted::never("there are no rows"));
        }
        Ok((last, taken))
    }
}

impl Making {
    /// The row as the batch has it.
    fn row(&self, row: StoredRow) -> Result<StoredRow, Vec<RowProblem>> {
        if self.is_ready {
            return Ok(row);
        }
        let row = match &row.content {
            RowContent::Variables(json) if !self.given.is_empty() => {
                StoredRow::of_variables(row.custom_id.clone(), self.given.added_to(json))
            }
            RowContent::Variables(_) | RowContent::Messages(_) => row,
        };
        rechecked(self.rows_of.parsed(), row)
    }
}

/// What the template asks for of what a run knows.
async fn given(
    engine: &Engine,
    schedule: &Schedule,
    tick: &Tick,
    pinned: &Pinned,
) -> Result<Given, NotStarted> {
    let asks = |name| Given::is_asked_for(pinned.rows_of.parsed(), name);
    let local = |at_ms| local_time(&schedule.timing.rule, at_ms);
    let mut given = Given::default();
    if asks(SCHEDULED_AT) {
        given.push(SCHEDULED_AT, &json!(local(tick.at_ms)));
    }
    if asks(PREVIOUS_RUN) {
        let previous = previous(engine, &tick.tenant, tick.schedule, tick.at_ms).await?;
        let (at_ms, batch) = previous.unzip();
        let batch = batch.flatten();
        let counts = batch.as_ref().and_then(|batch| batch.final_counts.as_ref());
        let known = json!({
            "scheduled_at": at_ms.map(local),
            "batch": batch.as_ref().map(|batch| batch.id.to_string()),
            "state": batch.as_ref().map(|batch| batch.state.as_str()),
            "rows": batch.as_ref().map(|batch| batch.total),
            "succeeded": counts.map(Counts::all_succeeded),
            "failed": counts.map(Counts::all_failed),
        });
        given.push(PREVIOUS_RUN, &known);
    }
    Ok(given)
}

/// The last run before a time, and its batch where that is there still.
async fn previous(
    engine: &Engine,
    tenant: &TenantId,
    schedule: ScheduleId,
    at_ms: u64,
) -> StoreResult<Option<(u64, Option<Batch>)>> {
    let mut before = at_ms;
    loop {
        let ticks = engine.records.ticks(tenant, schedule, Some(before), TICKS).await?;
        let ran = ticks.iter().find_map(|tick| Some((tick.at_ms, tick.state.last_batch()?)));
        if let Some((at_ms, retry)) = ran {
            return match engine.store.batch(tenant, Tick::batch(schedule, at_ms, retry)).await {
                Ok(batch) => Ok(Some((at_ms, Some(batch)))),
                Err(StoreError::NotFound) => Ok(Some((at_ms, None))),
                Err(error) => Err(error),
            };
        }
        match ticks.last() {
            Some(last) if ticks.len() == TICKS as usize => before = last.at_ms,
            Some(_) | None => return Ok(None),
        }
    }
}
