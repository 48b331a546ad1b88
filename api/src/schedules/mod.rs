//! Schedules: batches that recur, made, changed, paused and run over HTTP, and what became of each of their ticks.

mod body;
mod create;
mod difference;
mod list;
mod names;
mod rows;
mod runs;
mod served;
mod steer;
mod ticks;
mod view;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::App;

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create::create, list::list))
        .routes(routes!(list::get, steer::change, steer::delete))
        .routes(routes!(steer::pause))
        .routes(routes!(steer::resume))
        .routes(routes!(steer::run))
        .routes(routes!(ticks::history))
        .routes(routes!(difference::difference))
        .routes(routes!(ticks::next))
}
