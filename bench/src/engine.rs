//! The engine under measurement: `promptmill serve` with its shipped settings, as a process over a data folder.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::Client;
use crate::procfs;

/// What differs from the shipped settings.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The fake server, `http://HOST:PORT`; `None` leaves the engine without one.
    pub provider: Option<&'a str>,
    /// Provider calls of batches at the same time.
    pub concurrency: u32,
    /// Threads of the async runtime; `None` for as many as the machine has cores.
    pub threads: Option<u32>,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self { provider: None, concurrency: 64, threads: None }
    }
}

/// A running engine; killed when dropped.
#[derive(Debug)]
pub struct Engine {
    child: Child,
    log: Option<JoinHandle<String>>,
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
        command.args([
            "serve",
            "--data",
            "data",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
        ]);
        // The measures look at a batch more often than one key may, and what they measure at once comes from one key.
        command.args([
            "--requests-per-second",
            "1000000",
            "--concurrency",
            &settings.concurrency.to_string(),
        ]);
        command.current_dir(folder).env_clear();
        if let Some(provider) = settings.provider {
            command.env("OPENAI_BASE_URL", format!("{provider}/v1"));
        }
        if let Some(threads) = settings.threads {
            command.env("TOKIO_WORKER_THREADS", threads.to_string());
        }
        let begun = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", binary.display()))?;
        let mut stderr = BufReader::new(child.stderr.take().context("its log is piped")?);
        let stdout = child.stdout.take().context("its output is piped")?;
        let mut engine =
            Self { child, log: None, key: String::new(), url: String::new(), ready_after: Duration::ZERO };
        let mut log = String::new();
        engine.url = loop {
            let before = log.len();
            if stderr.read_line(&mut log)? == 0 {
                bail!("the engine did not start:\n{log}");
            }
            if let Some((_, behind)) = log[before..].split_once(" serves ") {
                break behind.split(' ').next().unwrap_or_default().to_owned();
            }
        };
        // Its log must be read on, or the engine would stand still when the pipe is full.
        engine.log = Some(std::thread::spawn(move || {
            let _ = stderr.read_to_string(&mut log);
            log
        }));
        engine.key = match key {
            Some(key) => key.to_owned(),
            None => {
                let mut line = String::new();
                BufReader::new(stdout).read_line(&mut line)?;
                line.trim().to_owned()
            }
        };
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

    /// The key of its tenant.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// CPU it has used so far.
    ///
    /// # Errors
    /// It does not run any more.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        procfs::cpu_time(self.child.id())
    }

    /// Its resident memory in MiB.
    ///
    /// # Errors
    /// It does not run any more.
    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        Ok(procfs::resident_bytes(self.child.id())? as f64 / f64::from(1 << 20))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Errors
    /// It did not end well; the error holds what it logged.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("a process id is not zero")?;
        kill_process(pid, Signal::TERM)?;
        let status: ExitStatus = self.child.wait()?;
        let log = self.log.take().and_then(|log| log.join().ok()).unwrap_or_default();
        if !status.success() {
            bail!("the engine ended with {status}:\n{log}");
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
