//! Which waiting chunks may run next.

use std::collections::HashMap;

use promptmill_domain::{Batch, BatchId, BatchState, TenantId};
use promptmill_ports::StoreResult;
use promptmill_runtime::Engine;

/// Hints to keep queued: enough for the workers never to wait for the scheduler, few enough for a later batch to get its turn soon.
const WINDOW: usize = 32;

/// Ready chunks that are counted at most; where there are more, the queue is full for every priority.
const COUNTED: u32 = 512;

/// Lets waiting chunks of the open batches run until the queue holds enough of them: batches of higher priority first, then in turn,
/// beginning with the `turn`-th. A queue that is full of lower priorities is no reason to wait, nor is one that is full of other batches
/// for a batch that has nothing in it: those may be slow, or limited. Of one tenant at most `most_running` batches run. Answers how many
/// chunks were admitted.
pub(crate) async fn run_once(
    engine: &Engine,
    batches: &[Batch],
    turn: usize,
    most_running: Option<usize>,
) -> StoreResult<usize> {
    let queued = match engine.queue.depth().await {
        Ok(depth) => depth,
        Err(error) => {
            tracing::warn!(error = %error, "the depth of the queue is unknown; admitting nothing");
            return Ok(0);
        }
    };
    let mut free = WINDOW.saturating_sub(queued);
    let mut ready = Ready::new(batches);
    let mut admitted = 0;
    let mut candidates = candidates(batches, most_running);
    for equals in candidates.chunk_by_mut(|a, b| a.limits.priority == b.limits.priority) {
        let mut room =
            if free > 0 { free } else { ready.room_above(engine, equals[0].limits.priority).await? };
        // Where there is room for one chunk at a time, the oldest batch would else take it every time.
        equals.rotate_left(turn % equals.len());
        let share = room.div_ceil(equals.len()).max(1);
        for batch in equals {
            let take = share.min(room);
            if take == 0 {
                break;
            }
            let taken = admit(engine, batch, take).await?;
            room -= taken.min(room);
            free -= taken.min(free);
            admitted += taken;
        }
    }
    if free == 0 {
        admitted += admit_absent(engine, &mut ready, &candidates).await?;
    }
    Ok(admitted)
}

/// Admits one chunk of each batch that has none ready.
async fn admit_absent(engine: &Engine, ready: &mut Ready<'_>, candidates: &[&Batch]) -> StoreResult<usize> {
    let mut admitted = 0;
    if candidates.len() > 1 {
        for batch in candidates {
            if !ready.has_some(engine, batch.id).await? {
                admitted += admit(engine, batch, 1).await?;
            }
        }
    }
    Ok(admitted)
}

/// Admits up to `take` chunks of a batch and hints them. Answers how many.
async fn admit(engine: &Engine, batch: &Batch, take: usize) -> StoreResult<usize> {
    let waiting = engine.store.waiting(batch.id, u32::try_from(take).unwrap_or(u32::MAX)).await?;
    if waiting.is_empty() {
        return Ok(0);
    }
    let chunks = engine.store.admit(&waiting, engine.clock.now_ms()).await?;
    let hints: Vec<_> = chunks.into_iter().map(|chunk| (chunk, batch.limits.priority)).collect();
    if let Err(error) = engine.queue.push(&hints).await {
        // They are ready in the store; the sweep hints them again.
        tracing::warn!(error = %error, "hints could not be queued");
    }
    Ok(hints.len())
}

/// The batches that may be served, by priority, then by age: those that run, and as many queued ones of each tenant as may run beside them.
fn candidates(batches: &[Batch], most_running: Option<usize>) -> Vec<&Batch> {
    let mut serving: Vec<&Batch> = batches.iter().filter(|batch| batch.state.may_begin()).collect();
    serving.sort_by_key(|batch| std::cmp::Reverse(batch.limits.priority));
    let Some(most) = most_running else { return serving };
    let mut running: HashMap<&TenantId, usize> = HashMap::new();
    for batch in serving.iter().filter(|batch| batch.state == BatchState::Running) {
        *running.entry(&batch.tenant).or_default() += 1;
    }
    serving.retain(|batch| {
        let running = running.entry(&batch.tenant).or_default();
        let may_run = batch.state == BatchState::Running || *running < most;
        if may_run && batch.state != BatchState::Running {
            *running += 1;
        }
        may_run
    });
    serving
}

