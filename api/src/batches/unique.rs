//! Whether every `custom_id` of a batch is its own, parts taken together.
//!
//! The first ids of each part were compared when it came in ([`KEPT_IDS`]). Hashes kept with the blocks tell candidates in bounded memory; the two ids of each are read
//! and compared before anyone is told.

use promptmill_domain::{BatchId, TenantId};
use promptmill_intake::KEPT_IDS;
use promptmill_ports::{Part, StoreError};
use promptmill_rowio::{DuplicateSearch, RowPosition, SameHash, decode_range};

use crate::App;
use crate::problem::{FieldError, Problem, ProblemId};

/// Blocks that are read in one step: 2 MiB of hashes.
const BLOCKS_A_PAGE: u32 = 1024;

/// Where the rows of a block are within their part.
struct Block {
    part: u32,
    seq: u32,
    first_row: u32,
    rows: u32,
}

/// Finds ids that stand twice.
///
/// # Errors
/// `invalid_rows` naming both places of each, as far as they are told.
pub(crate) async fn check(
    app: &App,
    tenant: &TenantId,
    batch: BatchId,
    parts: &[Part],
) -> Result<(), Problem> {
    // A single part of that length was compared as a whole when it came in.
    if parts.len() < 2 && parts.iter().all(|part| part.rows <= KEPT_IDS as u64) {
        return Ok(());
    }
    let mut search = DuplicateSearch::new(parts.iter().map(|part| part.rows).sum());
    let mut blocks = Vec::new();
    while search.wants_pass() {
        blocks = pass(app, tenant, batch, &mut search).await?;
        search.end_pass();
    }
    let mut errors = Vec::new();
    for SameHash { first, second } in search.finish() {
        let id = id_at(app, tenant, batch, &blocks, first).await?;
        if id.is_some() && id == id_at(app, tenant, batch, &blocks, second).await? {
            errors.push(FieldError {
                pointer: Some("/custom_id".to_owned()),
                part: Some(second.part),
                code: Some("duplicate_custom_id"),
                detail: format!(
                    "row {} of part {} and row {} of part {} have the same custom_id",
                    first.row + 1,
                    first.part,
                    second.row + 1,
                    second.part
                ),
                ..FieldError::default()
            });
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Problem::new(ProblemId::InvalidRows)
        .detail("a custom_id must be the only one of its batch; replace one of the parts")
        .errors(errors))
}

/// Walks all blocks once.
async fn pass(
    app: &App,
    tenant: &TenantId,
    batch: BatchId,
    search: &mut DuplicateSearch,
) -> Result<Vec<Block>, Problem> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut after = None;
    loop {
        let page = app.engine().store.block_ids(tenant, batch, after, BLOCKS_A_PAGE).await?;
        for block in &page {
            search.add(block.part, block.len, &block.ids);
            let before = blocks.last().filter(|last| last.part == block.part);
            let first_row = before.map_or(0, |last| last.first_row + last.rows);
            blocks.push(Block { part: block.part, seq: block.seq, first_row, rows: block.len });
        }
        match page.last() {
            Some(last) => after = Some((last.part, last.seq)),
            None => return Ok(blocks),
        }
    }
}

async fn id_at(
    app: &App,
    tenant: &TenantId,
    batch: BatchId,
    blocks: &[Block],
    at: RowPosition,
) -> Result<Option<String>, Problem> {
    let holds = |block: &&Block| {
        block.part == at.part && (block.first_row..block.first_row + block.rows).contains(&at.row)
    };
    let Some(block) = blocks.iter().find(holds) else { return Ok(None) };
    let bytes = app.engine().store.block(tenant, batch, block.part, block.seq).await?;
    let rows = decode_range(&bytes, (at.row - block.first_row) as usize, 1);
    let rows = rows.map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok(rows.into_iter().next().and_then(|row| row.custom_id))
}
