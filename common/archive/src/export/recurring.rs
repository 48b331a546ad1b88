//! What recurs: schedules with their ticks and the rows that came with them, and row sets.
//!
//! A schedule and its newest ticks are read as they are at one moment, so that nothing is decided in the one and not in the other: otherwise an import would
//! have ticks that are lost, decided again, or not paid for. Where a schedule changes all the time it is read before its ticks: one that is decided in
//! between is among them, or is decided again after an import, which leaves a tick that is there as it is. Ticks are read before
//! batches: one that runs has its batch in the archive, unless that was deleted meanwhile, and one that is to run finds it there or makes it, since
//! the batch's id is that of schedule and time. Row sets are read behind the schedules that take their rows from them. Templates alone stand
//! before: a schedule that names one which came later is younger than the export, and so is one that names a label which was put later, before it was made.

use promptmill_domain::schedule::RunSpec;
use promptmill_domain::{RowSetId, Schedule, ScheduleId, Tick};
use promptmill_ports::{RowSet, StoreError, StoreResult, TemplateKey};

use super::{Export, PAGE, TRIES, Told, there};
use crate::error::ArchiveError;
use crate::lines::Sink;
use crate::record::{BlockRecord, Record, uploads_of};

/// Schedules read at a time. Each may have a large template.
const SCHEDULES: u32 = 16;

