//! The start of a tick: its batch is made and queued.
//!
//! The batch's id derives from schedule and time, so whoever tries again, after a crash or beside another, finds what is made already. What may pass
//! (a quota, a template that is away) is tried again for some minutes; what will not fails the tick.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::schedule::{Concurrency, RowSource, RunSpec, TickBy, WhySkipped};
use promptmill_domain::{
    BatchEvent, BatchId, BatchLimits, BatchSpec, Money, Schedule, ScheduleState, TemplateRef, TenantId, Tick,
    TickRef, TickState, Webhook, chunk,
};
use promptmill_intake::{RowsOf, UsedUp};
use promptmill_ports::{Accepted, NewBatch, Signal, StoreError, StoreResult, WholeBatch, flow};
use promptmill_runtime::Engine;
use secrecy::ExposeSecret as _;

use super::rows::{self, Rows};
use super::served::Served;
use super::{again, over};
use crate::config::Recurring;
use crate::deliveries::Missing;

/// Waits between tries, milliseconds: ten minutes and a half in all.
const WAITS_MS: [u64; 7] = [5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 320_000];

/// Open ticks of one schedule that are looked at.
const OPEN: u32 = 1_000;

/// The longest that a tick may have been put off: one that is due later was put off by a clock that was ahead.
pub(super) const LONGEST_WAIT_MS: u64 = 320_000;

/// How often money is set aside anew when another change of the schedule came between.
const HOLDS: u32 = 16;

/// Bytes of what is told of a start that failed.
const TOLD_BYTES: usize = 500;

/// Why there is no batch.
#[derive(Debug)]
pub(super) enum NotStarted {
    /// It will not be otherwise.
    Never(String),
    /// It may be otherwise in a while.
    NotNow(String),
    /// It is not to be.
    Skip(WhySkipped),
    /// Others of its tenant wait for the servers of their rows, as many as may.
    Crowded,
    /// What it depends on is about to be noted.
    Soon,
    /// The store did not do it.
    Store(StoreError),
}

impl NotStarted {
    /// What will not be otherwise.
    pub(super) fn never(why: impl fmt::Display) -> Self {
        Self::Never(why.to_string())
    }
}

