//! Running again what failed: a new batch of the rows of another one whose outcomes match, linked to it.
//!
//! The items of the new batch are those of the old one that match, in the order of their index; results can be read merged by that.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use promptmill_domain::{
    Batch, BatchId, BatchLimits, BatchSpec, FailureKind, ItemCode, ItemFilter, ModelRef, OutcomeName,
    RetryOf, TenantId, Webhook,
};
use promptmill_ports::{NewBatch, PageLimit, TemplateKey};
use promptmill_prompt::Template;
use promptmill_rowio::{RowContent, RowProblem, StoredRow, decode_range};
use serde::Deserialize;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use super::create::{created, fill, made};
use super::draft::{check_name, lane_of, opened, sealed};
use super::inflate::Broken;
use super::intake::{BadRow, BadRows, Keep, Packer, Refused, Taken, Target};
use super::preflight;
use super::submit::{may_submit, room_bytes};
use super::view::{BatchView, view};
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Json, Path};
use crate::idempotency::Idempotency;
use crate::problem::{FieldError, Problem, ProblemId};
use crate::templates::{self, TemplateArg};

/// Outcomes that are read in one step.
const PAGE: PageLimit = PageLimit { items: 4_096, bytes: 4 << 20 };

/// Chunks of rows on their way to be packed.
const CHUNKS_IN_FLIGHT: usize = 4;

/// Which items run again, and what is different.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = Retry)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetryBody {
    /// Items that ended so; `failed`, `expired` and `cancelled` unless told.
    #[schema(value_type = Option<Vec<String>>)]
    outcomes: Option<BTreeSet<OutcomeName>>,
    /// Failed items with one of these reasons only.
    #[schema(value_type = Option<Vec<String>>)]
    reasons: Option<BTreeSet<FailureKind>>,
    /// Another model.
    model: Option<String>,
    /// Another version of the stored template.
    #[schema(minimum = 1)]
    template_version: Option<u32>,
    /// What people call the new batch.
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
    let run = |plan| retry_once(&app, &caller.tenant, source, BatchId::from_bytes(plan), &body);
    idempotency.once(&app, &caller, digest, run).await
}

async fn retry_once(
    app: &App,
    tenant: &TenantId,
    source: BatchId,
    id: BatchId,
    body: &RetryBody,
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
    preflight::check(app, &spec.model).await?;
    may_submit(app, tenant, rows).await?;
    let room_bytes = room_bytes(app, tenant).await?;
    let now_ms = app.now_ms();
    let deadline_ms = source.limits.deadline_ms.filter(|deadline_ms| *deadline_ms > now_ms);
    let limits = BatchLimits { deadline_ms, ..source.limits };
    let batch = made(app, tenant, NewBatch { id, spec, limits, idem_key: None, now_ms }).await?;
    let target = Target { tenant: tenant.clone(), batch: id, part: 0, room_bytes };
    let (send, picked) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let repacking = move |keep: Keep| repack(picked, recheck.as_deref(), &keep);
    let (gathered, filled) =
        tokio::join!(gather(app, &source, &filter, send), fill(app, &batch, &target, repacking, place));
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
    }
    spec.lane = lane_of(app, &spec.model)?;
    if let Some(version) = body.template_version {
        let Some(reference) = &source.spec.template_ref else {
            let detail = "the batch has no stored template";
            return Err(Problem::invalid("/template_version", detail));
        };
        let arg = TemplateArg::Stored(TemplateKey::Id(reference.id), Some(version));
        let found = templates::resolve(app, tenant, &arg).await.map_err(|problem| match problem.id() {
            ProblemId::Invalid => Problem::invalid("/template_version", "there is no such version any more"),
            _ => problem,
        })?;
        (spec.template, spec.template_ref) = (found.source, found.reference);
    }
    if let Some(name) = &body.name {
        spec.name = Some(name.clone());
    }
    if let Some(webhook) = &source.spec.webhook {
        spec.webhook = Some(moved(app, tenant, source.id, id, webhook)?);
    }
    spec.retry_of = Some(RetryOf { batch: source.id, filter });
    Ok(spec)
}

/// The webhook of one batch, its secret sealed for another.
fn moved(
    app: &App,
    tenant: &TenantId,
    from: BatchId,
    to: BatchId,
    webhook: &Webhook,
) -> Result<Webhook, Problem> {
    let secret = opened(app, tenant, from, webhook)?;
    sealed(app, tenant, to, webhook.url.clone(), &secret)
}

