//! The same engine as a fleet: `promptmill api`, `worker` and `scheduler` as processes of their own, over servers of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::client::Client;
use crate::engine::{NO_LIMIT_OF_REQUESTS, Settings};
use crate::process::Process;
use crate::procfs;
use crate::servers::Servers;

/// Seals nothing here, but the api and the scheduler do not start without one. Thirty-two zeros.
const MASTER_KEY: &str = "bench:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// The tenant of a fleet that has only one.
const TENANT: &str = "default";

/// A running fleet, without workers at first; everything of it ends with this value.
#[derive(Debug)]
pub struct Fleet {
    binary: PathBuf,
    folder: PathBuf,
    provider: Option<String>,
    settings: OwnSettings,
    schedulers: Vec<Process>,
    workers: Vec<Process>,
    api: Process,
    url: String,
    key: String,
    /// MongoDB and Redis beneath.
    pub servers: Servers,
}

/// What the settings of a fleet say beside the provider.
#[derive(Debug, Clone, Copy)]
struct OwnSettings {
    concurrency: u32,
    threads: Option<u32>,
    timeout: Option<u32>,
    prices: Option<&'static str>,
    running_batches: Option<u32>,
}

/// CPU that each part of a fleet used.
#[derive(Debug, Clone, Copy)]
pub struct CpuTimes {
    /// Of the api, the workers and the schedulers.
    pub ours: Duration,
    /// Of MongoDB.
    pub mongo: Duration,
    /// Of Redis.
    pub redis: Duration,
}

impl CpuTimes {
    /// What came after `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            ours: self.ours.saturating_sub(before.ours),
            mongo: self.mongo.saturating_sub(before.mongo),
            redis: self.redis.saturating_sub(before.redis),
        }
    }
}

impl Fleet {
    /// Starts servers, an api, a scheduler and one worker over `folder`, and waits until all of them are ready.
    ///
    /// # Errors
    /// One does not start; the error holds what it logged.
    pub async fn start(binary: &Path, folder: &Path, settings: Settings<'_>) -> anyhow::Result<Self> {
        let servers = Servers::start(folder);
        let provider = settings.provider.map(str::to_owned);
        let owned = OwnSettings {
            concurrency: settings.concurrency,
            threads: settings.threads,
            timeout: settings.timeout,
            prices: settings.prices,
            running_batches: settings.running_batches,
        };
        let command = |role: &str| command(binary, folder, &servers, settings, role);
        let key = key(&mut command("key"), TENANT, &["--fleet"])?;
        let mut api = command("api");
        api.args(["--listen", "127.0.0.1:0"]).args(NO_LIMIT_OF_REQUESTS);
        let (api, url) = Process::start("the api", &mut api, |line| {
            let (_, behind) = line.split_once(" api ")?;
            Some(behind.split(',').next().unwrap_or_default().trim().to_owned())
        })?;
        Client::new(&url, "")?.ready().await?;
        let (binary, folder) = (binary.to_owned(), folder.to_owned());
        let mut fleet = Self {
            binary,
            folder,
            provider,
            settings: owned,
            schedulers: Vec::new(),
            workers: Vec::new(),
            api,
            url,
            key,
            servers,
        };
        fleet.add_scheduler().await?;
        fleet.add_worker().await?;
        Ok(fleet)
    }

    /// Starts one more scheduler and waits until it is ready. The one that was started first leads.
    ///
    /// # Errors
    /// It does not start; the error holds what it logged.
    pub async fn add_scheduler(&mut self) -> anyhow::Result<()> {
        let mut command = self.command("scheduler");
        let (scheduler, metrics) = Process::start("the scheduler", &mut command, metrics_of("scheduler"))?;
        Client::new(&metrics, "")?.ready().await?;
        self.schedulers.push(scheduler);
        Ok(())
    }

    /// Kills the scheduler that was started first, as a machine that is gone does.
    pub fn kill_first_scheduler(&mut self) {
        // Dropped, it is killed.
        drop(self.schedulers.remove(0));
    }

    /// Starts one more worker and waits until it is ready.
    ///
    /// # Errors
    /// It does not start; the error holds what it logged.
    pub async fn add_worker(&mut self) -> anyhow::Result<()> {
        let mut command = self.command("worker");
        command.args(["--concurrency", &self.settings.concurrency.to_string()]);
        let (worker, metrics) = Process::start("the worker", &mut command, metrics_of("worker"))?;
        Client::new(&metrics, "")?.ready().await?;
        self.workers.push(worker);
        Ok(())
    }

    /// Stops the worker that was started last.
    ///
    /// # Errors
    /// There is none, or it did not end well.
    pub fn remove_worker(&mut self) -> anyhow::Result<()> {
        self.workers.pop().context("there is no worker to stop")?.stop()
    }

