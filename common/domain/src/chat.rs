//! What is said to a model and under which settings: the part of a request every provider shares.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Who speaks a message of the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions of the operator.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name on every provider's wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a conversation, its text already rendered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// A model by its provider and the name the provider knows it by, written `provider:name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelRef {
    provider: String,
    name: String,
}

/// A text that does not name a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a model; write it as PROVIDER:NAME, for example ollama:llama3.2 or demo:any")]
pub struct InvalidModelRef(String);

impl ModelRef {
    /// The provider's name in our configuration, for example `openrouter`.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// The name the provider knows the model by; it passes through unchanged and may hold further colons.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for ModelRef {
    type Err = InvalidModelRef;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidModelRef(text.chars().take(80).collect());
        let (provider, name) = text.split_once(':').ok_or_else(invalid)?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        let printable = name.len() <= 256 && !name.chars().any(|c| c.is_control() || c.is_whitespace());
        if provider.is_empty() || name.is_empty() || !provider.bytes().all(plain) || !printable {
            return Err(invalid());
        }
        Ok(Self { provider: provider.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.provider, self.name)
    }
}

impl TryFrom<String> for ModelRef {
    type Error = InvalidModelRef;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ModelRef> for String {
    fn from(model: ModelRef) -> Self {
        model.to_string()
    }
}

/// Sampling settings. What is `None` is not sent, so the provider's own default holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// Sampling temperature, 0 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Nucleus sampling, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// The most output tokens of one call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Seed for best-effort determinism.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Texts that end the reply.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Provider options we do not know, merged into the request body as they are.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_keeps_every_colon_after_the_first() {
        let model: ModelRef = "ollama:acme/m:8b-q4".parse().unwrap();
        assert_eq!((model.provider(), model.name()), ("ollama", "acme/m:8b-q4"));
        assert_eq!(model.to_string(), "ollama:acme/m:8b-q4");
        for bad in ["", "ollama", ":x", "ollama:", "Ollama:x", "ollama:a b", "ollama:a\n"] {
            assert!(bad.parse::<ModelRef>().is_err(), "{bad:?}");
        }
    }
}
