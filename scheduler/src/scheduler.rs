//! The loop that runs the tasks: soon when something happened, often enough when a signal was lost.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use promptmill_domain::chunk::SPREAD;
use promptmill_domain::{Batch, BatchEvent, BatchId, BatchState, CacheScope};
use promptmill_ports::{Outlived, Signal, StoreError, StoreResult};
use promptmill_runtime::Engine;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::admit::Admitter;
use crate::config::SchedulerConfig;
use crate::deliveries::{Courier, Open};
use crate::lead::Lead;
use crate::sessions::Watch;
use crate::{budgets, close, replies, retention, schedules, submits, sweep};

/// From one step to the next at least while many batches come and go: a step serves all that happened since the one before, at the same cost.
const PACE: Duration = Duration::from_millis(8);

/// The same while there is one batch at a time to be served: whoever hands in jobs one after the other should not wait for a crowd.
const PACE_OF_ONE: Duration = Duration::from_millis(2);

/// From a step that failed to the next at least.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// How often parked chunks are woken at most; their times are no finer.
const WAKE: Duration = Duration::from_millis(100);

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
        let (ended, outlived) = mpsc::unbounded_channel();
        let (open, told_open) = watch::channel(Vec::new());
        let open = config.webhooks.is_some().then_some(open);
        let looking = Loop { open, ..Loop::new(engine.clone(), admitter, lead.clone(), poll, ended) };
        work.spawn(looking.run(stopping.clone()));
        work.spawn(replies::run(engine.clone(), outlived, stopping.clone()));
        if let Some(recurring) = config.recurring {
            let webhooks = config.webhooks.clone();
            work.spawn(schedules::run(engine.clone(), recurring, webhooks, lead.clone(), stopping.clone()));
        }
        if let Some(webhooks) = config.webhooks {
            let courier = Courier::new(engine.clone(), webhooks, lead.clone(), poll);
            work.spawn(courier.run(told_open, stopping.clone()));
        }
        if let Some(keeping) = config.keeping {
            work.spawn(retention::run(engine.clone(), keeping, lead.clone(), stopping.clone()));
        }
        work.spawn(budgets::run(engine.clone(), lead.clone(), stopping.clone()));
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
    /// The open batches when they were read last, but for those that were closed since, here or by a worker that told of it.
    batches: Vec<Batch>,
    /// Whether any of them may be another by now.
    is_stale: bool,
    /// Batches that came or changed since they were read.
    changed: HashSet<BatchId>,
    /// Batches of which a chunk was done since.
    advanced: HashSet<BatchId>,
    /// Single rows that were done since; they are closed here if they are open still when all batches are read.
    settled: HashSet<BatchId>,
    /// How many batches workers ended since the last step.
    ended: usize,
    /// Whether the last step left something for one that follows at once.
    goes_on: bool,
    /// The priority of each open batch when it was looked at last.
    priorities: HashMap<BatchId, i16>,
    /// Where replies are named that nobody asks for any more.
    outlived: mpsc::UnboundedSender<Outlived>,
    /// Where it is told which batches are open, for those who are to be told of them.
    open: Option<watch::Sender<Vec<Open>>>,
    swept: Option<Instant>,
    woken: Option<Instant>,
}

