//! Clients and requests of the tests.

use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::{FailureKind, Message, ModelSettings, Role};
use promptmill_provider::{
    CallFailure, ChatProvider, ChatReply, ChatRequest, HttpClient, HttpOptions, Ollama, OllamaConfig,
    OpenAiCompatible, OpenAiCompatibleConfig, OpenRouter, OpenRouterConfig, ResponseFormat, Timeouts,
    http_client,
};

pub(crate) const KEY: &str = "sk-canary-0123456789";

pub(crate) fn client() -> HttpClient {
    // A second test of the same process finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    http_client(&HttpOptions::default()).expect("the options are the default ones")
}

/// Deadlines that a test never reaches by accident.
pub(crate) fn patient() -> Timeouts {
    let minute = Duration::from_secs(60);
    Timeouts { first_byte: minute, idle: minute, total: minute }
}

pub(crate) fn openrouter(url: &str, timeouts: Timeouts) -> OpenRouter {
    let config = OpenRouterConfig {
        base_url: format!("{url}/api/v1"),
        api_key: Some(KEY.into()),
        referer: Some("https://example.com".to_owned()),
        title: Some("promptmill".to_owned()),
        timeouts,
        ..OpenRouterConfig::default()
    };
    OpenRouter::new(config, &client()).expect("the configuration is valid")
}

pub(crate) fn openai(url: &str, timeouts: Timeouts) -> OpenAiCompatible {
    let config = OpenAiCompatibleConfig {
        base_url: format!("{url}/v1"),
        timeouts,
        ..OpenAiCompatibleConfig::default()
    };
    OpenAiCompatible::new(config, &client()).expect("the configuration is valid")
}

pub(crate) fn ollama(url: &str, timeouts: Timeouts) -> Ollama {
    let config = OllamaConfig { host: format!("{url}/prefix"), timeouts, ..OllamaConfig::default() };
    Ollama::new(config, &client()).expect("the configuration is valid")
}

pub(crate) fn request() -> ChatRequest {
    ChatRequest {
        model: "acme/m".into(),
        messages: vec![Message { role: Role::User, content: "hush-prompt".to_owned() }],
        settings: Arc::new(ModelSettings::default()),
        format: ResponseFormat::Text,
        seed_hint: 0,
        item_key: "item-7".into(),
        attempt: 1,
        deltas: None,
    }
}

pub(crate) async fn call(provider: &dyn ChatProvider) -> Result<ChatReply, CallFailure> {
    provider.chat(&request()).await
}

/// The call fails with this kind, and its message holds neither prompt nor reply nor key.
#[track_caller]
pub(crate) fn check_failure(result: Result<ChatReply, CallFailure>, kind: FailureKind) -> CallFailure {
    let failure = result.expect_err("the call must fail");
    assert_eq!(failure.kind, kind, "{failure}");
    assert!(!failure.message.contains("hush") && !failure.message.contains("canary"), "{failure}");
    failure
}
