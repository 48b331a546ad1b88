//! The batches this worker has chunks of: compiled plan, gate, budget and guard of each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::batch::GUARD_SAMPLE;
use promptmill_domain::{
    Batch, BatchEvent, BatchId, BatchLimits, Counts, Ending, FailureKind, Money, PauseReason, TenantId,
    Totals,
};
use promptmill_pipeline::{BatchPlan, Gate, PlanError};
use promptmill_ports::{Signal, StoreError};
use promptmill_runtime::Engine;
use tokio::sync::{Notify, mpsc};

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

/// An order to the store that an item's end gave rise to.
pub(crate) struct Steer {
    batch: Arc<ActiveBatch>,
    reason: PauseReason,
}

/// What is shared by the items of one batch in this process.
pub(crate) struct ActiveBatch {
    me: Weak<Self>,
    pub(crate) tenant: TenantId,
    pub(crate) id: BatchId,
    pub(crate) plan: BatchPlan,
    session: Arc<SessionGate>,
    open: AtomicBool,
    /// An order to pause is on its way to the store; until it is there, what the store says is out of date.
    pausing: AtomicBool,
    closed: Notify,
    limits: Mutex<BatchLimits>,
    spent_pico: AtomicU64,
    guard: Mutex<Guard>,
    steer: mpsc::UnboundedSender<Steer>,
}

impl ActiveBatch {
    fn close(&self) {
        self.open.store(false, Ordering::Release);
        self.closed.notify_waiters();
    }

    fn pause(&self, reason: PauseReason) {
        self.pausing.store(true, Ordering::Release);
        self.close();
        let Some(batch) = self.me.upgrade() else { return };
        // The receiver ends only with the worker, and then nobody is left to begin anything.
        let _ = self.steer.send(Steer { batch, reason });
    }

    fn limits(&self) -> BatchLimits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn over_budget(&self) -> bool {
        let limits = *self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.max_cost.is_some_and(|max| self.spent_pico.load(Ordering::Acquire) >= max.pico())
    }

    fn refresh(&self, batch: &Batch) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = batch.limits;
        let pausing = self.pausing.load(Ordering::Acquire);
        if batch.state.may_begin() && !pausing && !self.over_budget() {
            self.open.store(true, Ordering::Release);
        } else {
            self.close();
        }
    }

    /// An item has its outcome: gives the doomed-batch guard its say. Asked before the outcome is recorded, because by then many more
    /// would have been called.
    pub(crate) fn came_to(&self, ending: &Ending) {
        if !self.limits().guard {
            return;
        }
        let opinion = self.guard.lock().unwrap_or_else(PoisonError::into_inner).see(ending);
        if let Some(reason) = opinion {
            tracing::warn!(batch.id = %self.id, "the first items all failed for one cause outside the rows; pausing the batch");
            self.pause(reason);
        }
    }
}

#[async_trait]
impl Gate for ActiveBatch {
    fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) && self.session.is_open()
    }

    async fn closed(&self) {
        loop {
            let closed = self.closed.notified();
            if !self.open.load(Ordering::Acquire) {
                return;
            }
            tokio::select! {
                () = closed => {}
                () = self.session.stopping().cancelled() => return,
            }
        }
    }

    fn spent(&self, totals: &Totals) {
        if totals.cost == Money::ZERO {
            return;
        }
        self.spent_pico.fetch_add(totals.cost.pico(), Ordering::AcqRel);
        if self.over_budget() && self.open.load(Ordering::Acquire) {
            self.pause(PauseReason::Budget);
        }
    }
}

/// Watches the first outcomes of a batch for one cause that dooms all of it.
#[derive(Debug)]
enum Guard {
    Off,
    Watching { seen: u32, kind: Option<FailureKind> },
}

impl Guard {
    fn new(counts: &Counts) -> Self {
        if counts.all_succeeded() == 0 { Self::Watching { seen: 0, kind: None } } else { Self::Off }
    }

    fn see(&mut self, ending: &Ending) -> Option<PauseReason> {
        let Self::Watching { seen, kind } = self else {
            return None;
        };
        match ending {
            Ending::Failed { kind: cause, message }
                if cause.dooms_batch() && kind.is_none_or(|first| first == *cause) =>
            {
                *kind = Some(*cause);
                *seen += 1;
                if *seen < GUARD_SAMPLE {
                    return None;
                }
                let reason = PauseReason::Suspect { kind: *cause, message: message.clone() };
                *self = Self::Off;
                Some(reason)
            }
            Ending::Failed { .. } | Ending::Succeeded { .. } => {
                *self = Self::Off;
                None
            }
        }
    }
}

/// Every batch this worker has chunks of.
pub(crate) struct Batches {
    engine: Engine,
    session: Arc<SessionGate>,
    active: Mutex<HashMap<BatchId, Arc<ActiveBatch>>>,
    steer: mpsc::UnboundedSender<Steer>,
}

impl Batches {
    /// The registry, and the orders it gives rise to (for [`carry_out`]).
    pub(crate) fn new(
        engine: Engine,
        session: Arc<SessionGate>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Steer>) {
        let (steer, orders) = mpsc::unbounded_channel();
        (Arc::new(Self { engine, session, active: Mutex::default(), steer }), orders)
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
        let loaded = Arc::new_cyclic(|me| ActiveBatch {
            me: me.clone(),
            tenant: tenant.clone(),
            id,
            plan,
            session: self.session.clone(),
            open: AtomicBool::new(false),
            pausing: AtomicBool::new(false),
            closed: Notify::new(),
            limits: Mutex::new(batch.limits),
            spent_pico: AtomicU64::new(counts.totals.cost.pico()),
            guard: Mutex::new(Guard::new(&counts)),
            steer: self.steer.clone(),
        });
        loaded.refresh(&batch);
        Ok(self.active().entry(id).or_insert(loaded).clone())
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
                    batch.pausing.store(false, Ordering::Release);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: FailureKind) -> Ending {
        Ending::Failed { kind, message: "no such model".into() }
    }

    fn watch(endings: impl IntoIterator<Item = Ending>) -> Option<PauseReason> {
        let mut guard = Guard::new(&Counts::default());
        endings.into_iter().filter_map(|ending| guard.see(&ending)).next()
    }

    #[test]
    fn the_guard_speaks_when_the_first_items_all_fail_alike_for_a_cause_outside_the_rows() {
        let sample = GUARD_SAMPLE as usize;
        let doomed = vec![failed(FailureKind::ModelUnavailable); sample];
        assert!(matches!(
            watch(doomed.clone()),
            Some(PauseReason::Suspect { kind: FailureKind::ModelUnavailable, .. })
        ));
        assert_eq!(watch(doomed[1..].to_vec()), None);
        let mut mixed = doomed.clone();
        mixed[3] = failed(FailureKind::CredentialRefused);
        mixed.extend(doomed.clone());
        assert_eq!(watch(mixed), None);
        assert_eq!(watch(vec![failed(FailureKind::InvalidOutput); 3 * sample]), None);
    }
}
