//! `GET /v1/batches/{id}/events`: a batch's progress as server-sent events.
//!
//! An event is a snapshot, so one that is missed costs nothing: whoever comes back gets the newest. The stream ends behind the
//! snapshot of the final state, when the service stops, and when the reader's key is revoked or expires.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use promptmill_domain::{Batch, BatchId};
use promptmill_ports::{Signal, StoreError};
use tokio::sync::broadcast;
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::auth::{Caller, Scope, is_still_good};
use crate::batches::view::{BatchView, view};
use crate::extract::Path;
use crate::problem::Problem;
use crate::results::told_of;
use crate::shapes::EventDocument;
use crate::sse;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// At most five snapshots a second.
const GAP: Duration = Duration::from_millis(200);

/// How often the store is asked without a signal.
const POLL: Duration = Duration::from_millis(500);

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(events))
}

/// Progress of a batch
///
/// Server-sent events named `batch`: snapshots of the batch, the newest first when a reader comes (back), a new one when its state, its
/// limits or the number of settled items changed, and the final one last. A reader that has the final snapshot gets 204, which keeps an
/// `EventSource` from coming back.
#[utoipa::path(
    get,
    path = "/v1/batches/{id}/events",
    tag = "batches",
    operation_id = "getBatchEvents",
    params(
        ("id" = String, Path, description = "The batch"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last snapshot the reader has"),
    ),
    responses(
        (status = 200, description = "Snapshots as they come", content_type = "text/event-stream", body = EventDocument),
        (status = 204, description = "The reader has the final snapshot"),
    ),
)]
async fn events(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BatchId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may(Scope::BatchesRead)?;
    // Before the first look, so that nothing that changes after it is missed.
    let signals = app.engine().signals.subscribe();
    let batch = app.engine().store.batch(&caller.tenant, id).await?;
    let first = Snapshot::of(&app, &batch).await?;
    let has = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    if first.is_final && has == Some(first.id.as_str()) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let feed = Feed { app, caller, batch: id, signals, shown: None, ended: false };
    Ok(sse::response(feed.stream(first)))
}

/// What one event tells.
struct Snapshot {
    /// Changes when what is worth telling does.
    id: String,
    is_final: bool,
    event: Bytes,
}

impl Snapshot {
    async fn of(app: &App, batch: &Batch) -> Result<Self, Problem> {
        let view: BatchView = view(app, batch).await?;
        let id = format!("{}.{}", view.revision, view.counts.settled);
        let data = serde_json::to_string(&view).map_err(Problem::internal)?;
        let event = sse::event("batch", Some(&id), &data);
        Ok(Self { id, is_final: batch.state.is_final(), event })
    }
}

/// One reader's stream.
struct Feed {
    app: App,
    caller: Caller,
    batch: BatchId,
    signals: broadcast::Receiver<Signal>,
    /// The id of the newest snapshot that was told.
    shown: Option<String>,
    ended: bool,
}

impl Feed {
    fn stream(mut self, first: Snapshot) -> impl Stream<Item = Bytes> + Send + 'static {
        let head = self.tell(first).into_iter();
        let head = std::iter::once(sse::RETRY).chain(head);
        stream::iter(head).chain(stream::unfold(self, |mut feed| async move {
            let event = feed.next().await?;
            Some((event, feed))
        }))
    }

    /// The snapshot's event, unless it is what was told last.
    fn tell(&mut self, snapshot: Snapshot) -> Option<Bytes> {
        self.ended |= snapshot.is_final;
        if self.shown.as_ref() == Some(&snapshot.id) {
            return None;
        }
        self.shown = Some(snapshot.id);
        Some(snapshot.event)
    }

    /// The next event or ping; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let begun = Instant::now();
        while !self.ended {
            let waited = async {
                tokio::time::sleep(GAP).await;
                tokio::select! {
                    () = told_of(&mut self.signals, self.batch) => {}
                    () = tokio::time::sleep(POLL) => {}
                }
            };
            tokio::select! {
                () = waited => {}
                () = self.app.stopping().cancelled() => return None,
            }
            match self.look().await {
                Ok(Some(event)) => return Some(event),
                Ok(None) if self.ended => return None,
                Ok(None) => {}
                // Deleted meanwhile.
                Err(StoreError::NotFound) => return None,
                // Away for a moment; the stream goes on when it is back.
                Err(_) => {}
            }
            if begun.elapsed() >= sse::PING_EVERY {
                return Some(sse::PING);
            }
        }
        None
    }

    async fn look(&mut self) -> Result<Option<Bytes>, StoreError> {
        if !is_still_good(&self.app, &self.caller).await? {
            self.ended = true;
            return Ok(None);
        }
        let batch = self.app.engine().store.batch(&self.caller.tenant, self.batch).await?;
        // A view that cannot be made now is made at the next look.
        let Ok(snapshot) = Snapshot::of(&self.app, &batch).await else { return Ok(None) };
        Ok(self.tell(snapshot))
    }
}
