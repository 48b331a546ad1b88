//! What a client does with jobs of a single row, and how it looks at a batch that runs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Client, PATIENCE, answered, expect};
use crate::work;

/// A batch of one row that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Job {
    /// The batch.
    pub id: String,
    /// As the service writes times: they sort like their texts.
    pub created_at: String,
}

/// A batch that ended.
#[derive(Debug, Clone, Deserialize)]
pub struct Ended {
    /// The batch.
    pub id: String,
    /// When it was made.
    pub created_at: String,
    counts: EndedCounts,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct EndedCounts {
    succeeded: u64,
}

impl Ended {
    /// Whether its one row succeeded.
    pub fn succeeded(&self) -> bool {
        self.counts.succeeded == 1
    }
}

/// A page of batches that are completed, newest first.
#[derive(Debug, Deserialize)]
pub struct EndedPage {
    /// The batches.
    pub data: Vec<Ended>,
    /// Where the next page begins, if there is one.
    pub next_cursor: Option<String>,
}

/// One look at a batch.
#[derive(Debug, Clone)]
pub struct Look {
    /// From the request to its answer.
    pub took: Duration,
    /// When its items were counted.
    pub counted_at: String,
    /// Items without an outcome that are with a worker.
    pub leased: u64,
    /// Items with an outcome.
    pub settled: u64,
    /// All of them.
    pub rows: u64,
}

impl Client {
    /// Hands in a batch of one row, number `n`, for the stored template.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn post_row(&self, n: u32) -> anyhow::Result<Job> {
        let template = format!("{}@1", work::TEMPLATE);
        let body =
            json!({"template": template, "model": work::MODEL, "rows": [{"variables": work::variables(n)}]});
        let batch = expect(StatusCode::CREATED, self.post("/v1/batches", &body)).await?;
        Ok(Job::deserialize(batch)?)
    }

    /// Waits for the first outcome of a batch and reads it.
    ///
    /// # Errors
    /// There is none within half an hour, or it is no success.
    pub async fn first_outcome(&self, batch: &str) -> anyhow::Result<()> {
        let path = format!("/v1/batches/{batch}/results?order=settled&wait=60");
        let begun = Instant::now();
        loop {
            let response = self.request(Method::GET, &path).send().await?.error_for_status()?;
            let body = response.bytes().await?;
            if !body.is_empty() {
                let outcome: Value = serde_json::from_slice(&body)?;
                if outcome["outcome"] != "succeeded" {
                    bail!("a row did not succeed: {outcome}");
                }
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("{batch} has no outcome");
            }
        }
    }

    /// Waits until a batch ended, looking again and again.
    ///
    /// # Errors
    /// It does not within half an hour.
    pub async fn ended(&self, batch: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let view = self.view(batch).await?;
            if view["finished_at"].is_string() {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("the batch does not end: {view}");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// A page of completed batches, newest first, at most `limit`.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn completed_batches(&self, limit: u32, cursor: Option<&str>) -> anyhow::Result<EndedPage> {
        let mut path = format!("/v1/batches?state=completed&limit={limit}");
        if let Some(cursor) = cursor {
            path.push_str("&cursor=");
            path.push_str(cursor);
        }
        // Straight from its bytes: it is long, is read often, and the machine is busy with what is measured.
        let (_, page) = answered(StatusCode::OK, self.request(Method::GET, &path)).await?;
        Ok(serde_json::from_slice(&page)?)
    }

    /// Looks at a batch.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn look(&self, batch: &str) -> anyhow::Result<Look> {
        let begun = Instant::now();
        let view = self.view(batch).await?;
        let took = begun.elapsed();
        let number = |value: &Value| value.as_u64().context("a batch tells numbers of items");
        Ok(Look {
            took,
            counted_at: view["counts"]["as_of"].as_str().context("counts have a time")?.to_owned(),
            leased: number(&view["counts"]["leased"])?,
            settled: number(&view["counts"]["settled"])?,
            rows: number(&view["rows"])?,
        })
    }

    /// Pauses or cancels a batch, as `what` says.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn steer(&self, batch: &str, what: &str) -> anyhow::Result<()> {
        let path = format!("/v1/batches/{batch}/{what}");
        expect(StatusCode::OK, self.request(Method::POST, &path)).await.map(drop)
    }

    async fn view(&self, batch: &str) -> anyhow::Result<Value> {
        expect(StatusCode::OK, self.request(Method::GET, &format!("/v1/batches/{batch}"))).await
    }
}
