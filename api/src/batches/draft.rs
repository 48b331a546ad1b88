//! What a client asks for when it makes a batch, checked and turned into what the store keeps.
//!
//! Start at [`plan`]. Everything wrong with the members that can be told without asking anyone is told at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use promptmill_domain::{
    BatchId, BatchLimits, BatchSpec, CacheScope, FallbackOn, LaneId, ModelRef, Money, StoreReplies, TenantId,
    chunk,
};
use promptmill_intake::RowsOf;
use promptmill_prompt::Template;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::models::{self, MaxPriceBody, ModelsArg};
use super::names::{CacheNames, FallbackNames, RepliesNames};
use super::settings::SettingsBody;
use super::webhook;
use crate::App;
use crate::heavy::heavy;
use crate::problem::{FieldError, Problem, ProblemId};
use crate::shapes::{
    BatchName, Dollars, LabelMap, ModelNames, OutputDocument, RowDocument, WebhookSecret, WebhookUrl,
};
use crate::templates::{self, TemplateArg};
use crate::time::Time;

const MAX_NAME_CHARS: usize = 200;
const MAX_LABELS: usize = 16;
const MAX_LABEL_KEY: usize = 64;
const MAX_LABEL_BYTES: usize = 256;
const MAX_METADATA_BYTES: usize = 16 << 10;
const ATTEMPTS: std::ops::RangeInclusive<u32> = 1..=20;
const PRIORITIES: std::ops::RangeInclusive<i64> = -100..=100;
const CONCURRENCIES: std::ops::RangeInclusive<u64> = 1..=10_000;
const WINDOW_S: std::ops::RangeInclusive<u64> = 60..=31_536_000;
const GIVE_UP_S: std::ops::RangeInclusive<u64> = 60..=2_592_000;
const RETENTION_S: std::ops::RangeInclusive<u64> = 3_600..=31_536_000;

/// A batch to be made. Without rows it stays a draft that takes parts; with rows it is submitted at once.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewBatch)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewBatchBody {
    /// A stored template (`name`, `name@3`, `tmpl_...`, `tmpl_...@3`) or an inline one. Without it every row brings messages.
    pub(crate) template: Option<TemplateArg>,
    /// What a reply must be, as a template's `output`; only without a template.
    #[schema(value_type = Option<OutputDocument>)]
    pub(crate) output: Option<Box<RawValue>>,
    /// `provider:name`; wins over the template's. Several are a chain: each is asked when those before it do not do, as `fallback_on` says.
    #[schema(value_type = Option<ModelNames>, inline, example = "demo:any")]
    pub(crate) model: Option<ModelsArg>,
    /// When the next model is asked, always unless told: the provider of the one before is `unavailable`, its lane is `over_rate`, or its reply is
    /// `invalid` after every repair.
    #[schema(value_type = Option<Vec<FallbackNames>>, inline)]
    pub(crate) fallback_on: Option<Vec<FallbackOn>>,
    /// Models whose price is known to be above this are passed over.
    #[schema(inline)]
    pub(crate) max_price: Option<MaxPriceBody>,
    /// Sampling settings; each wins over the template's.
    pub(crate) settings: Option<SettingsBody>,
    /// Attempts at an item before it fails, 5 unless told.
    #[schema(minimum = 1, maximum = 20)]
    pub(crate) max_attempts: Option<u32>,
    /// What people call it.
    #[schema(value_type = Option<BatchName>, inline)]
    pub(crate) name: Option<String>,
    /// For lists to filter by: at most 16.
    #[schema(value_type = Option<LabelMap>, inline)]
    pub(crate) labels: Option<BTreeMap<String, String>>,
    /// Any JSON object up to 16 KiB, given back as it is.
    #[schema(value_type = Option<Object>)]
    pub(crate) metadata: Option<Box<RawValue>>,
    /// Larger is served earlier.
    #[schema(minimum = -100, maximum = 100)]
    pub(crate) priority: Option<i64>,
    /// The most calls at the same time.
    #[schema(minimum = 1, maximum = 10000)]
    pub(crate) max_concurrency: Option<u64>,
    /// No call begins once this much is spent, US dollars.
    #[schema(value_type = Option<Dollars>, inline, example = "2.50")]
    pub(crate) max_cost: Option<String>,
    /// When what is still open expires; in the future. In the last fifth of the time from its submit on the batch is served before all that is not
    /// interactive.
    pub(crate) deadline: Option<Time>,
    /// Seconds from its submit to its deadline, instead of that.
    #[schema(minimum = 60, maximum = 31536000)]
    pub(crate) completion_window: Option<u64>,
    /// Seconds after its first attempt that an item is given up whose provider stays in trouble, 86400 unless told.
    #[schema(minimum = 60, maximum = 2592000)]
    pub(crate) give_up_after: Option<u64>,
    /// Seconds it is kept after its end.
    #[schema(minimum = 3600, maximum = 31536000)]
    pub(crate) retention: Option<u64>,
    /// Which raw replies are kept, `failed` unless told.
    #[schema(value_type = Option<RepliesNames>, inline)]
    pub(crate) store_replies: Option<StoreReplies>,
    /// Gives an accepted reply again, without a call, to rows that ask the same: same model, messages, settings and format. Those of this `batch`, or
    /// of every batch of the `tenant` that says so, for 30 days.
    #[schema(value_type = Option<CacheNames>, inline)]
    pub(crate) cache: Option<CacheScope>,
    /// Whether it is paused when its first items all fail for one cause outside the rows; true unless told.
    pub(crate) guard: Option<bool>,
    /// Where its events are posted.
    #[schema(value_type = Option<WebhookUrl>, inline)]
    pub(crate) webhook_url: Option<String>,
    /// `whsec_` and 24 to 64 bytes as base64; one is made where there is none.
    #[schema(value_type = Option<WebhookSecret>, inline)]
    pub(crate) webhook_secret: Option<String>,
    /// Whether the webhook's event that tells its end has the results in it where they are small: up to 100 rows and 64 KiB. No unless told.
    pub(crate) webhook_results: Option<bool>,
    /// Parts of its items in per cent, 1 to 99 and up to 20 of them: it tells `batch.progress` when so many have an outcome, its webhook and endpoints.
    #[schema(max_items = 20)]
    pub(crate) progress_at: Option<Vec<Percent>>,
    /// Rows, each `{"custom_id"?, "variables": {...}}` or `{"custom_id"?, "messages": [...]}`.
    #[schema(value_type = Option<Vec<RowDocument>>, min_items = 1)]
    pub(crate) rows: Option<Vec<Box<RawValue>>>,
}

