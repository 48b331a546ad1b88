//! Processes of servers: on a free port, on a leash, and waited for.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Below the ports that the kernel gives to outgoing connections and to listeners that ask for any: a server that is stopped for a
/// while finds its port free again.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Far above what a start takes on a busy machine.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(5);

/// A port of 127.0.0.1 that nobody listened on a moment ago. No connection is given it by chance, so that a process which ends and is started
/// again finds it free.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Starts what `start` makes for a port, with other ports when one was taken meanwhile: the server ends then, and `start` gives it back
/// as the error, with its log.
pub(crate) fn on_a_free_port<T>(start: impl Fn(u16) -> Result<T, String>) -> T {
    let mut log = String::new();
    for _ in 0..20 {
        match start(free_port()) {
            Ok(server) => return server,
            Err(ended) => log = ended,
        }
    }
    panic!("the server does not start on any port:\n{log}");
}

/// Waits until `condition` holds, and fails after a minute.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + STARTS_WITHIN;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(POLL);
    }
}

/// A server that is killed when this value is dropped or this process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Process {
    shell: Child,
    server: u32,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(program: &Path, args: &[OsString], log: PathBuf) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", include_str!("leash.sh"), "leash"])
            .arg(&log)
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A runner that stops its group of processes would stop the leash before it could pull.
            .process_group(0)
            .spawn()
            .unwrap();
        let server = told_process_id(&mut shell);
        Self { shell, server, log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.server
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `ready`; the error is the log of a server that ended instead.
    pub(crate) fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> bool) -> Result<(), String> {
        let mut ended = false;
        wait_for(what, || {
            ended = self.shell.try_wait().unwrap().is_some();
            ended || ready()
        });
        if ended { Err(self.log()) } else { Ok(()) }
    }

    /// Kills it as `kill -9` does, and returns when it is gone.
    pub(crate) fn kill(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The first line that a shell prints is the id of the server it started.
pub(crate) fn told_process_id(shell: &mut Child) -> u32 {
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line.trim().parse().unwrap()
}
