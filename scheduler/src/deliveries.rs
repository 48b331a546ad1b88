//! Events to their receivers: at least once each, the first try as soon as the event is written.
//!
//! Loops beside each other, so that none waits for another's work: the [`Announcer`] hands events on as deliveries ([`fan_out`]), the [`Lookout`] looks what
//! batches came to on their way ([`milestones`]) and what a leader before left untold ([`disabled`]), the [`Courier`] takes what is due and tries each
//! ([`attempt`]), so many at a time ([`board`]), and one records what came of the tries, all that ended meanwhile in one step. A delivery that was taken and left
//! lying, by a crash or because its receiver is slow, is due again a minute later.

mod attempt;
mod board;
mod body;
mod book;
mod disabled;
mod ends;
mod failures;
mod fan_out;
mod mail;
mod milestones;
mod missed;
mod outcomes;
mod paces;
mod pauses;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use promptmill_egress::GuardedClient;
use promptmill_ports::{Attempted, Delivery, DeliveryState, Signal, StoreError, StoreResult};
use promptmill_runtime::Engine;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Webhooks;
use crate::lead::Lead;
use attempt::Attempt;
use board::{Board, Taken};
use book::Book;
use ends::Ends;
use failures::{Failures, Looked};
use milestones::Milestones;
pub(crate) use milestones::Open;
pub(crate) use missed::Missing;
use paces::{Paces, Turn};
use pauses::Pauses;

/// How long a delivery that was taken is nobody else's, on top of the longest try.
const TAKEN_FOR: Duration = Duration::from_secs(40);

/// From one step of a loop to its next at least.
const PACE: Duration = Duration::from_millis(50);

/// How often is looked whether this process leads.
const LOOK: Duration = Duration::from_secs(1);

/// Deliveries taken in one step.
const STEP: usize = 128;

/// Deliveries that wait in memory for a place; no more are taken then. As many again may wait for their turn. Where fewer than [`FEW`] do, more are looked for.
const WAITING: usize = 512;
const FEW: usize = WAITING / 2;

/// Tries that are recorded in one step.
const RECORDED: usize = 128;

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
    paces: Paces,
    book: Arc<Book>,
    tries: JoinSet<()>,
    /// To whom each goes, and since when.
    trying: HashMap<Id, (Arc<str>, Instant)>,
    /// The step that looks for due deliveries, if one is under way.
    taking: JoinSet<StoreResult<Haul>>,
}

/// Deliveries that were taken in one step.
struct Haul {
    /// With the most requests a second that their endpoints want.
    deliveries: Vec<(Delivery, Option<u32>)>,
    /// By then their tries must have begun.
    begin_until: Instant,
    /// There may be more.
    is_full: bool,
}

impl Courier {
    pub(crate) fn new(engine: Engine, webhooks: Webhooks, lead: Lead, poll: Duration) -> Self {
        let board = Board::new(webhooks.concurrency, webhooks.per_host);
        let book = Arc::new(Book::new(engine.records.clone()));
        Self {
            engine,
            lead,
            poll,
            webhooks: Arc::new(webhooks),
            client: None,
            board,
            paces: Paces::default(),
            book,
            tries: JoinSet::new(),
            trying: HashMap::new(),
            taking: JoinSet::new(),
        }
    }

    /// Carries until it is told to stop. `open` tells from time to time which batches are.
    pub(crate) async fn run(self, open: watch::Receiver<Vec<Open>>, stopping: CancellationToken) {
        let made = Arc::new(Notify::new());
        let engine = self.engine.clone();
        let ends = Arc::new(Ends::default());
        let announcer = Announcer {
            engine: engine.clone(),
            lead: self.lead.clone(),
            poll: self.poll,
            webhooks: self.webhooks.clone(),
            book: self.book.clone(),
            ends: ends.clone(),
        };
        let lookout = Lookout {
            engine: engine.clone(),
            lead: self.lead.clone(),
            webhooks: self.webhooks.clone(),
            book: self.book.clone(),
            open,
            ends,
            milestones: Milestones::default(),
            failures: Failures::default(),
            pauses: Pauses::default(),
            has_looked_back: false,
        };
        let (ended, to_record) = mpsc::channel(RECORDED);
        let delivering = self.deliver(&made, ended, &stopping);
        // What it reads of large batches takes time that tries must not wait for. It ends with this task.
        let mut looking = JoinSet::new();
        let (told, until) = (made.clone(), stopping.clone());
        looking.spawn(async move { until.run_until_cancelled(lookout.run(&told)).await });
        let looked = async {
            if let Some(Err(error)) = looking.join_next().await {
                tracing::error!(error = %error, "the look for what happens beside events ended by itself");
            }
        };
        tokio::join!(announcer.run(&made, &stopping), looked, delivering, record(&engine, to_record));
    }

