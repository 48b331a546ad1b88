//! Runs generations to their outcome, each in a task of its own that goes on whoever stops waiting.
//!
//! A generation runs at most once in this process: whoever asks for one that runs gets the same. Its outcome is stored before anyone is
//! told. One that a stop interrupts stays without an outcome, and where it was promised the next process finishes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use promptmill_domain::{
    BudgetScope, Ending, FailureKind, GenerationId, ModelRef, Money, Outcome, ParkedItem, Price, Tokens,
    Totals,
};
use promptmill_pipeline::{Concurrency, Gate, ItemEnd, ItemInput, Pipeline, Purses, RetryPolicy, SetAside};
use promptmill_ports::{Generation, encode_outcome};
use promptmill_provider::DeltaSink;
use promptmill_runtime::{Engine, Providers};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::job::Job;
use crate::App;
use crate::problem::{Problem, ProblemId, chain};

/// How many may be under way for each that may call at the same time; further ones are turned away.
const UNDER_WAY_PER_CALL: usize = 4;

/// How long a generation is tried: whoever asked for it wants it now or not at all.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10 * 60);

/// How soon an outcome is stored again that could not be.
pub(super) const STORE_AGAIN: Duration = Duration::from_millis(200);

/// Runs generations; one per process.
pub(crate) struct Generator {
    pipeline: Pipeline,
    costs: Costs,
    under_way: Mutex<HashMap<GenerationId, Running>>,
    /// Told whenever one ends.
    ended: Notify,
    /// Cancelled when what still runs is given up.
    given_up: CancellationToken,
    most: usize,
}

/// A generation that runs here.
#[derive(Clone)]
pub(super) struct Running {
    begun: Arc<Generation>,
    outcome: watch::Receiver<Option<Arc<Generation>>>,
}

impl Running {
    /// As it is kept while it runs.
    pub(super) fn begun(&self) -> Arc<Generation> {
        self.begun.clone()
    }

    /// The generation with its outcome, stored; `None` when the service stopped before.
    pub(super) async fn finished(&mut self) -> Option<Arc<Generation>> {
        // Fails only when the task is gone, and then it may have left its outcome.
        let _ = self.outcome.wait_for(Option::is_some).await;
        self.outcome.borrow().clone()
    }
}

/// What to run.
pub(super) struct Start {
    pub(super) job: Job,
    /// Who wants its text as it comes.
    pub(super) deltas: Option<DeltaSink>,
}

impl Generator {
    /// A generator that makes at most `calls` calls at the same time.
    pub(crate) fn new(engine: &Engine, calls: usize) -> Self {
        let policy = RetryPolicy { give_up_after: GIVE_UP_AFTER, ..RetryPolicy::default() };
        Self {
            pipeline: Pipeline::new(
                engine.limiter.clone(),
                engine.clock.clone(),
                Concurrency::of(calls),
                policy,
            ),
            costs: Costs::default(),
            under_way: Mutex::default(),
            ended: Notify::new(),
            given_up: CancellationToken::new(),
            most: calls.saturating_mul(UNDER_WAY_PER_CALL),
        }
    }

    /// The generation, if it runs here.
    pub(super) fn running(&self, id: GenerationId) -> Option<Running> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn none_under_way(&self) -> bool {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    async fn all_ended(&self) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            // Registered before looking, so that the last one is not missed.
            ended.as_mut().enable();
            if self.none_under_way() {
                return;
            }
            ended.await;
        }
    }

    /// Begins a generation, unless it runs already.
    ///
    /// # Errors
    /// `unavailable` when too many are under way, or the service stops.
    pub(super) fn start(&self, app: &App, start: Start) -> Result<Running, Problem> {
        let Start { job, deltas } = start;
        if app.stopping().is_cancelled() {
            return Err(Problem::new(ProblemId::Unavailable).detail("the service is stopping"));
        }
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = under_way.get(&job.begun.id) {
            return Ok(running.clone());
        }
        if under_way.len() >= self.most {
            return Err(Problem::new(ProblemId::Unavailable).detail("too many generations are under way"));
        }
        let (tell, outcome) = watch::channel(None);
        let running = Running { begun: Arc::new(job.begun.clone()), outcome };
        under_way.insert(job.begun.id, running.clone());
        let place = Place { app: app.clone(), id: job.begun.id };
        tokio::spawn(async move {
            let app = &place.app;
            let begun = job.begun.clone();
            let finished = async {
                let outcome = run(app, job, deltas).await?;
                let finished = Generation { outcome: Some(encode_outcome(&outcome)), ..begun };
                store(app, &finished).await.then_some(finished)
            };
            let finished = tokio::select! {
                finished = finished => finished,
                () = app.generator().given_up.cancelled() => None,
            };
            if let Some(finished) = finished {
                tell.send_replace(Some(Arc::new(finished)));
            }
        });
        Ok(running)
    }
}

