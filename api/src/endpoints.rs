//! Endpoints: who is told of a tenant's events, made, changed and switched off over HTTP.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use promptmill_domain::endpoint::MOST_ENDPOINTS;
use promptmill_domain::{
    Endpoint, EndpointId, EndpointSecret, EndpointState, EventId, EventKind, Reached, TenantId, WhyDisabled,
};
use promptmill_egress::{Deadlines, Secret, Signer, SigningKey, extra_headers, signature, vet_url};
use promptmill_mail::Address;
use promptmill_ports::StoreError;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Caller, Scope};
use crate::batches::deliveries::DeliveryList;
use crate::batches::names::{DisabledNames, EventNames};
use crate::extract::{Digest, Json, Path};
use crate::idempotency::Idempotency;
use crate::problem::{FieldError, Problem, ProblemId};
use crate::set_headers;
use crate::shapes::{WebhookSecret, WebhookUrl};
use crate::state::App;
use crate::time::Time;

/// Characters of a description.
const MAX_DESCRIPTION: usize = 200;
/// How long the secret before a new one is signed with too, seconds: the usual, and the longest.
const GRACE_S: u64 = 86_400;
const MAX_GRACE_S: u64 = 7 * 86_400;
/// Requests in a second that an endpoint may ask for as the most.
const MOST_PER_SECOND: u32 = 1_000;
/// Deliveries that are listed.
const LISTED: u32 = 100;
/// How long a receiver may take that is tried.
const PING_WITHIN: Duration = Duration::from_secs(10);
/// How often a change is tried that others come before.
const CHANGES: u32 = 10;

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show, change, delete))
        .routes(routes!(rotate))
        .routes(routes!(ping))
        .routes(routes!(deliveries))
}

/// An endpoint to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewEndpoint {
    /// Where events are posted.
    #[schema(format = "uri", max_length = 2048, pattern = r"^https?://[A-Za-z0-9\[]")]
    url: String,
    /// What people call it, up to 200 characters.
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    description: Option<String>,
    /// Who is written to when it is switched off and nobody asked for it, where the installation sends mail.
    #[schema(value_type = Option<String>, format = "email", max_length = 254)]
    email: Option<String>,
    /// What it is told of; everything unless told.
    #[schema(value_type = Option<Vec<EventNames>>, inline)]
    events: Option<Vec<EventKind>>,
    /// `whsec_` and 24 to 64 bytes as base64; one is made where there is none.
    #[schema(value_type = Option<WebhookSecret>, inline)]
    secret: Option<String>,
    /// Whether events are signed with a key pair too (Ed25519, `v1a` beside `v1`), which is made; the receiver checks by its public half and needs no secret. No unless
    /// told.
    #[serde(default)]
    ed25519: bool,
    /// Headers of its requests beside the usual, up to 10: `Authorization` and names that begin with `X-`. Their values are kept encrypted and never shown.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    headers: Option<BTreeMap<String, String>>,
    /// Whether the event that tells a batch's end has the results in it where they are small: up to 100 rows and 64 KiB. No unless told.
    #[serde(default)]
    results: bool,
    /// The most requests to it in a second, over time; what is more waits. As many as there are unless told.
    #[schema(minimum = 1, maximum = 1000)]
    max_per_second: Option<u32>,
}

/// What is to be different.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct ChangedEndpoint {
    /// Where events are posted.
    #[schema(value_type = Option<WebhookUrl>, inline)]
    url: Option<String>,
    /// What people call it; an empty one removes it.
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    description: Option<String>,
    /// Who is written to when it is switched off and nobody asked for it; an empty one removes it.
    #[schema(max_length = 254)]
    email: Option<String>,
    /// What it is told of; an empty list is everything.
    #[schema(value_type = Option<Vec<EventNames>>, inline)]
    events: Option<Vec<EventKind>>,
    /// Whether it is told.
    enabled: Option<bool>,
    /// All headers of its requests beside the usual; an empty object removes them.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    headers: Option<BTreeMap<String, String>>,
    /// Whether the event that tells a batch's end has the results in it where they are small.
    results: Option<bool>,
    /// The most requests to it in a second, over time; 0 for as many as there are.
    #[schema(minimum = 0, maximum = 1000)]
    max_per_second: Option<u32>,
}

