//! One journey against a model that answers as it likes: llama.cpp's own server with a small real model, structured output on.
//!
//! The server is the one that `./check` installs; without it the test fails. Nothing is said about the meaning of the replies.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Desk, check_complete, wait_for};

const ROWS: usize = 6;
const MOODS: [&str; 3] = ["positive", "neutral", "negative"];
const TOPICS: [&str; 4] = ["delivery", "price", "quality", "other"];
const MAX_TOKENS: u64 = 80;
/// Short enough that a reply which keeps to the schema cannot reach [`MAX_TOKENS`], whatever its letters.
const MAX_KEYWORD: usize = 12;

#[test]
fn a_real_model_fills_a_schema_for_every_row() {
    let mut desk = Desk::new();
    desk.write("template.json", &template().to_string());
    desk.write("rows.jsonl", &rows());
    let server = LlamaServer::start(&desk.path("llama-server.log"));
    desk.set("OPENAI_BASE_URL", &server.base_url());

    desk.promptmill(&[
        "run",
        "template.json",
        "--rows",
        "rows.jsonl",
        "--model",
        "openai:smollm2",
        "--out",
        "out.jsonl",
        "--concurrency",
        "1",
    ])
    .check_code(0);

    let outcomes = desk.outcomes();
    check_complete(&outcomes, ROWS);
    for outcome in &outcomes {
        check_outcome(outcome);
    }
}

fn template() -> Value {
    json!({
        "name": "review-mood",
        "messages": [
            {"role": "system", "content": "You sort customer reviews. Reply with one short JSON object."},
            {"role": "user", "content": "Review: {{ review }}"}
        ],
        "variables": {"review": {"type": "string", "max_length": 200}},
        "model": {"temperature": 0, "max_tokens": MAX_TOKENS},
        "output": {"format": "json", "schema": {
            "type": "object",
            "additionalProperties": false,
            "required": ["mood", "topic", "keyword", "answer"],
            "properties": {
                "mood": {"type": "string", "enum": MOODS},
                "topic": {"type": "string", "enum": TOPICS},
                "keyword": {"type": "string", "minLength": 1, "maxLength": MAX_KEYWORD},
                "answer": {"type": "boolean"}
            }
        }}
    })
}

fn rows() -> String {
    let reviews: [&str; ROWS] = [
        "The parcel came a day early and the cup is lovely.",
        "Far too expensive for what it is.",
        "It works. Nothing more to say.",
        "The handle broke off in the first week, and nobody answers my mails!",
        "Great colours; my daughter wants a second one.",
        "Es ist in Ordnung, aber die Lieferung war langsam.",
    ];
    let line = |(n, review)| {
        format!("{}\n", json!({"custom_id": format!("id-{n}"), "variables": {"review": review}}))
    };
    reviews.iter().enumerate().map(line).collect()
}

/// The row succeeded, its output has the shape that was asked for, and what is told about its calls adds up.
#[track_caller]
fn check_outcome(outcome: &Value) {
    assert_eq!(outcome["outcome"], "succeeded", "{outcome}");
    assert!(outcome["error"].is_null(), "{outcome}");

    let output = outcome["output"].as_object().unwrap();
    let mut keys: Vec<_> = output.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["answer", "keyword", "mood", "topic"], "{outcome}");
    assert!(MOODS.contains(&output["mood"].as_str().unwrap()), "{outcome}");
    assert!(TOPICS.contains(&output["topic"].as_str().unwrap()), "{outcome}");
    let keyword = output["keyword"].as_str().unwrap().chars().count();
    assert!((1..=MAX_KEYWORD).contains(&keyword), "{outcome}");
    assert!(output["answer"].is_boolean(), "{outcome}");

    // The prompt names no key: only a server that was given the schema gets there, and it does so with its first reply.
    assert_eq!((&outcome["attempts"], &outcome["calls"]), (&json!(1), &json!(1)), "{outcome}");
    let (prompt, completion) = (&outcome["tokens"]["prompt"], &outcome["tokens"]["completion"]);
    assert!(prompt.as_u64().unwrap() > 0, "{outcome}");
    assert!((1..=MAX_TOKENS).contains(&completion.as_u64().unwrap()), "{outcome}");
    assert!(outcome["cost"].is_null(), "this server tells no cost: {outcome}");
}

/// The server on a port of its own; it ends with this value, and by itself when this process dies.
struct LlamaServer {
    process: Child,
    port: u16,
}

impl LlamaServer {
    /// Returns once the server says that its model is loaded; what it says besides goes to `log`.
    fn start(log: &Path) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let servers = root.join(".test-servers");
        let python = installed("PROMPTMILL_TEST_LLAMA_PYTHON", servers.join("python/bin/python"));
        let model = installed("PROMPTMILL_TEST_LLAMA_MODEL", servers.join("SmolLM2-135M-Instruct.Q4_1.gguf"));
        let port = free_port();
        let log_file = File::create(log).unwrap();
        let process = Command::new(python)
            .arg(root.join("tools/llama-server.py"))
            .arg(model)
            .arg(port.to_string())
            // The server ends when this pipe does.
            .stdin(Stdio::piped())
            .stdout(log_file.try_clone().unwrap())
            .stderr(log_file)
            .spawn()
            .unwrap();
        let mut server = Self { process, port };
        wait_for("the llama.cpp server to load its model", || {
            if let Some(status) = server.process.try_wait().unwrap() {
                panic!(
                    "the llama.cpp server ended with {status}:\n{}",
                    fs::read_to_string(log).unwrap_or_default()
                );
            }
            server.is_healthy()
        });
        server
    }

    fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// Its health page answers 503 until the model is loaded.
    fn is_healthy(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut socket = TcpStream::connect(("127.0.0.1", self.port))?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.write_all(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
            let mut status = [0; 12];
            socket.read_exact(&mut status)?;
            Ok(status.ends_with(b" 200"))
        };
        ask().unwrap_or(false)
    }
}

impl Drop for LlamaServer {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The path a variable names, or where `./check` puts it.
fn installed(variable: &str, default: PathBuf) -> PathBuf {
    let path = std::env::var_os(variable).map_or(default, PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing; run ./check, which installs it (or set {variable})",
        path.display()
    );
    path
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
