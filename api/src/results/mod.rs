//! `GET /v1/batches/{id}/results`: outcomes as a stream, in the order of the rows or as they settle.
//!
//! Nothing of a batch is held but a page: [`source`] reads pages, [`encode`] turns them into bytes on a blocking thread, [`stream`] lets
//! the connection pull. Start at [`results`].

mod coding;
pub(crate) mod cursor;
mod encode;
mod merged;
mod query;
mod source;
mod stream;
mod turns;
pub(crate) mod walk;

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use promptmill_domain::{Batch, BatchId, TenantId};
use promptmill_intake::{ChainError, chain};
use promptmill_ports::SettledCursor;
use promptmill_prompt::{OutputSpec, Template};
use promptmill_rowio::CsvColumns;
use promptmill_vault::ResultsLink;
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::coding::Coding;
use self::cursor::{InvalidCursor, Position};
use self::encode::{Encoder, Form};
use self::merged::MergedSource;
use self::query::{Format, Order, ResultsQuery};
use self::source::{IndexSource, SettledSource, Shelf, Source, SourcePage};
use self::stream::{Answer, Closing};
pub(crate) use self::turns::Turns;
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Path, Query};
use crate::heavy::heavy;
use crate::problem::{FieldError, Problem, ProblemId};
use crate::{events, items};

/// How often the store is asked while a client waits, at first: a settle that is not the last of its chunk sends no signal...
const POLL: Duration = Duration::from_millis(100);

/// ...and in the end, when it has waited long.
const SLOWEST_POLL: Duration = Duration::from_millis(500);

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(results)).merge(items::routes()).merge(events::routes())
}

/// Those that need no key.
pub(crate) fn open_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(results_by_link))
}

/// Outcomes of a batch
///
/// Streams what has an outcome. `order=index` gives what is settled now, sorted, and ends. `order=settled` gives each outcome exactly once,
/// in the order of settling, to whoever passes the last line's `cursor` as `after`.
#[utoipa::path(
    get,
    path = "/v1/batches/{id}/results",
    tag = "results",
    operation_id = "getResults",
    params(("id" = String, Path, description = "The batch"), ResultsQuery),
    responses(
        (status = 200, description = "The outcomes", content(
            (String = "application/x-ndjson"),
            (String = "text/csv"),
        )),
    ),
)]
async fn results(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BatchId>,
    Query(query): Query<ResultsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may(Scope::BatchesRead)?;
    read(&app, &caller.tenant, id, &query, &headers).await
}

/// Outcomes of a batch, by a link
///
/// The same as the results of the batch whose event told the link, without a key, until the link is over: seven days after the event.
#[utoipa::path(
    get,
    path = "/v1/results/{link}",
    tag = "results",
    operation_id = "getResultsByLink",
    params(("link" = String, Path, description = "What stands behind the last slash of an event's `results_url`"), ResultsQuery),
    security(()),
    responses(
        (status = 200, description = "The outcomes", content(
            (String = "application/x-ndjson"),
            (String = "text/csv"),
        )),
    ),
)]
async fn results_by_link(
    State(app): State<App>,
    Path(link): Path<String>,
    Query(query): Query<ResultsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // None tells who guesses what is wrong with it.
    let link = ResultsLink::parse(app.vault(), &link)
        .filter(|link| app.now_ms() < link.until_ms)
        .ok_or_else(|| {
            Problem::new(ProblemId::NotFound)
                .detail("no such link, or its time is over; read the results with an API key")
        })?;
    // Who waits holds one of the places that the tenant's own keys need.
    let wrong = match (query.merged, query.wait > 0) {
        (true, _) => Some("merged: a link is to the results of one batch; read merged ones with an API key"),
        (_, true) => Some("wait: a link does not wait; wait with an API key"),
        (false, false) => None,
    };
    if let Some(words) = wrong {
        let detail = format!("query parameter {words}");
        return Err(Problem::new(ProblemId::Invalid).error(FieldError { detail, ..FieldError::default() }));
    }
    let mut answer = read(&app, &link.tenant, link.batch, &query, &headers).await?;
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    Ok(answer)
}

