//! Batches that recur: what is due is decided, each tick that runs gets its batch, and its end is noted.
//!
//! Three steps, each of which whoever leads next goes on with. A **look** ([`look`]) decides the ticks of a schedule and writes that into the schedule itself,
//! together with the time up to which it is decided: of two who look at once one holds. What was decided becomes ticks in the store. A **start**
//! ([`start`]) makes the batch of a tick, whose id derives from schedule and time, so that it is made once however often it is tried. And when
//! the batch is final the tick is **over** ([`over`]).

mod again;
mod look;
mod over;
mod previous;
mod rows;
mod served;
mod start;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::{ScheduleId, TenantId, Tick, TickState};
use promptmill_ports::{StoreError, StoreResult, TickKey};
use promptmill_runtime::Engine;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::served::Served;
use crate::config::{Recurring, Webhooks};
use crate::deliveries::Missing;
use crate::lead::Lead;

/// How often is looked what is due.
const LOOK: Duration = Duration::from_millis(250);

/// How often all open ticks are read, at most: others than the leader add some, and change none.
const READ: Duration = Duration::from_secs(1);

/// They are read so many times less often than reading them takes.
const READ_SHARE: u32 = 20;

/// Open ticks read in one step.
const PAGE: u32 = 1_000;

/// Batches that are made at the same time, of all tenants and of one.
const STARTING: usize = 64;
const STARTING_OF_TENANT: usize = 48;

/// Places that are free before more batches are begun.
const REFILLED: usize = 8;

/// Makes batches of what is due, until it is told to stop; then it ends after the step in hand. Batches that are being made are left to whoever comes next.
pub(crate) async fn run(
    engine: Engine,
    recurring: Recurring,
    webhooks: Option<Webhooks>,
    lead: Lead,
    stopping: CancellationToken,
) {
    let mut keeper = Keeper::new(engine, recurring, webhooks);
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            Some(started) = keeper.starting.join_next_with_id() => {
                match started {
                    Ok((id, changed)) => keeper.started(id, changed),
                    Err(error) => {
                        tracing::error!(error = %error, "the start of a scheduled batch ended early");
                        keeper.started(error.id(), None);
                    }
                }
                continue;
            }
            _ = ticks.tick() => {}
        }
        if !lead.is_ours() {
            keeper.forget();
            continue;
        }
        match keeper.step().await {
            Ok(()) => {}
            Err(error @ StoreError::Unavailable(_)) => {
                tracing::warn!(error = %error, "the store is away; schedules wait");
            }
            Err(error) => tracing::error!(error = %error, "schedules could not be looked at"),
        }
    }
}

/// What a process that leads knows of schedules.
struct Keeper {
    engine: Engine,
    recurring: Arc<Recurring>,
    /// Who hears of ticks without a run, where anybody is told anything.
    missing: Option<Arc<Missing>>,
    served: Arc<Served>,
    /// The open ticks when they were read last, and those that came of looks since.
    open: BTreeMap<TickKey, Tick>,
    /// When they were read, and how long that took.
    read: Option<(Instant, Duration)>,
    starting: JoinSet<Option<Tick>>,
    started: HashMap<Id, TickKey>,
}

impl Keeper {
    fn new(engine: Engine, recurring: Recurring, webhooks: Option<Webhooks>) -> Self {
        let missing = webhooks.map(|webhooks| Arc::new(Missing::new(engine.clone(), webhooks)));
        Self {
            engine,
            recurring: Arc::new(recurring),
            missing,
            served: Arc::default(),
            open: BTreeMap::new(),
            read: None,
            starting: JoinSet::new(),
            started: HashMap::new(),
        }
    }

    /// Others lead, and change what is known here.
    fn forget(&mut self) {
        if !self.open.is_empty() {
            self.engine.metrics.tell_ticks(0, 0);
        }
        self.open.clear();
        self.read = None;
    }

    async fn step(&mut self) -> StoreResult<()> {
        let looked = look::run_once(&self.engine, self.missing.as_deref()).await;
        if let Err(error @ StoreError::Unavailable(_)) = looked {
            return Err(error);
        }
        // What was decided before goes on, whatever is wrong with what is to be decided.
        match looked {
            Ok(ticks) => self.open.extend(ticks.into_iter().map(|tick| ((tick.schedule, tick.at_ms), tick))),
            Err(error) => tracing::error!(error = %error, "schedules could not be looked at"),
        }
        let is_old = |(at, took): (Instant, Duration)| at.elapsed() >= READ.max(took * READ_SHARE);
        if self.read.is_none_or(is_old) {
            let begun = Instant::now();
            let before = std::mem::replace(&mut self.open, read(&self.engine).await?);
            // That one is put off stands nowhere but here.
            for (key, tick) in before {
                if let Some(read) = self.open.get_mut(&key)
                    && read.ver == tick.ver
                {
                    *read = tick;
                }
            }
            for tick in over::run_once(&self.engine, self.open.values()).await? {
                self.put(tick);
            }
            self.read = Some((begun, begun.elapsed()));
        }
        self.start();
        let due = self.open.values().filter(|tick| matches!(tick.state, TickState::Due { .. })).count();
        self.engine.metrics.tell_ticks(due, self.open.len() - due);
        Ok(())
    }

