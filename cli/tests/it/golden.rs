//! Data of releases: what one of them wrote is kept in `cli/tests/golden/VERSION`, and this program opens it, finds all of it and goes on with it.
//!
//! `tools/golden.sh` writes that of the program as it is now, once for each release; it runs [`embedded::written`] and [`fleet::written`] with
//! `PROMPTMILL_GOLDEN`, the folder. Of each store there is the data itself (`.gz`), its archive (`.pmz`), and what is to be known of it (`.json`).

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use bson::{Bson, Document, doc};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use promptmill_doubles::{Config, Doubles, Fault, FaultPlan};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::chaos::scene::{template, wait_until_it};
use crate::fleet::{Fleet, Servers, Size};
use crate::server::{Http, Server};
use crate::stand::{Kind, Stand};
use crate::support::Desk;

/// Rows of the batch that is paused.
const PAUSED_ROWS: u32 = 300;

/// The data of a release in one kind of store.
struct Golden {
    folder: PathBuf,
    kind: Kind,
}

impl Golden {
    fn file(&self, ending: &str) -> PathBuf {
        let kind = match self.kind {
            Kind::Embedded => "embedded",
            Kind::Fleet => "fleet",
        };
        self.folder.join(format!("{kind}.{ending}"))
    }

    /// Makes it with this program.
    async fn write(&self) {
        fs::create_dir_all(&self.folder).unwrap();
        let (doubles, mut desk) = desk();
        let stand = Stand::start(self.kind, &mut desk);
        let batches = live(&doubles, &stand.client()).await;
        let known = json!({ "key": stand.key(), "batches": batches });
        fs::write(self.file("json"), format!("{known:#}\n")).unwrap();
        let data = match stand {
            Stand::Embedded(server) => {
                assert_eq!(server.stop().0, Some(0));
                self.export(&desk);
                let tar =
                    Command::new("tar").args(["-c", "data"]).current_dir(desk.path("")).output().unwrap();
                assert!(tar.status.success());
                tar.stdout
            }
            Stand::Fleet(mut fleet) => {
                fleet.stop();
                self.export(&desk);
                dump(&fleet.servers)
            }
        };
        fs::copy(desk.path("all.pmz"), self.file("pmz")).unwrap();
        let mut packed = GzEncoder::new(File::create(self.file("gz")).unwrap(), Compression::best());
        packed.write_all(&data).unwrap();
        packed.finish().unwrap();
    }

    fn place(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Embedded => &["--data", "data"],
            Kind::Fleet => &["--fleet"],
        }
    }

    /// Exports the store; answers the digest.
    fn export(&self, desk: &Desk) -> String {
        let args = [&["export", "--all", "--out", "all.pmz"], self.place()].concat();
        digest(&desk.promptmill(&args).check_code(0).stderr)
    }

    /// Puts the data where this program looks for it.
    fn restore(&self, desk: &mut Desk) -> Option<Servers> {
        let mut data = Vec::new();
        GzDecoder::new(File::open(self.file("gz")).unwrap()).read_to_end(&mut data).unwrap();
        match self.kind {
            Kind::Embedded => {
                fs::write(desk.path("data.tar"), data).unwrap();
                let mut tar = Command::new("tar");
                assert!(
                    tar.args(["-x", "-f", "data.tar"]).current_dir(desk.path("")).status().unwrap().success()
                );
                None
            }
            Kind::Fleet => {
                let servers = Servers::start();
                fill(&servers, &data);
                servers.point_at(desk);
                Some(servers)
            }
        }
    }

    /// All of it is found, and what was not over goes on.
    async fn check(&self) {
        let known: Value = serde_json::from_str(&fs::read_to_string(self.file("json")).unwrap()).unwrap();
        let key = known["key"].as_str().unwrap();
        let (_doubles, mut desk) = desk();
        let servers = self.restore(&mut desk);
        // Whoever opens it brings it forward; and a key is there for good.
        let keys = [&["key", "list", "--json"], self.place()].concat();
        assert_eq!(desk.promptmill(&keys).check_code(0).stdout.lines().count(), 2);
        assert_eq!(self.export(&desk), self.import_elsewhere(Kind::Embedded));
        assert_eq!(self.export(&desk), self.import_elsewhere(Kind::Fleet));
        let stand = match servers {
            None => Stand::Embedded(Server::again(&desk, key)),
            Some(servers) => Stand::Fleet(Box::new(Fleet::with_key(&desk, servers, Size::TWO, key))),
        };
        // What is kept for a time only is gone by now, and the rest is there.
        let client = stand.client();
        let (status, second) = client.get("/v1/templates/golden/versions/2").await;
        assert_eq!(
            (status, &second["template"]["description"]),
            (StatusCode::OK, &"the second version".into())
        );
        let paused = known["batches"]["paused"].as_str().unwrap();
        assert_eq!(client.step(&format!("/v1/batches/{paused}/resume")).await.0, StatusCode::OK);
        let view = client.wait_for_state(paused, &["completed"]).await;
        assert_eq!(view["counts"]["succeeded"], PAUSED_ROWS, "{view}");
        let results = client.text(&format!("/v1/batches/{paused}/results")).await;
        assert_eq!(results.lines().count(), PAUSED_ROWS as usize);
        // Its end is told: signed, since nothing fails but the connection.
        let told = ("batch.completed".to_owned(), "no connection could be opened".to_owned());
        wait_until_it("its end to be told", async || tried(&client, paused).await.contains(&told)).await;
        stand.stop();
    }

    /// Imports the archive of the release into a store of that kind; answers the digest.
    fn import_elsewhere(&self, kind: Kind) -> String {
        let mut desk = Desk::new();
        fs::copy(self.file("pmz"), desk.path("all.pmz")).unwrap();
        let target = Self { folder: PathBuf::new(), kind };
        let servers = (kind == Kind::Fleet).then(Servers::start);
        if let Some(servers) = &servers {
            servers.point_at(&mut desk);
        }
        let args = [&["import", "all.pmz"], target.place()].concat();
        digest(&desk.promptmill(&args).check_code(0).stderr)
    }

    /// A store that a later release has brought forward is refused, and stays as it is.
    fn check_downgrade(&self) {
        let (_doubles, mut desk) = desk();
        let servers = self.restore(&mut desk);
        let later = 99;
        match &servers {
            None => {
                let python = "import sqlite3, sys; d = sqlite3.connect('data/promptmill.db'); d.execute('PRAGMA user_version = 99'); d.commit()";
                desk.shell(&format!("python3 -c \"{python}\"")).check_code(0);
            }
            Some(servers) => {
                let version = doc! { "$set": { "version": i64::from(later) } };
                let update = doc! { "q": { "_id": "schema" }, "u": version };
                let reply = servers.database().command(doc! { "update": "meta", "updates": [update] });
                assert_eq!(reply.get("nModified").and_then(Bson::as_i32), Some(1), "{reply}");
            }
        }
        let words = format!("the database has schema version {later}, this promptmill knows up to ");
        let serve: &[&str] = match self.kind {
            Kind::Embedded => {
                &["serve", "--data", "data", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
            }
            Kind::Fleet => &["scheduler", "--metrics-listen", "127.0.0.1:0"],
        };
        for args in [serve, &[&["key", "list"], self.place()].concat()] {
            let refused = desk.promptmill(args).check_code(1);
            assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
            refused.check_says(&words).check_says("; use a newer promptmill");
        }
    }
}

