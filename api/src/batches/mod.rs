//! Batches over HTTP: rows in, steering, and what a batch shows of itself. Results and items are of their own module.
//!
//! A batch begins in [`create`], takes rows by [`parts`] through [`intake`], and is queued by [`submit`]; [`retry`] makes one of what
//! failed in another. Every change is announced to the roles, which find it in the store within a second all the same.

mod budget;
pub(crate) mod create;
pub(crate) mod deliveries;
pub(crate) mod draft;
mod estimate;
pub(crate) mod feed;
pub(crate) mod intake;
mod list;
pub(crate) mod models;
pub(crate) mod names;
pub(crate) mod parts;
mod patch;
pub(crate) mod preflight;
pub(crate) mod refused;
mod retry;
mod rows_of;
pub(crate) mod settings;
pub(crate) mod shared;
mod steer;
pub(crate) mod submit;
mod unique;
pub(crate) mod view;
pub(crate) mod webhook;

pub(crate) use draft::lane_of;
pub(crate) use shared::Shared;
pub(crate) use submit::room_bytes;

use promptmill_ports::Signal;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::problem::chain;

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create::create, list::list))
        .routes(routes!(estimate::estimate))
        .routes(routes!(budget::budget))
        .routes(routes!(list::get, patch::change, steer::delete))
        .routes(routes!(parts::put))
        .routes(routes!(parts::list))
        .routes(routes!(submit::submit_batch))
        .routes(routes!(steer::pause))
        .routes(routes!(steer::resume))
        .routes(routes!(steer::cancel))
        .routes(routes!(retry::retry))
        .routes(routes!(deliveries::deliveries))
        .routes(routes!(deliveries::replay))
        .routes(routes!(deliveries::replay_since))
}

/// Tells the roles of a batch. Nobody relies on being told.
pub(crate) async fn announce(app: &App, signal: Signal) {
    if let Err(error) = app.engine().signals.publish(signal).await {
        tracing::debug!(error = chain(&error), "a change was not announced");
    }
}
