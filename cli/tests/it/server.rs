//! `promptmill serve` as a process, and a client that asks it over HTTP.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout};

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::support::{Desk, signal};

/// A server on free ports over the folder `data` of a desk.
pub(crate) struct Server {
    child: Child,
    stdout: ChildStdout,
    log: Option<std::thread::JoinHandle<String>>,
    /// `http://127.0.0.1:PORT` of the API.
    pub(crate) url: String,
    /// The same of the metrics.
    pub(crate) metrics_url: String,
    /// The key it is asked with.
    pub(crate) key: String,
}

impl Server {
    /// The first start, whose key is taken from standard output.
    pub(crate) fn first(desk: &Desk) -> Self {
        Self::start_first(desk, &[])
    }

    /// The first start with further arguments.
    pub(crate) fn start_first(desk: &Desk, more: &[&str]) -> Self {
        let mut server = Self::start(desk, "", more);
        let mut key = String::new();
        BufReader::new(&mut server.stdout).read_line(&mut key).unwrap();
        server.key = key.trim().to_owned();
        server
    }

    /// A later start, asked with the key of the first.
    pub(crate) fn again(desk: &Desk, key: &str) -> Self {
        Self::start(desk, key, &[])
    }

    /// A start with further arguments.
    pub(crate) fn start(desk: &Desk, key: &str, more: &[&str]) -> Self {
        Self::try_start(desk, key, more).unwrap_or_else(|said| panic!("the server did not start:\n{said}"))
    }

    /// A start with these arguments alone; everything else is said by the desk's file of settings.
    pub(crate) fn start_as_configured(desk: &Desk, args: &[&str]) -> Self {
        let args: Vec<_> = ["serve"].iter().chain(args).copied().collect();
        Self::try_with(desk, "", &args).unwrap_or_else(|said| panic!("the server did not start:\n{said}"))
    }

    /// A start that may be refused; then what the process said.
    pub(crate) fn try_start(desk: &Desk, key: &str, more: &[&str]) -> Result<Self, String> {
        let mut args = vec!["serve", "--data", "data", "--metrics-listen", "127.0.0.1:0"];
        if !more.contains(&"--listen") {
            args.extend_from_slice(&["--listen", "127.0.0.1:0"]);
        }
        args.extend_from_slice(more);
        Self::try_with(desk, key, &args)
    }

    fn try_with(desk: &Desk, key: &str, args: &[&str]) -> Result<Self, String> {
        let mut child = desk.start_piped(args);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let line = loop {
            let before = said.len();
            if stderr.read_line(&mut said).unwrap() == 0 {
                child.wait().unwrap();
                return Err(said);
            }
            if said[before..].contains(" serves http://") {
                break said[before..].to_owned();
            }
        };
        let address = |behind: &str| {
            let rest = &line[line.find(behind).unwrap() + behind.len()..];
            format!("http://{}", rest.split([' ', '/', ',']).next().unwrap())
        };
        let (url, metrics_url) = (address("serves http://"), address("metrics http://"));
        let log = std::thread::spawn(move || {
            let _ = stderr.read_to_string(&mut said);
            said
        });
        let stdout = child.stdout.take().unwrap();
        Ok(Self { child, stdout, log: Some(log), url, metrics_url, key: key.to_owned() })
    }

    /// A client of it.
    pub(crate) fn client(&self) -> Http {
        Http::new(&self.url, &self.key)
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, for example `-STOP`.
    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// The most memory it had resident so far, KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        crate::support::peak_kib(self.child.id())
    }

    /// kill -9, and everything it logged.
    pub(crate) fn kill_and_read(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.log.take().unwrap().join().unwrap()
    }

    /// kill -9.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// SIGTERM, and the exit code with everything it logged.
    pub(crate) fn stop(mut self) -> (Option<i32>, String) {
        signal(&self.child, "-TERM");
        let code = self.child.wait().unwrap().code();
        (code, self.log.take().unwrap().join().unwrap())
    }
}

/// A test that fails leaves no server behind, and shows what it said last.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let ended = self.child.wait();
        if std::thread::panicking()
            && let Some(Ok(log)) = self.log.take().map(std::thread::JoinHandle::join)
        {
            let last: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!(
                "the server ended with {ended:?}; its last words, the newest first:\n{}",
                last.join("\n")
            );
        }
    }
}

/// A client with one key.
#[derive(Clone)]
pub(crate) struct Http {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Http {
    pub(crate) fn new(url: &str, key: &str) -> Self {
        promptmill_runtime::install_tls();
        Self { http: reqwest::Client::new(), url: url.to_owned(), key: key.to_owned() }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        let response = self.request(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.text().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let request = self.request(Method::POST, path).header("content-type", "application/json");
        answer(request.body(body.to_string())).await
    }

    /// A POST without a body.
    pub(crate) async fn step(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path)).await
    }

    pub(crate) async fn put_rows(&self, batch: &str, part: u32, rows: String) -> (StatusCode, Value) {
        let request = self.request(Method::PUT, &format!("/v1/batches/{batch}/rows/{part}"));
        answer(request.header("content-type", "application/x-ndjson").body(rows)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::DELETE, path)).await
    }

    /// Waits until the batch is in one of these states.
    pub(crate) async fn wait_for_state(&self, batch: &str, states: &[&str]) -> Value {
        let wanted = |view: &Value| states.iter().any(|state| view["state"] == *state);
        self.wait_for_view(batch, &format!("{states:?}"), wanted).await
    }

    /// Waits until a batch has settled this many of its items, and says how many it has.
    pub(crate) async fn wait_for_settled(&self, batch: &str, items: u64) -> u64 {
        let settled = |view: &Value| {
            let count = |of: &str| view["counts"][of].as_u64().unwrap();
            count("succeeded") + count("failed")
        };
        settled(&self.wait_for_view(batch, &format!("{items} outcomes"), |view| settled(view) >= items).await)
    }

    async fn wait_for_view(&self, batch: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let (status, view) = self.get(&format!("/v1/batches/{batch}")).await;
            assert_eq!(status, StatusCode::OK, "{view}");
            if wanted(&view) {
                return view;
            }
            assert!(tokio::time::Instant::now() < deadline, "waited a minute for {what}: {view}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
    (status, value)
}