async fn read(
    app: &App,
    tenant: &TenantId,
    id: BatchId,
    query: &ResultsQuery,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let format = match query.format {
        Some(format) => format,
        None => Format::choose(texts(headers, &header::ACCEPT)).ok_or_else(|| {
            let detail = "results come as application/x-ndjson or text/csv";
            Problem::new(ProblemId::NotAcceptable).detail(detail)
        })?,
    };
    let coding = Coding::choose(texts(headers, &header::ACCEPT_ENCODING)).ok_or_else(|| {
        Problem::new(ProblemId::NotAcceptable).detail("results come as they are, or with gzip or zstd")
    })?;
    check(query, format)?;
    let batch = app.engine().store.batch(tenant, id).await?;
    let place = app.readings().enter(tenant.clone()).ok_or_else(|| {
        let detail = "too many results are read at the same time";
        Problem::new(ProblemId::TooManyRequests).detail(detail).retry_after(1)
    })?;
    let opened = open(app, batch, query).await?;
    let Opened { batch, mut source, kind, columns_of } = opened;
    let shelf = Shelf::new(app, &batch);
    let from = source.position();
    let (batch, page) = first_page(app, batch, &mut source, Duration::from_secs(query.wait.into())).await?;
    let form = form(query, format, columns_of).await?;
    let encoder = Encoder::new(id, form, coding, from).map_err(Problem::internal)?;
    let closing =
        query.end.then(|| Closing { state: batch.state.as_str(), is_final: batch.state.is_final(), kind });
    let left = query.limit.unwrap_or(u64::MAX);
    let answer = Answer { batch: id, source, shelf, page, left, closing };
    let bytes = stream::bytes(answer, encoder);
    let body = Body::from_stream(stream::given_up_when_stalled(bytes, app.config().write_idle, place));
    Ok((StatusCode::OK, answer_headers(id, format, coding)?, body).into_response())
}

fn texts<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

fn check(query: &ResultsQuery, format: Format) -> Result<(), Problem> {
    let wrong = query.contradictions(format);
    if wrong.is_empty() {
        return Ok(());
    }
    let errors = wrong.into_iter().map(|(name, words)| FieldError {
        detail: format!("query parameter {name}: {words}"),
        ..FieldError::default()
    });
    Err(Problem::new(ProblemId::Invalid).errors(errors))
}

/// What is read, and what its columns would be those of.
struct Opened {
    batch: Batch,
    source: Source,
    kind: Position,
    columns_of: Vec<String>,
}

async fn open(app: &App, batch: Batch, query: &ResultsQuery) -> Result<Opened, Problem> {
    let kind = match query.order {
        Order::Index => Position::Index,
        Order::Settled => Position::Settled,
    };
    let after = query.after.as_deref().map(|text| cursor::decode(text, batch.id, kind));
    let after = after.transpose().map_err(invalid_cursor)?.unwrap_or_default();
    let from = u32::try_from(after).unwrap_or(u32::MAX);
    let filter = query.filter();
    if query.merged {
        let chain = chain(app.engine().store.as_ref(), batch.clone()).await.map_err(|error| match error {
            ChainError::Store(error) => error.into(),
            refused => Problem::new(ProblemId::Conflict).detail(refused.to_string()),
        })?;
        let columns_of = chain.iter().map(|batch| batch.spec.template.clone()).collect();
        let source = Source::Merged(MergedSource::new(&chain, |batch| Shelf::new(app, batch), filter, from));
        return Ok(Opened { batch, source, kind, columns_of });
    }
    let shelf = Shelf::new(app, &batch);
    let source = match query.order {
        Order::Index => Source::Index(IndexSource::new(shelf, filter, from)),
        Order::Settled => Source::Settled(SettledSource::new(shelf, filter, SettledCursor(after))),
    };
    let columns_of = vec![batch.spec.template.clone()];
    Ok(Opened { batch, source, kind, columns_of })
}

