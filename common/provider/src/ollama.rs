//! Ollama's native API, local, remote or in its cloud: streamed chat calls, one JSON object a line.
//!
//! Streamed, because then an idle deadline can tell a slow model from a dead server, and because only the native API
//! knows the context size and reports an error in the middle of a reply.

mod body;
mod host;
mod stream;

use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::{FailureKind, Flag};
use secrecy::SecretString;
use serde::Deserialize;

pub use host::parse_ollama_host;

use crate::chat::{ChatProvider, ChatReply, ChatRequest, DeltaSink, ModelListing};
use crate::classify::{Finding, by_status, says_context_too_long};
use crate::client::HttpClient;
use crate::endpoint::{Endpoint, InvalidConfig};
use crate::error_body::ErrorFacts;
use crate::failure::{CallFailure, with_limits};
use crate::http::{Incoming, MAX_STREAM_BYTES, Timeouts, WholeReply};
use crate::reply;
use stream::{Progress, StreamReader};

/// Where an Ollama server is and who calls.
#[derive(Debug, Clone)]
pub struct OllamaConfig {
    /// The provider's name in our configuration. Default `ollama`.
    pub name: String,
    /// The credential's name, for the lane; not the secret. Default `default`.
    pub credential: String,
    /// `OLLAMA_HOST`, in any form [`parse_ollama_host`] reads. Default empty: `http://127.0.0.1:11434`.
    pub host: String,
    /// `OLLAMA_API_KEY`, for `https://ollama.com` or a proxy that asks for one.
    pub api_key: Option<SecretString>,
    /// Deadlines of a call. Default [`Timeouts::ollama`].
    pub timeouts: Timeouts,
}

impl Default for OllamaConfig {
    fn default() -> Self {
        Self {
            name: "ollama".to_owned(),
            credential: "default".to_owned(),
            host: String::new(),
            api_key: None,
            timeouts: Timeouts::ollama(),
        }
    }
}

/// The client of an Ollama server.
#[derive(Debug)]
pub struct Ollama {
    name: String,
    credential: String,
    endpoint: Endpoint,
}

impl Ollama {
    /// A client by this configuration.
    ///
    /// # Errors
    /// The host or the key cannot be used.
    pub fn new(config: OllamaConfig, client: &HttpClient) -> Result<Self, InvalidConfig> {
        let base = parse_ollama_host(&config.host)?;
        let paths = ["api/chat", "api/tags"];
        let endpoint = Endpoint::new(client, &base, paths, config.api_key.as_ref(), config.timeouts)?;
        Ok(Self { name: config.name, credential: config.credential, endpoint })
    }
}

#[async_trait]
impl ChatProvider for Ollama {
    fn name(&self) -> &str {
        &self.name
    }

    fn credential_name(&self) -> &str {
        &self.credential
    }

    fn server(&self) -> String {
        self.endpoint.address()
    }

    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, CallFailure> {
        let body = body::write(request)?;
        let incoming = self.endpoint.chat(request, body).await?;
        let limits = incoming.limits();
        let result = if incoming.is_success() {
            read_stream(incoming, request.deltas.clone()).await
        } else {
            Err(error_reply(&incoming.read_error().await))
        };
        with_limits(result, limits)
    }

    async fn models(&self) -> Result<Vec<ModelListing>, CallFailure> {
        let incoming = self.endpoint.models().await?;
        if !incoming.is_success() {
            return Err(error_reply(&incoming.read_error().await));
        }
        let reply = incoming.read_whole().await?;
        let list: ModelList = serde_json::from_slice(&reply.body).map_err(|_| reply::malformed(&reply))?;
        Ok(list.models.into_iter().map(Model::into_listing).collect())
    }
}

