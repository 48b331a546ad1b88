//! A generation whose text is told as it comes.
//!
//! It is stored before the stream begins, and runs to its outcome whether anyone reads or not. What a slow reader has not taken yet is
//! held once, never more than a reply: a new call voids the text before it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, stream};
use promptmill_domain::{GenerationId, TenantId};
use promptmill_ports::Generation;
use promptmill_provider::{Delta, DeltaSink};
use serde::Serialize;
use tokio::sync::Notify;

use super::generator::Running;
use super::request::NewGenerationBody;
use super::{Under, begin, view};
use crate::App;
use crate::idempotency::{Plan, Ticket};
use crate::problem::Problem;
use crate::sse;

/// Text that is held for a slow reader; what is beyond it is told with the outcome alone.
const HELD_BYTES: usize = 1 << 20;

/// Streams the generation that `ticket` stands for, and keeps its end for repeats of the request.
pub(super) async fn respond(
    app: App,
    tenant: &TenantId,
    body: &NewGenerationBody,
    ticket: Ticket,
) -> Response {
    let plan = ticket.plan();
    let id = GenerationId::from_bytes(plan.bytes);
    let feed = Arc::new(Feed::default());
    match promised(&app, tenant, plan, body, feed.clone()).await {
        Err(problem) => ticket.finish(problem.into_response()).await,
        Ok(Under::Done(generation)) => ticket.finish(ended(generation).await).await,
        Ok(Under::Way(running)) => {
            tokio::spawn(keep_answer(running.clone(), ticket));
            located(id, sse::response(events(app, running, feed)))
        }
    }
}

/// Begins the generation, and makes sure that a restart would finish it.
async fn promised(
    app: &App,
    tenant: &TenantId,
    plan: Plan,
    body: &NewGenerationBody,
    feed: Arc<Feed>,
) -> Result<Under, Problem> {
    let deltas = DeltaSink::new(move |delta| feed.push(delta));
    let under = begin(app, tenant, plan, body, Some(deltas)).await?;
    if let Under::Way(running) = &under {
        app.engine().records.put_generation(&running.begun()).await?;
    }
    Ok(under)
}

/// Keeps the outcome as the answer to repeats, once it is there.
async fn keep_answer(mut running: Running, ticket: Ticket) {
    if let Some(generation) = running.finished().await {
        ticket.finish(ended(generation).await).await;
    }
}

/// The answer when there is nothing to wait for: the outcome alone.
async fn ended(generation: Arc<Generation>) -> Response {
    let id = generation.id;
    match outcome_event(generation).await {
        Ok(event) => located(id, sse::response(stream::iter([event]))),
        Err(problem) => problem.into_response(),
    }
}

async fn outcome_event(generation: Arc<Generation>) -> Result<Bytes, Problem> {
    let text = view::text(generation).await?;
    Ok(sse::event("outcome", None, &text))
}

fn located(id: GenerationId, mut response: Response) -> Response {
    if let Ok(location) = HeaderValue::try_from(format!("/v1/generations/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// What a reader is told, up to the outcome, or to the stop of the service.
fn events(app: App, running: Running, feed: Arc<Feed>) -> impl Stream<Item = Bytes> + Send + 'static {
    stream::unfold(Some((app, running, feed)), |state| async move {
        let (app, mut running, feed) = state?;
        let generation = tokio::select! {
            biased;
            piece = feed.next() => return Some((piece.event(), Some((app, running, feed)))),
            finished = running.finished() => finished?,
            () = tokio::time::sleep(sse::PING_EVERY) => return Some((sse::PING, Some((app, running, feed)))),
            // The generation itself may still end; the next process knows how.
            () = app.stopping().cancelled() => return None,
        };
        // The text was complete before the outcome was stored.
        if let Some(piece) = feed.pop() {
            return Some((piece.event(), Some((app, running, feed))));
        }
        // A reader that gets no outcome knows that something broke.
        let event = outcome_event(generation).await.ok()?;
        Some((event, None))
    })
}

/// A piece on its way to the reader.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Begin,
    Text(String),
}

impl Piece {
    fn event(&self) -> Bytes {
        #[derive(Serialize)]
        struct Text<'a> {
            text: &'a str,
        }
        match self {
            Self::Begin => sse::event("begin", None, "{}"),
            Self::Text(text) => {
                let data = serde_json::to_string(&Text { text }).unwrap_or_default();
                sse::event("delta", None, &data)
            }
        }
    }
}

/// Pieces that were not taken yet.
#[derive(Default)]
struct Feed {
    held: Mutex<Held>,
    news: Notify,
}

#[derive(Default)]
struct Held {
    pieces: VecDeque<Piece>,
    /// Whether text of this call was left out; what follows it is left out too, so that none is missing in the middle.
    overflown: bool,
}

impl Feed {
    fn push(&self, delta: Delta<'_>) {
        let mut held = self.held();
        let Held { pieces, overflown } = &mut *held;
        match (delta, pieces.back_mut()) {
            (Delta::Begin, _) => {
                *overflown = false;
                pieces.clear();
                pieces.push_back(Piece::Begin);
            }
            (Delta::Text(_), _) if *overflown => return,
            (Delta::Text(text), Some(Piece::Text(before))) => {
                if before.len() + text.len() > HELD_BYTES {
                    *overflown = true;
                    return;
                }
                before.push_str(text);
            }
            (Delta::Text(text), _) => pieces.push_back(Piece::Text(text.to_owned())),
        }
        drop(held);
        self.news.notify_one();
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self) -> Option<Piece> {
        self.held().pieces.pop_front()
    }

    async fn next(&self) -> Piece {
        loop {
            // Asked for before looking, so that no piece is missed between.
            let news = self.news.notified();
            if let Some(piece) = self.pop() {
                return piece;
            }
            news.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_holds_one_reply_and_a_new_call_voids_it() {
        let feed = Feed::default();
        feed.push(Delta::Begin);
        feed.push(Delta::Text("one "));
        feed.push(Delta::Text("two"));
        assert_eq!(feed.pop(), Some(Piece::Begin));
        assert_eq!(feed.pop(), Some(Piece::Text("one two".into())));
        for _ in 0..3 {
            feed.push(Delta::Text(&"x".repeat(HELD_BYTES)));
        }
        feed.push(Delta::Text("after a hole"));
        assert_eq!(feed.pop(), Some(Piece::Text("x".repeat(HELD_BYTES))));
        assert_eq!(feed.pop(), None);
        feed.push(Delta::Begin);
        feed.push(Delta::Text("new"));
        assert_eq!(feed.pop(), Some(Piece::Begin));
        assert_eq!(feed.pop(), Some(Piece::Text("new".into())));
        assert_eq!(feed.pop(), None);
    }

    #[test]
    fn a_piece_is_one_line_of_json() {
        assert_eq!(Piece::Begin.event(), "event: begin\ndata: {}\n\n");
        assert_eq!(
            Piece::Text("a\n\"b\"".into()).event(),
            "event: delta\ndata: {\"text\":\"a\\n\\\"b\\\"\"}\n\n"
        );
    }
}