/// How many chunks were ready before this round, by batch; counted only when it matters.
struct Ready<'a> {
    batches: &'a [Batch],
    counted: Option<Counted>,
}

struct Counted {
    by_batch: HashMap<BatchId, usize>,
    /// There are more than were counted.
    more: bool,
}

impl<'a> Ready<'a> {
    fn new(batches: &'a [Batch]) -> Self {
        Self { batches, counted: None }
    }

    /// How many chunks of this priority may be queued ahead of what fills the queue.
    async fn room_above(&mut self, engine: &Engine, priority: i16) -> StoreResult<usize> {
        let lowest = self.batches.iter().map(|batch| batch.limits.priority).min();
        if lowest.is_none_or(|lowest| lowest >= priority) {
            return Ok(0);
        }
        let priorities: HashMap<BatchId, i16> = {
            let serving = self.batches.iter().filter(|batch| batch.state.may_begin());
            serving.map(|batch| (batch.id, batch.limits.priority)).collect()
        };
        let counted = self.counted(engine).await?;
        if counted.more {
            return Ok(0);
        }
        let ahead = |batch: &BatchId| priorities.get(batch).is_some_and(|of| *of >= priority);
        let ahead: usize =
            counted.by_batch.iter().filter(|(batch, _)| ahead(batch)).map(|(_, chunks)| chunks).sum();
        Ok(WINDOW.saturating_sub(ahead))
    }

    /// Whether a chunk of the batch was ready; taken for granted where not all could be counted.
    async fn has_some(&mut self, engine: &Engine, batch: BatchId) -> StoreResult<bool> {
        let counted = self.counted(engine).await?;
        Ok(counted.more || counted.by_batch.contains_key(&batch))
    }

    async fn counted(&mut self, engine: &Engine) -> StoreResult<&Counted> {
        let counted = match self.counted.take() {
            Some(counted) => counted,
            None => {
                let ready = engine.store.ready(None, COUNTED).await?;
                let mut by_batch: HashMap<BatchId, usize> = HashMap::new();
                for chunk in &ready {
                    *by_batch.entry(chunk.batch).or_default() += 1;
                }
                Counted { by_batch, more: ready.len() >= COUNTED as usize }
            }
        };
        Ok(self.counted.insert(counted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use promptmill_domain::{BatchLimits, BatchSpec, LaneId};

    fn batch(n: u8, tenant: &str, state: BatchState, priority: i16) -> Batch {
        let lane = LaneId::new("demo", "none");
        Batch {
            id: BatchId::from_bytes([n; 16]),
            tenant: tenant.parse().unwrap(),
            state,
            ver: 1,
            spec: BatchSpec::new("{}".to_owned(), "demo:m".parse().unwrap(), lane),
            limits: BatchLimits { priority, ..BatchLimits::default() },
            total: 1,
            created_ms: 0,
            submitted_ms: None,
            finished_ms: None,
            final_counts: None,
        }
    }

    #[test]
    fn beside_the_running_batches_of_a_tenant_the_most_urgent_queued_ones_may_run() {
        let (running, queued) = (BatchState::Running, BatchState::Queued);
        let batches = [
            batch(1, "a", queued.clone(), 0),
            batch(2, "a", running.clone(), -5),
            batch(3, "a", queued.clone(), 7),
            batch(4, "a", queued.clone(), 7),
            batch(5, "b", queued, 0),
            batch(6, "c", BatchState::Cancelling, 9),
            batch(7, "c", running.clone(), 0),
            batch(8, "c", running, 0),
        ];
        let ids = |most| -> Vec<u8> {
            candidates(&batches, most).iter().map(|batch| batch.id.as_bytes()[0]).collect()
        };
        assert_eq!(ids(Some(2)), [3, 5, 7, 8, 2]);
        assert_eq!(ids(Some(1)), [5, 7, 8, 2], "what runs already goes on");
        assert_eq!(ids(None), [3, 4, 1, 5, 7, 8, 2]);
    }
}
