//! A double, a folder, clients under load, and the evidence they gather.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use promptmill_doubles::{Config, Doubles};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::checker::history::{Counted, Found, History, Sighting};
use crate::checker::journal::{Answer, Journal};
use crate::server::{Http, Server};
use crate::support::Desk;

/// Calls at once of every server here.
pub(crate) const CONCURRENCY: u64 = 16;

/// The most items one process has begun and not settled: those calling, and those whose end waits to be stored.
pub(crate) const SLOTS: u64 = CONCURRENCY + 256;

/// Arguments of every server here.
pub(crate) const ARGS: [&str; 4] = ["--concurrency", "16", "--requests-per-second", "100000"];

/// No condition of a test needs longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// A template whose reply repeats the row's marker.
pub(crate) fn template() -> Value {
    json!({
        "name": "chaos",
        "messages": [{"role": "user", "content": "Say something about [[row:{{ m }}]]."}],
        "variables": {"m": {"type": "string"}},
        "output": {"format": "text"}
    })
}

/// One run and what is known of it.
pub(crate) struct Scene {
    pub(crate) desk: Desk,
    pub(crate) doubles: Arc<Doubles>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) history: History,
    /// Calls in ledgers that were read and reset.
    calls_of_before: u64,
}

impl Scene {
    pub(crate) fn new(config: Config) -> Self {
        let doubles = Arc::new(Doubles::start(config).unwrap());
        let mut desk = Desk::new();
        desk.point_at(&doubles);
        let journal = Arc::new(Journal::create(desk.path("journal.jsonl")));
        Self { desk, doubles, journal, history: History::default(), calls_of_before: 0 }
    }

    pub(crate) fn first_server(&self) -> Server {
        Server::start_first(&self.desk, &ARGS)
    }

    /// Clients that submit from now on, each at most `most` batches.
    pub(crate) fn load(&self, client: &Http, seed: u64, clients: u64, most: u32) -> Load {
        Load::start(client, &self.journal, seed, clients, most)
    }

    /// Clients that send their batches and are gone before an answer comes, so that nothing of it was ever acknowledged.
    pub(crate) fn unread(&self, client: &Http, seed: u64, batches: u64) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for n in 0..batches {
            // Other dice than those of the load: a marker belongs to one batch.
            let mut dice = StdRng::seed_from_u64(seed * 1_000 + 500 + n);
            let rows = dice.random_range(1..=24);
            let markers = markers(&mut dice, rows);
            let key = format!("unread-{}", markers[0]);
            self.journal.sends(&key, &markers);
            let request = request(client, &key, &markers);
            tasks.spawn(async move { drop(request.send().await) });
        }
        tasks
    }

    /// A new batch whose answer is waited for.
    pub(crate) async fn submit(&self, client: &Http, dice: &mut StdRng, rows: usize) -> Answer {
        let markers = markers(dice, rows);
        submit(client, &self.journal, &format!("single-{}", markers[0]), &markers).await
    }

    /// Reads what the newest batches came to so far, and their counts.
    pub(crate) async fn look(&mut self, client: &Http) {
        let page = client.get("/v1/batches?limit=30").await.1;
        let mut found = Vec::new();
        for batch in page["data"].as_array().unwrap() {
            self.history.counts.push(Counted::of_batch(batch));
            found.extend(outcomes(client, batch["id"].as_str().unwrap()).await);
        }
        let totals = self.doubles.ledger().totals();
        let calls_before = self.calls_of_before + totals.calls + totals.repair_calls;
        self.history.sightings.push(Sighting { found, calls_before });
    }

    /// Waits until every batch is at its end (the sleep is only how often it asks), and reads everything.
    pub(crate) async fn drain(&mut self, client: &Http, last_fault: Instant) {
        let deadline = Instant::now() + PATIENCE;
        let batches = loop {
            let batches = all_batches(client).await;
            self.history.counts.extend(batches.iter().map(Counted::of_batch));
            // A create that broke off may leave a draft that nobody was told of; nothing runs in it.
            let open = |batch: &&Value| {
                !["draft", "completed", "cancelled", "expired"].contains(&batch["state"].as_str().unwrap())
            };
            match batches.iter().find(open) {
                None => break batches,
                Some(open) => assert!(Instant::now() < deadline, "waited in vain for {open}"),
            }
            // How often it asks; the deadline above is what it waits for.
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        self.history.recovery = last_fault.elapsed();
        self.history.export.clear();
        for batch in batches {
            self.history.export.extend(outcomes(client, batch["id"].as_str().unwrap()).await);
        }
        self.history.attempts = self.journal.attempts();
        self.keep_calls();
    }

    /// Notes the server's peak memory, and stops it: in good order, and with no panic in its log.
    #[track_caller]
    pub(crate) fn stop(&mut self, server: Server) {
        self.history.peak_kib = server.peak_kib();
        let (code, log) = server.stop();
        assert_eq!(code, Some(0), "{log}");
        check_log(&log);
    }

    /// Takes the calls out of the ledger, which begins anew.
    pub(crate) fn keep_calls(&mut self) {
        wait_until("calls under way to end", || self.doubles.ledger().totals().in_flight == 0);
        let ledger = self.doubles.ledger().snapshot();
        self.calls_of_before += ledger.totals.calls + ledger.totals.repair_calls;
        self.history.add_calls(&ledger);
        self.doubles.ledger().reset();
    }

    /// The same evidence, to go on with in another folder.
    pub(crate) fn fork(&self, data: &Path) -> Self {
        let mut desk = Desk::new();
        desk.point_at(&self.doubles);
        copy_folder(data, &desk.path("data"));
        let (doubles, journal) = (Arc::clone(&self.doubles), Arc::clone(&self.journal));
        Self { desk, doubles, journal, history: self.history.clone(), calls_of_before: self.calls_of_before }
    }
}

