//! Keys: who gets in, who does not, and what each may do.

use promptmill_api::ApiConfig;
use promptmill_api::keys::issue;
use promptmill_domain::{KeyId, TenantId};
use promptmill_ports::Role;
use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, Options, Service, send, wait_for};

async fn me(service: &Service, key: &str) -> Answer {
    send(service.request_as(key, Method::GET, "/v1/me")).await
}

#[tokio::test]
async fn only_a_valid_key_gets_in_and_no_answer_tells_why_not() {
    let service = Service::start().await;
    let unknown = promptmill_vault::api_key::issue(KeyId::from_bytes([7; 16]), [7; 32]);
    let unknown = secrecy::ExposeSecret::expose_secret(&unknown.text).to_owned();
    let mut mistyped = service.key.clone();
    mistyped.replace_range(50..51, if &mistyped[50..51] == "A" { "B" } else { "A" });
    let (id, _) = promptmill_vault::api_key::parse(&service.key).unwrap();
    let forged = promptmill_vault::api_key::issue(id, [9; 32]);
    let forged = secrecy::ExposeSecret::expose_secret(&forged.text).to_owned();
    let mut details = Vec::new();
    for key in [unknown.as_str(), &mistyped, &forged, "pmk_", "x", &"x".repeat(8000)] {
        let answer = me(&service, key).await;
        answer.problem(401, "unauthorized");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        details.push(answer.json["detail"].clone());
    }
    details.dedup();
    assert_eq!(details.len(), 1);
    let bare = service.client().get(format!("{}/v1/me", service.base));
    send(bare).await.problem(401, "unauthorized");
    let basic = service.client().get(format!("{}/v1/me", service.base)).basic_auth("a", Some("b"));
    send(basic).await.problem(401, "unauthorized");
    let twice = service.request(Method::GET, "/v1/me").header("authorization", "Bearer x");
    send(twice).await.problem(400, "bad_request");
    me(&service, &service.key).await.expect(200);
}

#[tokio::test]
async fn a_key_is_shown_once_listed_without_its_secret_and_refused_once_revoked() {
    let service = Service::start().await;
    let made = service.post("/v1/keys", &json!({"name": "ci", "role": "viewer"})).await;
    let made = made.expect(201);
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with("pmk_") && key.ends_with(made["hint"].as_str().unwrap()));
    me(&service, key).await.expect(200);

    let list = service.get("/v1/keys").await;
    let listed = list.expect(200)["data"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert!(!list.text.contains(key) && listed.iter().all(|key| key.get("key").is_none()));
    let entry = listed.iter().find(|entry| entry["id"] == made["id"]).unwrap();
    assert_eq!(
        (&entry["name"], &entry["role"], &entry["revoked_at"]),
        (&json!("ci"), &json!("viewer"), &json!(null))
    );

    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    send(service.request(Method::DELETE, &path)).await.expect(204);
    me(&service, key).await.problem(401, "unauthorized");
    send(service.request(Method::DELETE, &path)).await.expect(204);
    assert_ne!(service.get("/v1/keys").await.json["data"][1]["revoked_at"], json!(null));
}