impl From<StoreError> for NotStarted {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<UsedUp> for NotStarted {
    fn from(used_up: UsedUp) -> Self {
        Self::NotNow(used_up.to_string())
    }
}

/// Makes the next batch of a tick. Answers the tick as it stands then; `None` where somebody else changed it.
pub(super) async fn run(
    engine: &Engine,
    recurring: &Recurring,
    served: &Served,
    missing: Option<&Missing>,
    tick: Tick,
) -> Option<Tick> {
    let now_ms = engine.clock.now_ms();
    let (schedule, at_ms) = (tick.schedule, tick.at_ms);
    let (tries, retry) = match tick.state {
        TickState::Due { tries, .. } => (tries, 0),
        TickState::Again { tries, retry, .. } => (tries, retry),
        TickState::Running { .. }
        | TickState::Ended { .. }
        | TickState::Skipped { .. }
        | TickState::Failed { .. } => {
            return Some(tick);
        }
    };
    // A look hands on ticks as decided, also those that stood there before.
    match engine.records.tick(&tick.tenant, schedule, at_ms).await {
        Ok(stored) if stored.ver == tick.ver => {}
        Ok(_) | Err(StoreError::NotFound) => return None,
        Err(error) => {
            tracing::warn!(schedule.id = %schedule, at_ms, error = %error, "a tick cannot be read; its batch waits");
            return Some(put_off(tick, now_ms + 1_000, tries));
        }
    }
    let made = match retry {
        0 => start(engine, recurring, served, &tick).await,
        retry => again::start(engine, recurring, &tick, retry).await,
    };
    if !matches!(made, Err(NotStarted::Crowded)) {
        served.leave((schedule, at_ms));
    }
    // A server may have been asked for minutes.
    let now_ms = engine.clock.now_ms();
    let state = match made {
        Ok(queued_ms) => running(&tick.state, queued_ms),
        Err(NotStarted::Soon) => return Some(put_off(tick, now_ms + 1_000, tries)),
        // It stands among those that wait for a place.
        Err(NotStarted::Crowded) => return Some(tick),
        // What became of it is not known, and it is tried again at once.
        Err(NotStarted::Store(error @ StoreError::Unavailable(_))) => {
            tracing::warn!(schedule.id = %schedule, at_ms, error = %error, "the store is away; a scheduled batch waits");
            return Some(put_off(tick, now_ms + 1_000, tries));
        }
        Err(NotStarted::Store(error)) => {
            tracing::error!(schedule.id = %schedule, at_ms, error = %error, "a scheduled batch could not be made");
            later(&tick, tries, now_ms, "the store refused it".to_owned())
        }
        Err(NotStarted::NotNow(why)) => later(&tick, tries, now_ms, why),
        Err(NotStarted::Never(why)) => without(&tick.state, now_ms, why),
        Err(NotStarted::Skip(why)) => TickState::Skipped { why },
    };
    if !state.is_open()
        && !matches!(engine.records.tick(&tick.tenant, schedule, at_ms).await, Ok(now) if now.ver == tick.ver)
    {
        // Somebody else leads, who makes it, and whose money is not ours to give back. Where that is not known it is looked at again.
        return None;
    }
    if let TickState::Failed { .. } | TickState::Skipped { .. } = &state {
        tracing::warn!(schedule.id = %schedule, at_ms, "a scheduled batch could not be made");
        // Before that is noted, so that whoever tries again after a crash tells it.
        if let Some(missing) = missing {
            match missing.of_tick(&tick, &state).await {
                Ok(()) => {}
                Err(error @ StoreError::Unavailable(_)) => {
                    tracing::warn!(schedule.id = %schedule, at_ms, error = %error, "that a tick failed is not told yet");
                    return Some(put_off(tick, now_ms + 1_000, tries));
                }
                Err(error) => {
                    tracing::error!(schedule.id = %schedule, at_ms, error = %error, "that a tick failed cannot be told");
                }
            }
        }
    }
    if !state.is_open()
        && let Err(error) = over::settle(engine, &tick, state.last_batch()).await
    {
        tracing::warn!(schedule.id = %schedule, at_ms, error = %error, "what a run cost is not counted yet");
        return Some(put_off(tick, now_ms + 1_000, tries));
    }
    let changed = Tick { state, ver: tick.ver + 1, ..tick };
    match engine.records.put_tick(&changed).await {
        Ok(true) => {
            match changed.state {
                TickState::Running { started_ms, retry: 0 } => {
                    let lag_ms = started_ms.saturating_sub(at_ms);
                    engine.metrics.tick_started_after(Duration::from_millis(lag_ms));
                }
                TickState::Failed { .. } => engine.metrics.ticks("failed", 1),
                TickState::Skipped { why } => engine.metrics.ticks(word(why), 1),
                TickState::Due { .. }
                | TickState::Running { .. }
                | TickState::Again { .. }
                | TickState::Ended { .. } => {}
            }
            Some(changed)
        }
        Ok(false) => {
            if let Err(error) = take_back(engine, &changed).await {
                tracing::warn!(schedule.id = %schedule, at_ms, error = %error, "a scheduled batch that is not to be could not be cancelled");
            }
            None
        }
        Err(error) => {
            // The batch is there, and is found there by the next try.
            tracing::warn!(schedule.id = %schedule, at_ms, error = %error, "the start of a scheduled batch is not noted");
            None
        }
    }
}

/// The word by which a tick without a run is counted.
const fn word(why: WhySkipped) -> &'static str {
    match why {
        WhySkipped::Overlaps => "overlaps",
        WhySkipped::Replaced => "replaced",
        WhySkipped::Budget => "budget",
        WhySkipped::Paused => "paused",
        WhySkipped::Missed => "missed",
        WhySkipped::NoRows => "no_rows",
    }
}

