//! One batch this worker has chunks of: compiled plan, gate, budget, guard and pace, shared by its items.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::chunk::largest_chunk;
use promptmill_domain::fairness::INTERACTIVE;
use promptmill_domain::{
    Batch, BatchId, BatchLimits, BatchReport, BudgetScope, Counts, FailureKind, Flag, ModelRef, Money,
    Outcome, PauseReason, Price, TenantId, Tokens, Totals,
};
use promptmill_pipeline::{BatchPlan, Gate, OwnLimit, Purses, SetAside, Stage, Treasury};
use promptmill_runtime::Providers;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::gate::SessionGate;
use crate::guard::Guard;
use crate::pace::Pace;

/// How soon a limit that is spent is looked at again by whoever was not sent away meanwhile.
const SPENT_LOOKS_AGAIN: Duration = Duration::from_millis(50);

/// Items settled a second below which a batch that has nothing in hand is not told of.
const NO_PACE: f64 = 0.01;

/// An order to the store that an item's end gave rise to.
pub(crate) struct Steer {
    pub(crate) batch: Arc<ActiveBatch>,
    pub(crate) reason: PauseReason,
}

/// What every batch of a worker is tied to.
#[derive(Clone)]
pub(crate) struct Ties {
    pub(crate) session: Arc<SessionGate>,
    /// Wakes the pump when more of a batch may begin, or nothing may any more.
    pub(crate) changed: Arc<Notify>,
    pub(crate) steer: mpsc::UnboundedSender<Steer>,
    pub(crate) treasury: Arc<Treasury>,
    pub(crate) providers: Arc<Providers>,
}

/// What is shared by the items of one batch in this process.
pub(crate) struct ActiveBatch {
    me: Weak<Self>,
    pub(crate) tenant: TenantId,
    pub(crate) id: BatchId,
    /// Rows of it.
    pub(crate) rows: u32,
    /// Items that a chunk of it has at most.
    longest_chunk: u32,
    pub(crate) plan: BatchPlan,
    ties: Ties,
    open: AtomicBool,
    /// An order to pause is on its way to the store; until it is there, what the store says is out of date.
    pausing: AtomicBool,
    closed: Notify,
    limits: Mutex<BatchLimits>,
    /// Picodollars spent of it at least, when that was read.
    spent_before: AtomicU64,
    purses: Mutex<OfDay>,
    has_limit: AtomicBool,
    costs: Mutex<Costs>,
    guard: Mutex<Guard>,
    /// Items that hold a slot.
    begun: AtomicU32,
    /// Those of them that have not come to their end.
    running: AtomicU32,
    settled: AtomicU64,
    /// Those that were settled when it was asked last.
    settled_before: AtomicU64,
    /// Chunks of it that were claimed here, and their items.
    claimed: (AtomicU64, AtomicU64),
    pace: Mutex<Pace>,
}

