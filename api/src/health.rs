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
pub(crate) struct Readiness(tokio::sync::Mutex<Option<(Instant, Standing)>>);

/// What the store is fit for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Everything.
    Ok,
    /// The disk is nearly full: submissions are refused, everything else goes on.
    NoRoom,
    /// It does not answer, or its writes fail.
    Away,
}

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(livez)).routes(routes!(readyz))
}

/// How it stands.
#[derive(Serialize, ToSchema)]
struct HealthView {
    /// `ok`; `no_room` when the disk is nearly full and submissions are refused.
    status: &'static str,
}

/// The process lives. Looks at nothing else.
#[utoipa::path(get, path = "/livez", tag = "service", operation_id = "livez", security(()),
    responses((status = 200, description = "It lives", body = HealthView)))]
async fn livez() -> axum::Json<HealthView> {
    axum::Json(HealthView { status: "ok" })
}

/// The service can do its work: the store answers and writes, and it is not stopping. With a disk that is nearly full it is still asked:
/// results can be read and batches deleted, which makes room.
#[utoipa::path(get, path = "/readyz", tag = "service", operation_id = "readyz", security(()),
    responses((status = 200, description = "It can serve", body = HealthView)))]
async fn readyz(State(app): State<App>) -> Result<axum::Json<HealthView>, Problem> {
    let not_ready = |why: &'static str| Problem::new(ProblemId::Unavailable).detail(why);
    if app.leaving().is_cancelled() {
        return Err(not_ready("the service is stopping"));
    }
    let mut last = app.readiness().0.lock().await;
    let standing = match *last {
        Some((at, standing)) if at.elapsed() < FRESH => standing,
        Some(_) | None => {
            let standing = tokio::time::timeout(FRESH, look(&app)).await.unwrap_or(Standing::Away);
            *last = Some((Instant::now(), standing));
            standing
        }
    };
    match standing {
        Standing::Ok => Ok(axum::Json(HealthView { status: "ok" })),
        Standing::NoRoom => Ok(axum::Json(HealthView { status: "no_room" })),
        Standing::Away => Err(not_ready("the store does not answer, or cannot write")),
    }
}

async fn look(app: &App) -> Standing {
    let store = &app.engine().store;
    if store.changes().await.is_err() {
        return Standing::Away;
    }
    match store.has_room().await {
        Ok(true) => Standing::Ok,
        Ok(false) => Standing::NoRoom,
        Err(_) => Standing::Away,
    }
}