/// A part in per cent.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[schema(minimum = 1, maximum = 99)]
pub(crate) struct Percent(u8);

/// Marks of progress.
const MOST_MARKS: usize = 20;

/// A batch that may be made.
pub(crate) struct Plan {
    /// What to do.
    pub(crate) spec: BatchSpec,
    /// Limits to begin with.
    pub(crate) limits: BatchLimits,
    /// How its rows are read.
    pub(crate) rows_of: RowsOf,
    /// What they are made prompts with.
    pub(crate) template: Arc<Template>,
    /// Whether we made the webhook's signing secret, so that it is to be told once.
    pub(crate) made_secret: bool,
}

/// Checks what is asked for and makes it the batch `id`. Nothing is stored.
///
/// # Errors
/// `invalid` with a pointer for each member, `invalid_template`, and what a template that is not there gives.
pub(crate) async fn plan(
    app: &App,
    tenant: &TenantId,
    id: BatchId,
    body: &NewBatchBody,
) -> Result<Plan, Problem> {
    let mut errors = Vec::new();
    let limits = limits(app, body, &mut errors);
    check_names(body, &mut errors);
    let mut models = match body.model.as_ref().map(ModelsArg::parsed) {
        None => vec![],
        Some(Ok(models)) => models,
        Some(Err(wrong)) => {
            errors.push(wrong);
            vec![]
        }
    };
    let max_price = match body.max_price.as_ref().map(MaxPriceBody::parsed) {
        None => None,
        Some(Ok(most)) => Some(most),
        Some(Err(wrong)) => {
            errors.push(wrong);
            None
        }
    };
    let settings = match body.settings.as_ref().map(|settings| settings.checked("/settings")) {
        None => Default::default(),
        Some(Ok(settings)) => settings,
        Some(Err(wrong)) => {
            errors.extend(wrong);
            Default::default()
        }
    };
    let max_attempts = body.max_attempts.unwrap_or(BatchSpec::default_max_attempts());
    if !ATTEMPTS.contains(&max_attempts) {
        errors.push(FieldError::at("/max_attempts", "must be 1 to 20"));
    }
    if body.retention.is_some_and(|seconds| !RETENTION_S.contains(&seconds)) {
        errors.push(FieldError::at("/retention", "must be 3600 to 31536000 seconds"));
    }
    if body.completion_window.is_some_and(|seconds| !WINDOW_S.contains(&seconds)) {
        errors.push(FieldError::at("/completion_window", "must be 60 to 31536000 seconds"));
    } else if body.completion_window.is_some() && body.deadline.is_some() {
        errors.push(FieldError::at("/completion_window", "says what deadline says; leave one of them out"));
    }
    if body.give_up_after.is_some_and(|seconds| !GIVE_UP_S.contains(&seconds)) {
        errors.push(FieldError::at("/give_up_after", "must be 60 to 2592000 seconds"));
    }
    let mut progress_at: Vec<u8> = body.progress_at.iter().flatten().map(|percent| percent.0).collect();
    if progress_at.len() > MOST_MARKS || progress_at.iter().any(|percent| !(1..=99).contains(percent)) {
        errors.push(FieldError::at("/progress_at", "must be up to 20 whole numbers from 1 to 99"));
    }
    progress_at.sort_unstable();
    progress_at.dedup();
    if body.rows.as_ref().is_some_and(Vec::is_empty) {
        errors
            .push(FieldError::at("/rows", "must hold at least one row; leave it out to send rows in parts"));
    }
    let named = webhook::named(app, body).unwrap_or_else(|error| {
        errors.push(error);
        None
    });
    if !errors.is_empty() {
        return Err(Problem::new(ProblemId::Invalid).errors(errors));
    }

    let Pinned { template, reference, rows_of } = pin(app, tenant, body).await?;
    let further = models.split_off(models.len().min(1));
    let Some(model) = models.pop().or_else(|| template.model().cloned()) else {
        let detail = "is needed, for example \"demo:any\", where the template names none";
        return Err(Problem::invalid("/model", detail));
    };
    let lane = lane_of(app, &model, "/model")?;
    let fallback = models::fallback(app, &further, body.fallback_on.as_deref(), max_price)?;
    let made_secret = named.as_ref().is_some_and(|(_, _, made)| *made);
    let results = body.webhook_results.unwrap_or_default();
    let webhook =
        named.map(|(url, secret, _)| webhook::sealed(app, tenant, id, url, &secret, results)).transpose()?;
    let spec = BatchSpec {
        template_ref: reference,
        fallback,
        settings,
        max_attempts,
        give_up_after_ms: body.give_up_after.map(|seconds| seconds * 1000),
        completion_window_ms: body.completion_window.map(|seconds| seconds * 1000),
        chunk_rows: chunk::rows_for(limits.max_concurrency),
        store_replies: body.store_replies.unwrap_or(StoreReplies::Failed),
        cache: body.cache,
        name: body.name.clone(),
        labels: body.labels.clone().unwrap_or_default(),
        metadata: body.metadata.as_ref().map(|metadata| metadata.get().to_owned()),
        retention_ms: body.retention.map(|seconds| seconds * 1000),
        webhook,
        progress_at,
        ..BatchSpec::new(template.source().to_owned(), model, lane)
    };
    Ok(Plan { spec, limits, rows_of, template, made_secret })
}

