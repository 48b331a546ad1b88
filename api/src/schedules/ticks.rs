//! What became of a schedule's ticks, and which come next.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use promptmill_domain::{ScheduleId, Tick};
use promptmill_ticks::{Timetable, local_time};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::view::TickView;
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Path, Query};
use crate::page::{self, Page, PageQuery};
use crate::problem::{Problem, ProblemId};
use crate::time::Time;

/// The most ticks of a page: their batches are read with them.
const MOST: u32 = 50;

/// The most ticks that are foretold.
const MOST_NEXT: usize = 1_000;

/// List the ticks of a schedule
///
/// What became of each, newest first, for 90 days. Of ticks that were missed in one go only the newest hundred are among them.
#[utoipa::path(
    get,
    path = "/v1/schedules/{id}/ticks",
    tag = "schedules",
    operation_id = "listTicks",
    params(("id" = String, Path, description = "The schedule, sched_..."), PageQuery),
    responses((status = 200, description = "A page of ticks", body = Page<TickView>))
)]
pub(crate) async fn history(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ScheduleId>,
    Query(query): Query<PageQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    caller.may(Scope::SchedulesRead)?;
    let limit = query.limit()?.min(MOST);
    let list = format!("ticks {id}");
    let before = query.after::<u64>(&list)?;
    let (records, tenant) = (&app.engine().records, &caller.tenant);
    records.schedule(tenant, id).await?;
    let mut found = records.ticks(tenant, id, before, limit + 1).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_cursor = found.last().filter(|_| more).map(|last| page::cursor(&list, &last.at_ms.to_string()));
    let of = |tick: &Tick| Some(Tick::batch(tick.schedule, tick.at_ms, tick.state.last_batch()?));
    let ids: Vec<_> = found.iter().filter_map(of).collect();
    let batches = app.engine().store.batches_told_of(&ids).await?;
    let data: Vec<TickView> = found.iter().map(|tick| TickView::of(tick, &batches)).collect();
    Ok(Page { data, next_cursor }.respond(&uri))
}

/// How many ticks are foretold.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct NextQuery {
    /// How many, 10 unless told.
    #[param(minimum = 1, maximum = 1000)]
    count: Option<usize>,
}

/// The ticks that come next.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NextTicks {
    /// In order. Fewer than were asked for where no more come.
    data: Vec<NextTick>,
}

/// A tick to come.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NextTick {
    /// When.
    at: Time,
    /// The same in the schedule's time zone.
    #[schema(format = "date-time")]
    local: String,
}

/// Foretell the ticks of a schedule
///
/// As if it were not paused.
#[utoipa::path(
    get,
    path = "/v1/schedules/{id}/next",
    tag = "schedules",
    operation_id = "nextTicks",
    params(("id" = String, Path, description = "The schedule, sched_..."), NextQuery),
    responses((status = 200, description = "The ticks that come next", body = NextTicks))
)]
pub(crate) async fn next(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ScheduleId>,
    Query(query): Query<NextQuery>,
) -> Result<axum::Json<NextTicks>, Problem> {
    caller.may(Scope::SchedulesRead)?;
    let count = query.count.unwrap_or(10);
    if !(1..=MOST_NEXT).contains(&count) {
        return Err(Problem::new(ProblemId::BadRequest).detail("query parameter count: 1 to 1000"));
    }
    let schedule = app.engine().records.schedule(&caller.tenant, id).await?;
    let timing = schedule.timing;
    let timetable = Timetable::new(&timing.rule, timing.start_ms, timing.end_ms);
    let timetable =
        timetable.map_err(|error| Problem::internal(format!("a timing that was taken: {error}")))?;
    let first = timetable.next_after(app.now_ms());
    let ticks = std::iter::successors(first, |tick| timetable.next_after(*tick));
    let tick = |at_ms| NextTick { at: Time(at_ms), local: local_time(&timing.rule, at_ms) };
    Ok(axum::Json(NextTicks { data: ticks.take(count).map(tick).collect() }))
}
