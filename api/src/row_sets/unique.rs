//! Whether every `custom_id` of a version is its own. The first were compared as they came in; of more, hashes tell candidates in bounded memory, as for a batch.

use promptmill_domain::{RowSetId, TenantId, UploadId};
use promptmill_intake::KEPT_IDS;
use promptmill_ports::{RowBlock, StoreError};
use promptmill_rowio::{DuplicateSearch, SameHash, decode_range};

use crate::App;
use crate::problem::{FieldError, Problem, ProblemId};

/// Bytes of blocks that are read in one step.
const STEP_BYTES: usize = 4 << 20;

/// Finds ids that stand twice.
///
/// # Errors
/// `invalid_rows` naming both rows of each, as far as they are told.
pub(super) async fn check(
    app: &App,
    tenant: &TenantId,
    set: RowSetId,
    upload: UploadId,
    rows: u64,
) -> Result<(), Problem> {
    if rows <= KEPT_IDS as u64 {
        return Ok(());
    }
    let mut search = DuplicateSearch::new(rows);
    // Where each block begins.
    let mut firsts: Vec<(u32, u32)> = Vec::new();
    while search.wants_pass() {
        firsts.clear();
        let mut row = 0;
        let mut from = 0;
        loop {
            let blocks = app.engine().records.set_blocks(tenant, set, upload, from, STEP_BYTES).await?;
            for RowBlock { seq, len, ids, .. } in &blocks {
                search.add(0, *len, ids);
                firsts.push((row, *seq));
                row += len;
            }
            match blocks.last() {
                Some(last) => from = last.seq + 1,
                None => break,
            }
        }
        search.end_pass();
    }
    let mut errors = Vec::new();
    for SameHash { first, second } in search.finish() {
        let (first, second) = (first.row, second.row);
        let id = id_at(app, tenant, set, upload, &firsts, first).await?;
        if id.is_some() && id == id_at(app, tenant, set, upload, &firsts, second).await? {
            let detail = format!("rows {} and {} have the same custom_id", first + 1, second + 1);
            let code = Some("duplicate_custom_id");
            errors.push(FieldError { code, ..FieldError::at("/custom_id", detail) });
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let detail = "a custom_id must be the only one of its rows";
    Err(Problem::new(ProblemId::InvalidRows).detail(detail).errors(errors))
}

async fn id_at(
    app: &App,
    tenant: &TenantId,
    set: RowSetId,
    upload: UploadId,
    firsts: &[(u32, u32)],
    row: u32,
) -> Result<Option<String>, Problem> {
    let at = firsts.partition_point(|(first, _)| *first <= row);
    let Some((first, seq)) = at.checked_sub(1).and_then(|at| firsts.get(at)) else { return Ok(None) };
    let blocks = app.engine().records.set_blocks(tenant, set, upload, *seq, 1).await?;
    let Some(block) = blocks.first() else { return Ok(None) };
    let rows = decode_range(&block.bytes, (row - first) as usize, 1);
    let rows = rows.map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok(rows.into_iter().next().and_then(|row| row.custom_id))
}
