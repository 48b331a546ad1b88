//! What recurs is put as it is told: a schedule, its ticks and the rows that came with it; and row sets, each behind its blocks.

use std::collections::VecDeque;
use std::io::Read;

use promptmill_domain::chunk::MAX_CHUNK_ROWS;
use promptmill_domain::{Schedule, ScheduleId, TenantId, Tick, TickState, UploadId};
use promptmill_ports::{Installation, MOST_ROW_SET_VERSIONS, RowBlock, RowSet, StoreError, StoreResult};

use crate::error::ArchiveError;
use crate::lines::ArchiveReader;
use crate::record::{BlockRecord, uploads_of};
use crate::replay::BYTES;

/// Ticks that are handed to the store at a time.
const TICKS: usize = 1_000;
/// Blocks that are removed at a time.
const REMOVED: u32 = 1_000;
/// When blocks that no set names yet were put: those that none comes to name go with the first sweep.
const LONG_AGO: u64 = 0;

/// A schedule or a row set in the making.
pub(super) struct Recurring<'a> {
    store: &'a dyn Installation,
    now_ms: u64,
    /// Whose ticks and own rows may follow.
    schedule: Option<ScheduleId>,
    /// Whose blocks follow.
    set: Option<Rows>,
    ticks: Vec<Tick>,
    bytes: usize,
}

/// A row set whose blocks come.
struct Rows {
    set: RowSet,
    /// Uploads that are not all there, and how many blocks each has.
    left: VecDeque<(UploadId, u32)>,
    /// The number of the next block.
    seq: u32,
    blocks: Vec<RowBlock>,
    bytes: usize,
}

impl<'a> Recurring<'a> {
    /// Of a store in which nothing recurs yet.
    pub(super) const fn new(store: &'a dyn Installation, now_ms: u64) -> Self {
        Self { store, now_ms, schedule: None, set: None, ticks: Vec::new(), bytes: 0 }
    }

    /// What was told is whole: something else follows, or nothing.
    pub(super) async fn end<R: Read>(&mut self, archive: &ArchiveReader<R>) -> Result<(), ArchiveError> {
        self.check_set_ended(archive)?;
        self.put_ticks().await?;
        self.schedule = None;
        Ok(())
    }

    pub(super) async fn schedule<R: Read>(
        &mut self,
        archive: &ArchiveReader<R>,
        tenant: &TenantId,
        schedule: Schedule,
    ) -> Result<(), ArchiveError> {
        let is_put = schedule.tenant == *tenant
            && (self.store.put_schedule(&schedule).await?
                || is_same(self.store.schedule(tenant, schedule.id).await, &schedule)?);
        if !is_put {
            return Err(archive.wrong("a schedule is another tenant's, or another one is there"));
        }
        self.schedule = Some(schedule.id);
        Ok(())
    }

    /// Adds a tick of the schedule.
    pub(super) async fn tick<R: Read>(
        &mut self,
        archive: &ArchiveReader<R>,
        tenant: &TenantId,
        tick: Tick,
    ) -> Result<(), ArchiveError> {
        self.check_set_ended(archive)?;
        if self.schedule != Some(tick.schedule) || tick.tenant != *tenant {
            return Err(archive.wrong("it is of no schedule"));
        }
        let told = if let TickState::Failed { why } = &tick.state { why.len() } else { 0 };
        self.bytes += size_of::<Tick>() + told;
        self.ticks.push(tick);
        if self.ticks.len() >= TICKS || self.bytes >= BYTES { self.put_ticks().await } else { Ok(()) }
    }

    async fn put_ticks(&mut self) -> Result<(), ArchiveError> {
        self.bytes = 0;
        let ticks = std::mem::take(&mut self.ticks);
        if !ticks.is_empty() {
            self.store.add_ticks(&ticks).await?;
        }
        Ok(())
    }