    /// Kills the worker that was started last, as a machine that is gone does.
    pub fn kill_worker(&mut self) {
        // Dropped, it is killed.
        drop(self.workers.pop());
    }

    /// A client with the key of the fleet's tenant.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.url, &self.key)
    }

    /// A client with a key of a tenant of its own.
    ///
    /// # Errors
    /// The key cannot be made.
    pub fn client_of(&self, tenant: &str) -> anyhow::Result<Client> {
        Client::new(&self.url, &key(&mut self.command("key"), tenant, &["--fleet"])?)
    }

    /// CPU used so far. The work of a worker or a scheduler that is gone is not in it.
    ///
    /// # Errors
    /// A process does not run any more.
    pub fn cpu_times(&self) -> anyhow::Result<CpuTimes> {
        let mut ours = self.api.cpu_time()?;
        for process in self.workers.iter().chain(&self.schedulers) {
            ours += process.cpu_time()?;
        }
        Ok(CpuTimes {
            ours,
            mongo: procfs::cpu_time(self.servers.mongo.process_id())?,
            redis: procfs::cpu_time(self.servers.redis.process_id())?,
        })
    }

    /// The process id of the worker that was started first.
    ///
    /// # Errors
    /// There is none.
    pub fn worker_id(&self) -> anyhow::Result<u32> {
        Ok(self.workers.first().context("there is no worker")?.id())
    }

    /// Runs the binary with these arguments to its end, in the folder and the environment of the fleet.
    ///
    /// # Errors
    /// It did not end well; the error holds what it said.
    pub fn promptmill(&self, args: &[&str]) -> anyhow::Result<()> {
        self.promptmill_on("promptmill", args)
    }

    /// The same on another database of the server.
    ///
    /// # Errors
    /// It did not end well; the error holds what it said.
    pub fn promptmill_on(&self, database: &str, args: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.binary);
        command.args(args).current_dir(&self.folder).stdin(Stdio::null());
        command.env("PROMPTMILL_MONGO_URL", self.servers.mongo.uri());
        command.env("PROMPTMILL_MONGO_DATABASE", database).env("PROMPTMILL_MASTER_KEY", MASTER_KEY);
        let output = command.output().with_context(|| format!("{args:?} cannot be run"))?;
        if !output.status.success() {
            bail!("{args:?} ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Asks every process of ours to stop and waits until it has.
    ///
    /// # Errors
    /// One did not end well; the error holds what it logged.
    pub fn stop(self) -> anyhow::Result<()> {
        let Self { api, workers, schedulers, servers: _servers, .. } = self;
        for process in std::iter::once(api).chain(workers).chain(schedulers) {
            process.stop()?;
        }
        Ok(())
    }

    fn command(&self, role: &str) -> Command {
        let OwnSettings { concurrency, threads, timeout, prices, running_batches } = self.settings;
        let provider = self.provider.as_deref();
        let settings = Settings { provider, concurrency, threads, timeout, prices, running_batches };
        command(&self.binary, &self.folder, &self.servers, settings, role)
    }
}

/// A subcommand of the binary in the environment of the fleet. What serves gets a metrics listener.
fn command(
    binary: &Path,
    folder: &Path,
    servers: &Servers,
    settings: Settings<'_>,
    subcommand: &str,
) -> Command {
    let mut command = Command::new(binary);
    command.arg(subcommand).current_dir(folder);
    if subcommand != "key" {
        command.args(["--metrics-listen", "127.0.0.1:0"]);
    }
    settings.environment(&mut command);
    command.env("PROMPTMILL_MONGO_URL", servers.mongo.uri());
    command.env("PROMPTMILL_REDIS_URL", servers.redis.url());
    command.env("PROMPTMILL_MASTER_KEY", MASTER_KEY);
    command
}

/// Makes a key of an owner of the tenant, with a command that goes on with `create`, in the store that `of` names.
pub(crate) fn key(command: &mut Command, tenant: &str, of: &[&str]) -> anyhow::Result<String> {
    command.args(["create", "bench", "--role", "owner", "--tenant", tenant]).args(of);
    let output = command.stdin(Stdio::null()).output().context("the key cannot be made")?;
    let key = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || key.is_empty() {
        bail!("the key was not made:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(key)
}

/// Where a process without an API is asked whether it is ready, from the line in which it says that it is up.
fn metrics_of(role: &'static str) -> impl Fn(&str) -> Option<String> {
    move |line| {
        let (_, behind) = line.split_once(&format!(" {role}, metrics "))?;
        Some(behind.trim().strip_suffix("/metrics")?.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_the_metrics_is_told_when_a_role_is_up() {
        let line = "promptmill 0.1.0 worker, metrics http://127.0.0.1:9465/metrics\n";
        assert_eq!(metrics_of("worker")(line).as_deref(), Some("http://127.0.0.1:9465"));
        assert_eq!(metrics_of("scheduler")(line), None);
    }
}
