//! Steps over the store ports that more than one role takes.

use promptmill_domain::chunk::{ChunkCut, cut};
use promptmill_domain::{BatchId, LaneId, TenantId};

use crate::StoreResult;
use crate::store::Intake;

/// Heads written in one step.
const HEADS_PER_WRITE: usize = 500;

/// Makes a draft a queued batch, or finishes a submit that a crash cut short; answers the number of rows.
///
/// A crash between the steps leaves the batch in `submitting`; whoever calls this again ends with the same heads, because
/// the cut derives from the frozen parts alone.
pub async fn submit(
    intake: &(impl Intake + ?Sized),
    tenant: &TenantId,
    batch: BatchId,
    lane: &LaneId,
    now_ms: u64,
) -> StoreResult<u32> {
    let parts = intake.begin_submit(tenant, batch).await?;
    let mut pending: Vec<ChunkCut> = Vec::with_capacity(HEADS_PER_WRITE);
    let (mut chunks, mut total) = (0, 0);
    for cut in cut(&parts) {
        chunks += 1;
        total += cut.len;
        pending.push(cut);
        if pending.len() == HEADS_PER_WRITE {
            intake.put_heads(tenant, batch, lane, &pending).await?;
            pending.clear();
        }
    }
    intake.put_heads(tenant, batch, lane, &pending).await?;
    intake.finish_submit(tenant, batch, chunks, total, now_ms).await?;
    Ok(total)
}
