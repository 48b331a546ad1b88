//! `promptmill webhook`: what comes is shown and checked on a laptop, and what was given up is tried again.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Command, Stdio};

use bson::doc;
use promptmill_test_servers::free_port;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::chaos::scene::wait_until_it;
use crate::fleet::{Fleet, Servers, Size};
use crate::serve::peers_python;
use crate::server::Http;
use crate::stand::{Kind, Stand, on_both_stands};
use crate::support::{Desk, signal, ticket_template, wait_for};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

on_both_stands! {
    an_endpoint_is_tried_and_is_told_of_every_batch,
    the_official_libraries_take_every_event,
    results_come_with_the_end_or_by_a_link,
    who_an_endpoint_names_is_written_to_when_it_is_switched_off,
    a_receiver_on_a_laptop_shows_and_checks_what_comes_and_what_was_given_up_is_tried_again,
}

/// `promptmill webhook listen` whose output goes to this file of the desk.
pub(crate) struct Listening {
    child: Child,
    pub(crate) url: String,
}

impl Listening {
    pub(crate) fn start(desk: &Desk, secret: &str, more: &[&str], out: &str) -> Self {
        let args = [&["webhook", "listen", "--listen", "127.0.0.1:0", "--secret", secret], more].concat();
        let said = desk.path(&format!("{out}.err"));
        let child = desk
            .command(&args)
            .stdin(Stdio::null())
            .stdout(File::create(desk.path(out)).unwrap())
            .stderr(File::create(&said).unwrap())
            .spawn()
            .unwrap();
        let url = || {
            let said = std::fs::read_to_string(&said).unwrap_or_default();
            said.split_once("at ").and_then(|(_, url)| url.split_once(';')).map(|(url, _)| url.to_owned())
        };
        wait_for("the receiver says where it listens", || url().is_some());
        Self { child, url: url().unwrap() }
    }

    pub(crate) fn stop(mut self) {
        signal(&self.child, "-INT");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

/// A receiver that wants no more, and where it is.
fn gone() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"}") {
                let mut bytes = [0; 4096];
                let n = std::io::Read::read(&mut stream, &mut bytes).unwrap();
                assert!(n > 0, "the request is cut");
                read.extend_from_slice(&bytes[..n]);
            }
            let answer = b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            std::io::Write::write_all(&mut stream, answer).unwrap();
        }
    });
    url
}

/// A mail server that nobody here wrote; its output goes to this file of the desk.
struct MailServer(Child);

