//! Running again what failed: a new batch of the rows of another one whose outcomes match, linked to it.
//!
//! The items of the new batch are those of the old one that match, in the order of their index; results can be read merged by that.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use promptmill_domain::{
    Batch, BatchId, BatchLimits, BatchSpec, FailureKind, ItemCode, ItemFilter, ModelRef, OutcomeName,
    RetryOf, TenantId, chunk,
};
use promptmill_intake::{BadRow, channel, gather, repack};
use promptmill_ports::{NewBatch, TemplateKey};
use serde::Deserialize;
use utoipa::ToSchema;

use super::create::{created, fill, made};
use super::draft::{check_name, lane_of};
use super::intake::{Keep, Target};
use super::submit::{may_submit, room_bytes};
use super::view::{BatchView, view};
use super::{preflight, webhook};
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Json, Path};
use crate::idempotency::{Idempotency, Plan};
use crate::outcome_view::{OutcomeNames, ReasonNames};
use crate::problem::{FieldError, Problem, ProblemId};
use crate::shapes::{BatchName, ModelName};
use crate::steps::{PointOfNoReturn, to_its_end};
use crate::templates::{self, TemplateArg, Which};

/// Which items run again, and what is different.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = Retry)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetryBody {
    /// Items that ended so; `failed`, `expired` and `cancelled` unless told. With `succeeded` among them no reply is taken from the cache.
    #[schema(value_type = Option<Vec<OutcomeNames>>, inline)]
    outcomes: Option<BTreeSet<OutcomeName>>,
    /// Failed items with one of these reasons only.
    #[schema(value_type = Option<Vec<ReasonNames>>, inline)]
    reasons: Option<BTreeSet<FailureKind>>,
    /// Another model, without those that were to follow the one before.
    #[schema(value_type = Option<ModelName>, inline)]
    model: Option<String>,
    /// Another version of the stored template.
    #[schema(minimum = 1, maximum = 4294967295_u64)]
    template_version: Option<u32>,
    /// What people call the new batch.
    #[schema(value_type = Option<BatchName>, inline)]
    name: Option<String>,
}

impl RetryBody {
    fn filter(&self) -> ItemFilter {
        let outcomes = self.outcomes.clone().unwrap_or_default();
        let reasons = self.reasons.clone().unwrap_or_default();
        if outcomes.is_empty() && reasons.is_empty() {
            let outcomes = [OutcomeName::Failed, OutcomeName::Expired, OutcomeName::Cancelled].into();
            return ItemFilter { outcomes, reasons };
        }
        ItemFilter { outcomes, reasons }
    }
}

/// Run again what failed
///
/// Makes a batch of the items of a final one whose outcomes match, and submits it. Everything else is as it was there.
#[utoipa::path(
    post,
    path = "/v1/batches/{id}/retry",
    tag = "batches",
    operation_id = "retryBatch",
    params(("id" = String, Path, description = "The batch whose items run again")),
    request_body = RetryBody,
    responses((
        status = 201,
        description = "The new batch",
        body = BatchView,
        headers(("Location" = String, description = "Where the new batch is read"))
    ))
)]
pub(crate) async fn retry(
    State(app): State<App>,
    caller: Caller,
    Path(source): Path<BatchId>,
    idempotency: Idempotency,
    Json(body, digest): Json<RetryBody>,
) -> Result<Response, Problem> {
    caller.may(Scope::BatchesWrite)?;
    let work = |point: PointOfNoReturn| async move {
        let run = |plan: Plan| {
            retry_once(&app, &caller.tenant, source, BatchId::from_bytes(plan.bytes), &body, &point)
        };
        idempotency.once(&app, &caller, digest, run).await
    };
    to_its_end(work).await
}

