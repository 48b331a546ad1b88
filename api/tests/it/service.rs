//! What every answer has in common, and what is open to anyone.

use promptmill_api::ApiConfig;
use promptmill_domain::LaneId;
use promptmill_domain::rate::{LaneLimits, Learned};
use promptmill_ports::Role;
use reqwest::Method;
use serde_json::json;

use crate::support::{Options, Service, send, wait_for};

/// Addresses of another machine; namespaces of XML are names, not addresses.
fn foreign_addresses(text: &str) -> Vec<&str> {
    let found = text.match_indices("http").map(|(at, _)| &text[at..]);
    let found = found.filter(|rest| rest.starts_with("http://") || rest.starts_with("https://"));
    found.map(|rest| rest.split(['"', '\'', ' ', '<', ')']).next().unwrap_or_default()).collect()
}

#[tokio::test]
async fn every_answer_carries_an_id_and_the_headers_for_safety() {
    let service = Service::start().await;
    for path in ["/livez", "/v1/me", "/v1/none", "/nowhere"] {
        let answer = send(service.request(Method::GET, path).header("x-request-id", "my-id_7")).await;
        assert_eq!(answer.header("x-request-id"), "my-id_7", "{path}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(answer.header(name), value, "{path}");
        }
    }
    let answer = send(service.request(Method::GET, "/livez").header("x-request-id", "not harmless")).await;
    assert_eq!(answer.header("x-request-id").len(), 32);
}

#[tokio::test]
async fn limits_and_caller_are_told() {
    let service = Service::start_with(Options { config: ApiConfig::default(), ..Options::default() }).await;
    let limits = service.get("/v1/limits").await;
    assert_eq!(
        limits.expect(200),
        &json!({
            "row_bytes": 1_048_576, "reply_bytes": 1_048_576, "history_bytes": 4_194_304, "inline_bytes": 8_388_608,
            "part_bytes": 2_147_483_648_u64, "batch_rows": 10_000_000, "schedule_seconds": 60, "requests_per_second": 50, "request_burst": 100,
            "running_batches": 20, "rows_per_day": 10_000_000, "stored_bytes": 53_687_091_200_u64,
            "max_cost_per_day": null, "max_cost_per_month": null,
            "used": {"rows_today": 0, "stored_bytes": 0, "cost_today": null, "cost_this_month": null},
        })
    );
    assert_eq!(limits.header("ratelimit-policy"), "\"requests\";q=100;w=2");
    assert_eq!(limits.header("ratelimit"), "\"requests\";r=99;t=1");

    let key = service.key_of("acme", Role::Member, &["batches:read", "admin:keys"]).await;
    let me = send(service.request_as(&key, Method::GET, "/v1/me")).await;
    me.expect(200);
    assert_eq!((&me.json["tenant"], &me.json["role"]), (&json!("acme"), &json!("member")));
    assert_eq!(me.json["scopes"], json!(["batches:read"]));
}

#[tokio::test]
async fn lanes_are_told_to_those_who_run_the_installation() {
    let service = Service::start().await;
    let lane = LaneId::new("openai", "default");
    let limits = LaneLimits { requests_per_minute: Some(600), ..LaneLimits::default() };
    service.engine.limiter.set_rules(&lane, limits, Learned { concurrency: Some(7), ..Learned::default() });
    let lanes = wait_for("the lane", async || {
        let lanes = service.get("/v1/lanes").await.expect(200)["data"].clone();
        (lanes != json!([])).then_some(lanes)
    })
    .await;
    assert_eq!(
        lanes,
        json!([{
            "lane": "openai/default", "allowed_per_second": 10.0, "used_per_second": 0.0, "window": 7, "begun": 0,
            "refused": 0, "stands_still_ms": 0, "breaker_open": false,
        }])
    );
    // All tenants share a lane, so how it is used says something of the others.
    let member = service.key_of("acme", Role::Member, &[]).await;
    send(service.request_as(&member, Method::GET, "/v1/lanes")).await.problem(403, "forbidden");
}

