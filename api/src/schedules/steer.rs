//! Changing, pausing, resuming, running and deleting a schedule.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use promptmill_domain::schedule::{Concurrency, RowSource, TickBy};
use promptmill_domain::{BatchId, Schedule, ScheduleId, ScheduleState, TenantId, Tick, TickState};
use promptmill_ports::{StoreError, flow};

use super::body::{ChangedScheduleBody, Checks, next_ms};
use super::rows;
use super::runs::{First, NewRuns};
use super::view::{ScheduleView, TickView};
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Digest, LargeJson, Path};
use crate::idempotency::{Idempotency, Plan};
use crate::problem::{Problem, ProblemId};

/// How often a change is tried that others come before.
const CHANGES: u32 = 10;

/// Changes the schedule by `change`, which is asked again when somebody else changed it meanwhile.
async fn changed(
    app: &App,
    tenant: &TenantId,
    id: ScheduleId,
    mut change: impl FnMut(&mut Schedule) -> Result<(), Problem>,
) -> Result<Schedule, Problem> {
    let records = &app.engine().records;
    for _ in 0..CHANGES {
        let mut schedule = records.schedule(tenant, id).await?;
        let before = schedule.clone();
        change(&mut schedule)?;
        if schedule == before {
            return Ok(schedule);
        }
        schedule.ver += 1;
        if records.put_schedule(&schedule).await? {
            return Ok(schedule);
        }
    }
    Err(Problem::new(ProblemId::Unavailable).detail("the schedule is changed by too many at once"))
}

/// Change a schedule
///
/// What is left out stays. Where its times change, the next tick is the first of the new ones that lies in the future. `batch` is replaced as a whole, and checked as when the
/// schedule was made. Runs that began go on as they are.
#[utoipa::path(
    patch,
    path = "/v1/schedules/{id}",
    tag = "schedules",
    operation_id = "changeSchedule",
    params(("id" = String, Path, description = "The schedule, sched_...")),
    request_body = ChangedScheduleBody,
    responses((status = 200, description = "The schedule", body = ScheduleView))
)]
pub(crate) async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ScheduleId>,
    LargeJson(mut body, _, _large): LargeJson<ChangedScheduleBody>,
) -> Result<axum::Json<ScheduleView>, Problem> {
    caller.may(Scope::SchedulesWrite)?;
    let now_ms = app.now_ms();
    let tenant = &caller.tenant;
    let before = app.engine().records.schedule(tenant, id).await?;
    let (batch, from) = (body.batch.take(), body.rows_from.take());
    let mut checks = Checks::new(&app, now_ms);
    let asked = checks.changed(&before, &body);
    match &batch {
        Some(batch) => {
            checks.batch(batch);
            checks.rows(batch.rows.is_some(), from.as_ref(), Some(&before));
        }
        None if from.is_some() => {
            checks.wrong("/batch", "is needed: rows are checked for what is run with them");
        }
        None => {}
    }
    checks.end()?;
    let (mut made_secret, mut begins_anew) = (false, false);
    let run = match batch {
        None => None,
        Some(batch) => {
            let first = First { timing: &asked.timing, at_ms: asked.next_ms.unwrap_or(now_ms) };
            let runs = NewRuns::checked(&app, tenant, id, (batch, from), first, Some(&before)).await?;
            (made_secret, begins_anew) = (runs.made_secret, runs.begins_anew);
            let mut run = runs.kept(&app, tenant, id, Some(&before)).await?;
            if let (Some(before), Some(now)) = (&before.run.spec.webhook, &mut run.spec.webhook)
                && made_secret
                && before.url == now.url
            {
                now.sealed_secret.clone_from(&before.sealed_secret);
                made_secret = false;
            }
            Some(run)
        }
    };
    let schedule = changed(&app, tenant, id, |schedule| {
        let mut checks = Checks::new(&app, now_ms);
        let with_changes = checks.changed(schedule, &body);
        checks.end()?;
        if run.is_some() && schedule.run != before.run {
            let detail = "what the schedule runs was changed by somebody else meanwhile";
            return Err(Problem::new(ProblemId::Conflict).detail(detail));
        }
        // Not before what it names was looked up: an export tells by that whether it came later.
        *schedule = Schedule { changed_ms: app.now_ms(), ..with_changes };
        if let Some(run) = &run {
            schedule.run = run.clone();
        }
        if let Some(previous) = schedule.run.previous.as_mut().filter(|_| begins_anew) {
            // A run that begins from here on has the new rows.
            previous.since_ms = app.now_ms();
        }
        Ok(())
    });
    let schedule = match schedule.await {
        Ok(schedule) => schedule,
        Err(problem) => {
            // It was deleted meanwhile, and what was kept for it is to go with it.
            if let Err(StoreError::NotFound) = app.engine().records.schedule(tenant, id).await {
                forget_rows(&app, tenant, id, None).await;
            }
            return Err(problem);
        }
    };
    if run.is_some() && !matches!(schedule.run.rows, RowSource::Http(_)) {
        forget_rows(&app, tenant, id, schedule.own_version()).await;
    }
    let mut view = ScheduleView::of(&app, &schedule).await?;
    if made_secret {
        view.tell_secret(&app, &schedule)?;
    }
    Ok(axum::Json(view))
}

