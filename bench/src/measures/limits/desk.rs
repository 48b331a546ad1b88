//! Engines against a limited server, and what the server saw of them.

use std::time::{Duration, Instant};

use anyhow::bail;
use tempfile::TempDir;

use super::Sizes;
use crate::client::Client;
use crate::engine::{Engine, Settings};
use crate::fleet::Fleet;
use crate::limited::{Came, Limited, Plan};
use crate::measures::Lab;
use crate::measures::engines::Engines;
use crate::work;

/// How long a batch may take.
const PATIENCE: Duration = Duration::from_secs(2 * 3_600);

/// Seconds after which a call is given up.
const TIMEOUT: u32 = 8;

/// A millionth of a dollar a token.
const PRICES: &str = "openai:*=1/1";

/// What a token costs at these prices: US dollars.
pub(super) const TOKEN_COSTS: f64 = 1e-6;

/// A limited server with engines that call it.
pub(super) struct Desk {
    pub(super) provider: Limited,
    pub(super) engines: Engines,
    _folder: TempDir,
}

impl Desk {
    /// A fleet with so many workers, or `promptmill serve` for none.
    pub(super) async fn new(lab: &Lab<Sizes>, plan: Plan, workers: u32) -> anyhow::Result<Self> {
        let folder = lab.desk()?;
        let provider = Limited::start(plan)?;
        let settings = Settings {
            provider: Some(&provider.url),
            timeout: Some(TIMEOUT),
            prices: Some(PRICES),
            ..Settings::default()
        };
        let engines = if workers == 0 {
            Engines::Serve(Engine::start(&lab.binary, folder.path(), None, settings).await?)
        } else {
            let mut fleet = Fleet::start(&lab.binary, folder.path(), settings).await?;
            for _ in 1..workers {
                fleet.add_worker().await?;
            }
            Engines::Fleet(Box::new(fleet))
        };
        Ok(Self { provider, engines, _folder: folder })
    }

    pub(super) fn client(&self) -> anyhow::Result<Client> {
        self.engines.client()
    }

    /// Submits a batch of so many rows to a model.
    pub(super) async fn submit(&self, model: &str, rows: u32) -> anyhow::Result<String> {
        let batch = self.draft(model, rows).await?;
        self.client()?.submit(&batch).await?;
        Ok(batch)
    }

    /// The same, without the submit.
    pub(super) async fn draft(&self, model: &str, rows: u32) -> anyhow::Result<String> {
        let client = self.client()?;
        let batch = client.draft_of(model).await?;
        client.put_rows(&batch, rows.into(), work::rows(rows), crate::client::Coding::Plain).await?;
        Ok(batch)
    }

    /// Waits until all rows of a batch succeeded.
    pub(super) async fn succeeded(&self, batch: &str, rows: u32) -> anyhow::Result<()> {
        let (client, begun) = (self.client()?, Instant::now());
        loop {
            let look = client.look(batch).await?;
            if look.settled >= look.rows && look.finished {
                if look.succeeded != u64::from(rows) {
                    bail!("{} of {rows} rows succeeded", look.succeeded);
                }
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("the batch does not end: {look:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Runs a batch to its end.
    pub(super) async fn run(&self, rows: u32) -> anyhow::Result<Story> {
        let batch = self.submit(work::MODEL, rows).await?;
        self.succeeded(&batch, rows).await?;
        Ok(self.story())
    }

    /// Waits until so many seconds have gone by since the first call.
    pub(super) async fn until(&self, secs: f64) {
        while self.provider.calls().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The first call came a moment before; what is counted ends with the story's own times.
        let begun = Instant::now();
        while begun.elapsed().as_secs_f64() < secs + 0.5 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn story(&self) -> Story {
        Story { calls: self.provider.calls(), plan: self.provider.plan.clone() }
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.engines.stop()
    }
}

/// What a limited server saw.
pub(super) struct Story {
    pub(super) calls: Vec<Came>,
    plan: Plan,
}

impl Story {
    /// The part of the limit that was used, in per cent.
    pub(super) fn used(&self) -> f64 {
        let taken: Vec<f64> = self.calls.iter().filter(|call| call.taken).map(|call| call.at).collect();
        let (Some(first), Some(last)) = (taken.first(), taken.last()) else { return f64::NAN };
        100.0 * taken.len() as f64 / (self.plan.burst() + self.plan.capacity(*first, *last))
    }

    /// The same between two seconds, with nothing saved up at the first.
    pub(super) fn used_between(&self, from: f64, to: f64) -> f64 {
        100.0 * self.between(from, to).filter(|call| call.taken).count() as f64 / self.plan.capacity(from, to)
    }

    /// The part of all calls that was refused, in per cent.
    pub(super) fn refused(&self) -> f64 {
        self.refused_between(0.0, f64::INFINITY)
    }

    pub(super) fn refused_between(&self, from: f64, to: f64) -> f64 {
        let refused = self.between(from, to).filter(|call| !call.taken).count();
        100.0 * refused as f64 / self.between(from, to).count().max(1) as f64
    }

    pub(super) fn between(&self, from: f64, to: f64) -> impl Iterator<Item = &Came> {
        self.calls.iter().filter(move |call| (from..to).contains(&call.at))
    }
}
