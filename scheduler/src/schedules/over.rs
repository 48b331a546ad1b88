//! Ticks whose batch is final.

use futures_util::future::try_join_all;
use promptmill_domain::{Batch, Money, Tick, TickState};
use promptmill_ports::{StoreError, StoreResult};
use promptmill_runtime::Engine;

use super::or_leave;

/// Batches of which is asked in one step.
const STEP: usize = 64;

/// How often what a run cost is counted anew when another change of its schedule came between.
const SETTLES: u32 = 16;

/// Notes which of the running ticks are over; answers those.
pub(super) async fn run_once(engine: &Engine, open: impl Iterator<Item = &Tick>) -> StoreResult<Vec<Tick>> {
    let running = open.filter_map(|tick| match tick.state {
        TickState::Running { retry, .. } => Some((tick, Tick::batch(tick.schedule, tick.at_ms, retry))),
        TickState::Due { .. }
        | TickState::Again { .. }
        | TickState::Ended { .. }
        | TickState::Skipped { .. }
        | TickState::Failed { .. } => None,
    });
    let running: Vec<_> = running.collect();
    let mut over = Vec::new();
    for some in running.chunks(STEP) {
        let batches: Vec<_> = some.iter().map(|(_, batch)| *batch).collect();
        let open = match engine.store.open_among(&batches).await {
            Ok(open) => open,
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            // One of them is damaged, and each is looked at by itself.
            Err(_) => Vec::new(),
        };
        let ended = some.iter().filter(|(_, batch)| !open.iter().any(|open| open.id == *batch));
        let ended = ended.map(|(tick, _)| or_leave(tick.schedule, end(engine, tick)));
        let ended = try_join_all(ended).await?;
        over.extend(ended.into_iter().flatten());
    }
    Ok(over)
}

/// The tick as it stands after its batch; `None` where that goes on, or somebody else noted it.
async fn end(engine: &Engine, tick: &Tick) -> StoreResult<Option<Tick>> {
    let TickState::Running { started_ms, retry } = tick.state else { return Ok(None) };
    let batch = match engine.store.batch(&tick.tenant, Tick::batch(tick.schedule, tick.at_ms, retry)).await {
        Ok(batch) => Some(batch),
        Err(StoreError::NotFound) => None,
        Err(error) => return Err(error),
    };
    if batch.as_ref().is_some_and(|batch| !batch.state.is_final()) {
        return Ok(None);
    }
    // One that was deleted ended before.
    let finished_ms = batch.as_ref().and_then(|batch| batch.finished_ms);
    let ended_ms = finished_ms.unwrap_or_else(|| engine.clock.now_ms());
    let state = match again(engine, tick, batch.as_ref(), retry).await? {
        Some(after_ms) => TickState::Again {
            started_ms,
            retry: retry + 1,
            tries: 0,
            not_before_ms: ended_ms.saturating_add(after_ms),
        },
        None => {
            settle(engine, tick, Some(retry)).await?;
            TickState::Ended { started_ms, ended_ms, retry }
        }
    };
    let over = Tick { state, ver: tick.ver + 1, ..tick.clone() };
    Ok(engine.records.put_tick(&over).await?.then_some(over))
}

/// Counts what the run cost in its month, where that has a limit: all of its batches up to the last, or nothing where it had none. To be done before the tick is noted as over; it counts once
/// however often.
pub(super) async fn settle(engine: &Engine, tick: &Tick, last: Option<u32>) -> StoreResult<()> {
    for _ in 0..SETTLES {
        let mut schedule = match engine.records.schedule(&tick.tenant, tick.schedule).await {
            Err(StoreError::NotFound) => return Ok(()),
            found => found?,
        };
        let held = schedule.spend.iter().flat_map(|spend| &spend.held);
        let Some((_, held)) = held.clone().find(|(of, _)| *of == tick.at_ms).copied() else { return Ok(()) };
        let mut cost = Money::ZERO;
        for retry in 0..last.map_or(0, |last| last + 1) {
            match engine.store.batch(&tick.tenant, Tick::batch(tick.schedule, tick.at_ms, retry)).await {
                Ok(batch) => cost += batch.final_counts.map_or(Money::ZERO, |counts| counts.totals.cost),
                // What it cost is not known any more: at most that.
                Err(StoreError::NotFound) => cost = cost.max(held),
                Err(error) => return Err(error),
            }
        }
        schedule.settle(tick.at_ms, cost);
        schedule.ver += 1;
        // Where somebody else changed it meanwhile it is done anew.
        if engine.records.put_schedule(&schedule).await? {
            return Ok(());
        }
    }
    Err(StoreError::unavailable("the schedule is changed by too many at once"))
}

/// After how many milliseconds rows of the tick's batch are to run again; `None` where none are.
async fn again(engine: &Engine, tick: &Tick, batch: Option<&Batch>, retry: u32) -> StoreResult<Option<u64>> {
    let Some(batch) = batch else { return Ok(None) };
    match engine.records.schedule(&tick.tenant, tick.schedule).await {
        Ok(schedule) => Ok(schedule.policies.runs_again(batch, retry)),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
