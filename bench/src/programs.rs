//! The fake server and the bare loop as processes, so that each has its own CPU account.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::bare::{Kind, Taken};
use crate::fake::{Sample, Seen};

/// Where the program with the subcommands `fake` and `bare` lies.
#[derive(Debug, Clone)]
pub struct Programs(PathBuf);

impl Programs {
    /// The program that runs.
    ///
    /// # Errors
    /// The system does not tell where it lies.
    pub fn of_this_process() -> anyhow::Result<Self> {
        Ok(Self(std::env::current_exe().context("where this program lies is unknown")?))
    }

    /// Starts a fake server; it ends when what is returned is dropped, and when this process dies.
    ///
    /// # Errors
    /// It does not start.
    pub fn fake(&self, latency: Duration) -> anyhow::Result<Fake> {
        self.fake_of(latency, 1)
    }

    /// The same with so many different replies.
    ///
    /// # Errors
    /// It does not start.
    pub fn fake_of(&self, latency: Duration, replies: u32) -> anyhow::Result<Fake> {
        let mut child = Command::new(&self.0)
            .args(["fake", "--until-stdin-ends", "--latency-ms", &latency.as_millis().to_string()])
            .args(["--replies", &replies.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the fake server cannot be started")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("its output is piped")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let Some(address) = line.trim().strip_prefix("listening on ") else {
            let _ = child.kill();
            let _ = child.wait();
            bail!("the fake server did not start");
        };
        Ok(Fake {
            url: format!("http://{address}"),
            child,
            http: reqwest::Client::builder().no_proxy().build()?,
        })
    }

    /// Runs the bare loop against a fake server that was called before.
    ///
    /// # Errors
    /// It does not start, or a call of it fails.
    pub async fn bare(&self, kind: Kind, fake: &Fake, items: u64, concurrency: u32) -> anyhow::Result<Taken> {
        let client = match kind {
            Kind::Reqwest => "reqwest",
            Kind::Hyper => "hyper",
        };
        let mut command = tokio::process::Command::new(&self.0);
        command.args(["bare", "--client", client, "--server", &fake.url, "--items", &items.to_string()]);
        command.args(["--concurrency", &concurrency.to_string()]).stderr(Stdio::inherit()).kill_on_drop(true);
        let output = command.output().await.context("the bare loop cannot be started")?;
        if !output.status.success() {
            bail!("the bare loop failed");
        }
        serde_json::from_slice(&output.stdout).context("the bare loop printed something else")
    }
}

/// A running fake server.
#[derive(Debug)]
pub struct Fake {
    /// `http://HOST:PORT`.
    pub url: String,
    child: Child,
    http: reqwest::Client,
}

impl Fake {
    /// What it has seen so far.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn seen(&self) -> anyhow::Result<Seen> {
        self.get("/_calls").await
    }

    /// When each of the long calls came that it got, microseconds of Unix time.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn long_calls(&self) -> anyhow::Result<Vec<u64>> {
        self.get("/_long_calls").await
    }

    /// The first call it got.
    ///
    /// # Errors
    /// It was not called yet.
    pub async fn sample(&self) -> anyhow::Result<Sample> {
        self.get("/_sample").await
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let response = self.http.get(format!("{}{path}", self.url)).send().await?.error_for_status()?;
        Ok(serde_json::from_slice(&response.bytes().await?)?)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
