//! An engine with receivers, and tenants whose endpoints they are and who hand in jobs of one row.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::bail;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::Sizes;
use crate::client::Client;
use crate::engine::{Engine, Settings};
use crate::fleet::{Fleet, key};
use crate::measures::Lab;
use crate::measures::engines::Engines;
use crate::programs::Fake;
use crate::receivers::Receivers;

/// Jobs that are handed in at the same time where they come as fast as they can.
const AT_ONCE: u32 = 10;

/// How long the last deliveries are waited for.
const PATIENCE: Duration = Duration::from_secs(300);

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// `promptmill serve`.
    Serve,
    /// An api, a worker and a scheduler over MongoDB and Redis.
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

/// An engine with receivers.
pub(super) struct Desk {
    pub(super) receivers: Receivers,
    pub(super) engines: Engines,
    /// Of each tenant.
    pub(super) clients: Vec<Client>,
    _provider: Fake,
    _folder: TempDir,
}

impl Desk {
    /// An engine with `tenants` tenants and so many receivers, of which some never answer.
    pub(super) async fn new(
        lab: &Lab<Sizes>,
        mode: Mode,
        tenants: usize,
        (receivers, hanging): (usize, usize),
    ) -> anyhow::Result<Self> {
        let folder = lab.desk()?;
        let receivers = Receivers::start(receivers - hanging, hanging)?;
        let names: Vec<_> = (0..tenants).map(|n| format!("tenant-{n}")).collect();
        let provider = lab.programs.fake(Duration::ZERO)?;
        let settings = Settings { provider: Some(&provider.url), ..Settings::default() };
        let (engines, clients) = match mode {
            Mode::Serve => {
                std::fs::create_dir(folder.path().join("data"))?;
                let keys = names
                    .iter()
                    .map(|name| embedded_key(lab, &folder, name))
                    .collect::<anyhow::Result<Vec<_>>>()?;
                let first = keys.first().map(String::as_str);
                let engine = Engine::start(&lab.binary, folder.path(), first, settings).await?;
                let clients = keys.iter().map(|key| engine.client_with(key));
                let clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
                (Engines::Serve(engine), clients)
            }
            Mode::Fleet => {
                let fleet = Fleet::start(&lab.binary, folder.path(), settings).await?;
                let clients = names.iter().map(|name| fleet.client_of(name));
                let clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
                (Engines::Fleet(Box::new(fleet)), clients)
            }
        };
        Ok(Self { receivers, engines, clients, _provider: provider, _folder: folder })
    }

    /// Makes each receiver an endpoint: of the tenants in turn, which have the template of the jobs then.
    pub(super) async fn prepare(&self) -> anyhow::Result<()> {
        for client in &self.clients {
            client.store_template().await?;
        }
        for (url, client) in self.receivers.urls.iter().zip(self.clients.iter().cycle()) {
            client.add_endpoint(url).await?;
        }
        Ok(())
    }

    /// Waits until so many events came to the receivers that answer.
    pub(super) async fn came(&self, events: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.receivers.count() < events {
            if begun.elapsed() > PATIENCE {
                bail!("{} of {events} events came", self.receivers.count());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    pub(super) fn stop(self) -> anyhow::Result<()> {
        self.engines.stop()
    }
}

/// Hands in jobs of the tenants in turn, so many a second for so many seconds, whether or not those before were answered.
pub(super) async fn post_at(clients: &[Client], rate: u32, secs: u32) -> anyhow::Result<()> {
    let begun = tokio::time::Instant::now();
    let mut posting = JoinSet::new();
    for (n, client) in (0..rate * secs).zip(clients.iter().cycle().cloned()) {
        tokio::time::sleep_until(begun + Duration::from_secs_f64(f64::from(n) / f64::from(rate))).await;
        posting.spawn(async move { client.post_row(n).await.map(drop) });
        while let Some(done) = posting.try_join_next() {
            done??;
        }
    }
    all(posting).await
}

/// Hands in so many jobs, some at a time.
pub(super) async fn post_many(client: &Client, jobs: u32) -> anyhow::Result<()> {
    let mut posting = JoinSet::new();
    for first in 0..AT_ONCE {
        let client = client.clone();
        posting.spawn(async move {
            for n in (first..jobs).step_by(AT_ONCE as usize) {
                client.post_row(n).await?;
            }
            Ok(())
        });
    }
    all(posting).await
}

async fn all(mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Makes a key of an owner of the tenant in the data folder of an engine that does not run yet.
fn embedded_key(lab: &Lab<Sizes>, folder: &TempDir, tenant: &str) -> anyhow::Result<String> {
    let mut command = Command::new(&lab.binary);
    command.arg("key").env_clear().current_dir(folder.path());
    key(&mut command, tenant, &["--data", "data"])
}
