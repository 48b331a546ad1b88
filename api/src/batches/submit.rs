//! Making a draft a queued batch: every check that is about the batch as a whole, then the one step that cannot be taken back.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use promptmill_domain::{Batch, BatchId, BatchLimits, BatchState, TenantId};
use promptmill_intake::UsedUp;
use promptmill_ports::{Signal, StoreError, flow};

use super::shared::LeaveToSubmit;
use super::view::{BatchView, view};
use super::{announce, preflight, unique};
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Digest, Path};
use crate::idempotency::Idempotency;
use crate::problem::{Problem, ProblemId};
use crate::steps::{PointOfNoReturn, to_its_end};

const DAY_MS: u64 = 86_400_000;

/// Submit a draft
///
/// Checks that every custom_id is the only one of the batch, and that the provider takes the key and knows the model; then the parts are
/// frozen and the batch is queued. Repeating it changes nothing.
#[utoipa::path(
    post,
    path = "/v1/batches/{id}/submit",
    tag = "batches",
    operation_id = "submitBatch",
    params(("id" = String, Path, description = "The batch")),
    responses((status = 200, description = "The batch", body = BatchView))
)]
pub(crate) async fn submit_batch(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BatchId>,
    idempotency: Idempotency,
) -> Result<Response, Problem> {
    caller.may(Scope::BatchesWrite)?;
    let work = |point: PointOfNoReturn| async move {
        // The checks of a large batch may take longer than a client waits, and repeating them would take as long again.
        point.pass()?;
        let run = |_| submit_once(&app, &caller.tenant, id);
        idempotency.once(&app, &caller, Digest::empty(), run).await
    };
    to_its_end(work).await
}

async fn submit_once(app: &App, tenant: &TenantId, id: BatchId) -> Result<Response, Problem> {
    let batch = app.engine().store.batch(tenant, id).await?;
    if batch.state.is_final() {
        let state = batch.state.as_str();
        return Err(Problem::new(ProblemId::Conflict).detail(format!("the batch is {state}")));
    }
    submit(app, &batch).await?;
    let batch = app.engine().store.batch(tenant, id).await?;
    Ok(axum::Json(view(app, &batch).await?).into_response())
}

/// Submits a batch unless it is submitted.
///
/// # Errors
/// What the checks find: `conflict` without rows, `payload_too_large`, `too_many_requests`, `invalid_rows`, `invalid` at `/model`.
pub(crate) async fn submit(app: &App, batch: &Batch) -> Result<(), Problem> {
    if batch.state == BatchState::Draft {
        preflight::check(app, &batch.spec).await?;
    }
    let (store, tenant) = (&app.engine().store, &batch.tenant);
    let _alone = app.batches().alone(batch.id).await;
    // As it stands now: another one may have submitted it meanwhile.
    let batch = store.batch(tenant, batch.id).await?;
    match batch.state {
        BatchState::Draft => {}
        // Someone froze its parts after the same checks.
        BatchState::Submitting => return freeze(app, &batch).await,
        BatchState::Queued
        | BatchState::Running
        | BatchState::Paused { .. }
        | BatchState::Cancelling
        | BatchState::Expiring
        | BatchState::Completed
        | BatchState::Cancelled
        | BatchState::Expired => return Ok(()),
    }
    let parts = store.parts(tenant, batch.id).await?;
    let rows: u64 = parts.iter().map(|part| part.rows).sum();
    let most = app.config().batch_rows;
    if rows > most {
        return Err(too_many_rows(most));
    }
    check_deadline(app, &batch)?;
    if let (Some(window_ms), None) = (batch.spec.completion_window_ms, batch.limits.deadline_ms) {
        let limits = BatchLimits { deadline_ms: Some(app.now_ms() + window_ms), ..batch.limits };
        store.set_limits(tenant, batch.id, limits).await?;
    }
    may_submit(app, tenant, rows).await?;
    unique::check(app, tenant, batch.id, &parts).await?;
    // The check of the ids may have taken long, and other batches were submitted meanwhile.
    let _leave = leave_to_submit(app, tenant, rows).await?;
    freeze(app, &batch).await
}

