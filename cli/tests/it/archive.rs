//! `promptmill export` of an installation at work, and `promptmill import` into another kind of store, as an operator types them.

mod recurring;

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use promptmill_doubles::{Config, Doubles, Fault, FaultPlan, RetryAfter, Weighted};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::chaos::scene::template;
use crate::fleet::{Fleet, Servers, Size};
use crate::server::{Http, Server};
use crate::stand::{Kind, Stand};
use crate::support::{Desk, signal, wait_for};

/// Rows of the batch that runs while it is exported.
const ROWS: u64 = 2_500;
/// Rows of the batch that is paused.
const PAUSED_ROWS: u64 = 400;

/// Takes webhooks, and remembers them.
#[derive(Clone)]
struct Hook {
    url: String,
    taken: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let taken = Arc::<Mutex<Vec<_>>>::default();
        let noted = taken.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).unwrap();
                    match line.trim_end().split_once(": ") {
                        Some(("content-length", value)) => length = value.parse().unwrap(),
                        Some(_) => {}
                        None if line.trim_end().is_empty() => break,
                        None => {}
                    }
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                noted.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                stream.get_mut().write_all(answer).unwrap();
            }
        });
        Self { url, taken }
    }

    /// The kinds of the events that were told of a batch, as often as they came.
    fn told_of(&self, batch: &str) -> Vec<String> {
        let taken = self.taken.lock().unwrap();
        let mine = taken.iter().filter(|body| body["data"]["batch_id"] == batch);
        mine.map(|body| body["type"].as_str().unwrap().to_owned()).collect()
    }
}

fn place(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Embedded => &["--data", "data"],
        Kind::Fleet => &["--fleet"],
    }
}

fn start(kind: Kind, desk: &mut Desk) -> Stand {
    match kind {
        Kind::Embedded => {
            let args = ["--webhook-subnets", "127.0.0.0/8", "--requests-per-second", "100000"];
            Stand::Embedded(Server::start_first(desk, &args))
        }
        Kind::Fleet => Stand::start(kind, desk),
    }
}

