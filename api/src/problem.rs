//! Every error of the service: one shape (RFC 9457), a closed list of codes.
//!
//! A handler answers `Result<_, Problem>`. Words here never repeat what a client sent beyond names of members, and those of a 5xx never
//! show a cause: causes go to the log, once, where the problem is made.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use promptmill_ports::StoreError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::frame::RequestContext;

/// What kind of error: the last part of its `type` and its `code`.
macro_rules! problem_ids {
    ($($(#[$doc:meta])* $id:ident $code:literal $status:ident $title:literal $explanation:literal)*) => {
        /// The closed list of errors; each has a page at `/problems/<code>`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum ProblemId { $(#[doc = $title] $id,)* }

        impl ProblemId {
            /// Every one.
            pub(crate) const ALL: &[Self] = &[$(Self::$id),*];

            /// The stable name.
            pub(crate) const fn code(self) -> &'static str {
                match self { $(Self::$id => $code),* }
            }

            /// The HTTP status it always comes with.
            pub(crate) const fn status(self) -> StatusCode {
                match self { $(Self::$id => StatusCode::$status),* }
            }

            /// A few words that never change.
            pub(crate) const fn title(self) -> &'static str {
                match self { $(Self::$id => $title),* }
            }

            /// What it means and what the caller can do.
            pub(crate) const fn explanation(self) -> &'static str {
                match self { $(Self::$id => $explanation),* }
            }
        }
    };
}

problem_ids! {
    BadRequest "bad_request" BAD_REQUEST "The request cannot be read"
        "A header, the query or the framing of the request is not what the route takes. The detail says which."
    InvalidJson "invalid_json" BAD_REQUEST "The body is not JSON as we take it"
        "The body is not JSON (RFC 8259) in UTF-8, has a key twice in one object, half of a surrogate pair, or more than 64 levels. The detail gives line and column."
    Unauthorized "unauthorized" UNAUTHORIZED "A valid API key is needed"
        "Send one header Authorization: Bearer pmk_... with a key that is neither revoked nor expired."
    Forbidden "forbidden" FORBIDDEN "The key may not do that"
        "The key's role or scopes do not cover the request. The detail names the scope that is needed; an admin of the tenant can make such a key."
    NotFound "not_found" NOT_FOUND "There is nothing here"
        "There is no such route, or nothing with that id or name in your tenant."
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "The route does not know the method"
        "The header Allow lists the methods of the route."
    NotAcceptable "not_acceptable" NOT_ACCEPTABLE "No answer in the asked for format"
        "The header Accept names no format the route can answer in. The detail lists those it can."
    RequestTimeout "request_timeout" REQUEST_TIMEOUT "The body came too slowly"
        "The body was not complete in time. Nothing was done; send it again."
    Conflict "conflict" CONFLICT "The state does not allow that"
        "The record is in a state that does not allow the request, or a name is taken. The detail says which."
    IdempotencyInProgress "idempotency_in_progress" CONFLICT "The same request is still running"
        "A request with this Idempotency-Key has no answer yet. Repeat it after a moment to get that answer."
    PreconditionFailed "precondition_failed" PRECONDITION_FAILED "Someone changed it meanwhile"
        "The version in If-Match is not the newest. Read it again and decide anew."
    PayloadTooLarge "payload_too_large" PAYLOAD_TOO_LARGE "The body is too large"
        "The body, or what it unpacks to, is larger than the route takes. GET /v1/limits lists the sizes; rows can be sent in parts."
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE "The body's type or encoding is not taken here"
        "Content-Type or Content-Encoding is not one the route takes. The detail lists those it does."
    Invalid "invalid" UNPROCESSABLE_ENTITY "Something in the request is not valid"
        "The request can be read, but values in it are not allowed. Each entry of errors says where and why."
    InvalidTemplate "invalid_template" UNPROCESSABLE_ENTITY "The template is not valid"
        "Each entry of errors points to a place in the template."
    InvalidRows "invalid_rows" UNPROCESSABLE_ENTITY "Rows are not valid"
        "Each entry of errors names a line or a row, at most 100 of them. Nothing was stored."
    IdempotencyMismatch "idempotency_mismatch" UNPROCESSABLE_ENTITY "The key was used for another request"
        "An Idempotency-Key stands for one request. Use a new key for a new request."
    PreconditionRequired "precondition_required" PRECONDITION_REQUIRED "If-Match is needed"
        "Send If-Match with the ETag of what you read, or * to do it whatever its version."
    TooManyRequests "too_many_requests" TOO_MANY_REQUESTS "Too much for now"
        "A rate or a quota is used up. Retry-After says when to go on; GET /v1/limits lists rates and quotas."
    HeadersTooLarge "headers_too_large" REQUEST_HEADER_FIELDS_TOO_LARGE "The headers are too large"
        "All header fields together may have 32 KiB."
    Internal "internal" INTERNAL_SERVER_ERROR "A mistake of ours"
        "Something broke that should not. The log of the service has the cause under the request id."
    Unavailable "unavailable" SERVICE_UNAVAILABLE "Not for the moment"
        "The store cannot be reached, or the service is stopping. Nothing is lost; repeat the request after Retry-After."
    NoRoom "no_room" INSUFFICIENT_STORAGE "The disk is full"
        "The store has no room for more rows. Finished batches can be deleted; the operator can add room."
}