/// Why a cursor is refused.
pub(crate) fn invalid_cursor(error: InvalidCursor) -> Problem {
    let detail = error.to_string();
    Problem::new(ProblemId::Invalid).error(FieldError { detail, ..FieldError::default() })
}

impl Shelf {
    fn new(app: &App, batch: &Batch) -> Self {
        Self {
            store: app.engine().store.clone(),
            tenant: batch.tenant.clone(),
            batch: batch.id,
            readings: app.readings().clone(),
            turns: app.turns().clone(),
        }
    }
}

/// The first page with something on it, or what there is after `wait`, with the batch as it stood before that page was read. Does not
/// wait for a batch that is final, nor while the service stops.
async fn first_page(
    app: &App,
    mut batch: Batch,
    source: &mut Source,
    wait: Duration,
) -> Result<(Batch, SourcePage), Problem> {
    let until = Instant::now() + wait;
    // Before the first look, so that nothing that settles after it is missed.
    let mut listener = app.listen(batch.id);
    let mut poll = POLL;
    loop {
        let page = source.next().await?;
        if !page.lines.is_empty() {
            return Ok((batch, page));
        }
        if !page.last {
            continue;
        }
        let over = batch.state.is_final() || Instant::now() >= until || app.stopping().is_cancelled();
        if over {
            return Ok((batch, page));
        }
        tokio::select! {
            _ = listener.told() => {}
            () = tokio::time::sleep(poll) => poll = (poll * 2).min(SLOWEST_POLL),
            () = tokio::time::sleep_until(until) => {}
            () = app.stopping().cancelled() => {}
        }
        batch = app.engine().store.batch(&batch.tenant, batch.id).await?;
    }
}

async fn form(query: &ResultsQuery, format: Format, columns_of: Vec<String>) -> Result<Form, Problem> {
    if format == Format::Jsonl {
        return Ok(Form::Jsonl { cursors: query.order == Order::Settled });
    }
    let dialect = query.dialect.unwrap_or_default().into();
    let columns = heavy(move || columns(&columns_of)).await??;
    Ok(Form::Csv(Box::new(columns), dialect))
}

/// The columns for outcomes of all these templates, which must ask for the same output.
fn columns(sources: &[String]) -> Result<CsvColumns, Problem> {
    let mut found: Option<Template> = None;
    for (at, source) in sources.iter().enumerate() {
        if at > 0 && sources[..at].contains(source) {
            continue;
        }
        let template = Template::parse(source).map_err(|_| Problem::internal("a pinned template is none"))?;
        if found.as_ref().is_some_and(|first| !same_output(first.output(), template.output())) {
            let detail = "the merged batches have templates with different outputs, which no table fits; ask for JSON Lines";
            return Err(Problem::new(ProblemId::Invalid).detail(detail));
        }
        found.get_or_insert(template);
    }
    let template = found.ok_or_else(|| Problem::internal("a chain without a batch"))?;
    Ok(CsvColumns::of(&template, false))
}

fn same_output(one: &OutputSpec, other: &OutputSpec) -> bool {
    match (one, other) {
        (OutputSpec::Text { .. }, OutputSpec::Text { .. }) => true,
        (OutputSpec::Json { schema: one }, OutputSpec::Json { schema: other }) => {
            one.as_ref().map(|schema| &schema.schema) == other.as_ref().map(|schema| &schema.schema)
        }
        (OutputSpec::Text { .. }, OutputSpec::Json { .. })
        | (OutputSpec::Json { .. }, OutputSpec::Text { .. }) => false,
    }
}

fn answer_headers(batch: BatchId, format: Format, coding: Coding) -> Result<HeaderMap, Problem> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if let Some(name) = coding.name() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    // Of our own making: an id and a fixed ending need no quoting.
    let name = format!("attachment; filename=\"{batch}.{}\"", format.extension());
    headers.insert(header::CONTENT_DISPOSITION, name.parse().map_err(Problem::internal)?);
    Ok(headers)
}
