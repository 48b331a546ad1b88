//! Where the cases run: the real server, the canaries beside it, and what is measured of it for each case.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::case::Case;
use super::expression::Tokens;
use super::provider::Provider;
use crate::server::{Http, Server};
use crate::support::{Desk, status_kib};

/// What the canary file holds; no answer and no log may.
const CANARY: &str = "canary-5f1c9e7ab2d04";

/// The longest answer to a case that is no result.
const MOST_ANSWER_BYTES: usize = 2 << 20;

/// A server with everything it must not touch.
pub(crate) struct Stand {
    server: Server,
    /// Asks it, with the key of the first start.
    pub(crate) http: Http,
    /// Answers its calls.
    pub(crate) provider: Provider,
    /// What stands in the cases for what is known only now.
    pub(crate) tokens: Tokens,
    desk: Desk,
    connections: Arc<AtomicUsize>,
    read_at: SystemTime,
    spent: Vec<Spent>,
    failures: Vec<String>,
}

/// What a case cost the server.
struct Spent {
    name: String,
    cpu_ms: u64,
    grown_kib: u64,
}

/// What came back for a case.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Answer {
    /// The body as JSON, null where it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// Notes what is not as the case expects it: status, the problem's code, words.
    pub(crate) fn compare(&self, case: &Case, failures: &mut Vec<String>) {
        case.compare("status", &self.status.into(), failures);
        case.compare("code", &self.json()["code"], failures);
        case.compare_words(&self.text, failures);
        if self.text.len() > MOST_ANSWER_BYTES {
            failures.push(format!("an answer of {} bytes", self.text.len()));
        }
    }
}

impl Stand {
    /// A server that listens on this address.
    pub(crate) fn listening(address: &str) -> Self {
        let provider = Provider::start();
        let mut desk = Desk::new();
        desk.set("OPENAI_BASE_URL", &format!("{}/v1", provider.url));
        desk.set("PROMPTMILL_LOG", "info");
        desk.write("canary.txt", CANARY);
        let file = desk.path("canary.txt");
        let read_at = fs::metadata(&file).unwrap().accessed().unwrap();
        let (canary_url, connections) = listening_canary();
        let server = Server::start_first(&desk, &["--listen", address, "--requests-per-second", "1000000"]);
        let http = server.client();
        let tokens = Tokens::new(vec![
            ("<<KEY>>", server.key.clone()),
            ("<<CANARY_URL>>", canary_url),
            ("<<CANARY_FILE>>", file.display().to_string()),
        ]);
        Self {
            server,
            http,
            provider,
            tokens,
            desk,
            connections,
            read_at,
            spent: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Where it listens, `HOST:PORT`.
    pub(crate) fn address(&self) -> &str {
        self.server.url.trim_start_matches("http://")
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.server.id()))
    }

    /// Processor time of the whole process; Linux counts hundredths of a second.
    fn cpu_ms(&self) -> u64 {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        let (_, behind_name) = stat.rsplit_once(')').unwrap();
        let fields: Vec<&str> = behind_name.split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum()
    }

    /// Runs one case between two measurements and notes everything that is not as it must be.
    pub(crate) async fn run(&mut self, case: &Case, sent: impl AsyncFnOnce(&Self, &mut Vec<String>)) {
        // Resets the peak; where the kernel cannot, growth is counted from the peak so far.
        let reset = fs::write(self.proc("clear_refs"), "5").is_ok();
        let before_kib = status_kib(self.server.id(), if reset { "VmRSS" } else { "VmHWM" })
            .expect("it lived after the last case");
        let before_ms = self.cpu_ms();
        let mut failures = Vec::new();
        let running = sent(self, &mut failures);
        if tokio::time::timeout(std::time::Duration::from_secs(60), running).await.is_err() {
            failures.push("there was no end within a minute".to_owned());
        }
        let cpu_ms = self.cpu_ms().saturating_sub(before_ms);
        let Some(peak_kib) = status_kib(self.server.id(), "VmHWM") else {
            panic!("{:?} has killed the server: {failures:?}", case.name);
        };
        let grown_kib = peak_kib.saturating_sub(before_kib);
        if cpu_ms > case.most_ms() {
            failures.push(format!("took {cpu_ms} ms of processor time, may take {}", case.most_ms()));
        }
        if grown_kib > case.most_mb() * 1024 {
            failures.push(format!("grew by {grown_kib} KiB, may grow by {} MB", case.most_mb()));
        }
        // On a connection that an earlier answer left open, where there is one.
        match self.http.request(Method::GET, "/livez").send().await {
            Ok(answer) if answer.status() == StatusCode::OK => {}
            Ok(answer) => failures.push(format!("/livez answers {}", answer.status())),
            Err(error) => failures.push(format!("/livez does not answer: {error:?}")),
        }
        let touched = self.connections.swap(0, Ordering::SeqCst);
        if touched > 0 {
            failures.push(format!("the canary port was connected to {touched} times"));
        }
        self.spent.push(Spent { name: case.name.clone(), cpu_ms, grown_kib });
        self.failures.extend(failures.into_iter().map(|failure| format!("{}: {failure}", case.name)));
    }

    /// Stops the server and fails with everything that was noted.
    #[track_caller]
    pub(crate) fn finish(mut self, kind: &str) {
        let (code, log) = tokio::task::block_in_place(|| self.server.stop());
        let mut note = |wrong: bool, words: &str| {
            if wrong {
                self.failures.push(format!("the server: {words}"));
            }
        };
        note(code != Some(0), "did not stop cleanly");
        note(log.contains("panicked"), "its log tells of a panic");
        note(log.contains(CANARY), "its log holds the canary file");
        let file = fs::metadata(self.desk.path("canary.txt")).unwrap();
        note(file.accessed().unwrap() != self.read_at, "the canary file was read");
        let slowest = self.spent.iter().max_by_key(|spent| spent.cpu_ms).unwrap();
        let largest = self.spent.iter().max_by_key(|spent| spent.grown_kib).unwrap();
        println!(
            "{kind}: {} cases; the slowest is {:?} with {} ms of processor time, the largest {:?} with {} KiB",
            self.spent.len(),
            slowest.name,
            slowest.cpu_ms,
            largest.name,
            largest.grown_kib
        );
        assert!(
            self.failures.is_empty(),
            "{} failures of {kind}:\n{}",
            self.failures.len(),
            self.failures.join("\n")
        );
    }
}

/// Notes an answer that shows the canary file.
pub(crate) fn check_canary(text: &str, failures: &mut Vec<String>) {
    if text.contains(CANARY) {
        failures.push("the answer holds the canary file".to_owned());
    }
}

/// A port nobody may connect to, and how often somebody did.
fn listening_canary() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (url, connections)
}