/// Cancels a batch that was made for a tick while somebody else decided that it is not to be.
async fn take_back(engine: &Engine, made: &Tick) -> StoreResult<()> {
    let TickState::Running { retry, .. } = made.state else { return Ok(()) };
    let now = match engine.records.tick(&made.tenant, made.schedule, made.at_ms).await {
        // It went with its schedule, whose batches stay.
        Err(StoreError::NotFound) => return Ok(()),
        found => found?,
    };
    if now.state.is_open() {
        return Ok(());
    }
    if now.state.last_batch().is_some_and(|last| last >= retry) {
        // It was counted already: what was set aside since is given back.
        return over::settle(engine, made, None).await;
    }
    cancel(engine, made, retry).await?;
    over::settle(engine, made, Some(retry)).await
}

/// The tick, whose next batch was queued then.
fn running(before: &TickState, queued_ms: u64) -> TickState {
    match before {
        TickState::Again { started_ms, retry, .. } => {
            TickState::Running { started_ms: *started_ms, retry: *retry }
        }
        _ => TickState::Running { started_ms: queued_ms, retry: 0 },
    }
}

/// The tick, whose next batch will not be made: a run that had one has ended.
fn without(before: &TickState, now_ms: u64, why: String) -> TickState {
    match before {
        TickState::Again { started_ms, retry, .. } => {
            TickState::Ended { started_ms: *started_ms, ended_ms: now_ms, retry: retry.saturating_sub(1) }
        }
        _ => TickState::Failed { why: cut(why) },
    }
}

/// The tick, to be tried then.
fn put_off(tick: Tick, not_before_ms: u64, tries: u32) -> Tick {
    let state = match tick.state {
        TickState::Again { started_ms, retry, .. } => {
            TickState::Again { started_ms, retry, tries, not_before_ms }
        }
        _ => TickState::Due { tries, not_before_ms },
    };
    Tick { state, ..tick }
}

/// Another try after a wait, or none where there were enough.
fn later(tick: &Tick, tries: u32, now_ms: u64, why: String) -> TickState {
    let wait_ms = usize::try_from(tries).ok().and_then(|tries| WAITS_MS.get(tries));
    match wait_ms {
        Some(wait_ms) => put_off(tick.clone(), now_ms.saturating_add(*wait_ms), tries + 1).state,
        None => without(&tick.state, now_ms, why),
    }
}

fn cut(mut why: String) -> String {
    let end = (0..=TOLD_BYTES.min(why.len())).rev().find(|at| why.is_char_boundary(*at));
    why.truncate(end.unwrap_or(0));
    why
}

