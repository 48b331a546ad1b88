use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::Period;
use promptmill_ports::Role;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::batch_steps::template;
use crate::scripted::Scripted;
use crate::sse::Events;
use crate::support::{Options, Service, send, wait_for};

/// The API alone, over a scripted provider: generations need no worker.
async fn start() -> (Service, Arc<Scripted>) {
    start_on(TempDir::new().unwrap()).await
}

async fn start_on(folder: TempDir) -> (Service, Arc<Scripted>) {
    let provider = Scripted::new();
    let mut options = Options { providers: vec![provider.clone()], ..Options::default() };
    options.config.drain = Duration::from_millis(50);
    (Service::start_on(folder, options).await, provider)
}

fn generate(service: &Service, body: &Value) -> RequestBuilder {
    service.request(Method::POST, "/v1/generations").json(body)
}

fn asking(model: &str, text: &str) -> Value {
    json!({ "template": template(), "variables": { "text": text }, "model": model })
}

fn mood() -> Value {
    let schema =
        json!({ "type": "object", "properties": { "mood": { "type": "string" } }, "required": ["mood"] });
    json!({
        "model": "scripted:mended",
        "messages": [{ "role": "user", "content": "How are you?" }],
        "output": { "format": "json", "schema": schema },
    })
}

/// The generation at that path, once it has its outcome.
async fn until_done(service: &Service, path: &str) -> Value {
    wait_for("the generation ends", async || {
        let answer = service.get(path).await;
        let json = answer.expect(200).clone();
        (json["state"] != "running").then_some(json)
    })
    .await
}

#[tokio::test]
async fn a_generation_answers_at_once_and_can_be_read_again() {
    let (service, _) = start().await;
    let answer =
        send(generate(&service, &asking("scripted:echo", "Hello")).header("prefer", "wait=20")).await;
    let made = answer.expect(200).clone();
    assert_eq!(
        (&made["state"], &made["output"], &made["model"]),
        (&json!("succeeded"), &json!("Hello"), &json!("scripted:echo"))
    );
    assert_eq!(
        (&made["reason"], &made["flags"], &made["cost"]),
        (&Value::Null, &json!([]), &json!("0.000001"))
    );
    assert_eq!(made["attempts"][0]["calls"].as_array().unwrap().len(), 1);
    assert_eq!(answer.header("preference-applied"), "wait=20");
    let path = format!("/v1/generations/{}", made["id"].as_str().unwrap());
    assert_eq!(*service.get(&path).await.expect(200), made);

    let refused = service.post("/v1/generations", &asking("scripted:echo", "REFUSE")).await;
    let refused = refused.expect(200);
    assert_eq!((&refused["state"], &refused["reason"]), (&json!("failed"), &json!("content_refused")));
    assert_eq!((&refused["message"], &refused["output"]), (&json!("not this one"), &Value::Null));

    let foreign = service.key_of("other", Role::Owner, &[]).await;
    send(service.request_as(&foreign, Method::GET, &path)).await.problem(404, "not_found");
    service.get(&format!("/v1/generations/gen_{:032x}", 1)).await.problem(404, "not_found");
    let viewer = service.key_of("default", Role::Viewer, &[]).await;
    let denied =
        service.request_as(&viewer, Method::POST, "/v1/generations").json(&asking("scripted:echo", "x"));
    send(denied).await.problem(403, "forbidden");
    assert_eq!(send(service.request_as(&viewer, Method::GET, &path)).await.status, 200);
}

#[tokio::test]
async fn an_invalid_reply_is_repaired_and_the_history_shows_it() {
    let (service, _) = start().await;
    let answer = service.post("/v1/generations", &mood()).await;
    let made = answer.expect(200);
    assert_eq!(made["output"], json!({ "mood": "good" }));
    let calls = made["attempts"][0]["calls"].as_array().unwrap();
    assert_eq!((calls.len(), &calls[0]["failure"]), (2, &json!("invalid_output")));
    assert_eq!(calls[0]["reply"], "I would rather not");
}

