//! Making a batch: a draft, or with its rows inline and submitted at once.
//!
//! The id derives from the request's plan, so that a request which was cut off and is run again finds what it made and goes on. Rows are
//! checked before anything is stored: a batch with a bad row leaves nothing behind. One whose rows fit a block is made and queued in one
//! step of the store, so that a small job costs little.

use std::io::Cursor;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use promptmill_domain::{Batch, BatchId, BatchState, TenantId};
use promptmill_intake::{BadRow, Refused, RowsOf, Taken, read};
use promptmill_ports::{Accepted, NewBatch, RowBlock, Signal, WholeBatch};
use promptmill_rowio::{RowFormat, RowLimits};
use secrecy::ExposeSecret as _;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::draft::{self, NewBatchBody, Plan};
use super::intake::{self, Target, cost};
use super::refused::NotTaken;
use super::submit::{leave_to_submit, may_submit, room_bytes, submit};
use super::view::{BatchView, view, view_queued};
use super::{announce, preflight, webhook};
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::LargeJson;
use crate::idempotency::{self, Idempotency};
use crate::prefer::Wait;
use crate::problem::{FieldError, Problem, chain};
use crate::steps::{PointOfNoReturn, to_its_end};

/// Create a batch
///
/// With `rows` (a body of up to 8 MiB) it is checked and submitted at once; `Prefer: wait=N` then holds the answer until the batch is
/// final, up to so many seconds, which suits a batch of a few rows. Without, it stays a draft: send rows in parts, then submit.
#[utoipa::path(
    post,
    path = "/v1/batches",
    tag = "batches",
    operation_id = "createBatch",
    params(
        ("Prefer" = Option<String>, Header, description = "`wait=N`: how many seconds to wait for the end of the batch, 0 to 60, none unless told"),
    ),
    request_body(
        content = NewBatchBody,
        examples(
            ("messages" = (
                summary = "Rows of messages, submitted at once",
                value = json!({
                    "model": "demo:any",
                    "name": "greetings",
                    "labels": {"team": "docs"},
                    "rows": [
                        {"custom_id": "1", "messages": [{"role": "user", "content": "Say hello."}]},
                        {"custom_id": "2", "messages": [{"role": "user", "content": "Say goodbye."}]},
                    ],
                })
            )),
            ("template" = (
                summary = "Rows of variables for an inline template",
                value = json!({
                    "template": {
                        "name": "greet",
                        "messages": [{"role": "user", "content": "Greet {{ name }}."}],
                        "model": {"name": "demo:any"},
                    },
                    "rows": [{"variables": {"name": "Ada"}}],
                })
            )),
            ("draft" = (summary = "A draft that takes parts", value = json!({"model": "demo:any"}))),
        )
    ),
    responses((
        status = 201,
        description = "The batch",
        body = BatchView,
        headers(
            ("Location" = String, description = "Where the batch is read"),
            ("Preference-Applied" = String, description = "How long the answer was to wait"),
        )
    ))
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    idempotency: Idempotency,
    headers: HeaderMap,
    LargeJson(body, digest, large): LargeJson<NewBatchBody>,
) -> Result<Response, Problem> {
    caller.may(Scope::BatchesWrite)?;
    let wait = Wait::of(&headers);
    let (ending, ends) = oneshot::channel();
    let tenant = caller.tenant.clone();
    let making = app.clone();
    let work = |point: PointOfNoReturn| async move {
        let (_large, app) = (large, making);
        let run = |plan: idempotency::Plan| {
            let id = BatchId::from_bytes(plan.bytes);
            // Before it is made, so that its end is not missed.
            let listening = wait.map(|_| app.ends().listen(&app, id));
            let (app, tenant, point) = (&app, &caller.tenant, &point);
            async move {
                let (batch, view) = create_once(app, tenant, id, body, point).await?;
                let secret = view.webhook_secret.clone();
                // Whoever sent the request may be gone.
                let _ = ending.send((batch, listening, secret));
                created(view)
            }
        };
        idempotency.once(&app, &caller, digest, run).await
    };
    let mut response = to_its_end(work).await?;
    // An answer that is repeated, or an error, comes at once.
    let (Some(wait), Ok((batch, listening, secret))) = (wait, ends.await) else { return Ok(response) };
    let is_open = batch.state != BatchState::Draft && !batch.state.is_final();
    if let Some(listening) = listening.filter(|_| is_open) {
        let looked = async {
            let batch = listening.end(&app, &tenant, wait.duration()).await?;
            created(BatchView { webhook_secret: secret, ..view(&app, &batch).await? })
        };
        match looked.await {
            Ok(as_it_stands) => response = as_it_stands,
            // The batch is made, whether or not it can be looked at now.
            Err(problem) => {
                tracing::debug!(batch.id = %batch.id, ?problem, "a batch that is waited for cannot be read")
            }
        }
    }
    wait.applied(&mut response)?;
    Ok(response)
}

async fn create_once(
    app: &App,
    tenant: &TenantId,
    id: BatchId,
    body: NewBatchBody,
    point: &PointOfNoReturn,
) -> Result<(Batch, BatchView), Problem> {
    let Plan { spec, limits, rows_of, made_secret, .. } = draft::plan(app, tenant, id, &body).await?;
    room_bytes(app, tenant).await?;
    let rows = match body.rows {
        None => None,
        Some(rows) => {
            preflight::check(app, &spec).await?;
            let checked = check(app, rows, rows_of).await?;
            may_submit(app, tenant, u64::from(checked.1.rows)).await?;
            Some(checked)
        }
    };
    point.pass()?;
    let new = NewBatch { id, spec, limits, idem_key: None, now_ms: app.now_ms() };
    let accepted = match &rows {
        Some((blocks, taken)) => accepted(app, tenant, &new, blocks, taken).await?,
        None => None,
    };
    let (batch, shown) = match accepted {
        Some(batch) => {
            let shown = view_queued(app, &batch).await?;
            (batch, shown)
        }
        None => {
            let batch = by_steps(app, tenant, new, rows).await?;
            let shown = view(app, &batch).await?;
            (batch, shown)
        }
    };
    let secret = batch.spec.webhook.as_ref().filter(|_| made_secret);
    let secret = secret.map(|told| webhook::opened(app, tenant, id, told)).transpose()?;
    let told = secret.map(|secret| secret.text().expose_secret().to_owned());
    Ok((batch, BatchView { webhook_secret: told, ..shown }))
}

