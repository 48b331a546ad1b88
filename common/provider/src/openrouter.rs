//! OpenRouter: chat calls, streamed only where somebody watches, its error vocabulary, its prices.
//!
//! Every field beyond the choices is optional here, since the documentation and the servers disagree about most of them.

use std::time::Duration;

use async_trait::async_trait;
use hyper::Uri;
use promptmill_domain::{FailureKind, Money};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::chat::{ChatProvider, ChatReply, ChatRequest, Credential, ModelListing};
use crate::chat_stream;
use crate::classify::{Finding, by_status, says_context_too_long};
use crate::client::HttpClient;
use crate::endpoint::{Endpoint, InvalidConfig, join, parse_base_url};
use crate::error_body::ErrorFacts;
use crate::failure::CallFailure;
use crate::http::{Timeouts, WholeReply};
use crate::reply;
use crate::request_body::{self, Dialect};

/// A stream tells its usage without being asked.
const DIALECT: Dialect =
    Dialect { max_tokens: "max_tokens", strict: |_| true, require_parameters: true, asks_for_usage: false };

/// Where OpenRouter is and who calls.
#[derive(Debug, Clone)]
pub struct OpenRouterConfig {
    /// The provider's name in our configuration. Default `openrouter`.
    pub name: String,
    /// The credential's name, for the lane; not the secret. Default `default`.
    pub credential: String,
    /// `OPENROUTER_BASE_URL`. Default `https://openrouter.ai/api/v1`.
    pub base_url: String,
    /// `OPENROUTER_API_KEY`. Without one every call is refused by the server.
    pub api_key: Option<SecretString>,
    /// URL of the application, sent as `HTTP-Referer` for attribution.
    pub referer: Option<String>,
    /// Title of the application, sent as `X-OpenRouter-Title`; shown only together with `referer`.
    pub title: Option<String>,
    /// Deadlines of a call. Default [`Timeouts::openrouter`].
    pub timeouts: Timeouts,
}

impl Default for OpenRouterConfig {
    fn default() -> Self {
        Self {
            name: "openrouter".to_owned(),
            credential: "default".to_owned(),
            base_url: "https://openrouter.ai/api/v1".to_owned(),
            api_key: None,
            referer: None,
            title: None,
            timeouts: Timeouts::openrouter(),
        }
    }
}

/// The client of OpenRouter.
#[derive(Debug)]
pub struct OpenRouter {
    name: String,
    credential: String,
    endpoint: Endpoint,
    /// Where the account's facts about the key are.
    key: Uri,
}

impl OpenRouter {
    /// A client by this configuration.
    ///
    /// # Errors
    /// The base URL, the key or a header's text cannot be used.
    pub fn new(config: OpenRouterConfig, client: &HttpClient) -> Result<Self, InvalidConfig> {
        let base = parse_base_url(&config.base_url)?;
        let paths = ["chat/completions", "models"];
        let mut endpoint = Endpoint::new(client, &base, paths, config.api_key.as_ref(), config.timeouts)?;
        if let Some(referer) = &config.referer {
            endpoint.header("http-referer", referer)?;
        }
        if let Some(title) = &config.title {
            endpoint.header("x-openrouter-title", title)?;
        }
        Ok(Self { name: config.name, credential: config.credential, endpoint, key: join(&base, "key")? })
    }
}

#[async_trait]
impl ChatProvider for OpenRouter {
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
        let body = request_body::write(request, DIALECT)?;
        chat_stream::call(&self.endpoint, request, body, classify, error_reply).await
    }

    async fn models(&self) -> Result<Vec<ModelListing>, CallFailure> {
        let incoming = self.endpoint.models().await?;
        if !incoming.is_success() {
            return Err(error_reply(&incoming.read_error().await));
        }
        let reply = incoming.read_whole().await?;
        let list: ModelList<'_> =
            serde_json::from_slice(&reply.body).map_err(|_| reply::malformed(&reply))?;
        Ok(list.data.into_iter().map(Model::into_listing).collect())
    }

    fn lists_prices(&self) -> bool {
        true
    }

    /// The list of models is open to anyone, so the key itself is asked about.
    async fn check_credential(&self) -> Result<Credential, CallFailure> {
        let incoming = self.endpoint.get(&self.key).await?;
        if !incoming.is_success() {
            return Err(error_reply(&incoming.read_error().await));
        }
        Ok(credential(&incoming.read_whole().await?.body))
    }
}

/// What `GET /key` tells; what it does not, or tells in a way we do not know, is left out.
fn credential(body: &[u8]) -> Credential {
    #[derive(Deserialize)]
    struct Key<'a> {
        #[serde(borrow)]
        data: KeyData<'a>,
    }
    #[derive(Deserialize)]
    struct KeyData<'a> {
        #[serde(borrow, default)]
        limit_remaining: Option<&'a RawValue>,
    }
    let left = |raw: &RawValue| match raw.get() {
        // One that is overdrawn has nothing left.
        text if text.starts_with('-') => Some(Money::ZERO),
        text => reply::money(text),
    };
    let told = serde_json::from_slice::<Key<'_>>(body).ok();
    Credential { left: told.and_then(|key| key.data.limit_remaining).and_then(left) }
}

