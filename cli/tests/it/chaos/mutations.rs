//! Proof that the checker sees: the same scenario, with the same seeds, over a store that is right and over three that are wrong, on SQLite
//! and on MongoDB with Redis.
//!
//! Three workers run a batch one after another. The first loses answers of the store and dies between its two steps; the second is
//! stopped with everything called and nothing settled, taken for dead, and wakes up while the third has the chunks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use promptmill_domain::{BatchId, BatchLimits, BatchSpec, BatchState, LaneId, SessionId, TenantId, UploadId};
use promptmill_doubles::{Config, Doubles, Provider};
use promptmill_ports::{NewBatch, PageLimit, PartCommit, RowBlock, Store, decode_outcome, flow};
use promptmill_provider::{CallFailure, ChatProvider, ChatReply, ChatRequest, ModelListing};
use promptmill_rowio::{BlockBuilder, StoredRow};
use promptmill_runtime::{Engine, ProviderSettings, Providers};
use promptmill_scheduler::Scheduler;
use promptmill_worker::{Worker, WorkerConfig};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::ground::{Ground, Process};
use super::scene::{markers, template, wait_until_it};
use super::two_steps::{Line, Mutation, Shared};
use crate::checker::history::{Allowed, Counted, Found, History, Sighting};
use crate::checker::journal::{Answer, Journal};
use crate::checker::judge::{Invariant, Verdict, judge};
use crate::stand::{Kind, on_both_stands};

const ROWS: usize = 120;

/// A provider whose calls wait for leave, one at a time.
struct Gated {
    inner: Arc<dyn ChatProvider>,
    gate: Arc<Semaphore>,
}

#[async_trait]
impl ChatProvider for Gated {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn credential_name(&self) -> &str {
        self.inner.credential_name()
    }

    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, CallFailure> {
        self.gate.acquire().await.unwrap().forget();
        self.inner.chat(request).await
    }

    async fn models(&self) -> Result<Vec<ModelListing>, CallFailure> {
        self.inner.models().await
    }
}

