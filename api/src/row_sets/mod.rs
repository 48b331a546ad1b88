//! Row sets: rows that are stored once, in versions, for schedules to run again and again.

mod put;
mod routes;
mod unique;
mod view;

use promptmill_domain::{RowSetId, TenantId};
use promptmill_ports::{RowSet, StoreError};
use sha2::{Digest as _, Sha256};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::Problem;
use crate::state::App;

/// Characters of a name.
const MAX_NAME: usize = 100;

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(routes::list))
        .routes(routes!(put::put, routes::get, routes::delete))
        .routes(routes!(routes::delete_version))
}

/// Whether a row set may be called that: as templates are.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(plain)
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

/// The id of the tenant's row set of that name.
pub(crate) fn id_of(tenant: &TenantId, name: &str) -> RowSetId {
    RowSetId::of_digest(Sha256::digest(format!("row_set|{tenant}|{name}")).into())
}

/// The tenant's row set of that name.
pub(crate) async fn find(app: &App, tenant: &TenantId, name: &str) -> Result<Option<RowSet>, Problem> {
    match app.engine().records.row_set(tenant, id_of(tenant, name)).await {
        Ok(set) => Ok(Some(set)),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
