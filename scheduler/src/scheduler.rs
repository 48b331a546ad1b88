//! The loop that runs the tasks: soon when something happened, often enough when a signal was lost.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use promptmill_domain::{Batch, BatchEvent, BatchId, BatchState};
use promptmill_ports::{Signal, StoreError, StoreResult};
use promptmill_runtime::Engine;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::admit::Admitter;
use crate::config::SchedulerConfig;
use crate::deliveries::Courier;
use crate::lead::Lead;
use crate::sessions::Watch;
use crate::{close, retention, submits, sweep};

/// From one step to the next at least while many batches come and go: a step serves all that happened since the one before, at the same cost.
const PACE: Duration = Duration::from_millis(8);

/// How often parked chunks are woken at most; their times are no finer.
const WAKE: Duration = Duration::from_millis(50);

/// Batches closed at the same time.
const CLOSING: usize = 256;

/// How often is looked who is alive, and, unless the configuration says less often, at everything as if every signal had been lost.
const SWEEP: Duration = Duration::from_secs(1);

/// A running scheduler. Dropping it ends it in the midst of its steps, which is harmless; [`Scheduler::stop`] lets them end.
pub struct Scheduler {
    stopping: CancellationToken,
    work: JoinSet<()>,
}

impl Scheduler {
    /// Begins to schedule with the default configuration: batches run and end, and nothing else happens.
    pub fn start(engine: Engine) -> Self {
        Self::with(engine, SchedulerConfig::default())
    }

    /// Begins to schedule.
    pub fn with(engine: Engine, config: SchedulerConfig) -> Self {
        let stopping = CancellationToken::new();
        let mut work = JoinSet::new();
        let admitter = Admitter::new(config.running_batches, config.weights);
        let lead = Lead::of(config.standing);
        // A poll of no time would be one after the other.
        let poll = config.poll.max(Duration::from_millis(1));
        work.spawn(Loop::new(engine.clone(), admitter, lead.clone(), poll).run(stopping.clone()));
        if let Some(webhooks) = config.webhooks {
            let courier = Courier::new(engine.clone(), webhooks, lead.clone(), poll);
            work.spawn(courier.run(stopping.clone()));
        }
        if let Some(keeping) = config.keeping {
            work.spawn(retention::run(engine.clone(), keeping, lead.clone(), stopping.clone()));
        }
        work.spawn(submits::run(engine, config.finish_submit_after, lead, stopping.clone()));
        Self { stopping, work }
    }

    /// Stops after the steps in hand. Deliveries that are under way get two seconds; what they came to is else found out again.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        while self.work.join_next().await.is_some() {}
    }
}

struct Loop {
    engine: Engine,
    admitter: Admitter,
    lead: Lead,
    poll: Duration,
    watch: Watch,
    watched: Option<Instant>,
    /// Batches a signal said something about since they were looked at.
    touched: HashSet<BatchId>,
    /// The priority of each open batch when it was looked at last.
    priorities: HashMap<BatchId, i16>,
    swept: Option<Instant>,
    woken: Option<Instant>,
}

impl Loop {
    fn new(engine: Engine, admitter: Admitter, lead: Lead, poll: Duration) -> Self {
        Self {
            engine,
            admitter,
            lead,
            poll,
            watch: Watch::default(),
            watched: None,
            touched: HashSet::new(),
            priorities: HashMap::new(),
            swept: None,
            woken: None,
        }
    }

