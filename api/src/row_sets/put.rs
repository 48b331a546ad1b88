//! The upload of a version of a row set.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use promptmill_domain::{RowSetId, TenantId, UploadId};
use promptmill_intake::{BadRow, Packing, Refused, RowsOf, Taken, read_and_pack_beside, unpacked};
use promptmill_ports::{MOST_ROW_SET_VERSIONS, RowSet, RowSetVersion};
use promptmill_rowio::{RowFormat, RowLimits};

use super::view::RowSetView;
use super::{find, id_of, is_name, unique};
use crate::App;
use crate::auth::{Caller, Scope};
use crate::batches::feed;
use crate::batches::intake::{Keep, cost, store_all};
use crate::batches::parts::{format_of, packing_of};
use crate::batches::refused::NotTaken;
use crate::batches::shared::Leave;
use crate::batches::submit::room_bytes;
use crate::extract::Path;
use crate::problem::{FieldError, Problem, ProblemId, chain};
use crate::shapes::Packed;

/// How often a version is added anew when another one came between.
const TRIES: u32 = 8;

/// Send rows to a row set
///
/// The rows become its newest version, and the set is made where there is none of that name. JSON Lines (`application/x-ndjson`, `application/jsonl`) or CSV with a header
/// row (`text/csv`), plain or packed with gzip or zstd; of CSV every value is a text. All rows are taken, or none. Rows that equal those of the newest version add nothing.
#[utoipa::path(
    put,
    path = "/v1/row-sets/{name}",
    tag = "row-sets",
    operation_id = "putRowSet",
    params(
        ("name" = String, Path, description = "The row set: a-z, 0-9, '.', '_' and '-', up to 100", pattern = "^[a-z0-9][a-z0-9._-]{0,99}$"),
        ("Content-Encoding" = inline(Option<Packed>), Header, description = "gzip, zstd or identity"),
    ),
    request_body(
        content(
            (String = "application/x-ndjson", example = json!("{\"custom_id\":\"bern\",\"variables\":{\"city\":\"Bern\"}}\n")),
            (String = "application/jsonl"),
            (String = "text/csv"),
        ),
        description = "The rows"
    ),
    responses(
        (status = 200, description = "The row set with its newest version", body = RowSetView),
        (status = 201, description = "The row set, which is new", body = RowSetView),
    )
)]
pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (format, packing, leave) = match admit(&app, &caller, &name, &headers).await {
        Ok(admitted) => admitted,
        Err(problem) => {
            feed::drop_rest(&app, &headers, body).await;
            return Err(problem);
        }
    };
    let (send, pieces) = feed::channel();
    let limits = RowLimits {
        row_bytes: app.config().row_bytes,
        rows: u32::try_from(app.config().batch_rows).unwrap_or(u32::MAX),
    };
    let tenant = caller.tenant.clone();
    // A task of its own: a client that goes away before the end cuts the body, and the upload is left to the sweep in good order.
    let taking = tokio::spawn({
        let app = app.clone();
        async move {
            let _leave = leave;
            let reading = move |keep: Keep| {
                let source =
                    unpacked(pieces, packing).map_err(|error| Refused::NotRows(error.to_string()))?;
                let reader = RowsOf::any().reader(source, format, limits);
                read_and_pack_beside(reader, |block| keep.keep(block))
            };
            taken(&app, &tenant, &name, reading).await
        }
    });
    feed::feed(&app, body, send).await?;
    let (set, is_new) = taking.await.map_err(Problem::internal)??;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, axum::Json(RowSetView::from(set))).into_response())
}

/// Everything that can be told before the body is read.
async fn admit(
    app: &App,
    caller: &Caller,
    name: &str,
    headers: &HeaderMap,
) -> Result<(RowFormat, Packing, Leave), Problem> {
    caller.may(Scope::SchedulesWrite)?;
    if !is_name(name) {
        let detail =
            "a row set is called by a-z, 0-9, '.', '_' and '-', 1 to 100 of them, a letter or digit first";
        return Err(Problem::new(ProblemId::BadRequest).detail(detail));
    }
    let (format, packing) = (format_of(headers)?, packing_of(headers)?);
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: u64| length > app.config().part_bytes) {
        return Err(feed::too_large(app));
    }
    let leave = app.batches().upload(&caller.tenant)?;
    room_bytes(app, &caller.tenant).await?;
    Ok((format, packing, leave))
}

/// Stores the rows and makes them the newest version; answers the set, and whether it is new.
async fn taken(
    app: &App,
    tenant: &TenantId,
    name: &str,
    reading: impl FnOnce(Keep) -> Result<Taken, Refused> + Send + 'static,
) -> Result<(RowSet, bool), Problem> {
    let id = id_of(tenant, name);
    let upload = UploadId::at(app.now_ms(), rand::random());
    let stored = AtomicU64::new(0);
    let records = &app.engine().records;
    let put = |blocks: Vec<_>| {
        stored.fetch_add(blocks.iter().map(cost).sum::<usize>() as u64, Ordering::Relaxed);
        records.put_set_blocks(tenant, id, upload, blocks, app.now_ms())
    };
    let place = |row: &BadRow| {
        let pointer = Some(row.problem.pointer.clone()).filter(|pointer| !pointer.is_empty());
        FieldError { pointer, ..FieldError::line(row.line, row.problem.reason.as_str()) }
    };
    let added = async {
        let taken = store_all(app, tenant, reading, put).await;
        let taken = taken.map_err(|not_taken: NotTaken| not_taken.into_problem(place))?;
        unique::check(app, tenant, id, upload, u64::from(taken.rows)).await?;
        add(app, tenant, name, id, upload, taken, stored.load(Ordering::Relaxed)).await
    };
    added.await
}

/// Adds a version that is this upload, unless the newest one has the same rows.
async fn add(
    app: &App,
    tenant: &TenantId,
    name: &str,
    id: RowSetId,
    upload: UploadId,
    taken: Taken,
    bytes: u64,
) -> Result<(RowSet, bool), Problem> {
    let records = &app.engine().records;
    for _ in 0..TRIES {
        let before = find(app, tenant, name).await?;
        let newest = before.as_ref().and_then(|set| set.version(None));
        let digest = taken.digest_text();
        if let (Some(set), Some(newest)) = (&before, newest)
            && newest.digest == digest
        {
            // What was stored for it goes with the next sweep.
            return Ok((set.clone(), false));
        }
        let now_ms = app.now_ms();
        let version = RowSetVersion {
            version: newest.map_or(1, |newest| newest.version + 1),
            upload,
            blocks: taken.blocks,
            rows: u64::from(taken.rows),
            bytes,
            digest,
            created_ms: now_ms,
            origin: None,
        };
        let is_new = before.is_none();
        let mut set = before.unwrap_or_else(|| RowSet {
            id,
            tenant: tenant.clone(),
            name: Some(name.to_owned()),
            versions: Vec::new(),
            created_ms: now_ms,
            ver: 0,
        });
        if set.versions.len() >= MOST_ROW_SET_VERSIONS {
            let detail =
                format!("a row set has at most {MOST_ROW_SET_VERSIONS} versions; delete some of them");
            return Err(Problem::new(ProblemId::Conflict).detail(detail));
        }
        set.versions.push(version);
        set.ver += 1;
        match records.put_row_set(&set, now_ms).await {
            Ok(true) => return Ok((set, is_new)),
            // Another version came between.
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(error = chain(&error), "a version of a row set was not kept");
                return Err(error.into());
            }
        }
    }
    Err(Problem::new(ProblemId::Unavailable).detail("the row set is changed by too many at once"))
}
