//! Items of a batch: the list with its filters, the search by `custom_id`, and one item with its row and its whole history.

mod ids;
mod list;
mod one;
mod walk;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list::list)).routes(routes!(one::item))
}
