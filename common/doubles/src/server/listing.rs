//! What providers say beside chatting: models, keys, versions.

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request};
use serde_json::{Value, json};

use super::chat::check_key;
use super::{Shared, wrong_method};
use crate::config::Provider;
use crate::dialect;
use crate::plan::{FaultPlan, Preset};
use crate::request::Refusal;
use crate::wire::{Answer, JSON};

const LARGEST_BODY: usize = 1 << 20;
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const MODIFIED: &str = "2026-01-01T00:00:00Z";

/// The answer to `below`, a path below the provider's base path.
pub(super) async fn listing(
    provider: Provider,
    below: &str,
    request: Request<Incoming>,
    shared: &Shared,
) -> Answer {
    let method = request.method().clone();
    let expected = match (provider, below) {
        (Provider::Ollama, "/api/show") => Method::POST,
        (Provider::Ollama, "" | "/" | "/api/tags" | "/api/version" | "/api/ps")
        | (Provider::OpenRouter, "/models" | "/key")
        | (Provider::OpenAi, "/models") => Method::GET,
        _ => return dialect::refusal(provider, &Refusal::new(404, "404 page not found")),
    };
    let is_probe = provider == Provider::Ollama && below.len() <= 1;
    if method != expected && !(is_probe && method == Method::HEAD) {
        return wrong_method(provider);
    }
    // OpenRouter lists its models to anyone.
    let open = provider == Provider::OpenRouter && below == "/models";
    if !open && let Err(refusal) = key_refused(provider, &request, shared) {
        return dialect::refusal(provider, &refusal);
    }
    let models = models(provider, shared);
    let value = match (provider, below) {
        (Provider::OpenRouter, "/key") => key(),
        (Provider::OpenRouter, _) => {
            json!({"data": models.iter().map(|id| openrouter_model(id)).collect::<Vec<_>>()})
        }
        (Provider::OpenAi, _) => {
            let list: Vec<Value> = models
                .iter()
                .map(|id| json!({"id": id, "object": "model", "created": 1_767_225_600, "owned_by": "library"}))
                .collect();
            json!({"object": "list", "data": list})
        }
        (Provider::Ollama, "/api/version") => json!({"version": "0.33.0"}),
        (Provider::Ollama, "/api/tags" | "/api/ps") => {
            let loaded = below == "/api/ps";
            json!({"models": models.iter().map(|name| ollama_model(name, loaded)).collect::<Vec<_>>()})
        }
        (Provider::Ollama, "/api/show") => return show(request, &models, shared).await,
        (Provider::Ollama, _) => return Answer::whole(200, "text/plain", "Ollama is running"),
    };
    Answer::whole(200, JSON, value.to_string())
}

fn key_refused(provider: Provider, request: &Request<Incoming>, shared: &Shared) -> Result<(), Refusal> {
    // A plan that refuses every chat for its key refuses the key everywhere else, too.
    if provider != Provider::Ollama && *shared.plan() == FaultPlan::from(Preset::RefusedKey) {
        return Err(Refusal::new(401, "No auth credentials found"));
    }
    check_key(provider, request.headers(), shared)
}

fn models(provider: Provider, shared: &Shared) -> Vec<String> {
    if !shared.config.models.is_empty() {
        return shared.config.models.clone();
    }
    let names: &[&str] = match provider {
        Provider::Ollama => &["acme:8b", "acme:latest"],
        Provider::OpenRouter | Provider::OpenAi => &["acme/model-a", "acme/model-b"],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn openrouter_model(id: &str) -> Value {
    json!({
        "id": id, "canonical_slug": id, "name": id, "created": 1_767_225_600, "context_length": 131_072,
        "architecture": {
            "modality": "text->text", "input_modalities": ["text"], "output_modalities": ["text"],
            "tokenizer": "Other", "instruct_type": null,
        },
        "pricing": {"prompt": "0.0000005", "completion": "0.0000015", "request": "0"},
        "top_provider": {"context_length": 131_072, "max_completion_tokens": 16_384, "is_moderated": false},
        "per_request_limits": null,
        "supported_parameters": ["max_tokens", "temperature", "response_format", "structured_outputs"],
        "default_parameters": {"temperature": null}, "supported_voices": null, "expiration_date": null,
    })
}

fn key() -> Value {
    json!({"data": {
        "label": "double", "limit": null, "limit_remaining": null, "limit_reset": null,
        "include_byok_in_limit": false, "usage": 0, "usage_daily": 0, "usage_weekly": 0, "usage_monthly": 0,
        "byok_usage": 0, "is_free_tier": false, "is_management_key": false, "is_provisioning_key": false,
        "creator_user_id": "user_double", "rate_limit": {"requests": -1, "interval": "10s", "note": "legacy"},
    }})
}

fn details() -> Value {
    json!({
        "parent_model": "", "format": "gguf", "family": "acme", "families": ["acme"],
        "parameter_size": "8.0B", "quantization_level": "Q4_K_M",
    })
}

fn ollama_model(name: &str, loaded: bool) -> Value {
    let mut model = json!({"name": name, "model": name, "size": 4_661_211_808_u64, "digest": DIGEST, "details": details()});
    if loaded {
        model["expires_at"] = json!("2030-01-01T00:00:00Z");
        model["size_vram"] = json!(4_661_211_808_u64);
        model["context_length"] = json!(8_192);
    } else {
        model["modified_at"] = json!(MODIFIED);
    }
    model
}

async fn show(request: Request<Incoming>, models: &[String], shared: &Shared) -> Answer {
    let body = Limited::new(request.into_body(), LARGEST_BODY).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let name = asked.get("model").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        return dialect::refusal(Provider::Ollama, &Refusal::new(400, "model is required"));
    }
    if !shared.config.models.is_empty() && !models.iter().any(|known| known == name) {
        return dialect::refusal(Provider::Ollama, &Refusal::new(404, format!("model '{name}' not found")));
    }
    let value = json!({
        "license": "", "modelfile": "", "parameters": "", "template": "{{ .Prompt }}", "details": details(),
        "model_info": {"acme.context_length": 131_072}, "capabilities": ["completion"], "modified_at": MODIFIED,
    });
    Answer::whole(200, JSON, value.to_string())
}