    /// Notes a row set, which is put when its blocks are there.
    pub(super) async fn row_set<R: Read>(
        &mut self,
        archive: &ArchiveReader<R>,
        tenant: &TenantId,
        set: RowSet,
    ) -> Result<(), ArchiveError> {
        self.check_set_ended(archive)?;
        if set.tenant != *tenant {
            return Err(archive.wrong("a row set is another tenant's"));
        }
        if set.name.is_none() && self.schedule.map(Schedule::own_rows) != Some(set.id) {
            return Err(archive.wrong("a row set without a name is of no schedule"));
        }
        if !(1..=MOST_ROW_SET_VERSIONS).contains(&set.versions.len()) {
            return Err(archive.wrong(format!("a row set has {} versions", set.versions.len())));
        }
        let left = uploads_of(&set).into();
        self.set = Some(Rows { set, left, seq: 0, blocks: Vec::new(), bytes: 0 });
        self.put_whole(archive).await
    }

    /// Adds the next block of the row set.
    pub(super) async fn block<R: Read>(
        &mut self,
        archive: &ArchiveReader<R>,
        block: BlockRecord,
    ) -> Result<(), ArchiveError> {
        let Some(rows) = &mut self.set else {
            return Err(archive.wrong("it is of no batch and of no row set"));
        };
        if !(1..=MAX_CHUNK_ROWS).contains(&block.len) {
            return Err(archive.wrong(format!("a block has {} rows", block.len)));
        }
        rows.bytes += block.bytes.len() + block.ids.len();
        rows.blocks.push(block.into_block(rows.seq));
        rows.seq += 1;
        if rows.bytes >= BYTES {
            rows.put(self.store).await?;
        }
        self.put_whole(archive).await
    }

    /// Puts what is whole: uploads, and the set when all of them are.
    async fn put_whole<R: Read>(&mut self, archive: &ArchiveReader<R>) -> Result<(), ArchiveError> {
        let Some(rows) = &mut self.set else { return Ok(()) };
        while rows.left.front().is_some_and(|(_, count)| rows.seq >= *count) {
            rows.put(self.store).await?;
            rows.left.pop_front();
            rows.seq = 0;
        }
        if rows.left.is_empty() { self.put_set(archive).await } else { Ok(()) }
    }

    async fn put_set<R: Read>(&mut self, archive: &ArchiveReader<R>) -> Result<(), ArchiveError> {
        let Some(Rows { set, .. }) = self.set.take() else { return Ok(()) };
        let is_put = match self.store.put_row_set(&set, self.now_ms).await {
            Ok(true) => true,
            Ok(false) => is_same(self.store.row_set(&set.tenant, set.id).await, &set)?,
            Err(StoreError::Conflict(_)) => false,
            Err(error) => return Err(error.into()),
        };
        if !is_put {
            let what = "the blocks of a row set are not those of its versions, or another one is there";
            return Err(archive.wrong(what));
        }
        Ok(())
    }

    /// Removes what was made of the schedule or of the row set: it is none. Answers whether there was one.
    pub(super) async fn gone(&mut self, tenant: &TenantId) -> Result<bool, ArchiveError> {
        let (set, schedule) = (self.set.take(), self.schedule.take());
        self.ticks.clear();
        self.bytes = 0;
        if let Some(id) = schedule {
            self.store.delete_schedule(tenant, id).await?;
            self.store.delete_row_set(tenant, Schedule::own_rows(id)).await?;
        }
        let any = set.is_some() || schedule.is_some();
        while any && self.store.drop_set_uploads(LONG_AGO + 1, REMOVED).await? > 0 {}
        Ok(any)
    }

    fn check_set_ended<R: Read>(&self, archive: &ArchiveReader<R>) -> Result<(), ArchiveError> {
        match self.set {
            Some(_) => Err(archive.wrong("a row set does not end before it")),
            None => Ok(()),
        }
    }
}

impl Rows {
    /// Puts the blocks so far into the store.
    async fn put(&mut self, store: &dyn Installation) -> Result<(), ArchiveError> {
        let Some((upload, _)) = self.left.front() else { return Ok(()) };
        let blocks = std::mem::take(&mut self.blocks);
        self.bytes = 0;
        store.put_set_blocks(&self.set.tenant, self.set.id, *upload, blocks, LONG_AGO).await?;
        Ok(())
    }
}

/// Whether what is there is what is told: perhaps the answer to its making was lost.
fn is_same<T: PartialEq>(found: StoreResult<T>, told: &T) -> StoreResult<bool> {
    match found {
        Ok(found) => Ok(found == *told),
        Err(StoreError::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}
