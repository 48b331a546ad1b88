//! Making a schedule. Its id derives from the request's plan, so that a request which was cut off and is run again finds what it made.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use promptmill_domain::schedule::{MOST_SCHEDULES, Policies, Timing};
use promptmill_domain::{Schedule, ScheduleId, ScheduleState, TenantId};
use promptmill_ports::StoreError;

use super::body::{Checks, NewScheduleBody};
use super::runs::{First, NewRuns};
use super::view::ScheduleView;
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::LargeJson;
use crate::idempotency::{self, Idempotency};
use crate::problem::{Problem, ProblemId};

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
    body: NewScheduleBody,
) -> Result<Response, Problem> {
    let now_ms = app.now_ms();
    let mut checks = Checks::new(app, now_ms);
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
    checks.batch(&body.batch);
    checks.rows(body.batch.rows.is_some(), body.rows_from.as_ref(), None);
    checks.end()?;
    let (Some(timing), Some(timetable)) = (timing, timetable) else {
        return Err(Problem::internal("a schedule was not checked to the end"));
    };
    let next_ms = timetable.next_after(now_ms);
    let first = First { timing: &timing, at_ms: next_ms.unwrap_or(now_ms) };
    let runs = NewRuns::checked(app, tenant, id, (body.batch, body.rows_from), first, None).await?;
    let made_secret = runs.made_secret;
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
        let run = runs.kept(app, tenant, id, None).await?;
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
            run,
        };
        records.put_schedule(&schedule).await?;
    }
    let schedule = records.schedule(tenant, id).await?;
    let mut view = ScheduleView::of(app, &schedule).await?;
    if made_secret {
        view.tell_secret(app, &schedule)?;
    }
    let location = format!("/v1/schedules/{}", view.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(view)).into_response())
}
