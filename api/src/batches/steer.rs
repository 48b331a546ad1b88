//! Pausing, resuming, cancelling and deleting. Repeating any of them changes nothing.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use promptmill_domain::{BatchEvent, BatchId, BatchState, PauseReason};
use promptmill_ports::{Signal, StoreError};

use super::announce;
use super::view::{BatchView, view};
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Digest, Path};
use crate::idempotency::Idempotency;
use crate::problem::{Problem, chain};

/// Steps of a delete that the answer waits for; a larger batch goes on being deleted behind it.
const STEPS_WAITED_FOR: u32 = 50;

/// Pause a batch
///
/// Nothing new begins; what is under way ends. A paused batch keeps its outcomes and goes on with resume.
#[utoipa::path(
    post,
    path = "/v1/batches/{id}/pause",
    tag = "batches",
    operation_id = "pauseBatch",
    params(("id" = String, Path, description = "The batch")),
    responses((status = 200, description = "The batch", body = BatchView))
)]
pub(crate) async fn pause(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BatchId>,
    idempotency: Idempotency,
) -> Result<Response, Problem> {
    steer(&app, &caller, id, idempotency, BatchEvent::Pause(PauseReason::Requested)).await
}

/// Resume a batch
#[utoipa::path(
    post,
    path = "/v1/batches/{id}/resume",
    tag = "batches",
    operation_id = "resumeBatch",
    params(("id" = String, Path, description = "The batch")),
    responses((status = 200, description = "The batch", body = BatchView))
)]
pub(crate) async fn resume(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BatchId>,
    idempotency: Idempotency,
) -> Result<Response, Problem> {
    steer(&app, &caller, id, idempotency, BatchEvent::Resume).await
}

/// Cancel a batch
///
/// What is open becomes `cancelled`; what has its outcome keeps it. The answer comes while chunks are being closed (`cancelling`).
#[utoipa::path(
    post,
    path = "/v1/batches/{id}/cancel",
    tag = "batches",
    operation_id = "cancelBatch",
    params(("id" = String, Path, description = "The batch")),
    responses((status = 200, description = "The batch", body = BatchView))
)]
pub(crate) async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BatchId>,
    idempotency: Idempotency,
) -> Result<Response, Problem> {
    steer(&app, &caller, id, idempotency, BatchEvent::Cancel).await
}

async fn steer(
    app: &App,
    caller: &Caller,
    id: BatchId,
    idempotency: Idempotency,
    event: BatchEvent,
) -> Result<Response, Problem> {
    caller.may(Scope::BatchesWrite)?;
    let run = |_| async {
        let (store, tenant) = (&app.engine().store, &caller.tenant);
        let batch = store.batch(tenant, id).await?;
        // What was asked for has come true already.
        let done = event == BatchEvent::Cancel && batch.state == BatchState::Cancelled;
        if !done {
            store.steer(tenant, id, event, app.now_ms()).await?;
            announce(app, Signal::BatchChanged(id)).await;
        }
        let batch = store.batch(tenant, id).await?;
        Ok(axum::Json(view(app, &batch).await?).into_response())
    };
    idempotency.once(app, caller, Digest::empty(), run).await
}

/// Delete a batch
///
/// A draft or a final batch, with its rows and outcomes. It is gone at once for everyone.
#[utoipa::path(
    delete,
    path = "/v1/batches/{id}",
    tag = "batches",
    operation_id = "deleteBatch",
    params(("id" = String, Path, description = "The batch")),
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BatchId>,
) -> Result<StatusCode, Problem> {
    caller.may(Scope::BatchesWrite)?;
    // Also tells a batch of someone else, and one that is being deleted, as what they are: not found.
    app.engine().store.batch(&caller.tenant, id).await?;
    let mut gone = app.engine().store.delete(&caller.tenant, id).await?;
    for _ in 0..STEPS_WAITED_FOR {
        if gone {
            return Ok(StatusCode::NO_CONTENT);
        }
        gone = finish_step(&app, &caller, id).await?;
    }
    if !gone {
        tokio::spawn(delete_rest(app, caller, id));
    }
    Ok(StatusCode::NO_CONTENT)
}

/// One more step; what another one finished meanwhile is gone too.
async fn finish_step(app: &App, caller: &Caller, id: BatchId) -> Result<bool, StoreError> {
    match app.engine().store.delete(&caller.tenant, id).await {
        Err(StoreError::NotFound) => Ok(true),
        other => other,
    }
}

/// Goes on until nothing is left or the service stops; the retention sweep takes up what is left then.
async fn delete_rest(app: App, caller: Caller, id: BatchId) {
    while !app.stopping().is_cancelled() {
        match finish_step(&app, &caller, id).await {
            Ok(true) => return,
            Ok(false) => tokio::task::yield_now().await,
            Err(error) => {
                tracing::warn!(batch.id = %id, error = chain(&error), "deleting a batch broke off");
                return;
            }
        }
    }
}
