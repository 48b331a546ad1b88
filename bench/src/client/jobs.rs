//! What a client does with jobs of a single row or few, and how it looks at a batch that runs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Client, PATIENCE, answered, expect};
use crate::work;

/// A batch of one row or few, as the answer to its POST tells of it.
#[derive(Debug, Clone, Deserialize)]
pub struct Job {
    /// The batch.
    pub id: String,
    state: String,
    counts: JobCounts,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct JobCounts {
    succeeded: u64,
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
    /// Those of them that succeeded.
    pub succeeded: u64,
    /// It is over.
    pub finished: bool,
    /// All of them.
    pub rows: u64,
}

impl Client {
    /// Hands in a batch of one row, number `n`, for the stored template.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn post_row(&self, n: u32) -> anyhow::Result<Job> {
        self.job(self.row(n)).await
    }

    /// Hands in a batch of one row, number `n`, for the stored template, and is answered when it is completed.
    ///
    /// # Errors
    /// The engine refuses, or the batch is not completed within a minute, or its row did not succeed.
    pub async fn run_row(&self, n: u32) -> anyhow::Result<()> {
        let job = self.job(self.row(n).header("prefer", "wait=60")).await?;
        if job.state != "completed" || job.counts.succeeded != 1 {
            bail!("a job did not succeed: {job:?}");
        }
        Ok(())
    }

    /// Hands in a batch of so many long rows, from number `n` on, for the stored template.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn post_long_rows(&self, n: u32, count: u32) -> anyhow::Result<Job> {
        self.job(self.rows((n..n + count).map(work::long_variables))).await
    }

    fn row(&self, n: u32) -> RequestBuilder {
        self.rows([work::variables(n)])
    }

    fn rows(&self, of: impl IntoIterator<Item = Value>) -> RequestBuilder {
        let template = format!("{}@1", work::TEMPLATE);
        let rows: Vec<_> = of.into_iter().map(|variables| json!({"variables": variables})).collect();
        self.post("/v1/batches", &json!({"template": template, "model": work::MODEL, "rows": rows}))
    }

    /// Straight from the bytes of the answer: jobs are many, and the machine is busy with what is measured.
    async fn job(&self, request: RequestBuilder) -> anyhow::Result<Job> {
        let (_, job) = answered(StatusCode::CREATED, request).await?;
        Ok(serde_json::from_slice(&job)?)
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
            succeeded: number(&view["counts"]["succeeded"])?,
            finished: view["finished_at"].is_string(),
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

    /// Makes an endpoint that is told of everything.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn add_endpoint(&self, url: &str) -> anyhow::Result<()> {
        expect(StatusCode::CREATED, self.post("/v1/endpoints", &json!({"url": url}))).await.map(drop)
    }

    /// Gives a batch another limit of US dollars.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn set_max_cost(&self, batch: &str, dollars: f64) -> anyhow::Result<()> {
        let body = json!({"max_cost": format!("{dollars:.12}")});
        let request = self.request(Method::PATCH, &format!("/v1/batches/{batch}"));
        let request = request.header("content-type", "application/json").body(body.to_string());
        expect(StatusCode::OK, request).await.map(drop)
    }

    /// Waits until a batch stands still for its limit of money, and nothing of it is under way.
    ///
    /// # Errors
    /// It does not within half an hour.
    pub async fn out_of_money(&self, batch: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let view = self.view(batch).await?;
            if view["pause"]["reason"] == "budget" && view["counts"]["leased"] == 0 {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE || view["finished_at"].is_string() {
                bail!("the limit does not stop the batch: {view}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What a batch spent, and what nobody knows of a process that died: US dollars.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn spend(&self, batch: &str) -> anyhow::Result<(f64, f64)> {
        let path = format!("/v1/batches/{batch}/budget");
        let budget = expect(StatusCode::OK, self.request(Method::GET, &path)).await?;
        let dollars = |name: &str| -> anyhow::Result<f64> {
            Ok(budget[name].as_str().context("a budget tells amounts")?.parse()?)
        };
        Ok((dollars("spent")?, dollars("unknown")?))
    }

    async fn view(&self, batch: &str) -> anyhow::Result<Value> {
        expect(StatusCode::OK, self.request(Method::GET, &format!("/v1/batches/{batch}"))).await
    }
}
