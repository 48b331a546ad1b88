//! A batch made ready to run: its template compiled, its model resolved. Built once a batch, shared by its items.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use promptmill_domain::{
    Attempt, BatchId, BatchSpec, Chain, FailureKind, FallbackModel, FallbackOn, LaneId, MaxPrice, ModelRef,
    ModelSettings, Price, StoreReplies, TenantId,
};
use promptmill_prompt::{OutputSpec, Template};
use promptmill_provider::{ChatProvider, ResponseFormat, ResponseSchema};

use crate::cache::Sharing;
use crate::limit::CallLimit;
use crate::standing::Standing;

/// A batch that cannot run in this process.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PlanError {
    /// The stored template does not compile, which the check at submit should have prevented.
    #[error("the template does not compile: {0}")]
    Template(String),
    /// This process has no provider of that name.
    #[error("no provider {0:?} is configured here")]
    NoProvider(String),
}

/// A template as plans use it: it is parsed, and its schema written out, once for all batches that name it. Cheap to clone.
#[derive(Clone)]
pub struct CompiledTemplate {
    template: Arc<Template>,
    format: ResponseFormat,
}

impl CompiledTemplate {
    /// The template of a spec.
    ///
    /// # Errors
    /// When it is not one.
    pub fn of(spec: &BatchSpec) -> Result<Self, PlanError> {
        let template = Template::parse(&spec.template).map_err(|problems| {
            PlanError::Template(problems.first().map_or_else(String::new, ToString::to_string))
        })?;
        Ok(Arc::new(template).into())
    }

    /// Whether it is a clone of the other.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.template, &other.template)
    }
}

impl From<Arc<Template>> for CompiledTemplate {
    fn from(template: Arc<Template>) -> Self {
        let format = match template.output() {
            OutputSpec::Text { .. } => ResponseFormat::Text,
            OutputSpec::Json { schema: None } => ResponseFormat::Json,
            OutputSpec::Json { schema: Some(schema) } => ResponseFormat::Schema(Arc::new(
                ResponseSchema::new(schema.name.clone(), schema.schema.clone()),
            )),
        };
        Self { template, format }
    }
}

/// A model and the way to it.
pub(crate) struct Target {
    pub(crate) provider: Arc<dyn ChatProvider>,
    pub(crate) lane: Arc<LaneId>,
    /// The name the provider knows it by.
    pub(crate) model: Arc<str>,
    pub(crate) reference: ModelRef,
}

impl Target {
    fn new(model: &ModelRef, provider: Arc<dyn ChatProvider>) -> Self {
        Self {
            lane: Arc::new(LaneId::new(provider.name(), provider.credential_name())),
            model: model.name().into(),
            reference: model.clone(),
            provider,
        }
    }
}

/// What every item of a batch shares.
pub struct BatchPlan {
    pub(crate) batch: BatchId,
    pub(crate) template: Arc<Template>,
    /// The models, the one of the spec first.
    pub(crate) targets: Vec<Target>,
    pub(crate) on: Vec<FallbackOn>,
    max_price: Option<MaxPrice>,
    pub(crate) settings: Arc<ModelSettings>,
    pub(crate) format: ResponseFormat,
    pub(crate) max_attempts: u32,
    pub(crate) give_up_after: Option<Duration>,
    is_interactive: AtomicBool,
    pub(crate) store_replies: StoreReplies,
    /// Among whose rows replies are given again.
    pub(crate) sharing: Option<Sharing>,
    pub(crate) limit: CallLimit,
    pub(crate) standing: Standing,
}

impl BatchPlan {
    /// Compiles the batch's template for `provider`.
    ///
    /// # Errors
    /// When the template of the spec is not one.
    pub fn new(batch: BatchId, spec: &BatchSpec, provider: Arc<dyn ChatProvider>) -> Result<Self, PlanError> {
        Ok(Self::with(CompiledTemplate::of(spec)?, batch, spec, provider))
    }

    /// The same with the template of the spec compiled already.
    pub fn with(
        CompiledTemplate { template, format }: CompiledTemplate,
        batch: BatchId,
        spec: &BatchSpec,
        provider: Arc<dyn ChatProvider>,
    ) -> Self {
        let settings = merge(template.settings(), &spec.settings);
        Self {
            batch,
            targets: vec![Target::new(&spec.model, provider)],
            on: spec.fallback.on.clone(),
            max_price: spec.fallback.max_price,
            settings: Arc::new(settings),
            format,
            max_attempts: spec.max_attempts.max(1),
            give_up_after: spec.give_up_after_ms.map(Duration::from_millis),
            is_interactive: AtomicBool::new(false),
            store_replies: spec.store_replies,
            sharing: None,
            limit: CallLimit::default(),
            standing: Standing::default(),
            template,
        }
    }