/// A new signing secret.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct NewSecret {
    /// `whsec_` and 24 to 64 bytes as base64; one is made where there is none.
    #[schema(value_type = Option<WebhookSecret>, inline)]
    secret: Option<String>,
    /// Seconds that the one before is signed with too, a day unless told.
    #[schema(minimum = 0, maximum = 604800)]
    grace: Option<u64>,
    /// Whether a key pair is made beside it (Ed25519); as it was unless told.
    ed25519: Option<bool>,
}

/// A receiver of the tenant's events.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Endpoint)]
struct EndpointView {
    /// `ep_` and 32 hexadecimal digits.
    id: String,
    /// Where events are posted.
    url: String,
    /// What people call it.
    description: Option<String>,
    /// Who is written to when it is switched off and nobody asked for it.
    email: Option<String>,
    /// What it is told of; empty for everything.
    #[schema(value_type = Vec<EventNames>, inline)]
    events: Vec<EventKind>,
    /// The names of the headers that were set for its requests.
    headers: Vec<String>,
    /// Whether the event that tells a batch's end has the results in it where they are small.
    results: bool,
    /// The most requests to it in a second.
    max_per_second: Option<u32>,
    /// Whether it is told.
    enabled: bool,
    /// Why it is not: somebody switched it off, it answered 410, or nothing reached it for five days.
    #[schema(value_type = Option<DisabledNames>, inline)]
    disabled_because: Option<WhyDisabled>,
    /// Since when it is not.
    disabled_at: Option<Time>,
    /// Since when nothing reached it, where something was tried since.
    failing_since: Option<Time>,
    /// When it was made. It is told of what happens from then on.
    created_at: Time,
    /// Until when events are signed with the secret before the present one too.
    old_secret_until: Option<Time>,
    /// The public half of the key pair that events are signed with too: `whpk_` and 32 bytes as base64.
    public_key: Option<String>,
    /// The signing secret, told once by the request for which it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl EndpointView {
    fn of(endpoint: Endpoint, now_ms: u64) -> Self {
        let (disabled_because, disabled_at) = match endpoint.state {
            EndpointState::Enabled => (None, None),
            EndpointState::Disabled { why, at_ms } => (Some(why), Some(Time(at_ms))),
        };
        let until_ms = endpoint.secrets.iter().filter_map(|secret| secret.until_ms).max();
        Self {
            id: endpoint.id.to_string(),
            url: endpoint.url,
            description: endpoint.description,
            email: endpoint.email,
            events: endpoint.kinds,
            results: endpoint.results,
            max_per_second: endpoint.max_per_second,
            headers: endpoint.headers.map(|headers| headers.names).unwrap_or_default(),
            enabled: disabled_because.is_none(),
            disabled_because,
            disabled_at,
            failing_since: endpoint.failing.map(|failing| Time(failing.since_ms)),
            created_at: Time(endpoint.created_ms),
            public_key: endpoint.secrets.into_iter().next().and_then(|newest| newest.public_key),
            old_secret_until: until_ms.filter(|until_ms| *until_ms > now_ms).map(Time),
            secret: None,
        }
    }
}

/// The tenant's endpoints.
#[derive(Debug, Serialize, ToSchema)]
struct EndpointList {
    /// Oldest first.
    data: Vec<EndpointView>,
}

fn url(app: &App, text: &str) -> Result<String, FieldError> {
    let vetted = vet_url(text, app.url_policy());
    vetted.map(|url| url.to_string()).map_err(|refused| FieldError::at("/url", refused.to_string()))
}

