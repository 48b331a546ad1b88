//! What all providers' errors have in common: the meaning of a status, words that tell of a too long prompt, and what
//! concerns the whole lane.

use std::time::Duration;

use promptmill_domain::FailureKind;

use crate::failure::CallFailure;

/// The cause an error status names when the body tells nothing better.
pub(crate) fn by_status(status: u16) -> FailureKind {
    match status {
        401 | 403 | 407 => FailureKind::CredentialRefused,
        402 => FailureKind::PaymentRequired,
        404 | 410 => FailureKind::ModelUnavailable,
        408 | 504 | 524 => FailureKind::Timeout,
        413 => FailureKind::ContextTooLong,
        425 | 429 => FailureKind::RateLimited,
        // 499: the server thinks we left while it waited for a runner.
        499 => FailureKind::ProviderError,
        503 | 529 => FailureKind::ProviderOverloaded,
        300..=498 => FailureKind::RequestRefused,
        500..=999 => FailureKind::ProviderError,
        _ => FailureKind::MalformedReply,
    }
}

/// Whether the words of a refused request say that the prompt is too long. No server has a stable text for it.
pub(crate) fn says_context_too_long(message: &str) -> bool {
    const SIGNS: [&str; 15] = [
        "context length",
        "context_length",
        "context size",
        "context window",
        "context limit",
        "maximum context",
        "exceeds the context",
        "exceed_context",
        "prompt is too long",
        "prompt too long",
        "input is too long",
        "input length exceeds",
        "input tokens exceed",
        "too many tokens",
        "reduce the length of",
    ];
    let message = message.to_ascii_lowercase();
    SIGNS.iter().any(|sign| message.contains(sign))
}

/// What was found out about an error, ready to become a [`CallFailure`].
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) kind: FailureKind,
    /// The provider's words; where empty, the status speaks.
    pub(crate) message: String,
    /// The status on the wire.
    pub(crate) wire_status: u16,
    /// The status the error means: another than the wire's where it came inside a 200.
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    /// The provider's own word on repeating the call.
    pub(crate) retryable: Option<bool>,
}

impl Finding {
    pub(crate) fn into_failure(self) -> CallFailure {
        let message = if self.message.trim().is_empty() {
            format!("the provider answered with status {} and no message", self.status)
        } else {
            self.message
        };
        let mut failure = CallFailure::new(self.kind, message).with_status(self.wire_status);
        failure.retry_after = self.retry_after;
        failure.lane_wide = match self.kind {
            FailureKind::RateLimited | FailureKind::CredentialRefused | FailureKind::PaymentRequired => true,
            _ => self.status == 429 || (matches!(self.status, 503 | 529) && self.retry_after.is_some()),
        };
        failure.transient = self.retryable.unwrap_or(failure.transient);
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_the_server_is_no_long_prompt() {
        assert!(!says_context_too_long("context deadline exceeded"));
        assert!(!says_context_too_long("context canceled"));
        for text in [
            "This model's maximum context length is 4096 tokens",
            "request (9000 tokens) exceeds the available context size (4096 tokens), try increasing it",
            "the input length exceeds the context length",
            "Prompt is too long",
        ] {
            assert!(says_context_too_long(text), "{text}");
        }
    }
}
