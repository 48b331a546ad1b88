//! Changing the limits of a batch while it runs. Workers follow within a second.

use axum::extract::State;
use promptmill_domain::{Batch, BatchId, BatchLimits};
use promptmill_ports::Signal;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::announce;
use super::draft::{concurrency_of, cost_of, deadline_of, priority_of};
use super::view::{BatchView, view};
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Json, Path};
use crate::problem::{FieldError, Problem, ProblemId};
use crate::shapes::Dollars;
use crate::time::Time;

/// Limits to change. What is left out stays; null takes a limit away, or gives the default back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = BatchPatch)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PatchBody {
    /// Larger is served earlier; null is 0.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = -100, maximum = 100)]
    priority: Option<Option<i64>>,
    /// The most calls at the same time.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 10000)]
    max_concurrency: Option<Option<u64>>,
    /// No call begins once this much is spent, US dollars.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Dollars>, inline, example = "2.50")]
    max_cost: Option<Option<String>>,
    /// When what is still open expires; in the future.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Time>)]
    deadline: Option<Option<Time>>,
    /// Whether it is paused when its first items all fail for one cause outside the rows; null is true.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<bool>)]
    guard: Option<Option<bool>>,
}

/// Tells a member that is null from one that is not there.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

impl PatchBody {
    /// The limits after the change.
    fn apply(&self, mut limits: BatchLimits, now_ms: u64) -> Result<BatchLimits, Problem> {
        let mut errors: Vec<FieldError> = Vec::new();
        let mut noted = |wrong: Result<(), FieldError>| errors.extend(wrong.err());
        match self.priority {
            None => {}
            Some(priority) => {
                noted(priority_of(priority.unwrap_or_default()).map(|priority| limits.priority = priority));
            }
        }
        match self.max_concurrency {
            None => {}
            Some(None) => limits.max_concurrency = None,
            Some(Some(most)) => noted(concurrency_of(most).map(|most| limits.max_concurrency = Some(most))),
        }
        match &self.max_cost {
            None => {}
            Some(None) => limits.max_cost = None,
            Some(Some(cost)) => noted(cost_of(cost).map(|cost| limits.max_cost = Some(cost))),
        }
        match self.deadline {
            None => {}
            Some(None) => limits.deadline_ms = None,
            Some(Some(deadline)) => {
                noted(deadline_of(deadline, now_ms).map(|deadline| limits.deadline_ms = Some(deadline)));
            }
        }
        if let Some(guard) = self.guard {
            limits.guard = guard.unwrap_or(true);
        }
        if errors.is_empty() { Ok(limits) } else { Err(Problem::new(ProblemId::Invalid).errors(errors)) }
    }
}

/// Change limits
///
/// Priority, concurrency, budget, deadline and guard of a batch that is not final; in effect within a second.
#[utoipa::path(
    patch,
    path = "/v1/batches/{id}",
    tag = "batches",
    operation_id = "changeBatch",
    params(("id" = String, Path, description = "The batch")),
    request_body = PatchBody,
    responses((status = 200, description = "The batch with its new limits", body = BatchView))
)]
pub(crate) async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BatchId>,
    Json(body, _): Json<PatchBody>,
) -> Result<axum::Json<BatchView>, Problem> {
    caller.may(Scope::BatchesWrite)?;
    let changed = change_limits(&app, &caller, id, &body).await?;
    announce(&app, Signal::BatchChanged(id)).await;
    Ok(axum::Json(view(&app, &changed).await?))
}

/// Reads, changes and writes the limits while nobody else does.
async fn change_limits(app: &App, caller: &Caller, id: BatchId, body: &PatchBody) -> Result<Batch, Problem> {
    let store = &app.engine().store;
    let _alone = app.batches().limits_alone(id).await;
    let batch = store.batch(&caller.tenant, id).await?;
    let limits = body.apply(batch.limits, app.now_ms())?;
    if limits == batch.limits && !batch.state.is_final() {
        return Ok(batch);
    }
    store.set_limits(&caller.tenant, id, limits).await?;
    Ok(store.batch(&caller.tenant, id).await?)
}

#[cfg(test)]
mod tests;
