//! `GET /v1/batches/{id}/items`.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use promptmill_domain::{Batch, BatchId, FailureKind, ItemCode, ItemFilter, OutcomeName};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ids::{Rows, index_of};
use super::walk::Walk;
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Path, Query};
use crate::outcome_view::ReasonNames;
use crate::page::{self, Page};
use crate::problem::Problem;
use crate::shapes::CursorText;

/// Pages of outcomes one request reads while it looks for items that match. What it has found by then is answered with a cursor.
const MOST_PAGES: u32 = 64;

/// What an item may be asked for by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Standing {
    Open,
    Succeeded,
    Failed,
    Cancelled,
    Expired,
}

/// The query of the list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct ItemsQuery {
    /// Only the item with this id.
    custom_id: Option<String>,
    /// Only items with this outcome: `succeeded`, `failed`, `cancelled`, `expired`, or `open` for those without one. Repeatable.
    #[param(inline)]
    outcome: Vec<Standing>,
    /// Only items that failed for this reason. Repeatable.
    #[param(value_type = Vec<ReasonNames>, inline)]
    reason: Vec<FailureKind>,
    /// Entries of a page, 50 unless told.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<CursorText>, inline)]
    cursor: Option<String>,
}

impl ItemsQuery {
    fn matches(&self, code: ItemCode) -> bool {
        let closed = self.outcome.iter().filter_map(|standing| match standing {
            Standing::Open => None,
            Standing::Succeeded => Some(OutcomeName::Succeeded),
            Standing::Failed => Some(OutcomeName::Failed),
            Standing::Cancelled => Some(OutcomeName::Cancelled),
            Standing::Expired => Some(OutcomeName::Expired),
        });
        let filter =
            ItemFilter { outcomes: closed.collect(), reasons: self.reason.iter().copied().collect() };
        let asks_nothing = self.outcome.is_empty() && self.reason.is_empty();
        let asks_open = self.outcome.contains(&Standing::Open);
        match code {
            ItemCode::Open => asks_nothing || asks_open,
            // With `open` alone the filter is empty, and an empty filter would match everything.
            _ if asks_open && filter == ItemFilter::default() => false,
            code => filter.matches(code),
        }
    }

    /// Names the list a cursor belongs to.
    fn list(&self, batch: BatchId) -> String {
        format!("items {batch} {:?} {:?} {:?}", self.custom_id, self.outcome, self.reason)
    }
}

/// One entry of the list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ItemEntry)]
pub(super) struct EntryView {
    /// 0-based position among the batch's rows.
    index: u32,
    /// The client's own id of the row.
    custom_id: Option<String>,
    /// `succeeded`, `failed`, `cancelled`, `expired`, or `open`.
    #[schema(value_type = String)]
    outcome: &'static str,
    /// Why it failed.
    #[schema(value_type = Option<ReasonNames>, inline)]
    reason: Option<FailureKind>,
}

/// Items of a batch
///
/// In the order of the rows. A page may have fewer entries than the limit, or none, although `next_cursor` says that more may follow: a
/// request looks at a bounded number of items.
#[utoipa::path(
    get,
    path = "/v1/batches/{id}/items",
    tag = "results",
    operation_id = "listItems",
    params(("id" = String, Path, description = "The batch"), ItemsQuery),
    responses(
        (status = 200, description = "A page of items", body = Page<EntryView>),
    ),
)]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BatchId>,
    Query(query): Query<ItemsQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    caller.may(Scope::BatchesRead)?;
    let limit = page::limit(query.limit)? as usize;
    let list = query.list(id);
    let from = match &query.cursor {
        None => 0,
        Some(cursor) => page::position(&list, cursor)?,
    };
    let batch = app.engine().store.batch(&caller.tenant, id).await?;
    let (found, next) = match &query.custom_id {
        Some(custom_id) => (search(&app, &batch, &query, custom_id).await?, None),
        None => walk(&app, &batch, &query, from, limit).await?,
    };
    let mut rows = Rows::of(app.engine().store.clone(), &batch);
    let mut data = Vec::with_capacity(found.len());
    for (index, code) in found {
        data.push(EntryView {
            index,
            custom_id: rows.get(index).await?.custom_id.clone(),
            outcome: code.as_str(),
            reason: match code {
                ItemCode::Failed(kind) => Some(kind),
                ItemCode::Open
                | ItemCode::Succeeded
                | ItemCode::Repaired
                | ItemCode::Cancelled
                | ItemCode::Expired => None,
            },
        });
    }
    let next_cursor = next.map(|next| page::cursor(&list, &next.to_string()));
    Ok(Page { data, next_cursor }.respond(&uri))
}

type Found = Vec<(u32, ItemCode)>;

/// The item with that id, if it matches the rest too.
async fn search(app: &App, batch: &Batch, query: &ItemsQuery, custom_id: &str) -> Result<Found, Problem> {
    let store = &app.engine().store;
    let index = index_of(store.as_ref(), batch, custom_id).await?;
    // A draft has rows and no items yet.
    let Some(index) = index.filter(|index| *index < batch.total) else { return Ok(Vec::new()) };
    let run = Walk::new(store.clone(), batch, index).next().await?;
    Ok(run.into_iter().take(1).filter(|(_, code)| query.matches(*code)).collect())
}

/// Items from index `from` on that match, and where to look on.
async fn walk(
    app: &App,
    batch: &Batch,
    query: &ItemsQuery,
    from: u32,
    limit: usize,
) -> Result<(Found, Option<u32>), Problem> {
    let mut walk = Walk::new(app.engine().store.clone(), batch, from);
    let mut found = Vec::new();
    loop {
        let run = walk.next().await?;
        let Some(&(last, _)) = run.last() else { return Ok((found, None)) };
        for (index, code) in run {
            if !query.matches(code) {
                continue;
            }
            if found.len() == limit {
                return Ok((found, Some(index)));
            }
            found.push((index, code));
        }
        if walk.pages() >= MOST_PAGES {
            return Ok((found, Some(last + 1).filter(|next| *next < batch.total)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_items_are_asked_for_by_name_or_by_asking_for_nothing() {
        let query = |outcome: &[Standing], reason: &[FailureKind]| ItemsQuery {
            outcome: outcome.to_vec(),
            reason: reason.to_vec(),
            ..ItemsQuery::default()
        };
        let failed = ItemCode::Failed(FailureKind::Timeout);
        let all = query(&[], &[]);
        assert!(all.matches(ItemCode::Open) && all.matches(failed));
        let open = query(&[Standing::Open], &[]);
        assert!(open.matches(ItemCode::Open) && !open.matches(failed) && !open.matches(ItemCode::Succeeded));
        let both = query(&[Standing::Open, Standing::Failed], &[]);
        assert!(both.matches(ItemCode::Open) && both.matches(failed) && !both.matches(ItemCode::Repaired));
        let timeouts = query(&[], &[FailureKind::Timeout]);
        assert!(!timeouts.matches(ItemCode::Open) && timeouts.matches(failed));
    }
}
