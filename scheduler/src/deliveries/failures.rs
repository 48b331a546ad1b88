//! Items that failed, told in groups to those endpoints that ask for it.
//!
//! The groups follow from the order of settling alone: the first failure is told by itself, then those up to the tenth and up to the hundredth, then each
//! hundred; what is left is told with the batch's end. So whoever reads the order again after a restart makes nothing twice,
//! and keeps no place in it. It is read a few pages at a time, of every batch in turn.

use std::collections::{HashMap, HashSet};

use promptmill_domain::{
    Batch, BatchId, Call, Endpoint, Event, EventId, EventKind, FailureKind, ItemCode, Outcome, TenantId,
};
use promptmill_egress::retry::Schedule;
use promptmill_ports::{
    Delivery, PageLimit, SettledCursor, StoreError, StoreResult, StoredOutcome, decode_outcome,
};
use promptmill_runtime::Engine;

use super::body;
use super::book::Book;
use super::ends::Ends;
use super::fan_out::{self, Told};
use super::milestones::Open;
use super::outcomes::CustomIds;

/// What is read of a batch at once.
const PAGE: PageLimit = PageLimit { items: 512, bytes: 2 * 1024 * 1024 };

/// Pages that are read of a batch before it is another's turn.
const PAGES: usize = 8;

/// An item that failed, as far as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) index: u32,
    pub(super) custom_id: Option<String>,
    pub(super) kind: FailureKind,
    /// When its last call ended; `None` where it ended without one.
    at_ms: Option<u64>,
}

/// Failed items that are told together.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    epoch: u16,
    /// Failures of the batch before them.
    first: u32,
    items: Vec<Failed>,
}

/// How far the failures of a batch are read.
#[derive(Debug, Default, Clone)]
struct Reading {
    after: SettledCursor,
    /// Failures that are told.
    told: u32,
    /// Those behind them that are read.
    items: Vec<Failed>,
    ids: CustomIds,
}

impl Reading {
    /// Takes in the next failure; answers the group that is complete with it.
    fn push(&mut self, item: Failed) -> Option<Group> {
        self.items.push(item);
        let read = self.told.saturating_add(u32::try_from(self.items.len()).unwrap_or(u32::MAX));
        is_end_of_group(read).then(|| self.take_group())
    }

    /// Reads a page on, and takes the groups that are complete; answers whether nothing follows by now.
    async fn read_page(
        &mut self,
        engine: &Engine,
        tenant: &TenantId,
        batch: BatchId,
        groups: &mut Vec<Group>,
    ) -> StoreResult<bool> {
        let page = engine.store.settled(tenant, batch, self.after, PAGE).await?;
        self.after = page.next;
        for (stored, _) in page.outcomes {
            if let ItemCode::Failed(kind) = stored.code {
                let item = failed(engine, &mut self.ids, tenant, batch, &stored, kind).await?;
                groups.extend(self.push(item));
            }
        }
        Ok(page.caught_up)
    }

    /// What is left when no failure follows.
    fn finish(&mut self) -> Option<Group> {
        (!self.items.is_empty()).then(|| self.take_group())
    }

    fn take_group(&mut self) -> Group {
        let items = std::mem::take(&mut self.items);
        let group = Group { epoch: self.after.epoch(), first: self.told, items };
        self.told += u32::try_from(group.items.len()).unwrap_or(u32::MAX);
        group
    }
}

const fn is_end_of_group(failures: u32) -> bool {
    matches!(failures, 1 | 10) || failures.is_multiple_of(100)
}

/// How far the failures of batches are read whose endpoints ask for them.
#[derive(Debug, Default)]
pub(super) struct Failures {
    readings: HashMap<BatchId, Reading>,
}

/// What a look at failures came to.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Looked {
    /// Deliveries were made.
    pub(super) any: bool,
    /// There is more to read already.
    pub(super) more: bool,
}