async fn submit(client: &Http, name: &str, rows: u64, more: Value) -> String {
    let rows: Vec<_> = (0..rows).map(|n| json!({"variables": {"m": format!("{name}-{n}")}})).collect();
    let mut body = json!({"template": template(), "model": "openai:m", "name": name, "rows": rows});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (status, view) = client.post("/v1/batches", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{view}");
    view["id"].as_str().unwrap().to_owned()
}

async fn results(client: &Http, batch: &str) -> Vec<Value> {
    let text = client.text(&format!("/v1/batches/{batch}/results")).await;
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The number that stands before these words.
fn number_before(text: &str, words: &str) -> u64 {
    let (before, _) = text.split_once(words).unwrap_or_else(|| panic!("{words:?} is not in {text:?}"));
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

async fn an_installation_at_work_is_exported_and_goes_on_elsewhere(from: Kind, to: Kind) {
    let doubles = Doubles::start(Config { latency: "5..10".parse().unwrap(), ..Config::default() }).unwrap();
    let hook = Hook::start();
    let told = || json!({"webhook_url": hook.url, "webhook_secret": format!("whsec_{}", "QUFB".repeat(8))});
    let mut desk = Desk::new();
    desk.point_at(&doubles);
    let stand = start(from, &mut desk);
    let client = stand.client();
    let ended = submit(&client, "ended", 40, told()).await;
    client.wait_for_state(&ended, &["completed"]).await;
    wait_for("the webhook of the batch that ended", || hook.told_of(&ended).len() == 1);
    let paused = submit(&client, "paused", PAUSED_ROWS, told()).await;
    wait_for("some of its calls", || doubles.ledger().totals().calls > 100);
    assert_eq!(client.step(&format!("/v1/batches/{paused}/pause")).await.0, StatusCode::OK);
    wait_for("the webhook of the pause", || hook.told_of(&paused).len() == 1);
    let running = submit(&client, "running", ROWS, json!({})).await;
    let settled_before =
        40 + client.wait_for_settled(&paused, 1).await + client.wait_for_settled(&running, 100).await;

    let args = [&["export", "--all", "--out", "all.pmz"], place(from)].concat();
    let exported = desk.promptmill(&args).check_code(0);
    let mode = std::fs::metadata(desk.path("all.pmz")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let left = std::fs::read_dir(desk.path(""))
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains(".partial"));
    assert_eq!(left.count(), 0);
    let outcomes = number_before(&exported.stderr, " outcomes");
    client.wait_for_state(&running, &["completed"]).await;
    // Whatever was told before the export is in the archive, which was written while there was more to do.
    assert!(outcomes >= settled_before, "{outcomes} outcomes, {settled_before} settled before");
    assert!(outcomes < 40 + PAUSED_ROWS + ROWS, "{outcomes} outcomes");
    let there = results(&client, &running).await;
    let ended_there = (client.get(&format!("/v1/batches/{ended}")).await.1, results(&client, &ended).await);
    let settled = client.text(&format!("/v1/batches/{ended}/results?order=settled&limit=1")).await;
    let cursor = serde_json::from_str::<Value>(&settled).unwrap()["cursor"].as_str().unwrap().to_owned();
    let key = stand.key().to_owned();
    stand.stop();

    let calls_there = doubles.ledger().totals().calls;
    let mut elsewhere = Desk::new();
    elsewhere.point_at(&doubles);
    std::fs::copy(desk.path("all.pmz"), elsewhere.path("all.pmz")).unwrap();
    let stand = moved(to, &desk, &mut elsewhere, &key, &exported.stderr);
    let client = stand.client();
    assert_eq!(client.step(&format!("/v1/batches/{paused}/resume")).await.0, StatusCode::OK);
    for (batch, rows) in [(&running, ROWS), (&paused, PAUSED_ROWS)] {
        let view = client.wait_for_state(batch, &["completed"]).await;
        assert_eq!(view["counts"]["succeeded"], rows, "{view}");
        let results = results(&client, batch).await;
        assert!((0..rows).eq(results.iter().map(|line| line["index"].as_u64().unwrap())));
    }
    // Nothing that had its outcome in the archive was called again, and it is the outcome that it was.
    let calls_here = doubles.ledger().totals().calls - calls_there;
    assert_eq!(calls_here + outcomes, 40 + PAUSED_ROWS + ROWS);
    let here = results(&client, &running).await;
    let same = here.iter().zip(&there).filter(|(here, there)| here == there).count() as u64;
    assert!(same + calls_here >= ROWS, "{same} outcomes of {ROWS} are the same after {calls_here} calls");
    let ended_here = (client.get(&format!("/v1/batches/{ended}")).await.1, results(&client, &ended).await);
    assert_eq!(ended_here.1, ended_there.1);
    for field in ["state", "revision", "created_at", "finished_at", "counts", "name"] {
        assert_eq!(ended_here.0[field], ended_there.0[field], "{field}");
    }
    // A place in the order of settling is one of the source alone.
    let path = format!("/v1/batches/{ended}/results?order=settled&after={cursor}");
    let (status, refused) = client.get(&path).await;
    assert_eq!(status, StatusCode::CONFLICT, "{refused}");
    assert!(refused["detail"].as_str().unwrap().ends_with("begin anew"), "{refused}");
    // What was told is not told again, and what happens is, signed with the secret that moved.
    wait_for("the webhook of the batch that went on", || hook.told_of(&paused).len() == 2);
    assert_eq!(hook.told_of(&paused), ["batch.paused", "batch.completed"]);
    assert_eq!(hook.told_of(&ended), ["batch.completed"]);
    stand.stop();
}

/// Imports the archive of one desk at another, and starts the service there.
fn moved(to: Kind, desk: &Desk, elsewhere: &mut Desk, key: &str, exported: &str) -> Stand {
    let args = [&["import", "all.pmz"], place(to)].concat();
    // A fleet of tests has this one.
    let keys = std::fs::read_to_string(desk.path("data/master.key"));
    let keys = keys.unwrap_or_else(|_| format!("test:{}=\n", "A".repeat(43)));
    match to {
        Kind::Embedded => {
            let imported = elsewhere.promptmill(&args).check_code(0);
            assert_eq!(digest(&imported.stderr), digest(exported));
            imported.check_says("master keys that are not here").check_says("; put them into master.key");
            elsewhere.write("data/master.key", &keys);
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(elsewhere.path("data/master.key"), mode).unwrap();
            elsewhere.promptmill(&args).check_code(1).check_says("the store is not empty");
            Stand::Embedded(Server::start(elsewhere, key, &["--webhook-subnets", "127.0.0.0/8"]))
        }
        Kind::Fleet => {
            let servers = Servers::start();
            servers.point_at(elsewhere);
            elsewhere.set("PROMPTMILL_MASTER_KEY", &keys);
            let imported = elsewhere.promptmill(&args).check_code(0);
            assert_eq!(digest(&imported.stderr), digest(exported));
            assert!(!imported.stderr.contains("master keys"), "{}", imported.stderr);
            elsewhere.promptmill(&args).check_code(1).check_says("the store is not empty");
            Stand::Fleet(Box::new(Fleet::with_key(elsewhere, servers, Size::TWO, key)))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_is_restored_from_a_backup_of_it_at_work() {
    an_installation_at_work_is_exported_and_goes_on_elsewhere(Kind::Embedded, Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_at_work_is_exported_and_goes_on_as_a_fleet() {
    an_installation_at_work_is_exported_and_goes_on_elsewhere(Kind::Embedded, Kind::Fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_at_work_is_exported_and_goes_on_as_serve() {
    an_installation_at_work_is_exported_and_goes_on_elsewhere(Kind::Fleet, Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_is_restored_from_a_backup_of_it_at_work() {
    an_installation_at_work_is_exported_and_goes_on_elsewhere(Kind::Fleet, Kind::Fleet).await;
}

/// Every archive of an installation in which batches come, are cut off by the provider's limit, end, are deleted, schedules and row sets too, and drafts
/// get other parts all the while can be imported.
async fn archives_of_a_busy_installation_are_all_whole(kind: Kind) {
    let limited = Weighted { fault: Fault::RateLimited(RetryAfter::Absent), probability: 0.1 };
    let plan = FaultPlan { faults: vec![limited], longest_run: 3, ..FaultPlan::none() };
    let doubles =
        Doubles::start(Config { plan, latency: "5..10".parse().unwrap(), ..Config::default() }).unwrap();
    let mut desk = Desk::new();
    recurring::every_second(&mut desk);
    desk.point_at(&doubles);
    let stand = start(kind, &mut desk);
    let over = Arc::new(AtomicBool::new(false));
    let mut busy = JoinSet::new();
    for n in 0..2 {
        busy.spawn(comes_and_goes(stand.client(), n, over.clone()));
        busy.spawn(changes_its_mind(stand.client(), n, over.clone()));
    }
    busy.spawn(recurring::recurs(stand.client(), over.clone()));
    let client = stand.client();
    let large = submit(&client, "large", ROWS, json!({})).await;
    let mut archives = Vec::new();
    while archives.len() < 5 {
        let name = format!("{}.pmz", archives.len());
        let args = [&["export", "--all", "--out", &name], place(kind)].concat();
        let said = tokio::task::block_in_place(|| desk.promptmill(&args)).check_code(0).stderr;
        archives.push((name, said));
    }
    assert!(archives.iter().any(|(_, said)| !said.contains(" schedules 0,")));
    over.store(true, Ordering::Relaxed);
    busy.join_all().await;
    client.wait_for_state(&large, &["completed"]).await;
    stand.stop();
    let mut gone = 0;
    for (name, said) in archives {
        let folder = format!("of-{name}");
        let imported = desk.promptmill(&["import", &name, "--data", &folder]).check_code(0).stderr;
        assert_eq!(digest(&imported), digest(&said));
        let packed = std::fs::read(desk.path(&name)).unwrap();
        let text = String::from_utf8(zstd::decode_all(&packed[..]).unwrap()).unwrap();
        gone += text.lines().filter(|line| *line == "\"gone\"").count();
    }
    println!("{gone} batches, schedules and row sets changed or went while they were told");
}

/// Single rows, small batches and their deletion.
async fn comes_and_goes(client: Http, n: u32, over: Arc<AtomicBool>) {
    let mut made = VecDeque::new();
    for round in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let rows = if round % 3 == 0 { 40 } else { 1 };
        made.push_back(submit(&client, &format!("{n}-{round}"), rows, json!({})).await);
        if made.len() > 20 {
            let oldest = made.pop_front().unwrap();
            client.wait_for_state(&oldest, &["completed"]).await;
            let deleted = client.delete(&format!("/v1/batches/{oldest}")).await;
            assert_eq!(deleted.0, StatusCode::NO_CONTENT, "{}", deleted.1);
        }
    }
}

/// Drafts whose parts are sent again with other rows, more and fewer, until one is submitted.
async fn changes_its_mind(client: Http, n: u32, over: Arc<AtomicBool>) {
    for round in 0.. {
        let body = json!({"template": template(), "model": "openai:m", "name": format!("draft {n}-{round}")});
        let (status, draft) = client.post("/v1/batches", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{draft}");
        let draft = draft["id"].as_str().unwrap();
        for (part, rows) in [(0, 900), (2, 300), (1, 10), (0, 20), (2, 700), (0, 600)] {
            let row = |at: u32| {
                format!("{}\n", json!({"variables": {"m": format!("{n}-{round}-{part}-{rows}-{at}")}}))
            };
            let put = client.put_rows(draft, part, (0..rows).map(row).collect()).await;
            assert_eq!(put.0, StatusCode::OK, "{}", put.1);
            if over.load(Ordering::Relaxed) {
                return;
            }
        }
        assert_eq!(client.step(&format!("/v1/batches/{draft}/submit")).await.0, StatusCode::OK);
        assert!(client.step(&format!("/v1/batches/{draft}/cancel")).await.0.is_success());
    }
}

fn digest(said: &str) -> String {
    said.split("sha256 ").nth(1).unwrap()[..64].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_of_a_busy_serve_are_all_whole() {
    archives_of_a_busy_installation_are_all_whole(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_of_a_busy_fleet_are_all_whole() {
    archives_of_a_busy_installation_are_all_whole(Kind::Fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_is_told_to_stop_leaves_nothing_behind() {
    let mut desk = Desk::new();
    let server = start(Kind::Embedded, &mut desk);
    let rows: Vec<_> = (0..8_000).map(|n| json!({"variables": {"m": n.to_string()}})).collect();
    let body = json!({"template": template(), "model": "demo:any", "rows": rows});
    let (status, view) = server.client().post("/v1/batches", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{view}");
    server.client().wait_for_state(view["id"].as_str().unwrap(), &["completed"]).await;
    let archives = || {
        let names = std::fs::read_dir(desk.path("")).unwrap().flatten();
        let names = names.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("all.pmz")).collect::<Vec<_>>()
    };
    let stopped = (0..50).any(|_| {
        let mut export = desk.start(&["export", "--all", "--data", "data", "--out", "all.pmz"]);
        wait_for("the file beside, or the end", || !archives().is_empty());
        signal(&export, "-TERM");
        let code = export.wait().unwrap().code();
        // It may have been through already.
        assert!(archives() == if code == Some(0) { vec!["all.pmz"] } else { vec![] }, "{:?}", archives());
        let _ = std::fs::remove_file(desk.path("all.pmz"));
        assert!([Some(0), Some(130)].contains(&code), "{code:?}");
        code == Some(130)
    });
    assert!(stopped, "none of the exports was stopped");
    server.stop();
}

#[tokio::test]
async fn what_cannot_be_exported_or_imported_is_told_in_one_sentence() {
    let desk = Desk::new();
    let cases: [(&[&str], i32, &str); 7] = [
        (&["export", "--out", "a", "--data", "data"], 2, "--all"),
        (&["export", "--all", "--out", "a"], 2, "<--data <DIR>|--fleet>"),
        (&["export", "--all", "--out", "a", "--data", "data"], 1, "there is no store in data"),
        (&["export", "--all", "--out", "a", "--fleet"], 2, "--fleet: PROMPTMILL_MONGO_URL is not set"),
        (&["import", "missing", "--data", "data"], 2, "missing: cannot be read: No such file"),
        (&["import", "other", "--data", "data"], 2, "error: this is no archive of promptmill\n"),
        (&["import", "other", "--fleet"], 2, "error: this is no archive of promptmill\n"),
    ];
    desk.write("other", "{}\n");
    for (args, code, words) in cases {
        desk.promptmill(args).check_code(code).check_says(words);
        assert!(!desk.path("data").exists() && !desk.path("a").exists(), "{args:?}");
    }
    // An archive of one tenant, through a pipe.
    let server = Server::first(&desk);
    desk.promptmill(&["export", "--tenant", "nobody", "--out", "a", "--data", "data"])
        .check_code(2)
        .check_says("there is no tenant nobody");
    let piped = desk.shell(&format!(
        "'{0}' export --tenant default --out - --data data | '{0}' import - --data other-data",
        env!("CARGO_BIN_EXE_promptmill")
    ));
    piped.check_code(0).check_says("imported tenants 1, keys 1, templates 0, batches 0");
    desk.promptmill(&["import", "other", "--data", "data"]).check_code(2);
    server.stop();
}
