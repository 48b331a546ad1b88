//! Labels of stored templates: names for versions, which are put, moved and taken away.

use axum::extract::State;
use axum::http::StatusCode;
use promptmill_ports::{StoreError, TemplateLabel};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::routes::find;
use crate::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Json, Path};
use crate::problem::{Problem, ProblemId};
use crate::shapes::TemplateLabelText;
use crate::time::Time;

/// Characters of a label.
const MAX_LABEL: usize = 50;

/// Whether a label may be called that. None is a number, so behind the `@` of a template it is never a version.
pub(super) fn is_label(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    (1..=MAX_LABEL).contains(&text.len())
        && text.bytes().all(plain)
        && text.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
}

/// Where a label is put.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TemplateLabelPut)]
pub(crate) struct LabelRequest {
    /// The version that has it then.
    #[schema(minimum = 1)]
    version: u32,
}

/// A label of a template.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TemplateLabel)]
pub(crate) struct LabelView {
    /// Its name.
    label: String,
    /// The version that has it.
    version: u32,
    /// When it was put there.
    changed_at: Time,
}

impl From<TemplateLabel> for LabelView {
    fn from(label: TemplateLabel) -> Self {
        Self { label: label.label, version: label.version, changed_at: Time(label.changed_ms) }
    }
}

/// The labels of a template.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TemplateLabels)]
pub(crate) struct LabelList {
    /// By name.
    data: Vec<LabelView>,
}

/// Puts a label on a version, or moves it there. A template has at most 20 labels.
#[utoipa::path(put, path = "/v1/templates/{template}/labels/{label}", tag = "templates", operation_id = "putTemplateLabel",
    params(("template" = String, Path, description = "Its id or name"),
        ("label" = inline(TemplateLabelText), Path, description = "The label: a-z, 0-9, '.', '_' and '-', up to 50, a letter first")),
    request_body(content = LabelRequest, example = json!({"version": 3})),
    responses((status = 200, description = "The label", body = LabelView)))]
pub(super) async fn put(
    State(app): State<App>,
    caller: Caller,
    Path((template, label)): Path<(String, String)>,
    Json(request, _): Json<LabelRequest>,
) -> Result<axum::Json<LabelView>, Problem> {
    caller.may(Scope::TemplatesWrite)?;
    if !is_label(&label) {
        let detail = "a label is called by a-z, 0-9, '.', '_' and '-', 1 to 50 of them, a letter first";
        return Err(Problem::new(ProblemId::BadRequest).detail(detail));
    }
    let id = find(&app, &caller, &template).await?.id;
    let records = &app.engine().records;
    match records.put_label(&caller.tenant, id, &label, request.version, app.now_ms()).await {
        Ok(put) => Ok(axum::Json(put.into())),
        Err(StoreError::NotFound) => Err(Problem::invalid("/version", "the template has no such version")),
        Err(error) => Err(error.into()),
    }
}

/// Takes a label away. What names the template at it is refused from then on.
#[utoipa::path(delete, path = "/v1/templates/{template}/labels/{label}", tag = "templates", operation_id = "deleteTemplateLabel",
    params(("template" = String, Path, description = "Its id or name"),
        ("label" = inline(TemplateLabelText), Path, description = "The label")),
    responses((status = 204, description = "It is gone")))]
pub(super) async fn remove(
    State(app): State<App>,
    caller: Caller,
    Path((template, label)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    caller.may(Scope::TemplatesWrite)?;
    let id = find(&app, &caller, &template).await?.id;
    match app.engine().records.remove_label(&caller.tenant, id, &label).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ProblemId::NotFound.into()),
    }
}

/// The labels of a template.
#[utoipa::path(get, path = "/v1/templates/{template}/labels", tag = "templates", operation_id = "listTemplateLabels",
    params(("template" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The labels, by name", body = LabelList)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Path(template): Path<String>,
) -> Result<axum::Json<LabelList>, Problem> {
    caller.may(Scope::TemplatesRead)?;
    let id = find(&app, &caller, &template).await?.id;
    let labels = app.engine().records.labels(&caller.tenant, id).await?;
    Ok(axum::Json(LabelList { data: labels.into_iter().map(LabelView::from).collect() }))
}
