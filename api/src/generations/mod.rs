//! Immediate generations: one prompt, answered at once, through the same pipeline as the items of a batch and without a queue.
//!
//! [`request`] checks what is asked, [`generator`] runs it and keeps its outcome, [`streamed`] tells its text as it comes. What was
//! promised with a 2xx is stored before, so a restart finishes it: [`recover()`].

mod generator;
mod job;
mod recover;
mod request;
mod streamed;
mod view;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use promptmill_domain::{GenerationId, TenantId};
use promptmill_ports::{Generation, StoreError};
use promptmill_provider::DeltaSink;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use self::generator::{Generator, wind_down};
use self::generator::{Running, Start};
use self::job::Job;
pub use self::recover::recover;
use self::request::NewGenerationBody;
use self::view::{GenerationView, show};
use crate::App;
use crate::auth::{Caller, Scope};
use crate::batches::room_bytes;
use crate::extract::{LargeJson, Path};
use crate::idempotency::{Begin, Idempotency, Plan};
use crate::prefer::Wait;
use crate::problem::Problem;
use crate::shapes::EventDocument;

/// How long a client waits that does not say.
const DEFAULT_WAIT: Wait = Wait::seconds(30);

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create)).routes(routes!(get))
}

/// Generate once
///
/// Renders the template (or takes the messages), calls the model at once and judges the reply, with repairs and retries as for an item of a
/// batch. Answers the outcome, or 202 when it takes longer than `Prefer: wait=N`; with `Accept: text/event-stream` the text as it comes:
/// `begin` for each call (what came before is void), `delta` with a piece of text, `outcome` at the end.
#[utoipa::path(
    post,
    path = "/v1/generations",
    tag = "generations",
    operation_id = "createGeneration",
    params(
        ("Prefer" = Option<String>, Header, description = "`wait=N`: how many seconds to wait, 0 to 60, 30 unless told"),
    ),
    request_body(
        content = NewGenerationBody,
        example = json!({"model": "demo:any", "messages": [{"role": "user", "content": "Say hello."}]}),
    ),
    responses(
        (status = 200, description = "The outcome", content(
            (GenerationView = "application/json"),
            (EventDocument = "text/event-stream"),
        )),
        (status = 202, description = "It takes longer; ask at Location", body = GenerationView,
            headers(("Location" = String), ("Preference-Applied" = String))),
    ),
)]
async fn create(
    State(app): State<App>,
    caller: Caller,
    idempotency: Idempotency,
    headers: HeaderMap,
    LargeJson(body, digest, _large): LargeJson<NewGenerationBody>,
) -> Result<Response, Problem> {
    caller.may(Scope::BatchesWrite)?;
    if wants_events(&headers) {
        return match idempotency.begin(&app, &caller, digest).await? {
            Begin::Answered(response) => Ok(response),
            Begin::Run(ticket) => Ok(streamed::respond(app, &caller.tenant, &body, ticket).await),
        };
    }
    let wait = Wait::of(&headers).unwrap_or(DEFAULT_WAIT);
    let (app, tenant) = (&app, &caller.tenant);
    idempotency
        .once(app, &caller, digest, async |plan| match begin(app, tenant, plan, &body, None).await? {
            Under::Way(running) => answer(app, running, wait).await,
            Under::Done(generation) => show(StatusCode::OK, generation).await,
        })
        .await
}

/// One generation
///
/// As `POST /v1/generations` answered it, or would have.
#[utoipa::path(
    get,
    path = "/v1/generations/{id}",
    tag = "generations",
    operation_id = "getGeneration",
    params(("id" = String, Path, description = "The generation")),
    responses(
        (status = 200, description = "The generation", body = GenerationView),
    ),
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<GenerationId>,
) -> Result<Response, Problem> {
    caller.may(Scope::BatchesRead)?;
    let generation = app.engine().records.generation(&caller.tenant, id).await?;
    show(StatusCode::OK, Arc::new(generation)).await
}

/// A generation that was asked for, now or before.
enum Under {
    /// It runs in this process.
    Way(Running),
    /// It has its outcome.
    Done(Arc<Generation>),
}

/// Begins the generation of `plan`, or finds it where the same request began it before.
async fn begin(
    app: &App,
    tenant: &TenantId,
    plan: Plan,
    body: &NewGenerationBody,
    deltas: Option<DeltaSink>,
) -> Result<Under, Problem> {
    let id = GenerationId::from_bytes(plan.bytes);
    if let Some(running) = app.generator().running(id) {
        return Ok(Under::Way(running));
    }
    let stored = if plan.ran_before {
        app.engine().records.generation(tenant, id).await
    } else {
        Err(StoreError::NotFound)
    };
    let job = match stored {
        Ok(stored) if stored.outcome.is_some() => return Ok(Under::Done(Arc::new(stored))),
        Ok(stored) => Job::of_stored(app, stored).await?,
        Err(StoreError::NotFound) => {
            let (asked, room) = tokio::join!(request::check(app, tenant, body), room_bytes(app, tenant));
            let (request, template) = asked?;
            room?;
            Job::new(app, tenant, id, request, template)?
        }
        Err(error) => return Err(error.into()),
    };
    app.generator().start(app, Start { job, deltas }).map(Under::Way)
}

/// The outcome when it comes in time, otherwise 202 once it is certain that a restart would go on with it.
async fn answer(app: &App, mut running: Running, wait: Wait) -> Result<Response, Problem> {
    let in_time = tokio::select! {
        biased;
        finished = running.finished() => finished,
        () = tokio::time::sleep(wait.duration()) => None,
        () = app.stopping().cancelled() => None,
    };
    let mut response = match in_time {
        Some(generation) => show(StatusCode::OK, generation).await?,
        None => {
            let begun = running.begun();
            app.engine().records.put_generation(&begun).await?;
            let location = format!("/v1/generations/{}", begun.id);
            let mut response = show(StatusCode::ACCEPTED, begun).await?;
            response.headers_mut().insert(header::LOCATION, location.parse().map_err(Problem::internal)?);
            response
        }
    };
    wait.applied(&mut response)?;
    Ok(response)
}

/// Whether the client asks for a stream of events.
fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let media = range.split(';').next().unwrap_or_default();
        media.trim().eq_ignore_ascii_case("text/event-stream")
    })
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn events_come_when_they_are_asked_for_by_name() {
        assert!(wants_events(&with(header::ACCEPT, "text/event-stream")));
        assert!(wants_events(&with(header::ACCEPT, "application/json;q=0.5, Text/Event-Stream;q=1")));
        assert!(!wants_events(&with(header::ACCEPT, "*/*")));
        assert!(!wants_events(&HeaderMap::new()));
    }
}