/// Makes and queues the batch of a tick; answers when that was done.
async fn start(
    engine: &Engine,
    recurring: &Recurring,
    served: &Served,
    tick: &Tick,
) -> Result<u64, NotStarted> {
    let (store, tenant) = (&engine.store, &tick.tenant);
    let schedule = match engine.records.schedule(tenant, tick.schedule).await {
        Err(StoreError::NotFound) => {
            // A try that was cut off may have kept rows for it after it was deleted.
            engine.records.delete_row_set(tenant, Schedule::own_rows(tick.schedule)).await?;
            return Err(NotStarted::never("the schedule was deleted"));
        }
        found => found?,
    };
    let id = Tick::batch(tick.schedule, tick.at_ms, 0);
    // An earlier try may have made it.
    if let Some(queued_ms) = rows::earlier(engine, tenant, id).await? {
        return Ok(queued_ms);
    }
    if tick.by == TickBy::Time && matches!(schedule.state, ScheduleState::Paused { .. }) {
        return Err(NotStarted::Skip(WhySkipped::Paused));
    }
    if schedule.run.previous.is_some() && schedule.policies.concurrency == Concurrency::Skip {
        // Which run is the one before shows when none goes on.
        others(engine, tick, &schedule).await?;
    }
    let pinned = pinned(engine, &schedule).await?;
    let spec = spec(recurring, &schedule, tick, id, &pinned)?;
    if !store.has_room().await? {
        return Err(NotStarted::NotNow("the disk is full".to_owned()));
    }
    recurring.quotas.room_bytes(&store.usage(tenant, engine.clock.now_ms()).await?)?;
    let rows = Rows::of(engine, recurring, served, &schedule, tick, pinned).await?;
    if let RowSource::Http(_) = &schedule.run.rows {
        may_still(engine, &schedule, tick).await?;
    }
    let now_ms = engine.clock.now_ms();
    recurring.quotas.may_submit(&store.usage(tenant, now_ms).await?, rows.count())?;
    let whole = rows.whole().await?;
    // All is ready: from here on others make way, and money is set aside.
    let others = others(engine, tick, &schedule).await?;
    let max_cost = match held(engine, tick, &schedule).await {
        Err(NotStarted::Skip(WhySkipped::Budget)) if others => {
            return Err(NotStarted::NotNow(
                "the run before is ending, and holds what the month has left".to_owned(),
            ));
        }
        held => held?,
    };
    let limits = BatchLimits { max_cost, ..limits(&schedule.run, now_ms) };
    let batch = NewBatch { id, spec, limits, idem_key: None, now_ms };
    if let Some((block, digest)) = whole {
        let whole = WholeBatch { batch: batch.clone(), rows: block, digest };
        if let Accepted::New(batch) = store.accept(tenant, whole).await? {
            // Whoever waits for it polls as well.
            let _ = engine.signals.publish(Signal::BatchQueued(batch.id)).await;
            return Ok(now_ms);
        }
    }
    rows.fill(engine, recurring, tenant, batch).await
}

/// Whether a run of the schedule may begin that took its time: somebody may have paused, changed or deleted it.
pub(super) async fn may_still(engine: &Engine, schedule: &Schedule, tick: &Tick) -> Result<(), NotStarted> {
    match engine.records.schedule(&schedule.tenant, schedule.id).await {
        Err(StoreError::NotFound) => Err(NotStarted::never("the schedule was deleted")),
        Err(error) => Err(error.into()),
        Ok(now) if now.run != schedule.run => {
            Err(NotStarted::NotNow("what the schedule runs was changed meanwhile".to_owned()))
        }
        Ok(now) if tick.by == TickBy::Time && matches!(now.state, ScheduleState::Paused { .. }) => {
            Err(NotStarted::Skip(WhySkipped::Paused))
        }
        Ok(_) => Ok(()),
    }
}

/// The template of a run.
pub(super) struct Pinned {
    /// Its text.
    pub(super) source: String,
    /// The stored version it is, where it is one.
    pub(super) reference: Option<TemplateRef>,
    /// How rows are read for it.
    pub(super) rows_of: Arc<RowsOf>,
}

async fn pinned(engine: &Engine, schedule: &Schedule) -> Result<Pinned, NotStarted> {
    let (source, reference) = match &schedule.run.template {
        None => (schedule.run.spec.template.clone(), schedule.run.spec.template_ref.clone()),
        Some(choice) => {
            let gone = |error| match error {
                StoreError::NotFound => NotStarted::never("the template was deleted"),
                error => error.into(),
            };
            let version = match &choice.label {
                None => None,
                Some(label) => {
                    let labels = engine.records.labels(&schedule.tenant, choice.id).await.map_err(gone)?;
                    let found = labels.iter().find(|found| found.label == *label);
                    let none = || NotStarted::never("the template has no such label any more");
                    Some(found.ok_or_else(none)?.version)
                }
            };
            let found = engine.records.version(&schedule.tenant, choice.id, version).await.map_err(gone)?;
            (found.source, Some(TemplateRef { id: choice.id, version: found.version }))
        }
    };
    let (parsed, source) = tokio::task::spawn_blocking(move || (RowsOf::pinned(&source), source))
        .await
        .map_err(|_| NotStarted::NotNow("the template could not be read".to_owned()))?;
    let rows_of = parsed.map_err(|_| NotStarted::never("the template is none that this release reads"))?;
    Ok(Pinned { source, reference, rows_of: Arc::new(rows_of) })
}

