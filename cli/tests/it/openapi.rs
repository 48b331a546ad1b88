//! The OpenAPI document against the running server, by schemathesis.

use std::process::Command;

use crate::serve::peers_python;
use crate::server::Server;
use crate::support::Desk;

/// What it may find, with a reason for each status that is more than its defaults.
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis.toml");

/// Teaches it media types.
const HOOKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis_hooks.py");

/// The one operation that would take the key away from the run itself.
const REVOKE: &str = "revokeKey";

/// Runs schemathesis for `seconds`, its choice of operations told by `which`, against a server that nothing else uses.
fn check_no_failure(seconds: u32, which: &[&str]) {
    let desk = Desk::new();
    // It sends as fast as it can, and a refusal for that would hide what it asks about.
    let server = Server::start_first(&desk, &["--requests-per-second", "100000"]);
    let output = Command::new(peers_python())
        .args(["-m", "schemathesis.cli", "--config-file", CONFIG, "run"])
        .arg(format!("{}/openapi.json", server.url))
        // One worker, which is its default: with two of them the Python of the peers now and then fails in its own parser.
        .args(["--checks", "all", "--max-examples", "15", "--request-timeout", "65"])
        .args(["--seed", "1", "--generation-database", "none", "--no-color"])
        .args(["--max-time", &seconds.to_string()])
        .args(["--header", &format!("Authorization: Bearer {}", server.key)])
        .env("SCHEMATHESIS_HOOKS", HOOKS)
        .args(which)
        .current_dir(desk.path(""))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.stop().0, Some(0));
}

#[test]
fn schemathesis_finds_no_failure_between_the_document_and_the_server() {
    check_no_failure(65, &["--exclude-operation-id", REVOKE]);
}

/// Keys are made and revoked, but not listed: the run does not learn the id of its own.
#[test]
fn schemathesis_finds_no_failure_where_keys_are_revoked() {
    check_no_failure(20, &["--include-operation-id", "createKey", "--include-operation-id", REVOKE]);
}