    /// Begins to make the batches that are to be made now.
    fn start(&mut self) {
        let now_ms = self.engine.clock.now_ms();
        let is_due = |tick: &Tick| match tick.state {
            // What a clock put off that was ahead is tried when the right one says so.
            TickState::Due { not_before_ms, .. } => {
                not_before_ms <= now_ms || not_before_ms > now_ms + start::LONGEST_WAIT_MS
            }
            _ => tick.due_ms().is_some_and(|due_ms| due_ms <= now_ms),
        };
        // Those that wait for a server have places of their own.
        let mut room = (STARTING + self.served.asking()).saturating_sub(self.started.len());
        // All that is due is looked through: not for each place that becomes free.
        if room < REFILLED {
            return;
        }
        let begun: HashSet<TickKey> = self.started.values().copied().collect();
        let mut starting: HashMap<&TenantId, usize> = HashMap::new();
        for key in &begun {
            if let Some(tick) = self.open.get(key) {
                *starting.entry(&tick.tenant).or_default() += 1;
            }
        }
        let due = self.open.iter().filter(|(key, tick)| is_due(tick) && !begun.contains(key));
        let mut due: Vec<_> = due.collect();
        // Those that wait longest, and of no tenant so many that others find no place.
        due.sort_unstable_by_key(|(key, tick)| (tick.due_ms(), **key));
        // Places to ask servers with, less those that the starts of this step may take.
        let mut free: HashMap<&TenantId, usize> = HashMap::new();
        for (key, tick) in due {
            if self.served.waits(key) {
                let free = free.entry(&tick.tenant).or_insert_with(|| self.served.free(&tick.tenant));
                match free.checked_sub(1) {
                    Some(left) => *free = left,
                    None => continue,
                }
            }
            let of_tenant = starting.entry(&tick.tenant).or_default();
            if *of_tenant >= STARTING_OF_TENANT + self.served.asking_of(&tick.tenant) {
                continue;
            }
            *of_tenant += 1;
            if room == 0 {
                break;
            }
            room -= 1;
            let (engine, recurring, tick) = (self.engine.clone(), self.recurring.clone(), tick.clone());
            let (missing, served) = (self.missing.clone(), self.served.clone());
            let start =
                async move { start::run(&engine, &recurring, &served, missing.as_deref(), tick).await };
            let task = self.starting.spawn(start);
            self.started.insert(task.id(), *key);
        }
    }

    /// A start ended; `changed` is the tick as it stands then.
    fn started(&mut self, id: Id, changed: Option<Tick>) {
        let Some(key) = self.started.remove(&id) else { return };
        match changed {
            Some(tick) => self.put(tick),
            // Somebody else changed it; what it is shows when all are read.
            None => drop(self.open.remove(&key)),
        }
        self.start();
    }

    fn put(&mut self, tick: Tick) {
        let key = (tick.schedule, tick.at_ms);
        if tick.state.is_open() {
            self.open.insert(key, tick);
        } else {
            self.open.remove(&key);
        }
    }
}

/// What is done about a schedule; nothing where that fails for what it holds itself: the others must not wait for one that is damaged.
async fn or_leave<T>(
    id: ScheduleId,
    doing: impl Future<Output = StoreResult<Option<T>>>,
) -> StoreResult<Option<T>> {
    match doing.await {
        Err(error) if !matches!(error, StoreError::Unavailable(_)) => {
            tracing::error!(schedule.id = %id, error = %error, "a schedule or a batch of it cannot be read or changed");
            Ok(None)
        }
        done => done,
    }
}

/// Every open tick.
async fn read(engine: &Engine) -> StoreResult<BTreeMap<TickKey, Tick>> {
    let mut open = BTreeMap::new();
    let mut after = None;
    loop {
        let page = engine.records.open_ticks(after, PAGE).await?;
        // A page may be short because one of it is damaged.
        let is_last = page.is_empty();
        open.extend(page.into_iter().map(|tick| ((tick.schedule, tick.at_ms), tick)));
        after = open.last_key_value().map(|(key, _)| *key);
        if is_last {
            return Ok(open);
        }
    }
}
