//! The rows of a run: from where its schedule takes them, for the template of the run, into its batch.

use std::sync::Arc;

use promptmill_domain::schedule::{RowSource, WhySkipped};
use promptmill_domain::{
    Batch, BatchId, BatchState, Counts, RowSetId, Schedule, TenantId, Tick, UploadId, chunk,
};
use promptmill_intake::{
    BadRows, Given, PREVIOUS_OUTCOME, PREVIOUS_RUN, Packer, Refused, RowsOf, SCHEDULED_AT, Taken, is_given,
    rechecked,
};
use promptmill_ports::{
    NewBatch, PartCommit, RowBlock, RowSetVersion, Signal, StoreError, StoreResult, flow,
};
use promptmill_rowio::{RowContent, RowProblem, StoredRow, decode_block};
use promptmill_runtime::Engine;
use promptmill_ticks::local_time;
use serde_json::json;
use tokio::sync::mpsc;

use super::previous::{self, Came, Items, Previous};
use super::served::Served;
use super::start::{NotStarted, Pinned, may_still};
use crate::config::Recurring;

/// Bytes of blocks that are read and written in one step.
const STEP_BYTES: usize = 1 << 20;

/// Rows that a run takes.
pub(super) struct Rows {
    from: From,
    /// What is made of each.
    making: Arc<Making>,
}

/// Where rows are.
enum From {
    /// In a row set.
    Set {
        set: RowSetId,
        version: RowSetVersion,
        /// The first of the blocks.
        first: Vec<RowBlock>,
    },
    /// In the batches of the run before.
    Previous(Previous),
}

/// How the rows of a run are made of those that are stored.
struct Making {
    rows_of: Arc<RowsOf>,
    /// They are taken as they are: they were checked against this template.
    is_ready: bool,
    /// What the run knows of itself.
    given: Given,
    /// Whether it knows what became of each row before.
    knows_outcomes: bool,
    /// Whether rows may not bring what they are given: the next run takes them from this one.
    reserves: bool,
}

impl Rows {
    /// Finds the rows of a tick, and reads the first of them. That may take minutes where a server is asked for them.
    pub(super) async fn of(
        engine: &Engine,
        recurring: &Recurring,
        served: &Served,
        schedule: &Schedule,
        tick: &Tick,
        pinned: Pinned,
    ) -> Result<Self, NotStarted> {
        let tenant = &schedule.tenant;
        let mut given = given(engine, schedule, tick, &pinned).await?;
        let previous = match &schedule.run.previous {
            Some(asked) => Previous::of(engine, schedule, tick, asked).await?,
            None => None,
        };
        let asks = Given::is_asked_for(pinned.rows_of.parsed(), PREVIOUS_OUTCOME);
        let knows_outcomes = asks && schedule.run.previous.is_some();
        let making = |given, is_ready| {
            let reserves = schedule.run.previous.is_some();
            Arc::new(Making { rows_of: pinned.rows_of.clone(), is_ready, given, knows_outcomes, reserves })
        };
        if let Some(previous) = previous {
            if previous.count() == 0 {
                return Err(NotStarted::Skip(WhySkipped::NoRows));
            }
            return Ok(Self { from: From::Previous(previous), making: making(given, false) });
        }
        if knows_outcomes {
            given.push(PREVIOUS_OUTCOME, &Came::default());
        }
        let own = Schedule::own_rows(schedule.id);
        let (set, version) = match &schedule.run.rows {
            RowSource::Set { set, version } => (*set, stored(engine, schedule, tick, *set, *version).await?),
            RowSource::Http(http) => (own, served.newest(engine, recurring, schedule, tick, http).await?),
        };
        // Rows that came with the schedule were checked against the template that it had then.
        let is_ready =
            schedule.has_own_rows() && given.is_empty() && pinned.source == schedule.run.spec.template;
        let first = engine.records.set_blocks(tenant, set, version.upload, 0, STEP_BYTES).await?;
        Ok(Self { from: From::Set { set, version, first }, making: making(given, is_ready) })
    }

    /// How many there are.
    pub(super) const fn count(&self) -> u64 {
        match &self.from {
            From::Set { version, .. } => version.rows,
            From::Previous(previous) => previous.count(),
        }
    }

    /// All of them with their digest, where one stored block holds them.
    pub(super) async fn whole(&self) -> Result<Option<(RowBlock, [u8; 32])>, NotStarted> {
        let From::Set { version, first, .. } = &self.from else { return Ok(None) };
        let ([block], 1) = (first.as_slice(), version.blocks) else { return Ok(None) };
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
        let fill = async |upload| {
            let to = To { engine, recurring, tenant, batch: id, upload };
            let maker = Maker::new(&self.making);
            let maker = match &self.from {
                From::Set { set, version, first } => put_stored(&to, maker, *set, version, first).await?,
                From::Previous(previous) => put_previous(&to, maker, previous).await?,
            };
            let (last, taken) = blocking(move || maker.finish()).await?;
            to.put(last.into_iter().collect()).await?;
            Ok(taken)
        };
        fill_by(engine, tenant, batch, fill).await
    }
}

/// The version of a stored row set that a run takes.
async fn stored(
    engine: &Engine,
    schedule: &Schedule,
    tick: &Tick,
    set: RowSetId,
    version: Option<u32>,
) -> Result<RowSetVersion, NotStarted> {
    let found = match engine.records.row_set(&schedule.tenant, set).await {
        Ok(found) => Ok(found.version(version).cloned()),
        Err(StoreError::NotFound) => Err("the row set was deleted"),
        Err(error) => return Err(error.into()),
    };
    let why = match found {
        Ok(Some(version)) => return Ok(version),
        Ok(None) => "the row set has no such version any more",
        Err(why) => why,
    };
    // Rows that came with the schedule go when others come in their place.
    may_still(engine, schedule, tick).await?;
    Err(NotStarted::never(why))
}