/// Freezes the parts and queues the batch. The sweep that finishes what was cut off may be faster.
async fn freeze(app: &App, batch: &Batch) -> Result<(), Problem> {
    let (store, tenant) = (&app.engine().store, &batch.tenant);
    let frozen = flow::submit(store.as_ref(), tenant, batch.id, &batch.spec.lane, app.now_ms()).await;
    if let Err(error) = frozen {
        let conflict = matches!(error, StoreError::Conflict(_));
        let state = if conflict { store.batch(tenant, batch.id).await?.state } else { BatchState::Draft };
        if matches!(state, BatchState::Draft | BatchState::Submitting) {
            return Err(error.into());
        }
    }
    announce(app, Signal::BatchQueued(batch.id)).await;
    Ok(())
}

/// A draft may have lain until its deadline.
fn check_deadline(app: &App, batch: &Batch) -> Result<(), Problem> {
    if batch.limits.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= app.now_ms()) {
        return Err(Problem::new(ProblemId::Conflict)
            .detail("the deadline of the batch has passed; PATCH it to a later one first"));
    }
    Ok(())
}

/// What is said of a batch with more than `most` rows.
pub(crate) fn too_many_rows(most: u64) -> Problem {
    Problem::new(ProblemId::PayloadTooLarge).detail(format!("a batch holds at most {most} rows"))
}

/// Leave to add so many rows to those of the day, to be held until they are added: what others who hold one are about to add counts too.
///
/// # Errors
/// Those of [`may_submit`].
pub(crate) async fn leave_to_submit<'a>(
    app: &'a App,
    tenant: &TenantId,
    rows: u64,
) -> Result<LeaveToSubmit<'a>, Problem> {
    let leave = app.batches().submit_beside_others(tenant, rows).await;
    let with_others = may_submit(app, tenant, rows.saturating_add(leave.others())).await;
    if with_others.is_ok() || leave.others() == 0 {
        return with_others.map(|()| leave);
    }
    // Of those others some may be counted twice, or come to nothing: it is the day's last rows, and each waits for its turn.
    drop(leave);
    let leave = app.batches().submit_alone(tenant, rows).await;
    may_submit(app, tenant, rows).await.map(|()| leave)
}

/// Whether the tenant may submit so many rows more today, and the disk has room.
///
/// # Errors
/// `no_room`, and `too_many_requests` until midnight UTC.
pub(crate) async fn may_submit(app: &App, tenant: &TenantId, rows: u64) -> Result<(), Problem> {
    let now_ms = app.now_ms();
    let store = &app.engine().store;
    if !store.has_room().await? {
        return Err(ProblemId::NoRoom.into());
    }
    let used = store.usage(tenant, now_ms).await?;
    if let Err(used_up) = app.config().quotas().may_submit(&used, rows) {
        let until_midnight_ms = DAY_MS - now_ms % DAY_MS;
        let problem = Problem::new(ProblemId::TooManyRequests).detail(used_up.to_string());
        return Err(problem.retry_after(until_midnight_ms.div_ceil(1000)));
    }
    Ok(())
}

/// How many bytes the tenant may still store.
///
/// # Errors
/// `no_room` when the disk has none, `too_many_requests` when the quota has none.
pub(crate) async fn room_bytes(app: &App, tenant: &TenantId) -> Result<u64, Problem> {
    let store = &app.engine().store;
    let (has_room, used) = tokio::join!(store.has_room(), store.usage(tenant, app.now_ms()));
    if !has_room? {
        return Err(ProblemId::NoRoom.into());
    }
    app.config().quotas().room_bytes(&used?).map_err(|_| quota_of_bytes())
}

/// The tenant has stored as much as it may.
pub(crate) fn quota_of_bytes() -> Problem {
    Problem::new(ProblemId::TooManyRequests).detail(UsedUp::Bytes.to_string()).retry_after(60)
}
