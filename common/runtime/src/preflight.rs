//! Before the first call: is there such a provider, does it take the key, does it know the model?

use std::sync::Arc;

use promptmill_domain::{FailureKind, ModelRef};
use promptmill_provider::{CallFailure, ChatProvider, ModelListing};

use crate::providers::Providers;

/// Why calls to a model would be in vain.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PreflightError {
    /// The part before the colon names no provider.
    #[error("there is no provider {name:?}; use one of {}", .known.join(", "))]
    UnknownProvider {
        /// The name asked for.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// The provider is called with a key, and has none.
    #[error("{variable} is not set")]
    NoCredential {
        /// The environment variable that takes it.
        variable: &'static str,
    },
    /// The provider refuses the key.
    #[error("{provider} refuses the key: {}", .failure.message)]
    CredentialRefused {
        /// Which provider.
        provider: String,
        /// Its answer.
        failure: Box<CallFailure>,
    },
    /// The provider does not have the model.
    #[error("{provider} does not have the model {model:?}")]
    UnknownModel {
        /// Which provider.
        provider: String,
        /// The model's name there.
        model: String,
    },
    /// Nothing answers at the provider's address.
    #[error("{provider} cannot be reached")]
    Unreachable {
        /// Which provider.
        provider: String,
        /// Why.
        #[source]
        failure: Box<CallFailure>,
    },
}

/// How much is asked before the first call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// Nobody is asked: the configuration alone tells.
    Nothing,
    /// One request for the list of models: is the server there, and, where its list is exact, does it hold the model?
    List,
    /// The same, and whether the key is taken, and whether OpenRouter has anything like the model.
    Everything,
}

/// The provider of `model`, once what was asked speaks for calls to it. What the answers do not settle is left to the calls.
///
/// # Errors
/// [`PreflightError`]; with [`Asking::Nothing`] only those about the configuration.
pub async fn preflight(
    providers: &Providers,
    model: &ModelRef,
    asking: Asking,
) -> Result<Arc<dyn ChatProvider>, PreflightError> {
    let name = model.provider();
    let Some(provider) = providers.get(name) else {
        let known = providers.names().map(str::to_owned).collect();
        return Err(PreflightError::UnknownProvider { name: name.to_owned(), known });
    };
    if let Some(variable) = providers.missing_credential(name) {
        return Err(PreflightError::NoCredential { variable });
    }
    if asking == Asking::Nothing {
        return Ok(provider);
    }
    let exact = asking == Asking::Everything;
    if exact {
        provider.check_credential().await.map(drop).or_else(|failure| failed(name, failure))?;
    }
    match provider.models().await {
        Ok(models) if lacks(&models, model, exact) => {
            Err(PreflightError::UnknownModel { provider: name.to_owned(), model: model.name().to_owned() })
        }
        Ok(_) => Ok(provider),
        Err(failure) => failed(name, failure).map(|()| provider),
    }
}

/// Whether a failed question speaks against calls. Some servers have no list of models; then the calls will tell.
fn failed(provider: &str, failure: CallFailure) -> Result<(), PreflightError> {
    let (provider, failure) = (provider.to_owned(), Box::new(failure));
    match failure.kind {
        FailureKind::ConnectionFailed => Err(PreflightError::Unreachable { provider, failure }),
        FailureKind::CredentialRefused => Err(PreflightError::CredentialRefused { provider, failure }),
        _ => Ok(()),
    }
}

/// Whether the list proves that the model is not there. Elsewhere than on these two servers aliases and private models are not listed.
fn lacks(models: &[ModelListing], model: &ModelRef, exact: bool) -> bool {
    match model.provider() {
        "ollama" => !ollama_has(models, model.name()),
        "openrouter" => exact && !models.is_empty() && !openrouter_has(models, model.name()),
        _ => false,
    }
}

/// Ollama lists names with their tag, and a name without one means `latest`. Cloud models are not listed.
fn ollama_has(models: &[ModelListing], name: &str) -> bool {
    let cloud = name.ends_with("-cloud") || name.ends_with(":cloud");
    cloud || models.iter().any(|model| model.id == name || model.id.strip_suffix(":latest") == Some(name))
}

/// OpenRouter takes more names than it lists: variants (`:nitro`), dated names of listed models, routers and presets of its own. So only
/// a name that begins like none of the list is certain to be wrong.
fn openrouter_has(models: &[ModelListing], name: &str) -> bool {
    let before_variant = |name: &str| name.split(':').next().unwrap_or_default().to_owned();
    let ours = ["openrouter/", "@", "~"].iter().any(|prefix| name.starts_with(prefix));
    ours || models.iter().any(|model| name.starts_with(&before_variant(&model.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacking(listed: &[&str], model: &str, exact: bool) -> bool {
        let listing = |id: &&str| ModelListing { id: (*id).to_owned(), ..ModelListing::default() };
        let models: Vec<_> = listed.iter().map(listing).collect();
        lacks(&models, &model.parse().unwrap(), exact)
    }

    #[test]
    fn ollama_holds_what_it_lists_and_the_latest_without_its_tag() {
        let listed = ["small:latest", "big:70b"];
        for there in ["ollama:small", "ollama:small:latest", "ollama:big:70b", "ollama:any-cloud"] {
            assert!(!lacking(&listed, there, false), "{there}");
        }
        assert!(lacking(&listed, "ollama:big", false) && lacking(&[], "ollama:small", false));
    }

    #[test]
    fn openrouter_is_believed_only_where_nothing_is_like_the_name() {
        let listed = ["acme/model-a", "acme/model-b:free"];
        for there in [
            "openrouter:acme/model-a",
            "openrouter:acme/model-a:nitro",
            "openrouter:acme/model-a-20260101",
            "openrouter:acme/model-b",
            "openrouter:openrouter/auto",
            "openrouter:@preset/mine",
        ] {
            assert!(!lacking(&listed, there, true), "{there}");
        }
        assert!(lacking(&listed, "openrouter:acme/modl-a", true));
        assert!(!lacking(&listed, "openrouter:acme/modl-a", false) && !lacking(&[], "openrouter:a/b", true));
        assert!(!lacking(&listed, "openai:anything", true));
    }
}