fn description(text: &str) -> Result<Option<String>, FieldError> {
    if text.chars().count() > MAX_DESCRIPTION || text.chars().any(char::is_control) {
        let detail = "must be up to 200 characters without control characters";
        return Err(FieldError::at("/description", detail));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// The address of a text; nothing of an empty one.
fn email(text: &str) -> Result<Option<String>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = Address::parse(text);
    let address = address
        .ok_or_else(|| FieldError::at("/email", "must be one address in ASCII, as ops@example.com"))?;
    Ok(Some(address.to_string()))
}

/// Headers that may be set; nothing of none.
fn headers(
    headers: Option<&BTreeMap<String, String>>,
) -> Result<Option<&BTreeMap<String, String>>, FieldError> {
    if let Some(headers) = headers {
        extra_headers(headers).map_err(|refused| FieldError::at("/headers", refused.to_string()))?;
    }
    Ok(headers)
}

fn rate(rate: Option<u32>, least: u32) -> Result<Option<u32>, FieldError> {
    match rate.is_none_or(|rate| (least..=MOST_PER_SECOND).contains(&rate)) {
        true => Ok(rate),
        false => Err(FieldError::at("/max_per_second", format!("must be {least} to {MOST_PER_SECOND}"))),
    }
}

fn kinds(mut kinds: Vec<EventKind>) -> Vec<EventKind> {
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// The secret that is given, or a new one.
fn secret(text: Option<&str>) -> Result<Secret, FieldError> {
    match text {
        Some(text) => Secret::parse(text).map_err(|refused| FieldError::at("/secret", refused.to_string())),
        None => Secret::generate()
            .ok_or_else(|| FieldError::at("/secret", "cannot be made at the moment; send one")),
    }
}

/// A secret as it is kept, with a new key pair beside it where one is asked for.
fn kept(
    app: &App,
    tenant: &TenantId,
    id: EndpointId,
    secret: &Secret,
    with_key: bool,
    request: Option<String>,
) -> Result<EndpointSecret, Problem> {
    let key = match with_key {
        true => Some(SigningKey::generate().ok_or_else(|| {
            Problem::new(ProblemId::Unavailable).detail("a key cannot be made at the moment")
        })?),
        false => None,
    };
    let public_key = key.as_ref().map(SigningKey::public);
    let text = Signer { secret: secret.clone(), key }.text();
    let sealed = app.vault().seal(&Endpoint::context(tenant, id), text.expose_secret().as_bytes());
    Ok(EndpointSecret { sealed: sealed.map_err(Problem::internal)?, public_key, until_ms: None, request })
}

fn invalid(errors: Vec<FieldError>) -> Problem {
    Problem::new(ProblemId::Invalid).errors(errors)
}

/// Make an endpoint
///
/// It is told of what happens to the tenant's batches from now on, whether or not they name a webhook of their own.
#[utoipa::path(post, path = "/v1/endpoints", tag = "webhooks", operation_id = "createEndpoint",
    request_body(content = NewEndpoint, example = json!({"url": "https://example.com/hook", "events": ["batch.completed"]})),
    responses((status = 201, description = "The endpoint", body = EndpointView,
        headers(("Location" = String, description = "Where it is read")))))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    idempotency: Idempotency,
    Json(new, digest): Json<NewEndpoint>,
) -> Result<Response, Problem> {
    caller.may(Scope::WebhooksWrite)?;
    let run = async |plan: crate::idempotency::Plan| {
        make(&app, &caller.tenant, EndpointId::from_bytes(plan.bytes), &new).await
    };
    idempotency.once(&app, &caller, digest, run).await
}

async fn make(app: &App, tenant: &TenantId, id: EndpointId, new: &NewEndpoint) -> Result<Response, Problem> {
    let vetted = url(app, &new.url);
    let described = description(new.description.as_deref().unwrap_or_default());
    let secret = secret(new.secret.as_deref());
    let email = email(new.email.as_deref().unwrap_or_default());
    let (set, rate) = (headers(new.headers.as_ref()), rate(new.max_per_second, 1));
    let (Ok(url), Ok(description), Ok(email), Ok(secret), Ok(set), Ok(max_per_second)) =
        (&vetted, &described, &email, &secret, &set, &rate)
    else {
        let errors = [vetted.err(), described.err(), email.err(), secret.err(), set.err(), rate.err()];
        return Err(invalid(errors.into_iter().flatten().collect()));
    };
    let headers = match set {
        Some(set) => set_headers::sealed(app, &Endpoint::headers_context(tenant, id), set)?,
        None => None,
    };
    let records = &app.engine().records;
    // An earlier run of the same request may have made it.
    let there = match records.endpoint(tenant, id).await {
        Ok(endpoint) => Some(endpoint),
        Err(StoreError::NotFound) => None,
        Err(error) => return Err(error.into()),
    };
    let endpoint = match there {
        Some(endpoint) => endpoint,
        None => {
            if records.endpoints(tenant).await?.len() >= MOST_ENDPOINTS {
                let detail = format!("a tenant has at most {MOST_ENDPOINTS} endpoints");
                return Err(Problem::new(ProblemId::Conflict).detail(detail));
            }
            let endpoint = Endpoint {
                id,
                tenant: tenant.clone(),
                url: url.clone(),
                description: description.clone(),
                email: email.clone(),
                kinds: kinds(new.events.clone().unwrap_or_default()),
                secrets: vec![kept(app, tenant, id, secret, new.ed25519, None)?],
                headers,
                results: new.results,
                max_per_second: *max_per_second,
                state: EndpointState::Enabled,
                failing: None,
                created_ms: app.now_ms(),
                since_ms: app.now_ms(),
                ver: 1,
            };
            records.put_endpoint(&endpoint).await?;
            records.endpoint(tenant, id).await?
        }
    };
    // Whoever has the answer may count on it: also one whose first request was cut off.
    tokio::time::sleep(records.tells_within()).await;
    let made_secret = new.secret.is_none().then(|| opened(app, &endpoint)).transpose()?;
    let location = format!("/v1/endpoints/{id}");
    let view = EndpointView { secret: made_secret, ..EndpointView::of(endpoint, app.now_ms()) };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(view)).into_response())
}

