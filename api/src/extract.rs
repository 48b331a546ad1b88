//! What handlers take: JSON bodies, queries and path segments, each refused with a [`Problem`].
//!
//! A JSON body is read in two passes. The first ([`strict`]) sees the text as it is: syntax, keys that stand twice, depth. What it finds is
//! `invalid_json`. The second makes the type; what it finds (unknown members, wrong types) is `invalid` with a pointer.

mod objects;
mod strict;
mod words;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use promptmill_domain::TenantId;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::auth::Caller;
use crate::problem::{Problem, ProblemId};
use crate::shares::Share;
use crate::state::App;
use objects::Objects;

/// SHA-256 of a body, for telling a repeated request from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest(pub(crate) [u8; 32]);

impl Digest {
    /// That of a body's bytes.
    pub(crate) fn of(body: &[u8]) -> Self {
        Self(Sha256::digest(body).into())
    }

    /// That of no body.
    pub(crate) fn empty() -> Self {
        Self::of(b"")
    }
}

/// A JSON body of at most [`json_bytes`](crate::ApiConfig::json_bytes).
pub(crate) struct Json<T>(pub(crate) T, pub(crate) Digest);

/// A JSON body that may carry rows: at most [`inline_bytes`](crate::ApiConfig::inline_bytes).
/// With its room, where it needed some, to be held for as long as its content is.
pub(crate) struct LargeJson<T>(pub(crate) T, pub(crate) Digest, pub(crate) Option<Share>);

/// The text of a JSON body that is well-formed, of at most [`json_bytes`](crate::ApiConfig::json_bytes).
pub(crate) struct JsonText(pub(crate) String, pub(crate) Digest);

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (body, digest, room) = json_body(request, app, app.config().json_bytes).await?;
        Ok(Self(read(body, room, |text| value_of(&text)).await?.0, digest))
    }
}

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for LargeJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (body, digest, room) = json_body(request, app, app.config().inline_bytes).await?;
        let (value, room) = read(body, room, |text| value_of(&text)).await?;
        Ok(Self(value, digest, room))
    }
}

impl FromRequest<App> for JsonText {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (body, digest, room) = json_body(request, app, app.config().json_bytes).await?;
        Ok(Self(read(body, room, Ok).await?.0, digest))
    }
}

/// Bodies up to this size need no room of their own.
const SMALL: usize = 64 << 10;

/// The room of one body, set aside once it is more than a small one.
struct Room<'a> {
    app: &'a App,
    tenant: Option<TenantId>,
    /// The most bytes it may have.
    limit: usize,
    /// Bytes it says it has.
    declared: Option<usize>,
    reserved: Option<Share>,
}

impl Room<'_> {
    /// Waits until so many bytes may be held; not for ever, since whoever sends waits as well.
    async fn hold(&mut self, bytes: usize) -> Result<(), Problem> {
        let Some(tenant) = self.tenant.as_ref().filter(|_| bytes > SMALL && self.reserved.is_none()) else {
            return Ok(());
        };
        let room = self.app.body_room().take(tenant, kib(self.declared.unwrap_or(self.limit)));
        let reserved = tokio::time::timeout(self.app.config().body_time / 3, room).await;
        self.reserved = Some(reserved.map_err(|_| {
            let detail = "too many large bodies are sent at the same time";
            Problem::new(ProblemId::TooManyRequests).detail(detail).retry_after(1)
        })?);
        Ok(())
    }
}

fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

