//! Whether every `custom_id` of a version is its own.

use promptmill_domain::{RowSetId, TenantId, UploadId};
use promptmill_intake::same_ids;

use crate::App;
use crate::problem::{FieldError, Problem, ProblemId};

/// Finds ids that stand twice.
///
/// # Errors
/// `invalid_rows` naming both rows of each, as far as they are told.
pub(super) async fn check(
    app: &App,
    tenant: &TenantId,
    set: RowSetId,
    upload: UploadId,
    rows: u64,
) -> Result<(), Problem> {
    let same = same_ids(app.engine().records.as_ref(), tenant, set, upload, rows).await?;
    if same.is_empty() {
        return Ok(());
    }
    let errors = same.into_iter().map(|(first, second)| {
        let detail = format!("rows {} and {} have the same custom_id", first + 1, second + 1);
        let code = Some("duplicate_custom_id");
        FieldError { code, ..FieldError::at("/custom_id", detail) }
    });
    let detail = "a custom_id must be the only one of its rows";
    Err(Problem::new(ProblemId::InvalidRows).detail(detail).errors(errors))
}