/// The newest secret of an endpoint, in clear.
fn opened(app: &App, endpoint: &Endpoint) -> Result<String, Problem> {
    let sealed = endpoint.secrets.first().map_or("", |secret| secret.sealed.as_str());
    Ok(open(app, endpoint, sealed)?.secret.text().expose_secret().to_owned())
}

fn open(app: &App, endpoint: &Endpoint, sealed: &str) -> Result<Signer, Problem> {
    let context = Endpoint::context(&endpoint.tenant, endpoint.id);
    let opened = app.vault().open(&context, sealed).map_err(Problem::internal)?;
    let text = std::str::from_utf8(opened.expose_secret()).map_err(Problem::internal)?;
    Signer::parse(text).ok_or_else(|| Problem::internal("what was sealed is no secret"))
}

/// List the endpoints
#[utoipa::path(get, path = "/v1/endpoints", tag = "webhooks", operation_id = "listEndpoints",
    responses((status = 200, description = "The endpoints", body = EndpointList)))]
async fn list(State(app): State<App>, caller: Caller) -> Result<axum::Json<EndpointList>, Problem> {
    caller.may(Scope::WebhooksRead)?;
    let now_ms = app.now_ms();
    let endpoints = app.engine().records.endpoints(&caller.tenant).await?;
    let data = endpoints.into_iter().map(|endpoint| EndpointView::of(endpoint, now_ms)).collect();
    Ok(axum::Json(EndpointList { data }))
}

/// Show an endpoint
#[utoipa::path(get, path = "/v1/endpoints/{id}", tag = "webhooks", operation_id = "getEndpoint",
    params(("id" = String, Path, description = "The endpoint, ep_...")),
    responses((status = 200, description = "The endpoint", body = EndpointView)))]
async fn show(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<EndpointId>,
) -> Result<axum::Json<EndpointView>, Problem> {
    caller.may(Scope::WebhooksRead)?;
    let endpoint = app.engine().records.endpoint(&caller.tenant, id).await?;
    Ok(axum::Json(EndpointView::of(endpoint, app.now_ms())))
}

/// Changes the endpoint by `change`, which is asked again when somebody else changed it meanwhile. When this is over every process knows of it.
async fn changed(
    app: &App,
    tenant: &TenantId,
    id: EndpointId,
    mut change: impl FnMut(&mut Endpoint),
) -> Result<Endpoint, Problem> {
    let records = &app.engine().records;
    for _ in 0..CHANGES {
        let mut endpoint = records.endpoint(tenant, id).await?;
        let before = endpoint.clone();
        change(&mut endpoint);
        let is_same = endpoint == before;
        endpoint.ver += u64::from(!is_same);
        // One that is as it shall be may be so since a moment ago.
        if is_same || records.put_endpoint(&endpoint).await? {
            tokio::time::sleep(records.tells_within()).await;
            return Ok(endpoint);
        }
    }
    Err(Problem::new(ProblemId::Unavailable).detail("the endpoint is changed by too many at once"))
}

/// Change an endpoint
///
/// What is left out stays. One that is switched on again is told of what happens from then on, and of what waits for it; what became due while it was off
/// was given up, and may be tried again.
#[utoipa::path(patch, path = "/v1/endpoints/{id}", tag = "webhooks", operation_id = "changeEndpoint",
    params(("id" = String, Path, description = "The endpoint, ep_...")),
    request_body = ChangedEndpoint,
    responses((status = 200, description = "The endpoint", body = EndpointView)))]