async fn read_stream(mut incoming: Incoming, deltas: Option<DeltaSink>) -> Result<ChatReply, CallFailure> {
    incoming.check_head(MAX_STREAM_BYTES)?;
    let status = incoming.status();
    let mut reader = StreamReader::telling(deltas);
    loop {
        let chunk = incoming.chunk(MAX_STREAM_BYTES).await?;
        let at_end = chunk.is_none();
        let progress = match &chunk {
            Some(chunk) => reader.push(chunk),
            None => reader.finish(),
        };
        match progress {
            Progress::More if !at_end => {}
            Progress::Done(whole) => {
                incoming.read_tail(MAX_STREAM_BYTES).await;
                return whole.into_reply(status);
            }
            Progress::Error(facts) => return Err(classify(facts, status, None)),
            Progress::More | Progress::Malformed(_) | Progress::TooLarge => {
                return Err(stream_failure(&progress, &incoming));
            }
        }
    }
}

fn stream_failure(progress: &Progress, incoming: &Incoming) -> CallFailure {
    let failure = match progress {
        Progress::TooLarge => {
            CallFailure::new(FailureKind::ReplyTooLarge, "a line of the stream is larger than we read")
        }
        Progress::Malformed(line_bytes) => {
            let content_type = incoming.content_type();
            let message = format!(
                "a line of {line_bytes} bytes is not the JSON the protocol says (content type {content_type})"
            );
            CallFailure::new(FailureKind::MalformedReply, message)
        }
        Progress::More | Progress::Done(_) | Progress::Error(_) => {
            CallFailure::new(FailureKind::MalformedReply, "the stream ended before the model was done")
        }
    };
    failure.with_status(incoming.status())
}

impl stream::Whole {
    fn into_reply(self, status: u16) -> Result<ChatReply, CallFailure> {
        if let Some((kind, message)) = reply::unusable(&self.content, &self.finish, false) {
            let mut failure = CallFailure::new(kind, message).with_status(status);
            failure.usage = self.usage;
            return Err(failure);
        }
        let mut flags = Vec::new();
        if self.cut {
            flags.push(Flag::ReplyCut);
        }
        if self.surrogates_replaced {
            flags.push(Flag::SurrogatesReplaced);
        }
        if self.usage.is_none() {
            flags.push(Flag::UsageUnknown);
        }
        let Self { content, finish, usage, .. } = self;
        Ok(ChatReply { content, finish, usage, status, flags, ..ChatReply::default() })
    }
}

fn error_reply(reply: &WholeReply) -> CallFailure {
    classify(ErrorFacts::from_body(&reply.body, &reply.content_type), reply.status, reply.retry_after)
}

/// The status decides; only for a refused request, a broken runner and an error inside a stream do the words.
fn classify(facts: ErrorFacts, wire_status: u16, retry_after: Option<Duration>) -> CallFailure {
    let status =
        if (200..300).contains(&wire_status) { facts.status_code().unwrap_or(500) } else { wire_status };
    let words = facts.message.to_ascii_lowercase();
    let kind = match status {
        400 | 413 | 500 if says_context_too_long(&words) => FailureKind::ContextTooLong,
        // A wrong option reaches the server's default branch, a 500, and would do so each time.
        500 if words.starts_with("option \"") || words.starts_with("invalid format") => {
            FailureKind::RequestRefused
        }
        405 => FailureKind::RequestRefused,
        status => by_status(status),
    };
    Finding { kind, message: facts.message, wire_status, status, retry_after, retryable: None }.into_failure()
}

#[derive(Deserialize)]
struct ModelList {
    #[serde(default)]
    models: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    name: String,
    #[serde(default)]
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    context_length: Option<u32>,
}

impl Model {
    fn into_listing(self) -> ModelListing {
        let context_length = self.details.and_then(|details| details.context_length);
        // The server constrains by grammar, whatever the model.
        ModelListing {
            id: self.name,
            context_length,
            structured_outputs: Some(true),
            ..ModelListing::default()
        }
    }
}

#[cfg(test)]
mod tests;
