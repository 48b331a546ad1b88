//! The loop that runs the tasks: soon when something happened, often enough when a signal was lost.

use std::collections::HashSet;
use std::time::Duration;

use promptmill_domain::{Batch, BatchId, BatchState};
use promptmill_ports::{Signal, StoreError, StoreResult};
use promptmill_runtime::Engine;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::sessions::Watch;
use crate::{admit, close, sweep};

/// How often chunks are admitted and woken without being asked.
const TICK: Duration = Duration::from_millis(100);

/// How often everything is looked at, as if every signal had been lost.
const SWEEP: Duration = Duration::from_secs(1);

/// A running scheduler.
pub struct Scheduler {
    stopping: CancellationToken,
    work: JoinHandle<()>,
}

impl Scheduler {
    /// Begins to schedule.
    pub fn start(engine: Engine) -> Self {
        let stopping = CancellationToken::new();
        let work = tokio::spawn(Loop::new(engine).run(stopping.clone()));
        Self { stopping, work }
    }

    /// Stops after the step in hand.
    pub async fn stop(self) {
        self.stopping.cancel();
        let _ = self.work.await;
    }
}

struct Loop {
    engine: Engine,
    watch: Watch,
    /// Batches a signal said something about since they were looked at.
    touched: HashSet<BatchId>,
    swept: Option<Instant>,
    /// Chunks admitted so far: whose turn it is among batches of one priority.
    turn: usize,
}

impl Loop {
    fn new(engine: Engine) -> Self {
        Self { engine, watch: Watch::default(), touched: HashSet::new(), swept: None, turn: 0 }
    }

    async fn run(mut self, stopping: CancellationToken) {
        let mut signals = self.engine.signals.subscribe();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = ticks.tick() => {}
                signal = signals.recv() => match signal {
                    Ok(signal) => self.note(&signal),
                    Err(RecvError::Lagged(_)) => self.swept = None,
                    // Signals are gone for good; the ticks go on.
                    Err(RecvError::Closed) => {
                        ticks.tick().await;
                    }
                }
            }
            self.drain(&mut signals);
            match self.run_once().await {
                Ok(()) => {}
                Err(error @ StoreError::Unavailable(_)) => {
                    tracing::warn!(error = %error, "the store is away; scheduling waits");
                }
                Err(error) => tracing::error!(error = %error, "a step of the scheduler failed"),
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

    async fn run_once(&mut self) -> StoreResult<()> {
        let sweep_due = self.swept.is_none_or(|at| at.elapsed() >= SWEEP);
        let batches = self.engine.store.open_batches().await?;
        if sweep_due {
            self.watch.run_once(&self.engine, Instant::now()).await?;
        }
        sweep::wake(&self.engine, &batches).await?;
        if sweep_due {
            sweep::rehint(&self.engine, &batches).await?;
        }
        self.turn = self.turn.wrapping_add(admit::run_once(&self.engine, &batches, self.turn).await?);
        let touched = std::mem::take(&mut self.touched);
        for batch in
            batches.iter().filter(|batch| may_end(batch) && (sweep_due || touched.contains(&batch.id)))
        {
            match close::run_once(&self.engine, batch).await {
                Ok(_) => {}
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                // The others must not wait for one that is damaged or was just deleted.
                Err(error) => {
                    tracing::error!(batch.id = %batch.id, error = %error, "a batch could not be closed")
                }
            }
        }
        if sweep_due {
            self.swept = Some(Instant::now());
        }
        Ok(())
    }
}

/// Whether a batch in this state may have nothing open any more.
fn may_end(batch: &Batch) -> bool {
    let paused = matches!(batch.state, BatchState::Paused { .. });
    paused || batch.state.may_begin() || batch.state.seals_with().is_some()
}