async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<EndpointId>,
    Json(body, _): Json<ChangedEndpoint>,
) -> Result<axum::Json<EndpointView>, Problem> {
    caller.may(Scope::WebhooksWrite)?;
    let vetted = body.url.as_deref().map(|text| url(&app, text)).transpose();
    let described = body.description.as_deref().map(description).transpose();
    let email = body.email.as_deref().map(email).transpose();
    let (set, rate) = (headers(body.headers.as_ref()), rate(body.max_per_second, 0));
    let (Ok(vetted), Ok(described), Ok(email), Ok(set), Ok(rate)) =
        (&vetted, &described, &email, &set, &rate)
    else {
        let errors = [vetted.err(), described.err(), email.err(), set.err(), rate.err()];
        return Err(invalid(errors.into_iter().flatten().collect()));
    };
    let events = body.events.map(kinds);
    let headers = match set {
        Some(set) => {
            let context = Endpoint::headers_context(&caller.tenant, id);
            Some(set_headers::sealed(&app, &context, set)?)
        }
        None => None,
    };
    let now_ms = app.now_ms();
    let endpoint = changed(&app, &caller.tenant, id, |endpoint| {
        if let Some(url) = vetted.as_ref().filter(|url| **url != endpoint.url) {
            endpoint.url.clone_from(url);
            endpoint.begin_anew(now_ms);
        }
        if let Some(description) = described {
            endpoint.description.clone_from(description);
        }
        if let Some(email) = email {
            endpoint.email.clone_from(email);
        }
        if let Some(events) = &events {
            endpoint.kinds.clone_from(events);
        }
        if let Some(results) = body.results {
            endpoint.results = results;
        }
        if let Some(rate) = rate {
            endpoint.max_per_second = (*rate > 0).then_some(*rate);
        }
        if let Some(headers) = &headers {
            endpoint.headers.clone_from(headers);
        }
        match (body.enabled, endpoint.state) {
            (Some(true), EndpointState::Disabled { .. }) => {
                endpoint.state = EndpointState::Enabled;
                endpoint.begin_anew(now_ms);
            }
            (Some(false), EndpointState::Enabled) => {
                endpoint.state = EndpointState::Disabled { why: WhyDisabled::Requested, at_ms: now_ms };
            }
            _ => {}
        }
    });
    Ok(axum::Json(EndpointView::of(endpoint.await?, now_ms)))
}

/// Delete an endpoint
///
/// What it was not told yet is given up.
#[utoipa::path(delete, path = "/v1/endpoints/{id}", tag = "webhooks", operation_id = "deleteEndpoint",
    params(("id" = String, Path, description = "The endpoint, ep_...")),
    responses((status = 204, description = "It is gone")))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<EndpointId>,
) -> Result<StatusCode, Problem> {
    caller.may(Scope::WebhooksWrite)?;
    let records = &app.engine().records;
    if !records.delete_endpoint(&caller.tenant, id).await? {
        return Err(ProblemId::NotFound.into());
    }
    tokio::time::sleep(records.tells_within()).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Give an endpoint a new signing secret
///
/// Events are signed with it from now on, and with the one before as long as `grace` says, so that the receiver can change its own in its time.
#[utoipa::path(post, path = "/v1/endpoints/{id}/secret", tag = "webhooks", operation_id = "rotateEndpointSecret",
    params(("id" = String, Path, description = "The endpoint, ep_...")),
    request_body = NewSecret,
    responses((status = 200, description = "The endpoint with its new secret", body = EndpointView)))]
async fn rotate(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<EndpointId>,
    idempotency: Idempotency,
    Json(body, digest): Json<NewSecret>,
) -> Result<Response, Problem> {
    caller.may(Scope::WebhooksWrite)?;
    let run = async |plan: crate::idempotency::Plan| {
        let grace_s = body.grace.unwrap_or(GRACE_S);
        if grace_s > MAX_GRACE_S {
            return Err(Problem::invalid("/grace", "must be 0 to 604800 seconds"));
        }
        let secret = secret(body.secret.as_deref()).map_err(|error| invalid(vec![error]))?;
        let had_key = async || {
            let endpoint = app.engine().records.endpoint(&caller.tenant, id).await?;
            Ok::<_, Problem>(endpoint.secrets.first().is_some_and(|newest| newest.public_key.is_some()))
        };
        let with_key = match body.ed25519 {
            Some(with_key) => with_key,
            None => had_key().await?,
        };
        // The same request again, whose answer was lost, finds the secret that it made.
        let request = Some(format!("{:032x}", u128::from_be_bytes(plan.bytes)));
        let (now_ms, new) = (app.now_ms(), kept(&app, &caller.tenant, id, &secret, with_key, request)?);
        let endpoint = changed(&app, &caller.tenant, id, |endpoint| {
            endpoint.rotate(new.clone(), now_ms, grace_s * 1000);
        });
        let endpoint = endpoint.await?;
        let told = body.secret.is_none().then(|| opened(&app, &endpoint)).transpose()?;
        let view = EndpointView { secret: told, ..EndpointView::of(endpoint, now_ms) };
        Ok(axum::Json(view).into_response())
    };
    idempotency.once(&app, &caller, digest, run).await
}