struct Stage {
    doubles: Doubles,
    /// Nobody's line: what an onlooker sees.
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    tenant: TenantId,
    batch: BatchId,
    markers: Vec<String>,
    journal: Journal,
    history: History,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new(seed: u64, store: Arc<dyn Store>, mutation: Mutation, dice: &mut StdRng) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { seed, latency: "1..10".parse().unwrap(), ..Config::default() };
        Self {
            doubles: Doubles::start(config).unwrap(),
            store,
            shared: Shared::new(mutation),
            tenant: TenantId::default_tenant(),
            batch: BatchId::from_bytes(dice.random()),
            markers: markers(dice, ROWS),
            journal: Journal::create(folder.path().join("journal.jsonl")),
            history: History::default(),
            _folder: folder,
        }
    }

    /// A line of this process to the store.
    fn line(&self, process: &Process) -> Line {
        Line::new(process.store.clone(), &self.shared)
    }

    /// The engine of a process whose line to the store is this one and whose calls wait for `gate`.
    fn engine(&self, process: &Process, line: Arc<Line>, gate: Arc<Semaphore>) -> Engine {
        let mut settings = ProviderSettings::default();
        settings.openai.base_url = self.doubles.base_url(Provider::OpenAi);
        let inner = Providers::new(settings).unwrap().get("openai").unwrap();
        let providers = Providers::of([Arc::new(Gated { inner, gate }) as Arc<dyn ChatProvider>]);
        process.engine(line, Arc::new(providers))
    }

    async fn submit(&self, engine: &Engine) {
        let sent = self.journal.sends("batch", &self.markers);
        let (store, tenant, id) = (&engine.store, &self.tenant, self.batch);
        let lane = LaneId::new("openai", "default");
        let spec = BatchSpec::new(template().to_string(), "openai:m".parse().unwrap(), lane.clone());
        let new = NewBatch { id, spec, limits: BatchLimits::default(), idem_key: None, now_ms: 0 };
        store.create(tenant, new).await.unwrap();
        let mut builder = BlockBuilder::new();
        let rows = self
            .markers
            .iter()
            .map(|marker| StoredRow::of_variables(Some(marker.clone()), format!("{{\"m\":\"{marker}\"}}")));
        let mut blocks: Vec<_> = rows.filter_map(|row| builder.push(&row)).collect();
        blocks.extend(builder.finish());
        let count = u32::try_from(blocks.len()).unwrap();
        let upload = UploadId::from_bytes([7; 16]);
        let blocks = blocks.into_iter().zip(0..).map(|(block, seq)| RowBlock {
            seq,
            len: block.len,
            bytes: block.bytes.into(),
            ids: block.ids.into(),
        });
        store.put_rows(tenant, id, upload, blocks.collect(), 0).await.unwrap();
        let part = PartCommit { part: 0, upload, blocks: count, digest: [0; 32] };
        store.commit_part(tenant, id, part).await.unwrap();
        flow::submit(store.as_ref(), tenant, id, &lane, 0).await.unwrap();
        self.journal.answered(sent, Answer::Acked);
    }

    /// Takes the chunks of a session that beats no more.
    async fn bury(&self, session: SessionId) {
        wait_until_it("the session to be buried", async || {
            let sessions = self.store.sessions().await.unwrap();
            let Some(found) = sessions.iter().find(|found| found.session == session) else { return true };
            self.store.bury(session, found.beat, 0).await.unwrap().is_some()
        })
        .await;
    }

    /// What can be read of the batch now.
    async fn read(&mut self, engine: &Engine) -> Vec<Found> {
        let progress = engine.store.progress(&self.tenant, self.batch).await.unwrap();
        let counts = progress.counts;
        let places = [counts.waiting, counts.leased, counts.parked, counts.settled()];
        self.history.counts.push(Counted { rows: ROWS as u64, places });
        let limit = PageLimit { items: 10_000, bytes: usize::MAX };
        let page = engine.store.outcomes(&self.tenant, self.batch, 0, limit).await.unwrap();
        let found = page.outcomes.iter().map(|stored| {
            let outcome = decode_outcome(stored.body.as_ref().unwrap()).unwrap();
            let line = serde_json::json!({
                "custom_id": self.markers[stored.index as usize],
                "calls": outcome.totals().calls,
                "output": serde_json::to_value(&outcome).unwrap()["ending"]["succeeded"]["output"]["text"],
                "whole": outcome,
            });
            Found::of_line(&self.batch.to_string(), &line)
        });
        found.collect()
    }

    async fn look(&mut self, engine: &Engine) {
        let found = self.read(engine).await;
        let calls_before = self.doubles.ledger().totals().calls;
        self.history.sightings.push(Sighting { found, calls_before });
    }

    async fn open_items(&self, engine: &Engine) -> u64 {
        engine.store.progress(&self.tenant, self.batch).await.unwrap().counts.open()
    }
}

async fn worker(engine: &Engine, concurrency: usize) -> Worker {
    let config = WorkerConfig { concurrency, ..WorkerConfig::default() };
    Worker::start(engine.clone(), config).await.unwrap()
}

