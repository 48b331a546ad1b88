//! How the rows of a batch that is there are read.

use promptmill_intake::RowsOf;

use crate::heavy::heavy;
use crate::problem::Problem;

/// Those of a batch that is pinned to the template text `source`.
///
/// # Errors
/// `internal` when this release does not read the text any more.
pub(crate) async fn pinned(source: String) -> Result<RowsOf, Problem> {
    let rows_of = heavy(move || RowsOf::pinned(&source)).await?;
    rows_of.map_err(|_| Problem::internal("the template a batch is pinned to cannot be parsed"))
}
