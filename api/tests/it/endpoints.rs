//! Endpoints over HTTP: made, changed, given new secrets, and kept apart by tenant.

use promptmill_domain::{EndpointState, Failing, WhyDisabled};
use promptmill_ports::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::desk::idle;
use crate::support::{Answer, Service, send};

async fn patch(service: &Service, path: &str, body: &Value) -> Answer {
    send(service.request(Method::PATCH, path).json(body)).await
}

#[tokio::test]
async fn an_endpoint_is_made_changed_switched_off_and_deleted() {
    let service = idle().await;
    let wish = json!({"url": "https://receiver.example/hook", "description": "billing", "events": ["batch.paused", "batch.completed", "batch.paused"]});
    let made = service.post("/v1/endpoints", &wish).await;
    let endpoint = made.expect(201).clone();
    let path = format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap());
    assert_eq!(made.header("location"), path);
    assert!(endpoint["secret"].as_str().unwrap().starts_with("whsec_"));
    assert_eq!(
        (&endpoint["url"], &endpoint["events"], &endpoint["enabled"]),
        (&wish["url"], &json!(["batch.completed", "batch.paused"]), &json!(true))
    );
    let mut shown = endpoint.clone();
    shown.as_object_mut().unwrap().remove("secret");
    assert_eq!(service.get(&path).await.expect(200), &shown);
    assert_eq!(service.get("/v1/endpoints").await.expect(200), &json!({"data": [shown.clone()]}));

    let changed = patch(&service, &path, &json!({"enabled": false, "description": "", "events": []})).await;
    let changed = changed.expect(200);
    assert_eq!(
        (&changed["enabled"], &changed["disabled_because"], &changed["description"], &changed["events"]),
        (&json!(false), &json!("requested"), &Value::Null, &json!([]))
    );
    let same = patch(&service, &path, &json!({})).await;
    assert_eq!(same.expect(200), changed);
    let again = patch(&service, &path, &json!({"enabled": true, "url": "https://other.example/"})).await;
    let again = again.expect(200);
    assert_eq!((&again["enabled"], &again["disabled_at"]), (&json!(true), &Value::Null));
    assert_eq!(again["url"], "https://other.example/");
    assert_eq!(service.get(&format!("{path}/deliveries")).await.expect(200), &json!({"data": []}));

    assert_eq!(send(service.request(Method::DELETE, &path)).await.status, 204);
    for method in [Method::GET, Method::DELETE] {
        send(service.request(method, &path)).await.problem(404, "not_found");
    }
    service.get(&format!("{path}/deliveries")).await.problem(404, "not_found");
}

#[tokio::test]
async fn what_is_wrong_of_an_endpoint_is_told_by_field() {
    let service = idle().await;
    let long = "x".repeat(201);
    let wrong = service
        .post(
            "/v1/endpoints",
            &json!({
                "url": "http://169.254.1.1/", "description": long, "secret": "whsec_short",
                "headers": {"Host": "inner"}, "max_per_second": 0, "email": "a@b.example\r\nBcc: c@d.example",
            }),
        )
        .await;
    wrong.expect(422);
    assert_eq!(
        wrong.pointers(),
        ["/url", "/description", "/email", "/secret", "/headers", "/max_per_second"]
    );
    for body in
        [json!({}), json!({"url": "https://a.example/", "events": ["batch.exploded"]}), json!({"uri": "x"})]
    {
        let refused = service.post("/v1/endpoints", &body).await;
        assert!(refused.status.is_client_error(), "{}", refused.text);
    }
    let made = service
        .post(
            "/v1/endpoints",
            &json!({"url": "https://a.example/", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}),
        )
        .await;
    let endpoint = made.expect(201);
    assert!(endpoint.get("secret").is_none(), "{endpoint}");
    let path = format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap());
    let wrong = patch(&service, &path, &json!({"url": "ftp://a.example/", "description": long, "headers": {"x-a": "\n"}, "max_per_second": 1_001, "email": "nobody"})).await;
    wrong.expect(422);
    assert_eq!(wrong.pointers(), ["/url", "/description", "/email", "/headers", "/max_per_second"]);
    let written = patch(&service, &path, &json!({"email": "ops@example.com"})).await;
    assert_eq!(written.expect(200)["email"], "ops@example.com");
    assert_eq!(patch(&service, &path, &json!({"email": ""})).await.expect(200)["email"], json!(null));
    let calm = patch(&service, &path, &json!({"max_per_second": 5})).await;
    assert_eq!(calm.expect(200)["max_per_second"], 5);
    assert_eq!(
        patch(&service, &path, &json!({"max_per_second": 0})).await.expect(200)["max_per_second"],
        Value::Null
    );
    let wrong = service.post(&format!("{path}/secret"), &json!({"grace": 604_801})).await;
    wrong.expect(422);
    assert_eq!(wrong.pointers(), ["/grace"]);
    for _ in 1..100 {
        service.post("/v1/endpoints", &json!({"url": "https://a.example/"})).await.expect(201);
    }
    service.post("/v1/endpoints", &json!({"url": "https://a.example/"})).await.problem(409, "conflict");
}

