//! The role as a whole: start, and the two ways to stop.

use std::sync::Arc;
use std::time::Duration;

use apalis_core::worker::builder::WorkerBuilder;
use promptmill_domain::{SessionId, TenantCosts};
use promptmill_pipeline::{Concurrency, Pipeline, ReplyCache, RetryPolicy, Treasury};
use promptmill_ports::StoreError;
use promptmill_runtime::Engine;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::batches::{Batches, carry_out};
use crate::gate::SessionGate;
use crate::hints;
use crate::pump::Pump;
use crate::runtime::{ItemService, JobBackend};
use crate::session::keep_alive;
use crate::settler::Settler;
use crate::slots::Slots;

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// The most provider calls at the same time; when all are in use, batches that make few get up to 16 more (none below 16, a sixteenth above 256).
    pub concurrency: usize,
    /// Items that may wait for their end to be recorded beside the 256 that keep a slot for it; a store whose writes take long has more in each then.
    /// They are there only where calls end faster than they are recorded, and are called again when the process dies just then.
    pub recording: usize,
    /// Waits between attempts.
    pub retry: RetryPolicy,
    /// How long a clean stop waits for calls that are under way.
    pub stop_within: Duration,
    /// What the session is called for people: role and host.
    pub label: String,
    /// What tenants may spend.
    pub tenant_costs: TenantCosts,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            concurrency: 16,
            recording: 0,
            retry: RetryPolicy::default(),
            stop_within: Duration::from_secs(30),
            label: "worker".to_owned(),
            tenant_costs: TenantCosts::default(),
        }
    }
}

/// How long the cache may take for the replies that are not kept yet when the worker ends.
const CACHE_CLOSES_WITHIN: Duration = Duration::from_secs(5);

