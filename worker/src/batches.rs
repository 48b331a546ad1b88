//! The registry of the batches this worker has chunks of, and the orders to the store that they give rise to.

use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use promptmill_domain::{Batch, BatchEvent, BatchId, WorkerReport};
use promptmill_pipeline::{BatchPlan, PlanError, Treasury};
use promptmill_ports::{Assignment, Signal, StoreError};
use promptmill_runtime::Engine;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use crate::active::{ActiveBatch, Steer, Ties};
use crate::gate::SessionGate;
use crate::templates::Templates;

/// Pause before an order that the store did not take is repeated.
const STEER_RETRY: Duration = Duration::from_millis(200);

/// How long is waited for the price of a model.
const PRICES_WITHIN: Duration = Duration::from_secs(2);

/// Batches that are read again at the same time.
const READ_AGAIN: usize = 16;

/// A batch that cannot be worked on here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// How often changes were told of, until some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told(u64);

/// A batch, or why it cannot be worked on here.
pub(crate) type Loaded = Result<Arc<ActiveBatch>, Arc<LoadError>>;

/// Every batch this worker has chunks of.
pub(crate) struct Batches {
    engine: Engine,
    active: Mutex<HashMap<BatchId, Arc<ActiveBatch>>>,
    templates: Templates,
    ties: Ties,
    /// How often changes were told of.
    told: AtomicU64,
}

impl Batches {
    /// The registry, and the orders it gives rise to (for [`carry_out`]). `changed` wakes the pump when more of a batch may begin, or
    /// nothing may any more.
    pub(crate) fn new(
        engine: Engine,
        session: Arc<SessionGate>,
        changed: Arc<Notify>,
        treasury: Arc<Treasury>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Steer>) {
        let (steer, orders) = mpsc::unbounded_channel();
        let ties = Ties { session, changed, steer, treasury, providers: engine.providers.clone() };
        let (active, templates, told) = (Mutex::default(), Templates::default(), AtomicU64::new(0));
        (Arc::new(Self { engine, active, templates, ties, told }), orders)
    }

    fn active(&self) -> std::sync::MutexGuard<'_, HashMap<BatchId, Arc<ActiveBatch>>> {
        // Whole entries only: a panic in between leaves a usable map.
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The batch, if it is known here.
    pub(crate) fn known(&self, id: BatchId) -> Option<Arc<ActiveBatch>> {
        self.active().get(&id).cloned()
    }

    /// How often changes were told of until now.
    pub(crate) fn told(&self) -> Told {
        Told(self.told.load(Ordering::Acquire))
    }

    /// Each of the batches, compiled at first use; those that are used for the first time are read together, but for what was `read` of them
    /// already, `since` then.
    pub(crate) async fn get(
        &self,
        ids: &HashSet<BatchId>,
        read: Vec<Assignment>,
        since: Told,
    ) -> HashMap<BatchId, Loaded> {
        let (mut loaded, mut unknown) = (HashMap::with_capacity(ids.len()), Vec::new());
        {
            let active = self.active();
            for id in ids {
                match active.get(id) {
                    Some(batch) => drop(loaded.insert(*id, Ok(batch.clone()))),
                    None => unknown.push(*id),
                }
            }
        }
        if unknown.is_empty() {
            return loaded;
        }
        self.ask_prices(&read).await;
        for assignment in read.iter().filter(|read| unknown.contains(&read.batch.id)) {
            loaded.insert(assignment.batch.id, self.load(assignment).map_err(Arc::new));
        }
        unknown.retain(|id| !loaded.contains_key(id));
        match self.engine.store.assignments(&unknown).await {
            Ok(assignments) => {
                self.ask_prices(&assignments).await;
                loaded.extend(self.load_all(unknown, &assignments));
            }
            // One that is damaged, or takes too long to be counted, must not keep the others from being worked on.
            Err(_) if unknown.len() > 1 => {
                for id in unknown {
                    match self.engine.store.assignments(&[id]).await {
                        Ok(assignments) => loaded.extend(self.load_all(vec![id], &assignments)),
                        Err(error) => drop(loaded.insert(id, Err(Arc::new(LoadError::Store(error))))),
                    }
                }
            }
            Err(error) => {
                let error = Arc::new(LoadError::Store(error));
                loaded.extend(unknown.into_iter().map(|id| (id, Err(error.clone()))));
            }
        }
        if self.told() != since {
            // What was told of a batch that was not known yet was heard by nobody.
            self.read_again(loaded.values().flatten().cloned().collect::<Vec<_>>()).await;
        }
        loaded
    }

