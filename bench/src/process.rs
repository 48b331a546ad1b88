//! A process of promptmill under measurement: started, its log kept for whoever wants to know why it failed, and ended with its value.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::procfs;

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    /// What it is called in errors, such as `the engine`.
    name: &'static str,
    child: Child,
    log: Option<JoinHandle<String>>,
}

impl Process {
    /// Starts it and reads its log until `told` finds in a line what it waits for.
    ///
    /// # Errors
    /// It does not start; the error holds what it logged.
    pub fn start<T>(
        name: &'static str,
        command: &mut Command,
        told: impl Fn(&str) -> Option<T>,
    ) -> anyhow::Result<(Self, T)> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", command.get_program().display()))?;
        let mut process = Self { name, child, log: None };
        let mut stderr = BufReader::new(process.child.stderr.take().context("its log is piped")?);
        let mut log = String::new();
        let found = loop {
            let before = log.len();
            if stderr.read_line(&mut log)? == 0 {
                bail!("{name} did not start:\n{log}");
            }
            if let Some(found) = told(&log[before..]) {
                break found;
            }
        };
        // Its log must be read on, or the process would stand still when the pipe is full.
        process.log = Some(std::thread::spawn(move || {
            let _ = stderr.read_to_string(&mut log);
            log
        }));
        Ok((process, found))
    }

    /// The first line of its output.
    ///
    /// # Errors
    /// It cannot be read, or was read before.
    pub fn first_line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().context("its output is piped")?).read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU it has used so far.
    ///
    /// # Errors
    /// It does not run any more.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        procfs::cpu_time(self.id())
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Errors
    /// It did not end well; the error holds what it logged.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.id())?).context("a process id is not zero")?;
        kill_process(pid, Signal::TERM)?;
        let status: ExitStatus = self.child.wait()?;
        let log = self.log.take().and_then(|log| log.join().ok()).unwrap_or_default();
        if !status.success() {
            bail!("{} ended with {status}:\n{log}", self.name);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
