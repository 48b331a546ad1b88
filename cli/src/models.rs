//! `promptmill models`: what a provider offers.

use std::io::Write;

use promptmill_domain::Money;
use promptmill_provider::ModelListing;
use promptmill_runtime::{ProviderSettings, Providers, Settings};

use crate::args::ModelsArgs;
use crate::exit::{Exit, Failure};

pub(crate) async fn list(args: ModelsArgs, settings: &Settings) -> Result<Exit, Failure> {
    let providers = ProviderSettings::from_env(|name| settings.get(name))
        .and_then(Providers::new)
        .map_err(|error| Failure::work("the providers cannot be set up", error))?;
    let Some(provider) = providers.get(&args.provider) else {
        let known: Vec<_> = providers.names().collect();
        return Err(Failure::input(format!(
            "there is no provider {:?}; use one of {}",
            args.provider,
            known.join(", ")
        )));
    };
    let mut models = provider
        .models()
        .await
        .map_err(|error| Failure::work(format!("{} gives no list of models", args.provider), error))?;
    if let Some(filter) = &args.filter {
        models.retain(|model| model.id.contains(filter.as_str()));
    }
    models.sort_by(|a, b| a.id.cmp(&b.id));
    let written = if args.json { write_json(&models) } else { write_table(&args.provider, &models) };
    match written {
        // The reader had enough, as `head` does.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Exit::Success),
        Err(error) => Err(Failure::work("the list cannot be written", error)),
        Ok(()) => Ok(Exit::Success),
    }
}

fn write_json(models: &[ModelListing]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for model in models {
        let line = serde_json::json!({
            "id": model.id,
            "context_length": model.context_length,
            "prompt_price": model.prompt_price,
            "completion_price": model.completion_price,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn write_table(provider: &str, models: &[ModelListing]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let width = models.iter().map(|model| model.id.len() + provider.len() + 1).max().unwrap_or(0).max(5);
    writeln!(out, "{:width$}  {:>9}  {:>12}  {:>12}", "MODEL", "CONTEXT", "IN $/M", "OUT $/M")?;
    for model in models {
        let name = format!("{provider}:{}", model.id);
        let context = model.context_length.map_or_else(|| "-".to_owned(), |tokens| tokens.to_string());
        let (prompt, completion) = (per_million(model.prompt_price), per_million(model.completion_price));
        writeln!(out, "{name:width$}  {context:>9}  {prompt:>12}  {completion:>12}")?;
    }
    Ok(())
}

fn per_million(price: Option<Money>) -> String {
    price.map_or_else(|| "-".to_owned(), |price| price.times(1_000_000).to_string())
}