impl ProblemId {
    /// The one with that name.
    pub(crate) fn of_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|id| id.code() == code)
    }
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// JSON Pointer into the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pointer: Option<String>,
    /// 1-based line of an upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<u64>,
    /// Part of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) part: Option<u32>,
    /// A stable name, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) code: Option<&'static str>,
    /// What is wrong.
    pub(crate) detail: String,
}

impl FieldError {
    /// Something wrong at a place of the body.
    pub(crate) fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), detail: detail.into(), ..Self::default() }
    }

    /// Something wrong in a line of an upload.
    pub(crate) fn line(line: u64, detail: impl Into<String>) -> Self {
        Self { line: Some(line), detail: detail.into(), ..Self::default() }
    }
}

/// An error on its way to the caller.
#[derive(Debug, Clone)]
pub(crate) struct Problem(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    id: ProblemId,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after_s: Option<u64>,
}

/// The body, as it is documented.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// `/problems/<code>`.
    #[serde(rename = "type")]
    kind: String,
    /// A few words that never change for a code.
    title: &'static str,
    /// The HTTP status again.
    status: u16,
    /// What is wrong this time.
    detail: String,
    /// Path of the request.
    instance: String,
    /// The stable name of the error.
    code: &'static str,
    /// The same as the header X-Request-Id.
    request_id: String,
    /// Every thing that is wrong, as far as it was found at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
}

/// Marks answers that have the one shape already.
#[derive(Clone, Copy)]
pub(crate) struct IsProblem;

impl Problem {
    /// A problem in its general words.
    pub(crate) fn new(id: ProblemId) -> Self {
        Self(Box::new(Parts { id, detail: Cow::Borrowed(""), errors: Vec::new(), retry_after_s: None }))
    }

    /// A problem whose one error is `detail` at `pointer`.
    pub(crate) fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ProblemId::Invalid).error(FieldError::at(pointer, detail))
    }

    /// Says what is wrong this time, one sentence without a full stop.
    pub(crate) fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = detail.into();
        self
    }

    /// Adds a place that is wrong.
    pub(crate) fn error(mut self, error: FieldError) -> Self {
        self.0.errors.push(error);
        self
    }

    /// Adds places that are wrong.
    pub(crate) fn errors(mut self, errors: impl IntoIterator<Item = FieldError>) -> Self {
        self.0.errors.extend(errors);
        self
    }

    /// Says when it may work, in seconds from now.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after_s = Some(seconds);
        self
    }

    /// The same where what was looked at is a member of the body, at `pointer`.
    pub(crate) fn within(mut self, pointer: &str) -> Self {
        for error in &mut self.0.errors {
            if let Some(place) = &mut error.pointer {
                place.insert_str(0, pointer);
            }
        }
        self
    }

    /// Which kind.
    pub(crate) fn id(&self) -> ProblemId {
        self.0.id
    }

    /// The first place that is wrong.
    #[cfg(test)]
    pub(crate) fn first_error(&self) -> Option<&FieldError> {
        self.0.errors.first()
    }

    /// The problem that stands for an answer a library made, by its status.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let id = ProblemId::ALL.iter().copied().find(|id| id.status() == status);
        Self::new(match id {
            Some(id) => id,
            None if status.is_server_error() => ProblemId::Internal,
            None => ProblemId::BadRequest,
        })
    }

    /// Something that cannot happen happened: `what` goes to the log.
    pub(crate) fn internal(what: impl std::fmt::Display) -> Self {
        tracing::error!(request.id = RequestContext::current().id, "{what}");
        Self::new(ProblemId::Internal)
    }
}

impl From<ProblemId> for Problem {
    fn from(id: ProblemId) -> Self {
        Self::new(id)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::NotFound => Self::new(ProblemId::NotFound),
            StoreError::Conflict(words) => Self::new(ProblemId::Conflict).detail(words.clone()),
            StoreError::Unavailable(_) => {
                let request = RequestContext::current().id;
                tracing::warn!(request.id = request, error = chain(&error), "the store is unavailable");
                Self::new(ProblemId::Unavailable).detail("the store is unavailable").retry_after(1)
            }
            StoreError::Corrupt(_) => Self::internal(chain(&error)),
        }
    }
}

/// An error with its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Parts { id, detail, errors, retry_after_s } = *self.0;
        let request = RequestContext::current();
        let detail = match (detail.is_empty(), errors.as_slice()) {
            (false, _) => detail,
            (true, [only]) => match &only.pointer {
                Some(pointer) if !pointer.is_empty() => Cow::Owned(format!("{pointer}: {}", only.detail)),
                _ => Cow::Owned(only.detail.clone()),
            },
            (true, _) => Cow::Borrowed(id.explanation()),
        };
        let body = ProblemBody {
            kind: format!("/problems/{}", id.code()),
            title: id.title(),
            status: id.status().as_u16(),
            detail: detail.into_owned(),
            instance: request.path,
            code: id.code(),
            request_id: request.id,
            errors,
        };
        let body = serde_json::to_vec(&body).expect("texts and numbers can always be written as JSON");
        let mut response = (id.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json; charset=utf-8"),
        );
        if id == ProblemId::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let default_wait =
            matches!(id, ProblemId::Unavailable | ProblemId::IdempotencyInProgress).then_some(1);
        if let Some(seconds) = retry_after_s.or(default_wait) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(IsProblem);
        response
    }
}

/// Answers what no route knows.
pub(crate) async fn unknown_route() -> Problem {
    Problem::new(ProblemId::NotFound).detail("there is no such route")
}

#[cfg(test)]
mod tests;
