//! What a batch's submit asks of others, and whom its end is told.

use std::sync::Arc;

use async_trait::async_trait;
use promptmill_domain::FailureKind;
use promptmill_egress::Signer;
use promptmill_egress::signature::sign;
use promptmill_provider::{CallFailure, ChatProvider, ChatReply, ChatRequest, ModelListing};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::desk::{Stage, body, idle, lines, made, put_part, rows, working};
use crate::support::{Options, Service, send, wait_for};

/// A provider of that name whose list of models is `listed`, or fails for that reason.
struct Listing(&'static str, Result<&'static [&'static str], FailureKind>);

#[async_trait]
impl ChatProvider for Listing {
    fn name(&self) -> &str {
        self.0
    }

    fn credential_name(&self) -> &str {
        "test"
    }

    async fn chat(&self, _: &ChatRequest) -> Result<ChatReply, CallFailure> {
        Ok(ChatReply { content: "Yes.".to_owned(), status: 200, ..ChatReply::default() })
    }

    async fn models(&self) -> Result<Vec<ModelListing>, CallFailure> {
        let listed = self.1.map_err(|kind| CallFailure::new(kind, "no"))?;
        Ok(listed.iter().map(|id| ModelListing { id: (*id).to_owned(), ..ModelListing::default() }).collect())
    }
}

#[tokio::test]
async fn a_submit_asks_the_provider_whether_calls_have_a_chance() {
    let providers: Vec<Arc<dyn ChatProvider>> = vec![
        Arc::new(Listing("locked", Err(FailureKind::CredentialRefused))),
        Arc::new(Listing("away", Err(FailureKind::ConnectionFailed))),
        Arc::new(Listing("listless", Err(FailureKind::ProviderError))),
        Arc::new(Listing("ollama", Ok(&["small:latest", "big:70b"]))),
    ];
    let service = Service::start_with(Options { providers, ..Options::default() }).await;
    let cases = [
        ("locked:x", Some("locked refuses the key")),
        ("ollama:big", Some("ollama pull big")),
        ("ollama:small", None),
        ("ollama:big:70b", None),
        ("away:x", None),
        ("listless:x", None),
    ];
    for (model, refused) in cases {
        let id = made(&service.post("/v1/batches", &body(json!({"model": model}))).await);
        put_part(&service, &id, 0, lines(1)).await.expect(200);
        let submit = service.post(&format!("/v1/batches/{id}/submit"), &Value::Null).await;
        let inline = service.post("/v1/batches", &body(json!({"model": model, "rows": rows(1)}))).await;
        match refused {
            None => {
                submit.expect(200);
                inline.expect(201);
            }
            Some(words) => {
                for answer in [submit, inline] {
                    answer.problem(422, "invalid");
                    assert_eq!(answer.pointers(), ["/model"]);
                    assert!(answer.text.contains(words), "{}", answer.text);
                }
                assert_eq!(service.get(&format!("/v1/batches/{id}")).await.json["state"], "draft");
            }
        }
    }
}

#[tokio::test]
async fn the_end_of_a_batch_is_posted_and_the_delivery_shown() {
    let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", receiver.local_addr().unwrap());
    let service = working(&Stage::new()).await;
    let wish = json!({"rows": rows(2), "webhook_url": url, "metadata": {"k": 1}});
    let answer = service.post("/v1/batches", &body(wish)).await;
    let (id, secret) = (made(&answer), answer.json["webhook_secret"].as_str().unwrap().to_owned());

    let (mut socket, _) = receiver.accept().await.unwrap();
    let mut request = Vec::new();
    let (head, payload) = loop {
        socket.read_buf(&mut request).await.unwrap();
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, payload)) = text.split_once("\r\n\r\n")
            && payload.ends_with('}')
        {
            break (head.to_ascii_lowercase(), payload.to_owned());
        }
    };
    socket.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
    drop(socket);
    let event: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!((&event["type"], &event["data"]["batch_id"]), (&json!("batch.completed"), &json!(id)));
    assert_eq!(event["data"]["metadata"], json!({"k": 1}));
    let header = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_default().to_owned()
    };
    let (event_id, at) = (header("webhook-id"), header("webhook-timestamp").parse().unwrap());
    let signed = sign(&event_id, at, payload.as_bytes(), &[Signer::parse(&secret).unwrap()]);
    assert_eq!(header("webhook-signature"), signed.to_ascii_lowercase());

    let delivery = wait_for("the delivery is over", async || {
        let list = service.get(&format!("/v1/batches/{id}/deliveries")).await.json["data"].clone();
        (list[0]["state"] == "delivered").then(|| list[0].clone())
    })
    .await;
    assert_eq!((&delivery["event_id"], &delivery["type"]), (&json!(event_id), &json!("batch.completed")));
    assert_eq!((&delivery["url"], &delivery["due_at"]), (&json!(url), &Value::Null));
    assert_eq!(
        (&delivery["attempts"][0]["status"], &delivery["attempts"][0]["error"]),
        (&json!(204), &Value::Null)
    );
}

#[tokio::test]
async fn the_answer_to_a_key_outlives_the_process() {
    let service = idle().await;
    let wish = body(json!({"rows": rows(3)}));
    let create = async |service: &Service| {
        let request = service.request(Method::POST, "/v1/batches").header("idempotency-key", "k");
        send(request.json(&wish)).await
    };
    let first = create(&service).await;
    let folder = service.stop().await;
    let providers = vec![Stage::new() as Arc<dyn ChatProvider>];
    let service = Service::start_on(folder, Options { providers, ..Options::default() }).await;
    let again = create(&service).await;
    assert_eq!((made(&again), again.header("idempotency-replayed")), (made(&first), "true"));
}