#[tokio::test]
async fn a_request_that_is_repeated_makes_one_endpoint_and_one_secret() {
    let service = idle().await;
    let request = |path: &str, body: &Value, key: &str| {
        service.request(Method::POST, path).header("idempotency-key", format!("\"{key}\"")).json(body)
    };
    let wish = json!({"url": "https://receiver.example/hook"});
    let [first, second] =
        [send(request("/v1/endpoints", &wish, "a")).await, send(request("/v1/endpoints", &wish, "a")).await];
    assert_eq!(first.expect(201), second.expect(201));
    assert_eq!(service.get("/v1/endpoints").await.json["data"].as_array().unwrap().len(), 1);
    let path = format!("/v1/endpoints/{}/secret", first.json["id"].as_str().unwrap());
    let [one, two] =
        [send(request(&path, &json!({}), "b")).await, send(request(&path, &json!({}), "b")).await];
    assert_eq!(one.expect(200), two.expect(200));
    assert!(
        one.json["secret"].as_str().unwrap().starts_with("whsec_") && !one.json["old_secret_until"].is_null()
    );
    assert_ne!(one.json["secret"], first.json["secret"]);
    let given =
        service.post(&path, &json!({"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "grace": 0})).await;
    let given = given.expect(200);
    assert!(given.get("secret").is_none() && given["old_secret_until"].is_null(), "{given}");
}

#[tokio::test]
async fn endpoints_are_their_tenants_and_are_changed_by_those_who_may() {
    let service = idle().await;
    let made = service.post("/v1/endpoints", &json!({"url": "https://receiver.example/hook"})).await;
    let id = made.expect(201)["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/endpoints/{id}");
    let viewer = service.key_of("default", Role::Viewer, &[]).await;
    let stranger = service.key_of("acme", Role::Owner, &[]).await;
    let as_who = |key: &str, method: Method, path: &str| {
        send(service.request_as(key, method, path).header("content-type", "application/json").body("{}"))
    };
    as_who(&viewer, Method::GET, &path).await.expect(200);
    for (method, path) in [
        (Method::PATCH, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::POST, format!("{path}/secret")),
    ] {
        as_who(&viewer, method.clone(), &path).await.problem(403, "forbidden");
        as_who(&stranger, method, &path).await.problem(404, "not_found");
    }
    as_who(&stranger, Method::GET, &path).await.problem(404, "not_found");
    assert_eq!(as_who(&stranger, Method::GET, "/v1/endpoints").await.expect(200), &json!({"data": []}));

    // What a try came to is told.
    let records = &service.engine.records;
    let tenant = "default".parse().unwrap();
    let mut endpoint = records.endpoint(&tenant, id.parse().unwrap()).await.unwrap();
    endpoint.state = EndpointState::Disabled { why: WhyDisabled::Failing, at_ms: 5 };
    (endpoint.failing, endpoint.ver) = (Some(Failing { since_ms: 1, last_ms: 1 }), 2);
    assert!(records.put_endpoint(&endpoint).await.unwrap());
    let shown = service.get(&path).await;
    assert_eq!(
        (&shown.json["disabled_because"], &shown.json["failing_since"]),
        (&json!("failing"), &json!("1970-01-01T00:00:00.001Z"))
    );
}
