//! Rates, and what a caller may know of them: `GET /v1/limits`, `GET /v1/me`, and the headers of every answer.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use promptmill_domain::{BudgetScope, KeyId, Money, Period};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Caller;
use crate::config::ApiConfig;
use crate::problem::{Problem, ProblemId};
use crate::rate::{Left, Rate};
use crate::spend::SpendView;
use crate::state::App;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// Who called how often.
pub(crate) struct Limits {
    /// Requests of a key.
    pub(crate) requests: Rate<KeyId>,
    /// Keys that were refused, by the address they came from.
    pub(crate) refusals: Rate<IpAddr>,
}

impl Limits {
    /// Nobody called yet.
    pub(crate) fn new(config: &ApiConfig) -> Self {
        Self {
            requests: Rate::new(config.requests_per_second, config.request_burst),
            refusals: Rate::new(config.refusals_per_second, config.refusal_burst),
        }
    }
}

/// Adds what is left, in the form of the IETF draft of September 2025.
pub(crate) fn describe(config: &ApiConfig, left: Left, headers: &mut HeaderMap) {
    let window = config.request_burst.div_ceil(config.requests_per_second.max(1));
    let policy = format!("\"requests\";q={};w={window}", config.request_burst);
    let left = format!("\"requests\";r={};t={}", left.requests, seconds(left.full_in));
    for (name, value) in [(POLICY, policy), (LEFT, left)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

/// The answer to a key that called too often.
pub(crate) fn refuse(config: &ApiConfig, wait: Duration) -> Response {
    let mut response = Problem::new(ProblemId::TooManyRequests)
        .detail("too many requests with this key")
        .retry_after(seconds(wait).max(1))
        .into_response();
    describe(config, Left { requests: 0, full_in: wait }, response.headers_mut());
    response
}

/// The answer to an address that showed too many bad keys.
pub(crate) fn too_many_refusals(wait: Duration) -> Problem {
    Problem::new(ProblemId::TooManyRequests)
        .detail("too many invalid API keys from this address")
        .retry_after(seconds(wait).max(1))
}

/// Whole seconds, upwards.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(limits)).routes(routes!(me))
}

/// Sizes, rates and quotas in force.
#[derive(Serialize, ToSchema)]
struct LimitsView {
    /// Bytes of one row.
    row_bytes: usize,
    /// Bytes of a reply that are kept.
    reply_bytes: usize,
    /// Bytes of one item's history of calls.
    history_bytes: usize,
    /// Bytes of a body with rows inline.
    inline_bytes: usize,
    /// Bytes of one part on the wire.
    part_bytes: u64,
    /// Rows of one batch.
    batch_rows: u64,
    /// The least distance of two ticks of a schedule, seconds.
    schedule_seconds: u64,
    /// Requests a second of one key.
    requests_per_second: u32,
    /// Requests of one key at once.
    request_burst: u32,
    /// Batches of the tenant that run at the same time.
    running_batches: u32,
    /// Rows the tenant may submit on a day (UTC).
    rows_per_day: u64,
    /// Bytes the tenant may have stored: rows, outcomes, shared replies, templates, what batches and generations are made of, answers kept for repeated requests.
    stored_bytes: u64,
    /// US dollars the tenant may spend on a day (UTC); null where there is no limit.
    #[schema(value_type = Option<String>)]
    max_cost_per_day: Option<Money>,
    /// US dollars the tenant may spend in a month (UTC); null where there is no limit.
    #[schema(value_type = Option<String>)]
    max_cost_per_month: Option<Money>,
    /// What is used up.
    used: UsedView,
}

/// What the tenant has used.
#[derive(Serialize, ToSchema)]
struct UsedView {
    /// Rows submitted today (UTC).
    rows_today: u64,
    /// Bytes stored.
    stored_bytes: u64,
    /// Spent today (UTC), with what calls under way may cost and what processes that died may have spent; null where there is no limit.
    cost_today: Option<SpendView>,
    /// The same of this month (UTC).
    cost_this_month: Option<SpendView>,
}

/// Sizes, rates and quotas in force, and what is used of them.
#[utoipa::path(get, path = "/v1/limits", tag = "service", operation_id = "getLimits",
    responses((status = 200, description = "Sizes, rates and quotas", body = LimitsView)))]
async fn limits(State(app): State<App>, caller: Caller) -> Result<axum::Json<LimitsView>, Problem> {
    let config = app.config();
    let usage = app.engine().store.usage(&caller.tenant, app.now_ms()).await?;
    let most = |period| app.treasury().tenants().of(&caller.tenant, period);
    let spend = async |period| -> Result<_, Problem> {
        if most(period).is_none() {
            return Ok(None);
        }
        let scope = BudgetScope::of_tenant(caller.tenant.clone(), period, app.now_ms());
        Ok(Some(SpendView::from(&app.engine().store.budget(&scope).await?.budget)))
    };
    Ok(axum::Json(LimitsView {
        row_bytes: config.row_bytes,
        reply_bytes: config.reply_bytes,
        history_bytes: config.history_bytes,
        inline_bytes: config.inline_bytes,
        part_bytes: config.part_bytes,
        batch_rows: config.batch_rows,
        schedule_seconds: config.schedule_seconds,
        requests_per_second: config.requests_per_second,
        request_burst: config.request_burst,
        running_batches: config.running_batches,
        rows_per_day: config.rows_per_day,
        stored_bytes: config.stored_bytes,
        max_cost_per_day: most(Period::Day),
        max_cost_per_month: most(Period::Month),
        used: UsedView {
            rows_today: usage.rows,
            stored_bytes: usage.stored_bytes(),
            cost_today: spend(Period::Day).await?,
            cost_this_month: spend(Period::Month).await?,
        },
    }))
}

/// Whoever calls.
#[derive(Serialize, ToSchema)]
struct MeView {
    /// The tenant whose data is seen.
    tenant: String,
    /// The key that was shown.
    key_id: String,
    /// viewer, member, admin or owner.
    #[schema(value_type = String)]
    role: promptmill_ports::Role,
    /// Everything the key may do.
    scopes: Vec<&'static str>,
}

/// Whom the key belongs to and what it may do.
#[utoipa::path(get, path = "/v1/me", tag = "service", operation_id = "getMe",
    responses((status = 200, description = "The caller", body = MeView)))]
async fn me(caller: Caller) -> axum::Json<MeView> {
    axum::Json(MeView {
        tenant: caller.tenant.to_string(),
        key_id: caller.key_id.to_string(),
        role: caller.role,
        scopes: caller.scopes().iter().map(|scope| scope.as_str()).collect(),
    })
}