#[tokio::test]
async fn who_calls_too_often_is_told_when_to_go_on_and_others_are_not_held_up() {
    let config = ApiConfig { requests_per_second: 1, request_burst: 2, ..ApiConfig::default() };
    let service = Service::start_with(Options { config, ..Options::default() }).await;
    let other = service.key_of("default", Role::Viewer, &[]).await;
    let refused = wait_for("a refusal", async || {
        let answer = service.get("/v1/me").await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    refused.problem(429, "too_many_requests");
    assert_eq!(refused.header("retry-after"), "1");
    assert!(refused.header("ratelimit").starts_with("\"requests\";r=0;t=1"));
    send(service.request_as(&other, Method::GET, "/v1/me")).await.expect(200);
    service.is_alive().await;
}

#[tokio::test]
async fn errors_of_the_router_have_the_one_shape() {
    let service = Service::start().await;
    service.get("/v1/none").await.problem(404, "not_found");
    service.get("/v1/templates/none").await.problem(404, "not_found");
    let answer = send(service.request(Method::PUT, "/v1/keys")).await;
    answer.problem(405, "method_not_allowed");
    let mut allow: Vec<_> = answer.header("allow").split(',').map(str::trim).collect();
    allow.sort_unstable();
    assert_eq!(allow, ["GET", "HEAD", "POST"]);
    assert_eq!(answer.json["instance"], "/v1/keys");
    send(service.request(Method::POST, "/livez")).await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn the_document_lists_the_routes_and_every_operation_can_fail_with_a_problem() {
    let service = Service::start().await;
    let document = send(service.client().get(format!("{}/openapi.json", service.base))).await;
    let document = document.expect(200);
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    let paths = document["paths"].as_object().unwrap();
    for path in ["/livez", "/v1/limits", "/v1/keys/{id}", "/v1/templates/{template}/versions", "/v1/render"] {
        assert!(paths.contains_key(path), "{path}");
    }
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} stands for two operations");
            let problem = &operation["responses"]["default"]["content"]["application/problem+json"];
            assert_eq!(problem["schema"]["$ref"], "#/components/schemas/Problem", "{method} {path}");
            // A link is its own key.
            let needs_key = path.starts_with("/v1/") && path != "/v1/results/{link}";
            assert_eq!(operation["security"] == json!([{"api_key": []}]), needs_key, "{path}");
        }
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(!document["components"]["schemas"][name].is_null(), "{name} is not described");
    }
}

#[tokio::test]
async fn the_page_to_try_it_needs_nothing_from_elsewhere() {
    let service = Service::start().await;
    let get = async |path: &str| send(service.client().get(format!("{}{path}", service.base))).await;
    let page = get("/docs/").await;
    page.expect(200);
    assert_eq!(foreign_addresses(&page.text), [""; 0]);
    let policy = page.header("content-security-policy");
    assert!(policy.contains("script-src 'self';") && !policy.contains("http"), "{policy}");
    let sources = page.text.split("src=\"").chain(page.text.split("href=\"")).filter_map(|rest| {
        let name = rest.split('"').next()?;
        (name.ends_with(".js") || name.ends_with(".css")).then(|| name.trim_start_matches("./").to_owned())
    });
    let sources: Vec<_> = sources.collect();
    assert!(sources.len() >= 3, "{sources:?}");
    for source in sources {
        get(&format!("/docs/{source}")).await.expect(200);
    }
    assert!(get("/docs/swagger-initializer.js").await.text.contains("/openapi.json"));
}

#[tokio::test]
async fn every_problem_has_a_page() {
    let service = Service::start().await;
    let get = async |path: &str| send(service.client().get(format!("{}{path}", service.base))).await;
    for code in ["bad_request", "invalid_rows", "idempotency_in_progress", "no_room"] {
        let page = get(&format!("/problems/{code}")).await;
        page.expect(200);
        assert!(page.text.contains(code) && page.header("content-type").starts_with("text/html"));
    }
    get("/problems/nothing").await.problem(404, "not_found");
}