/// The body of a request that has one of JSON, up to `limit` bytes, with its room where it needed some.
async fn json_body(
    request: Request,
    app: &App,
    limit: usize,
) -> Result<(Bytes, Digest, Option<Share>), Problem> {
    check_media_type(request.headers())?;
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let declared = declared.and_then(|length| length.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    let declared = declared.and_then(|length| usize::try_from(length).ok());
    let tenant = request.extensions().get::<Caller>().map(|caller| caller.tenant.clone());
    let mut room = Room { app, tenant, limit, declared, reserved: None };
    let reading = collect(request.into_body(), &mut room);
    match tokio::time::timeout(app.config().body_time, reading).await {
        Ok(read) => {
            let (body, digest) = read?;
            if let Some(reserved) = &mut room.reserved {
                reserved.keep(kib(body.len()));
            }
            Ok((body, digest, room.reserved))
        }
        Err(_) => Err(Problem::new(ProblemId::RequestTimeout)),
    }
}

/// Bodies up to this size are read where they are; larger ones take long enough to be read beside the runtime's threads.
const READ_IN_PLACE: usize = 128 << 10;

/// Checks the text of a body and makes something of it. The room is given back with what was made, and not before the work is over should nobody
/// wait for it any more.
async fn read<T: Send + 'static>(
    body: Bytes,
    room: Option<Share>,
    make: impl FnOnce(String) -> Result<T, Problem> + Send + 'static,
) -> Result<(T, Option<Share>), Problem> {
    let in_place = body.len() <= READ_IN_PLACE;
    let reading = move || {
        let text = String::from_utf8(body.into()).map_err(|error| {
            Problem::new(ProblemId::InvalidJson)
                .detail(format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
        })?;
        strict::check(&text)?;
        Ok((make(text)?, room))
    };
    if in_place {
        return reading();
    }
    match tokio::task::spawn_blocking(reading).await {
        Ok(read) => read,
        Err(_) => Err(Problem::internal("reading a body panicked")),
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported =
        |detail: &'static str| Err(Problem::new(ProblemId::UnsupportedMediaType).detail(detail));
    let plain = |encoding: &[u8]| encoding.trim_ascii().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(|encoding| plain(encoding.as_bytes())) {
        return unsupported("this route takes no Content-Encoding");
    }
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match essence.as_deref() {
        Some("application/json") => Ok(()),
        _ => unsupported("this route takes Content-Type: application/json"),
    }
}

fn too_large(limit: usize) -> Problem {
    Problem::new(ProblemId::PayloadTooLarge).detail(format!("this route takes at most {limit} bytes"))
}

/// The whole body, as long as there is room for it. It is digested as it comes: all at once, a large one would hold up others.
async fn collect(mut body: Body, room: &mut Room<'_>) -> Result<(Bytes, Digest), Problem> {
    let mut whole = BytesMut::new();
    let mut digest = Sha256::new();
    let (mut bytes, mut turned_away) = (0, None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| cut_off())?;
        if let Some(data) = frame.data_ref() {
            bytes += data.len();
            if bytes > room.limit {
                return Err(too_large(room.limit));
            }
            if turned_away.is_none() {
                turned_away = room.hold(bytes).await.err();
            }
            if turned_away.is_some() {
                // Read on and dropped, so that a client which first sends everything gets to read the answer.
                whole = BytesMut::new();
                continue;
            }
            whole.extend_from_slice(data);
            digest.update(data);
        }
    }
    match turned_away {
        None => Ok((whole.freeze(), Digest(digest.finalize().into()))),
        Some(problem) => Err(problem),
    }
}

/// The body ended before it was complete, so there is rarely anyone left to read this.
pub(crate) fn cut_off() -> Problem {
    Problem::new(ProblemId::BadRequest).detail("the body ended before it was complete")
}

/// Makes `T` of a text that passed [`strict::check`].
fn value_of<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(Objects::over(&mut deserializer)).map_err(|error| {
        let pointer = words::pointer(error.path());
        Problem::invalid(pointer, words::without_content(error.inner()))
    })
}

/// The query, made into `T`. A member that is a list takes the parameter as often as it comes.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        // The reader takes a number without digits for one that was left out; a limit must not be left out by mistake. So what has no value is
        // tried with one that is a text and no number.
        let lacks =
            |pair: &str| !pair.is_empty() && pair.split_once('=').is_none_or(|(_, value)| value.is_empty());
        if query.split('&').any(lacks) {
            let filled = query.split('&').map(|pair| match lacks(pair) {
                true => format!("{}=-", pair.trim_end_matches('=')),
                false => pair.to_owned(),
            });
            query_value::<T>(&filled.collect::<Vec<_>>().join("&"))?;
        }
        query_value(query).map(Self)
    }
}

fn query_value<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let deserializer = serde_html_form::Deserializer::from_bytes(query.as_bytes());
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let parameter = error.path().to_string();
        let words = words::without_content(error.inner());
        let place = if parameter == "." { String::new() } else { format!(" parameter {parameter}") };
        Problem::new(ProblemId::BadRequest).detail(format!("query{place}: {words}"))
    })
}

/// Segments of the path. What is no id names nothing, so it is `not_found`.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match axum::extract::Path::from_request_parts(parts, app).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(_) => Err(Problem::new(ProblemId::NotFound)),
        }
    }
}

#[cfg(test)]
mod tests;