/// The lane of a model's calls.
///
/// # Errors
/// `invalid` at `pointer` when its provider is not configured.
pub(crate) fn lane_of(app: &App, model: &ModelRef, pointer: &str) -> Result<LaneId, Problem> {
    let providers = &app.engine().providers;
    let Some(provider) = providers.get(model.provider()) else {
        let known: Vec<_> = providers.names().collect();
        let detail = format!("there is no provider {:?}; use one of {}", model.provider(), known.join(", "));
        return Err(Problem::invalid(pointer, detail));
    };
    Ok(LaneId::new(provider.name(), provider.credential_name()))
}

struct Pinned {
    template: Arc<Template>,
    reference: Option<promptmill_domain::TemplateRef>,
    rows_of: RowsOf,
}

/// The template the batch is pinned to, or the one that stands for rows of messages.
async fn pin(app: &App, tenant: &TenantId, body: &NewBatchBody) -> Result<Pinned, Problem> {
    if let Some(asked) = &body.template {
        if body.output.is_some() {
            return Err(Problem::invalid("/output", "is the template's own; leave it out beside a template"));
        }
        let found = templates::resolve(app, tenant, asked).await?;
        let rows_of = RowsOf::template(found.parsed.clone());
        return Ok(Pinned { template: found.parsed, reference: found.reference, rows_of });
    }
    let output = body.output.as_ref().map(|output| output.get().to_owned());
    let parsed = heavy(move || {
        let source = Template::for_messages(output.as_deref())?;
        Template::parse(&source)
    });
    let template = Arc::new(parsed.await?.map_err(|problems| {
        let errors = problems.into_iter().map(|problem| FieldError::at(problem.pointer, problem.message));
        Problem::new(ProblemId::Invalid).errors(errors)
    })?);
    Ok(Pinned { rows_of: RowsOf::messages(template.clone()), template, reference: None })
}

