//! The doubles as a process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::client::{ask, send};

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_program_says_where_it_listens_and_serves_there() {
    let child = Command::new(env!("CARGO_BIN_EXE_promptmill-doubles"))
        .args([
            "--listen",
            "127.0.0.1:0",
            "--preset",
            "refused_key",
            "--seed",
            "7",
            "--latency-ms",
            "0..1",
            "--print-addr",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let addr = line.trim_end().strip_prefix("listening on ").unwrap().parse().unwrap();
    let body = ask("1").to_string();
    let reply = send(addr, "POST", "/ollama/api/chat", &[], body.as_bytes()).read().unwrap();
    assert_eq!((reply.status, reply.text()), (401, r#"{"error":"unauthorized"}"#));
    let ledger = send(addr, "GET", "/_ledger", &[], b"").read().unwrap().json();
    assert_eq!(ledger["markers"]["1"]["faults"]["unauthorized"], 1);
}

#[test]
fn the_program_refuses_a_preset_nobody_knows() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_promptmill-doubles")).args(["--preset", "chaos"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("not a preset"));
}
