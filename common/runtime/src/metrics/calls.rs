//! A provider whose calls are counted, with their costs.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use prometheus::{Histogram, IntCounter};
use promptmill_domain::{FailureKind, Money, Tokens, Totals};
use promptmill_provider::{CallFailure, ChatProvider, ChatReply, ChatRequest, Credential, ModelListing};

use super::Metrics;
use crate::prices::Prices;

/// The result of a call that brought a complete reply.
pub(super) const OK: &str = "ok";

/// The result of a call whose caller went away.
const ABANDONED: &str = "abandoned";

/// Counts every call of the provider behind it. Listing models is no call.
pub(crate) struct CountedProvider {
    provider: Arc<dyn ChatProvider>,
    metrics: Arc<Metrics>,
    prices: Arc<Prices>,
    ok: IntCounter,
    /// By the stored number of the kind.
    failed: Vec<IntCounter>,
    abandoned: IntCounter,
    seconds: Histogram,
}

impl CountedProvider {
    pub(crate) fn new(provider: Arc<dyn ChatProvider>, metrics: Arc<Metrics>, prices: Arc<Prices>) -> Self {
        let name = provider.name();
        let calls = |result| metrics.calls.with_label_values(&[name, result]);
        Self {
            ok: calls(OK),
            failed: FailureKind::ALL.iter().map(|kind| calls(kind.as_str())).collect(),
            abandoned: calls(ABANDONED),
            seconds: metrics.call_seconds.with_label_values(&[name]),
            metrics,
            prices,
            provider,
        }
    }

    /// What a call of so many tokens costs, where its price is known.
    fn estimate(&self, model: &str, usage: Option<Tokens>) -> Option<Money> {
        let model = format!("{}:{model}", self.provider.name()).parse().ok()?;
        Some(self.prices.known(&model)?.of(usage?))
    }
}

/// A call under way; dropped before its end it is an abandoned one.
struct UnderWay<'a> {
    of: &'a CountedProvider,
    result: Option<&'a IntCounter>,
    began: Instant,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.of.metrics.calls_in_flight.dec();
        self.result.unwrap_or(&self.of.abandoned).inc();
        self.of.seconds.observe(self.began.elapsed().as_secs_f64());
    }
}

#[async_trait]
impl ChatProvider for CountedProvider {
    fn name(&self) -> &str {
        self.provider.name()
    }

    fn credential_name(&self) -> &str {
        self.provider.credential_name()
    }

    fn server(&self) -> String {
        self.provider.server()
    }

    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, CallFailure> {
        self.metrics.calls_in_flight.inc();
        let mut call = UnderWay { of: self, result: None, began: Instant::now() };
        let mut result = self.provider.chat(request).await;
        let (usage, cost, is_estimate) = match &mut result {
            Ok(reply) => (reply.usage, &mut reply.cost, &mut reply.cost_is_estimate),
            Err(failure) => (failure.usage, &mut failure.cost, &mut failure.cost_is_estimate),
        };
        if cost.is_none() {
            *cost = self.estimate(&request.model, usage);
            *is_estimate = cost.is_some();
        }
        let (counter, usage, cost) = match &result {
            Ok(reply) => (&self.ok, reply.usage, reply.cost),
            Err(failure) => (&self.failed[failure.kind as usize], failure.usage, failure.cost),
        };
        call.result = Some(counter);
        drop(call);
        let tokens = usage.unwrap_or_default();
        self.metrics.spent(&Totals { calls: 1, tokens, cost: cost.unwrap_or_default(), cached: 0 });
        result
    }

    async fn models(&self) -> Result<Vec<ModelListing>, CallFailure> {
        self.provider.models().await
    }

    fn lists_prices(&self) -> bool {
        self.provider.lists_prices()
    }

    async fn check_credential(&self) -> Result<Credential, CallFailure> {
        self.provider.check_credential().await
    }
}
