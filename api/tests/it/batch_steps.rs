//! What several tests do with batches: make one, wait for its end, read its results, settle items by hand.

use std::sync::Arc;

use bytes::Bytes;
use promptmill_domain::{
    BatchId, Ending, FailureKind, LeaseToken, Outcome, Output, Release, SessionId, SettledItem, Totals,
};
use promptmill_ports::{Lease, SettleGroup, Settled, encode_outcome};
use promptmill_runtime::Engine;
use reqwest::Method;
use serde_json::{Value, json};

use crate::scripted::Scripted;
use crate::support::{Answer, Options, Service, send, wait_for};

/// A working service over a scripted provider.
pub(crate) async fn scripted_service() -> (Service, Arc<Scripted>) {
    let provider = Scripted::new();
    let options = Options { providers: vec![provider.clone()], ..Options::working() };
    (Service::start_with(options).await, provider)
}

/// A template that says its one variable.
pub(crate) fn template() -> Value {
    json!({ "name": "saying", "messages": [{ "role": "user", "content": "{{ text }}" }] })
}

/// Rows `{"custom_id": "r<n>", "variables": {"text": ...}}`.
pub(crate) fn rows(texts: impl IntoIterator<Item = impl Into<String>>) -> Value {
    let row =
        |(n, text): (usize, String)| json!({ "custom_id": format!("r{n}"), "variables": { "text": text } });
    Value::Array(texts.into_iter().map(Into::into).enumerate().map(row).collect())
}

/// Makes and submits a batch; answers its id.
pub(crate) async fn submit(service: &Service, model: &str, rows: Value) -> String {
    let body = json!({ "template": template(), "model": model, "rows": rows });
    let answer = service.post("/v1/batches", &body).await;
    answer.expect(201)["id"].as_str().unwrap().to_owned()
}

/// Waits until the batch is final; answers it.
pub(crate) async fn until_final(service: &Service, id: &str) -> Value {
    wait_for("the batch ends", async || {
        let answer = service.get(&format!("/v1/batches/{id}")).await;
        let state = answer.expect(200)["state"].as_str().unwrap_or_default().to_owned();
        matches!(state.as_str(), "completed" | "cancelled" | "expired").then_some(answer.json)
    })
    .await
}

/// Results as they are asked for with `query`, line by line.
pub(crate) async fn results(service: &Service, id: &str, query: &str) -> Vec<Value> {
    let answer = service.get(&format!("/v1/batches/{id}/results{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    lines(&answer.text)
}

/// The lines of JSON Lines.
pub(crate) fn lines(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is cut");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The values of one member.
pub(crate) fn members<'a>(lines: &'a [Value], member: &str) -> Vec<&'a Value> {
    lines.iter().map(|line| &line[member]).collect()
}

/// POST without a body that matters.
pub(crate) async fn steer(service: &Service, id: &str, step: &str) -> Answer {
    send(service.request(Method::POST, &format!("/v1/batches/{id}/{step}")).json(&json!({}))).await
}

/// Settles items by hand, where no worker runs.
pub(crate) struct Hand {
    engine: Engine,
    batch: BatchId,
    leases: Vec<(Lease, u32)>,
}

impl Hand {
    /// Takes every chunk of a batch.
    pub(crate) async fn take(engine: &Engine, id: &str) -> Self {
        let batch: BatchId = id.parse().unwrap();
        let owner = SessionId::from_bytes(*batch.as_bytes());
        let store = &engine.store;
        store.open(owner, "hand").await.unwrap();
        let chunks = store.waiting(batch, 10_000).await.unwrap();
        let chunks = store.admit(&chunks, 1).await.unwrap();
        let tokens: Vec<_> =
            (1..).zip(chunks).map(|(n, chunk)| (chunk, LeaseToken::from_bytes([n as u8; 16]))).collect();
        let leases = store.claim(owner, &tokens, 1).await.unwrap();
        Self { engine: engine.clone(), batch, leases: leases.into_iter().map(|lease| (lease, 0)).collect() }
    }

    /// Settles the item with this body, whatever it is.
    pub(crate) async fn settle_as(&mut self, index: u32, outcome: &Outcome, body: Bytes) {
        let holds = |lease: &Lease| {
            let base = lease.head.base;
            (base..base + lease.head.len()).contains(&index)
        };
        let (lease, seq) = self.leases.iter_mut().find(|(lease, _)| holds(lease)).unwrap();
        *seq += 1;
        let item = SettledItem { offset: index - lease.head.base, code: outcome.code() };
        let group = SettleGroup {
            chunk: lease.head.chunk,
            token: lease.token,
            settled: vec![(item, body)],
            parked: vec![],
            seq: *seq,
            spent: Totals::default(),
            release: Release::Keep,
        };
        let settled = self.engine.store.settle([group].into(), 1).await.unwrap();
        assert!(matches!(settled[..], [Settled::Recorded { .. }]), "{} {settled:?}", self.batch);
    }

    /// Settles the item as a success with this text.
    pub(crate) async fn succeed(&mut self, index: u32, text: &str) {
        let ending = Ending::Succeeded { output: Output::Text(text.to_owned()), repaired: false };
        let outcome = outcome(index, ending);
        self.settle_as(index, &outcome, encode_outcome(&outcome)).await;
    }

    /// Settles the item as failed.
    pub(crate) async fn fail(&mut self, index: u32, kind: FailureKind) {
        let outcome = outcome(index, Ending::Failed { kind, message: "by hand".to_owned() });
        self.settle_as(index, &outcome, encode_outcome(&outcome)).await;
    }
}

/// An outcome of the row that [`rows`] made at `index`.
pub(crate) fn outcome(index: u32, ending: Ending) -> Outcome {
    let (attempts, cut, flags) = (Vec::new(), Totals::default(), Vec::new());
    Outcome { custom_id: Some(format!("r{index}")), ending, attempts, cut, flags }
}
