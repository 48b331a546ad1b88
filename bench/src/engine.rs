//! The engine under measurement: `promptmill serve` with its shipped settings, as a process over a data folder.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::process::Process;
use crate::procfs::{self, Resident};

/// What differs from the shipped settings.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The fake server, `http://HOST:PORT`; `None` leaves the engine without one.
    pub provider: Option<&'a str>,
    /// Provider calls of batches at the same time.
    pub concurrency: u32,
    /// Threads of the async runtime; `None` for as many as the machine has cores.
    pub threads: Option<u32>,
    /// Seconds after which a call of the provider is given up; `None` for as many as it takes.
    pub timeout: Option<u32>,
    /// What models cost, as `PROMPTMILL_PRICES` says it.
    pub prices: Option<&'static str>,
    /// Batches of a tenant that run at the same time.
    pub running_batches: Option<u32>,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self {
            provider: None,
            concurrency: 64,
            threads: None,
            timeout: None,
            prices: None,
            running_batches: None,
        }
    }
}

impl Settings<'_> {
    /// The environment of a process with these settings: nothing of ours, but what they say.
    pub(crate) fn environment(&self, command: &mut Command) {
        command.env_clear();
        // Receivers of the measures are on this machine.
        command.env("PROMPTMILL_WEBHOOK_SUBNETS", "127.0.0.0/8");
        if let Some(provider) = self.provider {
            command.env("OPENAI_BASE_URL", format!("{provider}/v1"));
            command.env("OPENROUTER_BASE_URL", format!("{provider}/v1")).env("OPENROUTER_API_KEY", "bench");
            command.env("OLLAMA_HOST", provider);
        }
        if let Some(timeout) = self.timeout {
            for provider in ["OPENAI", "OPENROUTER", "OLLAMA"] {
                command.env(format!("{provider}_TIMEOUT"), timeout.to_string());
            }
        }
        if let Some(prices) = self.prices {
            command.env("PROMPTMILL_PRICES", prices);
        }
        if let Some(batches) = self.running_batches {
            command.env("PROMPTMILL_RUNNING_BATCHES", batches.to_string());
        }
        if let Some(threads) = self.threads {
            command.env("TOKIO_WORKER_THREADS", threads.to_string());
        }
    }
}

/// The measures look at a batch more often than one key may, and what they measure at once comes from one key.
pub(crate) const NO_LIMIT_OF_REQUESTS: [&str; 2] = ["--requests-per-second", "1000000"];

/// A running engine; killed when dropped.
#[derive(Debug)]
pub struct Engine {
    process: Process,
    key: String,
    url: String,
    /// From its start to the first answer that it is ready.
    pub ready_after: Duration,
}

impl Engine {
    /// Starts the engine over `folder` and waits until it is ready. A folder that held an engine before needs the key of then.
    ///
    /// # Errors
    /// It does not start; the error holds what it logged.
    pub async fn start(
        binary: &Path,
        folder: &Path,
        key: Option<&str>,
        settings: Settings<'_>,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(binary);
        command.args(["serve", "--data", "data"]);
        command.args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
        command.args(NO_LIMIT_OF_REQUESTS).args(["--concurrency", &settings.concurrency.to_string()]);
        command.current_dir(folder);
        settings.environment(&mut command);
        let begun = Instant::now();
        let told = |line: &str| {
            let (_, behind) = line.split_once(" serves ")?;
            Some(behind.split(' ').next().unwrap_or_default().to_owned())
        };
        let (mut process, url) = Process::start("the engine", &mut command, told)?;
        let key = match key {
            Some(key) => key.to_owned(),
            None => process.first_line()?,
        };
        let mut engine = Self { process, key, url, ready_after: Duration::ZERO };
        engine.client()?.ready().await?;
        engine.ready_after = begun.elapsed();
        Ok(engine)
    }

    /// A client with its key.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.url, &self.key)
    }

    /// A client with the key of another tenant.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn client_with(&self, key: &str) -> anyhow::Result<Client> {
        Client::new(&self.url, key)
    }

    /// The key of its tenant.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// CPU it has used so far.
    ///
    /// # Errors
    /// It does not run any more.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        self.process.cpu_time()
    }

    /// Its resident memory.
    ///
    /// # Errors
    /// It does not run any more.
    pub fn resident(&self) -> anyhow::Result<Resident> {
        procfs::resident(self.pid())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Errors
    /// It did not end well; the error holds what it logged.
    pub fn stop(self) -> anyhow::Result<()> {
        self.process.stop()
    }
}