impl ActiveBatch {
    /// The batch as the store has it, with what was counted of it so far.
    pub(crate) fn new(batch: &Batch, counts: &Counts, plan: BatchPlan, ties: Ties) -> Arc<Self> {
        let loaded = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            tenant: batch.tenant.clone(),
            id: batch.id,
            rows: batch.total,
            longest_chunk: largest_chunk(batch.total, batch.spec.chunk_rows),
            plan,
            ties,
            open: AtomicBool::new(false),
            pausing: AtomicBool::new(false),
            closed: Notify::new(),
            limits: Mutex::new(batch.limits),
            spent_before: AtomicU64::new(counts.totals.cost.pico()),
            purses: Mutex::default(),
            has_limit: AtomicBool::new(false),
            costs: Mutex::default(),
            guard: Mutex::new(Guard::new(counts)),
            begun: AtomicU32::new(0),
            running: AtomicU32::new(0),
            settled: AtomicU64::new(0),
            settled_before: AtomicU64::new(u64::MAX),
            claimed: (AtomicU64::new(0), AtomicU64::new(0)),
            pace: Mutex::new(Pace::new(Instant::now())),
        });
        loaded.refresh(batch);
        loaded
    }

    /// Begins nothing of the batch from now on.
    pub(crate) fn close(&self) {
        self.open.store(false, Ordering::Release);
        self.closed.notify_waiters();
        self.ties.changed.notify_one();
    }

    fn pause(&self, reason: PauseReason) {
        self.pausing.store(true, Ordering::Release);
        self.close();
        let Some(batch) = self.me.upgrade() else { return };
        // The receiver ends only with the worker, and then nobody is left to begin anything.
        let _ = self.ties.steer.send(Steer { batch, reason });
    }

    fn limits(&self) -> BatchLimits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The order to pause reached the store, and what that says counts again.
    pub(crate) fn pause_ordered(&self) {
        self.pausing.store(false, Ordering::Release);
    }

    /// The limits on money that its calls are within now.
    fn purses(&self) -> Purses {
        let mut of_day = self.purses.lock().unwrap_or_else(PoisonError::into_inner);
        if of_day.day != self.ties.treasury.day() {
            *of_day = self.purses_of(self.limits());
        }
        of_day.purses.clone()
    }

    fn purses_of(&self, limits: BatchLimits) -> OfDay {
        let spent_before = Money::from_pico(self.spent_before.load(Ordering::Acquire));
        let own = limits.max_cost.map(|limit| OwnLimit { batch: self.id, limit, floor: spent_before });
        let treasury = &self.ties.treasury;
        OfDay { day: treasury.day(), purses: treasury.of_batch(own, &self.tenant) }
    }

    /// About what a call of so many tokens costs: at the price of the model, with a reply as long as those before, or, where there is no price, as
    /// much as those before cost.
    fn cost_of(&self, model: &ModelRef, about: Tokens) -> Money {
        let costs = *self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        match self.ties.providers.known_price(model) {
            Some(price) => {
                let completion = costs.reply_tokens(about.completion);
                price.of(Tokens { prompt: about.prompt, completion })
            }
            None => costs.per_call(),
        }
    }

    /// Stands still, because this limit is spent.
    fn stop_at(&self, spent: BudgetScope) {
        let reason = match spent {
            BudgetScope::Batch(_) => PauseReason::Budget,
            BudgetScope::Tenant { period, name, .. } => PauseReason::TenantBudget { period, name },
        };
        if self.open.load(Ordering::Acquire) {
            self.pause(reason);
        }
    }

    /// Whether a limit of its own is on what it costs.
    pub(crate) fn has_max_cost(&self) -> bool {
        self.limits().max_cost.is_some()
    }

    /// So much is spent of it as the store has it: what was spent while there was no limit is in no account.
    pub(crate) fn spent_before(&self, spent: Money) {
        self.spent_before.fetch_max(spent.pico(), Ordering::AcqRel);
    }

    /// Takes over what the store says now.
    pub(crate) fn refresh(&self, batch: &Batch) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = batch.limits;
        let of_day = self.purses_of(batch.limits);
        self.has_limit.store(!of_day.purses.is_empty(), Ordering::Release);
        *self.purses.lock().unwrap_or_else(PoisonError::into_inner) = of_day;
        self.plan.set_max_concurrency(share_of(batch.limits.max_concurrency));
        self.plan.set_interactive(batch.limits.priority >= INTERACTIVE);
        self.ties.changed.notify_one();
        let pausing = self.pausing.load(Ordering::Acquire);
        if batch.state.may_begin() && !pausing {
            self.open.store(true, Ordering::Release);
        } else {
            self.close();
        }
    }

    /// Items that hold a slot.
    pub(crate) fn slots_held(&self) -> u32 {
        self.begun.load(Ordering::Acquire)
    }

    /// Items of the batch that are of use in hand: as many as it may make calls, and a few to follow; `None` without a limit of its own.
    pub(crate) fn useful(&self) -> Option<u32> {
        let most = self.plan.max_concurrency()?;
        Some(most.saturating_add((most / 2).clamp(4, 64)))
    }

    /// Whether the batch's own limits let it begin one more item. Those that wait for a retry, or for the reply of another one, call nothing, so they do not count.
    pub(crate) fn may_begin(&self) -> bool {
        let running = self.running.load(Ordering::Acquire);
        let waiting = self.plan.standing().at(Stage::Retry) + self.plan.standing().at(Stage::Reply);
        let calling = running.saturating_sub(waiting);
        self.is_open() && self.useful().is_none_or(|useful| calling < useful)
    }

    /// Counts an item as begun, and as running, until the guards are dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> (Begun, Running) {
        self.begun.fetch_add(1, Ordering::AcqRel);
        self.running.fetch_add(1, Ordering::AcqRel);
        (Begun(self.clone()), Running(self.clone()))
    }

    /// A chunk of so many items was claimed.
    pub(crate) fn claimed(&self, items: u32) {
        self.claimed.0.fetch_add(1, Ordering::Relaxed);
        self.claimed.1.fetch_add(u64::from(items), Ordering::Relaxed);
    }

    /// Items of the chunks that were claimed, on average and rounded up.
    fn chunk_items(&self) -> u32 {
        let (chunks, items) = (&self.claimed.0, &self.claimed.1);
        let chunks = chunks.load(Ordering::Relaxed).max(1);
        u32::try_from(items.load(Ordering::Relaxed).div_ceil(chunks)).unwrap_or(u32::MAX)
    }

    /// Items that its next chunk is expected to have: of long rows fewer are stored together, which those that were claimed tell.
    pub(crate) fn next_chunk_items(&self) -> usize {
        match self.chunk_items() {
            0 => self.longest_chunk as usize,
            items => items as usize,
        }
    }

    /// Outcomes of so many items were recorded.
    pub(crate) fn settled(&self, items: u64) {
        self.settled.fetch_add(items, Ordering::Relaxed);
    }

    /// Whether nothing was settled since this was asked last.
    pub(crate) fn was_idle(&self) -> bool {
        let settled = self.settled.load(Ordering::Relaxed);
        self.settled_before.swap(settled, Ordering::Relaxed) == settled
    }

    /// What there is to tell of it; nothing when none of it is in hand and none was of late.
    pub(crate) fn report(&self, now: Instant) -> Option<BatchReport> {
        let settled = self.settled.load(Ordering::Relaxed);
        let pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner).measure(settled, now);
        if self.slots_held() == 0 && pace < NO_PACE {
            return None;
        }
        let at = |stage| self.plan.standing().at(stage);
        Some(BatchReport {
            batch: self.id,
            lane: self.plan.lane().clone(),
            calling: at(Stage::Call),
            waiting_place: at(Stage::Place),
            waiting_lane: at(Stage::Lane),
            waiting_batch: at(Stage::Batch),
            waiting_retry: at(Stage::Retry),
            waiting_money: at(Stage::Money),
            waiting_reply: at(Stage::Reply),
            settled_per_s: pace,
            chunk_items: self.chunk_items(),
        })
    }

    /// An item has its outcome: gives the doomed-batch guard its say. Asked before the outcome is recorded, because by then many more
    /// would have been called.
    pub(crate) fn came_to(&self, outcome: &Outcome) {
        // A reply of the cache says nothing of the provider as it is now.
        if !self.limits().guard || outcome.flags.contains(&Flag::Cached) {
            return;
        }
        let opinion = self.guard.lock().unwrap_or_else(PoisonError::into_inner).see(&outcome.ending);
        if let Some(reason) = opinion {
            tracing::warn!(batch.id = %self.id, "the first items all failed for one cause outside the rows; pausing the batch");
            self.pause(reason);
        }
    }
}

