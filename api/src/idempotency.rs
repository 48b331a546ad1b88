//! Requests that happen once however often they are sent.
//!
//! With an `Idempotency-Key` a POST is claimed in the store before it runs. Its answer is kept for a day (sealed, because some answers hold
//! a secret that is shown once) and repeated. The claim carries a plan, 16 bytes shaped like a UUID version 7, from which the handler
//! derives the ids of what it makes: whoever runs a request again that was cut off makes the same things, and the steps find them made.
//! So an answer that was not kept (a 5xx, a crash) costs nothing but running again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use promptmill_domain::{SessionId, TenantId};
use promptmill_ports::{Claim, Claimed, StoreError, StoredAnswer};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use crate::auth::Caller;
use crate::extract::Digest;
use crate::prefer::PREFERENCE_APPLIED;
use crate::problem::{IsProblem, Problem, ProblemId, chain};
use crate::state::App;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const KEPT_HEADERS: [HeaderName; 5] =
    [header::CONTENT_TYPE, header::LOCATION, header::ETAG, header::LINK, PREFERENCE_APPLIED];
/// Longest key, bytes.
const MAX_KEY: usize = 255;
/// Owns the claims that no process runs.
const NOBODY: [u8; 16] = [0; 16];
/// How often and how soon it is tried to give a claim up while the store is away.
const GIVE_UP_TRIES: u32 = 60;
const GIVE_UP_AGAIN: Duration = Duration::from_secs(1);
/// Longest body of an answer that is kept, bytes.
const MAX_ANSWER: usize = 1 << 20;

/// From which the ids of what a request makes are derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Those of a UUID version 7.
    pub(crate) bytes: [u8; 16],
    /// Whether an earlier run, cut off, may have made something under it.
    pub(crate) ran_before: bool,
}

/// What of a request decides whether it is the same one.
#[derive(Debug, Clone)]
pub(crate) struct Idempotency {
    /// The client's key.
    key: Option<String>,
    /// Method and pattern of the route: a key counts within it.
    scope: String,
    /// Method, path and query.
    target: String,
}

impl FromRequestParts<App> for Idempotency {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let bad = |words: &'static str| Problem::new(ProblemId::BadRequest).detail(words);
        let mut sent = parts.headers.get_all(KEY).iter();
        let key = match (sent.next(), sent.next()) {
            (None, _) => None,
            (Some(_), Some(_)) => return Err(bad("two Idempotency-Key headers")),
            (Some(value), None) => Some(read_key(value).ok_or_else(|| {
                bad("an Idempotency-Key is 1 to 255 printable ASCII characters, with or without quotes")
            })?),
        };
        let pattern = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        Ok(Self {
            key,
            scope: format!("{} {pattern}", parts.method),
            target: format!("{} {}", parts.method, origin_form(&parts.uri)),
        })
    }
}

