//! `GET /v1/batches/{id}/items/{index}`.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use promptmill_domain::{BatchId, FailureKind, ItemCode, Money};
use promptmill_ports::{PageLimit, StoreError, decode_outcome};
use promptmill_rowio::{OutcomeRecord, RowContent, StoredRow};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::ids::Rows;
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::Path;
use crate::outcome_view::{AttemptView, ReasonNames, TokensView, Told};
use crate::problem::Problem;

/// One item with everything that is kept of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Item)]
pub(super) struct ItemView {
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
    /// The same in words.
    message: Option<String>,
    /// The row's variables, where it brought variables.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    variables: Option<Box<RawValue>>,
    /// The row's messages, where it brought messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    messages: Option<Box<RawValue>>,
    /// What was delivered: JSON as it was judged, or a string.
    #[schema(value_type = Option<serde_json::Value>)]
    output: Option<Box<RawValue>>,
    /// Every attempt that is kept, with its calls; none while the item is open.
    attempts: Vec<AttemptView>,
    /// Tokens of all calls.
    tokens: TokensView,
    /// Cost in US dollars, where a call told one.
    #[schema(value_type = Option<String>)]
    cost: Option<Money>,
    /// What else is to be known.
    #[schema(value_type = Vec<String>)]
    flags: Vec<&'static str>,
}

impl ItemView {
    fn of(index: u32, row: StoredRow, code: ItemCode, body: Option<&Bytes>) -> Result<Self, Problem> {
        let told = match body {
            Some(body) => Told::from(decode_outcome(body).map_err(Problem::internal)?),
            None => {
                // The words for what ended without a body are those of the results.
                let error = OutcomeRecord::closed(index, None, code).error;
                Told {
                    reason: error.map(|error| error.kind),
                    message: error.map(|error| error.message.to_owned()),
                    ..Told::default()
                }
            }
        };
        let raw = |text: String| RawValue::from_string(text).map_err(Problem::internal);
        let (variables, messages) = match row.content {
            RowContent::Variables(json) => (Some(raw(json)?), None),
            RowContent::Messages(json) => (None, Some(raw(json)?)),
        };
        Ok(Self {
            index,
            custom_id: row.custom_id,
            outcome: code.as_str(),
            reason: told.reason,
            message: told.message,
            variables,
            messages,
            output: told.output,
            attempts: told.attempts,
            tokens: told.tokens,
            cost: told.cost,
            flags: told.flags,
        })
    }
}

/// One item
///
/// Its row, its outcome, and every attempt with its calls.
#[utoipa::path(
    get,
    path = "/v1/batches/{id}/items/{index}",
    tag = "results",
    operation_id = "getItem",
    params(
        ("id" = String, Path, description = "The batch"),
        ("index" = u32, Path, description = "The item's 0-based position among the batch's rows"),
    ),
    responses(
        (status = 200, description = "The item", body = ItemView),
    ),
)]
pub(super) async fn item(
    State(app): State<App>,
    caller: Caller,
    Path((id, index)): Path<(BatchId, u32)>,
) -> Result<Response, Problem> {
    caller.may(Scope::BatchesRead)?;
    let store = &app.engine().store;
    let batch = store.batch(&caller.tenant, id).await?;
    if index >= batch.total {
        return Err(StoreError::NotFound.into());
    }
    let row = Rows::of(store.clone(), &batch).get(index).await?.clone();
    let limit = PageLimit { items: 1, bytes: 0 };
    let page = store.outcomes(&caller.tenant, id, index, limit).await?;
    let stored = page.outcomes.into_iter().next().filter(|stored| stored.index == index);
    let (code, body) = stored.map_or((ItemCode::Open, None), |stored| (stored.code, stored.body));
    // A history may have megabytes, so it is made ready on a blocking thread.
    let text = spawn_blocking(move || {
        let view = ItemView::of(index, row, code, body.as_ref())?;
        serde_json::to_vec(&view).map_err(Problem::internal)
    });
    let text = text.await.map_err(Problem::internal)??;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}
