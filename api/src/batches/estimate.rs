//! What a batch would take, told before it is made.

use std::io::Cursor;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use promptmill_domain::estimate::{Bound, Estimate, Sample};
use promptmill_domain::{BatchId, Money, Price};
use promptmill_intake::read_rows;
use promptmill_prompt::estimate_tokens;
use promptmill_rowio::{RowFormat, RowLimits};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::create::{lines, place};
use super::draft::{self, NewBatchBody, Plan};
use super::refused::NotTaken;
use super::submit::room_bytes;
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{LargeJson, Query};
use crate::idempotency::Idempotency;
use crate::outcome_view::TokensView;
use crate::problem::Problem;

/// How much of the batch the rows of the body are.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct EstimateQuery {
    /// Rows of the batch, where those of the body are only a sample of it.
    #[param(minimum = 1, maximum = 10_000_000)]
    total_rows: Option<u64>,
}

/// What a batch would take.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Estimate)]
pub(crate) struct EstimateView {
    /// The model that would answer.
    model: String,
    /// Rows of the batch.
    rows: u64,
    /// What the model costs; null where nobody says.
    price: Option<PriceView>,
    /// One call a row, each with a short prompt for its text and a reply of one token.
    at_least: BoundView,
    /// Every repair that the template allows, each with a long prompt for its text and the longest reply. Attempts that fail and are
    /// repeated come on top.
    at_most: BoundView,
}

/// What a model costs, US dollars.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Price)]
pub(crate) struct PriceView {
    /// For one token of the prompt.
    #[schema(value_type = String)]
    prompt: Money,
    /// For one token of the reply.
    #[schema(value_type = String)]
    completion: Money,
    /// For a call beside its tokens.
    #[schema(value_type = String)]
    request: Money,
}

impl From<Price> for PriceView {
    fn from(Price { prompt, completion, request }: Price) -> Self {
        Self { prompt, completion, request }
    }
}

/// Calls, tokens and cost.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EstimateBound)]
pub(crate) struct BoundView {
    /// Calls.
    calls: u64,
    /// Their tokens.
    tokens: TokensView,
    /// Their cost in US dollars; null where no price is known.
    #[schema(value_type = Option<String>)]
    cost: Option<Money>,
}

impl From<Bound> for BoundView {
    fn from(Bound { calls, tokens, cost }: Bound) -> Self {
        Self { calls, tokens: tokens.into(), cost }
    }
}

/// Estimate a batch
///
/// Takes what creating a batch takes, with rows, and tells what it would take: nothing is stored, and nothing is called but
/// the provider's list of prices. With `total_rows` the rows of the body are a sample that stands for so many.
#[utoipa::path(
    post,
    path = "/v1/batches/estimate",
    tag = "batches",
    operation_id = "estimateBatch",
    params(EstimateQuery),
    request_body(
        content = NewBatchBody,
        example = json!({
            "model": "demo:any",
            "rows": [{"messages": [{"role": "user", "content": "Say hello."}]}],
        })
    ),
    responses((status = 200, description = "The estimate", body = EstimateView))
)]
pub(crate) async fn estimate(
    State(app): State<App>,
    caller: Caller,
    idempotency: Idempotency,
    Query(query): Query<EstimateQuery>,
    LargeJson(body, digest, _large): LargeJson<NewBatchBody>,
) -> Result<Response, Problem> {
    caller.may(Scope::BatchesRead)?;
    if idempotency.keeps_the_answer() {
        room_bytes(&app, &caller.tenant).await?;
    }
    let run = async |_| Ok(axum::Json(estimated(&app, &caller, query, body).await?).into_response());
    idempotency.once(&app, &caller, digest, run).await
}

async fn estimated(
    app: &App,
    caller: &Caller,
    EstimateQuery { total_rows }: EstimateQuery,
    body: NewBatchBody,
) -> Result<EstimateView, Problem> {
    let most = app.config().batch_rows;
    if total_rows.is_some_and(|rows| !(1..=most).contains(&rows)) {
        return Err(Problem::invalid("total_rows", format!("must be 1 to {most}")));
    }
    // No batch is made of it, so any id will do.
    let id = BatchId::from_bytes([0; 16]);
    let Plan { spec, rows_of, template, .. } = draft::plan(app, &caller.tenant, id, &body).await?;
    let Some(rows) = body.rows else {
        return Err(Problem::invalid("/rows", "are needed, all of them or a sample with total_rows"));
    };
    let limits = RowLimits { row_bytes: app.config().row_bytes, rows: u32::MAX };
    let reading = tokio::task::spawn_blocking(move || {
        let (mut rows_seen, mut prompt_tokens) = (0, 0);
        let reader = rows_of.reader(Cursor::new(lines(&rows)), RowFormat::Ndjson, limits).naming_rows();
        let read = read_rows(reader, |row| {
            rows_seen += 1;
            prompt_tokens += row.rendered.as_deref().map_or(0, estimate_tokens);
            true
        });
        read.map(|()| (rows_seen, prompt_tokens))
    });
    let read = reading.await.map_err(Problem::internal)?;
    let (rows, prompt_tokens) = read.map_err(|refused| NotTaken::Refused(refused).into_problem(place))?;
    let sample = Sample { rows, prompt_tokens, of: total_rows.unwrap_or(rows) };
    let price = app.engine().providers.price(&spec.model).await;
    let reply_limit = spec.settings.max_tokens.or(template.settings().max_tokens);
    let estimate = Estimate::new(sample, reply_limit, template.max_repairs(), price);
    Ok(EstimateView {
        model: spec.model.to_string(),
        rows: sample.of,
        price: price.map(PriceView::from),
        at_least: estimate.least.into(),
        at_most: estimate.most.into(),
    })
}
