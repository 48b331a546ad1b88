//! Before the first call: is there such a provider, can it be reached, does it know the model?

use std::sync::Arc;

use promptmill_domain::{FailureKind, ModelRef};
use promptmill_provider::{CallFailure, ChatProvider, ModelListing};
use promptmill_runtime::Providers;

use crate::env;
use crate::exit::Failure;

/// The provider of `model`. With `ask`, one request for its list of models finds a server that is not there, a key that is refused
/// and a model that Ollama does not hold; what the list does not settle is left to the calls.
pub(crate) async fn check(
    providers: &Providers,
    model: &ModelRef,
    ask: bool,
) -> Result<Arc<dyn ChatProvider>, Failure> {
    let name = model.provider();
    let Some(provider) = providers.get(name) else {
        let known: Vec<_> = providers.names().collect();
        return Err(Failure::input(format!(
            "there is no provider {name:?}; use one of {}",
            known.join(", ")
        )));
    };
    if name == "openrouter" && env::lookup("OPENROUTER_API_KEY").is_none() {
        return Err(Failure::input(
            "OPENROUTER_API_KEY is not set; put it into .env or the environment (or try --model demo:any)",
        ));
    }
    if !ask {
        return Ok(provider);
    }
    match provider.models().await {
        Ok(models) if name == "ollama" && !ollama_has(&models, model.name()) => Err(Failure::input(format!(
            "the Ollama server does not have the model {0:?}; get it with: ollama pull {0}",
            model.name()
        ))),
        Ok(_) => Ok(provider),
        Err(failure) => match failure.kind {
            FailureKind::ConnectionFailed => Err(unreachable(name, failure)),
            FailureKind::CredentialRefused => {
                Err(Failure::input(format!("{name} refuses the key: {}", failure.message)))
            }
            // Some servers have no list of models; the calls will tell.
            _ => Ok(provider),
        },
    }
}

fn unreachable(name: &str, failure: CallFailure) -> Failure {
    let hint = match name {
        "ollama" => "is it running? (ollama serve; OLLAMA_HOST says where it is)",
        "openai" => "is the server running? (OPENAI_BASE_URL says where it is)",
        _ => "is the network there?",
    };
    Failure::work(format!("{name} cannot be reached; {hint}"), failure)
}

/// Ollama lists names with their tag, and a name without one means `latest`. Cloud models are not listed.
fn ollama_has(models: &[ModelListing], name: &str) -> bool {
    let cloud = name.ends_with("-cloud") || name.ends_with(":cloud");
    cloud || models.iter().any(|model| model.id == name || model.id.strip_suffix(":latest") == Some(name))
}