#[tokio::test]
async fn a_stored_template_and_its_defaults_are_used() {
    let (service, _) = start().await;
    let template = json!({
        "name": "greeting",
        "model": { "name": "scripted:echo" },
        "messages": [{ "role": "user", "content": "Greet {{ name }}" }],
        "variables": { "name": { "type": "string", "default": "Ada" } },
    });
    service.post("/v1/templates", &template).await.expect(201);
    for asked in ["greeting", "greeting@1"] {
        let answer = service.post("/v1/generations", &json!({ "template": asked })).await;
        assert_eq!(answer.expect(200)["output"], "Greet Ada");
    }
    let answer = service.post("/v1/generations", &json!({ "template": "farewell" })).await;
    assert!(answer.status.is_client_error() && !answer.json["detail"].is_null());
}

#[tokio::test]
async fn mistakes_are_told_with_their_place_and_cost_no_call() {
    let (service, provider) = start().await;
    let messages = json!([{ "role": "user", "content": "x" }]);
    for (body, pointer) in [
        (json!({}), ""),
        (json!({ "template": template(), "messages": messages }), "/messages"),
        (json!({ "messages": messages, "variables": {}, "model": "scripted:echo" }), "/variables"),
        (json!({ "template": template(), "output": {}, "model": "scripted:echo" }), "/output"),
        (json!({ "messages": messages }), "/model"),
        (json!({ "messages": messages, "model": "nonsense" }), "/model"),
        (json!({ "messages": messages, "model": "nobody:any" }), "/model"),
        (json!({ "messages": [], "model": "scripted:echo" }), "/messages"),
        (
            json!({ "messages": [{ "role": "king", "content": "x" }], "model": "scripted:echo" }),
            "/messages/0/role",
        ),
        (json!({ "template": template(), "variables": {}, "model": "scripted:echo" }), "/variables/text"),
        (json!({ "template": template(), "variables": [], "model": "scripted:echo" }), "/variables"),
        (
            json!({ "messages": messages, "model": "scripted:echo", "output": { "format": "poem" } }),
            "/output/format",
        ),
        (
            json!({ "messages": messages, "model": "scripted:echo", "settings": { "temperature": 9 } }),
            "/settings/temperature",
        ),
        (json!({ "messages": messages, "model": "scripted:echo", "stream": true }), "/stream"),
    ] {
        let answer = service.post("/v1/generations", &body).await;
        answer.problem(422, "invalid");
        assert_eq!(answer.pointers(), if pointer.is_empty() { vec![""] } else { vec![pointer] }, "{body}");
    }
    assert_eq!(provider.calls(), 0);
}

#[tokio::test]
async fn what_takes_longer_than_the_client_waits_goes_on_without_it() {
    let (service, provider) = start().await;
    let answer = send(generate(&service, &asking("scripted:held", "slow")).header("prefer", "wait=0")).await;
    let begun = answer.expect(202);
    assert_eq!((&begun["state"], &begun["output"]), (&json!("running"), &Value::Null));
    let path = answer.header("location").to_owned();
    assert_eq!(path, format!("/v1/generations/{}", begun["id"].as_str().unwrap()));
    assert_eq!(service.get(&path).await.expect(200)["state"], "running");
    provider.let_go(1);
    assert_eq!(until_done(&service, &path).await["output"], "slow");
    assert_eq!(provider.calls(), 1);
}

#[tokio::test]
async fn a_restart_finishes_what_was_promised() {
    let (service, provider) = start().await;
    let asked = generate(&service, &asking("scripted:held", "again")).header("prefer", "respond-async");
    let path = send(asked).await.header("location").to_owned();
    wait_for("the call is made", async || (provider.calls() > 0).then_some(())).await;
    let (service, provider) = start_on(service.stop().await).await;
    provider.let_go(1);
    assert_eq!(until_done(&service, &path).await["output"], "again");
}

#[tokio::test]
async fn what_was_promised_and_cannot_be_run_any_more_fails() {
    let (service, provider) = start().await;
    let asked = generate(&service, &asking("scripted:held", "lost")).header("prefer", "wait=0");
    let path = send(asked).await.header("location").to_owned();
    wait_for("the call is made", async || (provider.calls() > 0).then_some(())).await;
    let without_the_provider = Service::start_on(service.stop().await, Options::default()).await;
    let failed = until_done(&without_the_provider, &path).await;
    assert_eq!((&failed["state"], &failed["reason"]), (&json!("failed"), &json!("internal")));
}