    /// Asks what the models cost of batches that are within a limit, so that what their calls may cost can be set aside.
    async fn ask_prices(&self, assignments: &[Assignment]) {
        let has_limit = |batch: &Batch| {
            let own = batch.limits.max_cost.is_some() || batch.spec.fallback.max_price.is_some();
            own || self.ties.treasury.day().is_some()
        };
        let limited = assignments.iter().map(|assignment| &assignment.batch).filter(|batch| has_limit(batch));
        let models: HashSet<_> = limited.flat_map(|batch| batch.spec.models().cloned()).collect();
        if models.is_empty() {
            return;
        }
        let providers = self.engine.providers.clone();
        let asking = tokio::spawn(async move {
            for model in models {
                providers.price(&model).await;
            }
        });
        // Without an answer in time calls are taken to cost what those before did, until it comes.
        let _ = timeout(PRICES_WITHIN, asking).await;
    }

    fn load_all(&self, ids: Vec<BatchId>, assignments: &[Assignment]) -> HashMap<BatchId, Loaded> {
        let load = |of: &Assignment| (of.batch.id, self.load(of).map_err(Arc::new));
        let mut loaded: HashMap<_, _> = assignments.iter().map(load).collect();
        for id in ids {
            loaded.entry(id).or_insert_with(|| Err(Arc::new(LoadError::Store(StoreError::NotFound))));
        }
        loaded
    }

    fn load(&self, Assignment { batch, counts }: &Assignment) -> Result<Arc<ActiveBatch>, LoadError> {
        let find = |name: &str| self.engine.providers.get(name);
        let plan = BatchPlan::among(self.templates.of(&batch.spec)?, batch.id, &batch.spec, find)?;
        let plan = plan.sharing(&batch.tenant, &batch.spec);
        let fresh = ActiveBatch::new(batch, counts, plan, self.ties.clone());
        Ok(self.active().entry(batch.id).or_insert(fresh).clone())
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

    /// Forgets batches that nobody worked on since it was asked last, and templates that nobody asked for.
    pub(crate) fn forget_idle(&self) {
        self.templates.forget_idle();
        self.active().retain(|_, batch| Arc::strong_count(batch) > 1 || !batch.was_idle());
    }

    /// Forgets a batch that is over; where something of it is in hand nothing more of it begins.
    pub(crate) fn ended(&self, id: BatchId) {
        let mut active = self.active();
        match active.get(&id) {
            Some(batch) if Arc::strong_count(batch) > 1 => batch.close(),
            Some(_) => drop(active.remove(&id)),
            None => {}
        }
    }

    /// Reads a batch again whose state or limits changed, where it is known here.
    pub(crate) async fn refresh(&self, id: BatchId) {
        self.told.fetch_add(1, Ordering::AcqRel);
        if let Some(known) = self.known(id) {
            self.read_again([known]).await;
        }
    }

    /// Reads again all batches whose state or limits may have changed. Answers whether all of them could be read.
    pub(crate) async fn refresh_all(&self) -> bool {
        self.told.fetch_add(1, Ordering::AcqRel);
        let known: Vec<_> = {
            let mut active = self.active();
            active.retain(|_, batch| Arc::strong_count(batch) > 1);
            active.values().cloned().collect()
        };
        self.read_again(known).await
    }

    async fn read_again(&self, batches: impl IntoIterator<Item = Arc<ActiveBatch>>) -> bool {
        let store = &self.engine.store;
        let read = |batch: Arc<ActiveBatch>| async move {
            match store.batch(&batch.tenant, batch.id).await {
                Ok(stored) => {
                    if stored.limits.max_cost.is_some() && !batch.has_max_cost() {
                        let (providers, models) = (self.engine.providers.clone(), stored.spec.clone());
                        tokio::spawn(async move {
                            for model in models.models() {
                                providers.price(model).await;
                            }
                        });
                        match store.progress(&batch.tenant, batch.id).await {
                            Ok(progress) => batch.spent_before(progress.counts.totals.cost),
                            Err(error) => {
                                tracing::warn!(batch.id = %batch.id, error = %error, "what a batch spent could not be read");
                                return false;
                            }
                        }
                    }
                    batch.refresh(&stored);
                }
                Err(StoreError::NotFound) => batch.close(),
                // The next beat tries again; until then the old word holds.
                Err(error) => {
                    tracing::warn!(batch.id = %batch.id, error = %error, "a batch could not be read again");
                    return false;
                }
            }
            true
        };
        let read = stream::iter(batches).map(read).buffer_unordered(READ_AGAIN);
        read.fold(true, |all, one| ready(all && one)).await
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
