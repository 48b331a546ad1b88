//! Which waiting chunks may run next.

use promptmill_domain::Batch;
use promptmill_ports::StoreResult;
use promptmill_runtime::Engine;

/// Hints to keep queued: enough for the workers never to wait for the scheduler, few enough for a later batch to get its turn soon.
const WINDOW: usize = 32;

/// Lets waiting chunks of the open batches run until the queue holds enough of them: batches of higher priority first, then in turn,
/// beginning with the `turn`-th. Answers how many chunks were admitted.
pub(crate) async fn run_once(engine: &Engine, batches: &[Batch], turn: usize) -> StoreResult<usize> {
    let queued = match engine.queue.depth().await {
        Ok(depth) => depth,
        Err(error) => {
            tracing::warn!(error = %error, "the depth of the queue is unknown; admitting nothing");
            return Ok(0);
        }
    };
    let mut room = WINDOW.saturating_sub(queued);
    let mut admitted = 0;
    let mut candidates: Vec<&Batch> = batches.iter().filter(|batch| batch.state.may_begin()).collect();
    candidates.sort_by_key(|batch| std::cmp::Reverse(batch.limits.priority));
    for equals in candidates.chunk_by_mut(|a, b| a.limits.priority == b.limits.priority) {
        // Where there is room for one chunk at a time, the oldest batch would else take it every time.
        equals.rotate_left(turn % equals.len());
        let share = room.div_ceil(equals.len()).max(1);
        for batch in equals {
            let take = share.min(room);
            if take == 0 {
                return Ok(admitted);
            }
            let waiting = engine.store.waiting(batch.id, u32::try_from(take).unwrap_or(u32::MAX)).await?;
            if waiting.is_empty() {
                continue;
            }
            let chunks = engine.store.admit(&waiting, engine.clock.now_ms()).await?;
            room -= chunks.len().min(room);
            admitted += chunks.len();
            let hints: Vec<_> = chunks.into_iter().map(|chunk| (chunk, batch.limits.priority)).collect();
            if let Err(error) = engine.queue.push(&hints).await {
                // They are ready in the store; the sweep hints them again.
                tracing::warn!(error = %error, "hints could not be queued");
            }
        }
    }
    Ok(admitted)
}
