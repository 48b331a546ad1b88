//! The bodies of replies that are not 200.

use serde_json::{Value, json};

use crate::config::Provider;
use crate::fault::Fault;
use crate::request::Asked;

/// A refusal in the provider's shape with nothing but a reason.
pub(crate) fn plain(provider: Provider, status: u16, reason: &str) -> String {
    match provider {
        Provider::OpenRouter => json!({"error": {"code": status, "message": reason}}),
        Provider::Ollama => json!({"error": reason}),
        Provider::OpenAi => {
            let kind = match status {
                400 => "invalid_request_error",
                404 => "not_found_error",
                _ => "api_error",
            };
            json!({"error": {"message": reason, "type": kind, "param": null, "code": null}})
        }
    }
    .to_string()
}

/// The body of `fault`, whose status is `status`.
pub(crate) fn body(asked: &Asked, fault: Fault, status: u16) -> String {
    match asked.provider {
        Provider::OpenRouter => openrouter(asked, fault, status).to_string(),
        Provider::Ollama => plain(Provider::Ollama, status, &ollama_reason(asked, fault)),
        Provider::OpenAi => plain(Provider::OpenAi, status, &openai_reason(asked, fault)),
    }
}

fn openrouter(asked: &Asked, fault: Fault, status: u16) -> Value {
    let model = &asked.model;
    let (message, error_type) = match fault {
        Fault::RateLimited(_) => ("Rate limit exceeded", "rate_limit_exceeded"),
        Fault::Overloaded(_) => ("No provider is available right now", "provider_unavailable"),
        Fault::RequestTimeout => ("The request timed out", "timeout"),
        Fault::ServerError => ("Internal Server Error", "server"),
        Fault::BadGateway => ("Provider returned an invalid response", "provider_unavailable"),
        Fault::GatewayTimeout => ("The provider took too long", "timeout"),
        Fault::EdgeTimeout => ("A timeout occurred", "timeout"),
        Fault::ProviderOverloaded => ("The provider is overloaded", "provider_overloaded"),
        Fault::ContextTooLong => {
            ("This endpoint's maximum context length is 8192 tokens", "context_length_exceeded")
        }
        Fault::Unauthorized => ("No auth credentials found", "authentication"),
        Fault::PaymentRequired => ("Insufficient credits", "payment_required"),
        Fault::TooLarge => ("Request body too large", "payload_too_large"),
        Fault::Moderated => {
            let metadata = json!({
                "reasons": ["violence"], "flagged_input": "the first words ... the last words",
                "provider_name": "SomeHost", "model_slug": model, "error_type": "content_policy_violation",
            });
            return json!({"error": {"code": status, "message": "Input was flagged", "metadata": metadata}});
        }
        Fault::UnknownModel => {
            return unavailable(status, "No endpoints found for this model", "no_endpoints", model, true);
        }
        Fault::UnknownModelId => {
            return unavailable(status, "Not a valid model ID", "model_not_found", model, false);
        }
        _ => ("Invalid request", "invalid_request"),
    };
    json!({"error": {"code": status, "message": message, "metadata": {"error_type": error_type}}})
}

/// The documented availability examples carry `http_status` and no `code`.
fn unavailable(status: u16, message: &str, code: &str, model: &str, is_404: bool) -> Value {
    let error_type = if is_404 { "not_found" } else { "invalid_request" };
    json!({"error": {
        "message": message, "http_status": status, "error_type": error_type,
        "availability": {"code": code, "retryable": false, "requested_models": [model]},
    }})
}

fn ollama_reason(asked: &Asked, fault: Fault) -> String {
    let reason = match fault {
        Fault::UnknownModel | Fault::UnknownModelId => return format!("model '{}' not found", asked.model),
        Fault::Overloaded(_) => "server busy, please try again.  maximum pending requests exceeded",
        Fault::RateLimited(_) => "too many requests",
        Fault::ServerError => "llama runner process has terminated: signal: killed",
        Fault::BadGateway => "cloud service is not reachable",
        Fault::RequestTimeout | Fault::GatewayTimeout | Fault::EdgeTimeout => {
            "timed out waiting for the model"
        }
        Fault::ProviderOverloaded => "overloaded",
        Fault::ContextTooLong => "the input length exceeds the context length",
        Fault::Unauthorized => "unauthorized",
        Fault::PaymentRequired => "payment required",
        Fault::Moderated => "cloud features are disabled on this server",
        Fault::TooLarge => "request body too large",
        _ => "invalid request",
    };
    reason.to_owned()
}

fn openai_reason(asked: &Asked, fault: Fault) -> String {
    let reason = match fault {
        Fault::UnknownModel | Fault::UnknownModelId => return format!("model \"{}\" not found", asked.model),
        Fault::Overloaded(_) | Fault::ProviderOverloaded => "server busy",
        Fault::RateLimited(_) => "rate limit reached",
        Fault::BadGateway => "bad gateway",
        Fault::RequestTimeout | Fault::GatewayTimeout | Fault::EdgeTimeout => "timed out",
        Fault::ServerError => "internal error",
        Fault::ContextTooLong => "the input exceeds the maximum context length",
        Fault::Unauthorized => "invalid api key",
        Fault::PaymentRequired => "quota used up",
        Fault::Moderated => "not permitted",
        Fault::TooLarge => "request body too large",
        _ => "invalid request",
    };
    reason.to_owned()
}