#[tokio::test]
async fn the_use_of_a_key_is_noted() {
    let service = Service::start().await;
    wait_for("the use is noted", async || {
        let keys = service.get("/v1/keys").await;
        keys.json["data"][0]["used_at"].is_string().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_role_or_its_scopes_bound_what_a_key_may_do() {
    let service = Service::start().await;
    let template = json!({"name": "t", "messages": [{"role": "user", "content": "x"}]});
    let viewer = service.key_of("default", Role::Viewer, &[]).await;
    let member = service.key_of("default", Role::Member, &[]).await;
    let narrow = service.key_of("default", Role::Owner, &["templates:read"]).await;
    for (key, create) in [(&viewer, 403), (&narrow, 403), (&member, 201)] {
        send(service.request_as(key, Method::POST, "/v1/templates").json(&template)).await.expect(create);
        send(service.request_as(key, Method::GET, "/v1/templates")).await.expect(200);
        // The last of them has made it by then.
        let label = "/v1/templates/t/labels/production";
        let put = service.request_as(key, Method::PUT, label).json(&json!({"version": 1}));
        send(put).await.expect(if create == 201 { 200 } else { 403 });
        let remove = send(service.request_as(key, Method::DELETE, label)).await;
        remove.expect(if create == 201 { 204 } else { 403 });
        let refused = send(service.request_as(key, Method::GET, "/v1/keys")).await;
        refused.problem(403, "forbidden");
        assert!(refused.json["detail"].as_str().unwrap().contains("admin:keys"));
    }
}

#[tokio::test]
async fn nobody_makes_a_key_that_may_do_more_than_its_own() {
    let service = Service::start().await;
    let admin = service.key_of("default", Role::Admin, &[]).await;
    let narrow = service.key_of("default", Role::Owner, &["admin:keys"]).await;
    let make = async |key: &str, body: serde_json::Value| {
        send(service.request_as(key, Method::POST, "/v1/keys").json(&body)).await
    };
    make(&admin, json!({"name": "a", "role": "owner"})).await.problem(403, "forbidden");
    make(&admin, json!({"name": "a", "role": "admin"})).await.expect(201);
    make(&narrow, json!({"name": "a", "role": "viewer"})).await.problem(403, "forbidden");
    make(&narrow, json!({"name": "a", "role": "owner", "scopes": ["admin:keys"]})).await.expect(201);
}

#[tokio::test]
async fn mistakes_in_a_new_key_are_named() {
    let service = Service::start().await;
    for (body, pointer) in [
        (json!({"name": ""}), "/name"),
        (json!({"name": "a\u{0}b"}), "/name"),
        (json!({"name": "x".repeat(101)}), "/name"),
        (json!({"name": "a", "scopes": ["batches:read", "batches:*"]}), "/scopes/1"),
        (json!({"name": "a", "expires_at": "2020-01-01T00:00:00Z"}), "/expires_at"),
        (json!({"name": "a", "expires_at": "soon"}), "/expires_at"),
        (json!({"name": "a", "role": "operator"}), "/role"),
        (json!({"role": "viewer"}), ""),
        (json!({"name": "a", "rôle": "viewer"}), "/rôle"),
    ] {
        let answer = service.post("/v1/keys", &body).await;
        answer.problem(422, "invalid");
        assert_eq!(answer.pointers(), [pointer], "{body}");
    }
}

#[tokio::test]
async fn an_expired_key_is_refused() {
    let service = Service::start().await;
    let now_ms = service.engine.clock.now_ms();
    let soon = now_ms + 1_500;
    let tenant = TenantId::default_tenant();
    let scopes = Vec::new();
    let issued =
        issue(service.engine.records.as_ref(), now_ms, &tenant, "short", Role::Viewer, scopes, Some(soon));
    let (key, _) = issued.await.unwrap();
    me(&service, &key).await.expect(200);
    wait_for("it expires", async || (me(&service, &key).await.status == 401).then_some(())).await;
    assert!(service.engine.clock.now_ms() >= soon);
}

#[tokio::test]
async fn an_address_that_guesses_keys_is_slowed_down_and_a_good_key_from_it_is_not() {
    let config = ApiConfig { refusals_per_second: 1, refusal_burst: 3, ..Options::default().config };
    let service = Service::start_with(Options { config, ..Options::default() }).await;
    me(&service, &service.key).await.expect(200);
    let slowed = wait_for("a refusal", async || {
        let answer = me(&service, "pmk_guess").await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    slowed.problem(429, "too_many_requests");
    me(&service, &service.key).await.expect(200);
}

#[tokio::test]
async fn keys_and_templates_of_another_tenant_are_not_there() {
    let service = Service::start().await;
    let foreign = service.key_of("acme", Role::Owner, &[]).await;
    let template = json!({"name": "mine", "messages": [{"role": "user", "content": "x"}]});
    let made = service.post("/v1/templates", &template).await;
    let id = made.expect(201)["id"].as_str().unwrap();
    let key = service.get("/v1/keys").await.json["data"][0]["id"].clone();
    let key = key.as_str().unwrap();
    let ask = async |method: Method, path: String| {
        let request = service.request_as(&foreign, method.clone(), &path).header("if-match", "*");
        let request = if method == Method::POST { request.json(&template) } else { request };
        send(request).await.problem(404, "not_found");
    };
    ask(Method::DELETE, format!("/v1/keys/{key}")).await;
    for name in [id, "mine"] {
        ask(Method::GET, format!("/v1/templates/{name}")).await;
        ask(Method::DELETE, format!("/v1/templates/{name}")).await;
        ask(Method::GET, format!("/v1/templates/{name}/versions")).await;
        ask(Method::POST, format!("/v1/templates/{name}/versions")).await;
        ask(Method::GET, format!("/v1/templates/{name}/versions/1")).await;
        ask(Method::GET, format!("/v1/templates/{name}/labels")).await;
        ask(Method::DELETE, format!("/v1/templates/{name}/labels/production")).await;
        let label = format!("/v1/templates/{name}/labels/production");
        let put = service.request_as(&foreign, Method::PUT, &label).json(&json!({"version": 1}));
        send(put).await.problem(404, "not_found");
        ask(Method::GET, format!("/v1/templates/{name}/versions/1/variables-schema")).await;
        let body = json!({"template": name, "variables": {}});
        let render = send(service.request_as(&foreign, Method::POST, "/v1/render").json(&body)).await;
        render.problem(422, "invalid");
    }
    let list = send(service.request_as(&foreign, Method::GET, "/v1/templates")).await;
    assert_eq!(list.expect(200)["data"], json!([]));
    service.get("/v1/templates/mine").await.expect(200);
}
