//! `promptmill serve`, a fleet, and their client as their users type them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use promptmill_doubles::{Config, Doubles};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::fleet::Servers;
use crate::server::{Http, Server};
use crate::stand::{Kind, Stand, on_both_stands};
use crate::support::{Desk, check_all_succeeded, ticket_template, wait_for};

on_both_stands! {
    the_client_submits_a_file_watches_it_and_gets_what_run_would_have_written,
    secrets_prompts_and_replies_reach_neither_logs_nor_metrics_nor_the_store_in_clear,
}

/// The one fenced block behind the comment `<!-- journey: NAME -->` of the README.
fn journey(name: &str) -> String {
    let readme = include_str!("../../../README.md");
    let (_, behind) = readme.split_once(&format!("<!-- journey: {name} -->")).unwrap();
    behind.split("```").nth(1).unwrap().strip_prefix("sh\n").unwrap().to_owned()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The Python with `standardwebhooks` and `schemathesis` that `./check` installs.
pub(crate) fn peers_python() -> String {
    std::env::var("PROMPTMILL_TEST_PEERS_PYTHON")
        .expect("PROMPTMILL_TEST_PEERS_PYTHON names the Python of the test peers; run the tests by ./check")
}

/// Prometheus' own linter, which `./check` installs, finds nothing to say of the metrics.
#[track_caller]
fn check_metrics(text: &str) {
    let promtool = std::env::var("PROMPTMILL_TEST_PROMTOOL")
        .expect("PROMPTMILL_TEST_PROMTOOL names promtool of Prometheus; run the tests by ./check");
    let mut lint = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    lint.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let found = lint.wait_with_output().unwrap();
    let said = [found.stdout, found.stderr].concat();
    assert!(found.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn the_journey_of_the_readme_works_as_written_and_its_webhook_verifies() {
    check_journey_of_the_readme(Desk::new(), |script| script);
}

/// The same, with the start of three processes in the place of that of one.
#[test]
fn the_journey_of_the_readme_works_on_a_fleet_too() {
    let mut desk = Desk::new();
    let servers = Servers::start();
    servers.point_at(&mut desk);
    check_journey_of_the_readme(desk, |script| {
        let (serve, behind) = script.split_once('\n').unwrap();
        assert!(serve.starts_with("promptmill serve --data"), "{serve}");
        let nets = "--webhook-subnets 127.0.0.0/8";
        format!(
            "promptmill key create first --role owner --fleet > first-key.txt\npromptmill api {nets} &\n\
             promptmill worker --metrics-listen 127.0.0.1:0 &\n\
             promptmill scheduler --metrics-listen 127.0.0.1:0 {nets} &\n{behind}"
        )
    });
}

fn check_journey_of_the_readme(mut desk: Desk, start: impl FnOnce(String) -> String) {
    let (api, receiver, metrics) = (free_port(), free_port(), free_port());
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_promptmill")).parent().unwrap();
    desk.set("PATH", &format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
    desk.set("PROMPTMILL_LISTEN", &format!("127.0.0.1:{api}"));
    desk.set("PROMPTMILL_METRICS_LISTEN", &format!("127.0.0.1:{metrics}"));
    desk.set("PROMPTMILL_URL", &format!("http://127.0.0.1:{api}"));
    let script = journey("serve");
    let secret = script.split("whsec_").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let script = start(script)
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{api}"))
        .replace("127.0.0.1:9000", &format!("127.0.0.1:{receiver}"));
    let mut hook = Command::new(peers_python())
        .args([concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/receiver.py"), &receiver.to_string()])
        .arg(format!("whsec_{secret}"))
        .stdout(std::fs::File::create(desk.path("events.txt")).unwrap())
        .spawn()
        .unwrap();
    wait_for("the receiver", || std::net::TcpStream::connect(("127.0.0.1", receiver)).is_ok());
    // The server goes on in the background of the reader's shell; here it ends with the shell.
    let script = format!(
        "set -e\ntrap 'kill $(jobs -p)' EXIT\n{script}\nuntil [ -s events.txt ]; do sleep 0.1; done\n"
    );
    let output = desk.shell(&script);
    hook.kill().unwrap();
    hook.wait().unwrap();
    let finished = output.check_code(0).check_says("is completed: 2 of 2 rows have an outcome, 2 succeeded");
    let lines: Vec<Value> = finished
        .stdout
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let end = lines.last().unwrap();
    assert_eq!((&end["_end"], &end["count"], &end["complete"]), (&json!(true), &json!(2), &json!(true)));
    let ids: Vec<_> = lines.iter().filter_map(|line| line["custom_id"].as_str()).collect();
    assert_eq!(ids, ["lamp", "chair"]);
    let events = desk.read("events.txt");
    assert!(events.starts_with("verified evt_") && events.contains(" batch.completed batch_"), "{events}");
}

/// A nightly schedule, and one of each minute that is waited for.
#[test]
fn the_journey_of_a_schedule_in_the_readme_works_as_written_and_its_webhook_verifies() {
    let mut desk = Desk::new();
    let (api, receiver) = (free_port(), free_port());
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_promptmill")).parent().unwrap();
    desk.set("PATH", &format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
    desk.set("PROMPTMILL_LISTEN", &format!("127.0.0.1:{api}"));
    desk.set("PROMPTMILL_METRICS_LISTEN", &format!("127.0.0.1:{}", free_port()));
    desk.set("PROMPTMILL_URL", &format!("http://127.0.0.1:{api}"));
    let serve = journey("serve");
    let (serve, _) = serve.split_once("\n\n").unwrap();
    let script = format!("{serve}\n{}", journey("schedule"));
    let secret = script.split("whsec_").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let script = script
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{api}"))
        .replace("127.0.0.1:9000", &format!("127.0.0.1:{receiver}"));
    let mut hook = Command::new(peers_python())
        .args([concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/receiver.py"), &receiver.to_string()])
        .arg(format!("whsec_{secret}"))
        .stdout(std::fs::File::create(desk.path("events.txt")).unwrap())
        .spawn()
        .unwrap();
    wait_for("the receiver", || std::net::TcpStream::connect(("127.0.0.1", receiver)).is_ok());
    let script = format!(
        "set -e\ntrap 'kill $(jobs -p)' EXIT\n{script}\nuntil [ -s events.txt ]; do sleep 0.1; done\n"
    );
    let output = desk.shell(&script);
    hook.kill().unwrap();
    hook.wait().unwrap();
    let finished = output.check_code(0);
    let next = finished.stdout.lines().filter(|line| line.contains("T03:00:00+0")).count();
    assert_eq!(next, 3, "{}", finished.stdout);
    assert!(finished.stdout.contains("2/2 succeeded"), "{}", finished.stdout);
    assert!(finished.stdout.contains(" is paused"), "{}", finished.stdout);
    let events = desk.read("events.txt");
    assert!(events.starts_with("verified evt_") && events.contains(" batch.completed batch_"), "{events}");
}

async fn the_client_submits_a_file_watches_it_and_gets_what_run_would_have_written(kind: Kind) {
    let mut desk = Desk::with_rows(600);
    desk.run("demo:faulty", &["--concurrency", "64"]).check_code(3);
    let by_run = desk.read("out.jsonl");
    let stand = Stand::start(kind, &mut desk);
    desk.set("PROMPTMILL_URL", stand.url());
    desk.set("PROMPTMILL_API_KEY", stand.key());
    desk.promptmill(&["template", "push", "template.json"]).check_code(0);
    let submit =
        ["batch", "submit", "tickets", "--rows", "rows.jsonl", "--model", "demo:faulty", "--name", "nightly"];
    let more = ["--label", "team=a", "--watch"];
    let submitted = desk.promptmill(&[&submit[..], &more[..]].concat()).check_code(3);
    let id = submitted.stdout.trim().to_owned();
    desk.promptmill(&["batch", "results", &id, "--out", "served.jsonl"]).check_code(0);
    // Which attempt succeeds is a matter of timing, whether one does is not.
    let outcomes = |text: &str| -> Vec<(Value, Value)> {
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|line| (line["custom_id"].clone(), line["outcome"].clone()))
            .collect()
    };
    assert_eq!(outcomes(&desk.read("served.jsonl")), outcomes(&by_run));
    let listed = desk.promptmill(&["batch", "list", "--label", "team=a", "--json"]).check_code(0);
    assert!(listed.stdout.contains(&id));
    assert!(desk.promptmill(&["batch", "list", "--label", "team=b"]).check_code(0).stdout.is_empty());

    let retried = desk.promptmill(&["batch", "retry", &id, "--model", "demo:any", "--watch"]).check_code(0);
    let retry = retried.stdout.trim();
    desk.promptmill(&["batch", "results", retry, "--merged", "--out", "out.jsonl"]).check_code(0);
    check_all_succeeded(&desk.outcomes(), 600);
    desk.promptmill(&["batch", "results", &id, "--follow", "--out", "followed.jsonl"]).check_code(0);
    assert_eq!(desk.read("followed.jsonl").lines().count(), 600);
    desk.promptmill(&["batch", "results", &id, "--out", "failed.csv", "--outcome", "failed"]).check_code(0);
    assert!(desk.read("failed.csv").lines().skip(1).all(|line| line.contains(",failed,")));
    let pulled = desk.promptmill(&["template", "pull", "tickets@1"]).check_code(0);
    assert_eq!(serde_json::from_str::<Value>(&pulled.stdout).unwrap(), ticket_template());
    labels_of_a_template_are_put_moved_and_taken_away(&desk);
    stand.stop();
}

/// The desk knows a server that has the template of the desk's file as its only version.
fn labels_of_a_template_are_put_moved_and_taken_away(desk: &Desk) {
    let second = json!({"name": "tickets", "messages": [{"role": "user", "content": "Second."}]});
    desk.write("second.json", &second.to_string());
    desk.promptmill(&["template", "push", "second.json"]).check_code(0);
    let label = |more: &[&str]| {
        let command = ["template", "label", "tickets", "production"];
        desk.promptmill(&[&command[..], more].concat())
    };
    let pulled = || {
        let pulled = desk.promptmill(&["template", "pull", "tickets@production"]).check_code(0);
        serde_json::from_str::<Value>(&pulled.stdout).unwrap()
    };
    let put = label(&["--version", "1"]).check_code(0);
    assert!(put.stdout.starts_with("tickets@production  version 1  "), "{}", put.stdout);
    assert_eq!(pulled(), ticket_template());
    // The newest unless told.
    label(&[]).check_code(0);
    assert_eq!(pulled(), second);
    let listed = desk.promptmill(&["template", "labels", "tickets", "--json"]).check_code(0);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!((&listed["label"], &listed["version"]), (&json!("production"), &json!(2)));
    label(&["--version", "3"]).check_code(2).check_says("the template has no such version");
    label(&["--version", "1", "--remove"]).check_code(2).check_says("--remove");
    label(&["--remove"]).check_code(0);
    label(&["--remove"]).check_code(2);
    let missing = desk.promptmill(&["template", "pull", "tickets@production"]);
    missing.check_code(2).check_says("no label \"production\"");
    assert_eq!(desk.promptmill(&["template", "labels", "tickets"]).check_code(0).stdout, "");
}

#[test]
fn typical_mistakes_of_the_client_are_told_in_words_and_leave_nothing_behind() {
    let mut desk = Desk::with_rows(3);
    desk.promptmill(&["batch", "list"]).check_code(2).check_says("PROMPTMILL_API_KEY");
    let server = Server::first(&desk);
    desk.set("PROMPTMILL_URL", &server.url);
    desk.set("PROMPTMILL_API_KEY", "pmk_wrong");
    desk.promptmill(&["batch", "list"]).check_code(2);
    desk.set("PROMPTMILL_API_KEY", &server.key);
    let submit = |desk: &Desk, more: &[&str]| {
        desk.promptmill(&[&["batch", "submit", "template.json", "--rows"], more].concat())
    };
    desk.write("bad.jsonl", "{\"n\": 1}\n{\"n\": \"x\"}\n{\"n\": 2\n");
    let bad = submit(&desk, &["bad.jsonl", "--model", "demo:any"]).check_code(2);
    assert!(bad.stderr.contains("line 2") && bad.stderr.contains("line 3"), "{}", bad.stderr);
    submit(&desk, &["rows.jsonl", "--model", "nobody:x"]).check_code(2).check_says("nobody");
    submit(&desk, &["rows.jsonl"]).check_code(2).check_says("model");
    submit(&desk, &["rows.jsonl", "--model", "demo:any", "--max-cost", "-1"]).check_code(2);
    submit(&desk, &["rows.jsonl", "--model", "demo:any", "--webhook-url", "http://169.254.1.1/"])
        .check_code(2)
        .check_says("webhook_url");
    submit(&desk, &["absent.jsonl", "--model", "demo:any"]).check_code(2).check_says("absent.jsonl");
    desk.promptmill(&["batch", "submit", "no-such-template", "--rows", "rows.jsonl", "--model", "demo:any"])
        .check_code(2)
        .check_says("there is no such template");
    desk.promptmill(&["batch", "show", "batch_00000000000000000000000000000000"]).check_code(2);
    assert!(desk.promptmill(&["batch", "list"]).check_code(0).stdout.is_empty());
    server.kill();
    desk.promptmill(&["batch", "list"]).check_code(1).check_says("gives no answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_its_holder_made_is_kept_at_the_start_and_stays_revoked_at_the_next() {
    let mut desk = Desk::new();
    let key = desk.promptmill(&["key", "generate"]).check_code(0).stdout.trim().to_owned();
    desk.write("bootstrap-key", &format!("{key}\n"));
    desk.set("PROMPTMILL_BOOTSTRAP_KEY_FILE", desk.path("bootstrap-key").to_str().unwrap());
    let server = Server::again(&desk, &key);
    let (_, me) = server.client().get("/v1/me").await;
    assert_eq!((&me["tenant"], &me["role"]), (&json!("default"), &json!("owner")));
    let (code, said) = server.stop();
    assert!(code == Some(0) && !said.contains("First start") && !said.contains(&key), "{said}");
    let id = format!("key_{}", key.split('_').nth(1).unwrap());
    desk.promptmill(&["key", "revoke", &id, "--data", "data"]).check_code(0);
    let server = Server::again(&desk, &key);
    assert_eq!(server.client().get("/v1/me").await.0, StatusCode::UNAUTHORIZED);
    drop(server);
    desk.write("bootstrap-key", "pmk_mistyped");
    let said = Server::try_start(&desk, "", &[]).err().unwrap();
    assert!(
        said.contains("bootstrap_key is not an API key, or mistyped; promptmill key generate prints one"),
        "{said}"
    );
    assert!(!said.contains("pmk_mistyped"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_key_is_printed_once_and_keys_are_managed_with_and_without_a_server() {
    let desk = Desk::new();
    let server = Server::first(&desk);
    let owner = server.key.clone();
    assert!(owner.starts_with("pmk_"));
    let in_use = desk.promptmill(&["key", "list", "--data", "data"]).check_code(1);
    assert!(in_use.stderr.contains("PROMPTMILL_URL"), "{}", in_use.stderr);
    let mut admin = Desk::new();
    admin.set("PROMPTMILL_URL", &server.url);
    admin.set("PROMPTMILL_API_KEY", &owner);
    let viewer =
        admin.promptmill(&["key", "create", "dashboard", "--role", "viewer", "--json"]).check_code(0);
    let viewer: Value = serde_json::from_str(&viewer.stdout).unwrap();
    let reader = Http::new(&server.url, viewer["key"].as_str().unwrap());
    assert_eq!(reader.get("/v1/batches").await.0, StatusCode::OK);
    assert_eq!(reader.post("/v1/batches", &json!({"model": "demo:any"})).await.0, StatusCode::FORBIDDEN);
    admin.promptmill(&["key", "revoke", viewer["id"].as_str().unwrap()]).check_code(0);
    assert_eq!(reader.get("/v1/batches").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(server.stop().0, Some(0));

    let other = desk
        .promptmill(&["key", "create", "b", "--role", "owner", "--tenant", "acme", "--data", "data"])
        .check_code(0);
    let server = Server::again(&desk, &owner);
    let (status, mine) = server.client().post("/v1/batches", &json!({"model": "demo:any"})).await;
    assert_eq!(status, StatusCode::CREATED, "{mine}");
    let foreign = Http::new(&server.url, other.stdout.trim());
    assert_eq!(foreign.get("/v1/me").await.1["tenant"], "acme");
    let id = mine["id"].as_str().unwrap();
    assert_eq!(foreign.get(&format!("/v1/batches/{id}")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.stop().0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_told_to_stop_ends_cleanly_and_the_next_one_goes_on() {
    let doubles = Doubles::start(Config { latency: "20..40".parse().unwrap(), ..Config::default() }).unwrap();
    let mut desk = Desk::with_rows(400);
    desk.point_at(&doubles);
    let server = Server::start(&desk, "", &["--concurrency", "8"]);
    let (code, _) = server.stop();
    assert_eq!(code, Some(0));
    let owner = desk.promptmill(&["key", "create", "a", "--role", "owner", "--data", "data"]).check_code(0);
    let key = owner.stdout.trim();
    let server = Server::start(&desk, key, &["--concurrency", "8"]);
    let client = server.client();
    let (_, draft) =
        client.post("/v1/batches", &json!({"template": ticket_template(), "model": "openai:m"})).await;
    let id = draft["id"].as_str().unwrap();
    assert_eq!(client.put_rows(id, 0, desk.read("rows.jsonl")).await.0, StatusCode::OK);
    assert_eq!(client.step(&format!("/v1/batches/{id}/submit")).await.0, StatusCode::OK);
    tokio::task::block_in_place(|| wait_for("some calls", || doubles.ledger().totals().calls > 40));
    let (code, _) = tokio::task::block_in_place(|| server.stop());
    assert_eq!(code, Some(0));
    assert_eq!(doubles.ledger().totals().in_flight, 0);
    let server = Server::start(&desk, key, &["--concurrency", "32"]);
    let view = server.client().wait_for_state(id, &["completed"]).await;
    assert_eq!(view["counts"]["succeeded"], 400);
    // A clean stop waits for its calls, so no row was called twice.
    for n in 0..400 {
        assert_eq!(doubles.ledger().marker(&n.to_string()).calls_after_valid, 0, "row {n}");
    }
}

async fn secrets_prompts_and_replies_reach_neither_logs_nor_metrics_nor_the_store_in_clear(kind: Kind) {
    let doubles = Doubles::start(Config::default()).unwrap();
    let mut desk = Desk::with_rows(20);
    desk.point_at(&doubles);
    desk.set("OPENROUTER_API_KEY", "sk-or-canary-1234567890");
    desk.set("PROMPTMILL_LOG", "trace");
    let mut stand = Stand::start(kind, &mut desk);
    let (client, key) = (stand.client(), stand.key().to_owned());
    let webhook_secret = "whsec_Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5";
    let rows: Vec<Value> = (0..20).map(|n| json!({"variables": {"n": n}})).collect();
    let batch = json!({"template": ticket_template(), "model": "openrouter:acme/model-a", "rows": rows,
        "webhook_url": "http://127.0.0.1:9/hook", "webhook_secret": webhook_secret});
    let (status, view) = client.post("/v1/batches", &batch).await;
    assert_eq!(status, StatusCode::CREATED, "{view}");
    let id = view["id"].as_str().unwrap();
    client.wait_for_state(id, &["completed"]).await;
    let results = client.text(&format!("/v1/batches/{id}/results")).await;
    let first: Value = serde_json::from_str(results.lines().next().unwrap()).unwrap();
    let summary = first["output"]["summary"].as_str().unwrap().to_owned();
    let secret_part = key.rsplit('_').next().unwrap();
    let webhook_part = webhook_secret.trim_start_matches("whsec_");
    let mut metrics = String::new();
    for url in stand.metrics_urls() {
        let text = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
        check_metrics(&text);
        metrics.push_str(&text);
    }
    assert!(metrics.contains("promptmill_items_total"), "{metrics}");
    let stored = |secret: &str| match &stand {
        Stand::Embedded(_) => raw_store_contains(&desk, secret),
        Stand::Fleet(fleet) => fleet.servers.contain(secret),
    };
    assert!(stored("127.0.0.1:9/hook"), "what stands in the store in clear is found");
    for secret in ["canary-1234567890", secret_part, webhook_part, "canary-canary-canary"] {
        assert!(!stored(secret), "{secret:?} is in the store");
    }
    let log = tokio::task::block_in_place(|| stand.stop());
    for secret in ["canary-1234567890", "Classify ticket", &summary, secret_part, webhook_part] {
        assert!(!log.contains(secret), "{secret:?} is in the log");
        assert!(!metrics.contains(secret), "{secret:?} is in the metrics");
    }
}

/// Whether a text stands anywhere in the files of the store.
fn raw_store_contains(desk: &Desk, text: &str) -> bool {
    std::fs::read_dir(desk.path("data")).unwrap().flatten().any(|entry| {
        let content = std::fs::read(entry.path()).unwrap();
        content.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_batch_leaves_nothing_of_it_in_the_raw_store() {
    let desk = Desk::new();
    let server = Server::first(&desk);
    let client = server.client();
    // No two alike, so that compression leaves them as they are.
    let rows: Vec<Value> = (0..3)
        .map(|n| json!({"custom_id": format!("cid-{n}-QX7ZK2"), "variables": {"text": format!("{n}-VJ4WP9-{}", "x".repeat(n))}}))
        .collect();
    let batch = json!({"template": {"name": "echo", "messages": [{"role": "user", "content": "{{ text }}"}]},
        "model": "demo:any", "rows": rows, "name": "NM3TR8"});
    let (status, view) = client.post("/v1/batches", &batch).await;
    assert_eq!(status, StatusCode::CREATED, "{view}");
    let id = view["id"].as_str().unwrap().to_owned();
    client.wait_for_state(&id, &["completed"]).await;
    for canary in ["QX7ZK2", "VJ4WP9", "NM3TR8"] {
        assert!(raw_store_contains(&desk, canary), "{canary} should be there before");
    }
    assert_eq!(client.delete(&format!("/v1/batches/{id}")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(client.get(&format!("/v1/batches/{id}")).await.0, StatusCode::NOT_FOUND);
    tokio::task::block_in_place(|| {
        wait_for("the store to forget", || {
            ["QX7ZK2", "VJ4WP9", "NM3TR8"].iter().all(|canary| !raw_store_contains(&desk, canary))
        });
    });
}
