//! Any server that speaks OpenAI's chat API: OpenAI itself, llama.cpp, vLLM, LM Studio, TGI and others.
//!
//! Their dialects differ in the field that limits the output and most of all in their errors, which are read by every
//! word they have before the status is asked.

use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::FailureKind;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use crate::chat::{ChatProvider, ChatReply, ChatRequest, ModelListing};
use crate::chat_stream;
use crate::classify::{Finding, by_status, says_context_too_long};
use crate::client::HttpClient;
use crate::endpoint::{Endpoint, InvalidConfig, parse_base_url};
use crate::error_body::ErrorFacts;
use crate::failure::CallFailure;
use crate::http::{Timeouts, WholeReply};
use crate::reply;
use crate::request_body::{self, Dialect};

const OPENAI_HOST: &str = "api.openai.com";
/// OpenAI refuses `max_tokens` for its newer models, and `strict` with a schema that breaks its rules.
const OPENAI: Dialect = Dialect { max_tokens: "max_completion_tokens", strict: keeps_strict_rules, ..OTHERS };
/// The local servers ignore `max_completion_tokens`. Those that stream (llama.cpp, vLLM, LM Studio, Ollama) know
/// `stream_options.include_usage`; for one that does not, `extra` may hold `"stream_options": null`.
const OTHERS: Dialect =
    Dialect { max_tokens: "max_tokens", strict: |_| true, require_parameters: false, asks_for_usage: true };

/// Where the server is and who calls.
#[derive(Debug, Clone)]
pub struct OpenAiCompatibleConfig {
    /// The provider's name in our configuration. Default `openai`.
    pub name: String,
    /// The credential's name, for the lane; not the secret. Default `default`.
    pub credential: String,
    /// `OPENAI_BASE_URL`. Default `https://api.openai.com/v1`.
    pub base_url: String,
    /// `OPENAI_API_KEY`. Local servers mostly need none.
    pub api_key: Option<SecretString>,
    /// Deadlines of a call. Default [`Timeouts::openai_compatible`].
    pub timeouts: Timeouts,
}

impl Default for OpenAiCompatibleConfig {
    fn default() -> Self {
        Self {
            name: "openai".to_owned(),
            credential: "default".to_owned(),
            base_url: "https://api.openai.com/v1".to_owned(),
            api_key: None,
            timeouts: Timeouts::openai_compatible(),
        }
    }
}

/// The client of an OpenAI-compatible server.
#[derive(Debug)]
pub struct OpenAiCompatible {
    name: String,
    credential: String,
    endpoint: Endpoint,
    dialect: Dialect,
}

impl OpenAiCompatible {
    /// A client by this configuration.
    ///
    /// # Errors
    /// The base URL or the key cannot be used.
    pub fn new(config: OpenAiCompatibleConfig, client: &HttpClient) -> Result<Self, InvalidConfig> {
        let base = parse_base_url(&config.base_url)?;
        let dialect = if base.host_str() == Some(OPENAI_HOST) { OPENAI } else { OTHERS };
        let paths = ["chat/completions", "models"];
        let endpoint = Endpoint::new(client, &base, paths, config.api_key.as_ref(), config.timeouts)?;
        Ok(Self { name: config.name, credential: config.credential, endpoint, dialect })
    }
}

#[async_trait]
impl ChatProvider for OpenAiCompatible {
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
        let body = request_body::write(request, self.dialect)?;
        chat_stream::call(&self.endpoint, request, body, classify, error_reply).await
    }

    async fn models(&self) -> Result<Vec<ModelListing>, CallFailure> {
        let incoming = self.endpoint.models().await?;
        if !incoming.is_success() {
            return Err(error_reply(&incoming.read_error().await));
        }
        let reply = incoming.read_whole().await?;
        let list: ModelList = serde_json::from_slice(&reply.body).map_err(|_| reply::malformed(&reply))?;
        Ok(list.data.into_iter().map(Model::into_listing).collect())
    }
}

/// OpenAI's rules for `strict`: every object closed and all of its properties required.
fn keeps_strict_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(object) => {
            let closed = match object.get("properties").and_then(Value::as_object) {
                Some(properties) => {
                    let required = object.get("required").and_then(Value::as_array);
                    let is_required = |name: &String| {
                        required.is_some_and(|names| names.iter().any(|n| n.as_str() == Some(name)))
                    };
                    object.get("additionalProperties") == Some(&Value::Bool(false))
                        && properties.keys().all(is_required)
                }
                None => object.get("type").and_then(Value::as_str) != Some("object"),
            };
            closed && object.values().all(keeps_strict_rules)
        }
        Value::Array(items) => items.iter().all(keeps_strict_rules),
        _ => true,
    }
}

fn error_reply(reply: &WholeReply) -> CallFailure {
    classify(ErrorFacts::from_body(&reply.body, &reply.content_type), reply.status, reply.retry_after)
}

/// The error's own words (`code`, then `type`) first, then the status and what the message says.
fn classify(facts: ErrorFacts, wire_status: u16, retry_after: Option<Duration>) -> CallFailure {
    let status =
        if (200..300).contains(&wire_status) { facts.status_code().unwrap_or(502) } else { wire_status };
    let words = [&facts.code, &facts.kind, &facts.error_type];
    let kind =
        words.into_iter().flatten().find_map(|word| by_word(word, status)).unwrap_or_else(|| match status {
            400 | 413 | 422 if says_context_too_long(&facts.message) => FailureKind::ContextTooLong,
            status => by_status(status),
        });
    Finding { kind, message: facts.message, wire_status, status, retry_after, retryable: None }.into_failure()
}

/// The words of OpenAI, Azure, llama.cpp and vLLM whose meaning is finer than their status.
fn by_word(word: &str, status: u16) -> Option<FailureKind> {
    Some(match word {
        // Both come as a 429, but waiting does not fill an account.
        "insufficient_quota"
        | "billing_hard_limit_reached"
        | "billing_not_active"
        | "insufficient_balance" => FailureKind::PaymentRequired,
        "model_not_found" | "model_not_available" | "DeploymentNotFound" => FailureKind::ModelUnavailable,
        "not_found_error" | "NotFoundError" if status == 404 => FailureKind::ModelUnavailable,
        "context_length_exceeded" | "exceed_context_size_error" | "string_above_max_length" => {
            FailureKind::ContextTooLong
        }
        "invalid_api_key" | "authentication_error" | "permission_error" | "account_deactivated" => {
            FailureKind::CredentialRefused
        }
        "rate_limit_exceeded" | "rate_limit_error" => FailureKind::RateLimited,
        "content_filter" | "content_policy_violation" | "invalid_prompt" | "ResponsibleAIPolicyViolation" => {
            FailureKind::ContentRefused
        }
        // llama.cpp while it loads its model.
        "unavailable_error" | "overloaded_error" | "engine_overloaded" => FailureKind::ProviderOverloaded,
        _ => return None,
    })
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
    /// Some routers.
    #[serde(default)]
    context_length: Option<Value>,
    /// vLLM.
    #[serde(default)]
    max_model_len: Option<Value>,
}

impl Model {
    fn into_listing(self) -> ModelListing {
        let count =
            |value: Option<Value>| value.and_then(|value| value.as_u64()).and_then(|n| u32::try_from(n).ok());
        let context_length = count(self.context_length).or_else(|| count(self.max_model_len));
        ModelListing { id: self.id, context_length, ..ModelListing::default() }
    }
}

#[cfg(test)]
mod tests;
