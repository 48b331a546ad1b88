//! What tests of batches share: bodies, journeys, and a provider that answers as its model's name says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use promptmill_domain::{FailureKind, Tokens};
use promptmill_provider::{CallFailure, ChatProvider, ChatReply, ChatRequest, ModelListing};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{Answer, Options, Service, send, wait_for};

/// An inline template with one string variable.
pub(crate) fn template() -> Value {
    json!({
        "name": "ask",
        "messages": [{"role": "user", "content": "Say something about {{ topic }}."}],
        "variables": {"topic": {"type": "string", "max_length": 40}}
    })
}

/// Rows `{"variables": {"topic": "topic N"}}`.
pub(crate) fn rows(n: usize) -> Value {
    (0..n).map(|n| json!({"variables": {"topic": format!("topic {n}")}})).collect()
}

/// A body with an inline template and the model that answers at once.
pub(crate) fn body(extra: Value) -> Value {
    let mut body = json!({"template": template(), "model": "stage:quick"});
    merge(&mut body, extra);
    body
}

/// `extra`'s members into `body`.
pub(crate) fn merge(body: &mut Value, extra: Value) {
    let (Value::Object(body), Value::Object(extra)) = (body, extra) else { panic!("both are objects") };
    body.extend(extra);
}

/// A provider for tests: model `quick` answers at once, `hold` when told, `broken` refuses the content, `refused` is refused the key.
#[derive(Default)]
pub(crate) struct Stage {
    /// Calls that wait.
    pub(crate) held: AtomicUsize,
    leave: Option<Semaphore>,
}

impl Stage {
    /// One whose `hold` waits for [`Stage::let_go`].
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), leave: Some(Semaphore::new(0)) })
    }

    /// Lets so many calls of `hold` end.
    pub(crate) fn let_go(&self, calls: usize) {
        self.leave.as_ref().unwrap().add_permits(calls);
    }

    /// Waits until exactly so many calls are held.
    pub(crate) async fn holds(&self, calls: usize) {
        let look = async || (self.held.load(Ordering::SeqCst) == calls).then_some(());
        wait_for(&format!("{calls} calls are under way"), look).await;
    }
}

#[async_trait]
impl ChatProvider for Stage {
    fn name(&self) -> &str {
        "stage"
    }

    fn credential_name(&self) -> &str {
        "test"
    }

    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, CallFailure> {
        if request.model.starts_with("hold") {
            self.held.fetch_add(1, Ordering::SeqCst);
            let leave = self.leave.as_ref().unwrap().acquire().await.unwrap();
            leave.forget();
            self.held.fetch_sub(1, Ordering::SeqCst);
        }
        if request.model.starts_with("broken") {
            return Err(CallFailure::new(FailureKind::ContentRefused, "no"));
        }
        let usage = Some(Tokens { prompt: 3, completion: 2 });
        let said = &request.messages.last().unwrap().content;
        Ok(ChatReply { content: format!("{said} Yes."), usage, status: 200, ..ChatReply::default() })
    }

    async fn models(&self) -> Result<Vec<ModelListing>, CallFailure> {
        Ok(Vec::new())
    }
}

/// API, worker and scheduler over a [`Stage`].
pub(crate) async fn working(stage: &Arc<Stage>) -> Service {
    working_with(stage, Options::default()).await
}

/// The same with other options.
pub(crate) async fn working_with(stage: &Arc<Stage>, options: Options) -> Service {
    let providers = vec![stage.clone() as Arc<dyn ChatProvider>];
    Service::start_with(Options { providers, working: true, ..options }).await
}

/// The API alone over a [`Stage`].
pub(crate) async fn idle() -> Service {
    idle_with(Options::default()).await
}

/// The same with other options.
pub(crate) async fn idle_with(options: Options) -> Service {
    let providers = vec![Stage::new() as Arc<dyn ChatProvider>];
    Service::start_with(Options { providers, ..options }).await
}

/// Makes a batch; answers its id.
#[track_caller]
pub(crate) fn made(answer: &Answer) -> String {
    let id = answer.expect(201)["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), format!("/v1/batches/{id}"));
    id
}

/// A draft; answers its id.
pub(crate) async fn draft(service: &Service) -> String {
    made(&service.post("/v1/batches", &body(json!({}))).await)
}

/// Sends a part as JSON Lines.
pub(crate) async fn put_part(service: &Service, id: &str, part: u32, rows: impl Into<String>) -> Answer {
    put_as(service, id, part, "application/x-ndjson", &[], rows.into().into_bytes()).await
}

/// Sends a part of that type with further headers.
pub(crate) async fn put_as(
    service: &Service,
    id: &str,
    part: u32,
    kind: &str,
    headers: &[(&str, &str)],
    rows: Vec<u8>,
) -> Answer {
    let mut request = service.request(Method::PUT, &format!("/v1/batches/{id}/rows/{part}"));
    request = request.header("content-type", kind).body(rows);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(request).await
}

/// Lines `{"topic": "topic N"}`.
pub(crate) fn lines(n: usize) -> String {
    (0..n).map(|n| format!("{{\"topic\":\"topic {n}\"}}\n")).collect()
}

/// Waits until the batch is in that state; answers it.
pub(crate) async fn in_state(service: &Service, id: &str, state: &str) -> Value {
    wait_for(&format!("the batch is {state}"), async || {
        let batch = service.get(&format!("/v1/batches/{id}")).await.json;
        (batch["state"] == state).then_some(batch)
    })
    .await
}

/// A moment in the future as the wire has it.
pub(crate) fn later() -> String {
    "2126-01-01T00:00:00.000Z".to_owned()
}
