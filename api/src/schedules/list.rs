//! Lists of schedules, and one schedule.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use promptmill_domain::ScheduleId;

use super::view::ScheduleView;
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Path, Query};
use crate::page::{self, Page, PageQuery};
use crate::problem::Problem;

/// The name of the list, for its cursors.
const LIST: &str = "schedules";

/// The most schedules of a page: each may hold a template of a mebibyte.
const MOST: u32 = 50;

/// List schedules
///
/// Oldest first. A page may have fewer entries than the limit although `next_cursor` says that more follow.
#[utoipa::path(
    get,
    path = "/v1/schedules",
    tag = "schedules",
    operation_id = "listSchedules",
    params(PageQuery),
    responses((status = 200, description = "A page of schedules", body = Page<ScheduleView>))
)]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<PageQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    caller.may(Scope::SchedulesRead)?;
    let limit = query.limit()?.min(MOST);
    let after = query.after::<ScheduleId>(LIST)?;
    let mut found = app.engine().records.schedules(&caller.tenant, after, limit + 1).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_cursor = found.last().filter(|_| more).map(|last| page::cursor(LIST, &last.id.to_string()));
    let mut data = Vec::with_capacity(found.len());
    for schedule in &found {
        data.push(ScheduleView::of(&app, schedule).await?);
    }
    Ok(Page { data, next_cursor }.respond(&uri))
}

/// Read a schedule
#[utoipa::path(
    get,
    path = "/v1/schedules/{id}",
    tag = "schedules",
    operation_id = "getSchedule",
    params(("id" = String, Path, description = "The schedule, sched_...")),
    responses((status = 200, description = "The schedule", body = ScheduleView))
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ScheduleId>,
) -> Result<axum::Json<ScheduleView>, Problem> {
    caller.may(Scope::SchedulesRead)?;
    let schedule = app.engine().records.schedule(&caller.tenant, id).await?;
    Ok(axum::Json(ScheduleView::of(&app, &schedule).await?))
}
