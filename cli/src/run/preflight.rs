//! Before the first call: is there such a provider, can it be reached, does it know the model?

use std::sync::Arc;

use promptmill_domain::ModelRef;
use promptmill_provider::{CallFailure, ChatProvider};
use promptmill_runtime::{Asking, PreflightError, Providers, preflight};

use crate::exit::Failure;

/// The provider of `model`. With `ask`, one request for its list of models finds a server that is not there, a key that is refused
/// and a model that Ollama does not hold; what the list does not settle is left to the calls.
pub(crate) async fn check(
    providers: &Providers,
    model: &ModelRef,
    ask: bool,
) -> Result<Arc<dyn ChatProvider>, Failure> {
    let asking = if ask { Asking::List } else { Asking::Nothing };
    preflight(providers, model, asking).await.map_err(|error| match error {
        PreflightError::NoCredential { variable } => Failure::input(format!(
            "{variable} is not set; put it into .env or the environment (or try --model demo:any)"
        )),
        PreflightError::UnknownModel { model, .. } => Failure::input(format!(
            "the Ollama server does not have the model {model:?}; get it with: ollama pull {model}"
        )),
        PreflightError::Unreachable { provider, failure } => unreachable(&provider, *failure),
        PreflightError::UnknownProvider { .. } | PreflightError::CredentialRefused { .. } => {
            Failure::input(error.to_string())
        }
    })
}

fn unreachable(name: &str, failure: CallFailure) -> Failure {
    let hint = match name {
        "ollama" => "is it running? (ollama serve; OLLAMA_HOST says where it is)",
        "openai" => "is the server running? (OPENAI_BASE_URL says where it is)",
        _ => "is the network there?",
    };
    Failure::work(format!("{name} cannot be reached; {hint}"), failure)
}
