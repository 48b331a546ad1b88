//! One try of a delivery: open the secret, sign, post, record.

use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::{Endpoint, EndpointState, Reached, Webhook};
use promptmill_egress::{Answer, GuardedClient, HeaderMap, SendError, Signer, extra_headers, signature};
use promptmill_mail::{Address, MailError};
use promptmill_ports::{Attempted, Delivery, DeliveryAttempt, DeliveryState, StoreError, StoreResult};
use promptmill_runtime::Engine;
use secrecy::ExposeSecret as _;
use tokio::time::Instant;

use super::book::Book;
use super::disabled;
use super::mail::{self, MAILTO};
use crate::config::Webhooks;

/// The status by which a receiver says that it wants no more.
const GONE: u16 = 410;

/// A try to be made.
pub(super) struct Attempt {
    pub(super) engine: Engine,
    pub(super) book: Arc<Book>,
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
    /// Whether to try it again does not help.
    is_final: bool,
}

impl Attempt {
    /// Makes the try; answers what is to be recorded. Nothing where it could not be made: it is when the delivery is due again.
    pub(super) async fn run(self) -> Option<Attempted> {
        let at_ms = self.engine.clock.now_ms();
        let address = self.delivery.url.strip_prefix(MAILTO);
        let to = match self.receiver(at_ms).await {
            _ if address.is_some() => None,
            Ok(to) => to,
            Err(error) => {
                tracing::warn!(delivery.id = %self.delivery.id, error = %error, "whom a delivery goes to could not be read; it is repeated");
                return None;
            }
        };
        let started = Instant::now();
        let tried = match (&to, address) {
            (_, Some(address)) => self.mail(address).await,
            (Some(to), None) => self.send(to, at_ms / 1000).await,
            (None, None) => Tried::final_failure("disabled", "the endpoint is switched off or deleted"),
        };
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
        let (state, due_ms) = match &attempt.error {
            None => (DeliveryState::Delivered, now_ms),
            Some(_) if tried.is_final => (DeliveryState::GivenUp, now_ms),
            Some(_) => self.later(now_ms, tried.retry_after),
        };
        let delivery = &self.delivery;
        tracing::debug!(
            batch.id = delivery.batch.map(tracing::field::display),
            delivery.id = %delivery.id,
            attempt.number = delivery.attempts.len() + 1,
            duration_ms = attempt.duration_ms,
            result = tried.class,
            "a delivery was tried"
        );
        if state == DeliveryState::GivenUp {
            tracing::warn!(batch.id = delivery.batch.map(tracing::field::display), delivery.id = %delivery.id, result = tried.class, "a delivery was given up");
        }
        if let Some(Receiver { endpoint: Some(endpoint), .. }) = &to
            && !OURS.contains(&tried.class)
        {
            self.tell_endpoint(endpoint, &attempt).await;
        }
        Some(Attempted { id: delivery.id, attempt: Some(attempt), state, due_ms })
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

    /// Where the delivery goes now, and what it is signed with; `None` where its endpoint wants no events any more.
    async fn receiver(&self, now_ms: u64) -> StoreResult<Option<Receiver>> {
        let delivery = &self.delivery;
        let Some(id) = delivery.endpoint else {
            // Nobody but its batch names who is to be told.
            let Some(batch) = delivery.batch else { return Ok(None) };
            let context = Webhook::context(&delivery.tenant, batch);
            let sealed = vec![delivery.sealed_secret.clone()];
            return Ok(Some(Receiver { url: delivery.url.clone(), context, sealed, endpoint: None }));
        };
        match self.book.endpoint(&delivery.tenant, id).await {
            Ok(endpoint) if endpoint.state == EndpointState::Enabled => {
                let sealed = endpoint.secrets_at(now_ms).map(str::to_owned).collect();
                let context = Endpoint::context(&delivery.tenant, id);
                Ok(Some(Receiver { url: endpoint.url.clone(), context, sealed, endpoint: Some(endpoint) }))
            }
            Ok(_) | Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends it as a mail.
    async fn mail(&self, address: &str) -> Tried {
        let Some(mailer) = &self.webhooks.mailer else {
            return Tried::unsent("client", "this installation sends no mail");
        };
        let (Some(to), Ok(text)) = (Address::parse(address), std::str::from_utf8(&self.delivery.body)) else {
            return Tried::final_failure("address", "the address is none");
        };
        // Neither a replay nor a mend that came before makes another mail of it.
        let was_sent = self.delivery.attempts.iter().any(|attempt| attempt.error.is_none());
        match self.still_named(address).await {
            Ok(true) if !was_sent => {}
            Ok(_) => {
                return Tried::final_failure("disabled", "it was sent before, or is not to be told any more");
            }
            Err(_) => return Tried::unsent("client", "the endpoint could not be read"),
        }
        let id = self.delivery.id.to_string();
        match mailer.send(&id, &to, mail::SUBJECT, text.to_owned()).await {
            Ok(()) => Tried { error: None, ..Tried::unsent("delivered", "") },
            Err(ref error @ MailError::NotTaken(ref cause)) => {
                let cause = cause.as_ref().map(tracing::field::display);
                tracing::warn!(delivery.id = %self.delivery.id, cause, "the mail server did not take a mail");
                Tried::unsent("connection", &error.to_string())
            }
            Err(error) => Tried::final_failure("refused", &error.to_string()),
        }
    }

    /// Whether the endpoint that a mail tells of is switched off still, and names that address.
    async fn still_named(&self, address: &str) -> StoreResult<bool> {
        let Some(id) = self.delivery.endpoint else { return Ok(false) };
        match self.book.endpoint(&self.delivery.tenant, id).await {
            Ok(endpoint) => {
                let is_off = endpoint.state != EndpointState::Enabled;
                Ok(is_off && endpoint.email.as_deref() == Some(address))
            }
            Err(StoreError::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn send(&self, to: &Receiver, timestamp_s: u64) -> Tried {
        let Some(client) = &self.client else {
            return Tried::unsent("client", "this installation cannot call receivers");
        };
        let Some(headers) = self.headers(to, timestamp_s) else {
            return Tried::unsent("secret", "the signing secret or the headers cannot be opened");
        };
        match client.post(&to.url, headers, self.delivery.body.clone(), self.webhooks.deadlines).await {
            Ok(answer) => Tried::of(&answer),
            Err(error) => Tried::failed(error),
        }
    }

    /// The signed headers, and those that the tenant set; `None` when something of them does not open.
    fn headers(&self, to: &Receiver, timestamp_s: u64) -> Option<HeaderMap> {
        let delivery = &self.delivery;
        let open = |sealed: &String| {
            let opened = match self.webhooks.vault.open(&to.context, sealed) {
                Ok(opened) => opened,
                Err(error) => {
                    tracing::error!(delivery.id = %delivery.id, error = %error, "a signing secret cannot be opened");
                    return None;
                }
            };
            Signer::parse(std::str::from_utf8(opened.expose_secret()).ok()?)
        };
        let signers = to.sealed.iter().map(open).collect::<Option<Vec<_>>>()?;
        let mut headers =
            signature::headers(&delivery.event.to_string(), timestamp_s, &delivery.body, &signers).ok()?;
        if let Some(set) = to.endpoint.as_ref().and_then(|endpoint| endpoint.headers.as_ref()) {
            let context = Endpoint::headers_context(&delivery.tenant, delivery.endpoint?);
            let opened = self.webhooks.vault.open(&context, &set.sealed).ok()?;
            headers.extend(extra_headers(&serde_json::from_slice(opened.expose_secret()).ok()?).ok()?);
        }
        Some(headers)
    }

    /// Notes on its endpoint what the try came to, where that changes anything: since when it fails, and that it is switched off.
    /// `known` is what it was before the try.
    async fn tell_endpoint(&self, known: &Endpoint, attempt: &DeliveryAttempt) {
        let id = known.id;
        let reached = match (&attempt.error, attempt.status) {
            (None, _) => Reached::Taken,
            (Some(_), Some(GONE)) => Reached::Gone,
            (Some(_), _) => Reached::Failed,
        };
        // Mostly there is nothing to note, which needs no look.
        if !known.clone().tried(reached, attempt.at_ms) {
            return;
        }
        let records = &self.engine.records;
        for _ in 0..CHANGES {
            let changed = async {
                let mut endpoint = records.endpoint(&self.delivery.tenant, id).await?;
                if !endpoint.tried(reached, attempt.at_ms) {
                    return Ok(true);
                }
                endpoint.ver += 1;
                let is_off = endpoint.state != EndpointState::Enabled;
                let done = records.put_endpoint(&endpoint).await?;
                if done && is_off && known.state == EndpointState::Enabled {
                    tracing::warn!(endpoint.id = %id, "an endpoint is switched off; it was not reached for long, or wants no more");
                    self.book.forget(&endpoint.tenant);
                    disabled::tell(&self.engine, &self.book, &self.webhooks, &endpoint).await?;
                }
                Ok(done)
            };
            match changed.await {
                Ok(true) | Err(StoreError::NotFound) => return self.book.forget(&self.delivery.tenant),
                // Somebody else changed it meanwhile.
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(endpoint.id = %id, error = %error, "what a try came to could not be noted on its endpoint");
                    return;
                }
            }
        }
    }
}

/// Whom a delivery goes to.
struct Receiver {
    url: String,
    /// What its secrets are sealed for.
    context: String,
    /// As they are kept, the newest first.
    sealed: Vec<String>,
    /// As it is; nothing of a webhook of a batch.
    endpoint: Option<Endpoint>,
}

/// Failures that say nothing of the receiver.
const OURS: [&str; 3] = ["client", "secret", "refused"];

/// How often a change of an endpoint is tried that others come before.
const CHANGES: u32 = 10;

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
            answer: answer.text(),
            is_final: status == GONE,
        }
    }

    fn failed(error: SendError) -> Self {
        Self::unsent(error.class(), &error.to_string())
    }

    fn unsent(class: &'static str, error: &str) -> Self {
        let error = Some(error.to_owned());
        Self { status: None, class, error, retry_after: None, answer: None, is_final: false }
    }

    fn final_failure(class: &'static str, error: &str) -> Self {
        Self { is_final: true, ..Self::unsent(class, error) }
    }
}
