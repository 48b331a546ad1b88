//! One item, its provider, and everything around it, as far as a test wants to choose it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::rate::{LaneLimits, Learned};
use promptmill_domain::{
    BatchId, BatchSpec, CacheScope, Ending, FailureKind, Fallback, LaneId, Message, ModelRef, Money, Outcome,
    OwnPrice, ParkedItem, Price, Role, StoreReplies, TenantId, Tokens, Totals, own_price,
};
use promptmill_pipeline::{
    BatchPlan, Concurrency, Gate, ItemContent, ItemEnd, ItemInput, Pipeline, ReplyCache, RetryPolicy, Stage,
};
use promptmill_ports::{
    CallNeed, Clock, Denied, HubError, LaneReport, Limiter, MemoryHub, Outlived, Permit, Replies, ReplyKey,
    StoreError, StoreResult,
};
use promptmill_provider::{CallFailure, ChatProvider, ChatReply, ChatRequest, Finish, ModelListing};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// When every test begins, Unix milliseconds.
pub(crate) const START_MS: u64 = 1_790_000_000_000;

/// What every scripted call costs.
pub(crate) const COST: Money = Money::from_pico(1_000);

/// A reply that [`Scene::json`]'s template accepts.
pub(crate) const GOOD: &str = r#"{"word":"yes"}"#;

pub(crate) type Answer = Result<ChatReply, CallFailure>;
type Script = dyn Fn(usize, &ChatRequest) -> Answer + Send + Sync;

/// A call as the provider saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) at: Duration,
    pub(crate) attempt: u32,
    pub(crate) messages: Vec<Message>,
}

/// Answers by a script, and keeps what it was asked.
pub(crate) struct ScriptedProvider {
    script: Box<Script>,
    takes: Duration,
    credential: &'static str,
    began: Instant,
    seen: Mutex<Vec<Seen>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl ScriptedProvider {
    fn new(
        credential: &'static str,
        began: Instant,
        takes: Duration,
        script: impl Fn(usize, &ChatRequest) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self {
            script: Box::new(script),
            takes,
            credential,
            began,
            seen: Mutex::default(),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The moment the clock began to run.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// The most calls at the same time.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl ChatProvider for ScriptedProvider {
    fn name(&self) -> &str {
        "scripted"
    }

    fn credential_name(&self) -> &str {
        self.credential
    }

    async fn chat(&self, request: &ChatRequest) -> Answer {
        let call = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(Seen {
                at: self.began.elapsed(),
                attempt: request.attempt,
                messages: request.messages.clone(),
            });
            seen.len() - 1
        };
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        (self.script)(call, request)
    }

    async fn models(&self) -> Result<Vec<ModelListing>, CallFailure> {
        Ok(vec![])
    }
}

/// Wall time that goes with the runtime's time.
struct TestClock(Instant);

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        START_MS + u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

/// The in-memory limiter, with a list of the pauses it was told.
#[derive(Default)]
pub(crate) struct WatchedLimiter {
    hub: MemoryHub,
    pauses: Mutex<Vec<u64>>,
}

impl WatchedLimiter {
    /// How long after the start each pause was to end, in milliseconds.
    pub(crate) fn pauses(&self) -> Vec<u64> {
        self.pauses.lock().unwrap().iter().map(|until| until - START_MS).collect()
    }
}

#[async_trait]
impl Limiter for WatchedLimiter {
    async fn acquire(&self, lane: &LaneId, need: CallNeed, now_ms: u64) -> Result<Permit, Denied> {
        self.hub.acquire(lane, need, now_ms).await
    }

    async fn pause(&self, lane: &LaneId, until_ms: u64) -> Result<(), HubError> {
        self.pauses.lock().unwrap().push(until_ms);
        self.hub.pause(lane, until_ms).await
    }

    async fn set_concurrency(&self, lane: &LaneId, limit: Option<u32>) -> Result<(), HubError> {
        self.hub.set_concurrency(lane, limit).await
    }

    fn set_rules(&self, lane: &LaneId, limits: LaneLimits, learned: Learned) {
        self.hub.set_rules(lane, limits, learned);
    }

    fn lanes(&self) -> Vec<LaneReport> {
        self.hub.lanes()
    }
}

/// Replies that are kept in memory, and looked up in no time unless told otherwise.
#[derive(Default)]
pub(crate) struct MemoryReplies {
    kept: Mutex<HashMap<ReplyKey, Bytes>>,
    /// Keys of each look-up, and of each step that kept some.
    steps: Mutex<Vec<(&'static str, usize)>>,
    fails: AtomicBool,
    stands: AtomicBool,
}

impl MemoryReplies {
    pub(crate) fn fail(&self) {
        self.fails.store(true, Ordering::SeqCst);
    }

    /// Answers nothing any more.
    pub(crate) fn stand_still(&self) {
        self.stands.store(true, Ordering::SeqCst);
    }

    pub(crate) fn kept(&self) -> usize {
        self.kept.lock().unwrap().len()
    }

    pub(crate) fn steps(&self) -> Vec<(&'static str, usize)> {
        self.steps.lock().unwrap().clone()
    }

    async fn step(&self, name: &'static str, keys: usize) -> StoreResult<()> {
        if self.stands.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("it is away".into()));
        }
        self.steps.lock().unwrap().push((name, keys));
        Ok(())
    }
}

#[async_trait]
impl Replies for MemoryReplies {
    async fn replies(&self, keys: &[ReplyKey]) -> StoreResult<Vec<Option<Bytes>>> {
        self.step("look", keys.len()).await?;
        let kept = self.kept.lock().unwrap();
        Ok(keys.iter().map(|key| kept.get(key).cloned()).collect())
    }