#[tokio::test]
async fn a_stop_answers_those_who_wait_with_where_to_ask() {
    let (service, provider) = start().await;
    let request = generate(&service, &asking("scripted:held", "later")).header("prefer", "wait=60");
    let waiting = tokio::spawn(send(request));
    wait_for("the call is made", async || (provider.calls() > 0).then_some(())).await;
    let folder = service.stop().await;
    let answer = waiting.await.unwrap();
    answer.expect(202);
    let (service, provider) = start_on(folder).await;
    provider.let_go(1);
    assert_eq!(until_done(&service, answer.header("location")).await["output"], "later");
}

#[tokio::test]
async fn a_streamed_generation_tells_its_text_each_call_and_the_outcome() {
    let (service, _) = start().await;
    let request = generate(&service, &mood()).header("accept", "text/event-stream");
    let response = request.send().await.unwrap();
    let path = response.headers()["location"].to_str().unwrap().to_owned();
    let events = Events::of(response).rest().await;
    let outcome = events.last().unwrap();
    assert_eq!((outcome.name.as_str(), &outcome.data["output"]), ("outcome", &json!({ "mood": "good" })));
    assert_eq!(outcome.data, *service.get(&path).await.expect(200));
    // The text of the last call is that of its reply, whatever of the first one a slow reader missed.
    let begun = events.iter().rposition(|event| event.name == "begin").unwrap();
    let told: String = events[begun + 1..events.len() - 1]
        .iter()
        .map(|event| {
            assert_eq!(event.name, "delta");
            event.data["text"].as_str().unwrap()
        })
        .collect();
    assert_eq!(told, "{\"mood\": \"good\"}");
}

#[tokio::test]
async fn a_reader_that_goes_away_changes_nothing() {
    let (service, provider) = start().await;
    let request =
        generate(&service, &asking("scripted:held", "unread")).header("accept", "text/event-stream");
    let response = request.send().await.unwrap();
    let path = response.headers()["location"].to_str().unwrap().to_owned();
    let mut events = Events::of(response);
    assert_eq!(events.next().await.unwrap().name, "begin");
    drop(events);
    provider.let_go(1);
    assert_eq!(until_done(&service, &path).await["output"], "unread");
}

#[tokio::test]
async fn the_same_key_gives_the_same_generation_streamed_or_not() {
    let (service, provider) = start().await;
    let keyed = |key: &str, accept: &str| {
        let body = asking("scripted:echo", "once");
        generate(&service, &body).header("idempotency-key", key).header("accept", accept)
    };
    let first = send(keyed("a", "application/json")).await;
    let again = send(keyed("a", "application/json")).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(first.expect(200), again.expect(200));

    let response = keyed("b", "text/event-stream").send().await.unwrap();
    let events = Events::of(response).rest().await;
    let replayed = wait_for("the answer is kept", async || {
        let response = keyed("b", "text/event-stream").send().await.unwrap();
        (response.status() == 200).then_some(response)
    })
    .await;
    assert_eq!(replayed.headers()["idempotency-replayed"], "true");
    assert_eq!(Events::of(replayed).rest().await, [events.last().unwrap().clone()]);
    assert_eq!(provider.calls(), 2);
    let other = generate(&service, &asking("scripted:echo", "twice")).header("idempotency-key", "a");
    send(other).await.problem(422, "idempotency_mismatch");
}

#[tokio::test]
async fn a_repeat_of_a_request_whose_client_went_away_joins_it() {
    let (service, provider) = start().await;
    let keyed = || generate(&service, &asking("scripted:held", "joined")).header("idempotency-key", "k");
    let left = tokio::spawn(keyed().send());
    wait_for("the call is made", async || (provider.calls() > 0).then_some(())).await;
    left.abort();
    let joined = wait_for("the first is gone", async || {
        let answer = send(keyed().header("prefer", "wait=0")).await;
        (answer.status == 202).then_some(answer)
    })
    .await;
    provider.let_go(1);
    let path = joined.header("location").to_owned();
    assert_eq!(until_done(&service, &path).await["output"], "joined");
    assert_eq!(provider.calls(), 1);
}