    /// Tries what is due until it is told to stop. `made` says that deliveries were made; `ended` is told what comes of the tries.
    async fn deliver(mut self, made: &Notify, ended: mpsc::Sender<Attempted>, stopping: &CancellationToken) {
        let mut ticks = interval(self.poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut not_before = Instant::now();
        let mut is_asked = false;
        loop {
            tokio::select! {
                () = stopping.cancelled() => break,
                _ = ticks.tick() => {
                    is_asked = true;
                    // The turn of what waits may have come.
                    self.begin(&ended);
                }
                () = made.notified() => is_asked = true,
                Some(over) = self.tries.join_next_with_id() => {
                    self.over(over);
                    while let Some(over) = self.tries.try_join_next_with_id() {
                        self.over(over);
                    }
                    // A place that is free is used at once.
                    self.begin(&ended);
                    is_asked |= self.board.waiting() < FEW;
                }
                Some(taken) = self.taking.join_next() => self.taken(taken, &ended),
                () = sleep_until(not_before), if is_asked && self.taking.is_empty() => {
                    is_asked = false;
                    not_before = Instant::now() + PACE;
                    self.board.let_go_of_slow(Instant::now());
                    self.take();
                }
            }
        }
        let _ = timeout(GRACE, async { while self.tries.join_next().await.is_some() {} }).await;
    }

    /// Begins to take what is due, as far as there is room for it in memory.
    fn take(&mut self) {
        let room = WAITING.saturating_sub(self.board.waiting()).min(STEP);
        if room == 0 || !self.lead.is_ours() {
            return;
        }
        let (engine, book, longest) = (self.engine.clone(), self.book.clone(), self.webhooks.deadlines.total);
        self.taking.spawn(async move {
            let begin_until = Instant::now() + TAKEN_FOR;
            // Looking is cheaper than taking, which writes.
            let due = engine.records.next_due().await?;
            let now_ms = engine.clock.now_ms();
            if due.is_none_or(|due_ms| due_ms > now_ms) {
                return Ok(Haul { deliveries: vec![], begin_until, is_full: false });
            }
            let taken_for = u64::try_from((TAKEN_FOR + longest).as_millis()).unwrap_or(u64::MAX);
            let limit = u32::try_from(room).unwrap_or(u32::MAX);
            let deliveries = engine.records.take_due(now_ms, now_ms.saturating_add(taken_for), limit).await?;
            let is_full = deliveries.len() == room;
            let deliveries = book.with_rates(deliveries).await;
            Ok(Haul { deliveries, begin_until, is_full })
        });
    }

    fn taken(&mut self, taken: Result<StoreResult<Haul>, JoinError>, ended: &mpsc::Sender<Attempted>) {
        match taken {
            Ok(Ok(Haul { deliveries, begin_until, is_full })) => {
                let (now, now_ms) = (Instant::now(), self.engine.clock.now_ms());
                for (delivery, rate) in deliveries {
                    let turn = delivery.endpoint.zip(rate);
                    let has_room = self.board.waiting_for_turns() < WAITING;
                    match turn.map(|(endpoint, rate)| self.paces.turn(endpoint, rate, has_room, now)) {
                        None => self.board.put(Taken { delivery, turn: None, begin_until }),
                        Some(Turn::At(at)) => self.board.put(Taken { delivery, turn: Some(at), begin_until }),
                        Some(Turn::Later(wait)) => {
                            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                            let due_ms = now_ms.saturating_add(wait_ms);
                            let state = DeliveryState::Pending;
                            // One for which there is no room is due again when it is nobody's any more.
                            let _ =
                                ended.try_send(Attempted { id: delivery.id, attempt: None, state, due_ms });
                        }
                    }
                }
                self.begin(ended);
                if is_full {
                    self.take();
                }
            }
            Ok(Err(error)) => tell(&error),
            Err(error) => tracing::error!(error = %error, "a look for deliveries ended by itself"),
        }
    }

    /// Begins as many tries as there is room for.
    fn begin(&mut self, ended: &mpsc::Sender<Attempted>) {
        if !self.lead.is_ours() {
            return;
        }
        while let Some((host, delivery)) = self.board.next(Instant::now()) {
            let attempt = Attempt {
                engine: self.engine.clone(),
                book: self.book.clone(),
                webhooks: self.webhooks.clone(),
                client: self.client(),
                delivery,
            };
            let ended = ended.clone();
            let task = self.tries.spawn(async move {
                if let Some(made) = attempt.run().await {
                    // Who records ends after all tries.
                    let _ = ended.send(made).await;
                }
            });
            self.trying.insert(task.id(), (host, Instant::now()));
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
        if let Some((host, since)) = self.trying.remove(&id) {
            let now = Instant::now();
            self.board.finished(&host, now.duration_since(since), now);
        }
    }
}

/// Records what came of tries until there are none any more. Those that could not be recorded are repeated when their deliveries are due again.
async fn record(engine: &Engine, mut ended: mpsc::Receiver<Attempted>) {
    let mut group = Vec::with_capacity(RECORDED);
    while ended.recv_many(&mut group, RECORDED).await > 0 {
        let recorded = match engine.records.record_attempts(&group).await {
            Err(error) if !matches!(error, StoreError::Unavailable(_)) => one_by_one(engine, &group).await,
            recorded => recorded,
        };
        if let Err(error) = recorded {
            tracing::warn!(tries = group.len(), error = %error, "tries could not be recorded; they are repeated");
        }
        group.clear();
    }
}

/// The others must not be repeated for one that cannot be recorded. Answers the last thing that went wrong.
async fn one_by_one(engine: &Engine, group: &[Attempted]) -> StoreResult<()> {
    let mut last = Ok(());
    for made in group {
        if let Err(error) = engine.records.record_attempts(std::slice::from_ref(made)).await {
            last = Err(error);
        }
    }
    last
}

/// Makes deliveries of events.
struct Announcer {
    engine: Engine,
    lead: Lead,
    poll: Duration,
    webhooks: Arc<Webhooks>,
    book: Arc<Book>,
    ends: Arc<Ends>,
}

impl Announcer {
    /// Makes them until it is told to stop; `made` hears of them.
    async fn run(self, made: &Notify, stopping: &CancellationToken) {
        let mut signals = self.engine.signals.subscribe();
        let mut ticks = interval(self.poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut not_before = Instant::now();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = ticks.tick() => {}
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
            if self.lead.is_ours()
                && let Err(error) =
                    fan_out::run_once(&self.engine, &self.book, &self.webhooks, made, &self.ends).await
            {
                tell(&error);
            }
        }
    }
}

/// Makes deliveries of what no change of a batch stands for.
struct Lookout {
    engine: Engine,
    lead: Lead,
    webhooks: Arc<Webhooks>,
    book: Arc<Book>,
    open: watch::Receiver<Vec<Open>>,
    ends: Arc<Ends>,
    milestones: Milestones,
    failures: Failures,
    pauses: Pauses,
    /// What the leader before may have left untold was looked for.
    has_looked_back: bool,
}

impl Lookout {
    /// Looks again whenever it is told which batches are open, as long as it is; `made` hears of deliveries.
    async fn run(mut self, made: &Notify) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut goes_on = false;
        loop {
            if !goes_on {
                tokio::select! {
                    _ = ticks.tick() => {}
                    Ok(()) = self.open.changed() => self.open.mark_changed(),
                    () = self.ends.came() => {}
                }
            }
            goes_on = false;
            if !self.lead.is_ours() {
                self.has_looked_back = false;
                self.ends.clear();
                continue;
            }
            match self.look().await {
                Ok(Looked { any, more }) => {
                    if any {
                        made.notify_one();
                    }
                    goes_on = more;
                }
                Err(error) => tell(&error),
            }
        }
    }

    async fn look(&mut self) -> StoreResult<Looked> {
        let Self { engine, book, webhooks, milestones, failures, pauses, ends, .. } = self;
        let schedule = &webhooks.schedule;
        let mut any = false;
        if !self.has_looked_back {
            any |= disabled::tell_all(engine, book, webhooks).await?;
            self.has_looked_back = true;
        }
        let is_new = self.open.has_changed().unwrap_or(false);
        let open = self.open.borrow_and_update().clone();
        if is_new {
            any |= milestones.look(engine, book, webhooks, &open).await?;
            any |= pauses.look(engine, book, schedule, &open).await?;
        }
        let looked = failures.look(engine, book, schedule, &open, ends).await?;
        Ok(Looked { any: any || looked.any, ..looked })
    }
}

fn tell(error: &StoreError) {
    match error {
        StoreError::Unavailable(_) => tracing::warn!(error = %error, "the store is away; deliveries wait"),
        error => tracing::error!(error = %error, "a step of the deliveries failed"),
    }
}