impl<S: Sink> Export<'_, S> {
    pub(super) async fn schedules(&mut self) -> Result<(), ArchiveError> {
        let mut after = None;
        loop {
            let page = self.store.schedules(self.tenant, after, SCHEDULES).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            for listed in page {
                self.schedule(listed.id).await?;
            }
        }
    }

    /// Writes a schedule with its ticks and its own rows. One that is deleted meanwhile ends as gone.
    async fn schedule(&mut self, id: ScheduleId) -> Result<(), ArchiveError> {
        for _ in 0..TRIES {
            // It may have been looked at since it was listed.
            let Some((schedule, newest)) = self.moment(id).await? else { return Ok(()) };
            if self.is_younger(&schedule).await? {
                return Ok(());
            }
            let run = schedule.run.clone();
            self.out.put(&Record::Schedule(Box::new(Schedule { ver: 1, ..schedule })))?;
            if self.of_schedule(id, &run, newest).await? == Told::Whole {
                return Ok(());
            }
            self.out.put(&Record::Gone)?;
        }
        Err(StoreError::unavailable("what a schedule runs changes all the time").into())
    }

    /// A schedule and its newest ticks.
    async fn moment(&self, id: ScheduleId) -> StoreResult<Option<(Schedule, Vec<Tick>)>> {
        let schedule = async || there(self.store.schedule(self.tenant, id).await);
        let ticks = async || self.store.ticks(self.tenant, id, None, PAGE.items).await;
        at_one_moment(schedule, ticks).await
    }

    /// Whether it was made with a template, or a label, that came after templates were told. What is not there any more is none that came.
    ///
    /// # Errors
    /// `Unavailable` where an older one was changed to name what came later: it can be told neither with nor without it.
    async fn is_younger(&self, schedule: &Schedule) -> Result<bool, ArchiveError> {
        let Some(choice) = &schedule.run.template else { return Ok(false) };
        let (came_ms, is_younger) = match (self.templates.get(&choice.id), &choice.label) {
            (None, _) => {
                let key = TemplateKey::Id(choice.id);
                let came = there(self.store.template(self.tenant, &key).await)?;
                (came.map(|came| came.created_ms), true)
            }
            (Some(told), Some(label)) if !told.contains(label) => {
                let labels = there(self.store.labels(self.tenant, choice.id).await)?.unwrap_or_default();
                let came_ms = labels.into_iter().find(|now| now.label == *label).map(|now| now.changed_ms);
                // An older one had no version at its label when templates were told, and has none in the archive.
                (came_ms, came_ms.is_some_and(|came_ms| schedule.created_ms >= came_ms))
            }
            (Some(_), _) => return Ok(false),
        };
        match came_ms {
            Some(came_ms) if schedule.created_ms < came_ms && came_ms <= schedule.changed_ms => {
                let why = "a schedule was changed to run another template meanwhile; export again";
                Err(StoreError::unavailable(why).into())
            }
            Some(_) => Ok(is_younger),
            None => Ok(false),
        }
    }

    async fn of_schedule(
        &mut self,
        id: ScheduleId,
        run: &RunSpec,
        newest: Vec<Tick>,
    ) -> Result<Told, ArchiveError> {
        self.ticks(id, newest).await?;
        let own = there(self.store.row_set(self.tenant, Schedule::own_rows(id)).await)?;
        if let Some(set) = own.filter(|set| set.name.is_none())
            && self.row_set_with_blocks(set).await? == Told::Torn
        {
            return Ok(Told::Torn);
        }
        // That it is gone may show in an empty answer only. Its rows may be those of what it runs now.
        let now = there(self.store.schedule(self.tenant, id).await)?;
        Ok(if now.is_some_and(|now| now.run == *run) { Told::Whole } else { Told::Torn })
    }

    /// Writes these ticks, and those that are older.
    async fn ticks(&mut self, schedule: ScheduleId, newest: Vec<Tick>) -> Result<(), ArchiveError> {
        let mut page = newest;
        while let Some(last) = page.last() {
            let before = Some(last.at_ms);
            for tick in page {
                self.out.put(&Record::Tick(Box::new(tick)))?;
            }
            page = self.store.ticks(self.tenant, schedule, before, PAGE.items).await?;
        }
        Ok(())
    }

    pub(super) async fn row_sets(&mut self) -> Result<(), ArchiveError> {
        let mut after = None;
        loop {
            let page = self.store.row_sets(self.tenant, after, PAGE.items).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            for listed in page {
                self.row_set(listed.id).await?;
            }
        }
    }

    /// Writes a row set. One that is deleted meanwhile, or gives up a version, ends as gone; what is left of it begins anew.
    async fn row_set(&mut self, id: RowSetId) -> Result<(), ArchiveError> {
        for _ in 0..TRIES {
            let Some(set) = there(self.store.row_set(self.tenant, id).await)? else { return Ok(()) };
            if self.row_set_with_blocks(set).await? == Told::Whole {
                return Ok(());
            }
            self.out.put(&Record::Gone)?;
        }
        Err(StoreError::unavailable("the versions of a row set change all the time").into())
    }

    async fn row_set_with_blocks(&mut self, set: RowSet) -> Result<Told, ArchiveError> {
        let (id, uploads) = (set.id, uploads_of(&set));
        self.out.put(&Record::RowSet(Box::new(RowSet { ver: 1, ..set })))?;
        for (upload, count) in uploads {
            let mut next = 0;
            while next < count {
                let begun = next;
                // Of an upload that is being removed some may be missing anywhere.
                for block in self.store.set_blocks(self.tenant, id, upload, next, PAGE.bytes).await? {
                    if block.seq != next || next == count {
                        break;
                    }
                    let (len, bytes, ids) = (block.len, block.bytes, block.ids);
                    self.out.put(&Record::Block(BlockRecord { len, bytes, ids }))?;
                    next += 1;
                }
                if next == begun {
                    let now = there(self.store.row_set(self.tenant, id).await)?;
                    return match now.filter(|now| now.names(upload)) {
                        Some(_) => {
                            Err(StoreError::Corrupt("rows of a row set are missing".to_owned()).into())
                        }
                        None => Ok(Told::Torn),
                    };
                }
            }
        }
        Ok(Told::Whole)
    }
}

/// A schedule and its ticks, which were these while it was as it is. Where it changes all the time the ticks are later ones.
async fn at_one_moment(
    schedule: impl AsyncFn() -> StoreResult<Option<Schedule>>,
    ticks: impl AsyncFn() -> StoreResult<Vec<Tick>>,
) -> StoreResult<Option<(Schedule, Vec<Tick>)>> {
    let mut tries = 1..TRIES;
    let mut read = schedule().await?;
    while let Some(before) = read {
        let ticks = ticks().await?;
        read = schedule().await?;
        let is_same = read.as_ref().is_some_and(|now| now.ver == before.ver);
        if is_same || read.is_some() && tries.next().is_none() {
            return Ok(Some((before, ticks)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