/// This worker's share of a batch's limit of calls. One process does all the work today; in a fleet each worker that has items of the
/// batch takes its part here.
const fn share_of(max_concurrency: Option<u32>) -> Option<u32> {
    max_concurrency
}

/// The limits on money of a day.
#[derive(Default)]
struct OfDay {
    /// Which day, where limits change with it.
    day: Option<u64>,
    purses: Purses,
}

/// What calls came to so far that took anything.
#[derive(Debug, Clone, Copy, Default)]
struct Costs(Totals);

/// Tokens that a first reply is taken to have; how long replies are is known after a few.
const FIRST_REPLY: u64 = 256;

impl Costs {
    fn add(&mut self, call: &Totals) {
        if call.tokens.completion > 0 || call.cost > Money::ZERO {
            self.0 += *call;
        }
    }

    /// Tokens that a reply has on average, at most `limit` where it is one.
    fn reply_tokens(self, limit: u64) -> u64 {
        let on_average = self.0.tokens.completion.checked_div(self.0.calls).unwrap_or(FIRST_REPLY);
        if limit == 0 { on_average } else { on_average.min(limit) }
    }

    fn per_call(self) -> Money {
        self.0.cost_per_call()
    }
}

/// Counts an item among those of its batch that hold a slot.
pub(crate) struct Begun(Arc<ActiveBatch>);

/// Counts an item among those of its batch that have not come to their end.
pub(crate) struct Running(Arc<ActiveBatch>);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.begun.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
        // Without a limit of the batch only a free slot lets the next item begin.
        if self.0.plan.max_concurrency().is_some() {
            self.0.ties.changed.notify_one();
        }
    }
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Begun({})", self.0.id)
    }
}

#[async_trait]
impl Gate for ActiveBatch {
    fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) && self.ties.session.is_open()
    }

    async fn closed(&self) {
        loop {
            let closed = self.closed.notified();
            if !self.open.load(Ordering::Acquire) {
                return;
            }
            tokio::select! {
                () = closed => {}
                () = self.ties.session.stopping().cancelled() => return,
            }
        }
    }

    fn refused(&self, kind: FailureKind, message: &str) -> bool {
        let guards = self.limits().guard;
        if guards && self.open.load(Ordering::Acquire) {
            tracing::warn!(batch.id = %self.id, kind = kind.as_str(), "the provider refuses the credential; pausing the batch");
            self.pause(PauseReason::Suspect { kind, message: message.to_owned() });
        }
        guards
    }

    fn price(&self, model: &ModelRef) -> Option<Price> {
        self.ties.providers.known_price(model)
    }

    fn has_limit(&self) -> bool {
        self.has_limit.load(Ordering::Acquire)
    }

    async fn set_aside(&self, model: &ModelRef, about: Tokens) -> SetAside {
        loop {
            match self.purses().set_aside(self.cost_of(model, about)).await {
                Ok(aside) => return aside,
                // The gate closes, and whoever waits here goes, unless a higher limit opens it again in the same moment.
                Err(spent) => self.stop_at(spent),
            }
            tokio::time::sleep(SPENT_LOOKS_AGAIN).await;
        }
    }

    fn covers(&self, aside: &SetAside, model: &ModelRef, about: Tokens) -> bool {
        !self.has_limit() || aside.amount() > Money::ZERO || self.cost_of(model, about) == Money::ZERO
    }

    fn spent(&self, _: &ModelRef, totals: &Totals) {
        self.costs.lock().unwrap_or_else(PoisonError::into_inner).add(totals);
    }
}
