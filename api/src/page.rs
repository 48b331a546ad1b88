//! Lists: pages with an opaque cursor.

use std::str::FromStr;

use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::{IntoParams, ToSchema};

use crate::problem::{Problem, ProblemId};
use crate::shapes::CursorText;

/// Entries of a page when nothing is asked for.
pub(crate) const DEFAULT_LIMIT: u32 = 50;
/// Most entries of a page.
pub(crate) const MAX_LIMIT: u32 = 500;

const CHECK: usize = 6;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The entries.
    pub(crate) data: Vec<T>,
    /// Asks for what follows; null at the end.
    pub(crate) next_cursor: Option<String>,
}

impl<T: Serialize> Page<T> {
    /// The answer, with the address of the next page of the list at `uri`.
    pub(crate) fn respond(self, uri: &Uri) -> Response {
        let link = self.next_cursor.as_deref().map(|cursor| next_link(uri, cursor));
        let mut response = axum::Json(self).into_response();
        if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
            response.headers_mut().insert(header::LINK, link);
        }
        response
    }
}

/// Which page of a list is asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Entries of the page, 50 unless told.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    #[param(value_type = Option<CursorText>, inline)]
    cursor: Option<String>,
}

impl PageQuery {
    /// How many entries.
    ///
    /// # Errors
    /// See [`limit`].
    pub(crate) fn limit(&self) -> Result<u32, Problem> {
        limit(self.limit)
    }

    /// Behind which position of that list, if any.
    ///
    /// # Errors
    /// See [`position`].
    pub(crate) fn after<T: FromStr>(&self, list: &str) -> Result<Option<T>, Problem> {
        self.cursor.as_deref().map(|cursor| position(list, cursor)).transpose()
    }
}

/// The limit in force for what was asked.
///
/// # Errors
/// `bad_request` when it is not within 1 to [`MAX_LIMIT`].
pub(crate) fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    let limit = asked.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::new(ProblemId::BadRequest).detail(format!("query parameter limit: 1 to {MAX_LIMIT}")))
}

/// A cursor that leads behind `position` of the list `list`. `list` names everything that must be the same when it is used, filters too.
pub(crate) fn cursor(list: &str, position: &str) -> String {
    let mut bytes = check(list, position).to_vec();
    bytes.extend_from_slice(position.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The position a cursor of that list leads behind.
///
/// # Errors
/// `bad_request` when it is not one we gave for this list.
pub(crate) fn position<T: FromStr>(list: &str, cursor: &str) -> Result<T, Problem> {
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (sum, position) = bytes.split_at_checked(CHECK)?;
        let position = std::str::from_utf8(position).ok()?;
        position.parse().ok().filter(|_| sum == check(list, position))
    };
    read().ok_or_else(|| {
        Problem::new(ProblemId::BadRequest).detail("query parameter cursor: not a cursor of this list")
    })
}

/// Tells a cursor that was changed or belongs elsewhere. It guards against mistakes only: a position gives nobody more to see.
fn check(list: &str, position: &str) -> [u8; CHECK] {
    let mut hasher = Sha256::new();
    hasher.update((list.len() as u64).to_be_bytes());
    hasher.update(list);
    hasher.update(position);
    let sum = hasher.finalize();
    std::array::from_fn(|n| sum[n])
}

fn next_link(uri: &Uri, cursor: &str) -> String {
    let kept = uri.query().unwrap_or_default().split('&');
    let kept = kept.filter(|pair| !pair.is_empty() && pair.split('=').next() != Some("cursor"));
    let query: Vec<&str> = kept.collect();
    let separator = if query.is_empty() { "" } else { "&" };
    format!("<{}?{}{separator}cursor={cursor}>; rel=\"next\"", uri.path(), query.join("&"))
}

#[cfg(test)]
mod tests;
