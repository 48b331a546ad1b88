//! Requests that are sent again.

use promptmill_ports::Claim;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{Answer, Options, Service, send};

fn template(name: &str) -> Value {
    json!({"name": name, "messages": [{"role": "user", "content": "x"}]})
}

fn create(service: &Service, key: &str, body: &Value) -> RequestBuilder {
    service.request(Method::POST, "/v1/templates").header("idempotency-key", key).json(body)
}

fn is_replay(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == "true"
}

#[tokio::test]
async fn the_same_request_gets_the_same_answer_and_another_one_is_refused() {
    let service = Service::start().await;
    let first = send(create(&service, "\"k1\"", &template("a"))).await;
    first.expect(201);
    assert!(!is_replay(&first));
    let again = send(create(&service, "k1", &template("a"))).await;
    assert_eq!((again.expect(201), is_replay(&again)), (&first.json, true));
    for header in ["location", "etag", "content-type"] {
        assert_eq!(again.header(header), first.header(header));
    }
    send(create(&service, "k1", &template("b"))).await.problem(422, "idempotency_mismatch");
    // The key counts within its route and its tenant.
    let body = json!({"name": "k"});
    let key =
        send(service.request(Method::POST, "/v1/keys").header("idempotency-key", "k1").json(&body)).await;
    key.expect(201);
    let foreign = service.key_of("acme", promptmill_ports::Role::Owner, &[]).await;
    let request = service.request_as(&foreign, Method::POST, "/v1/templates").header("idempotency-key", "k1");
    let other = send(request.json(&template("a"))).await;
    assert_ne!(other.expect(201)["id"], first.json["id"]);
}

#[tokio::test]
async fn an_error_is_repeated_too() {
    let service = Service::start().await;
    let bad = json!({"name": "a"});
    let first = send(create(&service, "k", &bad)).await;
    first.problem(422, "invalid_template");
    let again = send(create(&service, "k", &bad)).await;
    again.expect(422);
    assert!(is_replay(&again) && again.text == first.text);
}

#[tokio::test]
async fn a_preview_takes_a_key_like_every_other_post() {
    let service = Service::start().await;
    let body = json!({"template": template("a"), "variables": {}});
    let ask =
        |body: &Value| service.request(Method::POST, "/v1/render").header("idempotency-key", "k").json(body);
    let first = send(ask(&body)).await;
    let again = send(ask(&body)).await;
    assert_eq!((again.expect(200), is_replay(&again)), (first.expect(200), true));
    let other = json!({"template": template("b"), "variables": {}});
    send(ask(&other)).await.problem(422, "idempotency_mismatch");
}

#[tokio::test]
async fn keys_that_are_no_keys_are_refused() {
    let service = Service::start().await;
    for key in ["", "\"\"", &"x".repeat(256)] {
        send(create(&service, key, &template("a"))).await.problem(400, "bad_request");
    }
    let twice = create(&service, "a", &template("a")).header("idempotency-key", "b");
    send(twice).await.problem(400, "bad_request");
    send(create(&service, &"x".repeat(255), &template("a"))).await.expect(201);
}

#[tokio::test]
async fn a_hundred_at_once_make_one() {
    let service = Service::start().await;
    let requests = (0..100).map(|_| tokio::spawn(send(create(&service, "same", &template("one")))));
    let mut ids = std::collections::BTreeSet::new();
    for request in requests.collect::<Vec<_>>() {
        let answer = request.await.unwrap();
        if answer.status == 201 {
            ids.insert(answer.json["id"].as_str().unwrap().to_owned());
        } else {
            answer.problem(409, "idempotency_in_progress");
        }
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(service.get("/v1/templates").await.expect(200)["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_dead_process_began_is_run_again_with_the_same_plan() {
    let service = Service::start().await;
    let probe = send(create(&service, "probe", &template("probe"))).await;
    probe.expect(201);
    // As a process leaves it that is killed after its claim: begun, by an owner that is not there.
    let body = template("lost").to_string();
    let target = "POST /v1/templates";
    let fingerprint = {
        use sha2::{Digest as _, Sha256};
        let mut hasher = Sha256::new();
        hasher.update((target.len() as u64).to_be_bytes());
        hasher.update(target);
        hasher.update(Sha256::digest(&body));
        hasher.finalize().into()
    };
    let claim = Claim {
        tenant: promptmill_domain::TenantId::default_tenant(),
        key: "POST /v1/templates lost".to_owned(),
        fingerprint,
        plan: [42; 16],
        owner: [1; 16],
    };
    service.engine.records.claim(&claim, service.engine.clock.now_ms()).await.unwrap();
    let request = || {
        let request = service.request(Method::POST, "/v1/templates").header("idempotency-key", "lost");
        request.header("content-type", "application/json").body(body.clone())
    };
    let made = send(request()).await;
    let planned = promptmill_domain::TemplateId::from_bytes([42; 16]).to_string();
    assert_eq!(made.expect(201)["id"], planned);
    let again = send(request()).await;
    assert!(is_replay(&again));
    assert_eq!(again.expect(201)["id"], planned);
}

#[tokio::test]
async fn answers_are_repeated_after_a_restart_and_secrets_in_them_are_not_readable_in_the_store() {
    let service = Service::start().await;
    let ask = |service: &Service| {
        service.request(Method::POST, "/v1/keys").header("idempotency-key", "k").json(&json!({"name": "n"}))
    };
    let first = send(ask(&service)).await;
    let key = first.expect(201)["key"].as_str().unwrap().to_owned();
    let owner = service.key.clone();
    let folder = service.stop().await;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(key.len()).any(|window| window == key.as_bytes()));
    }
    let mut service = Service::start_on(folder, Options::default()).await;
    service.key = owner;
    let again = send(ask(&service)).await;
    assert_eq!((again.expect(201), is_replay(&again)), (&first.json, true));
    let tenant = promptmill_domain::TenantId::default_tenant();
    let named = service.engine.records.keys(&tenant).await.unwrap();
    assert_eq!(named.iter().filter(|key| key.name == "n").count(), 1);
}

#[tokio::test]
async fn a_repeated_answer_gives_nobody_a_key_that_may_do_more() {
    let service = Service::start().await;
    let admin = service.key_of("default", promptmill_ports::Role::Admin, &[]).await;
    let narrow = service.key_of("default", promptmill_ports::Role::Owner, &["admin:keys"]).await;
    let ask = |key: &str| {
        let request = service.request_as(key, Method::POST, "/v1/keys").header("idempotency-key", "k");
        request.json(&json!({"name": "n", "role": "owner"}))
    };
    let first = send(ask(&service.key)).await;
    first.expect(201);
    for key in [admin, narrow] {
        send(ask(&key)).await.problem(403, "forbidden");
    }
    assert_eq!(send(ask(&service.key)).await.text, first.text);
}