/// A provider that filters five rows, and a desk that knows it.
fn desk() -> (Doubles, Desk) {
    let plan = (0..5).fold(FaultPlan::none(), |plan, n| plan.always_for(format!("bad-{n}"), Fault::Filtered));
    let doubles =
        Doubles::start(Config { plan, latency: "5..10".parse().unwrap(), ..Config::default() }).unwrap();
    let mut desk = Desk::new();
    desk.point_at(&doubles);
    (doubles, desk)
}

fn digest(said: &str) -> String {
    said.split("sha256 ").nth(1).unwrap_or_else(|| panic!("no digest in {said:?}"))[..64].to_owned()
}

/// Everything that a store keeps: a template of two versions, a generation, a revoked key, requests with an idempotency key, and a batch in each
/// state that stays. Answers the ids of the batches.
async fn live(doubles: &Doubles, client: &Http) -> Value {
    let mut stored = template();
    stored["name"] = "golden".into();
    assert_eq!(client.post("/v1/templates", &stored).await.0, StatusCode::CREATED);
    stored["description"] = "the second version".into();
    let second = client.post("/v1/templates/golden/versions", &stored).await;
    assert_eq!(second.0, StatusCode::CREATED, "{}", second.1);
    let generation = json!({"template": "golden", "model": "openai:m", "variables": {"m": "one"}});
    let (status, begun) = keyed(client, "/v1/generations", "one", &generation).await;
    assert!(status.is_success(), "{begun}");
    let begun = format!("/v1/generations/{}", begun["id"].as_str().unwrap());
    wait_until_it("the generation to end", async || client.get(&begun).await.1["state"] == "succeeded").await;
    let key = client.post("/v1/keys", &json!({"name": "gone", "role": "member"})).await;
    assert_eq!(key.0, StatusCode::CREATED, "{}", key.1);
    let revoked = client.delete(&format!("/v1/keys/{}", key.1["id"].as_str().unwrap())).await;
    assert_eq!(revoked.0, StatusCode::NO_CONTENT);

    let rows = |names: Vec<String>| -> Value {
        let row = |name: &String| json!({"custom_id": name, "variables": {"m": name}});
        names.iter().map(row).collect()
    };
    let created = async |name: &str, more: Value| {
        let mut body =
            json!({"template": "golden", "model": "openai:m", "name": name, "metadata": {"order": "7"}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, view) = keyed(client, "/v1/batches", name, &body).await;
        assert_eq!(status, StatusCode::CREATED, "{view}");
        view["id"].as_str().unwrap().to_owned()
    };
    let single = created("single", json!({"rows": rows(vec!["single".to_owned()])})).await;
    let well =
        json!({"rows": rows((0..40).map(|n| format!("id-{n}")).collect()), "labels": {"team": "golden"}});
    let well = created("all well", well).await;
    let bad = (0..5).flat_map(|n| [format!("bad-{n}"), format!("good-{n}")]).collect();
    let failed = created("failed", json!({"rows": rows(bad)})).await;
    let draft = created("draft", json!({})).await;
    let lines: String =
        (0..20).map(|n| format!("{}\n", json!({"variables": {"m": n.to_string()}}))).collect();
    assert_eq!(client.put_rows(&draft, 3, lines).await.0, StatusCode::OK);
    for batch in [&single, &well, &failed] {
        client.wait_for_state(batch, &["completed"]).await;
    }
    let many = |of: &str| rows((0..PAUSED_ROWS).map(|n| format!("{of}-{n}")).collect());
    let mut half = Vec::new();
    for step in ["pause", "cancel"] {
        let before = doubles.ledger().totals().calls;
        // Nobody listens there, so what is told of it waits, too.
        let told =
            json!({"rows": many(step), "max_concurrency": 4, "webhook_url": "http://127.0.0.1:9/hook"});
        let batch = created(step, told).await;
        crate::support::wait_for("some calls", || doubles.ledger().totals().calls > before + 30);
        assert!(client.step(&format!("/v1/batches/{batch}/{step}")).await.0.is_success());
        half.push(batch);
    }
    wait_until_it("the paused one to be at rest", async || {
        client.get(&format!("/v1/batches/{}", half[0])).await.1["counts"]["leased"] == 0
    })
    .await;
    client.wait_for_state(&half[1], &["cancelled"]).await;
    for batch in &half {
        wait_until_it("an event to have been tried", async || tried(client, batch).await.len() == 1).await;
    }
    json!({ "single": single, "well": well, "failed": failed, "draft": draft, "paused": half[0], "cancelled": half[1] })
}

/// What is told in the deliveries of a batch that were tried, and what the last try came to.
async fn tried(client: &Http, batch: &str) -> Vec<(String, String)> {
    let (status, list) = client.get(&format!("/v1/batches/{batch}/deliveries")).await;
    assert_eq!(status, StatusCode::OK, "{list}");
    let deliveries = list["data"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let last = deliveries.filter_map(|delivery| {
        let attempt = delivery["attempts"].as_array().unwrap().last()?;
        Some((text(&delivery["type"]), text(&attempt["error"])))
    });
    last.collect()
}

async fn keyed(client: &Http, path: &str, key: &str, body: &Value) -> (StatusCode, Value) {
    let request = client.request(Method::POST, path).header("content-type", "application/json");
    let request = request.header("idempotency-key", format!("golden {key}"));
    let answer = request.body(body.to_string()).send().await.unwrap();
    let status = answer.status();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

/// Every index and every document of the database, each with its collection.
fn dump(servers: &Servers) -> Vec<u8> {
    let mut data = Vec::new();
    for (collection, index) in servers.indexes() {
        doc! { "in": collection, "index": index }.to_writer(&mut data).unwrap();
    }
    for (collection, document) in servers.documents() {
        doc! { "in": collection, "document": document }.to_writer(&mut data).unwrap();
    }
    data
}

fn fill(servers: &Servers, mut data: &[u8]) {
    while !data.is_empty() {
        let one = Document::from_reader(&mut data).unwrap();
        let collection = one.get_str("in").unwrap();
        if let Some(index) = one.get("index").cloned() {
            servers.database().command(doc! { "createIndexes": collection, "indexes": [index] });
            continue;
        }
        let documents = vec![one.get("document").cloned().unwrap()];
        let reply = servers.database().command(doc! { "insert": collection, "documents": documents });
        assert_eq!(reply.get("n").and_then(Bson::as_i32), Some(1), "{reply}");
    }
}

/// The folders of all releases.
fn releases() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut releases: Vec<_> = fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    releases.sort_unstable();
    let this = env!("CARGO_PKG_VERSION");
    assert!(
        releases.iter().any(|release| release.ends_with(this)),
        "there is no data of {this}; run tools/golden.sh"
    );
    releases
}

macro_rules! on_store {
    ($name:ident, $kind:expr) => {
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn what_every_release_wrote_is_found_and_gone_on_with() {
                for folder in releases() {
                    Golden { folder, kind: $kind }.check().await;
                }
            }

            #[test]
            fn what_a_later_release_brought_forward_is_refused() {
                let folder = releases().pop().unwrap();
                Golden { folder, kind: $kind }.check_downgrade();
            }

            /// Not a test but the half of `tools/golden.sh`.
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "tools/golden.sh runs it once for a release"]
            async fn written() {
                let folder = std::env::var("PROMPTMILL_GOLDEN").unwrap().into();
                Golden { folder, kind: $kind }.write().await;
            }
        }
    };
}

on_store!(embedded, Kind::Embedded);
on_store!(fleet, Kind::Fleet);
