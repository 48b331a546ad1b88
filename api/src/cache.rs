//! `DELETE /v1/cache`: the tenant's replies that are given again are forgotten.

use std::time::{Duration, Instant};

use axum::extract::State;
use promptmill_ports::Outlived;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Caller, Scope};
use crate::problem::Problem;
use crate::state::App;

/// How long one request goes on.
const GOES_ON_FOR: Duration = Duration::from_secs(10);

/// The rest after each step, which is other writers' time.
const REST: Duration = Duration::from_millis(20);

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(forget))
}

/// What became of the replies.
#[derive(Debug, Serialize, ToSchema)]
struct Forgotten {
    /// Replies that were forgotten now.
    forgotten: u64,
    /// Whether there are more, for the same request to go on with.
    more: bool,
}

/// Forgets the replies that the cache kept until now, of the tenant and of its batches. Outcomes stay as they are.
#[utoipa::path(delete, path = "/v1/cache", tag = "service", operation_id = "forgetCachedReplies",
    responses((status = 200, description = "How many were forgotten", body = Forgotten)))]
async fn forget(State(app): State<App>, caller: Caller) -> Result<axum::Json<Forgotten>, Problem> {
    caller.may(Scope::BatchesWrite)?;
    let (begun, which) = (Instant::now(), Outlived::OfTenant(caller.tenant.clone()));
    let mut forgotten = 0;
    loop {
        let some = app.engine().store.forget_replies(&which).await?;
        forgotten += u64::from(some);
        if some == 0 || begun.elapsed() > GOES_ON_FOR {
            return Ok(axum::Json(Forgotten { forgotten, more: some > 0 }));
        }
        tokio::time::sleep(REST).await;
    }
}
