//! A look at the schedules that are due: which of their ticks run, decided once.

use futures_util::future::try_join_all;
use promptmill_domain::schedule::{Begun, Concurrency, Decided, Missed};
use promptmill_domain::{Schedule, ScheduleState, Tick};
use promptmill_ports::{StoreResult, flow};
use promptmill_runtime::Engine;
use promptmill_ticks::{Timetable, due};

use super::or_leave;
use crate::deliveries::Missing;

/// Schedules looked at in one step, each of which may hold a template of a mebibyte, and written at the same time.
const STEP: u32 = 64;

/// Looks at every schedule that is due. Answers the ticks that were decided to run.
pub(super) async fn run_once(engine: &Engine, missing: Option<&Missing>) -> StoreResult<Vec<Tick>> {
    let mut runs = Vec::new();
    loop {
        let now_ms = engine.clock.now_ms();
        let found = engine.records.schedules_due(now_ms, STEP).await?;
        let is_last = found.is_empty();
        let decided = found.into_iter().map(|schedule| {
            let id = schedule.id;
            or_leave(id, decide_one(engine, schedule, now_ms))
        });
        let decided: Vec<Schedule> = try_join_all(decided).await?.into_iter().flatten().collect();
        let ticks: Vec<Tick> = decided.iter().flat_map(ticks_of).collect();
        engine.records.add_ticks(&ticks).await?;
        let carried = decided.into_iter().map(|schedule| {
            let id = schedule.id;
            or_leave(id, carry_on(engine, missing, schedule))
        });
        let carried = try_join_all(carried).await?.into_iter().flatten().count();
        runs.extend(ticks.into_iter().filter(|tick| tick.state.is_open()));
        // Where nothing was carried on the same ones would be found again.
        if is_last || carried == 0 {
            return Ok(runs);
        }
    }
}

/// The schedule with what was decided in it, by this look or the one before; `None` where somebody else changed it meanwhile.
async fn decide_one(engine: &Engine, schedule: Schedule, now_ms: u64) -> StoreResult<Option<Schedule>> {
    // A look that was cut off has decided; that is carried on first.
    if schedule.begun.is_some() {
        return Ok(Some(schedule));
    }
    let is_busy = match schedule.policies.concurrency {
        Concurrency::Skip => flow::is_busy(engine.records.as_ref(), engine.store.as_ref(), &schedule).await?,
        Concurrency::Allow | Concurrency::Replace => false,
    };
    let changed = decide(schedule, now_ms, is_busy);
    Ok(engine.records.put_schedule(&changed).await?.then_some(changed))
}

/// The schedule after a look at that time.
fn decide(schedule: Schedule, now_ms: u64, is_busy: bool) -> Schedule {
    let ver = schedule.ver + 1;
    let Some(next_ms) = schedule.next_ms else { return Schedule { ver, ..schedule } };
    let timing = &schedule.timing;
    let timetable = match Timetable::new(&timing.rule, timing.start_ms, timing.end_ms) {
        Ok(timetable) => timetable,
        Err(error) => {
            tracing::error!(schedule.id = %schedule.id, error = %error, "a schedule has no timetable any more; it is paused");
            return Schedule { state: ScheduleState::Paused { at_ms: now_ms }, ver, ..schedule };
        }
    };
    let policies = &schedule.policies;
    // Its ticks are put off by the same, all of them.
    let now_ms = now_ms.saturating_sub(schedule.offset_ms());
    let due = due(&timetable, next_ms, now_ms, policies.grace_ms, policies.misfire);
    let last = due.run.len().saturating_sub(1);
    let decided = |nth: usize| match policies.concurrency {
        Concurrency::Allow => Decided::Run,
        Concurrency::Skip if nth == last && !is_busy => Decided::Run,
        Concurrency::Skip => Decided::Overlaps,
        Concurrency::Replace if nth == last => Decided::Run,
        Concurrency::Replace => Decided::Replaced,
    };
    let (missed, latest) = match due.missed {
        Some(promptmill_ticks::Missed { first_ms, last_ms, count, is_exact, latest }) => {
            (Some(Missed { first_ms, last_ms, count, is_exact }), latest)
        }
        None => (None, Vec::new()),
    };
    if let Some(missed) = &missed {
        tracing::warn!(schedule.id = %schedule.id, ticks = missed.count, "ticks of a schedule were missed");
    }
    let missed_ticks = latest.into_iter().map(|at_ms| (at_ms, Decided::Missed));
    let runs = due.run.iter().enumerate().map(|(nth, at_ms)| (*at_ms, decided(nth)));
    let begun = Begun { ticks: missed_ticks.chain(runs).collect(), missed };
    let begun = (!begun.ticks.is_empty()).then_some(begun);
    Schedule { next_ms: due.next_ms, begun, ver, ..schedule }
}

/// What was decided, as ticks.
fn ticks_of(schedule: &Schedule) -> Vec<Tick> {
    let begun = schedule.begun.iter().flat_map(|begun| &begun.ticks);
    begun.map(|(at_ms, decided)| Tick::decided(schedule, *at_ms, *decided)).collect()
}

/// Tells what was decided not to run, and notes that all stands among the ticks.
async fn carry_on(engine: &Engine, missing: Option<&Missing>, schedule: Schedule) -> StoreResult<Option<()>> {
    let Some(begun) = &schedule.begun else { return Ok(Some(())) };
    if let Some(missing) = missing {
        missing.of_look(&schedule, begun).await?;
    }
    let begun = begun.clone();
    let carried_on = Schedule { begun: None, ver: schedule.ver + 1, ..schedule };
    // If somebody changed it meanwhile, it is found again, and the ticks are there.
    let is_noted = engine.records.put_schedule(&carried_on).await?;
    if is_noted {
        count(engine, &begun);
    }
    Ok(is_noted.then_some(()))
}

fn count(engine: &Engine, begun: &Begun) {
    if let Some(missed) = &begun.missed {
        engine.metrics.ticks("missed", missed.count);
    }
    for (_, decided) in &begun.ticks {
        match decided {
            Decided::Overlaps => engine.metrics.ticks("overlaps", 1),
            Decided::Replaced => engine.metrics.ticks("replaced", 1),
            // One is counted when it begins, the other as one of all that were missed.
            Decided::Run | Decided::Missed => {}
        }
    }
}

#[cfg(test)]
mod tests;
