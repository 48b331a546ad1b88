//! What became of a batch's events: each delivery with its attempts.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use promptmill_domain::{BatchId, DeliveryId};
use promptmill_ports::{Delivery, DeliveryAttempt, DeliveryState, Replay};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::names::DeliveryNames;
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Digest, Json, Path};
use crate::idempotency::Idempotency;
use crate::problem::{Problem, ProblemId};
use crate::time::Time;

/// Deliveries that are listed.
const MOST: u32 = 1_000;

/// Deliveries.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeliveryList {
    /// Of a batch the oldest first, at most 1,000; of an endpoint the newest first.
    data: Vec<DeliveryView>,
}

/// One event for one receiver.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(crate) struct DeliveryView {
    /// `dlv_` and 32 hexadecimal digits; the same at every attempt.
    id: String,
    /// The event, which is the header `webhook-id`.
    event_id: String,
    /// What happened, for example `batch.completed`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The receiver; of an endpoint the one it had when the event happened.
    url: String,
    /// The endpoint it goes to; null for the batch's own webhook.
    endpoint_id: Option<String>,
    /// `pending`, `delivered` or `given_up`.
    #[schema(value_type = DeliveryNames)]
    state: DeliveryState,
    /// When it is tried next; null when it is over.
    due_at: Option<Time>,
    /// When the event became a delivery.
    created_at: Time,
    /// Tries so far, in order.
    attempts: Vec<AttemptView>,
}

/// One try of a delivery.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeliveryAttempt)]
pub(crate) struct AttemptView {
    /// When it began.
    at: Time,
    /// How long it took.
    duration_ms: u32,
    /// The receiver's HTTP status, where it answered.
    status: Option<u16>,
    /// What went wrong.
    error: Option<String>,
    /// How the receiver's answer begins, at most a kibibyte.
    answer: Option<String>,
}

impl From<Vec<Delivery>> for DeliveryList {
    fn from(deliveries: Vec<Delivery>) -> Self {
        Self { data: deliveries.into_iter().map(Into::into).collect() }
    }
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        let pending = delivery.state == DeliveryState::Pending;
        Self {
            id: delivery.id.to_string(),
            event_id: delivery.event.to_string(),
            kind: delivery.kind.as_str(),
            url: delivery.url,
            endpoint_id: delivery.endpoint.map(|endpoint| endpoint.to_string()),
            state: delivery.state,
            due_at: pending.then_some(Time(delivery.due_ms)),
            created_at: Time(delivery.created_ms),
            attempts: delivery.attempts.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<DeliveryAttempt> for AttemptView {
    fn from(attempt: DeliveryAttempt) -> Self {
        let DeliveryAttempt { at_ms, duration_ms, status, error, answer } = attempt;
        Self { at: Time(at_ms), duration_ms, status, error, answer }
    }
}

/// List the deliveries of a batch
#[utoipa::path(
    get,
    path = "/v1/batches/{id}/deliveries",
    tag = "batches",
    operation_id = "listDeliveries",
    params(("id" = String, Path, description = "The batch")),
    responses((status = 200, description = "Deliveries of the batch's events", body = DeliveryList))
)]
pub(crate) async fn deliveries(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BatchId>,
) -> Result<axum::Json<DeliveryList>, Problem> {
    caller.may(Scope::WebhooksRead)?;
    let engine = app.engine();
    engine.store.batch(&caller.tenant, id).await?;
    let deliveries = engine.records.deliveries(&caller.tenant, id, MOST).await?;
    Ok(axum::Json(deliveries.into()))
}

/// What was made due again.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Replayed {
    /// How many deliveries.
    replayed: u64,
}

/// Which deliveries are tried again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayBody {
    /// Those that were given up and whose event became a delivery since then.
    since: Time,
}

/// Try a delivery again
///
/// At once and whatever became of it, under the same `webhook-id`. One that was tried as often as it may be has one more try.
#[utoipa::path(
    post,
    path = "/v1/deliveries/{id}/replay",
    tag = "batches",
    operation_id = "replayDelivery",
    params(("id" = String, Path, description = "The delivery, dlv_...")),
    responses((status = 200, description = "It is due now", body = Replayed))
)]
pub(crate) async fn replay(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DeliveryId>,
    idempotency: Idempotency,
) -> Result<Response, Problem> {
    caller.may(Scope::WebhooksWrite)?;
    let run = |_| async {
        match app.engine().records.replay(&caller.tenant, Replay::One(id), app.now_ms()).await? {
            0 => Err(ProblemId::NotFound.into()),
            replayed => Ok(axum::Json(Replayed { replayed: replayed.into() }).into_response()),
        }
    };
    idempotency.once(&app, &caller, Digest::empty(), run).await
}

/// Try deliveries again that were given up
///
/// Those since a time, under the same `webhook-id`s, each once more.
#[utoipa::path(
    post,
    path = "/v1/deliveries/replay",
    tag = "batches",
    operation_id = "replayDeliveries",
    request_body = ReplayBody,
    responses((status = 200, description = "How many are due now", body = Replayed))
)]
pub(crate) async fn replay_since(
    State(app): State<App>,
    caller: Caller,
    idempotency: Idempotency,
    Json(body, digest): Json<ReplayBody>,
) -> Result<Response, Problem> {
    caller.may(Scope::WebhooksWrite)?;
    let run = |_| async {
        let which = Replay::GivenUpSince(body.since.0);
        let replayed = app.engine().records.replay(&caller.tenant, which, app.now_ms()).await?;
        Ok(axum::Json(Replayed { replayed: replayed.into() }).into_response())
    };
    idempotency.once(&app, &caller, digest, run).await
}