/// Path and query. What proxies put before them is not what is asked for.
fn origin_form(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

/// The key of the header, its quotes taken off.
fn read_key(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?.trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let printable = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    ((1..=MAX_KEY).contains(&text.len()) && printable).then(|| text.to_owned())
}

/// Whether a request is to be run.
pub(crate) enum Begin {
    /// It is: with this ticket's plan, and its answer handed to [`Ticket::finish`].
    Run(Ticket),
    /// It is not: this is its answer.
    Answered(Response),
}

impl Idempotency {
    /// Whether the answer is kept, which takes room.
    pub(crate) const fn keeps_the_answer(&self) -> bool {
        self.key.is_some()
    }

    /// Runs `run` unless the request was answered before, and keeps its answer.
    pub(crate) async fn once<F, Fut>(
        self,
        app: &App,
        caller: &Caller,
        digest: Digest,
        run: F,
    ) -> Result<Response, Problem>
    where
        F: FnOnce(Plan) -> Fut,
        Fut: Future<Output = Result<Response, Problem>>,
    {
        match self.begin(app, caller, digest).await? {
            Begin::Answered(response) => Ok(response),
            Begin::Run(ticket) => {
                let response = run(ticket.plan()).await.unwrap_or_else(IntoResponse::into_response);
                Ok(ticket.finish(response).await)
            }
        }
    }

    /// Claims the request. For handlers whose answer is a stream; the others use [`Idempotency::once`].
    pub(crate) async fn begin(self, app: &App, caller: &Caller, digest: Digest) -> Result<Begin, Problem> {
        let bytes = new_plan(app.now_ms());
        let first = Plan { bytes, ran_before: false };
        let Some(key) = self.key else {
            return Ok(Begin::Run(Ticket { plan: first, claimed: None }));
        };
        let key = format!("{} {key}", self.scope);
        let fingerprint = fingerprint(&self.target, digest);
        // Of the requests with one key in this process one goes on to the store; so a claim of this process that the store knows and that does
        // not run here was cut off, and can be run again.
        let place = Place::enter(app, &caller.tenant, &key, fingerprint)?;
        let claim = Claim {
            tenant: caller.tenant.clone(),
            key,
            fingerprint,
            plan: bytes,
            owner: *app.session().as_bytes(),
        };
        let records = &app.engine().records;
        let claimed = match records.claim(&claim, app.now_ms()).await {
            Ok(claimed) => claimed,
            // A disk that has no room for a claim has none for what would be made under it.
            Err(StoreError::Unavailable(_)) if matches!(app.engine().store.has_room().await, Ok(false)) => {
                return Err(ProblemId::NoRoom.into());
            }
            Err(error) => return Err(error.into()),
        };
        let plan = match claimed {
            Claimed::Run => first,
            // Of this process: it was cut off.
            Claimed::Begun { owner, plan } if owner == claim.owner => Plan { bytes: plan, ran_before: true },
            Claimed::Begun { owner, plan } => {
                let other = SessionId::from_bytes(owner);
                let runs = app.is_living(other).await?;
                if runs || !records.take_over(&claim.tenant, &claim.key, owner, claim.owner).await? {
                    return Err(ProblemId::IdempotencyInProgress.into());
                }
                Plan { bytes: plan, ran_before: true }
            }
            Claimed::Done(answer) => return repeat(app, &claim, &answer).map(Begin::Answered),
            Claimed::Mismatch => return Err(ProblemId::IdempotencyMismatch.into()),
        };
        Ok(Begin::Run(Ticket { plan, claimed: Some(Held { claim, place: Some(place), is_answered: false }) }))
    }
}

fn new_plan(now_ms: u64) -> [u8; 16] {
    uuid::Builder::from_unix_timestamp_millis(now_ms, &rand::random()).into_uuid().into_bytes()
}

fn fingerprint(target: &str, body: Digest) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update((target.len() as u64).to_be_bytes());
    hasher.update(target.as_bytes());
    hasher.update(body.0);
    hasher.finalize().into()
}

/// Leave to run a request.
pub(crate) struct Ticket {
    plan: Plan,
    claimed: Option<Held>,
}

impl Ticket {
    /// From which the ids of what the request makes are derived.
    pub(crate) fn plan(&self) -> Plan {
        self.plan
    }

