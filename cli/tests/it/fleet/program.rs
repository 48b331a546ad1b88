//! One process of a fleet, with everything it said.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use promptmill_test_servers::free_port;

use crate::support::{Desk, signal};

/// A process of one role, which runs or has ended. Started again it has the same arguments and the same addresses.
pub(crate) struct Program {
    name: String,
    args: Vec<String>,
    child: Child,
    log: Log,
    /// What it logged before its last start.
    earlier: String,
    /// `http://127.0.0.1:PORT` of the API; empty where there is none.
    pub(crate) url: String,
    /// The same of the metrics.
    pub(crate) metrics_url: String,
}

impl Program {
    /// Starts the nth process of a role, and waits until it says that it is up.
    pub(crate) fn start(desk: &Desk, role: &str, n: usize, more: &[&str]) -> Self {
        // Others may take a port between the look and the start.
        let mut said = String::new();
        for _ in 0..5 {
            match Self::try_start(desk, role, n, more) {
                Ok(program) => return program,
                Err(log) => said = log,
            }
            if !said.contains("cannot be listened on") {
                break;
            }
        }
        panic!("the {role} did not start:\n{said}");
    }

    /// A start that may be refused; then what the process said.
    pub(crate) fn try_start(desk: &Desk, role: &str, n: usize, more: &[&str]) -> Result<Self, String> {
        let address = || format!("127.0.0.1:{}", free_port());
        let mut args = vec![role.to_owned(), "--metrics-listen".to_owned(), address()];
        if role == "api" {
            args.extend(["--listen".to_owned(), address()]);
        }
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        let (child, log, greeting) = run(desk, &args)?;
        let (url, metrics_url) = (told(&greeting, "api http://"), told(&greeting, "metrics http://"));
        Ok(Self { name: format!("{role} {n}"), args, child, log, earlier: String::new(), url, metrics_url })
    }

    /// Starts it again after it ended.
    #[track_caller]
    pub(crate) fn restart(&mut self, desk: &Desk) {
        self.log.end();
        self.earlier.push_str(&self.log.text());
        match run(desk, &self.args) {
            Ok((child, log, _)) => (self.child, self.log) = (child, log),
            Err(said) => panic!("the {} did not start again:\n{said}", self.name),
        }
    }

    /// Role and number.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Sends a signal, for example `-STOP`.
    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// kill -9; returns when it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGTERM, and the exit code with everything it logged since the test began.
    pub(crate) fn stop(&mut self) -> (Option<i32>, String) {
        if !self.has_ended() {
            self.signal("-TERM");
        }
        let code = self.child.wait().unwrap().code();
        self.log.end();
        (code, format!("{}{}", self.earlier, self.log.text()))
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it said all of this in one line since its last start.
    pub(crate) fn has_said(&self, words: &[&str]) -> bool {
        self.log.lines().iter().any(|line| words.iter().all(|words| line.contains(words)))
    }

    /// The most memory it had resident so far, KiB; 0 once it is gone.
    pub(crate) fn peak_kib(&self) -> u64 {
        crate::support::peak_kib(self.child.id())
    }
}

/// A test that fails leaves no process behind, and shows what each said last.
impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let ended = self.child.wait();
        if std::thread::panicking() {
            self.log.end();
            let lines = self.log.lines();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            eprintln!("--- the {} ended with {ended:?}; its last words:\n{last}", self.name);
        }
    }
}

/// What a process writes to standard error, read as it comes.
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Log {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn text(&self) -> String {
        self.lines().iter().map(|line| format!("{line}\n")).collect()
    }

    /// Waits for the last line of a process that ended.
    fn end(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Starts the process and waits for its greeting.
fn run(desk: &Desk, args: &[String]) -> Result<(Child, Log, String), String> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut child = desk.start_piped(&args);
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (tx, rx) = channel();
    let kept = Arc::clone(&lines);
    let reader = std::thread::spawn(move || read(stderr, &kept, &tx));
    let mut log = Log { lines, reader: Some(reader) };
    if let Ok(greeting) = rx.recv() {
        return Ok((child, log, greeting));
    }
    child.wait().unwrap();
    log.end();
    Err(log.text())
}

/// Keeps every line, and tells the greeting.
fn read(stderr: impl BufRead, kept: &Mutex<Vec<String>>, greeting: &Sender<String>) {
    for line in stderr.lines().map_while(Result::ok) {
        if line.starts_with("promptmill ") && line.contains("metrics http://") {
            let _ = greeting.send(line.clone());
        }
        kept.lock().unwrap().push(line);
    }
}

/// `http://ADDRESS` behind these words of the greeting.
fn told(greeting: &str, behind: &str) -> String {
    let Some((_, rest)) = greeting.split_once(behind) else { return String::new() };
    format!("http://{}", rest.split([' ', '/', ',']).next().unwrap())
}
