//! Templates over HTTP.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Service, send};

fn template(name: &str, text: &str) -> Value {
    json!({"name": name, "messages": [{"role": "user", "content": text}]})
}

async fn delete(service: &Service, name: &str, tag: Option<&str>) -> Answer {
    let request = service.request(Method::DELETE, &format!("/v1/templates/{name}"));
    let request = match tag {
        Some(tag) => request.header("if-match", tag),
        None => request,
    };
    send(request).await
}

#[tokio::test]
async fn a_template_is_made_read_versioned_and_deleted() {
    let service = Service::start().await;
    let first = template("greet", "Greet {{ name }}.");
    let made = service.post("/v1/templates", &first).await;
    let view = made.expect(201);
    let id = view["id"].as_str().unwrap();
    assert_eq!((&view["name"], &view["version"], &view["template"]), (&json!("greet"), &json!(1), &first));
    assert_eq!(
        (made.header("etag"), made.header("location")),
        ("\"v1\"", format!("/v1/templates/{id}").as_str())
    );

    for name in ["greet", id] {
        let read = service.get(&format!("/v1/templates/{name}")).await;
        assert_eq!(read.expect(200), view);
        let again =
            service.request(Method::GET, &format!("/v1/templates/{name}")).header("if-none-match", "\"v1\"");
        let again = send(again).await;
        again.expect(304);
        assert_eq!((again.header("etag"), again.text.as_str()), ("\"v1\"", ""));
    }

    let versions = format!("/v1/templates/{id}/versions");
    let same = service.post(&versions, &first).await;
    assert_eq!(same.expect(200)["version"], 1);
    let second = template("greet", "Greet {{ name }} warmly, {{ times }} times.");
    let added = service.post(&versions, &second).await;
    assert_eq!((&added.expect(201)["version"], added.header("etag")), (&json!(2), "\"v2\""));
    let other = template("other", "x");
    assert_eq!(
        service.post(&versions, &other).await.problem(422, "invalid")["errors"][0]["pointer"],
        "/name"
    );
    let stale = service.request(Method::POST, &versions).header("if-match", "\"v1\"");
    send(stale.json(&template("greet", "Late."))).await.problem(412, "precondition_failed");

    assert_eq!(service.get(&format!("{versions}/1")).await.expect(200)["template"], first);
    assert_eq!(service.get(&format!("{versions}/2")).await.expect(200)["template"], second);
    for none in ["0", "3", "-1", "x", "4294967296"] {
        service.get(&format!("{versions}/{none}")).await.problem(404, "not_found");
    }
    let schema = service.get(&format!("{versions}/2/variables-schema")).await;
    assert_eq!(schema.expect(200)["required"], json!(["name", "times"]));
    assert_eq!(schema.header("content-type"), "application/schema+json");
    let listed = service.get(&versions).await;
    assert_eq!(listed.expect(200)["data"][0]["version"], 2);
    assert_eq!(listed.json["data"].as_array().unwrap().len(), 2);

    delete(&service, "greet", None).await.problem(428, "precondition_required");
    delete(&service, "greet", Some("\"v1\"")).await.problem(412, "precondition_failed");
    delete(&service, "greet", Some("\"v2\"")).await.expect(204);
    delete(&service, "greet", Some("*")).await.problem(404, "not_found");
    service.get("/v1/templates/greet").await.problem(404, "not_found");
    service.get(&format!("{versions}/1")).await.problem(404, "not_found");
}

#[tokio::test]
async fn the_text_of_a_template_is_kept_to_the_byte() {
    let service = Service::start().await;
    let text = "{ \"name\": \"exact\",\n \"messages\":[{\"role\":\"user\",\"content\":\"\\u00e4 1E5\"} ] }";
    let request = service
        .request(Method::POST, "/v1/templates")
        .header("content-type", "application/json; charset=utf-8");
    let made = send(request.body(text)).await;
    made.expect(201);
    assert!(made.text.ends_with(&format!("\"template\":{text}}}")), "{}", made.text);
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let service = Service::start().await;
    service.post("/v1/templates", &template("one", "x")).await.expect(201);
    service.post("/v1/templates", &template("one", "y")).await.problem(409, "conflict");
}