fn limits(app: &App, body: &NewBatchBody, errors: &mut Vec<FieldError>) -> BatchLimits {
    let mut limits = BatchLimits { guard: body.guard.unwrap_or(true), ..BatchLimits::default() };
    let mut noted = |wrong: Result<(), FieldError>| errors.extend(wrong.err());
    if let Some(priority) = body.priority {
        noted(priority_of(priority).map(|priority| limits.priority = priority));
    }
    if let Some(most) = body.max_concurrency {
        noted(concurrency_of(most).map(|most| limits.max_concurrency = Some(most)));
    }
    if let Some(cost) = &body.max_cost {
        noted(cost_of(cost).map(|cost| limits.max_cost = Some(cost)));
    }
    if let Some(deadline) = body.deadline {
        noted(deadline_of(deadline, app.now_ms()).map(|deadline| limits.deadline_ms = Some(deadline)));
    }
    // Of a draft it begins with the submit.
    if let (Some(seconds), Some(_)) = (body.completion_window, &body.rows) {
        limits.deadline_ms = Some(app.now_ms() + seconds.min(*WINDOW_S.end()) * 1000);
    }
    limits
}

/// The priority a request names.
pub(crate) fn priority_of(priority: i64) -> Result<i16, FieldError> {
    let in_range = PRIORITIES.contains(&priority).then(|| i16::try_from(priority).ok()).flatten();
    in_range.ok_or_else(|| FieldError::at("/priority", "must be -100 to 100"))
}

/// The most calls at the same time a request names.
pub(crate) fn concurrency_of(most: u64) -> Result<u32, FieldError> {
    let in_range = CONCURRENCIES.contains(&most).then(|| u32::try_from(most).ok()).flatten();
    in_range.ok_or_else(|| FieldError::at("/max_concurrency", "must be 1 to 10000"))
}

/// The budget a request names.
pub(crate) fn cost_of(cost: &str) -> Result<Money, FieldError> {
    let wrong = "must be an amount of US dollars above 0, written like \"2.50\"";
    let cost = cost.parse::<Money>().ok().filter(|cost| *cost > Money::ZERO);
    cost.ok_or_else(|| FieldError::at("/max_cost", wrong))
}

/// The deadline a request names, Unix milliseconds.
pub(crate) fn deadline_of(deadline: Time, now_ms: u64) -> Result<u64, FieldError> {
    if deadline.0 <= now_ms {
        return Err(FieldError::at("/deadline", "must lie in the future"));
    }
    Ok(deadline.0)
}

/// Whether a batch may be called that.
pub(crate) fn check_name(name: &str) -> Result<(), FieldError> {
    let fits = (1..=MAX_NAME_CHARS).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if fits {
        return Ok(());
    }
    let detail = format!("must have 1 to {MAX_NAME_CHARS} characters and no control characters");
    Err(FieldError::at("/name", detail))
}

/// Whether a label may be called that.
pub(crate) fn is_label_key(key: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=MAX_LABEL_KEY).contains(&key.len()) && key.bytes().all(plain)
}

fn check_names(body: &NewBatchBody, errors: &mut Vec<FieldError>) {
    errors.extend(body.name.as_deref().and_then(|name| check_name(name).err()));
    let labels = body.labels.iter().flatten();
    if labels.clone().count() > MAX_LABELS {
        errors.push(FieldError::at("/labels", format!("must be at most {MAX_LABELS}")));
    }
    for (key, value) in labels.take(MAX_LABELS) {
        if !is_label_key(key) {
            let detail = format!("keys must be 1 to {MAX_LABEL_KEY} of A-Z, a-z, 0-9, '_', '.' and '-'");
            errors.push(FieldError::at("/labels", detail));
        } else if value.len() > MAX_LABEL_BYTES || value.chars().any(char::is_control) {
            let detail = format!("must have at most {MAX_LABEL_BYTES} bytes and no control characters");
            errors.push(FieldError::at(format!("/labels/{key}"), detail));
        }
    }
    if let Some(metadata) = &body.metadata {
        if !metadata.get().starts_with('{') {
            errors.push(FieldError::at("/metadata", "must be an object"));
        } else if metadata.get().len() > MAX_METADATA_BYTES {
            errors.push(FieldError::at("/metadata", format!("must have at most {MAX_METADATA_BYTES} bytes")));
        }
    }
}
