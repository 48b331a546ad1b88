//! Templates as the wire has them.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use promptmill_ports::{StoredTemplate, TemplateVersion};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::condition::tag;
use crate::problem::Problem;
use crate::time::Time;

/// A stored template.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TemplateView {
    id: String,
    /// The only one of that name in the tenant.
    name: String,
    /// The version shown; in lists the newest.
    version: u32,
    created_at: Time,
    /// When the newest version was made.
    updated_at: Time,
    /// The text, as it was sent. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    template: Option<Box<RawValue>>,
}

impl TemplateView {
    /// An entry of a list.
    pub(crate) fn entry(stored: StoredTemplate) -> Self {
        Self {
            id: stored.id.to_string(),
            name: stored.name,
            version: stored.latest,
            created_at: Time(stored.created_ms),
            updated_at: Time(stored.updated_ms),
            template: None,
        }
    }

    /// One version with its text.
    ///
    /// # Errors
    /// `internal` when the stored text is not JSON.
    pub(crate) fn of(stored: StoredTemplate, version: TemplateVersion) -> Result<Self, Problem> {
        let source = RawValue::from_string(version.source)
            .map_err(|_| Problem::internal("the text of a stored template is not JSON"))?;
        Ok(Self { version: version.version, template: Some(source), ..Self::entry(stored) })
    }

    /// The answer, tagged with its version.
    pub(crate) fn respond(self, status: StatusCode) -> Response {
        let tag = tag(self.version);
        let location = (status == StatusCode::CREATED).then(|| format!("/v1/templates/{}", self.id));
        let mut response = (status, axum::Json(self)).into_response();
        response.headers_mut().insert(header::ETAG, tag);
        if let Some(location) = location.and_then(|location| HeaderValue::from_str(&location).ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

/// An entry of the list of versions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VersionView {
    /// Its number.
    pub(crate) version: u32,
    pub(crate) created_at: Time,
}
