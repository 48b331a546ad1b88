//! The providers a process can call, made from its configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::rate::LaneLimits;
use promptmill_domain::{InvalidPrice, LaneId, ModelRef, OwnPrice, Price};

use promptmill_provider::{
    ChatProvider, Demo, HttpClientError, HttpOptions, InvalidConfig, Ollama, OllamaConfig, OpenAiCompatible,
    OpenAiCompatibleConfig, OpenRouter, OpenRouterConfig, http_client,
};
use secrecy::SecretString;

use crate::metrics::{CountedProvider, Metrics};
use crate::prices::Prices;

/// Where the providers are and under which credentials they are called. Every field documents its environment variable.
#[derive(Debug, Clone, Default)]
pub struct ProviderSettings {
    /// `openrouter:` models.
    pub openrouter: OpenRouterConfig,
    /// `ollama:` models.
    pub ollama: OllamaConfig,
    /// `openai:` models, on any OpenAI-compatible server.
    pub openai: OpenAiCompatibleConfig,
    /// How connections are made and kept.
    pub http: HttpOptions,
    /// What is known of their limits, by their names; the rest is learned.
    pub limits: BTreeMap<String, LaneLimits>,
    /// What models cost, before what providers say of it.
    pub prices: Vec<OwnPrice>,
}

impl ProviderSettings {
    /// Reads `OPENROUTER_API_KEY`, `OPENROUTER_BASE_URL`, `OLLAMA_HOST`, `OLLAMA_API_KEY`, `OPENAI_API_KEY`, `OPENAI_BASE_URL`, and of each of
    /// the three `..._REQUESTS_PER_MINUTE`, `..._TOKENS_PER_MINUTE`, `..._CONCURRENCY` and `..._TIMEOUT` (seconds), and `PROMPTMILL_PRICES`, through
    /// `lookup`. A variable that is unset or empty leaves its default.
    ///
    /// # Errors
    /// When a number is none, or zero, or a price is none.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ProviderError> {
        let get = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let secret = |name: &str| get(name).map(|value| SecretString::from(value.trim()));
        let mut settings = Self::default();
        settings.openrouter.api_key = secret("OPENROUTER_API_KEY");
        settings.ollama.api_key = secret("OLLAMA_API_KEY");
        settings.openai.api_key = secret("OPENAI_API_KEY");
        for (target, name) in [
            (&mut settings.openrouter.base_url, "OPENROUTER_BASE_URL"),
            (&mut settings.ollama.host, "OLLAMA_HOST"),
            (&mut settings.openai.base_url, "OPENAI_BASE_URL"),
        ] {
            if let Some(value) = get(name) {
                *target = value.trim().to_owned();
            }
        }
        let number = |provider: &str, what: &str| -> Result<Option<u32>, ProviderError> {
            let name = format!("{provider}_{what}");
            let Some(value) = get(&name) else { return Ok(None) };
            match value.trim().parse() {
                Ok(number) if number > 0 => Ok(Some(number)),
                _ => Err(ProviderError::Number { variable: name }),
            }
        };
        let openrouter = ("OPENROUTER", &settings.openrouter.name, &mut settings.openrouter.timeouts);
        let ollama = ("OLLAMA", &settings.ollama.name, &mut settings.ollama.timeouts);
        let openai = ("OPENAI", &settings.openai.name, &mut settings.openai.timeouts);
        for (variable, name, timeouts) in [openrouter, ollama, openai] {
            let limits = LaneLimits {
                requests_per_minute: number(variable, "REQUESTS_PER_MINUTE")?,
                tokens_per_minute: number(variable, "TOKENS_PER_MINUTE")?,
                concurrency: number(variable, "CONCURRENCY")?,
            };
            settings.limits.insert(name.clone(), limits);
            if let Some(secs) = number(variable, "TIMEOUT")? {
                timeouts.shorten(Duration::from_secs(secs.into()));
            }
        }
        if let Some(prices) = get("PROMPTMILL_PRICES") {
            let prices = prices.split(',').filter(|price| !price.trim().is_empty()).map(str::parse);
            settings.prices = prices.collect::<Result<_, _>>()?;
        }
        Ok(settings)
    }
}

