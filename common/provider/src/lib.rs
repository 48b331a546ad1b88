//! Clients of the providers: OpenRouter, Ollama, any OpenAI-compatible server, and a scripted one that needs no network.
//!
//! Start at [`ChatProvider`]. A call either gives a complete reply ([`ChatReply`]) or says by its cause why there is none
//! ([`CallFailure`]); judging a reply, retrying and keeping a lane's limit are the caller's business.
//! Nothing here logs prompts, replies or keys, and no error text holds them.

pub mod chat;
pub mod client;
pub mod demo;
pub mod endpoint;
pub mod failure;
pub mod http;
pub mod ollama;
pub mod openai_compatible;
pub mod openrouter;

mod chat_stream;
mod classify;
mod error_body;
mod gathered;
mod limits;
mod reply;
mod request_body;
mod retry_after;
mod scrub;
mod sse;
mod surrogates;
#[cfg(test)]
mod tests_support;

pub use chat::{
    ChatProvider, ChatReply, ChatRequest, Credential, Delta, DeltaSink, Finish, ModelListing, ResponseFormat,
    ResponseSchema,
};
pub use client::{HttpClient, HttpClientError, HttpOptions, http_client};
pub use demo::Demo;
pub use endpoint::InvalidConfig;
pub use failure::CallFailure;
pub use http::Timeouts;
pub use ollama::{Ollama, OllamaConfig, parse_ollama_host};
pub use openai_compatible::{OpenAiCompatible, OpenAiCompatibleConfig};
pub use openrouter::{OpenRouter, OpenRouterConfig};

/// The most bytes of a reply that are read from the wire; more is [`promptmill_domain::FailureKind::ReplyTooLarge`].
pub const MAX_REPLY_WIRE_BYTES: usize = 8 * 1024 * 1024;

/// The most bytes of a reply's text that are kept; a longer one is cut and flagged [`promptmill_domain::Flag::ReplyCut`].
pub const MAX_REPLY_CONTENT_BYTES: usize = 1024 * 1024;