impl Loop {
    fn new(
        engine: Engine,
        admitter: Admitter,
        lead: Lead,
        poll: Duration,
        outlived: mpsc::UnboundedSender<Outlived>,
    ) -> Self {
        Self {
            engine,
            admitter,
            lead,
            poll,
            watch: Watch::default(),
            watched: None,
            batches: Vec::new(),
            is_stale: true,
            changed: HashSet::new(),
            advanced: HashSet::new(),
            settled: HashSet::new(),
            ended: 0,
            goes_on: false,
            priorities: HashMap::new(),
            outlived,
            open: None,
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
            let mut asked = std::mem::take(&mut self.goes_on);
            let due = self.admitter.next_due();
            tokio::select! {
                () = stopping.cancelled() => return,
                () = std::future::ready(()), if asked => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => asked = true,
                _ = ticks.tick() => {}
                signal = signals.recv() => match signal {
                    Ok(signal) => asked |= self.note(&signal),
                    Err(RecvError::Lagged(_)) => self.swept = None,
                    // Signals are gone for good; the ticks go on.
                    Err(RecvError::Closed) => {
                        ticks.tick().await;
                    }
                }
            }
            let poll_due = || stepped.is_none_or(|at| at.elapsed() >= self.poll) || self.swept.is_none();
            if !asked && !poll_due() && self.is_watched() {
                continue;
            }
            sleep_until(not_before).await;
            let poll_due = poll_due();
            asked |= self.drain(&mut signals) || !self.changed.is_empty() || !self.advanced.is_empty();
            not_before = Instant::now() + if self.has_one_job() { PACE_OF_ONE } else { PACE };
            let step = async {
                self.look_around().await?;
                if !self.lead.is_ours() {
                    // Whoever comes to lead looks at everything first.
                    self.changed.clear();
                    self.advanced.clear();
                    self.settled.clear();
                    self.is_stale = true;
                    self.admitter.forget();
                } else if asked || poll_due {
                    stepped = Some(Instant::now());
                    self.is_stale |= poll_due;
                    self.run_once().await?;
                }
                Ok(())
            };
            let Err(error) = step.await else { continue };
            // Soon again, however seldom is polled, and everything: what signals said is lost with the step.
            stepped = None;
            self.swept = None;
            not_before = Instant::now() + AFTER_FAILURE;
            if matches!(error, StoreError::Unavailable(_)) {
                tracing::warn!(error = %error, "the store is away; scheduling waits");
            } else {
                tracing::error!(error = %error, "a step of the scheduler failed");
            }
        }
    }

    /// Answers whether there may be something to do.
    fn note(&mut self, signal: &Signal) -> bool {
        match signal {
            Signal::BatchQueued(batch) | Signal::BatchChanged(batch) => {
                self.changed.insert(*batch);
                true
            }
            Signal::ChunkDone(batch) => {
                match self.batches.binary_search_by_key(batch, |known| known.id) {
                    // Whoever worked on it ends it and says so, unless it is of an earlier release, or died just then.
                    Ok(at) if self.batches[at].total == 1 => {
                        self.settled.insert(*batch);
                        return false;
                    }
                    Ok(_) => {}
                    Err(_) => drop(self.changed.insert(*batch)),
                }
                self.advanced.insert(*batch);
                true
            }
            // Others may begin then.
            Signal::BatchEnded(batch) => {
                self.settled.remove(batch);
                let known = self.batches.binary_search_by_key(batch, |known| known.id);
                let is_known = known.map(|at| self.batches.remove(at)).is_ok();
                self.ended += usize::from(is_known);
                is_known
            }
            Signal::WorkQueued | Signal::LanePaused { .. } => false,
        }
    }

    /// One step serves every signal that has arrived by then. Answers whether there may be something to do.
    fn drain(&mut self, signals: &mut Receiver<Signal>) -> bool {
        let mut asked = false;
        loop {
            match signals.try_recv() {
                Ok(signal) => asked |= self.note(&signal),
                Err(TryRecvError::Lagged(_)) => self.swept = None,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return asked,
            }
        }
    }

    /// Whether what is to be served is one small batch at most.
    fn has_one_job(&self) -> bool {
        let is_small = |id: &BatchId| {
            let known = self.batches.binary_search_by_key(id, |batch| batch.id).ok();
            known.is_none_or(|at| self.batches[at].total <= SPREAD)
        };
        let mut served = self.changed.union(&self.advanced);
        self.ended <= 1 && served.next().is_none_or(is_small) && served.next().is_none()
    }

    fn is_watched(&self) -> bool {
        self.watched.is_some_and(|at| at.elapsed() < SWEEP)
    }

    /// Looks who is alive, and by that who leads.
    async fn look_around(&mut self) -> StoreResult<()> {
        if self.is_watched() {
            return Ok(());
        }
        let now = Instant::now();
        self.watch.run_once(&self.engine, now).await?;
        self.watched = Some(now);
        self.lead.decide(self.watch.oldest_scheduler());
        Ok(())
    }