#[tokio::test]
async fn more_than_can_be_worked_on_is_turned_away() {
    let provider = Scripted::new();
    let mut options = Options { providers: vec![provider.clone()], ..Options::default() };
    options.config.generations = 1;
    let service = Service::start_with(options).await;
    let ask = || generate(&service, &asking("scripted:held", "x")).header("prefer", "wait=0");
    for _ in 0..4 {
        send(ask()).await.expect(202);
    }
    let answer = send(ask()).await;
    answer.problem(503, "unavailable");
    assert_eq!(answer.header("retry-after"), "1");
    provider.let_go(4);
    wait_for("there is room", async || (send(ask()).await.status == 202).then_some(())).await;
    provider.let_go(1);
}

#[tokio::test]
async fn a_generation_may_name_several_models_and_says_which_one_answered() {
    let (service, provider) = start().await;
    let chain = json!(["scripted:echo", "scripted:bold"]);
    let mut ask = asking("scripted:echo", "REFUSE");
    ask["model"] = chain.clone();
    let answer = service.post("/v1/generations", &ask).await;
    let made = answer.expect(200);
    assert_eq!((&made["state"], &made["output"]), (&json!("succeeded"), &json!("REFUSE")));
    assert_eq!(
        (&made["model"], &made["fallbacks"], &made["flags"]),
        (&json!("scripted:echo"), &json!(["scripted:bold"]), &json!(["fallback"]))
    );
    let calls: Vec<_> =
        made["attempts"].as_array().unwrap().iter().map(|a| &a["calls"][0]["model"]).collect();
    assert_eq!(calls, [&Value::Null, &json!("scripted:bold")]);
    assert_eq!(provider.calls(), 2);

    ask["fallback_on"] = json!(["unavailable"]);
    let refused = service.post("/v1/generations", &ask).await;
    assert_eq!(refused.expect(200)["reason"], "content_refused");
    for (member, value, pointer) in [
        ("model", json!([]), "/model"),
        ("model", json!(["scripted:echo", "nobody:x"]), "/model/1"),
        ("max_price", json!({"prompt": "cheap", "completion": "1"}), "/max_price/prompt"),
    ] {
        let mut wrong = asking("scripted:echo", "Hello");
        wrong[member] = value;
        let refused = service.post("/v1/generations", &wrong).await;
        assert_eq!(refused.expect(422)["errors"][0]["pointer"], pointer, "{}", refused.text);
    }
}

#[tokio::test]
async fn generations_at_once_stay_within_a_limit_although_no_price_is_known() {
    let provider = Scripted::new();
    let mut options = Options { providers: vec![provider.clone()], ..Options::working() };
    // Of ten calls that cost a millionth of a dollar each.
    options.tenant_costs.set(None, Period::Day, "0.00001".parse().unwrap());
    let service = Service::start_with(options).await;
    // The first one tells what a call costs.
    provider.let_go(1);
    service.post("/v1/generations", &asking("scripted:held", "Hello")).await.expect(200);
    wait_for("the first one ends", async || {
        let used = service.get("/v1/limits").await.json["used"]["cost_today"]["spent"].clone();
        (used == "0.000001").then_some(())
    })
    .await;
    let ask = asking("scripted:held", "Hello");
    let asks: Vec<_> = (0..40).map(|_| service.post("/v1/generations", &ask)).collect();
    provider.let_go(40);
    let answers = futures_util::future::join_all(asks).await;
    let paths: Vec<_> = answers
        .iter()
        .map(|answer| format!("/v1/generations/{}", answer.json["id"].as_str().unwrap()))
        .collect();
    let mut succeeded = 0;
    for path in &paths {
        let done = until_done(&service, path).await;
        match done["state"].as_str() {
            Some("succeeded") => succeeded += 1,
            _ => assert_eq!(done["reason"], "payment_required", "{done}"),
        }
    }
    assert_eq!((succeeded, provider.calls()), (9, 10));
}
