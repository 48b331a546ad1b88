//! The OpenAPI document against the running server, by schemathesis.

use std::process::Command;

use crate::serve::peers_python;
use crate::server::Server;
use crate::support::Desk;

#[test]
fn schemathesis_finds_no_failure_between_the_document_and_the_server() {
    let desk = Desk::new();
    let server = Server::start_first(&desk, &["--requests-per-second", "100000"]);
    let output = Command::new(peers_python())
        .args(["-m", "schemathesis.cli", "run", &format!("{}/openapi.json", server.url)])
        .args([
            "--checks",
            "all",
            "--seed",
            "1",
            "--workers",
            "2",
            "--max-examples",
            "15",
            "--max-time",
            "90",
        ])
        .args(["--request-timeout", "65", "--header", &format!("Authorization: Bearer {}", server.key)])
        .current_dir(desk.path(""))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.stop().0, Some(0));
}