    /// Keeps the answer where one is to be kept, and gives it back.
    pub(crate) async fn finish(self, response: Response) -> Response {
        let Some(mut held) = self.claimed else {
            return response;
        };
        if !is_kept(response.status(), response.headers()) {
            return response;
        }
        let Some(app) = held.place.as_ref().map(|place| place.app.clone()) else {
            return response;
        };
        let claim = &held.claim;
        let (parts, body) = response.into_parts();
        let body = match axum::body::to_bytes(body, usize::MAX).await {
            Ok(body) => body,
            Err(error) => return Problem::internal(chain(&error)).into_response(),
        };
        if body.len() <= MAX_ANSWER {
            match app.vault().seal(&seal_context(claim), &body) {
                Ok(sealed) => {
                    let named = |name: &HeaderName| {
                        let value = parts.headers.get(name)?.to_str().ok()?;
                        Some((name.as_str().to_owned(), value.to_owned()))
                    };
                    let headers = KEPT_HEADERS.iter().filter_map(named).collect();
                    let answer = StoredAnswer { status: parts.status.as_u16(), headers, body: sealed.into() };
                    // An answer that is not kept is made again with the same plan, so this is no error of the request.
                    match app.engine().records.answer(&claim.tenant, &claim.key, &answer).await {
                        Ok(()) => held.is_answered = true,
                        Err(error) => tracing::warn!(error = chain(&error), "an answer could not be kept"),
                    }
                }
                Err(error) => tracing::error!(error = chain(&error), "an answer could not be sealed"),
            }
        }
        Response::from_parts(parts, Body::from(body))
    }
}

/// Whether repeating the request would give the same answer. What says "later" does not.
fn is_kept(status: StatusCode, headers: &HeaderMap) -> bool {
    let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    let says_later = later.contains(&status) || headers.contains_key(header::RETRY_AFTER);
    !status.is_server_error() && !says_later
}

fn seal_context(claim: &Claim) -> String {
    format!("{}|answer|{}", claim.tenant, claim.key)
}

/// A kept answer as a response.
fn repeat(app: &App, claim: &Claim, answer: &StoredAnswer) -> Result<Response, Problem> {
    let sealed = std::str::from_utf8(&answer.body).map_err(Problem::internal)?;
    let body =
        app.vault().open(&seal_context(claim), sealed).map_err(|error| Problem::internal(chain(&error)))?;
    let status = StatusCode::from_u16(answer.status).map_err(Problem::internal)?;
    let mut response = Response::new(Body::from(body.expose_secret().to_vec()));
    *response.status_mut() = status;
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response.extensions_mut().insert(IsProblem);
    Ok(response)
}

/// Requests with a key that run in this process.
#[derive(Default)]
pub(crate) struct Running(Mutex<HashMap<(TenantId, String), [u8; 32]>>);

/// A claim of this process. When it is dropped without a kept answer the request was cut off or is to be sent again, to whichever process.
struct Held {
    claim: Claim,
    place: Option<Place>,
    is_answered: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Left first: a repeat that comes to this process at once goes on.
        let Some(app) = self.place.take().map(|place| place.app.clone()) else { return };
        if self.is_answered {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(give_up(app, self.claim.clone()));
        }
    }
}

/// Leaves the claim to whoever gets the request next, with its plan, unless that is this process. Until then other processes answer that
/// it runs.
async fn give_up(app: App, claim: Claim) {
    for _ in 0..GIVE_UP_TRIES {
        let Ok(place) = Place::enter(&app, &claim.tenant, &claim.key, claim.fingerprint) else { return };
        let records = &app.engine().records;
        let Err(error) = records.take_over(&claim.tenant, &claim.key, claim.owner, NOBODY).await else {
            return;
        };
        tracing::debug!(error = chain(&error), "a request that was cut off is not given up yet");
        drop(place);
        tokio::select! {
            () = tokio::time::sleep(GIVE_UP_AGAIN) => {}
            () = app.stopping().cancelled() => return,
        }
    }
}

/// A place among the running ones; left when dropped, also by a request whose client went away.
struct Place {
    app: App,
    key: (TenantId, String),
}

impl Place {
    fn enter(app: &App, tenant: &TenantId, key: &str, fingerprint: [u8; 32]) -> Result<Self, Problem> {
        let key = (tenant.clone(), key.to_owned());
        match app.running().0.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()) {
            Entry::Vacant(place) => {
                place.insert(fingerprint);
                Ok(Self { app: app.clone(), key })
            }
            Entry::Occupied(place) if *place.get() == fingerprint => {
                Err(ProblemId::IdempotencyInProgress.into())
            }
            Entry::Occupied(_) => Err(ProblemId::IdempotencyMismatch.into()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.running().0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests;