/// Where rows go, invisible still.
pub(super) struct To<'a> {
    pub(super) engine: &'a Engine,
    pub(super) recurring: &'a Recurring,
    pub(super) tenant: &'a TenantId,
    pub(super) batch: BatchId,
    pub(super) upload: UploadId,
}

impl To<'_> {
    /// Stores blocks, as far as the tenant has room.
    pub(super) async fn put(&self, blocks: Vec<RowBlock>) -> Result<(), NotStarted> {
        if blocks.is_empty() {
            return Ok(());
        }
        let Self { engine, recurring, tenant, batch, upload } = self;
        let now_ms = engine.clock.now_ms();
        let used = engine.store.usage(tenant, now_ms).await?;
        recurring.quotas.room_bytes(&used)?;
        Ok(engine.store.put_rows(tenant, *batch, *upload, blocks, now_ms).await?)
    }
}

/// A block, and those behind it that are there already, as many as are stored in one step.
pub(super) fn next_blocks(first: RowBlock, more: &mut mpsc::Receiver<RowBlock>) -> Vec<RowBlock> {
    let mut bytes = first.bytes.len();
    let mut blocks = vec![first];
    while bytes < STEP_BYTES
        && let Ok(block) = more.try_recv()
    {
        bytes += block.bytes.len();
        blocks.push(block);
    }
    blocks
}

/// Stores what is made of the rows of a version, the first of whose blocks are read.
async fn put_stored(
    to: &To<'_>,
    mut maker: Maker,
    set: RowSetId,
    version: &RowSetVersion,
    first: &[RowBlock],
) -> Result<Maker, NotStarted> {
    let mut stored = first.to_vec();
    let mut next = 0;
    while let Some(last) = stored.last() {
        next = last.seq + 1;
        let made = blocking(move || {
            let blocks = maker.blocks(stored)?;
            Ok((maker, blocks))
        });
        let blocks;
        (maker, blocks) = made.await?;
        to.put(blocks).await?;
        if next >= version.blocks {
            break;
        }
        stored = to.engine.records.set_blocks(to.tenant, set, version.upload, next, STEP_BYTES).await?;
    }
    if next < version.blocks {
        // A version may be deleted while it is read; the next try takes the newest then, or finds that it is gone.
        return Err(NotStarted::NotNow("rows of the row set are missing".to_owned()));
    }
    Ok(maker)
}

/// Stores what is made of the rows of the run before.
async fn put_previous(to: &To<'_>, mut maker: Maker, previous: &Previous) -> Result<Maker, NotStarted> {
    let mut reading = previous.reading(&to.engine.store);
    while let Some(items) = reading.next().await? {
        let made = blocking(move || {
            let blocks = maker.again(items)?;
            Ok((maker, blocks))
        });
        let blocks;
        (maker, blocks) = made.await?;
        to.put(blocks).await?;
    }
    Ok(maker)
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
                full.extend(self.push(self.making.row(row)));
            }
        }
        Ok(full)
    }

    /// The same of rows of the run before.
    fn again(&mut self, items: Items) -> Result<Vec<RowBlock>, NotStarted> {
        let rows = items.rows(self.making.knows_outcomes)?;
        Ok(rows.into_iter().filter_map(|(row, came)| self.push(self.making.row_again(row, came))).collect())
    }

    /// A block that became full with this row.
    fn push(&mut self, row: Result<StoredRow, Vec<RowProblem>>) -> Option<RowBlock> {
        self.bad.rows += 1;
        match row {
            Ok(row) if self.bad.bad == 0 => self.packer.push(&row),
            Ok(_) => None,
            Err(problems) => {
                self.bad.add(self.bad.rows, problems);
                None
            }
        }
    }

    /// The last block, and what was made.
    fn finish(self) -> Result<(Option<RowBlock>, Taken), NotStarted> {
        let Self { packer, bad, .. } = self;
        if bad.bad > 0 {
            return Err(NotStarted::Never(Refused::Rows(bad).told()));
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
        if self.reserves
            && let RowContent::Variables(json) = &row.content
            && let Some(name) = self.given.first_in(json)
        {
            return Err(is_given(name));
        }
        self.completed(row, &self.given)
    }

    /// A row of the run before as the batch has it.
    fn row_again(&self, row: StoredRow, came: Option<Came>) -> Result<StoredRow, Vec<RowProblem>> {
        let row = match &row.content {
            RowContent::Variables(json) => {
                StoredRow::of_variables(row.custom_id.clone(), Given::taken_from(json))
            }
            RowContent::Messages(_) => row,
        };
        match came {
            None => self.completed(row, &self.given),
            Some(came) => {
                let mut given = self.given.clone();
                given.push(PREVIOUS_OUTCOME, &came);
                self.completed(row, &given)
            }
        }
    }

    /// The row with what it is given.
    fn completed(&self, row: StoredRow, given: &Given) -> Result<StoredRow, Vec<RowProblem>> {
        let row = match &row.content {
            RowContent::Variables(json) if !given.is_empty() => {
                StoredRow::of_variables(row.custom_id.clone(), given.added_to(json))
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
        let ran = |tick: &Tick| tick.state.last_batch().is_some();
        let previous = previous::find(engine, &tick.tenant, tick.schedule, tick.at_ms, ran).await?;
        let batch = match &previous {
            Some(previous) => previous::last_batch(engine, previous).await?,
            None => None,
        };
        let counts = batch.as_ref().and_then(|batch| batch.final_counts.as_ref());
        let known = json!({
            "scheduled_at": previous.map(|previous| local(previous.at_ms)),
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
