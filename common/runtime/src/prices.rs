//! What models cost: the prices somebody wrote down, and those that providers list.

use std::collections::{BTreeMap, HashMap};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use promptmill_domain::{ModelRef, OwnPrice, Price, own_price};
use promptmill_provider::ChatProvider;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// How long a list of prices is believed.
const LIST_HOLDS_FOR: Duration = Duration::from_secs(3_600);

/// How soon a list that could not be had is asked for again.
const ASKS_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How long is waited for a list.
const LISTS_WITHIN: Duration = Duration::from_secs(10);

/// The prices of all models, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Prices {
    own: Vec<OwnPrice>,
    /// By provider and the name it knows a model by.
    listed: RwLock<BTreeMap<String, HashMap<String, Price>>>,
    /// When a provider's list is to be asked for again. Held while it is asked, so that nobody asks twice.
    asks_at: Mutex<HashMap<String, Instant>>,
}

impl Prices {
    /// These, which go before what providers list.
    pub(crate) fn new(own: Vec<OwnPrice>) -> Self {
        Self { own, ..Self::default() }
    }

    /// The price, as far as it is known at the moment.
    pub(crate) fn known(&self, model: &ModelRef) -> Option<Price> {
        if let Some(price) = own_price(&self.own, model) {
            return Some(price);
        }
        let listed = self.listed.read().unwrap_or_else(PoisonError::into_inner);
        let models = listed.get(model.provider())?;
        // A variant (`:nitro`, `:floor`) that is not listed is the listed model by another way.
        let base = || model.name().rsplit_once(':').and_then(|(base, _)| models.get(base));
        models.get(model.name()).or_else(base).copied()
    }

    /// The price, for which `provider` is asked where it lists prices and was not asked lately.
    pub(crate) async fn ask(&self, model: &ModelRef, provider: &dyn ChatProvider) -> Option<Price> {
        if provider.lists_prices() && own_price(&self.own, model).is_none() {
            self.refresh(provider).await;
        }
        self.known(model)
    }

    async fn refresh(&self, provider: &dyn ChatProvider) {
        let mut asks_at = self.asks_at.lock().await;
        if asks_at.get(provider.name()).is_some_and(|at| *at > Instant::now()) {
            return;
        }
        // Whoever asked may go away, and the next one rests all the same.
        asks_at.insert(provider.name().to_owned(), Instant::now() + ASKS_AGAIN_AFTER);
        let holds_for = match timeout(LISTS_WITHIN, provider.models()).await {
            Ok(Ok(models)) => {
                let prices = models.into_iter().filter_map(|model| Some((model.price()?, model.id)));
                let prices = prices.map(|(price, id)| (id, price)).collect();
                let mut listed = self.listed.write().unwrap_or_else(PoisonError::into_inner);
                listed.insert(provider.name().to_owned(), prices);
                LIST_HOLDS_FOR
            }
            // What was listed before is the best there is.
            Ok(Err(error)) => {
                tracing::warn!(provider = provider.name(), error = %error, "no list of prices");
                ASKS_AGAIN_AFTER
            }
            Err(_) => {
                tracing::warn!(provider = provider.name(), "the list of prices takes too long");
                ASKS_AGAIN_AFTER
            }
        };
        asks_at.insert(provider.name().to_owned(), Instant::now() + holds_for);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use promptmill_domain::{FailureKind, Money};
    use promptmill_provider::{CallFailure, ChatReply, ChatRequest, ModelListing};

    use super::*;

    /// Lists one model, the first time not.
    #[derive(Default)]
    struct Lister(AtomicU32);

    #[async_trait]
    impl ChatProvider for Lister {
        fn name(&self) -> &'static str {
            "openrouter"
        }

        fn credential_name(&self) -> &'static str {
            "default"
        }

        async fn chat(&self, _: &ChatRequest) -> Result<ChatReply, CallFailure> {
            Ok(ChatReply::default())
        }

        async fn models(&self) -> Result<Vec<ModelListing>, CallFailure> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                return Err(CallFailure::new(FailureKind::ConnectionFailed, "away"));
            }
            let listing = ModelListing {
                id: "acme/a".to_owned(),
                prompt_price: Some(Money::from_pico(1)),
                completion_price: Some(Money::from_pico(2)),
                ..ModelListing::default()
            };
            Ok(vec![listing, ModelListing { id: "acme/auto".to_owned(), ..ModelListing::default() }])
        }

        fn lists_prices(&self) -> bool {
            true
        }
    }

    fn model(name: &str) -> ModelRef {
        format!("openrouter:{name}").parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_asked_for_once_an_hour_and_a_minute_after_it_could_not_be_had() {
        let (prices, lister) = (Prices::default(), Lister::default());
        assert_eq!(prices.ask(&model("acme/a"), &lister).await, None);
        assert_eq!(prices.ask(&model("acme/a"), &lister).await, None);
        assert_eq!(lister.0.load(Ordering::Relaxed), 1);
        tokio::time::advance(ASKS_AGAIN_AFTER).await;
        let listed =
            Price { prompt: Money::from_pico(1), completion: Money::from_pico(2), ..Price::default() };
        assert_eq!(prices.ask(&model("acme/a"), &lister).await, Some(listed));
        assert_eq!(prices.ask(&model("acme/a:nitro"), &lister).await, Some(listed));
        assert_eq!(prices.ask(&model("acme/auto"), &lister).await, None);
        assert_eq!(lister.0.load(Ordering::Relaxed), 2);
        tokio::time::advance(LIST_HOLDS_FOR).await;
        assert_eq!(prices.ask(&model("acme/a"), &lister).await, Some(listed));
        assert_eq!(lister.0.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn an_own_price_goes_before_the_list_and_nobody_is_asked_for_it() {
        let own: OwnPrice = "openrouter:acme/*=1/2".parse().unwrap();
        let (prices, lister) = (Prices::new(vec![own]), Lister(AtomicU32::new(1)));
        let price = prices.ask(&model("acme/a"), &lister).await.unwrap();
        assert_eq!((price.prompt.pico(), price.completion.pico()), (1_000_000, 2_000_000));
        assert_eq!(lister.0.load(Ordering::Relaxed), 1);
    }
}