fn error_reply(reply: &WholeReply) -> CallFailure {
    let mut failure =
        classify(ErrorFacts::from_body(&reply.body, &reply.content_type), reply.status, reply.retry_after);
    failure.generation.clone_from(&reply.generation);
    failure
}

/// `error_type` first, since it is the stable vocabulary, then `availability`, then the status and the words.
fn classify(facts: ErrorFacts, wire_status: u16, retry_after: Option<Duration>) -> CallFailure {
    let status =
        if (200..300).contains(&wire_status) { facts.status_code().unwrap_or(502) } else { wire_status };
    let availability = facts.availability.as_ref();
    let kind = facts
        .error_type
        .as_deref()
        .and_then(by_error_type)
        .or_else(|| availability.and_then(|availability| by_availability(&availability.code)))
        .unwrap_or_else(|| by_status_and_words(status, &facts));
    Finding {
        kind,
        wire_status,
        status,
        retry_after: retry_after.or_else(|| availability.and_then(|availability| availability.retry_after)),
        retryable: availability.and_then(|availability| availability.retryable),
        message: facts.message,
    }
    .into_failure()
}

fn by_error_type(word: &str) -> Option<FailureKind> {
    Some(match word {
        // A row's own length: other rows of the batch may well pass.
        "context_length_exceeded" | "token_limit_exceeded" | "string_too_long" | "payload_too_large" => {
            FailureKind::ContextTooLong
        }
        // `invalid_prompt` is what a provider's usage policy answers to a prompt it does not like.
        "content_policy_violation" | "refusal" | "invalid_prompt" => FailureKind::ContentRefused,
        "authentication" | "permission_denied" => FailureKind::CredentialRefused,
        "payment_required" => FailureKind::PaymentRequired,
        "rate_limit_exceeded" => FailureKind::RateLimited,
        "provider_overloaded" => FailureKind::ProviderOverloaded,
        "provider_unavailable" | "server" => FailureKind::ProviderError,
        "timeout" => FailureKind::Timeout,
        "not_found" => FailureKind::ModelUnavailable,
        "max_tokens_exceeded"
        | "invalid_request"
        | "precondition_failed"
        | "unprocessable"
        | "invalid_image"
        | "image_too_large"
        | "image_too_small"
        | "unsupported_image_format"
        | "image_not_found"
        | "image_download_failed" => FailureKind::RequestRefused,
        // `unmapped` and words of a later day.
        _ => return None,
    })
}

fn by_availability(code: &str) -> Option<FailureKind> {
    Some(match code {
        "model_not_found"
        | "no_endpoints"
        | "model_deprecated"
        | "model_unavailable_upstream"
        | "region_restricted"
        | "privacy_restricted"
        | "constraint_filtered"
        | "free_variant_ended" => FailureKind::ModelUnavailable,
        "wrong_endpoint" => FailureKind::RequestRefused,
        "capacity_exhausted" | "temporarily_unavailable" => FailureKind::ProviderOverloaded,
        _ => return None,
    })
}

fn by_status_and_words(status: u16, facts: &ErrorFacts) -> FailureKind {
    let words = facts.message.to_ascii_lowercase();
    match status {
        400 | 413 | 422 if says_context_too_long(&words) => FailureKind::ContextTooLong,
        400 | 403 if facts.moderated => FailureKind::ContentRefused,
        400 if words.contains("not a valid model") => FailureKind::ModelUnavailable,
        400 | 403
            if ["content policy", "moderation", "guardrail", "flagged"]
                .iter()
                .any(|sign| words.contains(sign)) =>
        {
            FailureKind::ContentRefused
        }
        _ => by_status(status),
    }
}

#[derive(Deserialize)]
struct ModelList<'a> {
    #[serde(borrow)]
    data: Vec<Model<'a>>,
}

#[derive(Deserialize)]
struct Model<'a> {
    id: String,
    #[serde(default)]
    context_length: Option<Value>,
    #[serde(borrow, default)]
    pricing: Option<Pricing<'a>>,
    #[serde(default)]
    top_provider: Option<TopProvider>,
    #[serde(default)]
    supported_parameters: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Pricing<'a> {
    #[serde(borrow, default)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow, default)]
    completion: Option<&'a RawValue>,
    #[serde(borrow, default)]
    request: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct TopProvider {
    #[serde(default)]
    max_completion_tokens: Option<Value>,
}

impl Model<'_> {
    fn into_listing(self) -> ModelListing {
        let count =
            |value: Option<&Value>| value.and_then(Value::as_u64).and_then(|count| u32::try_from(count).ok());
        let price = |raw: Option<&RawValue>| raw.and_then(|raw| reply::money(raw.get()));
        ModelListing {
            context_length: count(self.context_length.as_ref()),
            max_completion_tokens: count(
                self.top_provider.as_ref().and_then(|top| top.max_completion_tokens.as_ref()),
            ),
            prompt_price: price(self.pricing.as_ref().and_then(|pricing| pricing.prompt)),
            completion_price: price(self.pricing.as_ref().and_then(|pricing| pricing.completion)),
            request_price: price(self.pricing.as_ref().and_then(|pricing| pricing.request)),
            structured_outputs: self
                .supported_parameters
                .map(|names| names.iter().any(|name| name == "structured_outputs")),
            id: self.id,
        }
    }
}

#[cfg(test)]
mod tests;