/// Copies the files of a folder.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Waits until it is so; the sleep is only how often it looks.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until it is so, asking the server; the sleep is only how often it asks.
pub(crate) async fn wait_until_it(what: &str, so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so().await {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Fails the test when the log tells of a panic.
#[track_caller]
pub(crate) fn check_log(log: &str) {
    assert!(!log.contains("panicked") && !log.contains("ended by a panic"), "{log}");
}

/// Every batch that a key may see.
pub(crate) async fn all_batches(client: &Http) -> Vec<Value> {
    let (mut all, mut path) = (Vec::new(), "/v1/batches?limit=500".to_owned());
    loop {
        let (status, page) = client.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        all.extend(page["data"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/batches?limit=500&cursor={cursor}"),
            None => return all,
        }
    }
}

async fn outcomes(client: &Http, batch: &str) -> Vec<Found> {
    let text = client.text(&format!("/v1/batches/{batch}/results?end=true")).await;
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.pop().unwrap()["_end"], true, "the answer was cut");
    lines.iter().map(|line| Found::of_line(batch, line)).collect()
}

/// So many new markers.
pub(crate) fn markers(dice: &mut StdRng, rows: usize) -> Vec<String> {
    (0..rows).map(|_| format!("{:016x}", dice.random::<u64>())).collect()
}

/// The rows of these markers.
pub(crate) fn rows(markers: &[String]) -> Vec<Value> {
    markers.iter().map(|marker| json!({"custom_id": marker, "variables": {"m": marker}})).collect()
}

fn request(client: &Http, key: &str, markers: &[String]) -> reqwest::RequestBuilder {
    let body = json!({"template": template(), "model": "openai:m", "rows": rows(markers)}).to_string();
    let request = client.request(Method::POST, "/v1/batches").header("content-type", "application/json");
    request.header("Idempotency-Key", key).body(body)
}

/// Submits a batch of these rows, writing down what is sent and what is answered.
pub(crate) async fn submit(client: &Http, journal: &Journal, key: &str, markers: &[String]) -> Answer {
    let n = journal.sends(key, markers);
    let answer = match request(client, key, markers).send().await.map(|got| got.status()) {
        Ok(status) if status.is_success() => Answer::Acked,
        // The store did not say whether it was done, or an earlier request with the key is still at it.
        Ok(StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT) | Err(_) => Answer::Unknown,
        Ok(status) => Answer::Refused(status.as_u16()),
    };
    journal.answered(n, answer.clone());
    answer
}

/// Clients under way.
pub(crate) struct Load {
    told: Arc<Told>,
    clients: JoinSet<()>,
}

/// What they were answered so far.
#[derive(Default)]
pub(crate) struct Told {
    stop: AtomicBool,
    pub(crate) acked: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl Load {
    fn start(client: &Http, journal: &Arc<Journal>, seed: u64, clients: u64, most: u32) -> Self {
        let told = Arc::new(Told::default());
        let mut tasks = JoinSet::new();
        for n in 0..clients {
            let (client, journal, told) = (client.clone(), Arc::clone(journal), Arc::clone(&told));
            tasks.spawn(async move {
                let mut dice = StdRng::seed_from_u64(seed * 1_000 + n);
                for nth in 0..most {
                    let count = dice.random_range(1..=24);
                    let markers = markers(&mut dice, count);
                    let key = format!("{seed}-{n}-{nth}-{}", markers[0]);
                    // Half of those who are told nothing ask again, under the same key.
                    while !told.stop.load(Ordering::SeqCst) {
                        let answer = submit(&client, &journal, &key, &markers).await;
                        told.note(&answer);
                        // A pace that the provider can follow, so that a run does not grow by its own waiting.
                        tokio::time::sleep(Duration::from_millis(40)).await;
                        if answer == Answer::Acked {
                            break;
                        }
                        if answer != Answer::Unknown || dice.random_bool(0.5) {
                            break;
                        }
                    }
                    if told.stop.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
        }
        Self { told, clients: tasks }
    }

    /// What the clients were answered so far.
    pub(crate) fn told(&self) -> &Told {
        &self.told
    }

    /// Waits until `count` grew by `more`.
    pub(crate) async fn wait_for_more(&self, what: &str, more: u64, count: impl Fn(&Told) -> &AtomicU64) {
        let from = count(&self.told).load(Ordering::SeqCst);
        wait_until_it(what, async || count(&self.told).load(Ordering::SeqCst) >= from + more).await;
    }

    /// Waits until every client has sent all it wanted.
    pub(crate) async fn through(mut self) {
        while self.clients.join_next().await.is_some() {}
    }

    /// No further submits; those under way are waited for.
    pub(crate) async fn end(self) {
        self.told.stop.store(true, Ordering::SeqCst);
        self.through().await;
    }
}

impl Told {
    fn note(&self, answer: &Answer) {
        let count = match answer {
            Answer::Acked => &self.acked,
            Answer::Unknown => &self.unknown,
            Answer::Refused(_) => &self.refused,
        };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// How often each thing was found, for a message.
pub(crate) fn tally<'a>(things: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, u32> {
    let mut tally = BTreeMap::new();
    for thing in things {
        *tally.entry(thing).or_default() += 1;
    }
    tally
}