    async fn run_once(&mut self) -> StoreResult<()> {
        let sweep_due = self.swept.is_none_or(|at| at.elapsed() >= SWEEP.max(self.poll));
        let (changed, mut advanced) = (std::mem::take(&mut self.changed), std::mem::take(&mut self.advanced));
        self.ended = 0;
        let mut batches = std::mem::take(&mut self.batches);
        // Until the step is through.
        let is_stale = std::mem::replace(&mut self.is_stale, true);
        let ids: Vec<_> = changed.iter().copied().collect();
        let all = is_stale || sweep_due;
        if all {
            advanced.extend(std::mem::take(&mut self.settled));
        }
        let read = async {
            match all {
                true => self.engine.store.open_batches().await,
                false if ids.is_empty() => Ok(vec![]),
                false => self.engine.store.open_among(&ids).await,
            }
        };
        self.admitter.begin_step();
        // Which batches are open is known then but for those that are read.
        let ahead = async {
            match all {
                true => Ok(()),
                false => self.admitter.look_ahead(&self.engine, &batches, &changed).await,
            }
        };
        let (read, ahead) = tokio::join!(read, ahead);
        ahead?;
        batches.retain(|batch| !all && !changed.contains(&batch.id));
        batches.extend(read?);
        batches.sort_by_key(|batch| batch.id);
        self.expire(&batches).await?;
        if sweep_due {
            budgets::resume(&self.engine, &batches).await?;
        }
        let ranks = self.admitter.look(&self.engine, &batches).await?;
        // Hints that are queued move when they are put in again with another priority.
        if self.priorities_changed(&batches) || sweep_due {
            sweep::rehint(&self.engine, &batches, &ranks).await?;
        }
        let begun = self.admitter.admit(&self.engine, &batches).await?;
        let comes_new = batches.iter().any(|of| begun.contains(&of.id) && of.state == BatchState::Queued);
        // Single rows that are in hand wait for nothing.
        let has_others = |of: &Batch| of.state == BatchState::Running && of.total > 1;
        if comes_new && batches.iter().any(has_others) {
            // A worker looks for hints by itself as well, but not at once.
            let _ = self.engine.signals.publish(Signal::WorkQueued).await;
        }
        for batch in batches.iter_mut().filter(|batch| begun.contains(&batch.id)) {
            batch.state = BatchState::Running;
        }
        let waited = self.admitter.follow_up(&self.engine).await?;
        sweep::hint(&self.engine, &batches, &ranks, waited).await;
        if self.woken.is_none_or(|at| at.elapsed() >= WAKE) {
            sweep::wake(&self.engine, &batches, &ranks).await?;
            self.woken = Some(Instant::now());
        }
        let may_be_through = |batch: &Batch| match batch.state.seals_with() {
            Some(_) => changed.contains(&batch.id) || advanced.contains(&batch.id),
            // One of which chunks wait is not at its end.
            None => {
                advanced.contains(&batch.id) && !(batch.state.may_begin() && self.admitter.waits(batch.id))
            }
        };
        let ending = batches.iter().filter(|batch| may_end(batch) && (sweep_due || may_be_through(batch)));
        let closed = self.close(&ending.collect::<Vec<_>>()).await?;
        batches.retain(|batch| !closed.contains(&batch.id));
        // Whether chunks of these wait is not known yet; they are looked at again.
        let unsure = |id: &BatchId| {
            let batch = batches.iter().find(|batch| batch.id == *id);
            batch.is_some_and(|batch| batch.state.may_begin() && self.admitter.is_unsure(batch.id))
        };
        let left: Vec<_> = advanced.into_iter().filter(unsure).collect();
        self.advanced.extend(left);
        let has_queued = batches.iter().any(|batch| batch.state == BatchState::Queued);
        self.goes_on = (!closed.is_empty() && has_queued) || self.admitter.looks_again();
        if sweep_due {
            self.swept = Some(Instant::now());
            if let Some(open) = &self.open {
                open.send_replace(Open::among(&batches));
            }
        }
        self.batches = batches;
        self.is_stale = false;
        Ok(())
    }

    /// Closes those of the batches that are at their end, many at a time: the store does what comes together in one go. Answers which.
    async fn close(&self, ending: &[&Batch]) -> StoreResult<Vec<BatchId>> {
        let mut all_closed = Vec::new();
        for some in ending.chunks(CLOSING) {
            let closed = join_all(some.iter().map(|batch| close::run_once(&self.engine, batch))).await;
            for (batch, closed) in some.iter().zip(closed) {
                match closed {
                    Ok(true) => {
                        all_closed.push(batch.id);
                        if batch.spec.cache == Some(CacheScope::Batch) {
                            // Its receiver ends only with the scheduler.
                            let _ = self.outlived.send(Outlived::OfBatch(batch.tenant.clone(), batch.id));
                        }
                    }
                    Ok(false) => {}
                    Err(error @ StoreError::Unavailable(_)) => return Err(error),
                    // The others must not wait for one that is damaged or was just deleted.
                    Err(error) => {
                        tracing::error!(batch.id = %batch.id, error = %error, "a batch could not be closed")
                    }
                }
            }
        }
        Ok(all_closed)
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
