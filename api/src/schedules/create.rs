//! Making a schedule. Its id derives from the request's plan, so that a request which was cut off and is run again finds what it made.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use promptmill_domain::schedule::{MOST_SCHEDULES, Policies, RowSource, RunSpec, TemplateChoice, Timing};
use promptmill_domain::{BatchLimits, Schedule, ScheduleId, ScheduleState, TenantId};
use promptmill_ports::StoreError;
use secrecy::ExposeSecret as _;

use super::body::{Checks, NewScheduleBody};
use super::rows;
use super::view::ScheduleView;
use crate::App;
use crate::auth::{Caller, Scope};
use crate::batches::draft::{self, Plan};
use crate::batches::submit::{room_bytes, too_many_rows};
use crate::batches::{preflight, webhook};
use crate::extract::LargeJson;
use crate::idempotency::{self, Idempotency};
use crate::problem::{FieldError, Problem, ProblemId};
use crate::templates::TemplateArg;

/// Make a schedule
///
/// Everything about it is checked now, as if its first run began: the template, the model, each row. A tick makes a batch of its own, which tells its
/// events as any other does.
#[utoipa::path(
    post,
    path = "/v1/schedules",
    tag = "schedules",
    operation_id = "createSchedule",
    request_body(
        content = NewScheduleBody,
        example = json!({
            "name": "nightly",
            "cron": "0 3 * * *",
            "timezone": "Europe/Berlin",
            "batch": {
                "template": {
                    "name": "digest",
                    "messages": [{"role": "user", "content": "What happened in {{ city }} until {{ scheduled_at }}?"}],
                    "model": {"name": "demo:any"},
                },
                "rows": [{"variables": {"city": "Bern"}}],
            },
        })
    ),
    responses((
        status = 201,
        description = "The schedule",
        body = ScheduleView,
        headers(("Location" = String, description = "Where the schedule is read"))
    ))
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    idempotency: Idempotency,
    LargeJson(body, digest, large): LargeJson<NewScheduleBody>,
) -> Result<Response, Problem> {
    caller.may(Scope::SchedulesWrite)?;
    let run = async |plan: idempotency::Plan| {
        let _large = large;
        create_once(&app, &caller.tenant, ScheduleId::from_bytes(plan.bytes), body).await
    };
    idempotency.once(&app, &caller, digest, run).await
}

async fn create_once(
    app: &App,
    tenant: &TenantId,
    id: ScheduleId,
    mut body: NewScheduleBody,
) -> Result<Response, Problem> {
    let now_ms = app.now_ms();
    let mut checks = Checks { app, now_ms, errors: Vec::new() };
    if let Some(name) = &body.name {
        checks.name(name);
    }
    let (cron, timezone) = (body.cron.as_deref(), body.timezone.as_deref());
    let rule = checks.rule(cron, timezone, body.every, body.start, None);
    let jitter_ms = checks.jitter_ms(body.jitter.unwrap_or(0));
    let (start_ms, end_ms) = (body.start.map(|time| time.0), body.end.map(|time| time.0));
    let timing = rule.map(|rule| Timing { rule, start_ms, end_ms, jitter_ms });
    let policies = checks.policies(&Policies::default(), body.policies());
    let timetable = timing.as_ref().and_then(|timing| checks.timetable(timing));
    if body.batch.deadline.is_some() {
        let detail = "has passed at later runs; use completion_window, which begins with each";
        checks.errors.push(FieldError::at("/batch/deadline", detail));
    }
    let given = body.batch.rows.take();
    match (&given, &body.rows_from) {
        (Some(_), Some(_)) => {
            checks
                .errors
                .push(FieldError::at("/rows_from", "stands for rows of the batch; leave one of them out"));
        }
        (Some(rows), None) if rows.is_empty() => {
            checks.errors.push(FieldError::at("/batch/rows", "must hold at least one row"));
        }
        (None, None) => checks.errors.push(FieldError::at("/batch/rows", "or rows_from is needed")),
        (Some(_), None) | (None, Some(_)) => {}
    }
    checks.end()?;
    let (Some(timing), Some(timetable)) = (timing, timetable) else {
        return Err(Problem::internal("a schedule was not checked to the end"));
    };
    let next_ms = timetable.next_after(now_ms);
    let within = |problem: Problem| problem.within("/batch");
    let sealed_for = Schedule::sealed_for(id);
    let plan = draft::plan(app, tenant, sealed_for, &body.batch).await.map_err(within)?;
    let Plan { spec, limits, rows_of, made_secret, .. } = plan;
    preflight::check(app, &spec).await.map_err(within)?;
    room_bytes(app, tenant).await?;
    let first_ms = next_ms.unwrap_or(now_ms);
    let packed = match given {
        Some(given) => {
            Some(rows::packed(app, given, rows_of.clone(), &timing, first_ms).await.map_err(within)?)
        }
        None => None,
    };
    if packed.as_ref().is_some_and(|(_, taken)| u64::from(taken.rows) > app.config().batch_rows) {
        return Err(too_many_rows(app.config().batch_rows));
    }
    let rows = match &body.rows_from {
        Some(from) => rows::stored(app, tenant, from, rows_of, &timing, first_ms).await?,
        None => RowSource::Set { set: Schedule::own_rows(id), version: Some(1) },
    };
    let records = &app.engine().records;
    let there = match records.schedule(tenant, id).await {
        Ok(schedule) => Some(schedule),
        Err(StoreError::NotFound) => None,
        Err(error) => return Err(error.into()),
    };
    if there.is_none() {
        if records.schedule_count(tenant).await? >= u64::from(MOST_SCHEDULES) {
            let detail = format!("a tenant has at most {MOST_SCHEDULES} schedules");
            return Err(Problem::new(ProblemId::Conflict).detail(detail));
        }
        if let Some((blocks, taken)) = packed {
            rows::keep(app, tenant, id, blocks, taken).await?;
        }
        let template = match (&body.batch.template, &spec.template_ref) {
            (Some(TemplateArg::Stored(_, None)), Some(newest)) => {
                Some(TemplateChoice { id: newest.id, label: None })
            }
            _ => None,
        };
        let state = if body.paused { ScheduleState::Paused { at_ms: now_ms } } else { ScheduleState::Active };
        let schedule = Schedule {
            id,
            tenant: tenant.clone(),
            name: body.name.clone(),
            timing,
            policies,
            state,
            next_ms,
            begun: None,
            spend: None,
            created_ms: now_ms,
            changed_ms: now_ms,
            ver: 1,
            run: RunSpec { template, rows, limits: BatchLimits { deadline_ms: None, ..limits }, spec },
        };
        records.put_schedule(&schedule).await?;
    }
    let schedule = records.schedule(tenant, id).await?;
    let told = schedule.run.spec.webhook.as_ref().filter(|_| made_secret);
    let secret = told.map(|told| webhook::opened(app, tenant, sealed_for, told)).transpose()?;
    let webhook_secret = secret.map(|secret| secret.text().expose_secret().to_owned());
    let mut view = ScheduleView::of(app, &schedule).await?;
    view.webhook_secret = webhook_secret;
    let location = format!("/v1/schedules/{}", view.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(view)).into_response())
}
