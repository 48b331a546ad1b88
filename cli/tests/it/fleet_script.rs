//! `./fleet`: the topology of docker-compose.yml as plain processes, and a restart of one after the other that nobody notices.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use promptmill_doubles::{Config, Doubles, Provider};
use rand::Rng as _;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::server::Http;
use crate::support::{Desk, ticket_template};

/// Requests a second while processes are restarted, unless `PROMPTMILL_ROLLING_REQUESTS` says how many: what a program of profile `dev` answers on two
/// cores beside everything else.
const REQUESTS: u32 = 50;
/// Rows of the batch that runs meanwhile.
const ROWS: usize = 6_000;
/// Ports that a fleet counts from the one of its entry.
const PORTS: u16 = 70;

/// A fleet of the script in a folder of its own.
struct Scripted {
    folder: tempfile::TempDir,
    port: u16,
    env: Vec<(&'static str, String)>,
}

impl Scripted {
    /// One that calls `doubles`, of the program that `PROMPTMILL_ROLLING_PROGRAM` names or else that of the tests; nothing runs yet.
    fn new(doubles: &Doubles) -> Self {
        let program = std::env::var("PROMPTMILL_ROLLING_PROGRAM");
        let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_promptmill").to_owned());
        let env = vec![
            ("PROMPTMILL", program),
            ("OPENAI_BASE_URL", doubles.base_url(Provider::OpenAi)),
            ("PROMPTMILL_REQUESTS_PER_SECOND", "100000".to_owned()),
            ("PROMPTMILL_CONCURRENCY", "16".to_owned()),
        ];
        Self { folder: tempfile::tempdir().unwrap(), port: free_ports(), env }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the script to its end.
    #[track_caller]
    fn fleet(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let Output { status, stdout, stderr } = output;
        assert!(status.success(), "{args:?}: {status}\n{}{}", said(&stdout), said(&stderr));
        said(&stdout)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(root().join("fleet"));
        command.args(args).arg("--folder").arg(self.folder.path());
        command.envs(self.env.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command
    }

    /// The process of that name.
    fn process(&self, name: &str) -> Option<u32> {
        std::fs::read_to_string(self.path("pids").join(name)).ok()?.split_whitespace().next()?.parse().ok()
    }

    /// A client with the first API key.
    fn client(&self) -> Http {
        let key = std::fs::read_to_string(self.path("secrets/bootstrap-key")).unwrap();
        Http::new(&format!("http://127.0.0.1:{}", self.port), key.trim())
    }
}

/// A test that fails leaves no process behind: first those that would start others again.
impl Drop for Scripted {
    fn drop(&mut self) {
        let Ok(pids) = std::fs::read_dir(self.path("pids")) else { return };
        let mut names: Vec<_> =
            pids.flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort_by_key(|name| !name.ends_with(".keeper"));
        for name in names {
            let log = self.path("logs").join(format!("{name}.log"));
            if std::thread::panicking()
                && let Ok(log) = std::fs::read_to_string(log)
            {
                let last: Vec<_> = log.lines().rev().take(10).collect();
                eprintln!("{name} said last, the newest first:\n{}", last.join("\n"));
            }
            if let Some(id) = self.process(&name) {
                let _ = Command::new("kill").args(["-9", &id.to_string()]).stderr(Stdio::null()).status();
            }
        }
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The first of so many ports that nobody listens at.
fn free_ports() -> u16 {
    loop {
        let first = rand::rng().random_range(10_000..30_000);
        let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (first..first + PORTS).all(is_free) {
            return first;
        }
    }
}

/// What clients saw.
#[derive(Debug, Default)]
struct Seen {
    requests: usize,
    failed: Vec<String>,
    jobs: Vec<String>,
}

/// Sends so many requests a second, whatever becomes of those before, until it is told to stop: looks at a batch and its results, and
/// one in ten hands in a job of a single row.
async fn ask(client: Http, batch: String, over: Arc<AtomicBool>) -> Seen {
    let requests = std::env::var("PROMPTMILL_ROLLING_REQUESTS");
    let requests = requests.map_or(REQUESTS, |requests| requests.parse().unwrap());
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / requests);
    let (mut seen, mut asking) = (Seen::default(), JoinSet::new());
    let job = json!({"template": ticket_template(), "model": "openai:m", "rows": [{"variables": {"n": 1_000_000}}]}).to_string();
    while !over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let (client, n, job) = (client.clone(), seen.requests, job.clone());
        let path = match n % 10 {
            0 => None,
            1 => Some(format!("/v1/batches/{batch}/results?limit=20")),
            _ => Some(format!("/v1/batches/{batch}")),
        };
        seen.requests += 1;
        asking.spawn(async move {
            let request = match path {
                Some(path) => client.request(reqwest::Method::GET, &path),
                None => {
                    let request = client.request(reqwest::Method::POST, "/v1/batches");
                    request.header("content-type", "application/json").body(job)
                }
            };
            let response = request.send().await.map_err(|error| format!("{n}: {error:?}"))?;
            let (status, text) = (response.status(), response.text().await);
            let text = text.map_err(|error| format!("{n}: {status}: {error:?}"))?;
            if !status.is_success() {
                return Err(format!("{n}: {status}: {text}"));
            }
            let made = (status == StatusCode::CREATED).then(|| serde_json::from_str::<Value>(&text).unwrap());
            Ok(made.map(|made| made["id"].as_str().unwrap().to_owned()))
        });
    }
    for answer in asking.join_all().await {
        match answer {
            Ok(job) => seen.jobs.extend(job),
            Err(failed) => seen.failed.push(failed),
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_one_process_after_the_other_fails_no_request_and_repeats_no_call() {
    let doubles =
        Doubles::start(Config { latency: "100..200".parse().unwrap(), ..Config::default() }).unwrap();
    let scripted = Scripted::new(&doubles);
    let port = scripted.port.to_string();
    scripted.fleet(&["up", "--apis", "2", "--workers", "2", "--schedulers", "2", "--port", &port]);
    let names = ["scheduler-1", "scheduler-2", "worker-1", "worker-2", "api-1", "api-2"];
    let processes = || names.map(|name| scripted.process(name).unwrap());
    let before = processes();

    let client = scripted.client();
    let desk = Desk::with_rows(ROWS);
    let batch = json!({"template": ticket_template(), "model": "openai:m"});
    let (status, draft) = client.post("/v1/batches", &batch).await;
    assert_eq!(status, StatusCode::CREATED, "{draft}");
    let id = draft["id"].as_str().unwrap();
    assert_eq!(client.put_rows(id, 0, desk.read("rows.jsonl")).await.0, StatusCode::OK);
    assert_eq!(client.step(&format!("/v1/batches/{id}/submit")).await.0, StatusCode::OK);

    let over = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn(ask(client.clone(), id.to_owned(), over.clone()));
    let begun = Instant::now();
    let said = tokio::task::block_in_place(|| scripted.fleet(&["restart"]));
    let took = begun.elapsed();
    over.store(true, Ordering::Relaxed);
    let seen = asking.await.unwrap();

    assert!(names.iter().all(|name| said.contains(name)), "{said}");
    assert!(processes().iter().zip(before).all(|(now, before)| *now != before));
    assert!(seen.failed.is_empty(), "{} of {} failed: {:#?}", seen.failed.len(), seen.requests, seen.failed);
    let view = client.wait_for_state(id, &["completed"]).await;
    assert_eq!((&view["counts"]["succeeded"], &view["rows"]), (&json!(ROWS), &json!(ROWS)), "{view}");
    for job in &seen.jobs {
        assert_eq!(client.wait_for_state(job, &["completed"]).await["counts"]["succeeded"], 1);
    }
    let totals = doubles.ledger().totals();
    let calls = (ROWS + seen.jobs.len()) as u64;
    // Each waited for its calls.
    assert_eq!((totals.calls, totals.undelivered), (calls, 0), "{totals:?}");
    println!(
        "| requests | failed | a second | rows | lost | calls repeated | s |\n|---|---|---|---|---|---|---|\n| {} | {} | {:.0} | {calls} | 0 | {} | {:.1} |",
        seen.requests,
        seen.failed.len(),
        seen.requests as f64 / took.as_secs_f64(),
        totals.calls - calls,
        took.as_secs_f64(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_of_the_script_starts_what_died_again_and_ends_in_order() {
    let doubles = Doubles::start(Config::default()).unwrap();
    let scripted = Scripted::new(&doubles);
    let port = scripted.port.to_string();
    scripted.fleet(&["up", "--apis", "2", "--workers", "1", "--port", &port]);
    let refused = scripted.command(&["up", "--port", &port]).output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("./fleet down ends it"));

    let worker = scripted.process("worker-1").unwrap();
    assert!(Command::new("kill").args(["-9", &worker.to_string()]).status().unwrap().success());
    crate::support::wait_for("another worker", || {
        scripted.process("worker-1").is_some_and(|now| now != worker)
            && scripted.command(&["ps"]).output().unwrap().status.success()
    });
    let client = scripted.client();
    let job = json!({"template": ticket_template(), "model": "openai:m", "rows": [{"variables": {"n": 1}}]});
    let (status, job) = client.post("/v1/batches", &job).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    client.wait_for_state(job["id"].as_str().unwrap(), &["completed"]).await;

    let names = ["scheduler-1", "worker-1", "api-1", "api-2"];
    let processes = || names.map(|name| scripted.process(name).unwrap());
    let before = processes();
    let said = scripted.fleet(&["restart"]);
    assert!(names.iter().all(|name| said.contains(name)), "{said}");
    assert!(processes().iter().zip(before).all(|(now, before)| *now != before));
    let path = format!("/v1/batches/{}", job["id"].as_str().unwrap());
    assert_eq!(client.get(&path).await.1["state"], "completed");

    scripted.fleet(&["down"]);
    assert_eq!(std::fs::read_dir(scripted.path("pids")).unwrap().count(), 0);
    for log in ["api-1", "worker-1", "scheduler-1"] {
        let log = std::fs::read_to_string(scripted.path("logs").join(format!("{log}.log"))).unwrap();
        assert!(!log.contains("panicked"), "{log}");
    }
    // What was stored is there again.
    scripted.fleet(&["up", "--workers", "1", "--port", &port]);
    let view = client.get(&path).await;
    assert_eq!((view.0, &view.1["state"]), (StatusCode::OK, &json!("completed")));
}

/// The one fenced block behind the comment `<!-- journey: operator -->` of docs/operate.md, typed in a directory that holds what the repository does.
#[test]
fn the_journey_of_an_operator_works_as_written() {
    let document = include_str!("../../../docs/operate.md");
    let (_, behind) = document.split_once("<!-- journey: operator -->").unwrap();
    let script = behind.split("```").nth(1).unwrap().strip_prefix("sh\n").unwrap();
    let mut desk = Desk::new();
    for name in ["fleet", "deploy", "templates", ".test-servers"] {
        std::os::unix::fs::symlink(root().join(name), desk.path(name)).unwrap();
    }
    let program = Path::new(env!("CARGO_BIN_EXE_promptmill"));
    desk.set("PATH", &format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap()));
    let up = format!("./fleet up --port {}\n", free_ports());
    assert!(script.starts_with("./fleet up\n"));
    let script = script.replacen("./fleet up\n", &up, 1);
    let typed =
        desk.shell(&format!("set -e\ntrap '[ ! -e .fleet ] || ./fleet down' EXIT\n{script}")).check_code(0);
    for words in [
        "the api is at http://127.0.0.1:",
        "good   the master key can be used\n",
        "good   a write to promptmill is in the journals of a majority",
        "restarting api-1\n",
    ] {
        assert!(typed.stdout.contains(words), "{words:?} is not in\n{}", typed.stdout);
    }
    assert!(!typed.stdout.contains("wrong  "), "{}", typed.stdout);
    let digests: Vec<_> = typed.stderr.split("sha256 ").skip(1).map(|behind| &behind[..64]).collect();
    assert_eq!(digests.len(), 2, "{}", typed.stderr);
    assert_eq!(digests[0], digests[1]);
    typed.check_says("have an outcome").check_says("imported tenants 1, keys 1");
    assert!(desk.path("laptop-data/promptmill.db").exists());
}

/// docker-compose, which `./check` installs, accepts its file.
#[test]
fn the_compose_file_is_accepted() {
    let mut compose = Command::new("docker-compose");
    let output = compose.args(["config", "--quiet"]).current_dir(root()).output();
    let output = output.expect("docker-compose is there; run the tests by ./check");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The servers of the script are started as those of docker-compose.yml are.
#[test]
fn the_script_gives_servers_the_options_of_the_compose_file() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let (script, compose) = (read("fleet"), read("docker-compose.yml"));
    let mut options = 0;
    for line in compose.lines().filter_map(|line| line.trim().strip_prefix("command: ")) {
        let words: Vec<String> = serde_json::from_str(line).unwrap();
        if !["mongod", "redis-server"].contains(&words[0].as_str()) {
            continue;
        }
        for pair in words[1..].split(|word| word == "--bind_ip_all").flat_map(|words| words.chunks(2)) {
            assert!(script.contains(&pair.join(" ")), "{pair:?}");
            options += 1;
        }
    }
    assert_eq!(options, 5);
}