/// What a try came to.
#[derive(Debug, Serialize, ToSchema)]
struct Tried {
    /// The event's id, the header `webhook-id`.
    event_id: String,
    /// Whether the receiver took it: it answered 2xx.
    taken: bool,
    /// The receiver's HTTP status, where it answered.
    status: Option<u16>,
    /// How long it took.
    duration_ms: u64,
    /// Why there is no answer.
    error: Option<String>,
    /// How the answer begins, at most a kibibyte.
    answer: Option<String>,
}

/// Try an endpoint
///
/// Sends a signed event of type `ping` at once, whether or not the endpoint is switched on, and tells what came of it. It is sent once and in no list.
#[utoipa::path(post, path = "/v1/endpoints/{id}/test", tag = "webhooks", operation_id = "testEndpoint",
    params(("id" = String, Path, description = "The endpoint, ep_...")),
    responses((status = 200, description = "What came of it", body = Tried)))]
async fn ping(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<EndpointId>,
    idempotency: Idempotency,
) -> Result<Response, Problem> {
    caller.may(Scope::WebhooksWrite)?;
    let run = async |_| {
        let endpoint = app.engine().records.endpoint(&caller.tenant, id).await?;
        let Some(_place) = app.pings().enter(caller.tenant.clone()) else {
            let detail = "too many endpoints are tried at the same time";
            return Err(Problem::new(ProblemId::TooManyRequests).detail(detail).retry_after(1));
        };
        Ok(axum::Json(tried(&app, &endpoint).await?).into_response())
    };
    idempotency.once(&app, &caller, Digest::empty(), run).await
}

async fn tried(app: &App, endpoint: &Endpoint) -> Result<Tried, Problem> {
    let now_ms = app.now_ms();
    let event = EventId::at(now_ms, rand::random());
    let body = serde_json::json!({
        "type": "ping", "timestamp": Time(now_ms), "data": { "endpoint_id": endpoint.id.to_string() },
    });
    let body = Bytes::from(body.to_string());
    let signers = endpoint.secrets_at(now_ms).map(|sealed| open(app, endpoint, sealed));
    let signers = signers.collect::<Result<Vec<_>, Problem>>()?;
    let headers = signature::headers(&event.to_string(), now_ms / 1000, &body, &signers);
    let mut headers = headers.map_err(Problem::internal)?;
    if let Some(set) = &endpoint.headers {
        let context = Endpoint::headers_context(&endpoint.tenant, endpoint.id);
        headers.extend(set_headers::opened(app, &context, set)?);
    }
    let client = app.receivers().map_err(Problem::internal)?;
    let begun = Instant::now();
    let sent = client.post(&endpoint.url, headers, body, Deadlines { total: PING_WITHIN }).await;
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (status, error, answer) = match sent {
        Ok(answer) => (Some(answer.status), None, answer.text()),
        Err(error) => (None, Some(error.to_string()), None),
    };
    let taken = status.is_some_and(|status| (200..300).contains(&status));
    if taken && endpoint.failing.is_some() {
        let reached = |endpoint: &mut Endpoint| {
            let _ = endpoint.tried(Reached::Taken, now_ms);
        };
        changed(app, &endpoint.tenant, endpoint.id, reached).await?;
    }
    Ok(Tried { event_id: event.to_string(), taken, status, duration_ms, error, answer })
}

/// List the deliveries to an endpoint
///
/// The newest hundred, newest first.
#[utoipa::path(get, path = "/v1/endpoints/{id}/deliveries", tag = "webhooks", operation_id = "listEndpointDeliveries",
    params(("id" = String, Path, description = "The endpoint, ep_...")),
    responses((status = 200, description = "Deliveries to the endpoint", body = DeliveryList)))]
async fn deliveries(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<EndpointId>,
) -> Result<axum::Json<DeliveryList>, Problem> {
    caller.may(Scope::WebhooksRead)?;
    let records = &app.engine().records;
    records.endpoint(&caller.tenant, id).await?;
    Ok(axum::Json(records.deliveries_to(&caller.tenant, id, LISTED).await?.into()))
}