/// Returns when the service has stopped and no generation runs any more: calls under way are waited for as long as
/// [`drain`](crate::ApiConfig::drain) says, then they are given up, and what was promised is left to the next process.
pub(crate) async fn wind_down(app: &App) {
    app.stopping().cancelled().await;
    let generator = app.generator();
    if timeout(app.config().drain, generator.all_ended()).await.is_err() {
        tracing::warn!(
            "generations were given up because they did not end in time; the next start goes on with them"
        );
    }
    generator.given_up.cancel();
    generator.all_ended().await;
}

/// A place among those under way; left when dropped, by a task that panicked too.
struct Place {
    app: App,
    id: GenerationId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.app.generator().under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.remove(&self.id);
        drop(under_way);
        self.app.generator().ended.notify_waiters();
    }
}

/// How long is waited for the price of a model.
const PRICE_WITHIN: Duration = Duration::from_secs(2);

/// Tokens that a reply is taken to have where no limit is set.
const REPLY_TOKENS: u64 = 256;

/// Models whose calls are remembered; beyond them those before are forgotten.
const REMEMBERED: usize = 1_000;

/// What calls of each model came to in all, for those whose price nobody knows.
#[derive(Default)]
struct Costs(Mutex<HashMap<ModelRef, Totals>>);

impl Costs {
    fn add(&self, model: &ModelRef, call: &Totals) {
        if call.cost == Money::ZERO {
            return;
        }
        let mut costs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if costs.len() >= REMEMBERED && !costs.contains_key(model) {
            costs.clear();
        }
        *costs.entry(model.clone()).or_default() += *call;
    }

    fn per_call(&self, model: &ModelRef) -> Money {
        let costs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        costs.get(model).map_or(Money::ZERO, Totals::cost_per_call)
    }
}

/// Open until the service stops or a limit of the tenant is spent, of which what a call may cost is set aside.
struct StopGate<'a> {
    stopping: &'a CancellationToken,
    purses: Purses,
    providers: &'a Providers,
    costs: &'a Costs,
    /// The limit that is spent.
    spent: OnceLock<BudgetScope>,
    closed: CancellationToken,
}

impl StopGate<'_> {
    /// About what a call costs: by the price of the model, or else as much as those before cost here.
    fn cost_of(&self, model: &ModelRef, about: Tokens) -> Money {
        let completion = if about.completion == 0 { REPLY_TOKENS } else { about.completion };
        match self.providers.known_price(model) {
            Some(price) => price.of(Tokens { completion, ..about }),
            None => self.costs.per_call(model),
        }
    }
}

#[async_trait]
impl Gate for StopGate<'_> {
    fn is_open(&self) -> bool {
        !self.stopping.is_cancelled() && !self.closed.is_cancelled()
    }

    async fn closed(&self) {
        tokio::select! {
            () = self.stopping.cancelled() => {}
            () = self.closed.cancelled() => {}
        }
    }

    fn refused(&self, _: FailureKind, _: &str) -> bool {
        // Somebody waits for the answer, and a no is one.
        false
    }

    fn price(&self, model: &ModelRef) -> Option<Price> {
        self.providers.known_price(model)
    }

    fn has_limit(&self) -> bool {
        !self.purses.is_empty()
    }

    async fn set_aside(&self, model: &ModelRef, about: Tokens) -> SetAside {
        match self.purses.set_aside(self.cost_of(model, about)).await {
            Ok(aside) => aside,
            Err(spent) => {
                // Only the first word counts; a call that waits beside this one is told the same.
                let _ = self.spent.set(spent);
                self.closed.cancel();
                std::future::pending().await
            }
        }
    }

    fn spent(&self, model: &ModelRef, totals: &Totals) {
        self.costs.add(model, totals);
    }
}

