use reqwest::Method;
use serde_json::json;

use crate::batch_steps::{rows, scripted_service, steer, submit, until_final};
use crate::scripted::Scripted;
use crate::sse::Events;
use crate::support::{Options, Service, send, wait_for};

async fn events(service: &Service, id: &str, last: Option<&str>) -> reqwest::Response {
    let mut request = service.request(Method::GET, &format!("/v1/batches/{id}/events"));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_watcher_sees_the_batch_from_its_first_snapshot_to_its_last() {
    let (service, provider) = scripted_service().await;
    let id = submit(&service, "scripted:held", rows((0..20).map(|n| n.to_string()))).await;
    let mut stream = Events::of(events(&service, &id, None).await);
    let first = stream.next().await.unwrap();
    assert_eq!((first.name.as_str(), &first.data["counts"]["settled"]), ("batch", &json!(0)));
    provider.let_go(7);
    let mut seen = vec![first];
    while seen.last().unwrap().data["counts"]["settled"] != 7 {
        seen.push(stream.next().await.unwrap());
    }
    steer(&service, &id, "pause").await.expect(200);
    while seen.last().unwrap().data["state"] != "paused" {
        seen.push(stream.next().await.unwrap());
    }
    steer(&service, &id, "resume").await.expect(200);
    provider.let_go(100);
    seen.extend(stream.rest().await);
    let last = seen.last().unwrap();
    assert_eq!((&last.data["state"], &last.data["counts"]["settled"]), (&json!("completed"), &json!(20)));
    let mut ids: Vec<(u64, u64)> = Vec::new();
    for event in &seen {
        let id = event.id.as_deref().unwrap();
        let (revision, settled) = id.split_once('.').unwrap();
        assert_eq!(event.data["revision"], revision.parse::<u64>().unwrap());
        assert_eq!(event.data["counts"]["settled"], settled.parse::<u64>().unwrap());
        ids.push((revision.parse().unwrap(), settled.parse().unwrap()));
    }
    assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");

    // Whoever comes back gets the newest snapshot, and nothing when it is the last one it has.
    let early = Events::of(events(&service, &id, seen[0].id.as_deref()).await).rest().await;
    assert_eq!(early.len(), 1);
    assert_eq!(early[0].id, last.id);
    let none = events(&service, &id, last.id.as_deref()).await;
    assert_eq!(none.status(), 204);
}

#[tokio::test]
async fn a_connection_cut_anywhere_loses_nothing_that_counts() {
    let (service, provider) = scripted_service().await;
    let id = submit(&service, "scripted:held", rows((0..60).map(|n| n.to_string()))).await;
    let mut last: Option<String> = None;
    let mut settled = 0;
    loop {
        provider.let_go(3);
        let response = events(&service, &id, last.as_deref()).await;
        if response.status() == 204 {
            break;
        }
        // One event a connection, then it breaks.
        let event = Events::of(response).next().await.unwrap();
        let now = event.data["counts"]["settled"].as_u64().unwrap();
        assert!(now >= settled);
        settled = now;
        last = event.id;
    }
    assert_eq!(settled, 60);
}

#[tokio::test]
async fn streams_end_when_the_service_stops_or_the_batch_is_deleted() {
    let (service, provider) = scripted_service().await;
    let id = submit(&service, "scripted:held", rows(["a"])).await;
    let mut stream = Events::of(events(&service, &id, None).await);
    stream.next().await.unwrap();
    provider.let_go(1);
    until_final(&service, &id).await;
    stream.rest().await;

    let body = json!({ "template": crate::batch_steps::template(), "model": "scripted:echo" });
    let draft = service.post("/v1/batches", &body).await.expect(201)["id"].as_str().unwrap().to_owned();
    let mut deleted = Events::of(events(&service, &draft, None).await);
    deleted.next().await.unwrap();
    let gone = service.request(Method::DELETE, &format!("/v1/batches/{draft}")).send().await.unwrap();
    assert_eq!(gone.status(), 204);
    deleted.rest().await;

    let waiting = submit(&service, "scripted:held", rows(["a"])).await;
    let mut stream = Events::of(events(&service, &waiting, None).await);
    stream.next().await.unwrap();
    let reading = tokio::spawn(stream.rest());
    provider.let_go(1);
    wait_for("the call is made", async || (provider.calls() >= 2).then_some(())).await;
    service.stop().await;
    reading.await.unwrap();
}

#[tokio::test]
async fn a_watcher_whose_key_is_revoked_sees_no_more() {
    let (service, _provider) = scripted_service().await;
    let id = submit(&service, "scripted:held", rows(["one"])).await;
    let watcher = service.key_of("default", promptmill_ports::Role::Viewer, &[]).await;
    let request = service.request_as(&watcher, Method::GET, &format!("/v1/batches/{id}/events"));
    let mut stream = Events::of(request.send().await.unwrap());
    assert!(stream.next().await.is_some());
    let keys = service.get("/v1/keys").await.json["data"].clone();
    let viewer = keys.as_array().unwrap().iter().find(|key| key["role"] == "viewer").unwrap();
    let path = format!("/v1/keys/{}", viewer["id"].as_str().unwrap());
    assert_eq!(send(service.request(Method::DELETE, &path)).await.status, 204);
    // Ends although the batch does not.
    stream.rest().await;
    assert_ne!(service.get(&format!("/v1/batches/{id}")).await.json["state"], "completed");
}

#[tokio::test]
async fn who_watches_a_batch_shares_it_with_those_of_its_tenant_alone() {
    let (service, provider) = scripted_service().await;
    let id = submit(&service, "scripted:held", rows(["one"])).await;
    let other = service.key_of("acme", promptmill_ports::Role::Owner, &[]).await;
    let path = format!("/v1/batches/{id}/events");
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = Events::of(events(&service, &id, None).await);
        stream.next().await.unwrap();
        streams.push(stream);
        let refused = send(service.request_as(&other, Method::GET, &path)).await;
        refused.problem(404, "not_found");
    }
    provider.let_go(1);
    for stream in streams {
        assert_eq!(stream.rest().await.last().unwrap().data["state"], "completed");
    }
}

#[tokio::test]
async fn streams_are_bounded_for_a_tenant_and_for_all_and_their_places_come_free() {
    for (of_all, of_tenant) in [(10, 2), (2, 10)] {
        let mut options = Options { providers: vec![Scripted::new()], ..Options::working() };
        options.config.streams = of_all;
        options.config.streams_per_tenant = of_tenant;
        let service = Service::start_with(options).await;
        let id = submit(&service, "scripted:held", rows(["one"])).await;
        let held = [events(&service, &id, None).await, events(&service, &id, None).await];
        let path = format!("/v1/batches/{id}/events");
        let refused = service.get(&path).await;
        refused.problem(429, "too_many_requests");
        assert_eq!(refused.header("retry-after"), "5");
        assert_eq!(service.get(&format!("/v1/batches/{id}")).await.status, 200);
        drop(held);
        wait_for("a place is free again", async || {
            (events(&service, &id, None).await.status() == 200).then_some(())
        })
        .await;
    }
}
