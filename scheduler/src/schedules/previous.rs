//! The run before: which one it is, what it came to, and its rows where a run takes them from there.

use std::collections::BTreeSet;
use std::sync::Arc;

use promptmill_domain::schedule::PreviousRows;
use promptmill_domain::{
    Batch, Counts, Ending, ItemCode, OutcomeName, Output, Schedule, ScheduleId, TenantId, Tick, TickState,
};
use promptmill_intake::{ChainError, Merged, Pages, chain};
use promptmill_ports::{
    BlockRow, OutcomePage, PageLimit, Store, StoreError, StoreResult, StoredOutcome, decode_outcome,
};
use promptmill_rowio::{StoredRow, decode_range};
use promptmill_runtime::Engine;
use serde::Serialize;
use serde_json::value::RawValue;

use super::start::NotStarted;

/// Ticks that are looked through in one step.
const TICKS: u32 = 500;

/// How long after its end a run is noted as over, at most, milliseconds; one that is not by then is damaged.
const NOTED_MS: u64 = 60_000;

/// Outcomes that are read at once, of all batches of a run together.
const PAGE: PageLimit = PageLimit { items: 1_024, bytes: 2 << 20 };

/// The newest tick of the schedule before a time of which `wanted` says so.
pub(super) async fn find(
    engine: &Engine,
    tenant: &TenantId,
    schedule: ScheduleId,
    at_ms: u64,
    wanted: impl Fn(&Tick) -> bool,
) -> StoreResult<Option<Tick>> {
    let mut before = at_ms;
    loop {
        let mut ticks = engine.records.ticks(tenant, schedule, Some(before), TICKS).await?;
        if let Some(at) = ticks.iter().position(&wanted) {
            return Ok(Some(ticks.swap_remove(at)));
        }
        match ticks.last() {
            Some(last) if ticks.len() == TICKS as usize => before = last.at_ms,
            Some(_) | None => return Ok(None),
        }
    }
}

