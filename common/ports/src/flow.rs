//! Steps over the store ports that more than one role takes.

use promptmill_domain::chunk::{ChunkCut, FrozenPart, MAX_CHUNK_ROWS, SPREAD, cut};
use promptmill_domain::schedule::Decided;
use promptmill_domain::{BatchId, LaneId, Schedule, TenantId, Tick, TickState};

use crate::reading::Read;
use crate::schedules::Ticks;
use crate::store::{Intake, WholeBatch};
use crate::{StoreError, StoreResult};

/// Heads written in one step.
const HEADS_PER_WRITE: usize = 500;

/// Makes a draft a queued batch, or finishes a submit that a crash cut short; answers the number of rows.
///
/// A crash between the steps leaves the batch in `submitting`; whoever calls this again ends with the same heads, because
/// the cut derives from the frozen parts and from the batch's spec, which never changes.
pub async fn submit(
    store: &(impl Intake + Read + ?Sized),
    tenant: &TenantId,
    batch: BatchId,
    lane: &LaneId,
    now_ms: u64,
) -> StoreResult<u32> {
    let parts = store.begin_submit(tenant, batch).await?;
    let rows: u64 = parts.iter().flat_map(|part| &part.blocks).map(|rows| u64::from(*rows)).sum();
    // The chunks of a small batch are of one row each, whatever its spec says.
    let most = match rows > u64::from(SPREAD) {
        true => store.batch(tenant, batch).await?.spec.chunk_rows,
        false => MAX_CHUNK_ROWS,
    };
    let mut pending: Vec<ChunkCut> = Vec::with_capacity(HEADS_PER_WRITE);
    let (mut chunks, mut total) = (0, 0);
    for cut in cut(&parts, most) {
        chunks += 1;
        total += cut.len;
        pending.push(cut);
        if pending.len() == HEADS_PER_WRITE {
            store.put_heads(tenant, batch, lane, &pending).await?;
            pending.clear();
        }
    }
    store.put_heads(tenant, batch, lane, &pending).await?;
    store.finish_submit(tenant, batch, chunks, total, now_ms).await?;
    Ok(total)
}

/// The chunks of a batch that is accepted whole: those that [`submit`] would cut.
///
/// # Errors
/// `Conflict` when the rows are not those of one block.
pub fn cut_whole(whole: &WholeBatch, chunk_rows: u32) -> StoreResult<Vec<ChunkCut>> {
    let rows = &whole.rows;
    if rows.seq != 0 || rows.len == 0 || rows.len > MAX_CHUNK_ROWS {
        return Err(StoreError::Conflict(format!(
            "a batch is accepted with 1 to {MAX_CHUNK_ROWS} rows, in block 0"
        )));
    }
    let part = FrozenPart { upload: whole.upload(), blocks: vec![rows.len] };
    Ok(cut(&[part], chunk_rows).collect())
}

/// Open ticks of one schedule that are looked at.
const OPEN: u32 = 64;

/// Whether a run of the schedule goes on: one is to begin, or has a batch that is not final or whose failed rows run again.
pub async fn is_busy(
    ticks: &(impl Ticks + ?Sized),
    batches: &(impl Read + ?Sized),
    schedule: &Schedule,
) -> StoreResult<bool> {
    let decided = schedule.begun.iter().flat_map(|begun| &begun.ticks);
    if decided.clone().any(|(_, decided)| *decided == Decided::Run) {
        return Ok(true);
    }
    let open = ticks.open_ticks(Some((schedule.id, 0)), OPEN).await?;
    for tick in open.iter().take_while(|tick| tick.schedule == schedule.id) {
        if goes_on(batches, tick, schedule).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the run of an open tick goes on: it may be over although nobody has noted that yet.
pub async fn goes_on(batches: &(impl Read + ?Sized), tick: &Tick, schedule: &Schedule) -> StoreResult<bool> {
    let TickState::Running { retry, .. } = tick.state else { return Ok(tick.state.is_open()) };
    match batches.batch(&tick.tenant, Tick::batch(tick.schedule, tick.at_ms, retry)).await {
        Ok(batch) if batch.state.is_final() => Ok(schedule.policies.runs_again(&batch, retry).is_some()),
        Ok(_) => Ok(true),
        Err(StoreError::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}
