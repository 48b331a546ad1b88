//! What a client does with schedules: many that are due once, and what came of each.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Client, expect};
use crate::work;

/// Seconds from the first tick to the next, which nobody waits for.
const NEVER_S: u32 = 30 * 86_400;

/// What came of the first tick of a schedule.
#[derive(Debug, Clone)]
pub struct Start {
    /// When its batch was queued, Unix milliseconds.
    pub started_ms: u64,
    /// Its batch.
    pub batch: String,
}

impl Client {
    /// Makes a schedule of the stored template, which is due at that moment (Unix milliseconds) and runs so many rows, from number `n` on. Answers its id.
    ///
    /// # Errors
    /// The engine refuses, or the schedule is due at another moment first.
    pub async fn post_schedule(&self, at_ms: u64, n: u32, rows: u32) -> anyhow::Result<String> {
        let at = Timestamp::from_millisecond(i64::try_from(at_ms)?)?;
        let rows: Vec<_> = (n..n + rows).map(|n| json!({"variables": work::variables(n)})).collect();
        let template = format!("{}@1", work::TEMPLATE);
        let batch = json!({"template": template, "model": work::MODEL, "rows": rows});
        let body = json!({"every": NEVER_S, "start": at.to_string(), "batch": batch});
        let schedule = expect(StatusCode::CREATED, self.post("/v1/schedules", &body)).await?;
        if unix_ms(&schedule["next_at"])? != at_ms {
            bail!("a schedule is not due when it should be: {schedule}");
        }
        Ok(schedule["id"].as_str().context("a schedule has an id")?.to_owned())
    }

    /// What came of the only tick of a schedule; `None` where it is not over.
    ///
    /// # Errors
    /// There are several ticks, or it did not run at that moment, or its batch is not completed with so many rows.
    pub async fn start_of(&self, schedule: &str, at_ms: u64, rows: u32) -> anyhow::Result<Option<Start>> {
        let path = format!("/v1/schedules/{schedule}/ticks");
        let page = expect(StatusCode::OK, self.request(Method::GET, &path)).await?;
        let ticks = page["data"].as_array().context("a page has data")?;
        let tick = match ticks.as_slice() {
            [] => return Ok(None),
            [tick] if tick["state"] == "due" || tick["state"] == "running" => return Ok(None),
            [tick] => tick,
            [..] => bail!("a schedule that is due once has several ticks: {page}"),
        };
        let batch = &tick["batch"];
        let is_whole = batch["state"] == "completed" && batch["succeeded"] == rows && batch["rows"] == rows;
        if tick["state"] != "ended" || unix_ms(&tick["at"])? != at_ms || !is_whole {
            bail!("a tick did not run as expected: {tick}");
        }
        let id = batch["id"].as_str().context("a batch has an id")?.to_owned();
        Ok(Some(Start { started_ms: unix_ms(&tick["started_at"])?, batch: id }))
    }

    /// Every batch, with the schedule of which it is a run.
    ///
    /// # Errors
    /// The engine refuses, or a batch is that of no schedule.
    pub async fn scheduled_batches(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        let mut path = "/v1/batches?limit=500".to_owned();
        loop {
            let page = expect(StatusCode::OK, self.request(Method::GET, &path)).await?;
            for batch in page["data"].as_array().context("a page has data")? {
                let name = |value: &Value| value.as_str().map(str::to_owned);
                let names = name(&batch["id"]).zip(name(&batch["schedule"]["id"]));
                let (batch, schedule) = names.with_context(|| format!("a batch of no schedule: {batch}"))?;
                all.insert(batch, schedule);
            }
            match page["next_cursor"].as_str() {
                Some(cursor) => path = format!("/v1/batches?limit=500&cursor={cursor}"),
                None => return Ok(all),
            }
        }
    }
}

fn unix_ms(time: &Value) -> anyhow::Result<u64> {
    let time: Timestamp = time.as_str().with_context(|| format!("{time} is no time"))?.parse()?;
    Ok(u64::try_from(time.as_millisecond())?)
}