/// Stored rows on their way to be packed.
enum Picked {
    /// Rows of one block, by position, with the index each has in the batch it comes from.
    Rows {
        /// The block.
        block: Bytes,
        /// Positions in the block and indexes in the batch, ascending.
        rows: Vec<(usize, u32)>,
    },
    /// There are no more. A channel that closes without this was cut.
    End,
}

/// Reads the rows of every item that matches, in the order of their index.
async fn gather(
    app: &App,
    source: &Batch,
    filter: &ItemFilter,
    to: mpsc::Sender<Picked>,
) -> Result<(), Problem> {
    let (store, tenant) = (&app.engine().store, &source.tenant);
    let mut from = Some(0);
    let mut chunk: Option<(promptmill_ports::BlockRow, Vec<(usize, u32)>)> = None;
    while let Some(begin) = from {
        let page = store.outcomes(tenant, source.id, begin, PAGE).await?;
        for outcome in page.outcomes.iter().filter(|outcome| filter.matches(outcome.code)) {
            let index = outcome.index;
            let holds = |row: &promptmill_ports::BlockRow| (row.base..row.base + row.len).contains(&index);
            if !chunk.as_ref().is_some_and(|(row, _)| holds(row)) {
                let next = store.rows(tenant, source.id, index).await?;
                if let Some((row, rows)) = chunk.replace((next, Vec::new()))
                    && to.send(Picked::Rows { block: row.bytes, rows }).await.is_err()
                {
                    // Whoever packs them knows why it wants no more.
                    return Ok(());
                }
            }
            if let Some((row, rows)) = &mut chunk {
                rows.push(((row.rows.skip + (index - row.base)) as usize, index));
            }
        }
        from = page.next;
    }
    if let Some((row, rows)) = chunk {
        let _ = to.send(Picked::Rows { block: row.bytes, rows }).await;
    }
    let _ = to.send(Picked::End).await;
    Ok(())
}

/// Packs rows anew, checked against `recheck` where that is another template than they were checked against. Blocks the thread.
fn repack(
    mut from: mpsc::Receiver<Picked>,
    recheck: Option<&Template>,
    keep: &Keep,
) -> Result<Taken, Refused> {
    let mut packer = Packer::new();
    let mut bad = BadRows::default();
    loop {
        match from.blocking_recv() {
            None => return Err(Refused::Broken(Broken::Cut)),
            Some(Picked::End) => break,
            Some(Picked::Rows { block, rows }) => {
                for (row, index) in read(&block, &rows)? {
                    bad.rows += 1;
                    let row = match recheck {
                        Some(template) => checked(template, row),
                        None => Ok(row),
                    };
                    match row {
                        Err(problems) => bad.add(u64::from(index), problems),
                        Ok(row) if bad.bad == 0 => {
                            if packer.push(&row).is_some_and(|block| !keep.keep(block)) {
                                return Err(Refused::Unwanted);
                            }
                        }
                        Ok(_) => {}
                    }
                }
            }
        }
    }
    if bad.bad > 0 {
        return Err(Refused::Rows(bad));
    }
    let (last, taken) = packer.finish();
    if last.is_some_and(|block| !keep.keep(block)) {
        return Err(Refused::Unwanted);
    }
    Ok(taken)
}

/// The rows of a block at these positions, the first and the last of them told by the ends of the list.
fn read(block: &Bytes, rows: &[(usize, u32)]) -> Result<Vec<(StoredRow, u32)>, Refused> {
    let (Some((first, _)), Some((last, _))) = (rows.first(), rows.last()) else { return Ok(Vec::new()) };
    let stored = decode_range(block, *first, last - first + 1);
    let mut stored = stored.map_err(|error| Refused::Corrupt(error.to_string()))?.into_iter();
    let mut at = *first;
    let mut found = Vec::with_capacity(rows.len());
    for (position, index) in rows {
        if let Some(row) = stored.nth(position - at) {
            found.push((row, *index));
        }
        at = position + 1;
    }
    Ok(found)
}

