//! The lanes of the installation's providers: `GET /v1/lanes`.

use axum::extract::State;
use promptmill_ports::LaneReport;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::state::App;

/// A lane: what a provider limits under one credential.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Lane)]
struct LaneView {
    /// Provider and credential, `openrouter/default`.
    lane: String,
    /// Calls that may begin a second, in the whole installation; absent where no limit is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_per_second: Option<f64>,
    /// Calls that were taken a second, over the last seconds.
    used_per_second: f64,
    /// Calls that may run at the same time, in the whole installation; absent where no limit is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<u32>,
    /// Calls that began since the lane learns.
    begun: u64,
    /// Those of them that the provider refused for their rate or their number.
    refused: u64,
    /// For so many milliseconds no call begins: the provider said so, or is taken for gone.
    stands_still_ms: u64,
    /// The provider is taken for gone: one call at a time asks whether it is back.
    breaker_open: bool,
    /// Milliseconds that calls take on average; absent where none ended yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<u64>,
}

impl LaneView {
    fn of(report: &LaneReport) -> Self {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        // Three digits behind the point are more than is known.
        let rounded = |rate: f64| (rate * 1_000.0).round() / 1_000.0;
        let view = &report.view;
        Self {
            lane: report.lane.to_string(),
            allowed_per_second: view.allowed_per_s.map(rounded),
            used_per_second: rounded(view.used_per_s),
            window: view.window,
            begun: view.begun,
            refused: view.refused,
            stands_still_ms: ms(view.stands_still),
            breaker_open: view.is_open,
            latency_ms: view.latency.map(ms),
        }
    }
}

/// All lanes.
#[derive(Debug, Serialize, ToSchema)]
struct LaneList {
    /// By name.
    data: Vec<LaneView>,
}

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(lanes))
}

/// What each provider allows, as far as it is known, and what is used of it. At most a second old.
#[utoipa::path(get, path = "/v1/lanes", tag = "service", operation_id = "listLanes",
    responses((status = 200, description = "The lanes", body = LaneList)))]
async fn lanes(State(app): State<App>, caller: Caller) -> Result<axum::Json<LaneList>, Problem> {
    caller.may(Scope::ProvidersRead)?;
    let mut data: Vec<_> = app.engine().limiter.lanes().iter().map(LaneView::of).collect();
    data.sort_by(|a, b| a.lane.cmp(&b.lane));
    Ok(axum::Json(LaneList { data }))
}
