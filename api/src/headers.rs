//! Headers that are the same for every answer, and the bound on those of a request.

use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::problem::{Problem, ProblemId};

/// Bytes of all header fields of a request, each counted with 32 bytes more for its place.
pub(crate) const MAX_HEADER_BYTES: usize = 32 << 10;

const EVERYWHERE: [(HeaderName, HeaderValue); 5] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
];

/// Adds what an answer has not set itself.
pub(crate) fn add(headers: &mut HeaderMap) {
    for (name, value) in EVERYWHERE {
        headers.entry(name).or_insert(value);
    }
}

/// Refuses requests whose headers are larger than [`MAX_HEADER_BYTES`].
pub(crate) async fn check_size(request: Request, next: Next) -> Response {
    let bytes: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    if bytes + request.uri().to_string().len() > MAX_HEADER_BYTES {
        return Problem::new(ProblemId::HeadersTooLarge).into_response();
    }
    next.run(request).await
}
