//! No server outlives its test.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use promptmill_test_servers::RedisServer;

/// Makes this binary, run again with this test alone, hold a server until it is killed.
const HOLDER: &str = "PROMPTMILL_TEST_HOLDER";

#[test]
fn a_server_ends_with_its_value() {
    let server = RedisServer::start();
    let process = server.process_id();
    assert!(is_alive(process));
    drop(server);
    assert!(!is_alive(process));
}

#[test]
fn a_server_ends_when_its_test_is_killed() {
    if std::env::var_os(HOLDER).is_some() {
        let server = RedisServer::start();
        println!("\nholding {}", server.process_id());
        loop {
            std::thread::park();
        }
    }
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "leash::a_server_ends_when_its_test_is_killed", "--nocapture"])
        .env(HOLDER, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let told = lines.map(Result::unwrap).find_map(|line| Some(line.strip_prefix("holding ")?.to_owned()));
    let process = told.unwrap().parse().unwrap();
    assert!(is_alive(process));

    holder.kill().unwrap();
    holder.wait().unwrap();

    let deadline = Instant::now() + Duration::from_secs(60);
    while is_alive(process) {
        assert!(Instant::now() < deadline, "the server outlived the process that started it");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_alive(process: u32) -> bool {
    PathBuf::from(format!("/proc/{process}")).exists()
}
