//! An engine with schedules that are due at the same moment.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::Sizes;
use crate::client::{Client, Start};
use crate::engine::{Engine, Settings};
use crate::fleet::Fleet;
use crate::measures::Lab;
use crate::measures::engines::Engines;
use crate::programs::Fake;

/// Schedules that are made, or looked at, at the same time.
const AT_ONCE: usize = 16;

/// Before the moment nothing happens for so long.
const QUIET: Duration = Duration::from_secs(2);

/// How long the last runs are waited for.
const PATIENCE: Duration = Duration::from_secs(300);

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// `promptmill serve`.
    Serve,
    /// An api, a worker and two schedulers over MongoDB and Redis.
    Fleet,
}

impl Mode {
    pub(super) const ALL: [Self; 2] = [Self::Serve, Self::Fleet];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Fleet => "fleet",
        }
    }
}

/// An engine with schedules.
pub(super) struct Desk {
    pub(super) engines: Engines,
    pub(super) provider: Fake,
    /// When all of them are due, Unix milliseconds.
    pub(super) at_ms: u64,
    sizes: Sizes,
    client: Client,
    schedules: Vec<String>,
    _folder: TempDir,
}

impl Desk {
    /// Starts an engine, makes its schedules and waits until shortly before they are due.
    pub(super) async fn new(lab: &Lab<Sizes>, sizes: Sizes, mode: Mode) -> anyhow::Result<Self> {
        let folder = lab.desk()?;
        let provider = lab.programs.fake(Duration::ZERO)?;
        let running_batches = Some(2 * sizes.schedules);
        let settings = Settings { provider: Some(&provider.url), running_batches, ..Settings::default() };
        let engines = match mode {
            Mode::Serve => Engines::Serve(Engine::start(&lab.binary, folder.path(), None, settings).await?),
            Mode::Fleet => {
                let mut fleet = Fleet::start(&lab.binary, folder.path(), settings).await?;
                fleet.add_scheduler().await?;
                Engines::Fleet(Box::new(fleet))
            }
        };
        let client = engines.client()?;
        client.store_template().await?;
        // A whole second, as a timetable has them.
        let at_ms = (now_ms()? / 1_000 + sizes.ahead) * 1_000;
        let mut desk =
            Self { engines, provider, at_ms, sizes, client, schedules: Vec::new(), _folder: folder };
        desk.make().await?;
        let left = Duration::from_millis(at_ms.saturating_sub(now_ms()?));
        let Some(wait) = left.checked_sub(QUIET) else { bail!("making the schedules took too long") };
        tokio::time::sleep(wait).await;
        Ok(desk)
    }

    async fn make(&mut self) -> anyhow::Result<()> {
        let Sizes { schedules, rows, .. } = self.sizes;
        let at_ms = self.at_ms;
        let make = |n: u32, client: Client| async move { client.post_schedule(at_ms, n * rows, rows).await };
        self.schedules = self.each(0..schedules, make).await?;
        Ok(())
    }

    /// Does the same for each, some at a time. Answers what came of it, in any order.
    async fn each<I, T, F>(
        &self,
        all: impl IntoIterator<Item = I>,
        step: impl Fn(I, Client) -> F,
    ) -> anyhow::Result<Vec<T>>
    where
        T: Send + 'static,
        F: Future<Output = anyhow::Result<T>> + Send + 'static,
    {
        let (mut running, mut done) = (JoinSet::new(), Vec::new());
        for one in all {
            if running.len() == AT_ONCE
                && let Some(ended) = running.join_next().await
            {
                done.push(ended??);
            }
            running.spawn(step(one, self.client.clone()));
        }
        while let Some(ended) = running.join_next().await {
            done.push(ended??);
        }
        Ok(done)
    }

    /// Calls that all runs make together.
    pub(super) fn calls(&self) -> u64 {
        u64::from(self.sizes.schedules) * u64::from(self.sizes.rows)
    }

    /// Waits until the provider got so many calls; the engine is not asked meanwhile. Answers how long after the moment that was, milliseconds.
    pub(super) async fn called(&self, calls: u64) -> anyhow::Result<f64> {
        let begun = Instant::now();
        loop {
            let seen = self.provider.seen().await?.calls;
            if seen >= calls {
                return Ok(now_ms()?.saturating_sub(self.at_ms) as f64);
            }
            if begun.elapsed() > PATIENCE {
                bail!("{seen} of {calls} rows were called for");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until so many batches are there and kills the scheduler that made them. Answers how long after the moment that was, milliseconds.
    pub(super) async fn kill_leader(&mut self, batches: u32) -> anyhow::Result<f64> {
        let Engines::Fleet(fleet) = &mut self.engines else {
            bail!("nothing of a single process can be killed")
        };
        let begun = Instant::now();
        while fleet.servers.batches()? < u64::from(batches) {
            if begun.elapsed() > PATIENCE {
                bail!("{batches} batches are not made");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        fleet.kill_first_scheduler();
        Ok(now_ms()?.saturating_sub(self.at_ms) as f64)
    }

    /// How long after the moment each run was queued, milliseconds, ascending.
    ///
    /// # Errors
    /// A schedule had other than one run, or one run other than its rows, or a row other than one call.
    pub(super) async fn waits(&self) -> anyhow::Result<Vec<f64>> {
        let (at_ms, rows) = (self.at_ms, self.sizes.rows);
        let look = |schedule: String, client: Client| async move {
            let begun = Instant::now();
            loop {
                match client.start_of(&schedule, at_ms, rows).await? {
                    Some(start) => return Ok((schedule, start)),
                    None if begun.elapsed() > PATIENCE => bail!("the run of {schedule} does not end"),
                    None => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        };
        let starts: Vec<(String, Start)> = self.each(self.schedules.clone(), look).await?;
        let batches = self.client.scheduled_batches().await?;
        let is_its = |(schedule, start): &(String, Start)| batches.get(&start.batch) == Some(schedule);
        let schedules: BTreeSet<&String> = batches.values().collect();
        if batches.len() != starts.len() || schedules.len() != starts.len() || !starts.iter().all(is_its) {
            bail!("{} schedules have {} batches", starts.len(), batches.len());
        }
        let calls = self.provider.seen().await?.calls;
        if calls != self.calls() {
            bail!("{calls} calls for {} rows", self.calls());
        }
        let wait = |(_, start): &(String, Start)| start.started_ms.checked_sub(at_ms);
        let waits: Option<Vec<u64>> = starts.iter().map(wait).collect();
        let mut waits = waits.context("a run began before it was due")?;
        waits.sort_unstable();
        Ok(waits.into_iter().map(|wait| wait as f64).collect())
    }

    pub(super) fn stop(self) -> anyhow::Result<()> {
        self.engines.stop()
    }
}

fn now_ms() -> anyhow::Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?)
}