    async fn run(mut self, stopping: CancellationToken) {
        let mut signals = self.engine.signals.subscribe();
        let mut ticks = interval(self.poll.min(SWEEP));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stepped: Option<Instant> = None;
        // A batch that comes alone waits for nothing.
        let mut not_before = Instant::now();
        loop {
            let mut asked = false;
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = ticks.tick() => {}
                signal = signals.recv() => match signal {
                    Ok(signal) => {
                        asked = true;
                        self.note(&signal);
                    }
                    Err(RecvError::Lagged(_)) => self.swept = None,
                    // Signals are gone for good; the ticks go on.
                    Err(RecvError::Closed) => {
                        ticks.tick().await;
                    }
                }
            }
            sleep_until(not_before).await;
            self.drain(&mut signals);
            let begun = Instant::now();
            not_before = if self.touched.len() > 1 { begun + PACE } else { begun };
            let poll_due = stepped.is_none_or(|at| at.elapsed() >= self.poll) || self.swept.is_none();
            let step = async {
                self.look_around().await?;
                if !self.lead.is_ours() {
                    // Whoever comes to lead looks at everything first.
                    self.touched.clear();
                } else if asked || poll_due {
                    stepped = Some(Instant::now());
                    self.run_once().await?;
                }
                Ok(())
            };
            let Err(error) = step.await else { continue };
            // Soon again, however seldom is polled.
            stepped = None;
            if matches!(error, StoreError::Unavailable(_)) {
                tracing::warn!(error = %error, "the store is away; scheduling waits");
            } else {
                tracing::error!(error = %error, "a step of the scheduler failed");
            }
        }
    }

    fn note(&mut self, signal: &Signal) {
        match signal {
            Signal::BatchChanged(batch) | Signal::ChunkDone(batch) => {
                self.touched.insert(*batch);
            }
            Signal::WorkArrived | Signal::LanePaused { .. } => {}
        }
    }

    /// One step serves every signal that has arrived by then.
    fn drain(&mut self, signals: &mut Receiver<Signal>) {
        loop {
            match signals.try_recv() {
                Ok(signal) => self.note(&signal),
                Err(TryRecvError::Lagged(_)) => self.swept = None,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// Looks who is alive, and by that who leads.
    async fn look_around(&mut self) -> StoreResult<()> {
        let now = Instant::now();
        if self.watched.is_some_and(|at| now.duration_since(at) < SWEEP) {
            return Ok(());
        }
        self.watch.run_once(&self.engine, now).await?;
        self.watched = Some(now);
        self.lead.decide(self.watch.oldest_scheduler());
        Ok(())
    }

    async fn run_once(&mut self) -> StoreResult<()> {
        let sweep_due = self.swept.is_none_or(|at| at.elapsed() >= SWEEP.max(self.poll));
        let batches = self.engine.store.open_batches().await?;
        self.expire(&batches).await?;
        let ranks = self.admitter.look(&self.engine, &batches).await?;
        if self.woken.is_none_or(|at| at.elapsed() >= WAKE) {
            sweep::wake(&self.engine, &batches, &ranks).await?;
            self.woken = Some(Instant::now());
        }
        // Hints that are queued move when they are put in again with another priority.
        if self.priorities_changed(&batches) || sweep_due {
            sweep::rehint(&self.engine, &batches, &ranks).await?;
        }
        self.admitter.admit(&self.engine, &batches).await?;
        let touched = std::mem::take(&mut self.touched);
        let ending =
            batches.iter().filter(|batch| may_end(batch) && (sweep_due || touched.contains(&batch.id)));
        self.close(&ending.collect::<Vec<_>>()).await?;
        if sweep_due {
            self.swept = Some(Instant::now());
        }
        Ok(())
    }

    /// Closes those of the batches that are at their end, many at a time: the store does what comes together in one go.
    async fn close(&self, ending: &[&Batch]) -> StoreResult<()> {
        for some in ending.chunks(CLOSING) {
            let closed = join_all(some.iter().map(|batch| close::run_once(&self.engine, batch))).await;
            for (batch, closed) in some.iter().zip(closed) {
                match closed {
                    Ok(_) => {}
                    Err(error @ StoreError::Unavailable(_)) => return Err(error),
                    // The others must not wait for one that is damaged or was just deleted.
                    Err(error) => {
                        tracing::error!(batch.id = %batch.id, error = %error, "a batch could not be closed")
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends batches whose deadline passed. They are sealed in a later step, which the signal brings at once.
    async fn expire(&self, batches: &[Batch]) -> StoreResult<()> {
        let now_ms = self.engine.clock.now_ms();
        for batch in batches.iter().filter(|batch| is_late(batch, now_ms)) {
            let expiring = self.engine.store.steer(&batch.tenant, batch.id, BatchEvent::Expire, now_ms);
            match expiring.await {
                Ok(_) => {
                    tracing::info!(batch.id = %batch.id, "the deadline of a batch passed");
                    // A lost signal costs until the next sweep.
                    let _ = self.engine.signals.publish(Signal::BatchChanged(batch.id)).await;
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                // It was cancelled or closed meanwhile.
                Err(StoreError::Conflict(_) | StoreError::NotFound) => {}
                Err(error) => {
                    tracing::error!(batch.id = %batch.id, error = %error, "a batch could not be expired")
                }
            }
        }
        Ok(())
    }

    fn priorities_changed(&mut self, batches: &[Batch]) -> bool {
        let now: HashMap<BatchId, i16> =
            batches.iter().map(|batch| (batch.id, batch.limits.priority)).collect();
        let known = std::mem::replace(&mut self.priorities, now);
        self.priorities.iter().any(|(id, priority)| known.get(id).is_some_and(|known| known != priority))
    }
}

/// Whether the deadline passed of a batch that may expire.
fn is_late(batch: &Batch, now_ms: u64) -> bool {
    let goes_on = batch.state.may_begin() || matches!(batch.state, BatchState::Paused { .. });
    goes_on && batch.limits.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms)
}

/// Whether a batch in this state may have nothing open any more.
fn may_end(batch: &Batch) -> bool {
    let paused = matches!(batch.state, BatchState::Paused { .. });
    paused || batch.state.may_begin() || batch.state.seals_with().is_some()
}