/// Makes and queues a batch in one step, where one block holds its rows and nothing speaks against it. `None` leaves it to the steps: they say
/// what does, and go on where an earlier run of the request began.
async fn accepted(
    app: &App,
    tenant: &TenantId,
    new: &NewBatch,
    blocks: &[RowBlock],
    taken: &Taken,
) -> Result<Option<Batch>, Problem> {
    let [rows] = blocks else { return Ok(None) };
    if u64::from(taken.rows) > app.config().batch_rows || cost(rows) as u64 > room_bytes(app, tenant).await? {
        return Ok(None);
    }
    let _leave = leave_to_submit(app, tenant, u64::from(taken.rows)).await?;
    let whole = WholeBatch { batch: new.clone(), rows: rows.clone(), digest: taken.digest };
    match app.engine().store.accept(tenant, whole).await? {
        Accepted::New(batch) => {
            announce(app, Signal::BatchQueued(batch.id)).await;
            Ok(Some(*batch))
        }
        Accepted::Existing(_) => Ok(None),
    }
}

/// Makes a draft, and where there are rows stores them and submits it.
async fn by_steps(
    app: &App,
    tenant: &TenantId,
    new: NewBatch,
    rows: Option<(Vec<RowBlock>, Taken)>,
) -> Result<Batch, Problem> {
    let id = new.id;
    let batch = made(app, tenant, new).await?;
    if let Some((blocks, taken)) = rows {
        let target = Target { tenant: tenant.clone(), batch: id, part: 0 };
        let reading = move |keep: intake::Keep| {
            for block in blocks {
                if !keep.keep(block) {
                    return Err(Refused::Unwanted);
                }
            }
            Ok(taken)
        };
        fill(app, &batch, &target, reading, place).await?;
    }
    Ok(app.engine().store.batch(tenant, id).await?)
}

/// Makes the batch unless an earlier run of the request did, and answers it as it stands.
pub(crate) async fn made(app: &App, tenant: &TenantId, new: NewBatch) -> Result<Batch, Problem> {
    let id = new.id;
    app.engine().store.create(tenant, new).await?;
    Ok(app.engine().store.batch(tenant, id).await?)
}

/// Stores the rows of a batch that was made for them and submits it, as far as an earlier run of the request did not. A batch whose
/// rows are refused is not left behind; `place` says where a bad one stands.
pub(crate) async fn fill(
    app: &App,
    batch: &Batch,
    target: &Target,
    reading: impl FnOnce(intake::Keep) -> Result<Taken, Refused> + Send + 'static,
    place: fn(&BadRow) -> FieldError,
) -> Result<(), Problem> {
    let filled = async {
        if batch.state == BatchState::Draft {
            let taken = intake::take(app, target, reading).await;
            taken.map_err(|not_taken| not_taken.into_problem(place))?;
        }
        submit(app, batch).await
    };
    let Err(problem) = filled.await else { return Ok(()) };
    if problem.id().status().is_client_error() && batch.state == BatchState::Draft {
        let deleted = app.engine().store.delete(&batch.tenant, batch.id).await;
        if let Err(error) = deleted {
            tracing::debug!(batch.id = %batch.id, error = chain(&error), "a refused batch stays behind as a draft");
        }
    }
    Err(problem)
}

/// The answer to a request that made a batch.
pub(crate) fn created(view: BatchView) -> Result<Response, Problem> {
    let location = format!("/v1/batches/{}", view.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(view)).into_response())
}

/// Reads rows that stand in a body, each as a line of a part would be. They are few enough to be held.
pub(crate) async fn check(
    app: &App,
    rows: Vec<Box<RawValue>>,
    rows_of: RowsOf,
) -> Result<(Vec<RowBlock>, Taken), Problem> {
    let limits = RowLimits { row_bytes: app.config().row_bytes, rows: u32::MAX };
    let reading = tokio::task::spawn_blocking(move || {
        let mut blocks = Vec::new();
        let reader = rows_of.reader(Cursor::new(lines(&rows)), RowFormat::Ndjson, limits).naming_rows();
        let taken = read(reader, |block| {
            blocks.push(block);
            true
        });
        taken.map(|taken| (blocks, taken))
    });
    let read = reading.await.map_err(Problem::internal)?;
    read.map_err(|refused| NotTaken::Refused(refused).into_problem(place))
}

/// Each value on a line of its own. Line breaks between its tokens become blanks; within a string there are none.
pub(crate) fn lines(rows: &[Box<RawValue>]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(rows.iter().map(|row| row.get().len() + 1).sum());
    for row in rows {
        lines.extend(row.get().bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
        lines.push(b'\n');
    }
    lines
}

/// Where a bad row stands in the body.
pub(crate) fn place(row: &BadRow) -> FieldError {
    let index = row.line.saturating_sub(1);
    FieldError::at(format!("/rows/{index}{}", row.problem.pointer), row.problem.reason.as_str())
}

#[cfg(test)]
mod tests;