async fn run(seed: u64, kind: Kind, mutation: Mutation) -> Verdict {
    let ground = Ground::new(kind);
    let mut dice = StdRng::seed_from_u64(seed);
    let process = ground.process().await;
    let mut stage = Stage::new(seed, process.store.clone(), mutation, &mut dice);
    let open_gate = || Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let overview = stage.engine(&process, Arc::new(stage.line(&process)), open_gate());
    let desk = Arc::new(stage.line(&process));
    let scheduler = Scheduler::start(stage.engine(&process, desk.clone(), open_gate()));
    stage.submit(&overview).await;

    // Every third answer of the store is lost, and the process dies in the middle of a settle: of the first or of the second one that
    // follows a repeated one, so that it holds ends nobody stored before.
    let process = ground.process().await;
    let mut line = stage.line(&process);
    (line.loses_answers, line.dies_at) = (3, if dice.random_bool(0.5) { 5 } else { 8 });
    let (line, gate) = (Arc::new(line), Arc::new(Semaphore::new(0)));
    let first = worker(&stage.engine(&process, line.clone(), gate.clone()), 4).await;
    while !line.died.load(Ordering::SeqCst) {
        let settles = line.settles.load(Ordering::SeqCst);
        gate.add_permits(3);
        wait_until_it("a settle", async || {
            line.settles.load(Ordering::SeqCst) > settles || line.died.load(Ordering::SeqCst)
        })
        .await;
    }
    wait_until_it("its calls to end", async || stage.doubles.ledger().totals().in_flight == 0).await;
    stage.bury(first.session()).await;
    stage.look(&overview).await;

    // Everything is called and nothing settled when the second process is stopped.
    let process = ground.process().await;
    let mut line = stage.line(&process);
    line.settle_permits = Semaphore::new(0);
    let line = Arc::new(line);
    let (open, called) = (stage.open_items(&overview).await, stage.doubles.ledger().totals().calls);
    let second = worker(&stage.engine(&process, line.clone(), open_gate()), 32).await;
    wait_until_it("the second to call all it can", async || {
        let totals = stage.doubles.ledger().totals();
        totals.calls == called + open && totals.in_flight == 0
    })
    .await;
    line.cut(true);
    stage.bury(second.session()).await;

    // The third has every chunk and has called for nothing when the second wakes up and settles what it has in hand.
    let gate = Arc::new(Semaphore::new(0));
    let process = ground.process().await;
    let third = worker(&stage.engine(&process, Arc::new(stage.line(&process)), gate.clone()), 8).await;
    wait_until_it("the third to have the chunks", async || {
        let counts = overview.store.progress(&stage.tenant, stage.batch).await.unwrap().counts;
        counts.leased == counts.open()
    })
    .await;
    // Nobody closes the batch meanwhile, or the third would be told that there is nothing left to do.
    desk.cut(true);
    line.settle_permits.add_permits(1);
    wait_until_it("the second to settle", async || line.answered.load(Ordering::SeqCst) == 1).await;
    stage.look(&overview).await;
    let called = stage.doubles.ledger().totals().calls;
    gate.add_permits(1_000);
    wait_until_it("the third to call", async || stage.doubles.ledger().totals().calls > called).await;
    desk.cut(false);
    line.cut(false);
    wait_until_it("the batch to end", async || {
        overview.store.batch(&stage.tenant, stage.batch).await.unwrap().state == BatchState::Completed
    })
    .await;
    third.stop(&CancellationToken::new()).await;
    scheduler.stop().await;
    stage.history.export = stage.read(&overview).await;
    stage.history.attempts = stage.journal.attempts();
    stage.history.add_calls(&stage.doubles.ledger().snapshot());
    // The first and the second are dead to the world; they go with the runtime.
    drop((first, second));
    judge(&stage.history, &Allowed { deaths: 2, slots: ROWS as u64, ..Allowed::NOTHING })
}

/// The verdicts of a few seeds, which wait beside each other more than they work.
async fn verdicts(kind: Kind, mutation: Mutation) -> Vec<(u64, Verdict)> {
    let run = |seed| Box::pin(run(seed, kind, mutation));
    let (first, second, third) = tokio::join!(run(1), run(2), run(3));
    vec![(1, first), (2, second), (3, third)]
}

async fn check_red(kind: Kind, mutation: Mutation, invariant: Invariant) {
    for (seed, verdict) in verdicts(kind, mutation).await {
        println!("{kind:?}, {mutation:?}, seed {seed}: {:?} {:?}", verdict.counts, verdict.broken);
        assert!(verdict.broken.contains_key(&invariant), "{mutation:?}, seed {seed}: {:?}", verdict.broken);
    }
}

on_both_stands! {
    a_store_that_is_right_is_green,
    a_store_that_ignores_the_token_is_found_out,
    a_store_that_draws_the_keys_of_outcomes_is_found_out,
    a_store_that_writes_the_byte_before_the_body_is_found_out,
}

async fn a_store_that_is_right_is_green(kind: Kind) {
    for (seed, verdict) in verdicts(kind, Mutation::None).await {
        verdict.check(&format!("seed {seed}"));
    }
}

async fn a_store_that_ignores_the_token_is_found_out(kind: Kind) {
    check_red(kind, Mutation::TokenIgnored, Invariant::NoLateCall).await;
}

async fn a_store_that_draws_the_keys_of_outcomes_is_found_out(kind: Kind) {
    check_red(kind, Mutation::RandomKey, Invariant::OneOutcome).await;
}

async fn a_store_that_writes_the_byte_before_the_body_is_found_out(kind: Kind) {
    check_red(kind, Mutation::ByteBeforeBody, Invariant::NothingLost).await;
}