    async fn keep_replies(&self, replies: Vec<(ReplyKey, Bytes)>, _now_ms: u64) -> StoreResult<()> {
        self.step("keep", replies.len()).await?;
        let mut kept = self.kept.lock().unwrap();
        for (key, body) in replies {
            kept.entry(key).or_insert(body);
        }
        Ok(())
    }

    async fn forget_replies(&self, _: &Outlived) -> StoreResult<u32> {
        Ok(0)
    }
}

/// A gate that a test closes.
#[derive(Default)]
pub(crate) struct TestGate {
    closed: CancellationToken,
    spent: Mutex<Totals>,
    /// What it was told of refused credentials, where it pauses for them.
    refusals: Mutex<Option<Vec<(FailureKind, String)>>>,
    /// What models cost, by their names.
    prices: Mutex<HashMap<String, Price>>,
}

impl TestGate {
    /// The model costs so much.
    pub(crate) fn set_price(&self, model: &str, price: &str) {
        let own: OwnPrice = format!("{model}={price}").parse().unwrap();
        let price = own_price(&[own], &model.parse().unwrap()).unwrap();
        self.prices.lock().unwrap().insert(model.to_owned(), price);
    }

    /// From now on the batch stands still when the credential is refused.
    pub(crate) fn pause_for_refusals(&self) {
        *self.refusals.lock().unwrap() = Some(Vec::new());
    }

    pub(crate) fn refusals(&self) -> Vec<(FailureKind, String)> {
        self.refusals.lock().unwrap().clone().unwrap_or_default()
    }

    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    pub(crate) fn spent(&self) -> Totals {
        *self.spent.lock().unwrap()
    }
}

#[async_trait]
impl Gate for TestGate {
    fn is_open(&self) -> bool {
        !self.closed.is_cancelled()
    }

    async fn closed(&self) {
        self.closed.cancelled().await;
    }

    fn refused(&self, kind: FailureKind, message: &str) -> bool {
        let refusals =
            self.refusals.lock().unwrap().as_mut().map(|told| told.push((kind, message.to_owned())));
        refusals.is_some()
    }

    fn price(&self, model: &ModelRef) -> Option<Price> {
        self.prices.lock().unwrap().get(&model.to_string()).copied()
    }

    fn spent(&self, _: &ModelRef, totals: &Totals) {
        *self.spent.lock().unwrap() += *totals;
    }
}

/// Everything around an item. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) provider: Arc<ScriptedProvider>,
    pub(crate) limiter: Arc<WatchedLimiter>,
    pub(crate) gate: Arc<TestGate>,
    /// What the cache keeps, for a batch that shares replies.
    pub(crate) replies: Arc<MemoryReplies>,
    pipeline: Arc<Pipeline>,
    pub(crate) plan: Arc<BatchPlan>,
    spec: BatchSpec,
}

/// How a scene differs from the usual one.
pub(crate) struct Setting {
    pub(crate) output: &'static str,
    pub(crate) rules: &'static str,
    pub(crate) max_attempts: u32,
    pub(crate) give_up_after: Option<Duration>,
    pub(crate) max_repairs: u32,
    pub(crate) concurrency: usize,
    pub(crate) takes: Duration,
    pub(crate) policy: RetryPolicy,
    pub(crate) store_replies: StoreReplies,
    pub(crate) cache: Option<CacheScope>,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            output: r#"{"format":"json","schema":{"type":"object","required":["word"],"properties":{"word":{"type":"string"}}}}"#,
            rules: "[]",
            max_attempts: 5,
            give_up_after: None,
            max_repairs: 2,
            concurrency: 4,
            takes: Duration::from_millis(10),
            policy: RetryPolicy::default(),
            store_replies: StoreReplies::None,
            cache: None,
        }
    }
}

