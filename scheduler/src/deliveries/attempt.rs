//! One try of a delivery: open the secret, sign, post, record.

use std::sync::Arc;
use std::time::Duration;

use promptmill_egress::{Answer, GuardedClient, HeaderMap, Secret, SendError, signature};
use promptmill_ports::{Delivery, DeliveryAttempt, DeliveryState};
use promptmill_runtime::Engine;
use secrecy::ExposeSecret as _;
use tokio::time::Instant;

use crate::config::Webhooks;

/// The status by which a receiver says that it wants no more.
const GONE: u16 = 410;

/// A try to be made.
pub(super) struct Attempt {
    pub(super) engine: Engine,
    pub(super) webhooks: Arc<Webhooks>,
    /// `None` where this process can call nobody.
    pub(super) client: Option<GuardedClient>,
    pub(super) delivery: Delivery,
}

/// What a try came to.
struct Tried {
    status: Option<u16>,
    /// One word for metrics.
    class: &'static str,
    /// In words that may be shown to the tenant.
    error: Option<String>,
    retry_after: Option<Duration>,
    /// How the answer begins.
    answer: Option<String>,
}

/// Bytes of an answer that are kept.
const KEPT_ANSWER: usize = 1024;

impl Attempt {
    /// Makes the try and records it. A try that could not be recorded is repeated when the delivery is due again.
    pub(super) async fn run(self) {
        let at_ms = self.engine.clock.now_ms();
        let started = Instant::now();
        let tried = self.send(at_ms / 1000).await;
        let took = started.elapsed();
        self.engine.metrics.webhook(tried.class);
        let attempt = DeliveryAttempt {
            at_ms,
            duration_ms: u32::try_from(took.as_millis()).unwrap_or(u32::MAX),
            status: tried.status,
            error: tried.error,
            answer: tried.answer,
        };
        let now_ms = self.engine.clock.now_ms();
        let (state, due_ms) = match (&attempt.error, tried.status) {
            (None, _) => (DeliveryState::Delivered, now_ms),
            (Some(_), Some(GONE)) => (DeliveryState::GivenUp, now_ms),
            (Some(_), _) => self.later(now_ms, tried.retry_after),
        };
        let delivery = &self.delivery;
        tracing::debug!(
            batch.id = %delivery.batch,
            delivery.id = %delivery.id,
            attempt.number = delivery.attempts.len() + 1,
            duration_ms = attempt.duration_ms,
            result = tried.class,
            "a delivery was tried"
        );
        if state == DeliveryState::GivenUp {
            tracing::warn!(batch.id = %delivery.batch, delivery.id = %delivery.id, result = tried.class, "a delivery was given up");
        }
        if let Err(error) = self.engine.records.record_attempt(delivery.id, &attempt, state, due_ms).await {
            tracing::warn!(delivery.id = %delivery.id, error = %error, "a try could not be recorded; it is repeated");
        }
    }

    fn later(&self, now_ms: u64, retry_after: Option<Duration>) -> (DeliveryState, u64) {
        let tries = self.delivery.attempts.len() + 1;
        match self.webhooks.schedule.next(tries, rand::random(), retry_after) {
            Some(wait) => {
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                (DeliveryState::Pending, now_ms.saturating_add(wait_ms))
            }
            None => (DeliveryState::GivenUp, now_ms),
        }
    }

    async fn send(&self, timestamp_s: u64) -> Tried {
        let Some(client) = &self.client else {
            return Tried::unsent("client", "this installation cannot call receivers");
        };
        let Some(headers) = self.headers(timestamp_s) else {
            return Tried::unsent("secret", "the signing secret cannot be opened");
        };
        let Delivery { url, body, .. } = &self.delivery;
        match client.post(url, headers, body.clone(), self.webhooks.deadlines).await {
            Ok(answer) => Tried::of(&answer),
            Err(error) => Tried::failed(error),
        }
    }

    /// The signed headers; `None` when the secret does not open.
    fn headers(&self, timestamp_s: u64) -> Option<HeaderMap> {
        let delivery = &self.delivery;
        let context = format!("{}|webhook|{}", delivery.tenant, delivery.batch);
        let opened = match self.webhooks.vault.open(&context, &delivery.sealed_secret) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(batch.id = %delivery.batch, error = %error, "a signing secret cannot be opened");
                return None;
            }
        };
        let secret = Secret::parse(std::str::from_utf8(opened.expose_secret()).ok()?).ok()?;
        signature::headers(&delivery.event.to_string(), timestamp_s, &delivery.body, &[secret]).ok()
    }
}

impl Tried {
    fn of(answer: &Answer) -> Self {
        let status = answer.status;
        let (class, error) = match status {
            200..=299 => ("delivered", None),
            300..=399 => ("redirect", Some("the receiver redirects, which is not followed")),
            GONE => ("gone", Some("the receiver wants no more")),
            _ => ("status", Some("the receiver did not take it")),
        };
        Self {
            status: Some(status),
            class,
            error: error.map(str::to_owned),
            retry_after: answer.retry_after,
            answer: kept(&answer.first_bytes),
        }
    }

    fn failed(error: SendError) -> Self {
        Self::unsent(error.class(), &error.to_string())
    }

    fn unsent(class: &'static str, error: &str) -> Self {
        Self { status: None, class, error: Some(error.to_owned()), retry_after: None, answer: None }
    }
}

/// The beginning of an answer as text; bytes that are none are replaced.
fn kept(bytes: &[u8]) -> Option<String> {
    let mut end = bytes.len().min(KEPT_ANSWER);
    // Not in the midst of a character, which has four bytes at most.
    while bytes.get(end).is_some_and(|next| next & 0b1100_0000 == 0b1000_0000) && end + 3 > KEPT_ANSWER {
        end -= 1;
    }
    // No store takes a NUL in a text for granted.
    let mut text = String::from_utf8_lossy(&bytes[..end]).replace('\0', "\u{fffd}");
    // What was replaced became longer.
    text.truncate(text.floor_char_boundary(KEPT_ANSWER));
    (!text.is_empty()).then_some(text)
}
