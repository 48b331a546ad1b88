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
        failure: CallFailure,
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
        failure: CallFailure,
    },
}

/// The provider of `model`, where there is one and it has the key it needs. Asks nobody.
///
/// # Errors
/// [`PreflightError::UnknownProvider`] and [`PreflightError::NoCredential`].
pub fn provider_of(
    providers: &Providers,
    model: &ModelRef,
) -> Result<Arc<dyn ChatProvider>, PreflightError> {
    let name = model.provider();
    let Some(provider) = providers.get(name) else {
        let known = providers.names().map(str::to_owned).collect();
        return Err(PreflightError::UnknownProvider { name: name.to_owned(), known });
    };
    if let Some(variable) = providers.missing_credential(name) {
        return Err(PreflightError::NoCredential { variable });
    }
    Ok(provider)
}

/// The provider of `model`, once one request for its list of models found no server that is not there, no key that is refused
/// and, on a server that lists exactly what it holds, no model that is missing. What the list does not settle is left to the calls.
///
/// # Errors
/// [`PreflightError`].
pub async fn preflight(
    providers: &Providers,
    model: &ModelRef,
) -> Result<Arc<dyn ChatProvider>, PreflightError> {
    let provider = provider_of(providers, model)?;
    let name = model.provider().to_owned();
    match provider.models().await {
        Ok(models) if lacks(&models, model) => {
            Err(PreflightError::UnknownModel { provider: name, model: model.name().to_owned() })
        }
        Ok(_) => Ok(provider),
        Err(failure) => match failure.kind {
            FailureKind::ConnectionFailed => Err(PreflightError::Unreachable { provider: name, failure }),
            FailureKind::CredentialRefused => {
                Err(PreflightError::CredentialRefused { provider: name, failure })
            }
            // Some servers have no list of models; the calls will tell.
            _ => Ok(provider),
        },
    }
}

/// Whether the list proves that the model is not there. Only Ollama lists exactly what it holds: names with their tag, where a name
/// without one means `latest`; its cloud models are not listed. Elsewhere aliases, variants and private models are not listed.
fn lacks(models: &[ModelListing], model: &ModelRef) -> bool {
    let name = model.name();
    let cloud = name.ends_with("-cloud") || name.ends_with(":cloud");
    let listed = || models.iter().any(|model| model.id == name || model.id.strip_suffix(":latest") == Some(name));
    model.provider() == "ollama" && !cloud && !listed()
}
