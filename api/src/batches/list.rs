//! Lists of batches, and one batch.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use promptmill_domain::BatchId;
use promptmill_ports::{BatchFilter, BatchPage, PageLimit};
use serde::Deserialize;
use utoipa::IntoParams;

use super::draft::is_label_key;
use super::names::{STATES, StateNames};
use super::view::{BatchView, view};
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Path, Query};
use crate::page::{self, Page};
use crate::problem::{Problem, ProblemId};
use crate::shapes::{CursorText, LabelText};
use crate::time::Time;

/// Labels a list may be filtered by at the same time.
const MAX_LABELS: usize = 16;

/// Bytes of specs that are read for one page; each may hold a template of a mebibyte.
const PAGE_BYTES: usize = 4 << 20;

/// Which batches are listed; every parameter must match.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// The state, for example `running`.
    #[param(value_type = Option<StateNames>, inline)]
    state: Option<String>,
    /// The whole name.
    name: Option<String>,
    /// A label as `key:value`. Repeatable.
    #[param(value_type = Vec<LabelText>, inline, max_items = 16)]
    label: Vec<String>,
    /// Created at or after.
    created_from: Option<Time>,
    /// Created before.
    created_before: Option<Time>,
    /// Entries of the page, 50 unless told.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before, asked for with the same filters.
    #[param(value_type = Option<CursorText>, inline)]
    cursor: Option<String>,
}

impl ListQuery {
    fn filter(&self) -> Result<BatchFilter, Problem> {
        let bad = |name: &str, words: &str| {
            Problem::new(ProblemId::BadRequest).detail(format!("query parameter {name}: {words}"))
        };
        if self.state.as_deref().is_some_and(|state| !STATES.contains(&state)) {
            return Err(bad("state", &format!("one of {}", STATES.join(", "))));
        }
        if self.label.len() > MAX_LABELS {
            return Err(bad("label", "at most 16 of them"));
        }
        let label = |text: &String| {
            let (key, value) = text.split_once(':').filter(|(key, _)| is_label_key(key))?;
            Some((key.to_owned(), value.to_owned()))
        };
        let labels = self.label.iter().map(label).collect::<Option<Vec<_>>>();
        Ok(BatchFilter {
            state: self.state.clone(),
            name: self.name.clone(),
            labels: labels.ok_or_else(|| bad("label", "written as key:value"))?,
            created_from_ms: self.created_from.map(|time| time.0),
            created_before_ms: self.created_before.map(|time| time.0),
        })
    }
}

/// List batches
///
/// Newest first. Counts are at most a second old. A page may have fewer entries than the limit although `next_cursor` says that more follow:
/// it holds a bounded number of bytes.
#[utoipa::path(
    get,
    path = "/v1/batches",
    tag = "batches",
    operation_id = "listBatches",
    params(ListQuery),
    responses((status = 200, description = "A page of batches", body = Page<BatchView>))
)]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    caller.may(Scope::BatchesRead)?;
    let filter = query.filter()?;
    let limit = page::limit(query.limit)?;
    // A cursor is of use with the filters it was given for alone.
    let list = format!("batches {filter:?}");
    let before = match &query.cursor {
        None => None,
        Some(cursor) => Some(page::position::<BatchId>(&list, cursor)?),
    };
    let store = &app.engine().store;
    let limit = PageLimit { items: limit, bytes: PAGE_BYTES };
    let BatchPage { batches, more } = store.batches(&caller.tenant, &filter, before, limit).await?;
    let next_cursor = batches.last().filter(|_| more).map(|last| page::cursor(&list, &last.id.to_string()));
    let mut data = Vec::with_capacity(batches.len());
    for batch in &batches {
        data.push(view(&app, batch).await?);
    }
    Ok(Page { data, next_cursor }.respond(&uri))
}

/// Read a batch
#[utoipa::path(
    get,
    path = "/v1/batches/{id}",
    tag = "batches",
    operation_id = "getBatch",
    params(("id" = String, Path, description = "The batch")),
    responses((status = 200, description = "The batch", body = BatchView))
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BatchId>,
) -> Result<axum::Json<BatchView>, Problem> {
    caller.may(Scope::BatchesRead)?;
    let batch = app.engine().store.batch(&caller.tenant, id).await?;
    Ok(axum::Json(view(&app, &batch).await?))
}

#[cfg(test)]
mod tests;