/// A worker could not start.
#[derive(Debug, thiserror::Error)]
#[error("the worker cannot open its session")]
pub struct WorkerError(#[from] StoreError);

/// A running worker.
pub struct Worker {
    engine: Engine,
    session: SessionId,
    stop_within: Duration,
    pipeline: Arc<Pipeline>,
    treasury: Arc<Treasury>,
    gate: Arc<SessionGate>,
    stopping: CancellationToken,
    abort: CancellationToken,
    work: JoinHandle<()>,
}

impl Worker {
    /// Opens a session and begins to work.
    ///
    /// # Errors
    /// When the store does not take the session.
    pub async fn start(engine: Engine, config: WorkerConfig) -> Result<Self, WorkerError> {
        let session = SessionId::at(engine.clock.now_ms(), rand::random());
        engine.store.open(session, &config.label).await?;
        let (stopping, abort) = (CancellationToken::new(), CancellationToken::new());
        let gate = Arc::new(SessionGate::new(stopping.clone()));
        let (changed, queued) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let treasury =
            Treasury::new(engine.store.clone(), engine.clock.clone(), move || session, config.tenant_costs);
        let (batches, orders) = Batches::new(engine.clone(), gate.clone(), changed.clone(), treasury.clone());
        let slots = Arc::new(Slots::new(config.concurrency, config.recording, changed));
        let (settler, settler_handle) = Settler::new(engine.clone(), slots.clone());
        let cache = Arc::new(ReplyCache::new(engine.store.clone(), engine.clock.clone()));
        let pipeline = Pipeline::new(
            engine.limiter.clone(),
            engine.clock.clone(),
            Concurrency::with_reserve(config.concurrency),
            config.retry,
        );
        let pipeline = Arc::new(pipeline.with_cache(cache.clone()));
        let (jobs, backend) = mpsc::channel(slots.count());
        let pump = Pump {
            engine: engine.clone(),
            session,
            gate: gate.clone(),
            batches: batches.clone(),
            slots: slots.clone(),
            settler: settler_handle.clone(),
            jobs,
            queued: queued.clone(),
            alone: Arc::new(Semaphore::new(1)),
        };
        let items = WorkerBuilder::new(config.label.as_str())
            .backend(JobBackend::new(backend))
            .build(ItemService::new(pipeline.clone(), settler_handle));
        let beats = keep_alive(engine.clone(), session, gate.clone(), batches, config.concurrency, slots);
        let signals = engine.signals.subscribe();
        let work = tokio::spawn({
            let (stopping, abort, engine) = (stopping.clone(), abort.clone(), engine.clone());
            let treasury = treasury.clone();
            async move {
                // Dropped handles end their tasks, which is what an abort is.
                let items = spawn_tied(&stopping, items.run());
                let settler = spawn_tied(&stopping, settler.run());
                let pump = spawn_tied(&stopping, pump.run());
                let _listener = AbortOnDropHandle::new(tokio::spawn(hints::listen(signals, queued)));
                let keeping = AbortOnDropHandle::new(tokio::spawn({
                    let treasury = treasury.clone();
                    async move { treasury.run().await }
                }));
                let caching = spawn_tied(&stopping, {
                    let cache = cache.clone();
                    async move { cache.run().await }
                });
                let _orders = AbortOnDropHandle::new(tokio::spawn(carry_out(engine, orders)));
                let through = async {
                    // Each ends by itself once the one before is gone: the pump when the process stops, the runtime when the
                    // pump's channel ends and its items did, the settler when nobody is left to tell it anything.
                    let _ = pump.await;
                    if let Ok(Err(error)) = items.await {
                        tracing::error!(error = %error, "the runtime of items ended with an error");
                    }
                    let _ = settler.await;
                };
                tokio::select! {
                    () = beats_until_dead(beats, &stopping, &abort) => {}
                    () = through => {}
                    () = abort.cancelled() => {}
                }
                keeping.abort();
                let _ = keeping.await;
                cache.close();
                let _ = tokio::join!(treasury.close(), timeout(CACHE_CLOSES_WITHIN, caching));
            }
        });
        Ok(Self {
            engine,
            session,
            stop_within: config.stop_within,
            pipeline,
            treasury,
            gate,
            stopping,
            abort,
            work,
        })
    }

    /// The worker's session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The limits on money that it spends from, for whoever else of this process calls.
    pub fn treasury(&self) -> Arc<Treasury> {
        self.treasury.clone()
    }

    /// Tells whether the worker begins items: its session lives and it is not stopping.
    pub fn readiness(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let gate = self.gate.clone();
        move || gate.is_open()
    }

    /// Provider calls under way now.
    pub fn calls_in_flight(&self) -> usize {
        self.pipeline.calls_in_flight()
    }

    /// Ends when the worker has ended by itself, which it does only when its session was declared dead or one of its loops broke.
    pub async fn ended(&mut self) {
        // A handle that gave its result must not be asked again.
        if !self.work.is_finished() {
            let _ = (&mut self.work).await;
        }
    }

    /// Begins nothing more, waits for what is under way as long as the configuration says (or until `now` is cancelled), records
    /// it, and hands the rest back without counting a death.
    pub async fn stop(mut self, now: &CancellationToken) {
        self.stopping.cancel();
        let in_time = tokio::select! {
            result = timeout(self.stop_within, self.ended()) => result.is_ok(),
            () = now.cancelled() => false,
        };
        if !in_time {
            tracing::warn!("calls that are still under way are given up; their items run again");
            self.abort.cancel();
            self.ended().await;
        }
        match self.engine.store.end(self.session, self.engine.clock.now_ms()).await {
            Ok(0) => {}
            Ok(chunks) => tracing::info!(chunks, "chunks were handed back"),
            Err(error) => {
                tracing::warn!(error = %error, "the session could not be ended; its chunks go back when it is found dead");
            }
        }
    }
}

/// Runs a loop of the worker. When it ends, by a panic too, the worker begins to stop: with one loop gone the others would go on
/// calling without recording.
fn spawn_tied<F>(stopping: &CancellationToken, work: F) -> AbortOnDropHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let guard = stopping.clone().drop_guard();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let _guard = guard;
        work.await
    }))
}

async fn beats_until_dead(
    beats: impl Future<Output = ()>,
    stopping: &CancellationToken,
    abort: &CancellationToken,
) {
    beats.await;
    // Nothing of a dead session may begin or be recorded.
    stopping.cancel();
    abort.cancel();
}