#[tokio::test]
async fn every_mistake_of_a_template_is_named_at_once() {
    let service = Service::start().await;
    let bad = json!({
        "name": "bad name", "colour": 1,
        "messages": [{"role": "user", "content": "{{ oops"}, {"role": "oracle", "content": "x"}],
    });
    let answer = service.post("/v1/templates", &bad).await;
    answer.problem(422, "invalid_template");
    let pointers = answer.pointers();
    for expected in ["/name", "/colour", "/messages/0/content", "/messages/1/role"] {
        assert!(pointers.contains(&expected), "{pointers:?}");
    }
}

#[tokio::test]
async fn templates_are_listed_by_name_page_by_page_while_they_change() {
    let service = Service::start().await;
    for n in 0..7 {
        service.post("/v1/templates", &template(&format!("t{n}"), "x")).await.expect(201);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/templates?limit=3".to_owned();
    loop {
        let page = service.get(&path).await;
        let data = page.expect(200)["data"].as_array().unwrap();
        assert!(data.iter().all(|entry| entry.get("template").is_none()));
        seen.extend(data.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()));
        let Some(cursor) = page.json["next_cursor"].as_str() else {
            assert_eq!(page.header("link"), "");
            break;
        };
        assert_eq!(page.header("link"), format!("</v1/templates?limit=3&cursor={cursor}>; rel=\"next\""));
        path = format!("/v1/templates?limit=3&cursor={cursor}");
        delete(&service, "t1", Some("*")).await;
        service.post("/v1/templates", &template("t00", "x")).await;
    }
    assert_eq!(seen, ["t0", "t1", "t2", "t3", "t4", "t5", "t6"]);
    for query in [
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=x",
        "cursor=AAAA",
        "colour=1",
        "limit=1&limit=2",
        "limit=",
        "cursor=",
    ] {
        service.get(&format!("/v1/templates?{query}")).await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn a_template_is_rendered_by_every_way_to_name_it() {
    let service = Service::start().await;
    let made = service.post("/v1/templates", &template("greet", "Greet {{ name }}.")).await;
    let id = made.expect(201)["id"].as_str().unwrap().to_owned();
    service.post("/v1/templates/greet/versions", &template("greet", "Hail {{ name }}.")).await.expect(201);
    let render = async |named: Value| {
        service.post("/v1/render", &json!({"template": named, "variables": {"name": "{{ Ada }}"}})).await
    };
    for (named, verb, version) in [
        (json!("greet"), "Hail", Some(2)),
        (json!("greet@1"), "Greet", Some(1)),
        (json!(id), "Hail", Some(2)),
        (json!(format!("{id}@1")), "Greet", Some(1)),
        (template("inline", "Bow to {{ name }}."), "Bow to", None),
    ] {
        let answer = render(named).await;
        let view = answer.expect(200);
        let messages = json!([{"role": "user", "content": format!("{verb} {{{{ Ada }}}}.")}]);
        assert_eq!((&view["messages"], &view["output"]), (&messages, &json!("text")));
        let reference = version.map_or(Value::Null, |version| json!({"id": id, "version": version}));
        assert_eq!(view["template"], reference);
        assert!(view["tokens_estimate"].as_u64().is_some_and(|tokens| tokens > 0));
    }
    for named in ["none", "greet@9", "greet@", "greet@01", ""] {
        let answer = render(json!(named)).await;
        answer.problem(422, "invalid");
        assert_eq!(answer.pointers(), ["/template"], "{named}");
    }
    let answer = render(template("inline", "{{ oops")).await;
    answer.problem(422, "invalid_template");
    assert_eq!(answer.pointers(), ["/template/messages/0/content"]);
    let answer =
        service.post("/v1/render", &json!({"template": "greet", "variables": {"nmae": "SECRET"}})).await;
    answer.problem(422, "invalid");
    assert!(answer.pointers().contains(&"/variables/name"), "{}", answer.text);
    assert!(!answer.text.contains("SECRET"));
}

async fn put_label(service: &Service, template: &str, label: &str, body: &Value) -> Answer {
    let path = format!("/v1/templates/{template}/labels/{label}");
    send(service.request(Method::PUT, &path).json(body)).await
}

async fn remove_label(service: &Service, template: &str, label: &str) -> Answer {
    send(service.request(Method::DELETE, &format!("/v1/templates/{template}/labels/{label}"))).await
}

#[tokio::test]
async fn a_label_is_put_moved_listed_and_taken_away() {
    let service = Service::start().await;
    let made = service.post("/v1/templates", &template("greet", "One.")).await;
    let id = made.expect(201)["id"].as_str().unwrap().to_owned();
    service.post("/v1/templates/greet/versions", &template("greet", "Two.")).await.expect(201);
    assert_eq!(service.get("/v1/templates/greet/labels").await.expect(200), &json!({"data": []}));
    let put = put_label(&service, "greet", "staging", &json!({"version": 2})).await;
    let staging = put.expect(200).clone();
    assert_eq!((&staging["label"], &staging["version"]), (&json!("staging"), &json!(2)));
    assert!(staging["changed_at"].is_string(), "{staging}");
    // The same again changes nothing, not even the time.
    let again = put_label(&service, &id, "staging", &json!({"version": 2})).await;
    assert_eq!(again.expect(200), &staging);
    put_label(&service, &id, "production", &json!({"version": 2})).await.expect(200);
    let moved = put_label(&service, "greet", "production", &json!({"version": 1})).await;
    let production = moved.expect(200).clone();
    assert_eq!(production["version"], 1);
    for named in ["greet", &id] {
        let listed = service.get(&format!("/v1/templates/{named}/labels")).await;
        assert_eq!(listed.expect(200), &json!({"data": [production, staging]}));
    }
    remove_label(&service, "greet", "staging").await.expect(204);
    remove_label(&service, "greet", "staging").await.problem(404, "not_found");
    assert_eq!(service.get("/v1/templates/greet/labels").await.expect(200)["data"], json!([production]));
    // A new version takes no label with it.
    service.post("/v1/templates/greet/versions", &template("greet", "Three.")).await.expect(201);
    assert_eq!(service.get("/v1/templates/greet/labels").await.expect(200)["data"], json!([production]));
    delete(&service, "greet", Some("*")).await.expect(204);
    service.get("/v1/templates/greet/labels").await.problem(404, "not_found");
    service.post("/v1/templates", &template("greet", "Anew.")).await.expect(201);
    assert_eq!(service.get("/v1/templates/greet/labels").await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn a_label_that_cannot_be_put_is_told_why() {
    let service = Service::start().await;
    service.post("/v1/templates", &template("greet", "One.")).await.expect(201);
    let one = json!({"version": 1});
    for label in ["1", "2b", "Production", "-a", ".a", "a%20b", "%C3%A4", "a%40b", &"x".repeat(51)] {
        let answer = put_label(&service, "greet", label, &one).await;
        answer.problem(400, "bad_request");
        let detail = answer.json["detail"].as_str().unwrap();
        assert!(detail.contains("a letter first"), "{label}: {detail}");
        remove_label(&service, "greet", label).await.problem(404, "not_found");
    }
    for (body, pointer) in [
        (json!({"version": 0}), "/version"),
        (json!({"version": 2}), "/version"),
        (json!({"version": -1}), "/version"),
        (json!({"version": "1"}), "/version"),
        (json!({"version": 1, "colour": 1}), "/colour"),
        (json!({}), ""),
    ] {
        let answer = put_label(&service, "greet", "production", &body).await;
        answer.problem(422, "invalid");
        assert_eq!(answer.pointers(), [pointer], "{body}: {}", answer.text);
    }
    put_label(&service, "absent", "production", &one).await.problem(404, "not_found");
    remove_label(&service, "absent", "production").await.problem(404, "not_found");
    assert_eq!(service.get("/v1/templates/greet/labels").await.expect(200)["data"], json!([]));
    for n in 0..20 {
        put_label(&service, "greet", &format!("label-{n}"), &one).await.expect(200);
    }
    let answer = put_label(&service, "greet", "one-more", &one).await;
    answer.problem(409, "conflict");
    assert!(answer.json["detail"].as_str().unwrap().contains("at most 20 labels"), "{}", answer.text);
    put_label(&service, "greet", &"x".repeat(50), &one).await.problem(409, "conflict");
    remove_label(&service, "greet", "label-0").await.expect(204);
    put_label(&service, "greet", &"x".repeat(50), &one).await.expect(200);
}

#[tokio::test]
async fn a_template_at_a_label_is_the_version_that_has_it_at_each_request() {
    let service = Service::start().await;
    let made = service.post("/v1/templates", &template("greet", "Greet {{ name }}.")).await;
    let id = made.expect(201)["id"].as_str().unwrap().to_owned();
    service.post("/v1/templates/greet/versions", &template("greet", "Hail {{ name }}.")).await.expect(201);
    let render = async |named: &str| {
        service.post("/v1/render", &json!({"template": named, "variables": {"name": "Ada"}})).await
    };
    for (version, text) in [(1, "Greet Ada."), (2, "Hail Ada."), (1, "Greet Ada.")] {
        put_label(&service, "greet", "production", &json!({"version": version})).await.expect(200);
        for named in ["greet@production".to_owned(), format!("{id}@production")] {
            let answer = render(&named).await;
            let view = answer.expect(200);
            assert_eq!(view["template"], json!({"id": id, "version": version}));
            assert_eq!(view["messages"][0]["content"], text);
        }
    }
    // A batch has the version of the moment in which it was made.
    let rows = json!([{"variables": {"name": "Ada"}}]);
    let batch = json!({"template": "greet@production", "model": "demo:any", "rows": rows});
    let batch = service.post("/v1/batches", &batch).await;
    assert_eq!(batch.expect(201)["template"], json!({"id": id, "version": 1}));
    put_label(&service, "greet", "production", &json!({"version": 2})).await.expect(200);
    let batch = service.get(&format!("/v1/batches/{}", batch.json["id"].as_str().unwrap())).await;
    assert_eq!(batch.expect(200)["template"], json!({"id": id, "version": 1}));

    remove_label(&service, "greet", "production").await.expect(204);
    for named in ["greet@production", "greet@staging", "absent@production", "greet@Production", "greet@1a"] {
        let answer = render(named).await;
        answer.problem(422, "invalid");
        assert_eq!(answer.pointers(), ["/template"], "{named}");
        let is_known = named.starts_with("greet@production") || named == "greet@staging";
        assert_eq!(answer.text.contains("the template has no such label"), is_known, "{}", answer.text);
    }
}

#[tokio::test]
async fn writers_with_the_same_tag_make_one_version() {
    let service = Service::start().await;
    service.post("/v1/templates", &template("race", "x")).await.expect(201);
    let writers = (0..20).map(|n| {
        let request =
            service.request(Method::POST, "/v1/templates/race/versions").header("if-match", "\"v1\"");
        tokio::spawn(send(request.json(&template("race", &format!("text {n}")))))
    });
    let mut made = 0;
    for writer in writers.collect::<Vec<_>>() {
        let answer = writer.await.unwrap();
        if answer.status == 201 {
            made += 1;
        } else {
            answer.problem(412, "precondition_failed");
        }
    }
    assert_eq!(made, 1);
    assert_eq!(service.get("/v1/templates/race").await.expect(200)["version"], 2);
}

#[tokio::test]
async fn versions_added_at_the_same_time_without_a_tag_all_count() {
    let service = Service::start().await;
    service.post("/v1/templates", &template("busy", "x")).await.expect(201);
    let writers = (0..4).map(|n| {
        let request = service.request(Method::POST, "/v1/templates/busy/versions");
        tokio::spawn(send(request.json(&template("busy", &format!("text {n}")))))
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap().expect(201);
    }
    assert_eq!(service.get("/v1/templates/busy").await.expect(200)["version"], 5);
}