/// Whether failures are to be told with the end that an event tells.
pub(super) fn are_to_be_told(end: &Event, endpoints: &[Endpoint]) -> bool {
    end.counts.as_ref().is_some_and(|counts| counts.all_failed() > 0) && is_asked_for(endpoints)
}

/// Whether all failures of a batch are read with its end, and delay no other event by that.
pub(super) const fn are_few(batch: &Batch) -> bool {
    batch.total <= PAGE.items
}

/// The deliveries of all failures of a batch that is over.
pub(super) async fn of(
    engine: &Engine,
    endpoints: &[Endpoint],
    schedule: &Schedule,
    batch: &Batch,
) -> StoreResult<Vec<Delivery>> {
    let mut reading = Reading::default();
    let mut groups = Vec::new();
    while !reading.read_page(engine, &batch.tenant, batch.id, &mut groups).await? {}
    groups.extend(reading.finish());
    Ok(groups.iter().flat_map(|group| made(engine, endpoints, schedule, batch, group)).collect())
}

fn is_asked_for(endpoints: &[Endpoint]) -> bool {
    endpoints.iter().any(|endpoint| endpoint.kinds.contains(&EventKind::ItemFailed))
}

impl Failures {
    /// Reads on in batches that are open and in those that are at their end, and makes deliveries of the groups that are complete.
    pub(super) async fn look(
        &mut self,
        engine: &Engine,
        book: &Book,
        schedule: &Schedule,
        open: &[Open],
        ends: &Ends,
    ) -> StoreResult<Looked> {
        let ended = ends.all();
        let over: HashSet<_> = ended.iter().map(|end| end.batch).collect();
        let all: HashSet<_> = open.iter().map(|of| of.batch).chain(over.iter().copied()).collect();
        self.readings.retain(|batch, _| all.contains(batch));
        let mut looked = Looked::default();
        for of in open.iter().filter(|of| !over.contains(&of.batch)) {
            let endpoints = fan_out::endpoints_of(book, &of.tenant).await?;
            if is_asked_for(&endpoints) {
                let read = self.look_at(engine, &endpoints, schedule, &of.tenant, of.batch, None).await;
                let (any, caught_up) = passed_over(of.batch, read)?;
                looked.any |= any;
                looked.more |= !caught_up;
            }
        }
        let mut told = Vec::new();
        for end in &ended {
            let endpoints = fan_out::endpoints_of(book, &end.tenant).await?;
            let read = self.look_at(engine, &endpoints, schedule, &end.tenant, end.batch, Some(end)).await;
            let (any, caught_up) = passed_over(end.batch, read)?;
            looked.any |= any;
            if caught_up {
                told.push(end.id);
            }
        }
        if !told.is_empty() {
            engine.store.handed_on(&told).await?;
            ends.let_go(&told);
        }
        looked.more |= told.len() < ended.len();
        Ok(looked)
    }

