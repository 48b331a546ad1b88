//! Row sets listed, read and deleted.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use promptmill_domain::RowSetId;

use super::view::RowSetView;
use super::{find, id_of};
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Path, Query};
use crate::page::{self, Page, PageQuery};
use crate::problem::{Problem, ProblemId};

/// The name of the list, for its cursors.
const LIST: &str = "row sets";

/// How often a version is taken away anew when another change came between.
const TRIES: u32 = 8;

/// List row sets
///
/// In an order that stays.
#[utoipa::path(
    get,
    path = "/v1/row-sets",
    tag = "row-sets",
    operation_id = "listRowSets",
    params(PageQuery),
    responses((status = 200, description = "A page of row sets", body = Page<RowSetView>))
)]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<PageQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    caller.may(Scope::SchedulesRead)?;
    let limit = query.limit()?;
    let after = query.after::<RowSetId>(LIST)?;
    let mut found = app.engine().records.row_sets(&caller.tenant, after, limit + 1).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_cursor = found.last().filter(|_| more).map(|last| page::cursor(LIST, &last.id.to_string()));
    let data: Vec<RowSetView> = found.into_iter().map(Into::into).collect();
    Ok(Page { data, next_cursor }.respond(&uri))
}

/// Read a row set
#[utoipa::path(
    get,
    path = "/v1/row-sets/{name}",
    tag = "row-sets",
    operation_id = "getRowSet",
    params(("name" = String, Path, description = "The row set")),
    responses((status = 200, description = "The row set", body = RowSetView))
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<axum::Json<RowSetView>, Problem> {
    caller.may(Scope::SchedulesRead)?;
    let set = find(&app, &caller.tenant, &name).await?;
    Ok(axum::Json(set.ok_or(ProblemId::NotFound)?.into()))
}

/// Delete a row set
///
/// With all of its versions. Ticks of schedules that take their rows from it fail from then on.
#[utoipa::path(
    delete,
    path = "/v1/row-sets/{name}",
    tag = "row-sets",
    operation_id = "deleteRowSet",
    params(("name" = String, Path, description = "The row set")),
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.may(Scope::SchedulesWrite)?;
    let id = id_of(&caller.tenant, &name);
    match app.engine().records.delete_row_set(&caller.tenant, id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ProblemId::NotFound.into()),
    }
}

/// Delete a version of a row set
///
/// Not its newest: that goes with the set.
#[utoipa::path(
    delete,
    path = "/v1/row-sets/{name}/versions/{version}",
    tag = "row-sets",
    operation_id = "deleteRowSetVersion",
    params(
        ("name" = String, Path, description = "The row set"),
        ("version" = u32, Path, description = "The version", minimum = 1),
    ),
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn delete_version(
    State(app): State<App>,
    caller: Caller,
    Path((name, version)): Path<(String, u32)>,
) -> Result<StatusCode, Problem> {
    caller.may(Scope::SchedulesWrite)?;
    for _ in 0..TRIES {
        let mut set = find(&app, &caller.tenant, &name).await?.ok_or(ProblemId::NotFound)?;
        if set.version(Some(version)).is_none() {
            return Err(ProblemId::NotFound.into());
        }
        if set.version(None).is_some_and(|newest| newest.version == version) {
            let detail = "the newest version goes with its row set; send other rows first, or delete the set";
            return Err(Problem::new(ProblemId::Conflict).detail(detail));
        }
        set.versions.retain(|one| one.version != version);
        set.ver += 1;
        if app.engine().records.put_row_set(&set, app.now_ms()).await? {
            return Ok(StatusCode::NO_CONTENT);
        }
    }
    Err(Problem::new(ProblemId::Unavailable).detail("the row set is changed by too many at once"))
}