/// Forgets rows that came with the schedule before: all of them where there is no version of them now. The change holds, so that this fails is told to nobody; the next one does it.
async fn forget_rows(app: &App, tenant: &TenantId, id: ScheduleId, version: Option<u32>) {
    if rows::only(app, tenant, id, version).await.is_err() {
        tracing::warn!(schedule.id = %id, "rows that a schedule has no more are not forgotten yet");
    }
}

/// Delete a schedule
///
/// Its ticks go with it. Batches that it made stay, and those that run go on.
#[utoipa::path(
    delete,
    path = "/v1/schedules/{id}",
    tag = "schedules",
    operation_id = "deleteSchedule",
    params(("id" = String, Path, description = "The schedule, sched_...")),
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ScheduleId>,
) -> Result<StatusCode, Problem> {
    caller.may(Scope::SchedulesWrite)?;
    let records = &app.engine().records;
    let was_there = records.delete_schedule(&caller.tenant, id).await?;
    // Also those of one whose deletion was cut off.
    records.delete_row_set(&caller.tenant, Schedule::own_rows(id)).await?;
    if was_there { Ok(StatusCode::NO_CONTENT) } else { Err(ProblemId::NotFound.into()) }
}

/// Pause a schedule
///
/// Nothing of it begins from now on. What is due meanwhile is not made up for; runs that began go on.
#[utoipa::path(
    post,
    path = "/v1/schedules/{id}/pause",
    tag = "schedules",
    operation_id = "pauseSchedule",
    params(("id" = String, Path, description = "The schedule, sched_...")),
    responses((status = 200, description = "The schedule", body = ScheduleView))
)]
pub(crate) async fn pause(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ScheduleId>,
    idempotency: Idempotency,
) -> Result<Response, Problem> {
    caller.may(Scope::SchedulesWrite)?;
    let run = async |_| {
        let at_ms = app.now_ms();
        let schedule = changed(&app, &caller.tenant, id, |schedule| {
            if schedule.state == ScheduleState::Active {
                schedule.state = ScheduleState::Paused { at_ms };
                schedule.changed_ms = at_ms;
            }
            Ok(())
        });
        Ok(axum::Json(ScheduleView::of(&app, &schedule.await?).await?).into_response())
    };
    idempotency.once(&app, &caller, Digest::empty(), run).await
}

/// Resume a schedule
///
/// It goes on with its first tick from now on.
#[utoipa::path(
    post,
    path = "/v1/schedules/{id}/resume",
    tag = "schedules",
    operation_id = "resumeSchedule",
    params(("id" = String, Path, description = "The schedule, sched_...")),
    responses((status = 200, description = "The schedule", body = ScheduleView))
)]
pub(crate) async fn resume(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ScheduleId>,
    idempotency: Idempotency,
) -> Result<Response, Problem> {
    caller.may(Scope::SchedulesWrite)?;
    let run = async |_| {
        let now_ms = app.now_ms();
        let schedule = changed(&app, &caller.tenant, id, |schedule| {
            if let ScheduleState::Paused { .. } = schedule.state {
                schedule.state = ScheduleState::Active;
                schedule.next_ms = next_ms(&schedule.timing, now_ms);
                schedule.changed_ms = now_ms;
            }
            Ok(())
        });
        Ok(axum::Json(ScheduleView::of(&app, &schedule.await?).await?).into_response())
    };
    idempotency.once(&app, &caller, Digest::empty(), run).await
}

/// Run a schedule now
///
/// A run beside its ticks, whether or not it is paused. While an earlier run goes on, it is refused where overlapping ticks are skipped.
#[utoipa::path(
    post,
    path = "/v1/schedules/{id}/run",
    tag = "schedules",
    operation_id = "runSchedule",
    params(("id" = String, Path, description = "The schedule, sched_...")),
    responses((status = 202, description = "The tick of the run; its batch is made within a second or two", body = TickView))
)]
pub(crate) async fn run(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ScheduleId>,
    idempotency: Idempotency,
) -> Result<Response, Problem> {
    caller.may(Scope::SchedulesWrite)?;
    let run = async |plan: Plan| {
        let (records, tenant) = (&app.engine().records, &caller.tenant);
        let schedule = records.schedule(tenant, id).await?;
        let tick = Tick {
            schedule: id,
            tenant: tenant.clone(),
            at_ms: BatchId::from_bytes(plan.bytes).unix_ms(),
            by: TickBy::Request,
            state: TickState::DUE,
            ver: 1,
        };
        // An earlier run of the request may have asked already.
        let is_skipped = !plan.ran_before && schedule.policies.concurrency == Concurrency::Skip;
        if is_skipped && flow::is_busy(records.as_ref(), app.engine().store.as_ref(), &schedule).await? {
            let detail = "an earlier run goes on, and the schedule skips what overlaps";
            return Err(Problem::new(ProblemId::Conflict).detail(detail));
        }
        records.add_ticks(std::slice::from_ref(&tick)).await?;
        let tick = records.tick(tenant, id, tick.at_ms).await?;
        Ok((StatusCode::ACCEPTED, axum::Json(TickView::of(&tick, &[]))).into_response())
    };
    idempotency.once(&app, &caller, Digest::empty(), run).await
}
