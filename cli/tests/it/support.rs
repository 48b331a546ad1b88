//! What the journeys share: a folder, a template, rows with markers, the binary, and the outcomes it wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use promptmill_doubles::{Doubles, Provider};
use serde_json::{Value, json};

/// A folder with a template and rows, to run the binary in.
pub(crate) struct Desk {
    dir: tempfile::TempDir,
    env: BTreeMap<String, String>,
}

impl Desk {
    /// An empty folder and an environment without any provider.
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), env: BTreeMap::new() }
    }

    /// A folder with the ticket template and `rows` rows; row `n` carries the marker `n`.
    pub(crate) fn with_rows(rows: usize) -> Self {
        let desk = Self::new();
        desk.write("template.json", &ticket_template().to_string());
        desk.write_rows(rows);
        desk
    }

    pub(crate) fn write_rows(&self, rows: usize) {
        let lines: String = (0..rows)
            .map(|n| format!("{}\n", json!({"custom_id": format!("id-{n}"), "variables": {"n": n}})))
            .collect();
        self.write("rows.jsonl", &lines);
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Points the environment at the double, as a user would.
    pub(crate) fn point_at(&mut self, doubles: &Doubles) {
        for (variable, provider) in [
            ("OPENROUTER_BASE_URL", Provider::OpenRouter),
            ("OLLAMA_HOST", Provider::Ollama),
            ("OPENAI_BASE_URL", Provider::OpenAi),
        ] {
            self.env.insert(variable.to_owned(), doubles.base_url(provider));
        }
        self.env.insert("OPENROUTER_API_KEY".to_owned(), "test-key".to_owned());
    }

    pub(crate) fn set(&mut self, variable: &str, value: &str) {
        self.env.insert(variable.to_owned(), value.to_owned());
    }

    /// What is set for processes; they have nothing else in their environment.
    pub(crate) fn environment(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_promptmill"));
        command.args(args).current_dir(self.dir.path()).env_clear().envs(&self.env).stdin(Stdio::null());
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn promptmill(&self, args: &[&str]) -> Finished {
        Finished::of(self.command(args).output().unwrap())
    }

    /// Runs the binary to its end with this on standard input.
    pub(crate) fn promptmill_fed(&self, args: &[&str], input: &str) -> Finished {
        use std::io::Write as _;
        let mut command = self.command(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Finished::of(child.wait_with_output().unwrap())
    }

    /// Runs a script of bash to its end.
    pub(crate) fn shell(&self, script: &str) -> Finished {
        let mut command = Command::new("bash");
        command.args(["-c", script]).current_dir(self.dir.path()).env_clear().envs(&self.env);
        Finished::of(command.stdin(Stdio::null()).output().unwrap())
    }

    /// Starts the binary and lets it run.
    pub(crate) fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts the binary with both outputs piped.
    pub(crate) fn start_piped(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// `promptmill run` of the ticket template with further arguments.
    pub(crate) fn run(&self, model: &str, more: &[&str]) -> Finished {
        self.promptmill(&run_args(model, more))
    }

    /// The outcomes in `out.jsonl`.
    pub(crate) fn outcomes(&self) -> Vec<Value> {
        self.read("out.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The arguments of [`Desk::run`].
pub(crate) fn run_args<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args =
        vec!["run", "template.json", "--rows", "rows.jsonl", "--model", model, "--out", "out.jsonl"];
    args.extend_from_slice(more);
    args
}

/// A process that ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The same, once it is known to have ended with `code`.
    #[track_caller]
    pub(crate) fn check_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stderr:\n{}", self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn check_says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{words:?} is not in stderr:\n{}", self.stderr);
        self
    }
}

/// A template whose prompt carries the row's marker and whose output has ten properties.
pub(crate) fn ticket_template() -> Value {
    json!({
        "name": "tickets",
        "messages": [{"role": "user", "content": "Classify ticket [[row:{{ n }}]]. Reply with JSON."}],
        "variables": {"n": {"type": "integer"}},
        "output": {"format": "json", "schema": {
            "type": "object",
            "additionalProperties": false,
            "required": ["category", "urgent", "score", "tags", "summary", "language", "days", "contact", "source", "code"],
            "properties": {
                "category": {"enum": ["bug", "billing", "question"]},
                "urgent": {"type": "boolean"},
                "score": {"type": "number", "minimum": 0, "maximum": 1},
                "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 4},
                "summary": {"type": "string", "minLength": 1, "maxLength": 200},
                "language": {"type": "string", "minLength": 2, "maxLength": 2},
                "days": {"type": "integer", "minimum": 0, "maximum": 30},
                "contact": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
                "source": {"enum": ["mail", "web"]},
                "code": {"type": "string", "maxLength": 12}
            }
        }}
    })
}

/// Every row exactly one outcome, in order, each under its own `custom_id`.
#[track_caller]
pub(crate) fn check_complete(outcomes: &[Value], rows: usize) {
    assert_eq!(outcomes.len(), rows);
    for (outcome, n) in outcomes.iter().zip(0..) {
        assert_eq!(outcome["index"], n);
        assert_eq!(outcome["custom_id"], format!("id-{n}"));
    }
}

/// As [`check_complete`], and every one succeeded.
#[track_caller]
pub(crate) fn check_all_succeeded(outcomes: &[Value], rows: usize) {
    check_complete(outcomes, rows);
    for outcome in outcomes {
        assert_eq!(outcome["outcome"], "succeeded", "{outcome}");
        assert!(outcome["output"]["category"].is_string(), "{outcome}");
    }
}

/// Waits until `condition` holds; fails after a minute, which no machine needs.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited a minute for: {what}");
        std::thread::yield_now();
        std::thread::park_timeout(std::time::Duration::from_millis(1));
    }
}

/// Sends a signal by the `kill` program, for example `-INT`.
pub(crate) fn signal(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// The most memory the process had resident so far, KiB; 0 once it is gone.
pub(crate) fn peak_kib(process: u32) -> u64 {
    status_kib(process, "VmHWM").unwrap_or(0)
}

/// A field of the process's status that is told in KiB; `None` once it has died.
pub(crate) fn status_kib(process: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().ok()
}