    /// The plan of a spec whose providers `find` knows by name. A further model of a provider that it does not know is passed over.
    ///
    /// # Errors
    /// When it does not know the provider of the first model.
    pub fn among(
        template: CompiledTemplate,
        batch: BatchId,
        spec: &BatchSpec,
        find: impl Fn(&str) -> Option<Arc<dyn ChatProvider>>,
    ) -> Result<Self, PlanError> {
        let name = spec.model.provider();
        let provider = find(name).ok_or_else(|| PlanError::NoProvider(name.to_owned()))?;
        let mut plan = Self::with(template, batch, spec, provider);
        for FallbackModel { model, .. } in &spec.fallback.models {
            match find(model.provider()) {
                Some(provider) => plan = plan.with_fallback(model, provider),
                None => {
                    tracing::warn!(batch.id = %batch, model = %model, "no provider of that name is configured here; the model is passed over");
                }
            }
        }
        Ok(plan)
    }

    /// The same with a model that is asked when those before it do not do.
    #[must_use]
    pub fn with_fallback(mut self, model: &ModelRef, provider: Arc<dyn ChatProvider>) -> Self {
        self.targets.push(Target::new(model, provider));
        self
    }

    /// The same for a batch of the tenant whose rows share replies as its spec says. To be asked once it has all of its models.
    #[must_use]
    pub fn sharing(mut self, tenant: &TenantId, spec: &BatchSpec) -> Self {
        let parts = (&*self.template, &*self.settings, &self.format);
        self.sharing = spec.cache.map(|scope| Sharing::new(tenant, scope, parts, &self.targets));
        self
    }

    /// The models of an item, but for those that are dearer than the batch allows by what `price` knows; `None` when every one is.
    pub(crate) fn chain(&self, price: impl Fn(&ModelRef) -> Option<Price>) -> Option<Chain> {
        let chain = Chain::new(self.targets.len());
        let Some(most) = self.max_price else { return Some(chain) };
        chain.without(|at| {
            let price = self.targets.get(at).and_then(|target| price(&target.reference));
            price.is_some_and(|price| !most.allows(price))
        })
    }

    /// The models whose reply was no good, by what is kept of earlier attempts: a bit each. They are not asked again.
    pub(crate) fn done_with(&self, attempts: &[Attempt]) -> u32 {
        let is_over = |kind: FailureKind| {
            // What was refused for its credential may be mended meanwhile.
            let may_be_mended = matches!(kind, FailureKind::CredentialRefused | FailureKind::PaymentRequired);
            !kind.is_transient() && !may_be_mended && self.goes_on(kind)
        };
        let last_calls = attempts.iter().filter_map(|attempt| attempt.calls.last());
        let over = last_calls.filter(|call| call.failure.is_some_and(is_over));
        over.fold(0, |done, call| {
            let at = self.targets.iter().position(|target| match &call.model {
                Some(model) => target.reference == *model,
                None => std::ptr::eq(target, &self.targets[0]),
            });
            at.map_or(done, |at| done | 1 << at)
        })
    }

    /// Whether another model is asked after such a failure.
    pub(crate) fn goes_on(&self, kind: FailureKind) -> bool {
        FallbackOn::of(kind).is_some_and(|case| self.on.contains(&case))
    }

    /// Whether another model is asked while a lane stands still: for being told to wait, or for being gone.
    pub(crate) fn passes_over_lanes(&self) -> bool {
        self.on.contains(&FallbackOn::OverRate) || self.on.contains(&FallbackOn::Unavailable)
    }

    /// The lane of the calls of its first model.
    pub fn lane(&self) -> &LaneId {
        &self.targets[0].lane
    }

    /// The models, the one that is asked first before the others.
    pub fn models(&self) -> impl Iterator<Item = &ModelRef> {
        self.targets.iter().map(|target| &target.reference)
    }

    /// Whether models are passed over that cost too much.
    pub fn has_max_price(&self) -> bool {
        self.max_price.is_some()
    }

    /// Sets how many calls of the batch this process may have under way at the same time, at least one; `None` for no limit of its own.
    /// Holds from the next call on: calls under way end above a lower limit.
    pub fn set_max_concurrency(&self, most: Option<u32>) {
        self.limit.set(most);
    }

    /// Sets whether somebody waits for its replies: its calls go before those of others on the lane then.
    pub fn set_interactive(&self, is_interactive: bool) {
        self.is_interactive.store(is_interactive, Ordering::Relaxed);
    }

    pub(crate) fn is_interactive(&self) -> bool {
        self.is_interactive.load(Ordering::Relaxed)
    }

    /// The limit that was set last.
    pub fn max_concurrency(&self) -> Option<u32> {
        self.limit.most()
    }

    /// Where the batch's items stand that are being worked on.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }
}

/// The template's settings, each replaced by the batch's own where that has one.
fn merge(template: &ModelSettings, batch: &ModelSettings) -> ModelSettings {
    let mut extra = template.extra.clone();
    extra.extend(batch.extra.clone());
    ModelSettings {
        temperature: batch.temperature.or(template.temperature),
        top_p: batch.top_p.or(template.top_p),
        max_tokens: batch.max_tokens.or(template.max_tokens),
        seed: batch.seed.or(template.seed),
        stop: if batch.stop.is_empty() { template.stop.clone() } else { batch.stop.clone() },
        extra,
    }
}
