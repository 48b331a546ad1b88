//! `GET /v1/batches/{id}/events`: a batch's progress as server-sent events.
//!
//! An event is a snapshot, so one that is missed costs nothing: whoever comes back gets the newest. The stream ends behind the
//! snapshot of the final state, when the service stops, and when the reader's key is revoked or expires.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use promptmill_domain::{BatchId, TenantId};
use tokio::time::{Instant, sleep};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::auth::{Caller, Scope, is_still_good};
use crate::batches::view::{BatchView, view};
use crate::extract::Path;
use crate::problem::{Problem, ProblemId};
use crate::shapes::EventDocument;
use crate::sse;
use crate::told::Listener;
use promptmill_runtime::places::Place;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// At most five snapshots a second.
const GAP: Duration = Duration::from_millis(200);

/// How often the store is asked without a signal, at first...
const POLL: Duration = Duration::from_millis(500);

/// ...and in the end, while nothing changes.
const SLOWEST_POLL: Duration = Duration::from_secs(2);

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
    let place = app.streams().enter(caller.tenant.clone()).ok_or_else(|| {
        Problem::new(ProblemId::TooManyRequests)
            .detail("too many event streams are read at the same time")
            .retry_after(5)
    })?;
    // Before the first look, so that nothing that changes after it is missed.
    let listener = app.listen(id);
    let first = Snapshot::newest(&app, &caller.tenant, id, Instant::now()).await?;
    let has = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    if first.is_final && has == Some(first.id.as_str()) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let feed = Feed {
        app,
        caller,
        batch: id,
        listener,
        seen: Instant::now(),
        poll: POLL,
        shown: None,
        ended: false,
        _place: place,
    };
    Ok(sse::response(feed.stream(&first)))
}

/// What one event tells.
pub(crate) struct Snapshot {
    tenant: TenantId,
    /// Changes when what is worth telling does.
    id: String,
    is_final: bool,
    event: Bytes,
}

impl Snapshot {
    /// A snapshot that was begun at `since` or later: all who watch a batch share it.
    async fn newest(app: &App, tenant: &TenantId, id: BatchId, since: Instant) -> Result<Arc<Self>, Problem> {
        let make = async {
            let batch = app.engine().store.batch(tenant, id).await?;
            let view: BatchView = view(app, &batch).await?;
            let id = format!("{}.{}", view.revision, view.counts.settled);
            let data = serde_json::to_string(&view).map_err(Problem::internal)?;
            let event = sse::event("batch", Some(&id), &data);
            Ok::<_, Problem>(Arc::new(Self {
                tenant: batch.tenant,
                id,
                is_final: batch.state.is_final(),
                event,
            }))
        };
        let snapshot = app.snapshots().of(id).get(|begun| begun >= since, make).await?;
        // It may be one that was made for the batch's own tenant.
        if snapshot.tenant == *tenant { Ok(snapshot) } else { Err(Problem::new(ProblemId::NotFound)) }
    }
}

/// One reader's stream.
struct Feed {
    app: App,
    caller: Caller,
    batch: BatchId,
    listener: Listener,
    /// When the reader's last look was over: what was begun later is news to it.
    seen: Instant,
    /// How long the next look waits for a signal.
    poll: Duration,
    /// The id of the newest snapshot that was told.
    shown: Option<String>,
    ended: bool,
    _place: Place<TenantId>,
}

impl Feed {
    fn stream(mut self, first: &Snapshot) -> impl Stream<Item = Bytes> + Send + 'static {
        let head = self.tell(first).into_iter();
        let head = std::iter::once(sse::RETRY).chain(head);
        stream::iter(head).chain(stream::unfold(self, |mut feed| async move {
            let event = feed.next().await?;
            Some((event, feed))
        }))
    }

    /// The snapshot's event, unless it is what was told last.
    fn tell(&mut self, snapshot: &Snapshot) -> Option<Bytes> {
        self.ended |= snapshot.is_final;
        if self.shown.as_ref() == Some(&snapshot.id) {
            return None;
        }
        self.shown = Some(snapshot.id.clone());
        Some(snapshot.event.clone())
    }

    /// The next event or ping; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let begun = Instant::now();
        while !self.ended {
            let waited = async {
                sleep(GAP).await;
                tokio::select! {
                    told = self.listener.told() => (told, POLL),
                    // What stands still is looked at less and less often.
                    () = sleep(self.poll) => (self.seen, (self.poll * 2).min(SLOWEST_POLL)),
                }
            };
            let since = tokio::select! {
                (since, poll) = waited => {
                    self.poll = poll;
                    since
                }
                () = self.app.stopping().cancelled() => return None,
            };
            let stopping = self.app.stopping().clone();
            let news = tokio::select! {
                news = self.look(since) => news,
                () = stopping.cancelled() => return None,
            };
            if news.is_some() {
                self.poll = POLL;
                return news;
            }
            if !self.ended && begun.elapsed() >= sse::PING_EVERY {
                return Some(sse::PING);
            }
        }
        None
    }

    /// What is new in a snapshot that was begun at `since` or later.
    async fn look(&mut self, since: Instant) -> Option<Bytes> {
        match is_still_good(&self.app, &self.caller).await {
            Ok(true) => {}
            Ok(false) => {
                self.ended = true;
                return None;
            }
            Err(_) => return None,
        }
        let newest = Snapshot::newest(&self.app, &self.caller.tenant, self.batch, since).await;
        self.seen = Instant::now();
        match newest {
            Ok(snapshot) => self.tell(&snapshot),
            Err(problem) => {
                // Deleted meanwhile. What else went wrong may not at the next look.
                self.ended = problem.id() == ProblemId::NotFound;
                None
            }
        }
    }
}