    /// Reads on in one batch, which is over where `end` tells it. Answers whether deliveries were made, and whether everything is read.
    async fn look_at(
        &mut self,
        engine: &Engine,
        endpoints: &[Endpoint],
        schedule: &Schedule,
        tenant: &TenantId,
        batch: BatchId,
        end: Option<&Event>,
    ) -> StoreResult<(bool, bool)> {
        // Where a step fails, the next look begins where this one did.
        let mut read = self.readings.get(&batch).cloned().unwrap_or_default();
        let mut groups = Vec::new();
        let mut caught_up = false;
        // What is complete is told whatever follows it.
        let mut failed = None;
        for _ in 0..PAGES {
            match read.read_page(engine, tenant, batch, &mut groups).await {
                Ok(all) => caught_up = all,
                Err(error) => failed = Some(error),
            }
            if caught_up || failed.is_some() {
                break;
            }
        }
        let is_damaged = failed.as_ref().is_some_and(|error| !matches!(error, StoreError::Unavailable(_)));
        if (caught_up || is_damaged) && end.is_some() {
            groups.extend(read.finish());
        }
        let any = !groups.is_empty();
        if any {
            let batches = engine.store.batches_told_of(&[batch]).await?;
            let told_of = batches.first().ok_or(StoreError::NotFound)?;
            let deliveries =
                groups.iter().flat_map(|group| made(engine, endpoints, schedule, told_of, group));
            engine.records.add_deliveries(&deliveries.collect::<Vec<_>>()).await?;
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.readings.insert(batch, read);
        Ok((any, caught_up))
    }
}

/// What a look at one batch answered; the others must not wait for one that cannot be read.
fn passed_over(batch: BatchId, read: StoreResult<(bool, bool)>) -> StoreResult<(bool, bool)> {
    match read {
        Err(error @ StoreError::Unavailable(_)) => Err(error),
        // It was deleted meanwhile.
        Err(StoreError::NotFound) => Ok((false, true)),
        Err(error) => {
            tracing::error!(batch.id = %batch, error = %error, "the failures of a batch cannot be read; nobody is told of them");
            Ok((false, true))
        }
        Ok(read) => Ok(read),
    }
}

async fn failed(
    engine: &Engine,
    ids: &mut CustomIds,
    tenant: &TenantId,
    batch: BatchId,
    stored: &StoredOutcome,
    kind: FailureKind,
) -> StoreResult<Failed> {
    let index = stored.index;
    let Some(body) = &stored.body else {
        let custom_id = ids.get(engine, tenant, batch, index).await?;
        return Ok(Failed { index, custom_id, kind, at_ms: None });
    };
    let outcome = decode_outcome(body).inspect_err(|error| {
        tracing::error!(batch.id = %batch, item.index = index, error = %error, "an outcome cannot be read; its failure is told without its id");
    });
    let at_ms = outcome.as_ref().ok().and_then(ended_ms);
    Ok(Failed { index, custom_id: outcome.ok().and_then(|outcome| outcome.custom_id), kind, at_ms })
}

/// When the last call of an outcome ended.
fn ended_ms(outcome: &Outcome) -> Option<u64> {
    let end = |call: &Call| call.started_ms.saturating_add(u64::from(call.duration_ms));
    outcome.attempts.iter().flat_map(|attempt| &attempt.calls).map(end).max()
}

fn made(
    engine: &Engine,
    endpoints: &[Endpoint],
    schedule: &Schedule,
    batch: &Batch,
    group: &Group,
) -> Vec<Delivery> {
    let now_ms = engine.clock.now_ms();
    // The same whenever the group is made, as long as calls were made for its items: an endpoint that came later is not told of it then.
    let at_ms = group.items.iter().filter_map(|item| item.at_ms).max().unwrap_or(now_ms).min(now_ms);
    let told = Told {
        tenant: &batch.tenant,
        batch: Some(batch.id),
        event: EventId::of_failures(batch.id, group.epoch, group.first),
        kind: EventKind::ItemFailed,
        at_ms,
        due_ms: fan_out::first_due(schedule, now_ms),
        now_ms,
    };
    let body = body::of_failures(batch, group.first, &group.items, at_ms);
    told.to(endpoints, |_| body.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_grow_and_hold_every_failure_once_however_they_are_read() {
        let item = |index| Failed { index, custom_id: None, kind: FailureKind::Timeout, at_ms: None };
        let mut reading = Reading::default();
        let mut groups: Vec<_> = (0..3_210).filter_map(|index| reading.push(item(index))).collect();
        groups.extend(reading.finish());
        assert_eq!(reading.finish(), None);
        let ends: Vec<_> = groups.iter().map(|group| group.items.last().unwrap().index + 1).collect();
        let hundreds = (100..=3_200).step_by(100);
        let expected: Vec<_> = [1, 10].into_iter().chain(hundreds).chain([3_210]).collect();
        assert_eq!(ends, expected);
        let all = groups.iter().flat_map(|group| group.items.iter().map(|item| item.index));
        assert!(all.eq(0..3_210));
        assert!(groups.iter().all(|group| group.first == group.items[0].index));
    }
}
