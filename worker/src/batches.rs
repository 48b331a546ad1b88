//! The registry of the batches this worker has chunks of, and the orders to the store that they give rise to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use promptmill_domain::{BatchEvent, BatchId, TenantId, WorkerReport};
use promptmill_pipeline::{BatchPlan, PlanError};
use promptmill_ports::{Signal, StoreError};
use promptmill_runtime::Engine;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::active::{ActiveBatch, Steer, Ties};
use crate::gate::SessionGate;

/// Pause before an order that the store did not take is repeated.
const STEER_RETRY: Duration = Duration::from_millis(200);

/// A batch that cannot be worked on here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Every batch this worker has chunks of.
pub(crate) struct Batches {
    engine: Engine,
    active: Mutex<HashMap<BatchId, Arc<ActiveBatch>>>,
    ties: Ties,
}

impl Batches {
    /// The registry, and the orders it gives rise to (for [`carry_out`]). `changed` wakes the pump when more of a batch may begin, or
    /// nothing may any more.
    pub(crate) fn new(
        engine: Engine,
        session: Arc<SessionGate>,
        changed: Arc<Notify>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Steer>) {
        let (steer, orders) = mpsc::unbounded_channel();
        let ties = Ties { session, changed, steer };
        (Arc::new(Self { engine, active: Mutex::default(), ties }), orders)
    }

    fn active(&self) -> std::sync::MutexGuard<'_, HashMap<BatchId, Arc<ActiveBatch>>> {
        // Whole entries only: a panic in between leaves a usable map.
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The batch, compiled at first use.
    pub(crate) async fn get(&self, tenant: &TenantId, id: BatchId) -> Result<Arc<ActiveBatch>, LoadError> {
        if let Some(batch) = self.active().get(&id) {
            return Ok(batch.clone());
        }
        let batch = self.engine.store.batch(tenant, id).await?;
        let counts = self.engine.store.progress(tenant, id).await?.counts;
        let provider = self.engine.providers.get(batch.spec.model.provider());
        let provider =
            provider.ok_or_else(|| PlanError::NoProvider(batch.spec.model.provider().to_owned()))?;
        let plan = BatchPlan::new(id, &batch.spec, provider)?;
        let loaded = ActiveBatch::new(&batch, &counts, plan, self.ties.clone());
        Ok(self.active().entry(id).or_insert(loaded).clone())
    }

    /// The worker's account of itself: what it has in hand of each batch, and how fast each is settled.
    pub(crate) fn report(&self, concurrency: usize, slots: usize, now: Instant) -> WorkerReport {
        let mut batches: Vec<_> = self.active().values().filter_map(|batch| batch.report(now)).collect();
        batches.sort_by_key(|report| report.batch);
        WorkerReport {
            concurrency: u32::try_from(concurrency).unwrap_or(u32::MAX),
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
            calls: batches.iter().map(|report| report.calling).sum(),
            batches,
        }
    }

    /// Reads again the batches whose state or limits may have changed, and forgets those nobody works on. Answers whether all of
    /// them could be read.
    pub(crate) async fn refresh(&self) -> bool {
        let mut all_read = true;
        let known: Vec<_> = {
            let mut active = self.active();
            active.retain(|_, batch| Arc::strong_count(batch) > 1);
            active.values().cloned().collect()
        };
        for batch in known {
            match self.engine.store.batch(&batch.tenant, batch.id).await {
                Ok(stored) => batch.refresh(&stored),
                Err(StoreError::NotFound) => batch.close(),
                // The next beat tries again; until then the old word holds.
                Err(error) => {
                    tracing::warn!(batch.id = %batch.id, error = %error, "a batch could not be read again");
                    all_read = false;
                }
            }
        }
        all_read
    }
}

/// Carries out the orders until the registry is gone. An order is repeated until the store has taken it: a batch that is paused here
/// alone would stand still and never say why.
pub(crate) async fn carry_out(engine: Engine, mut orders: mpsc::UnboundedReceiver<Steer>) {
    while let Some(Steer { batch, reason }) = orders.recv().await {
        let event = BatchEvent::Pause(reason);
        loop {
            match engine.store.steer(&batch.tenant, batch.id, event.clone(), engine.clock.now_ms()).await {
                Ok(_) => {
                    batch.pause_ordered();
                    let _ = engine.signals.publish(Signal::BatchChanged(batch.id)).await;
                    break;
                }
                // It was cancelled or closed meanwhile, which also stops it.
                Err(StoreError::Conflict(_) | StoreError::NotFound) => break,
                Err(error) => {
                    tracing::warn!(batch.id = %batch.id, error = %error, "a batch could not be paused; this worker begins nothing of it");
                    tokio::time::sleep(STEER_RETRY).await;
                }
            }
        }
    }
}