/// Chooses the process's provider of cryptography for TLS; to be called before an HTTP client is made. Repeatable.
pub fn install_tls() {
    // Fails when the process has one already, which is then as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A provider could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The HTTP client could not be made.
    #[error("the HTTP client cannot be made")]
    Http(#[from] HttpClientError),
    /// A setting is wrong.
    #[error("{variable} is wrong")]
    Config {
        /// The environment variable to mend.
        variable: &'static str,
        /// What is wrong with it.
        #[source]
        source: InvalidConfig,
    },
    /// A price is none.
    #[error("PROMPTMILL_PRICES is wrong")]
    Price(#[from] InvalidPrice),
    /// A number is none.
    #[error("{variable} is wrong: it must be a whole number above zero")]
    Number {
        /// The environment variable to mend.
        variable: String,
    },
}

/// The providers by the name before the colon of a model.
pub struct Providers {
    by_name: BTreeMap<String, Arc<dyn ChatProvider>>,
    /// Providers that need a key and have none, each with the environment variable that takes it.
    without_key: BTreeMap<String, &'static str>,
    /// What is known of the limits of those that have any, by their names.
    limits: BTreeMap<String, LaneLimits>,
    prices: Arc<Prices>,
}

impl Providers {
    /// OpenRouter, Ollama, an OpenAI-compatible server and the demo. Nothing is called yet.
    ///
    /// # Errors
    /// When an address of the settings is not one.
    pub fn new(settings: ProviderSettings) -> Result<Self, ProviderError> {
        install_tls();
        let client = http_client(&settings.http)?;
        let limits = [&settings.openrouter.name, &settings.ollama.name, &settings.openai.name]
            .map(|name| (name.clone(), settings.limits.get(name).copied().unwrap_or_default()));
        let config = |variable| move |source| ProviderError::Config { variable, source };
        let without_key = settings.openrouter.api_key.is_none();
        let without_key = without_key.then(|| (settings.openrouter.name.clone(), "OPENROUTER_API_KEY"));
        let openrouter =
            OpenRouter::new(settings.openrouter, &client).map_err(config("OPENROUTER_BASE_URL"))?;
        let ollama = Ollama::new(settings.ollama, &client).map_err(config("OLLAMA_HOST"))?;
        let openai = OpenAiCompatible::new(settings.openai, &client).map_err(config("OPENAI_BASE_URL"))?;
        let providers = Self::of([
            Arc::new(openrouter) as Arc<dyn ChatProvider>,
            Arc::new(ollama),
            Arc::new(openai),
            Arc::new(Demo::default()),
        ]);
        Ok(Self {
            without_key: without_key.into_iter().collect(),
            limits: limits.into(),
            prices: Arc::new(Prices::new(settings.prices)),
            ..providers
        })
    }

    /// Exactly these providers, by their names.
    pub fn of(providers: impl IntoIterator<Item = Arc<dyn ChatProvider>>) -> Self {
        let by_name = providers.into_iter().map(|provider| (provider.name().to_owned(), provider)).collect();
        Self { by_name, without_key: BTreeMap::new(), limits: BTreeMap::new(), prices: Arc::default() }
    }

    /// The same providers, each call of theirs counted in `metrics`.
    pub(crate) fn counted(&self, metrics: &Arc<Metrics>) -> Self {
        let counted = |provider: &Arc<dyn ChatProvider>| {
            CountedProvider::new(provider.clone(), metrics.clone(), self.prices.clone())
        };
        let all = self.by_name.values().map(|provider| Arc::new(counted(provider)) as Arc<dyn ChatProvider>);
        Self {
            without_key: self.without_key.clone(),
            limits: self.limits.clone(),
            prices: self.prices.clone(),
            ..Self::of(all)
        }
    }

    /// What the model costs, where anybody says: its provider is asked where it lists prices and was not asked within the hour.
    pub async fn price(&self, model: &ModelRef) -> Option<Price> {
        self.prices.ask(model, self.by_name.get(model.provider())?.as_ref()).await
    }

    /// The same, as far as it is known without asking.
    pub fn known_price(&self, model: &ModelRef) -> Option<Price> {
        self.prices.known(model)
    }

    /// The provider of that name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn ChatProvider>> {
        self.by_name.get(name).cloned()
    }

    /// The environment variable without which the provider of that name refuses every call, where it is not set.
    pub fn missing_credential(&self, name: &str) -> Option<&'static str> {
        self.without_key.get(name).copied()
    }

    /// The lanes of those that may limit their calls, with what is known of the limits.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneId, LaneLimits)> {
        self.limits.iter().filter_map(|(name, limits)| {
            let provider = self.by_name.get(name)?;
            Some((LaneId::new(provider.name(), provider.credential_name()), *limits))
        })
    }

    /// Every name, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}
