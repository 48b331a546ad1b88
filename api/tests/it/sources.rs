//! Rows of schedules from a server and from the run before, and what a schedule runs changed, from outside.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::HeaderMap;
use axum::response::IntoResponse as _;
use axum::routing::get;
use promptmill_api::ApiConfig;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::desk::{self, rows};
use crate::schedules::{batch, change, made, newest, wish, working};
use crate::support::{Answer, Options, Service, send, wait_for};

/// A server of rows on loopback, and what it was asked with.
struct Rows {
    base: String,
    asked: Arc<Mutex<Vec<BTreeMap<String, String>>>>,
}

impl Rows {
    async fn start() -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = asked.clone();
        let topics = async move |headers: HeaderMap| {
            let told =
                headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
            kept.lock().unwrap().push(told.collect());
            ([("content-type", "text/csv"), ("etag", "\"1\"")], "custom_id,topic\na,one\nb,two\n")
        };
        let large = || {
            let rows: String = (0..200_000).map(|n| format!("{{\"topic\":\"topic {n}\"}}\n")).collect();
            async { ([("content-type", "application/jsonl")], rows) }
        };
        let router = Router::new()
            .route("/topics", get(topics))
            .route("/topics.csv", get(async || "topic\none\n"))
            .route("/plain", get(async || "topic\none\n"))
            .route("/empty.jsonl", get(async || ""))
            .route("/towns.csv", get(async || "town\nBern\n"))
            .route("/gone", get(async || axum::http::StatusCode::GONE.into_response()))
            .route("/large", get(large));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, router).await });
        Self { base, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

/// A schedule with rows from elsewhere.
fn from(rows_from: &Value) -> Value {
    let batch = desk::body(json!({"model": "demo:any"}));
    wish(json!({"rows_from": rows_from, "batch": batch}))
}

/// Runs it now; answers the tick when the run has ended.
async fn run(service: &Service, id: &str) -> Value {
    let run = service.post(&format!("/v1/schedules/{id}/run"), &json!({})).await;
    let at = run.expect(202)["at"].clone();
    wait_for("the run that was asked for ends", async || {
        let tick = newest(service, id, "ended").await;
        (tick["at"] == at).then_some(tick)
    })
    .await
}

/// The items of a tick's batch.
async fn items(service: &Service, tick: &Value) -> Vec<Value> {
    let mut items = Vec::new();
    for index in 0..tick["batch"]["rows"].as_u64().unwrap() {
        let url = format!("{}/items/{index}", tick["batch"]["url"].as_str().unwrap());
        items.push(service.get(&url).await.expect(200).clone());
    }
    items
}

#[track_caller]
fn refused(answer: &Answer) -> (String, String) {
    let problem = answer.problem(422, "invalid");
    let error = &problem["errors"][0];
    (error["pointer"].as_str().unwrap().to_owned(), error["detail"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn rows_of_a_server_are_read_at_each_run() {
    let (service, server) = (working().await, Rows::start().await);
    let headers = json!({"Authorization": "Bearer secret", "X-Team": "a"});
    let answer = service
        .post("/v1/schedules", &from(&json!({"url": server.url("/topics"), "headers": headers})))
        .await;
    let id = made(&answer);
    let shown = json!({
        "row_set": null, "version": null, "url": server.url("/topics"), "format": null,
        "headers": ["authorization", "x-team"], "previous_run": null,
    });
    assert_eq!(answer.json["rows_from"], shown);
    for _ in 0..2 {
        let tick = run(&service, &id).await;
        assert_eq!((&tick["batch"]["rows"], &tick["batch"]["succeeded"]), (&json!(2), &json!(2)));
    }
    // What runs with them is another thing, which does not fit.
    let town = json!({"name": "a", "messages": [{"role": "user", "content": "{{ town }}?"}]});
    let unfit = change(&service, &id, &json!({"batch": {"template": town, "model": "demo:any"}})).await;
    unfit.problem(422, "invalid_rows");
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|asked| asked["authorization"] == "Bearer secret" && asked["x-team"] == "a"));
    let tags: Vec<_> = asked.iter().map(|asked| asked.get("if-none-match").map(String::as_str)).collect();
    assert_eq!(tags, [None, None, Some("\"1\""), None]);
}

#[tokio::test]
async fn what_a_server_gives_is_checked_when_the_schedule_is_made() {
    let (service, server) = (working().await, Rows::start().await);
    let ask = async |from_: Value| service.post("/v1/schedules", &from(&from_)).await;
    for (path, detail) in
        [("/gone", "answered 410"), ("/plain", "name the format"), ("/empty.jsonl", "gives no rows")]
    {
        let (pointer, told) = refused(&ask(json!({"url": server.url(path)})).await);
        assert_eq!(pointer, "/rows_from/url");
        assert!(told.contains(detail), "{path}: {told}");
    }
    let closed = refused(&ask(json!({"url": "http://127.0.0.1:1/rows.csv"})).await);
    assert_eq!(closed, ("/rows_from/url".to_owned(), "no connection could be opened".to_owned()));
    let towns = ask(json!({"url": server.url("/towns.csv")})).await;
    towns.problem(422, "invalid_rows");
    assert_eq!(towns.pointers(), ["/rows_from/url", "/rows_from/url"]);
    made(&ask(json!({"url": server.url("/topics.csv")})).await);
    made(&ask(json!({"url": server.url("/plain"), "format": "csv"})).await);
    // Of a large one the beginning is looked at.
    made(&ask(json!({"url": server.url("/large")})).await);
}

#[tokio::test]
async fn rows_are_named_in_one_way_and_what_belongs_to_none_is_told() {
    let service = working().await;
    for (rows_from, pointer) in [
        (json!({}), "/batch/rows"),
        (json!({"previous_run": ["failed"]}), "/batch/rows"),
        (json!({"row_set": "a", "url": "https://example.com/a.csv"}), "/rows_from/url"),
        (json!({"url": "https://example.com/a.csv", "version": 1}), "/rows_from/version"),
        (json!({"row_set": "a", "format": "csv"}), "/rows_from/format"),
        (json!({"row_set": "a", "headers": {"X-A": "b"}}), "/rows_from/headers"),
        (json!({"url": "https://example.com/a.csv", "headers": {"Host": "b"}}), "/rows_from/headers"),
        (json!({"url": "https://example.com/a.csv", "previous_run": []}), "/rows_from/previous_run"),
        (json!({"url": "ftp://example.com/a.csv"}), "/rows_from/url"),
        (json!({"url": "http://10.0.0.1/a.csv"}), "/rows_from/url"),
    ] {
        let answer = service.post("/v1/schedules", &from(&rows_from)).await;
        assert_eq!(refused(&answer).0, pointer, "{rows_from}");
    }
    let both = wish(json!({"rows_from": {"url": "https://example.com/a.csv"}}));
    assert_eq!(refused(&service.post("/v1/schedules", &both).await).0, "/rows_from");
    let neither = wish(json!({"rows_from": {}}));
    assert_eq!(refused(&service.post("/v1/schedules", &neither).await).0, "/rows_from");
}

#[tokio::test]
async fn a_server_within_is_named_only_where_the_operator_allows_it() {
    let options = Options::working();
    let config = ApiConfig { schedule_seconds: 1, ..options.config };
    let service = Service::start_with(Options { config, ..options }).await;
    let server = Rows::start().await;
    let answer = service.post("/v1/schedules", &from(&json!({"url": server.url("/topics")}))).await;
    assert_eq!(refused(&answer).0, "/rows_from/url");
    assert!(server.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_run_builds_on_what_became_of_each_row_in_the_one_before() {
    let service = working().await;
    let asks = json!({
        "name": "a", "messages": [{"role": "user", "content": "{{ topic }}, after {{ previous_outcome.output }}"}],
    });
    let wished = wish(json!({
        "rows_from": {"previous_run": ["succeeded"]}, "batch": batch(json!({"template": asks})),
    }));
    let answer = service.post("/v1/schedules", &wished).await;
    let id = made(&answer);
    assert_eq!(answer.json["rows_from"]["previous_run"], json!(["succeeded"]));
    let mut outputs = vec![Value::Null; 2];
    for _ in 0..3 {
        let items = items(&service, &run(&service, &id).await).await;
        for (item, before) in items.iter().zip(&outputs) {
            let given = &item["variables"]["previous_outcome"];
            assert_eq!(given["output"], *before);
            assert_eq!(given["outcome"].is_null(), before.is_null());
        }
        outputs = items.iter().map(|item| item["output"].clone()).collect();
        assert!(outputs.iter().all(|output| !output.is_null()), "{items:?}");
    }
    // What a run gave its rows tells none of them apart.
    let at = newest(&service, &id, "ended").await["at"].as_str().unwrap().to_owned();
    let difference = service.get(&format!("/v1/schedules/{id}/ticks/{at}/difference")).await;
    let difference = difference.expect(200);
    assert_eq!((&difference["new"], &difference["gone"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn rows_that_go_on_have_their_defaults_from_the_first_run_on() {
    let service = working().await;
    let asks = json!({
        "name": "a", "messages": [{"role": "user", "content": "{{ topic }} in {{ tone }}"}],
        "variables": {"topic": {"type": "string"}, "tone": {"type": "string", "default": "prose"}},
    });
    let wished = wish(json!({
        "rows_from": {"previous_run": ["succeeded"]}, "batch": batch(json!({"template": asks})),
    }));
    let id = made(&service.post("/v1/schedules", &wished).await);
    for _ in 0..2 {
        let tick = run(&service, &id).await;
        assert_eq!(tick["batch"]["succeeded"], 2, "{tick}");
        assert_eq!(items(&service, &tick).await[0]["variables"]["tone"], "prose");
    }
    // Rows that are named begin anew, with the first run behind the change.
    let other = batch(json!({"template": asks, "rows": [{"variables": {"topic": "other"}}]}));
    let changed = json!({"batch": other, "rows_from": {"previous_run": ["succeeded"]}});
    change(&service, &id, &changed).await.expect(200);
    for _ in 0..2 {
        let tick = run(&service, &id).await;
        assert_eq!(tick["batch"]["rows"], 1);
        assert_eq!(items(&service, &tick).await[0]["variables"]["topic"], "other");
    }
}

#[tokio::test]
async fn rows_that_go_on_bring_nothing_that_runs_give_them() {
    let service = working().await;
    let rows =
        json!([{"variables": {"topic": "a"}}, {"variables": {"topic": "b", "scheduled_at": "Monday"}}]);
    let asks =
        json!({"name": "a", "messages": [{"role": "user", "content": "{{ topic }} {{ scheduled_at }}"}]});
    let batch = batch(json!({"template": asks, "rows": rows}));
    let alone = wish(json!({"batch": batch}));
    made(&service.post("/v1/schedules", &alone).await);
    let goes_on = wish(json!({"batch": batch, "rows_from": {"previous_run": ["succeeded"]}}));
    let answer = service.post("/v1/schedules", &goes_on).await;
    let problem = answer.problem(422, "invalid_rows");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 1, "{problem}");
    assert_eq!(answer.pointers(), ["/batch/rows/1/variables/scheduled_at"]);
}

#[tokio::test]
async fn what_a_schedule_runs_is_changed_as_a_whole() {
    let service = working().await;
    let told = batch(json!({"webhook_url": "http://127.0.0.1:9/hook", "name": "before"}));
    let answer = service.post("/v1/schedules", &wish(json!({"batch": told}))).await;
    let id = made(&answer);
    let secret = answer.json["webhook_secret"].clone();
    run(&service, &id).await;
    let asks = json!({"name": "a", "messages": [{"role": "user", "content": "{{ city }}?"}]});
    let cities = json!([{"variables": {"city": "Bern"}}]);
    let other = json!({
        "template": asks, "model": "demo:any", "rows": cities, "webhook_url": "http://127.0.0.1:9/hook", "name": "after",
    });
    let changed = change(&service, &id, &json!({"batch": other})).await;
    let changed = changed.expect(200);
    assert_eq!((&changed["batch"]["name"], &changed["cron"]), (&json!("after"), &json!("0 3 29 2 *")));
    // The secret of the same URL stays, and is not told again; another URL has another one.
    assert_eq!(changed["webhook_secret"], Value::Null);
    let tick = run(&service, &id).await;
    assert_eq!(tick["batch"]["rows"], 1);
    assert_eq!(items(&service, &tick).await[0]["variables"], json!({"city": "Bern"}));
    let elsewhere =
        json!({"template": asks, "model": "demo:any", "rows": cities, "webhook_url": "http://127.0.0.1:9/b"});
    let moved = change(&service, &id, &json!({"batch": elsewhere})).await;
    let moved = moved.expect(200);
    assert!(moved["webhook_secret"].is_string() && moved["webhook_secret"] != secret);
    // Rows that came along were checked for what ran before; those of a row set may stay.
    let without = json!({"template": asks, "model": "demo:any"});
    let answer = change(&service, &id, &json!({"batch": without})).await;
    assert_eq!(refused(&answer).0, "/batch/rows");
    let put = service.request(Method::PUT, "/v1/row-sets/towns").header("content-type", "application/jsonl");
    send(put.body("{\"city\":\"Biel\"}\n")).await.expect(201);
    let from_set = json!({"batch": without, "rows_from": {"row_set": "towns", "previous_run": ["failed"]}});
    change(&service, &id, &from_set).await.expect(200);
    let stays = change(&service, &id, &json!({"batch": without})).await;
    let rows_from = &stays.expect(200)["rows_from"];
    assert_eq!((&rows_from["row_set"], &rows_from["previous_run"]), (&json!("towns"), &json!(["failed"])));
    let town = json!({"name": "a", "messages": [{"role": "user", "content": "{{ town }}?"}]});
    let unfit = change(&service, &id, &json!({"batch": {"template": town, "model": "demo:any"}})).await;
    unfit.problem(422, "invalid_rows");
    let alone = change(&service, &id, &json!({"rows_from": {"row_set": "towns"}})).await;
    assert_eq!(refused(&alone).0, "/batch");
    let bad = json!({"batch": {"template": asks, "model": "demo:any", "rows": rows(1), "deadline": "2030-01-01T00:00:00Z"}});
    assert_eq!(refused(&change(&service, &id, &bad).await).0, "/batch/deadline");
}