async fn retry_once(
    app: &App,
    tenant: &TenantId,
    source: BatchId,
    id: BatchId,
    body: &RetryBody,
    point: &PointOfNoReturn,
) -> Result<Response, Problem> {
    let source = app.engine().store.batch(tenant, source).await?;
    let filter = body.filter();
    let rows = matching(&source, &filter)?;
    if let Some(error) = body.name.as_deref().and_then(|name| check_name(name).err()) {
        return Err(Problem::new(ProblemId::Invalid).error(error));
    }
    let spec = spec(app, tenant, &source, id, body, filter.clone()).await?;
    // Rows that were checked against another version of the template are checked again.
    let recheck = match spec.template != source.spec.template {
        true => Some(templates::parse(spec.template.clone(), "/template_version").await?),
        false => None,
    };
    preflight::check(app, &spec).await?;
    may_submit(app, tenant, rows).await?;
    room_bytes(app, tenant).await?;
    let now_ms = app.now_ms();
    let deadline_ms = source.limits.deadline_ms.filter(|deadline_ms| *deadline_ms > now_ms);
    let limits = BatchLimits { deadline_ms, ..source.limits };
    point.pass()?;
    let batch = made(app, tenant, NewBatch { id, spec, limits, idem_key: None, now_ms }).await?;
    let target = Target { tenant: tenant.clone(), batch: id, part: 0 };
    let (send, picked) = channel();
    let repacking = move |keep: Keep| repack(picked, recheck.as_deref(), |block| keep.keep(block));
    let (gathered, filled) = tokio::join!(
        gather(app.engine().store.as_ref(), &source, &filter, send),
        fill(app, &batch, &target, repacking, place)
    );
    // Why the rows ended early, where they did.
    gathered?;
    filled?;
    let batch = app.engine().store.batch(tenant, id).await?;
    created(view(app, &batch).await?)
}

/// How many items of a final batch match.
fn matching(source: &Batch, filter: &ItemFilter) -> Result<u64, Problem> {
    let Some(counts) = source.final_counts.as_ref().filter(|_| source.state.is_final()) else {
        let detail = format!("only a final batch can be retried, and it is {}", source.state.as_str());
        return Err(Problem::new(ProblemId::Conflict).detail(detail));
    };
    let failed = counts.failed.iter().map(|(kind, n)| (ItemCode::Failed(*kind), *n));
    let others = [
        (ItemCode::Succeeded, counts.succeeded),
        (ItemCode::Repaired, counts.repaired),
        (ItemCode::Cancelled, counts.cancelled),
        (ItemCode::Expired, counts.expired),
    ];
    let matching = failed.chain(others).filter(|(code, _)| filter.matches(*code));
    match matching.map(|(_, n)| n).sum() {
        0 => Err(Problem::new(ProblemId::Invalid).detail("no item of the batch ended so")),
        rows => Ok(rows),
    }
}

/// What the new batch is to do.
async fn spec(
    app: &App,
    tenant: &TenantId,
    source: &Batch,
    id: BatchId,
    body: &RetryBody,
    filter: ItemFilter,
) -> Result<BatchSpec, Problem> {
    let mut spec = source.spec.clone();
    if let Some(model) = &body.model {
        let model: ModelRef =
            model.parse().map_err(|error| Problem::invalid("/model", format!("{error}")))?;
        spec.model = model;
        spec.fallback.models.clear();
    }
    spec.lane = lane_of(app, &spec.model, "/model")?;
    if let Some(version) = body.template_version {
        let Some(reference) = &source.spec.template_ref else {
            let detail = "the batch has no stored template";
            return Err(Problem::invalid("/template_version", detail));
        };
        let arg = TemplateArg::Stored(TemplateKey::Id(reference.id), Which::Version(version));
        let found = templates::resolve(app, tenant, &arg).await.map_err(|problem| match problem.id() {
            ProblemId::Invalid => Problem::invalid("/template_version", "there is no such version any more"),
            _ => problem,
        })?;
        (spec.template, spec.template_ref) = (found.source, found.reference);
    }
    if [ItemCode::Succeeded, ItemCode::Repaired].into_iter().any(|code| filter.matches(code)) {
        // The cache would give the replies that are not wanted again.
        spec.cache = None;
    }
    if let Some(name) = &body.name {
        spec.name = Some(name.clone());
    }
    if let Some(told) = &source.spec.webhook {
        spec.webhook = Some(webhook::moved(app, tenant, source.id, id, told)?);
    }
    spec.chunk_rows = chunk::rows_for(source.limits.max_concurrency);
    spec.retry_of = Some(RetryOf { batch: source.id, filter });
    // It is nobody's run but that of whoever asked.
    spec.tick = None;
    Ok(spec)
}

/// A row that the other version of the template does not take; its line is its index.
fn place(row: &BadRow) -> FieldError {
    FieldError::at("/template_version", format!("item {}: {}", row.line, row.problem))
}

#[cfg(test)]
mod tests;
