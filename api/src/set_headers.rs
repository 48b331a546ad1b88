//! Headers that a tenant set for requests of ours: encrypted as they are kept, opened as they are sent.

use std::collections::BTreeMap;

use promptmill_domain::SealedHeaders;
use promptmill_egress::{HeaderMap, extra_headers};
use secrecy::ExposeSecret as _;

use crate::App;
use crate::problem::Problem;

/// Headers as they are kept, sealed for `context`; nothing of none.
pub(crate) fn sealed(
    app: &App,
    context: &str,
    headers: &BTreeMap<String, String>,
) -> Result<Option<SealedHeaders>, Problem> {
    if headers.is_empty() {
        return Ok(None);
    }
    let names = headers.keys().map(|name| name.to_ascii_lowercase()).collect();
    let text = serde_json::to_vec(headers).map_err(Problem::internal)?;
    let sealed = app.vault().seal(context, &text).map_err(Problem::internal)?;
    Ok(Some(SealedHeaders { names, sealed }))
}

/// Headers that were sealed for `context`.
pub(crate) fn opened(app: &App, context: &str, kept: &SealedHeaders) -> Result<HeaderMap, Problem> {
    let opened = app.vault().open(context, &kept.sealed).map_err(Problem::internal)?;
    let set = serde_json::from_slice(opened.expose_secret()).map_err(Problem::internal)?;
    extra_headers(&set).map_err(Problem::internal)
}