impl Setting {
    pub(crate) fn text() -> Self {
        Self { output: r#"{"format":"text"}"#, ..Self::default() }
    }

    pub(crate) fn scene(
        self,
        script: impl Fn(usize, &ChatRequest) -> Answer + Send + Sync + 'static,
    ) -> Scene {
        let template = format!(
            r#"{{"name":"test","messages":[{{"role":"system","content":"Be brief."}},{{"role":"user","content":"Say {{{{ word }}}}."}}],
                "variables":{{"word":{{"type":"string"}}}},"output":{},"rules":{},"max_repairs":{}}}"#,
            self.output, self.rules, self.max_repairs
        );
        let lane = LaneId::new("scripted", "none");
        let spec = BatchSpec {
            max_attempts: self.max_attempts,
            give_up_after_ms: self.give_up_after.map(|after| u64::try_from(after.as_millis()).unwrap()),
            store_replies: self.store_replies,
            cache: self.cache,
            ..BatchSpec::new(template, "scripted:any".parse().unwrap(), lane)
        };
        let began = Instant::now();
        let provider = Arc::new(ScriptedProvider::new("none", began, self.takes, script));
        let limiter = Arc::new(WatchedLimiter::default());
        let plan = BatchPlan::new(BatchId::from_bytes([7; 16]), &spec, provider.clone()).unwrap();
        let (clock, replies) = (Arc::new(TestClock(began)), Arc::new(MemoryReplies::default()));
        let mut pipeline =
            Pipeline::new(limiter.clone(), clock.clone(), Concurrency::of(self.concurrency), self.policy);
        if self.cache.is_some() {
            let cache = Arc::new(ReplyCache::new(replies.clone(), clock));
            pipeline = pipeline.with_cache(cache.clone());
            tokio::spawn(async move { cache.run().await });
        }
        Scene {
            pipeline: Arc::new(pipeline),
            plan: Arc::new(plan.sharing(&TenantId::default_tenant(), &spec)),
            gate: Arc::default(),
            replies,
            provider,
            limiter,
            spec,
        }
    }
}

impl Scene {
    /// A usual scene with this script.
    pub(crate) fn json(script: impl Fn(usize, &ChatRequest) -> Answer + Send + Sync + 'static) -> Self {
        Setting::default().scene(script)
    }

    /// A usual scene that answers so, one after the other, and well from then on.
    pub(crate) fn of(answers: Vec<Answer>) -> Self {
        Self::json(in_turn(answers))
    }

    pub(crate) async fn run(&self) -> ItemEnd {
        self.run_item(item(0)).await
    }

    pub(crate) async fn run_item(&self, input: ItemInput) -> ItemEnd {
        self.pipeline.run(&self.plan, self.gate.as_ref(), input).await
    }

    /// Begins an item beside the test.
    pub(crate) fn spawn(&self, input: ItemInput) -> tokio::task::JoinHandle<ItemEnd> {
        let scene = self.clone();
        tokio::spawn(async move { scene.run_item(input).await })
    }

    /// The same with a second model, `scripted:other`, on the lane of another credential.
    pub(crate) fn followed_by(
        &self,
        fallback: Fallback,
        script: impl Fn(usize, &ChatRequest) -> Answer + Send + Sync + 'static,
    ) -> (Self, Arc<ScriptedProvider>) {
        let takes = self.provider.takes;
        let other = Arc::new(ScriptedProvider::new("other", self.provider.began, takes, script));
        let spec = BatchSpec { fallback, ..self.spec.clone() };
        let plan = BatchPlan::new(BatchId::from_bytes([7; 16]), &spec, self.provider.clone()).unwrap();
        let plan = plan.with_fallback(&"scripted:other".parse().unwrap(), other.clone());
        let plan = plan.sharing(&TenantId::default_tenant(), &spec);
        (Self { plan: Arc::new(plan), spec, ..self.clone() }, other)
    }

