//! The HTTP service: the only crate that knows our wire format.
//!
//! [`router`] is every route over an [`App`]; [`serve`] puts it behind sockets that do not wait for slow or hostile clients, and [`role`] is a
//! process that does nothing else. Each group of routes lives in a module of its own and ends in a `routes()`; what stands around every request (identity,
//! errors, limits, repeated requests) lives in `frame`, `problem`, `auth`, `limits` and `idempotency`.

mod auth;
mod batches;
mod cache;
mod config;
mod docs;
mod endpoints;
mod ends;
mod events;
mod extract;
mod frame;
mod generations;
mod headers;
mod health;
mod heavy;
mod idempotency;
mod items;
pub mod keys;
mod lanes;
mod limits;
mod openapi;
mod outcome_view;
mod page;
mod prefer;
mod problem;
mod progress;
mod proxies;
mod rate;
mod results;
pub mod role;
mod row_sets;
mod schedules;
mod server;
mod set_headers;
mod shapes;
mod shares;
mod slots;
mod spend;
mod sse;
mod state;
mod steps;
mod templates;
mod time;
mod told;

pub use config::{ApiConfig, ApiConfigArgs};
pub use generations::recover;
pub use openapi::document;
pub use proxies::Proxies;
pub use server::serve;
pub use state::App;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use utoipa_axum::router::OpenApiRouter;

use problem::{Problem, ProblemId};

/// Every route of the service. Meant to be run by [`serve`], which tells it who is calling from where.
pub fn router(app: App) -> Router {
    let keyed = Router::from(keyed_routes());
    let keyed = keyed.route_layer(from_fn_with_state(app.clone(), auth::require_key));
    keyed
        .merge(Router::from(health::routes()))
        .merge(Router::from(results::open_routes()))
        .merge(docs::routes())
        .fallback(problem::unknown_route)
        .layer(from_fn(headers::check_size))
        .layer(from_fn_with_state(app.clone(), frame::frame))
        .with_state(app)
}

/// Answers every request that there is no place for its connection, whoever asks and whatever for.
fn no_place(app: App) -> Router {
    let refuse =
        async || Problem::new(ProblemId::TooManyRequests).detail("too many connections").retry_after(1);
    Router::new().fallback(refuse).layer(from_fn_with_state(app, frame::frame))
}

/// The routes that need a key.
fn keyed_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(cache::routes())
        .merge(endpoints::routes())
        .merge(lanes::routes())
        .merge(limits::routes())
        .merge(keys::routes())
        .merge(templates::routes())
        .merge(batches::routes())
        .merge(results::routes())
        .merge(generations::routes())
        .merge(row_sets::routes())
        .merge(schedules::routes())
}