/// Works on a generation until it has its outcome; `None` when the service stops before.
async fn run(app: &App, job: Job, deltas: Option<DeltaSink>) -> Option<Outcome> {
    let begun = Instant::now();
    let purses = app.treasury().of_batch(None, &job.begun.tenant);
    let providers = &app.engine().providers;
    if !purses.is_empty() || job.plan.has_max_price() {
        let ask = join_all(job.plan.models().map(|model| providers.price(model)));
        // Without an answer in time it is called all the same.
        let _ = timeout(PRICE_WITHIN, ask).await;
    }
    let gate = StopGate {
        stopping: app.stopping(),
        purses,
        providers,
        costs: &app.generator().costs,
        spent: OnceLock::new(),
        closed: CancellationToken::new(),
    };
    let id = job.begun.id.as_bytes();
    let mut input = ItemInput {
        // Tells generations apart where the item is all there is to tell requests apart by (the demo provider).
        index: u32::from_be_bytes([id[12], id[13], id[14], id[15]]),
        offset: 0,
        custom_id: None,
        content: job.content,
        parked: None,
        deltas,
    };
    loop {
        let end = app.generator().pipeline.run(&job.plan, &gate, input.clone()).await;
        if let Some(spent) = gate.spent.get()
            && !matches!(end, ItemEnd::Settled { .. })
        {
            let parked = if let ItemEnd::Parked { item, .. } = end { Some(item) } else { input.parked };
            return Some(unpaid(parked, spent));
        }
        let again_ms = match end {
            ItemEnd::Settled { outcome, .. } => return Some(*outcome),
            ItemEnd::Parked { item, .. } => {
                let due_ms = item.due_ms;
                input.parked = Some(item);
                due_ms
            }
            ItemEnd::Untouched { lane_paused_until_ms: Some(until_ms) } => until_ms,
            ItemEnd::Untouched { lane_paused_until_ms: None } => return None,
        };
        let wait = Duration::from_millis(again_ms.saturating_sub(app.now_ms()));
        if begun.elapsed() + wait > GIVE_UP_AFTER {
            return Some(given_up(input));
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = app.stopping().cancelled() => return None,
        }
    }
}

/// The outcome of a generation whose lane stands still for longer than anyone waits.
fn given_up(input: ItemInput) -> Outcome {
    let (kind, attempts, cut) = match input.parked {
        Some(parked) => (parked.reason, parked.attempts, parked.cut),
        None => (FailureKind::RateLimited, Vec::new(), Totals::default()),
    };
    let message = "the provider asked to wait for longer than a generation is tried".to_owned();
    Outcome { custom_id: None, ending: Ending::Failed { kind, message }, attempts, cut, flags: Vec::new() }
}

/// The outcome of a generation whose tenant may spend nothing more.
fn unpaid(parked: Option<ParkedItem>, scope: &BudgetScope) -> Outcome {
    let message = match scope {
        BudgetScope::Tenant { period, name, .. } => {
            format!("the tenant's limit of the {} {name} is spent", period.as_str())
        }
        BudgetScope::Batch(_) => "the limit is spent".to_owned(),
    };
    let (attempts, cut) = parked.map(|parked| (parked.attempts, parked.cut)).unwrap_or_default();
    let ending = Ending::Failed { kind: FailureKind::PaymentRequired, message };
    Outcome { custom_id: None, ending, attempts, cut, flags: Vec::new() }
}

/// Stores an outcome, again and again while the store is away; answers whether it is stored. A stop ends that.
pub(super) async fn store(app: &App, finished: &Generation) -> bool {
    loop {
        let error = match app.engine().records.put_generation(finished).await {
            Ok(()) => return true,
            Err(error) => error,
        };
        tracing::warn!(generation.id = %finished.id, error = chain(&error), "the outcome of a generation could not be stored");
        tokio::select! {
            () = tokio::time::sleep(STORE_AGAIN) => {}
            () = app.stopping().cancelled() => return false,
        }
    }
}
