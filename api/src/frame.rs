//! What stands around every request: its id, the one shape of errors, the catching of panics, headers for safety, and counting.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;

use crate::headers;
use crate::problem::{IsProblem, Problem};
use crate::state::App;

/// Header with the request's id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Bytes of a request's body that are read and thrown away when it is refused before its end. The connection of a larger one ends with the
/// answer.
const SKIPPED_BODY: u64 = 64 * 1024;

/// Whom the request is from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// What is known of the request that is being answered, wherever in its handling.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestContext {
    /// Its id, ours or the caller's.
    pub(crate) id: String,
    /// Its path without the query.
    pub(crate) path: String,
}

tokio::task_local! {
    static CURRENT: RequestContext;
}

impl RequestContext {
    /// That of the running task; empty outside of a request.
    pub(crate) fn current() -> Self {
        CURRENT.try_with(Clone::clone).unwrap_or_default()
    }

    /// `work` in a task of its own as a part of this request.
    pub(crate) fn around<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }
}

/// A path as it may stand in an answer, which clients log: a link is a key of its own.
fn shown(path: &str) -> &str {
    if path.starts_with("/v1/results/") { "/v1/results/{link}" } else { path }
}

/// The outermost layer.
pub(crate) async fn frame(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let context = RequestContext { id: id.clone(), path: shown(request.uri().path()).to_owned() };
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = request.method().clone();
    let body_is_large = body_is_large(request.headers());

    let mut response = CURRENT
        .scope(context, async {
            let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
            let response =
                answered.unwrap_or_else(|_| Problem::internal("a handler panicked").into_response());
            in_one_shape(response)
        })
        .await;

    headers::add(response.headers_mut());
    // A client that is not told would send its next request into a connection that is being closed.
    if (body_is_large && is_error(response.status())) || app.leaving().is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let (status, took) = (response.status().as_u16(), started.elapsed());
    let route = route.as_deref().unwrap_or("other");
    app.engine().metrics.http(route, method.as_str(), status, took);
    tracing::debug!(
        request.id = id,
        http.route = route,
        http.status = status,
        duration_ms = took.as_millis() as u64,
        "answered"
    );
    response
}

/// Whether a request's body is large, or may be: its length is not said.
fn body_is_large(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let large = length.is_some_and(|length| length.parse::<u64>().is_ok_and(|length| length > SKIPPED_BODY));
    large || headers.contains_key(header::TRANSFER_ENCODING)
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// The caller's id when it is harmless, otherwise a new one.
fn request_id(headers: &HeaderMap) -> String {
    let harmless = |id: &&str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    match headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(harmless) {
        Some(id) => id.to_owned(),
        None => format!("{:032x}", rand::random::<u128>()),
    }
}

/// Answers that the router or an extractor made in its own way become problems, their headers kept.
fn in_one_shape(response: Response) -> Response {
    let status = response.status();
    if !is_error(status) || response.extensions().get::<IsProblem>().is_some() {
        return response;
    }
    let mut problem = Problem::of_status(status).into_response();
    if status == StatusCode::METHOD_NOT_ALLOWED
        && let Some(allow) = response.headers().get(header::ALLOW)
    {
        problem.headers_mut().insert(header::ALLOW, allow.clone());
    }
    problem
}

#[cfg(test)]
mod tests;