fn spec(
    recurring: &Recurring,
    schedule: &Schedule,
    tick: &Tick,
    id: BatchId,
    pinned: &Pinned,
) -> Result<BatchSpec, NotStarted> {
    let mut spec = schedule.run.spec.clone();
    spec.template.clone_from(&pinned.source);
    spec.template_ref.clone_from(&pinned.reference);
    spec.tick = Some(TickRef { schedule: tick.schedule, at_ms: tick.at_ms });
    spec.chunk_rows = chunk::rows_for(schedule.run.limits.max_concurrency);
    if let Some(webhook) = &mut spec.webhook {
        *webhook = moved(recurring, &schedule.tenant, Schedule::sealed_for(schedule.id), id, webhook)?;
    }
    Ok(spec)
}

/// What the run may cost, set aside from what its month has left.
async fn held(engine: &Engine, tick: &Tick, schedule: &Schedule) -> Result<Option<Money>, NotStarted> {
    let mut schedule = schedule.clone();
    for _ in 0..HOLDS {
        let Some(most) = schedule.policies.max_cost_per_month else {
            return Ok(schedule.run.limits.max_cost);
        };
        let before = schedule.spend.clone();
        let held = schedule.hold(tick.at_ms, most, engine.clock.now_ms());
        let Some(held) = held else { return Err(NotStarted::Skip(WhySkipped::Budget)) };
        if schedule.spend == before {
            return Ok(Some(held));
        }
        schedule.ver += 1;
        if engine.records.put_schedule(&schedule).await? {
            return Ok(Some(held));
        }
        // Somebody else changed it.
        schedule = engine.records.schedule(&tick.tenant, tick.schedule).await?;
    }
    Err(NotStarted::NotNow("the schedule is changed by too many at once".to_owned()))
}

/// A webhook whose secret is sealed for one batch, sealed for another.
pub(super) fn moved(
    recurring: &Recurring,
    tenant: &TenantId,
    from: BatchId,
    to: BatchId,
    webhook: &Webhook,
) -> Result<Webhook, NotStarted> {
    let opened = recurring.vault.open(&Webhook::context(tenant, from), &webhook.sealed_secret);
    let opened = opened.map_err(|_| NotStarted::never("the webhook's secret cannot be opened"))?;
    let sealed = recurring.vault.seal(&Webhook::context(tenant, to), opened.expose_secret());
    let sealed_secret =
        sealed.map_err(|_| NotStarted::NotNow("the webhook's secret cannot be sealed".to_owned()))?;
    Ok(Webhook { sealed_secret, ..webhook.clone() })
}

fn limits(run: &RunSpec, now_ms: u64) -> BatchLimits {
    let window_ms = run.spec.completion_window_ms;
    BatchLimits { deadline_ms: window_ms.map(|window_ms| now_ms.saturating_add(window_ms)), ..run.limits }
}

/// What becomes of other open ticks of the schedule when this one is to begin, as its policy says. Answers whether some were told to make way.
async fn others(engine: &Engine, tick: &Tick, schedule: &Schedule) -> Result<bool, NotStarted> {
    let open = engine.records.open_ticks(Some((tick.schedule, 0)), OPEN).await?;
    let others = open.into_iter().take_while(|open| open.schedule == tick.schedule);
    let others: Vec<_> = others.filter(|open| open.at_ms != tick.at_ms).collect();
    match schedule.policies.concurrency {
        Concurrency::Allow => Ok(false),
        Concurrency::Skip => {
            // Of two that are to begin the earlier one does.
            let before = |other: &&Tick| other.at_ms < tick.at_ms || other.due_ms().is_none();
            for other in others.iter().filter(before) {
                if flow::goes_on(engine.store.as_ref(), other, schedule).await? {
                    return Err(NotStarted::Skip(WhySkipped::Overlaps));
                }
            }
            Ok(false)
        }
        // The latest one does.
        Concurrency::Replace if others.iter().any(|other| other.at_ms > tick.at_ms) => {
            Err(NotStarted::Skip(WhySkipped::Replaced))
        }
        Concurrency::Replace => {
            let any = !others.is_empty();
            for mut earlier in others {
                // Its batch may be about to be made; it is looked at again as it stands after that.
                while !replaced(engine, &earlier).await? {
                    earlier =
                        match engine.records.tick(&earlier.tenant, earlier.schedule, earlier.at_ms).await {
                            Err(StoreError::NotFound) => break,
                            found => found?,
                        };
                }
            }
            Ok(any)
        }
    }
}

