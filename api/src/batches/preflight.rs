//! What a provider says about a model before a batch is submitted, remembered for a minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use promptmill_domain::{BatchSpec, ModelRef};
use promptmill_runtime::{Asking, PreflightError};
use tokio::time::{Instant, timeout};

use crate::App;
use crate::problem::Problem;

/// How long a good answer is believed.
const GOOD_FOR: Duration = Duration::from_secs(60);

/// How long another one is, so that who mends the cause does not wait and who does not mend it does not keep the provider busy.
const BAD_FOR: Duration = Duration::from_secs(1);

/// How long a provider may take. One that takes longer does not hold a submit up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Models that are remembered.
const MAX_MODELS: usize = 1_000;

/// What was said about models lately.
#[derive(Default)]
pub(crate) struct PreflightCache(Mutex<HashMap<ModelRef, Said>>);

/// Until when an answer is believed, and the answer: words against the model, where there are some.
type Said = (Instant, Result<(), String>);

impl PreflightCache {
    fn lately(&self, model: &ModelRef) -> Option<Result<(), String>> {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, answer) = said.get(model)?;
        (*until > Instant::now()).then(|| answer.clone())
    }

    fn note(&self, model: &ModelRef, answer: Result<(), String>, for_time: Duration) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() >= MAX_MODELS {
            let now = Instant::now();
            said.retain(|_, (until, _)| *until > now);
            if said.len() >= MAX_MODELS {
                said.clear();
            }
        }
        said.insert(model.clone(), (Instant::now() + for_time, answer));
    }
}

/// Whether calls to one of a batch's models have a chance.
///
/// # Errors
/// `invalid` at `/model`: what speaks against the first one.
pub(crate) async fn check(app: &App, spec: &BatchSpec) -> Result<(), Problem> {
    let first = check_one(app, &spec.model).await;
    for further in &spec.fallback.models {
        if first.is_ok() || check_one(app, &further.model).await.is_ok() {
            return Ok(());
        }
    }
    first
}

/// Whether calls to the model have a chance: its provider is configured and has its key, takes the key and knows the model.
/// A provider that cannot be asked is no reason against it.
async fn check_one(app: &App, model: &ModelRef) -> Result<(), Problem> {
    let cache = &app.batches().preflights;
    let answer = match cache.lately(model) {
        Some(answer) => answer,
        None => {
            let (answer, for_time) = ask(app, model).await;
            cache.note(model, answer.clone(), for_time);
            answer
        }
    };
    answer.map_err(|words| Problem::invalid("/model", words))
}

async fn ask(app: &App, model: &ModelRef) -> (Result<(), String>, Duration) {
    let asked =
        timeout(PATIENCE, promptmill_runtime::preflight(&app.engine().providers, model, Asking::Everything))
            .await;
    let Ok(answer) = asked else { return (Ok(()), BAD_FOR) };
    match answer {
        Ok(_) => (Ok(()), GOOD_FOR),
        Err(PreflightError::Unreachable { provider, .. }) => {
            tracing::info!(provider, "a provider cannot be reached; the batch is submitted all the same");
            (Ok(()), BAD_FOR)
        }
        Err(PreflightError::UnknownModel { provider, model }) => {
            let words =
                format!("{provider} does not have the model {model:?}; get it with: ollama pull {model}");
            (Err(words), BAD_FOR)
        }
        Err(error) => (Err(error.to_string()), BAD_FOR),
    }
}