/// The last batch of a tick, where it had one that is there still.
pub(super) async fn last_batch(engine: &Engine, tick: &Tick) -> StoreResult<Option<Batch>> {
    let Some(retry) = tick.state.last_batch() else { return Ok(None) };
    match engine.store.batch(&tick.tenant, Tick::batch(tick.schedule, tick.at_ms, retry)).await {
        Ok(batch) => Ok(Some(batch)),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Rows of the run before that a run takes.
pub(super) struct Previous {
    /// Its batches, the first one first.
    batches: Vec<Batch>,
    outcomes: BTreeSet<OutcomeName>,
    count: u64,
}

impl Previous {
    /// Those of the newest run before the tick that is over; `None` where there is none, or none of which all is there still.
    pub(super) async fn of(
        engine: &Engine,
        schedule: &Schedule,
        tick: &Tick,
        asked: &PreviousRows,
    ) -> Result<Option<Self>, NotStarted> {
        let now_ms = engine.clock.now_ms();
        let ran = |tick: &Tick| tick.state.last_batch().is_some();
        let Some(newest) = find(engine, &schedule.tenant, schedule.id, tick.at_ms, ran).await? else {
            return Ok(None);
        };
        if let TickState::Running { .. } = newest.state
            && let Some(batch) = last_batch(engine, &newest).await?
            && batch.finished_ms.is_some_and(|finished_ms| now_ms < finished_ms + NOTED_MS)
        {
            // That it is over is noted in a moment.
            return Err(NotStarted::Soon);
        }
        let is_over = |tick: &Tick| matches!(tick.state, TickState::Ended { .. });
        let before = match is_over(&newest) {
            true => Some(newest),
            false => find(engine, &schedule.tenant, schedule.id, newest.at_ms, is_over).await?,
        };
        let began = |tick: &Tick| match tick.state {
            TickState::Ended { started_ms, .. } => started_ms >= asked.since_ms,
            _ => false,
        };
        let Some(before) = before.filter(began) else { return Ok(None) };
        let Some(last) = last_batch(engine, &before).await? else { return Ok(None) };
        let batches = match chain(engine.store.as_ref(), last).await {
            Ok(batches) => batches,
            Err(ChainError::Gone) => return Ok(None),
            Err(error @ ChainError::TooLong) => return Err(NotStarted::never(error)),
            Err(ChainError::Store(error)) => return Err(error.into()),
        };
        let outcomes = asked.outcomes.clone();
        let count = outcomes.iter().map(|outcome| count(&batches, *outcome)).sum();
        Ok(Some(Self { batches, outcomes, count }))
    }

    /// How many there are.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// A reading of them.
    pub(super) fn reading(&self, store: &Arc<dyn Store>) -> Reading {
        let limit = PageLimit { bytes: PAGE.bytes / self.batches.len().max(1), ..PAGE };
        let merged =
            Merged::new(&self.batches, |batch| OfStore { store: store.clone(), batch: batch.clone(), limit });
        let outcomes = self.outcomes.clone();
        Reading { first: self.batches[0].clone(), store: store.clone(), outcomes, merged, at_hand: None }
    }
}

/// How many rows of a run came to an outcome. Each batch behind the first ran those that failed in the one before.
fn count(batches: &[Batch], outcome: OutcomeName) -> u64 {
    let of = |counts: &Counts| match outcome {
        OutcomeName::Succeeded => counts.all_succeeded(),
        OutcomeName::Failed => counts.all_failed(),
        OutcomeName::Cancelled => counts.cancelled,
        OutcomeName::Expired => counts.expired,
    };
    let mut counts = batches.iter().filter_map(|batch| batch.final_counts.as_ref());
    match outcome {
        OutcomeName::Failed => counts.next_back().map_or(0, of),
        OutcomeName::Succeeded | OutcomeName::Cancelled | OutcomeName::Expired => counts.map(of).sum(),
    }
}

/// One batch as it is read.
struct OfStore {
    store: Arc<dyn Store>,
    batch: Batch,
    limit: PageLimit,
}

impl Pages for OfStore {
    async fn page(&self, from: u32) -> StoreResult<OutcomePage> {
        self.store.outcomes(&self.batch.tenant, self.batch.id, from, self.limit).await
    }
}

/// Rows of a run that are read with what became of them.
pub(super) struct Reading {
    first: Batch,
    store: Arc<dyn Store>,
    outcomes: BTreeSet<OutcomeName>,
    merged: Merged<OfStore>,
    /// An item that belongs to the next chunk.
    at_hand: Option<(u32, StoredOutcome)>,
}

/// Items of one chunk of rows.
pub(super) struct Items {
    rows: BlockRow,
    items: Vec<(u32, StoredOutcome)>,
}

impl Reading {
    /// The next rows; nothing at the end.
    pub(super) async fn next(&mut self) -> StoreResult<Option<Items>> {
        let Some(first) = self.item().await? else { return Ok(None) };
        let rows = self.store.rows(&self.first.tenant, self.first.id, first.0).await?;
        let end = rows.base + rows.len;
        let mut bytes = body_bytes(&first);
        let mut items = vec![first];
        while bytes < PAGE.bytes
            && let Some(item) = self.item().await?
        {
            if item.0 >= end {
                self.at_hand = Some(item);
                break;
            }
            bytes += body_bytes(&item);
            items.push(item);
        }
        Ok(Some(Items { rows, items }))
    }

    /// The next item that is wanted.
    async fn item(&mut self) -> StoreResult<Option<(u32, StoredOutcome)>> {
        if let Some(item) = self.at_hand.take() {
            return Ok(Some(item));
        }
        while let Some((index, found)) = self.merged.next().await? {
            let is_wanted =
                |code: ItemCode| OutcomeName::of(code).is_some_and(|name| self.outcomes.contains(&name));
            if let Some((_, stored)) = found.filter(|(_, stored)| is_wanted(stored.code)) {
                return Ok(Some((index, stored)));
            }
        }
        Ok(None)
    }
}

fn body_bytes((_, stored): &(u32, StoredOutcome)) -> usize {
    stored.body.as_ref().map_or(0, bytes::Bytes::len)
}

impl Items {
    /// Each row with what became of it, where that is `told`. Blocks the thread.
    pub(super) fn rows(self, told: bool) -> StoreResult<Vec<(StoredRow, Option<Came>)>> {
        let Self { rows: BlockRow { base, rows, len, bytes }, items } = self;
        let corrupt = |what: &str| StoreError::Corrupt(what.to_owned());
        let stored = decode_range(&bytes, rows.skip as usize, len as usize);
        let mut stored = stored.map_err(|error| StoreError::Corrupt(error.to_string()))?.into_iter();
        let mut next = base;
        let mut found = Vec::with_capacity(items.len());
        for (index, outcome) in items {
            let row = stored.nth((index - next) as usize).ok_or_else(|| corrupt("a row is missing"))?;
            next = index + 1;
            let outcome = told.then(|| Came::of(&outcome)).transpose()?;
            found.push((row, outcome));
        }
        Ok(found)
    }
}

/// What became of a row, as a template sees it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Came {
    /// How it ended.
    outcome: Option<&'static str>,
    /// What it delivered, where it succeeded.
    output: Option<Box<RawValue>>,
    /// Why it failed, where it did.
    reason: Option<&'static str>,
}

impl Came {
    fn of(stored: &StoredOutcome) -> StoreResult<Self> {
        let outcome = OutcomeName::of(stored.code).map(OutcomeName::as_str);
        let reason = match stored.code {
            ItemCode::Failed(kind) => Some(kind.as_str()),
            _ => None,
        };
        let corrupt = |_| StoreError::Corrupt("an outcome".to_owned());
        let ending = stored.body.as_ref().map(|body| decode_outcome(body).map(|outcome| outcome.ending));
        let output = match ending.transpose().map_err(corrupt)? {
            Some(Ending::Succeeded { output: Output::Json(json), .. }) => Some(json),
            Some(Ending::Succeeded { output: Output::Text(text), .. }) => {
                serde_json::value::to_raw_value(&text).ok()
            }
            Some(Ending::Failed { .. }) | None => None,
        };
        Ok(Self { outcome, output, reason })
    }
}
