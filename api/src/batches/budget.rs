//! What is spent of a batch's own limit.

use axum::extract::State;
use promptmill_domain::{BatchId, BudgetScope, Money};
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::Path;
use crate::problem::Problem;
use crate::spend::SpendView;

/// A batch's limit on money, and what is spent of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BatchBudget)]
pub(crate) struct BatchBudgetView {
    /// The limit, US dollars; null where there is none, and then nothing is held.
    #[schema(value_type = Option<String>)]
    max_cost: Option<Money>,
    /// What is spent of it.
    #[serde(flatten)]
    spend: SpendView,
}

/// What is spent of a batch's `max_cost`
///
/// Every call under way holds what it may cost. What a worker held that died counts as spent, because nobody knows whether it was: each is
/// listed. The costs of calls that are recorded are those of the batch.
#[utoipa::path(get, path = "/v1/batches/{id}/budget", tag = "batches", operation_id = "getBatchBudget",
    params(("id" = String, Path, description = "The batch")),
    responses((status = 200, description = "The budget", body = BatchBudgetView)))]
pub(crate) async fn budget(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BatchId>,
) -> Result<axum::Json<BatchBudgetView>, Problem> {
    caller.may(Scope::BatchesRead)?;
    let store = &app.engine().store;
    let batch = store.batch(&caller.tenant, id).await?;
    let record = store.budget(&BudgetScope::Batch(id)).await?;
    let spend = SpendView::from(&record.budget);
    Ok(axum::Json(BatchBudgetView { max_cost: batch.limits.max_cost, spend }))
}