impl MailServer {
    fn start(desk: &Desk, port: u16, out: &str) -> Self {
        let listen = format!("127.0.0.1:{port}");
        let args =
            ["-u", "-m", "aiosmtpd", "-n", "-l", &listen, "-c", "aiosmtpd.handlers.Debugging", "stdout"];
        let out = File::create(desk.path(out)).unwrap();
        let child = Command::new(peers_python()).args(args).stdin(Stdio::null()).stdout(out).spawn().unwrap();
        wait_for("the mail server", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self(child)
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn who_an_endpoint_names_is_written_to_when_it_is_switched_off(kind: Kind) {
    let mut desk = Desk::new();
    let port = free_port();
    desk.set("PROMPTMILL_MAIL_URL", &format!("smtp://127.0.0.1:{port}"));
    desk.set("PROMPTMILL_MAIL_FROM", "Promptmill <mill@example.com>");
    let stand = Stand::start(kind, &mut desk);
    desk.set("PROMPTMILL_URL", stand.url());
    desk.set("PROMPTMILL_API_KEY", stand.key());
    let client = stand.client();
    let others = Listening::start(&desk, SECRET, &["--json"], "others.txt");
    let url = format!("{}/hook", others.url);
    desk.promptmill(&["webhook", "add", &url, "--secret", SECRET, "--event", "endpoint.disabled"])
        .check_code(0);
    let receiver = format!("{}?token=hidden", gone());
    let add = ["webhook", "add", &receiver, "--description", "billing", "--email"];
    desk.promptmill(&[&add[..], &["no one"]].concat()).check_code(2).check_says("email: must be one address");
    let made = desk.promptmill(&[&add[..], &["ops@example.com"]].concat()).check_code(0);
    let id = made.stdout.trim();
    let mails = || desk.read("mail.txt").matches("MESSAGE FOLLOWS").count();
    let told = || desk.read("others.txt").lines().count();
    // A mail server that comes later is found by a later try.
    let mut mail = None;
    for round in 1..=2 {
        let body = json!({"template": ticket_template(), "model": "demo:any", "rows": [{"variables": {"n": round}}]});
        assert_eq!(client.post("/v1/batches", &body).await.0, StatusCode::CREATED);
        wait_for("the other endpoint is told", || told() == round);
        mail.get_or_insert_with(|| MailServer::start(&desk, port, "mail.txt"));
        wait_for("the mail arrives", || mails() == 1);
        let request = client.request(Method::PATCH, &format!("/v1/endpoints/{id}"));
        let on = request.header("content-type", "application/json").body(r#"{"enabled": true}"#);
        assert_eq!(on.send().await.unwrap().status(), StatusCode::OK);
    }
    // One on a day.
    assert_eq!((mails(), told()), (1, 2));
    let mail = desk.read("mail.txt");
    for part in [
        "To: ops@example.com",
        "From: Promptmill <mill@example.com>",
        id,
        "(billing)",
        "wants no more events (410)",
        "http://127.0.0.1:",
    ] {
        assert!(mail.contains(part), "{part} is not in {mail}");
    }
    assert!(!mail.contains("hidden") && !mail.contains("/hook"), "{mail}");
    let (_, list) = client.get(&format!("/v1/endpoints/{id}/deliveries")).await;
    let by_mail: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|delivery| delivery["url"] == "mailto:ops@example.com")
        .collect();
    assert_eq!(by_mail.len(), 1, "{list}");
    wait_until_it("is recorded that the mail was taken", async || {
        let (_, list) = client.get(&format!("/v1/endpoints/{id}/deliveries")).await;
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .any(|delivery| delivery["url"] == "mailto:ops@example.com" && delivery["state"] == "delivered")
    })
    .await;
    others.stop();
    stand.stop();
}

async fn results_come_with_the_end_or_by_a_link(kind: Kind) {
    let mut desk = Desk::new();
    if kind == Kind::Fleet {
        desk.set("PROMPTMILL_PUBLIC_URL", "https://mill.example/prompts/");
    }
    let stand = Stand::start(kind, &mut desk);
    desk.set("PROMPTMILL_URL", stand.url());
    desk.set("PROMPTMILL_API_KEY", stand.key());
    let base = if kind == Kind::Fleet { "https://mill.example/prompts" } else { stand.url() };
    let (with, without) = (
        Listening::start(&desk, SECRET, &["--json"], "with.txt"),
        Listening::start(&desk, SECRET, &["--json"], "without.txt"),
    );
    let ends = |file: &str| -> Vec<Value> {
        let events = desk.read(file);
        let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone());
        events.filter(|event| event["type"] == "batch.completed").map(|event| event["data"].clone()).collect()
    };
    let receiver = |of: &Listening| format!("{}/hook", of.url);
    let header = ["--header", "X-Team: a", "--max-per-second", "50", "--results"];
    let add = |url: &str, more: &[&str]| {
        let add = ["webhook", "add", url, "--secret", SECRET, "--event", "batch.completed"];
        desk.promptmill(&[&add, more].concat())
    };
    add(&receiver(&with), &["--header", "no colon"]).check_code(2).check_says("--header must be NAME: VALUE");
    let id = add(&receiver(&with), &header).check_code(0).stdout.trim().to_owned();
    add(&receiver(&without), &[]).check_code(0);
    let client = stand.client();
    let (_, made) = client.get(&format!("/v1/endpoints/{id}")).await;
    assert_eq!(
        (&made["headers"], &made["max_per_second"], &made["results"]),
        (&json!(["x-team"]), &json!(50), &json!(true))
    );

    for rows in [3, 101] {
        let rows: Vec<Value> =
            (0..rows).map(|n| json!({"custom_id": format!("r{n}"), "variables": {"n": n}})).collect();
        let body = json!({"template": ticket_template(), "model": "demo:any", "rows": rows});
        assert_eq!(client.post("/v1/batches", &body).await.0, StatusCode::CREATED);
    }
    wait_for("both are told of both", || ends("with.txt").len() + ends("without.txt").len() == 4);
    let http = reqwest::Client::new();
    for told in ends("with.txt") {
        let batch = told["batch_id"].as_str().unwrap();
        let all = client.text(&format!("/v1/batches/{batch}/results")).await;
        let lines: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = if lines.len() == 3 { json!(lines) } else { Value::Null };
        assert_eq!(told["results"], expected, "{told}");
        // Whoever has the link needs no key, and nobody else has it.
        let link = told["results_url"].as_str().unwrap().strip_prefix(base).unwrap();
        let by_link = http.get(format!("{}{link}", stand.url())).send().await.unwrap();
        assert_eq!(
            (by_link.status(), by_link.headers()["cache-control"].to_str().unwrap()),
            (StatusCode::OK, "private, no-store")
        );
        assert_eq!(by_link.text().await.unwrap(), all);
        let csv = http.get(format!("{}{link}?format=csv&limit=1", stand.url())).send().await.unwrap();
        assert_eq!(csv.text().await.unwrap().lines().count(), 2);
        let mut wrong = link.to_owned();
        wrong.pop();
        let refused = http.get(format!("{}{wrong}", stand.url())).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::NOT_FOUND);
    }
    assert!(
        ends("without.txt")
            .iter()
            .all(|told| told.get("results").is_none() && told["results_url"].is_string())
    );
    with.stop();
    without.stop();
    stand.stop();
}

async fn an_endpoint_is_tried_and_is_told_of_every_batch(kind: Kind) {
    let mut desk = Desk::new();
    let stand = Stand::start(kind, &mut desk);
    desk.set("PROMPTMILL_URL", stand.url());
    desk.set("PROMPTMILL_API_KEY", stand.key());
    let (client, elsewhere) = (stand.client(), stand.elsewhere());
    let listening = Listening::start(&desk, SECRET, &["--json"], "lines.txt");
    let lines = || -> Vec<Value> {
        desk.read("lines.txt").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let url = format!("{}/hook", listening.url);
    let more = ["--secret", SECRET, "--event", "batch.completed", "--description", "billing"];
    let made = desk.promptmill(&[&["webhook", "add", &url], &more[..]].concat()).check_code(0);
    let id = made.stdout.trim();
    let listed = desk.promptmill(&["webhook", "list"]).check_code(0).stdout;
    assert_eq!(listed, format!("{id}  on              {url}  batch.completed  billing\n"));
    let (_, endpoint) = client.get(&format!("/v1/endpoints/{id}")).await;
    let path = format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap());

    let (status, tried) = elsewhere.step(&format!("{path}/test")).await;
    assert_eq!(
        (status, &tried["taken"], &tried["status"]),
        (StatusCode::OK, &json!(true), &json!(204)),
        "{tried}"
    );
    assert_eq!((&lines()[0]["event"]["type"], &lines()[0]["id"]), (&json!("ping"), &tried["event_id"]));
    // As docs/events/ping.schema.json has it.
    assert_eq!(lines()[0]["event"]["data"], json!({"endpoint_id": endpoint["id"]}));

    // Batches without a webhook of their own, of another api, however small.
    let mut batches = Vec::new();
    for rows in [1, 3, 600] {
        let rows: Vec<Value> = (0..rows).map(|n| json!({"variables": {"n": n}})).collect();
        let body = json!({"template": ticket_template(), "model": "demo:any", "rows": rows});
        let (status, batch) = elsewhere.post("/v1/batches", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{batch}");
        batches.push(batch["id"].clone());
    }
    wait_for("the endpoint is told of all of them", || lines().len() > 3);
    let told: Vec<_> = lines()[1..].to_vec();
    assert!(told.iter().all(|line| line["verified"] == true && line["again"] == false), "{told:?}");
    for batch in &batches {
        let of_it = told.iter().filter(|line| line["event"]["data"]["batch_id"] == *batch);
        assert_eq!(of_it.map(|line| line["event"]["type"].clone()).collect::<Vec<_>>(), ["batch.completed"]);
    }
    let (_, list) = client.get(&format!("{path}/deliveries")).await;
    let ids: Vec<_> =
        list["data"].as_array().unwrap().iter().map(|delivery| &delivery["endpoint_id"]).collect();
    assert_eq!(ids, [&endpoint["id"]; 3]);

    // One that checks by a public key alone, and goes on with the old one when there is a new one.
    let nowhere = ["webhook", "add", "http://127.0.0.1:9/hook", "--ed25519", "--json"];
    let made: Value = serde_json::from_str(&desk.promptmill(&nowhere).check_code(0).stdout).unwrap();
    let keyed = made["id"].as_str().unwrap();
    let public = made["public_key"].as_str().unwrap();
    assert!(public.starts_with("whpk_") && made["secret"].as_str().unwrap().starts_with("whsec_"), "{made}");
    let checking = Listening::start(&desk, public, &["--json"], "keyed.txt");
    let path = format!("/v1/endpoints/{keyed}");
    let request = client.request(Method::PATCH, &path).header("content-type", "application/json");
    let moved =
        request.body(json!({"url": format!("{}/hook", checking.url)}).to_string()).send().await.unwrap();
    assert_eq!(moved.status(), StatusCode::OK);
    desk.promptmill(&["webhook", "test", keyed]).check_code(0);
    desk.promptmill(&["webhook", "rotate", keyed]).check_code(0).check_says("are checked by whpk_");
    desk.promptmill(&["webhook", "test", keyed]).check_code(0);
    assert_ne!(elsewhere.get(&path).await.1["public_key"], made["public_key"]);
    desk.promptmill(&["webhook", "rotate", keyed, "--ed25519", "false", "--grace", "0"]).check_code(0);
    desk.promptmill(&["webhook", "test", keyed]).check_code(1);
    let verified: Vec<Value> =
        desk.read("keyed.txt").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        verified.iter().map(|line| &line["verified"]).collect::<Vec<_>>(),
        [&json!(true), &json!(true), &json!(false)]
    );
    desk.promptmill(&["webhook", "remove", keyed]).check_code(0);
    checking.stop();

    // Headers of its own, whose values nobody is shown.
    let heads = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own =
        json!({"url": format!("http://{}/", heads.local_addr().unwrap()), "headers": {"X-Tenant": "zürich"}});
    let (status, refused) = client.post("/v1/endpoints", &own).await;
    assert_eq!(
        (status, &refused["errors"][0]["pointer"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("/headers"))
    );
    let own = json!({"url": own["url"], "headers": {"X-Tenant": "zurich", "Authorization": "Bearer t0ken"}});
    let (_, made) = client.post("/v1/endpoints", &own).await;
    assert_eq!(
        (&made["headers"], made.to_string().contains("t0ken")),
        (&json!(["authorization", "x-tenant"]), false)
    );
    let path = format!("/v1/endpoints/{}", made["id"].as_str().unwrap());
    let test = format!("{path}/test");
    let (head, tried) = tokio::join!(
        async {
            let mut head = vec![0; 8_192];
            let (mut stream, _) = heads.accept().await.unwrap();
            let read = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&head[..read]).into_owned()
        },
        elsewhere.step(&test)
    );
    assert_eq!(tried.1["taken"], true, "{}", tried.1);
    assert!(
        head.contains("\r\nx-tenant: zurich\r\n") && head.contains("\r\nauthorization: Bearer t0ken\r\n"),
        "{head}"
    );
    let request = client.request(Method::PATCH, &path).header("content-type", "application/json");
    let without = request.body(r#"{"headers": {}}"#).send().await.unwrap().text().await.unwrap();
    let without: Value = serde_json::from_str(&without).unwrap();
    assert_eq!(without["headers"], json!([]));
    assert_eq!(client.request(Method::DELETE, &path).send().await.unwrap().status(), StatusCode::NO_CONTENT);

    // One that nobody listens at is told so at once.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_, other) = client.post("/v1/endpoints", &json!({"url": format!("http://{nobody}/")})).await;
    let other = other["id"].as_str().unwrap();
    let tried = desk.promptmill(&["webhook", "test", other]).check_code(1);
    assert!(tried.stdout.starts_with("not taken: no connection could be opened after "), "{}", tried.stdout);
    let rotated =
        desk.promptmill(&["webhook", "rotate", id]).check_code(0).check_says("events are signed with whsec_");
    assert_eq!(rotated.stdout.trim(), id);
    // The receiver goes on with the old secret, which is signed with, too.
    let tried = desk.promptmill(&["webhook", "test", id]).check_code(0).stdout;
    assert!(tried.starts_with("taken: answered 204 after "), "{tried}");
    desk.promptmill(&["webhook", "remove", other]).check_code(0);
    desk.promptmill(&["webhook", "remove", other]).check_code(2);
    listening.stop();
    stand.stop();
}

/// A receiver that nobody here wrote the checks of. It refuses the first try of each event.
struct Peer {
    child: Child,
    out: &'static str,
}

impl Peer {
    fn start(desk: &Desk, program: &str, args: &[&str], port: u16, out: &'static str) -> Self {
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(File::create(desk.path(out)).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; run the tests by ./check"));
        wait_for("the peer", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, out }
    }

    /// What came, by the id of the event.
    fn came(&self, desk: &Desk) -> BTreeMap<String, Vec<Value>> {
        let mut came: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for line in desk.read(self.out).lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            came.entry(line["id"].as_str().unwrap().to_owned()).or_default().push(line);
        }
        came
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// At the first try and at the second, and while secrets and keys change.
async fn the_official_libraries_take_every_event(kind: Kind) {
    let npm = std::env::var("PROMPTMILL_TEST_NPM")
        .expect("PROMPTMILL_TEST_NPM names the folder of the Node packages; run the tests by ./check");
    let mut desk = Desk::new();
    let stand = Stand::start(kind, &mut desk);
    let (client, elsewhere) = (stand.client(), stand.elsewhere());
    let [for_node, for_python] = [free_port(), free_port()];
    let add = async |port: u16, more: Value| {
        let mut body = json!({"url": format!("http://127.0.0.1:{port}/hook"), "secret": SECRET});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, endpoint) = client.post("/v1/endpoints", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{endpoint}");
        endpoint
    };
    let (keyed, plain) = (add(for_node, json!({"ed25519": true})).await, add(for_python, json!({})).await);
    let peers = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers");
    let library = format!("{npm}/node_modules/standardwebhooks");
    let public = keyed["public_key"].as_str().unwrap();
    let (script, port) = (format!("{peers}/receiver.mjs"), for_node.to_string());
    let node = Peer::start(&desk, "node", &[&script, &library, &port, SECRET, public], for_node, "node.txt");
    let (script, port) = (format!("{peers}/receiver.py"), for_python.to_string());
    let python = Peer::start(&desk, &peers_python(), &[&script, &port, SECRET], for_python, "python.txt");

    let run = async || {
        let body = json!({"template": ticket_template(), "model": "demo:any", "name": "é", "rows": [{"variables": {"n": 1}}]});
        assert_eq!(elsewhere.post("/v1/batches", &body).await.0, StatusCode::CREATED);
    };
    run().await;
    wait_for("the first event", || !node.came(&desk).is_empty() && !python.came(&desk).is_empty());
    // The peers go on with the old secret and the old key.
    for endpoint in [&keyed, &plain] {
        let path = format!("/v1/endpoints/{}/secret", endpoint["id"].as_str().unwrap());
        assert_eq!(elsewhere.post(&path, &json!({})).await.0, StatusCode::OK);
    }
    run().await;
    for peer in [&node, &python] {
        wait_for("both events, each twice", || {
            let came = peer.came(&desk);
            came.len() == 2 && came.values().all(|tries| tries.len() >= 2)
        });
        for tries in peer.came(&desk).values() {
            assert!(
                tries
                    .iter()
                    .all(|tried| tried["type"] == "batch.completed" && tried["body"] == tries[0]["body"]),
                "{tries:?}"
            );
            let at = |tried: &Value| tried["timestamp"].as_str().unwrap().parse::<u64>().unwrap();
            assert!(at(&tries[1]) > at(&tries[0]), "each try has its own time: {tries:?}");
        }
    }
    assert!(node.came(&desk).values().flatten().all(|tried| tried["by_key"] == true));
    stand.stop();
}

async fn a_receiver_on_a_laptop_shows_and_checks_what_comes_and_what_was_given_up_is_tried_again(kind: Kind) {
    let mut desk = Desk::new();
    let stand = Stand::start(kind, &mut desk);
    desk.set("PROMPTMILL_URL", stand.url());
    desk.set("PROMPTMILL_API_KEY", stand.key());
    let client = stand.client();
    let run = async |url: &str| {
        let body = json!({
            "template": ticket_template(), "model": "demo:any", "rows": [{"variables": {"n": 1}}],
            "webhook_url": format!("{url}/hook"), "webhook_secret": SECRET,
        });
        let (status, batch) = client.post("/v1/batches", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{batch}");
        batch["id"].as_str().unwrap().to_owned()
    };
    let delivery = async |batch: &str, tries: usize| {
        loop {
            let (_, list) = client.get(&format!("/v1/batches/{batch}/deliveries")).await;
            let delivery = list["data"][0].clone();
            if delivery["attempts"].as_array().is_some_and(|attempts| attempts.len() >= tries) {
                return delivery;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };

    let listening = Listening::start(&desk, SECRET, &[], "plain.txt");
    let batch = run(&listening.url).await;
    let taken = delivery(&batch, 1).await;
    assert_eq!((&taken["state"], &taken["attempts"][0]["status"]), (&json!("delivered"), &json!(204)));
    let event = taken["event_id"].as_str().unwrap();
    let shown = desk.read("plain.txt");
    let end = format!(" batch.completed {batch} 1/1 {event} (verified)\n");
    assert!(shown.ends_with(&end), "{shown:?} does not end with {end:?}");

    // Again, although it was taken.
    let id = taken["id"].as_str().unwrap();
    desk.promptmill(&["webhook", "replay", id]).check_code(0);
    let again = delivery(&batch, 2).await;
    assert_eq!((&again["state"], &again["id"]), (&json!("delivered"), &taken["id"]));
    let shown = desk.read("plain.txt");
    assert!(shown.ends_with(&format!("{event} (verified, again)\n")), "{shown:?}");
    listening.stop();

    // Who signs otherwise is refused.
    let listening = Listening::start(&desk, OTHER, &["--json"], "lines.txt");
    let batch = run(&listening.url).await;
    let refused = delivery(&batch, 1).await;
    assert_eq!((&refused["state"], &refused["attempts"][0]["status"]), (&json!("pending"), &json!(400)));
    let line: Value = serde_json::from_str(desk.read("lines.txt").lines().next().unwrap()).unwrap();
    assert_eq!((&line["verified"], &line["again"]), (&json!(false), &json!(false)));
    assert_eq!((&line["id"], &line["event"]["data"]["batch_id"]), (&refused["event_id"], &json!(batch)));
    assert_eq!(line["problem"], "no signature of it is made with this secret or key");
    let http = reqwest::Client::new();
    assert_eq!(http.get(&listening.url).send().await.unwrap().status(), 405);
    let large = http.post(&listening.url).body(vec![b'x'; 2 * 1024 * 1024]).send().await.unwrap();
    assert_eq!(large.status(), 413);
    listening.stop();

    // Nothing of this tenant was given up; nobody else's delivery is there.
    desk.promptmill(&["webhook", "replay", "--since", "2026-01-01T00:00:00Z"]).check_code(0);
    let (status, _) = client.step(&format!("/v1/deliveries/dlv_{:032x}/replay", 1)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    desk.promptmill(&["webhook", "replay"]).check_code(2);
    desk.promptmill(&["webhook", "replay", "--since", "yesterday"]).check_code(2).check_says("/since");
    desk.promptmill(&["webhook", "listen", "--secret", "whsec_short"]).check_code(2).check_says("--secret");
    stand.stop();
}

/// A batch and an endpoint that no process can read cost those of others nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_holds_up_nobody_elses_events() {
    let mut desk = Desk::new();
    let servers = Servers::start();
    servers.point_at(&mut desk);
    let [key, other] = ["default", "other"].map(|tenant| Fleet::new_key(&desk, tenant));
    let mut fleet = Fleet::with_key(&desk, servers, Size::ONE, &key);
    let [client, other] = [fleet.client(), Http::new(&fleet.apis[0].url, &other)];
    let peers = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers");
    let port = free_port();
    let args = [&format!("{peers}/receiver.py"), &port.to_string(), SECRET];
    let peer = Peer::start(&desk, &peers_python(), &args, port, "peer.txt");
    let endpoint = json!({"url": format!("http://127.0.0.1:{port}/hook"), "secret": SECRET});
    let mut endpoints = Vec::new();
    for tenant in [&client, &other] {
        let (status, made) = tenant.post("/v1/endpoints", &endpoint).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        endpoints.push(made["id"].as_str().unwrap().to_owned());
    }
    let queued = async |tenant: &Http| {
        let rows = [1, 2].map(|n| json!({"variables": {"n": n}}));
        let body = json!({"template": ticket_template(), "model": "demo:any", "rows": rows});
        tenant.post("/v1/batches", &body).await.1["id"].as_str().unwrap().to_owned()
    };
    // A try of each, which the peer refused, and which is due in some seconds.
    for tenant in [&client, &other] {
        queued(tenant).await;
    }
    let deliveries = async |tenant: &Http, endpoint: &str| {
        tenant.get(&format!("/v1/endpoints/{endpoint}/deliveries")).await.1["data"]
            .as_array()
            .unwrap()
            .clone()
    };
    let tried = async |tenant: &Http, endpoint: &str| {
        wait_until_it("a try", async || {
            deliveries(tenant, endpoint)
                .await
                .first()
                .is_some_and(|first| !first["attempts"].as_array().unwrap().is_empty())
        })
        .await;
        deliveries(tenant, endpoint).await[0]["id"].as_str().unwrap().to_owned()
    };
    let due = [tried(&client, &endpoints[0]).await, tried(&other, &endpoints[1]).await];
    fleet.schedulers[0].kill();
    // Both are due at once, the damaged one first, and in the outbox the event of a damaged batch is the first.
    let step = async |tenant: &Http, path: String| assert_eq!(tenant.step(&path).await.0, StatusCode::OK);
    step(&other, format!("/v1/deliveries/{}/replay", due[1])).await;
    step(&client, format!("/v1/deliveries/{}/replay", due[0])).await;
    let (damaged, sound) = (queued(&other).await, queued(&client).await);
    step(&other, format!("/v1/batches/{damaged}/pause")).await;
    step(&client, format!("/v1/batches/{sound}/pause")).await;
    let id = |text: &str| {
        let (_, digits) = text.split_once('_').unwrap();
        let bytes = u128::from_str_radix(digits, 16).unwrap().to_be_bytes().to_vec();
        bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes }
    };
    let damage = |collection: &str, of: &str, field: &str| {
        let change = doc! { "q": { "_id": id(of) }, "u": { "$set": { field: "{" } } };
        let done = fleet.servers.database().command(doc! { "update": collection, "updates": [change] });
        assert_eq!(done.get_i32("nModified").unwrap(), 1, "{done}");
    };
    damage("batches", &damaged, "spec");
    damage("endpoints", &endpoints[1], "endpoint");
    fleet.schedulers[0].restart(&desk);
    wait_until_it("both events of the other tenant", async || {
        let all = deliveries(&client, &endpoints[0]).await;
        all.len() == 2 && all.iter().all(|delivery| delivery["state"] == "delivered")
    })
    .await;
    assert!(peer.came(&desk).len() >= 2);
    assert!(
        !fleet.schedulers[0].has_said(&["a step of the deliveries failed"]),
        "it was more than one that waited"
    );
}
