//! Whether the process lives, and whether it can serve.

use std::time::Duration;

use axum::extract::State;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::{Problem, ProblemId};
use crate::state::App;

/// How long an answer of the store counts, and how long is waited for one.
const FRESH: Duration = Duration::from_secs(1);

/// The last look at the store.
#[derive(Default)]
pub(crate) struct Readiness(tokio::sync::Mutex<Option<(Instant, bool)>>);

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(livez)).routes(routes!(readyz))
}

/// All is well.
#[derive(Serialize, ToSchema)]
struct HealthView {
    /// `ok`.
    status: &'static str,
}

/// The process lives. Looks at nothing else.
#[utoipa::path(get, path = "/livez", tag = "service", operation_id = "livez", security(()),
    responses((status = 200, description = "It lives", body = HealthView)))]
async fn livez() -> axum::Json<HealthView> {
    axum::Json(HealthView { status: "ok" })
}

/// The service can do its work: the store answers, and it is not stopping.
#[utoipa::path(get, path = "/readyz", tag = "service", operation_id = "readyz", security(()),
    responses((status = 200, description = "It can serve", body = HealthView)))]
async fn readyz(State(app): State<App>) -> Result<axum::Json<HealthView>, Problem> {
    let not_ready = |why: &'static str| Problem::new(ProblemId::Unavailable).detail(why);
    if app.stopping().is_cancelled() {
        return Err(not_ready("the service is stopping"));
    }
    let mut last = app.readiness().0.lock().await;
    let answers = match *last {
        Some((at, answers)) if at.elapsed() < FRESH => answers,
        Some(_) | None => {
            let asked = tokio::time::timeout(FRESH, app.engine().store.changes()).await;
            let answers = matches!(asked, Ok(Ok(_)));
            *last = Some((Instant::now(), answers));
            answers
        }
    };
    if answers {
        Ok(axum::Json(HealthView { status: "ok" }))
    } else {
        Err(not_ready("the store does not answer"))
    }
}
