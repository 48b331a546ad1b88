//! A client of the engine, as far as the measures need one.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::programs::Fake;
use crate::work;

mod jobs;
mod schedules;

pub use jobs::{Job, Look};
pub use schedules::Start;

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// How long a connection is kept that nothing goes over: less than the service keeps it (10 s), which else closes it while a request is on its way.
const IDLE: Duration = Duration::from_secs(5);

/// A client with a key. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

/// How rows are encoded on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// As they are.
    Plain,
    /// `Content-Encoding: gzip`.
    Gzip,
}

/// What was read of results.
#[derive(Debug, Clone, Copy)]
pub struct ResultsRead {
    /// From the request to the end of the answer.
    pub seconds: f64,
    /// Bytes of it.
    pub bytes: u64,
}

impl Client {
    /// A client of the engine at `url`.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(url: &str, key: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(10_000)
            .pool_idle_timeout(IDLE)
            .build()?;
        Ok(Self { http, url: url.to_owned(), key: key.to_owned() })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path).header("content-type", "application/json").body(body.to_string())
    }

    /// Waits until the engine says that it can serve.
    ///
    /// # Errors
    /// It does not within half an hour.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            match self.request(Method::GET, "/readyz").send().await {
                Ok(response) if response.status() == StatusCode::OK => return Ok(()),
                answer if begun.elapsed() > PATIENCE => bail!("the engine is not ready: {answer:?}"),
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// Makes a draft of a batch of the bench's template; answers its id.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn draft(&self) -> anyhow::Result<String> {
        self.draft_of(work::MODEL).await
    }

    /// The same for another model than the bench's.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn draft_of(&self, model: &str) -> anyhow::Result<String> {
        let body = json!({"template": work::template(), "model": model});
        let batch = expect(StatusCode::CREATED, self.post("/v1/batches", &body)).await?;
        Ok(batch["id"].as_str().context("a batch has an id")?.to_owned())
    }

    /// Sends one part of rows and waits until it is stored; answers how many seconds that took.
    ///
    /// # Errors
    /// The engine refuses, or says that other than `rows` rows came.
    pub async fn put_rows(&self, batch: &str, rows: u64, body: Bytes, coding: Coding) -> anyhow::Result<f64> {
        let mut request = self.request(Method::PUT, &format!("/v1/batches/{batch}/rows/0"));
        request = request.header("content-type", "application/x-ndjson");
        if coding == Coding::Gzip {
            request = request.header("content-encoding", "gzip");
        }
        let begun = Instant::now();
        let part = expect(StatusCode::OK, request.body(body)).await?;
        let seconds = begun.elapsed().as_secs_f64();
        if part["rows"].as_u64() != Some(rows) {
            bail!("{rows} rows were sent and this was stored: {part}");
        }
        Ok(seconds)
    }

    /// Submits a draft.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn submit(&self, batch: &str) -> anyhow::Result<()> {
        expect(StatusCode::OK, self.request(Method::POST, &format!("/v1/batches/{batch}/submit")))
            .await
            .map(drop)
    }

    /// Waits until a batch of `items` items is completed. While `fake`, which got `calls_before` calls before, is still being called,
    /// nobody asks the engine, so that the wait costs it nothing.
    ///
    /// # Errors
    /// The batch ends otherwise than with every item succeeded by exactly one call.
    pub async fn completed(
        &self,
        batch: &str,
        items: u64,
        fake: &Fake,
        calls_before: u64,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        while fake.seen().await?.calls < calls_before + items {
            if begun.elapsed() > PATIENCE {
                bail!("{items} items were not called within {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let view = loop {
            let view =
                expect(StatusCode::OK, self.request(Method::GET, &format!("/v1/batches/{batch}"))).await?;
            if view["finished_at"].is_string() {
                break view;
            }
            if view["state"] == "paused" || begun.elapsed() > PATIENCE {
                bail!("the batch does not end: {view}");
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        };
        let (succeeded, calls) = (view["counts"]["succeeded"].as_u64(), view["calls"].as_u64());
        if view["state"] != "completed" || succeeded != Some(items) || calls != Some(items) {
            bail!("the batch did not end as expected: {view}");
        }
        Ok(())
    }

    /// Reads all results of a batch of `items` items and looks at nothing but the closing line.
    ///
    /// # Errors
    /// The answer is cut or tells of another number of items.
    pub async fn read_results(&self, batch: &str, items: u64) -> anyhow::Result<ResultsRead> {
        const TAIL: usize = 4096;
        let request = self.request(Method::GET, &format!("/v1/batches/{batch}/results?end=true"));
        let begun = Instant::now();
        let mut response = request.send().await?.error_for_status()?;
        let (mut bytes, mut tail) = (0, Vec::with_capacity(2 * TAIL));
        while let Some(chunk) = response.chunk().await? {
            bytes += chunk.len() as u64;
            tail.extend_from_slice(&chunk[chunk.len().saturating_sub(TAIL)..]);
            let surplus = tail.len().saturating_sub(TAIL);
            tail.drain(..surplus);
        }
        let seconds = begun.elapsed().as_secs_f64();
        let last = tail.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let end: Value = serde_json::from_slice(last).context("the last line of the results is no JSON")?;
        if end["_end"] != json!(true)
            || end["count"].as_u64() != Some(items)
            || end["complete"] != json!(true)
        {
            bail!("the results do not end with {items} items: {end}");
        }
        Ok(ResultsRead { seconds, bytes })
    }

    /// Stores the bench's template.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn store_template(&self) -> anyhow::Result<()> {
        expect(StatusCode::CREATED, self.post("/v1/templates", &work::template())).await.map(drop)
    }

    /// Generates once from the stored template with the variables of row `n`; answers how long that took.
    ///
    /// # Errors
    /// The engine does not answer a success.
    pub async fn generate(&self, n: u32) -> anyhow::Result<Duration> {
        let body = json!({"template": work::TEMPLATE, "variables": work::variables(n), "model": work::MODEL});
        let request = self.post("/v1/generations", &body);
        let begun = Instant::now();
        let answer = expect(StatusCode::OK, request).await?;
        let took = begun.elapsed();
        if answer["state"] != "succeeded" {
            bail!("a generation did not succeed: {answer}");
        }
        Ok(took)
    }
}

/// Sends a request; answers the JSON of its answer.
async fn expect(status: StatusCode, request: RequestBuilder) -> anyhow::Result<Value> {
    let (path, body) = answered(status, request).await?;
    serde_json::from_slice(&body)
        .with_context(|| format!("{path} was answered with something else than JSON"))
}

/// Sends a request; answers its path and the body of its answer.
async fn answered(status: StatusCode, request: RequestBuilder) -> anyhow::Result<(String, Bytes)> {
    let response = request.send().await?;
    let (path, came) = (response.url().path().to_owned(), response.status());
    let body = response.bytes().await?;
    if came != status {
        bail!("{path} was answered with {came}: {}", String::from_utf8_lossy(&body));
    }
    Ok((path, body))
}
