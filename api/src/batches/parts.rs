//! Rows in parts: each is an upload of any size that is taken as a whole or not at all, and may be replaced until the submit.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use promptmill_domain::{BatchId, BatchState};
use promptmill_intake::{BadRow, Packing, Refused, RowsOf, digest_text, read_and_pack_beside, unpacked};
use promptmill_ports::Part;
use promptmill_rowio::{RowFormat, RowLimits};
use serde::Serialize;
use utoipa::ToSchema;

use super::feed;
use super::intake::{self, Target};
use super::refused::NotTaken;
use super::rows_of;
use super::shared::Leave;
use super::submit::room_bytes;
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::Path;
use crate::problem::{FieldError, Problem, ProblemId};
use crate::shapes::Packed;

/// Parts are numbered 0 to this.
const LAST_PART: u32 = 9_999;

/// A part as it was taken.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TakenPart)]
pub(crate) struct TakenPartView {
    /// Its number.
    part: u32,
    /// How many rows.
    rows: u64,
    /// SHA-256 over the rows, 64 hexadecimal digits; the same rows give the same digest.
    digest: String,
    /// Whether the part held exactly these rows before.
    unchanged: bool,
}

/// A part of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Part)]
pub(crate) struct PartView {
    /// Its number.
    part: u32,
    /// How many rows.
    rows: u64,
    /// SHA-256 over the rows, 64 hexadecimal digits.
    digest: String,
}

impl From<Part> for PartView {
    fn from(part: Part) -> Self {
        Self { part: part.part, rows: part.rows, digest: digest_text(&part.digest) }
    }
}

/// The parts of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PartList {
    /// In the order in which their rows are joined.
    data: Vec<PartView>,
}

/// Send a part of the rows
///
/// JSON Lines (`application/x-ndjson`, `application/jsonl`) or CSV with a header row (`text/csv`), plain or packed with gzip or zstd. All
/// rows are taken, or none: then every bad row is told, up to 100 problems. Sending a part again replaces it; parts are joined in the order
/// of their numbers.
#[utoipa::path(
    put,
    path = "/v1/batches/{id}/rows/{part}",
    tag = "batches",
    operation_id = "putRows",
    params(
        ("id" = String, Path, description = "The batch, a draft"),
        ("part" = u32, Path, description = "The part's number, 0 to 9999", maximum = 9999),
        ("Content-Encoding" = inline(Option<Packed>), Header, description = "gzip, zstd or identity"),
    ),
    request_body(
        content(
            (String = "application/x-ndjson", example = json!(
                "{\"messages\":[{\"role\":\"user\",\"content\":\"Say hello.\"}]}\n"
            )),
            (String = "application/jsonl"),
            (String = "text/csv"),
        ),
        description = "The rows"
    ),
    responses((status = 200, description = "The part is stored", body = TakenPartView))
)]
pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Path((id, part)): Path<(BatchId, u32)>,
    headers: HeaderMap,
    body: Body,
) -> Result<axum::Json<TakenPartView>, Problem> {
    let Admitted { target, rows_of, format, packing, leave } =
        match admit(&app, &caller, id, part, &headers).await {
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
    // A task of its own: a client that goes away before the end cuts the body, and the upload is given up in good order.
    let taking = tokio::spawn({
        let app = app.clone();
        async move {
            let _leave = leave;
            let reading = move |keep: intake::Keep| {
                let source =
                    unpacked(pieces, packing).map_err(|error| Refused::NotRows(error.to_string()))?;
                let reader = rows_of.reader(source, format, limits);
                read_and_pack_beside(reader, |block| keep.keep(block))
            };
            intake::take(&app, &target, reading).await
        }
    });
    feed::feed(&app, body, send).await?;
    let taken = taking.await.map_err(Problem::internal)?;
    let (taken, unchanged) =
        taken.map_err(|not_taken: NotTaken| not_taken.into_problem(|row| place(part, row)))?;
    let rows = u64::from(taken.rows);
    Ok(axum::Json(TakenPartView { part, rows, digest: taken.digest_text(), unchanged }))
}

/// An upload that may begin.
struct Admitted {
    target: Target,
    rows_of: RowsOf,
    format: RowFormat,
    packing: Packing,
    leave: Leave,
}

/// Everything that can be told before the body is read.
async fn admit(
    app: &App,
    caller: &Caller,
    id: BatchId,
    part: u32,
    headers: &HeaderMap,
) -> Result<Admitted, Problem> {
    caller.may(Scope::BatchesWrite)?;
    if part > LAST_PART {
        return Err(Problem::new(ProblemId::NotFound).detail("parts are numbered 0 to 9999"));
    }
    let batch = app.engine().store.batch(&caller.tenant, id).await?;
    let (format, packing) = (format_of(headers)?, packing_of(headers)?);
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: u64| length > app.config().part_bytes) {
        return Err(feed::too_large(app));
    }
    if batch.state != BatchState::Draft {
        let state = batch.state.as_str();
        return Err(Problem::new(ProblemId::Conflict)
            .detail(format!("rows are taken by a draft, and the batch is {state}")));
    }
    let leave = app.batches().upload(&caller.tenant)?;
    room_bytes(app, &caller.tenant).await?;
    let rows_of = rows_of::pinned(batch.spec.template).await?;
    let target = Target { tenant: caller.tenant.clone(), batch: id, part };
    Ok(Admitted { target, rows_of, format, packing, leave })
}

fn place(part: u32, row: &BadRow) -> FieldError {
    let pointer = Some(row.problem.pointer.clone()).filter(|pointer| !pointer.is_empty());
    FieldError { pointer, part: Some(part), ..FieldError::line(row.line, row.problem.reason.as_str()) }
}

/// How rows are written, by the header that says so.
pub(crate) fn format_of(headers: &HeaderMap) -> Result<RowFormat, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    RowFormat::from_media_type(kind).ok_or_else(|| {
        Problem::new(ProblemId::UnsupportedMediaType)
            .detail("rows are sent as Content-Type: application/x-ndjson, application/jsonl or text/csv")
    })
}

/// How a body is packed, by the header that says so.
///
/// # Errors
/// 415 for any other coding, and for more than one.
pub(crate) fn packing_of(headers: &HeaderMap) -> Result<Packing, Problem> {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(Packing::Identity) };
    let packing = Packing::named(coding.to_str().unwrap_or_default().trim());
    packing.filter(|_| codings.next().is_none()).ok_or_else(|| {
        Problem::new(ProblemId::UnsupportedMediaType)
            .detail("Content-Encoding must be gzip, zstd or identity, and only one of them")
    })
}

/// List the parts of a batch
#[utoipa::path(
    get,
    path = "/v1/batches/{id}/rows",
    tag = "batches",
    operation_id = "listParts",
    params(("id" = String, Path, description = "The batch")),
    responses((status = 200, description = "The parts that are stored", body = PartList))
)]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BatchId>,
) -> Result<axum::Json<PartList>, Problem> {
    caller.may(Scope::BatchesRead)?;
    let parts = app.engine().store.parts(&caller.tenant, id).await?;
    Ok(axum::Json(PartList { data: parts.into_iter().map(Into::into).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_known_coding_is_taken_and_nothing_else() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, value.parse().unwrap());
            }
            packing_of(&headers).ok()
        };
        assert_eq!(of(&[]), Some(Packing::Identity));
        assert_eq!(of(&["GZIP"]), Some(Packing::Gzip));
        assert_eq!(of(&["zstd"]), Some(Packing::Zstd));
        for bad in [&["br"][..], &["gzip, gzip"], &["gzip", "gzip"], &["deflate"], &[""]] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }
}