/// A stored row, checked and rendered against another template; rows of messages stay as they are.
fn checked(template: &Template, row: StoredRow) -> Result<StoredRow, Vec<RowProblem>> {
    let RowContent::Variables(json) = &row.content else { return Ok(row) };
    let variables = template.check(json).map_err(|problems| {
        let told = problems.into_iter().map(|problem| problem_at(&problem.pointer, problem.message));
        told.collect::<Vec<_>>()
    })?;
    template.render(&variables).map_err(|error| vec![problem_at("", error.to_string())])?;
    Ok(StoredRow::of_variables(row.custom_id, variables.to_json()))
}

fn problem_at(pointer: &str, reason: String) -> RowProblem {
    let field = pointer.trim_start_matches('/').to_owned();
    RowProblem { field, pointer: pointer.to_owned(), reason }
}

/// A row that the other version of the template does not take; its line is its index.
fn place(row: BadRow) -> FieldError {
    FieldError::at("/template_version", format!("item {}: {}", row.line, row.problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use promptmill_domain::{Counts, LaneId};

    fn filter(json: &str) -> ItemFilter {
        serde_json::from_str::<RetryBody>(json).unwrap().filter()
    }

    fn batch(counts: Option<Counts>) -> Batch {
        let model: ModelRef = "demo:any".parse().unwrap();
        Batch {
            id: BatchId::from_bytes([1; 16]),
            tenant: TenantId::default_tenant(),
            state: if counts.is_some() {
                promptmill_domain::BatchState::Completed
            } else {
                promptmill_domain::BatchState::Running
            },
            ver: 1,
            spec: BatchSpec::new("{}".to_owned(), model, LaneId::new("demo", "none")),
            limits: BatchLimits::default(),
            total: 10,
            created_ms: 1,
            submitted_ms: None,
            finished_ms: None,
            final_counts: counts,
        }
    }

    #[test]
    fn without_a_wish_everything_that_did_not_succeed_runs_again() {
        for json in ["{}", r#"{"outcomes":null,"reasons":[]}"#, r#"{"outcomes":[]}"#] {
            let filter = filter(json);
            assert!(
                filter.matches(ItemCode::Failed(FailureKind::Timeout)) && filter.matches(ItemCode::Expired)
            );
            assert!(filter.matches(ItemCode::Cancelled) && !filter.matches(ItemCode::Repaired), "{json}");
        }
        let timeouts = filter(r#"{"reasons":["timeout"]}"#);
        assert!(timeouts.matches(ItemCode::Failed(FailureKind::Timeout)));
        assert!(!timeouts.matches(ItemCode::Cancelled));
    }

    #[test]
    fn only_a_final_batch_with_such_items_is_retried() {
        let counts = Counts {
            succeeded: 3,
            failed: [(FailureKind::Timeout, 2), (FailureKind::Internal, 1)].into(),
            expired: 4,
            ..Counts::default()
        };
        let count = |json: &str| matching(&batch(Some(counts.clone())), &filter(json)).map_err(|p| p.id());
        assert_eq!(count("{}"), Ok(7));
        assert_eq!(count(r#"{"reasons":["timeout"]}"#), Ok(2));
        assert_eq!(count(r#"{"outcomes":["cancelled"]}"#), Err(ProblemId::Invalid));
        assert_eq!(matching(&batch(None), &filter("{}")).map_err(|p| p.id()), Err(ProblemId::Conflict));
    }

    #[test]
    fn the_rows_at_the_positions_are_read_from_a_block() {
        let mut builder = promptmill_rowio::BlockBuilder::new();
        for n in 0..9 {
            builder.push(&StoredRow::of_variables(Some(format!("id{n}")), format!("{{\"n\":{n}}}")));
        }
        let block = Bytes::from(builder.finish().unwrap().bytes);
        let ids = |rows: &[(usize, u32)]| {
            let read = read(&block, rows).unwrap();
            read.into_iter().map(|(row, index)| (row.custom_id.unwrap(), index)).collect::<Vec<_>>()
        };
        let pairs = |pairs: &[(&str, u32)]| {
            pairs.iter().map(|(id, index)| ((*id).to_owned(), *index)).collect::<Vec<_>>()
        };
        assert_eq!(ids(&[(2, 102), (3, 103), (8, 108)]), pairs(&[("id2", 102), ("id3", 103), ("id8", 108)]));
        assert_eq!(ids(&[(0, 100)]), pairs(&[("id0", 100)]));
        assert_eq!(ids(&[]), []);
        assert!(matches!(super::read(&block, &[(9, 109)]), Err(Refused::Corrupt(_))));
    }
}