    /// Another batch in the same process, on the lane of this credential.
    pub(crate) fn beside(
        &self,
        credential: &'static str,
        takes: Duration,
        script: impl Fn(usize, &ChatRequest) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let provider = Arc::new(ScriptedProvider::new(credential, self.provider.began, takes, script));
        let plan = BatchPlan::new(BatchId::from_bytes([8; 16]), &self.spec, provider.clone()).unwrap();
        Self { provider, plan: Arc::new(plan), ..self.clone() }
    }

    /// Another batch of the tenant and of the same provider in the same process, whose spec differs so.
    pub(crate) fn another(&self, tenant: &str, change: impl FnOnce(&mut BatchSpec)) -> Self {
        let mut spec = self.spec.clone();
        change(&mut spec);
        let plan = BatchPlan::new(BatchId::from_bytes([9; 16]), &spec, self.provider.clone()).unwrap();
        Self { plan: Arc::new(plan.sharing(&tenant.parse().unwrap(), &spec)), spec, ..self.clone() }
    }

    /// Items that call, and that wait for a place, the lane, the batch's limit, and a retry.
    pub(crate) fn standing(&self) -> [u32; 5] {
        [Stage::Call, Stage::Place, Stage::Lane, Stage::Batch, Stage::Retry]
            .map(|stage| self.plan.standing().at(stage))
    }

    pub(crate) fn lane(&self) -> LaneId {
        self.plan.lane().clone()
    }

    pub(crate) fn calls_in_flight(&self) -> usize {
        self.pipeline.calls_in_flight()
    }
}

/// A fresh item.
pub(crate) fn item(index: u32) -> ItemInput {
    ItemInput {
        index,
        offset: index,
        custom_id: Some(format!("row-{index}")),
        content: ItemContent::Variables(r#"{"word":"yes"}"#.to_owned()),
        parked: None,
        deltas: None,
    }
}

/// These answers one after the other, and good ones from then on.
pub(crate) fn in_turn(answers: Vec<Answer>) -> impl Fn(usize, &ChatRequest) -> Answer {
    move |call, _| answers.get(call).cloned().unwrap_or_else(|| says(GOOD))
}

/// A complete reply.
pub(crate) fn says(content: &str) -> Answer {
    Ok(reply(content, Finish::Stop))
}

/// A reply that ended so.
pub(crate) fn ends(content: &str, finish: Finish) -> Answer {
    Ok(reply(content, finish))
}

fn reply(content: &str, finish: Finish) -> ChatReply {
    ChatReply {
        content: content.to_owned(),
        finish,
        usage: Some(Tokens { prompt: 10, completion: 5 }),
        cost: Some(COST),
        status: 200,
        ..ChatReply::default()
    }
}

/// A failed call.
pub(crate) fn fails(kind: FailureKind) -> Answer {
    Err(CallFailure::new(kind, "the provider's words"))
}

/// The provider says when to come back, to the whole lane.
pub(crate) fn slow_down(retry_after: Duration) -> Answer {
    let mut failure = CallFailure::new(FailureKind::RateLimited, "slow down").with_status(429);
    failure.retry_after = Some(retry_after);
    failure.lane_wide = true;
    Err(failure)
}

#[track_caller]
pub(crate) fn settled(end: ItemEnd) -> (Outcome, Totals) {
    match end {
        ItemEnd::Settled { outcome, spent } => (*outcome, spent),
        other => panic!("not settled: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn failed(end: ItemEnd) -> (FailureKind, String, Outcome) {
    let (outcome, _) = settled(end);
    match outcome.ending.clone() {
        Ending::Failed { kind, message } => (kind, message, outcome),
        Ending::Succeeded { .. } => panic!("succeeded"),
    }
}

#[track_caller]
pub(crate) fn succeeded(end: ItemEnd) -> (bool, Outcome) {
    let (outcome, _) = settled(end);
    match outcome.ending.clone() {
        Ending::Succeeded { repaired, .. } => (repaired, outcome),
        Ending::Failed { kind, message } => panic!("failed: {kind:?} {message}"),
    }
}

#[track_caller]
pub(crate) fn parked(end: ItemEnd) -> (ParkedItem, Totals) {
    match end {
        ItemEnd::Parked { item, spent } => (item, spent),
        other => panic!("not parked: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn untouched(end: ItemEnd) -> Option<u64> {
    match end {
        ItemEnd::Untouched { lane_paused_until_ms } => lane_paused_until_ms,
        other => panic!("not untouched: {other:?}"),
    }
}

/// Who spoke, in order.
pub(crate) fn roles(messages: &[Message]) -> Vec<Role> {
    messages.iter().map(|message| message.role).collect()
}
