//! Events to their receivers: at least once each, the first try as soon as the event is written.
//!
//! The [`Courier`] hands events on as deliveries ([`fan_out`]), takes those that are due, and tries each ([`attempt`]), so many at a time
//! ([`board`]). A delivery that was taken and left lying, by a crash or because its receiver is slow, is due again a minute later.

mod attempt;
mod board;
mod body;
mod fan_out;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use promptmill_egress::GuardedClient;
use promptmill_ports::{Signal, StoreError, StoreResult};
use promptmill_runtime::Engine;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Webhooks;
use crate::lead::Lead;
use attempt::Attempt;
use board::{Board, Taken};

/// How long a delivery that was taken is nobody else's, on top of the longest try.
const TAKEN_FOR: Duration = Duration::from_secs(40);

/// From one step to the next at least.
const PACE: Duration = Duration::from_millis(50);

/// Deliveries taken in one step.
const STEP: usize = 128;

/// Deliveries that wait in memory; no more are taken then.
const WAITING: usize = 512;

/// How long tries that are under way may go on when the process stops.
const GRACE: Duration = Duration::from_secs(2);

/// Carries events to their receivers.
pub(crate) struct Courier {
    engine: Engine,
    lead: Lead,
    /// How often events and due deliveries are looked for without being asked.
    poll: Duration,
    webhooks: Arc<Webhooks>,
    /// Made with the first delivery; the process may lack what it needs, and then says so at each.
    client: Option<GuardedClient>,
    board: Board,
    tries: JoinSet<()>,
    hosts: HashMap<Id, Arc<str>>,
}

impl Courier {
    pub(crate) fn new(engine: Engine, webhooks: Webhooks, lead: Lead, poll: Duration) -> Self {
        let board = Board::new(webhooks.concurrency, webhooks.per_host);
        Self {
            engine,
            lead,
            poll,
            webhooks: Arc::new(webhooks),
            client: None,
            board,
            tries: JoinSet::new(),
            hosts: HashMap::new(),
        }
    }

    /// Carries until it is told to stop.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        let mut signals = self.engine.signals.subscribe();
        let mut ticks = interval(self.poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut not_before = Instant::now();
        loop {
            tokio::select! {
                () = stopping.cancelled() => break,
                _ = ticks.tick() => {}
                Some(over) = self.tries.join_next_with_id() => self.over(over),
                signal = signals.recv() => match signal {
                    Ok(Signal::BatchChanged(_) | Signal::BatchEnded(_)) | Err(RecvError::Lagged(_)) => {}
                    Ok(_) => continue,
                    // Signals are gone for good; the ticks go on.
                    Err(RecvError::Closed) => {
                        ticks.tick().await;
                    }
                }
            }
            // Events that come in a crowd are taken together; one that comes alone does not wait.
            sleep_until(not_before).await;
            while let Ok(_) | Err(TryRecvError::Lagged(_)) = signals.try_recv() {}
            not_before = Instant::now() + PACE;
            while let Some(over) = self.tries.try_join_next_with_id() {
                self.over(over);
            }
            if !self.lead.is_ours() {
                continue;
            }
            match self.run_once().await {
                Ok(()) => {}
                Err(error @ StoreError::Unavailable(_)) => {
                    tracing::warn!(error = %error, "the store is away; deliveries wait");
                }
                Err(error) => tracing::error!(error = %error, "a step of the deliveries failed"),
            }
        }
        let _ = timeout(GRACE, async { while self.tries.join_next().await.is_some() {} }).await;
    }

    async fn run_once(&mut self) -> StoreResult<()> {
        fan_out::run_once(&self.engine, &self.webhooks.schedule).await?;
        self.board.let_go_of_slow(Instant::now());
        self.take().await?;
        self.begin();
        Ok(())
    }

    /// Takes what is due, as far as there is room for it in memory.
    async fn take(&mut self) -> StoreResult<()> {
        loop {
            let room = WAITING.saturating_sub(self.board.waiting()).min(STEP);
            if room == 0 {
                return Ok(());
            }
            // Looking is cheaper than taking, which writes.
            let due = self.engine.records.next_due().await?;
            let now_ms = self.engine.clock.now_ms();
            if due.is_none_or(|due_ms| due_ms > now_ms) {
                return Ok(());
            }
            let until = Instant::now() + TAKEN_FOR;
            let taken_for = TAKEN_FOR + self.webhooks.deadlines.total;
            let until_ms = now_ms.saturating_add(u64::try_from(taken_for.as_millis()).unwrap_or(u64::MAX));
            let limit = u32::try_from(room).unwrap_or(u32::MAX);
            let deliveries = self.engine.records.take_due(now_ms, until_ms, limit).await?;
            let full = deliveries.len() == room;
            for delivery in deliveries {
                self.board.put(Taken { delivery, begin_until: until });
            }
            // What waits here already must not wait for all that is due.
            self.begin();
            if !full {
                return Ok(());
            }
        }
    }

    /// Begins as many tries as there is room for.
    fn begin(&mut self) {
        while let Some((host, delivery)) = self.board.next(Instant::now()) {
            let attempt = Attempt {
                engine: self.engine.clone(),
                webhooks: self.webhooks.clone(),
                client: self.client(),
                delivery,
            };
            let task = self.tries.spawn(attempt.run());
            self.hosts.insert(task.id(), host);
        }
    }

    fn client(&mut self) -> Option<GuardedClient> {
        if self.client.is_none() {
            let (policy, resolver) = (self.webhooks.policy.clone(), self.webhooks.resolver.clone());
            match GuardedClient::with_resolver(policy, resolver) {
                Ok(client) => self.client = Some(client),
                Err(error) => tracing::error!(error = %error, "no receiver can be called"),
            }
        }
        self.client.clone()
    }

    fn over(&mut self, over: Result<(Id, ()), JoinError>) {
        let id = match over {
            Ok((id, ())) => id,
            Err(error) => {
                tracing::error!(error = %error, "a try of a delivery ended by itself; it is repeated");
                error.id()
            }
        };
        if let Some(host) = self.hosts.remove(&id) {
            self.board.finished(&host, Instant::now());
        }
    }
}