/// Ends the run of an earlier tick. Answers whether that is done; somebody else changed the tick where not.
async fn replaced(engine: &Engine, earlier: &Tick) -> Result<bool, NotStarted> {
    let state = match earlier.state {
        TickState::Due { .. } => {
            over::settle(engine, earlier, None).await?;
            TickState::Skipped { why: WhySkipped::Replaced }
        }
        TickState::Running { retry, .. } => {
            cancel(engine, earlier, retry).await?;
            return Ok(true);
        }
        TickState::Again { started_ms, retry, .. } => {
            let (ended_ms, retry) = (engine.clock.now_ms(), retry.saturating_sub(1));
            over::settle(engine, earlier, Some(retry)).await?;
            TickState::Ended { started_ms, ended_ms, retry }
        }
        TickState::Ended { .. } | TickState::Skipped { .. } | TickState::Failed { .. } => return Ok(true),
    };
    let is_skipped = matches!(state, TickState::Skipped { .. });
    let is_done = engine.records.put_tick(&Tick { state, ver: earlier.ver + 1, ..earlier.clone() }).await?;
    if is_done && is_skipped {
        engine.metrics.ticks("replaced", 1);
    }
    Ok(is_done)
}

/// Cancels a batch of a tick, where it is not over.
async fn cancel(engine: &Engine, tick: &Tick, retry: u32) -> StoreResult<()> {
    let id = Tick::batch(tick.schedule, tick.at_ms, retry);
    match engine.store.steer(&tick.tenant, id, BatchEvent::Cancel, engine.clock.now_ms()).await {
        Ok(_) => drop(engine.signals.publish(Signal::BatchChanged(id)).await),
        Err(StoreError::Conflict(_) | StoreError::NotFound) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use promptmill_domain::ScheduleId;

    /// How often it was tried, when it was tried last, and what came of it.
    fn tried(state: TickState) -> (usize, u64, TickState) {
        let mut tick = Tick {
            schedule: ScheduleId::from_bytes([1; 16]),
            tenant: TenantId::default_tenant(),
            at_ms: 0,
            by: TickBy::Time,
            state,
            ver: 1,
        };
        let (mut now_ms, mut times) = (0, 0);
        while let Some(due_ms) = tick.due_ms() {
            assert!(due_ms >= now_ms);
            now_ms = due_ms;
            let (TickState::Due { tries, .. } | TickState::Again { tries, .. }) = tick.state else {
                unreachable!("it is due")
            };
            tick.state = later(&tick, tries, now_ms, "ä".repeat(TOLD_BYTES));
            times += 1;
        }
        (times, now_ms, tick.state)
    }

    #[test]
    fn a_start_is_tried_again_for_some_minutes_and_fails_then() {
        let why = "ä".repeat(TOLD_BYTES / 2);
        assert_eq!(tried(TickState::DUE), (WAITS_MS.len() + 1, 635_000, TickState::Failed { why }));
    }

    #[test]
    fn a_run_whose_failed_rows_cannot_run_again_has_ended() {
        let again = TickState::Again { started_ms: 7, retry: 2, tries: 0, not_before_ms: 0 };
        let ended = TickState::Ended { started_ms: 7, ended_ms: 635_000, retry: 1 };
        assert_eq!(tried(again), (WAITS_MS.len() + 1, 635_000, ended));
    }
}
