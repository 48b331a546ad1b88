//! The routes of stored templates.

use axum::extract::{OriginalUri, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use promptmill_domain::TemplateId;
use promptmill_ports::{StoreError, StoredTemplate};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::condition::{Expected, if_match, is_known, tag};
use super::resolve::{TemplateArg, Which, key_of, parse, resolve};
use super::view::{TemplateView, VersionView};
use crate::auth::{Caller, Scope};
use crate::batches::room_bytes;
use crate::extract::{JsonText, Path, Query};
use crate::idempotency::{Idempotency, Plan};
use crate::page::{self, Page};
use crate::problem::{Problem, ProblemId};
use crate::shapes::{CursorText, EntityTag, TemplateDocument};
use crate::state::App;
use crate::time::Time;

/// How often a new version is tried again when another one came in between.
const VERSION_TRIES: usize = 8;

/// The routes of this group.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(read, delete))
        .routes(routes!(add_version, versions))
        .routes(routes!(version))
        .routes(routes!(variables_schema))
        .routes(routes!(super::labels::put, super::labels::remove))
        .routes(routes!(super::labels::list))
        .routes(routes!(super::render::render))
}

/// Keeps a new template with its version 1.
#[utoipa::path(post, path = "/v1/templates", tag = "templates", operation_id = "createTemplate",
    request_body(content = TemplateDocument, example = json!({
        "name": "greet",
        "messages": [{"role": "user", "content": "Greet {{ name }}."}],
        "model": {"name": "demo:any"},
    })),
    responses((status = 201, description = "The template", body = TemplateView,
        headers(("Location" = String, description = "Its address"), ("ETag" = String, description = "Its version")))))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    idempotency: Idempotency,
    JsonText(source, digest): JsonText,
) -> Result<Response, Problem> {
    caller.may(Scope::TemplatesWrite)?;
    idempotency.once(&app, &caller, digest, async |plan| keep(&app, &caller, plan, source).await).await
}

async fn keep(app: &App, caller: &Caller, plan: Plan, source: String) -> Result<Response, Problem> {
    let parsed = parse(source, "").await?;
    room_bytes(app, &caller.tenant).await?;
    let records = &app.engine().records;
    let id = TemplateId::from_bytes(plan.bytes);
    let stored =
        records.add_template(&caller.tenant, id, parsed.name(), parsed.source(), app.now_ms()).await?;
    let version = records.version(&caller.tenant, stored.id, Some(1)).await?;
    Ok(TemplateView::of(stored, version)?.respond(StatusCode::CREATED))
}

/// Which page of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

/// The tenant's templates by name, without their texts.
#[utoipa::path(get, path = "/v1/templates", tag = "templates", operation_id = "listTemplates",
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 500), ("cursor" = inline(Option<CursorText>), Query)),
    responses((status = 200, description = "A page", body = Page<TemplateView>)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    OriginalUri(uri): OriginalUri,
    Query(asked): Query<PageQuery>,
) -> Result<Response, Problem> {
    caller.may(Scope::TemplatesRead)?;
    let limit = page::limit(asked.limit)?;
    let after = asked.cursor.map(|cursor| page::position::<String>("templates", &cursor)).transpose()?;
    let mut stored = app.engine().records.templates(&caller.tenant, after.as_deref(), limit + 1).await?;
    let next_cursor = cut(&mut stored, limit).map(|last| page::cursor("templates", &last.name));
    Ok(Page { data: stored.into_iter().map(TemplateView::entry).collect(), next_cursor }.respond(&uri))
}

/// Cuts what was read to find out whether more follows; the last entry of the page when it does.
fn cut<T>(read: &mut Vec<T>, limit: u32) -> Option<&T> {
    let limit = limit as usize;
    if read.len() <= limit {
        return None;
    }
    read.truncate(limit);
    read.last()
}

/// A template with the text of its newest version.
#[utoipa::path(get, path = "/v1/templates/{template}", tag = "templates", operation_id = "getTemplate",
    params(("template" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The template", body = TemplateView,
        headers(("ETag" = String, description = "Its newest version"))),
        (status = 304, description = "If-None-Match names the newest version")))]
async fn read(
    State(app): State<App>,
    caller: Caller,
    Path(template): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may(Scope::TemplatesRead)?;
    let stored = find(&app, &caller, &template).await?;
    if is_known(&headers, stored.latest) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag(stored.latest))]).into_response());
    }
    let version = app.engine().records.version(&caller.tenant, stored.id, Some(stored.latest)).await?;
    Ok(TemplateView::of(stored, version)?.respond(StatusCode::OK))
}

pub(super) async fn find(app: &App, caller: &Caller, template: &str) -> Result<StoredTemplate, Problem> {
    Ok(app.engine().records.template(&caller.tenant, &key_of(template)).await?)
}

/// Deletes a template with all its versions. Batches keep the text they were made with.
#[utoipa::path(delete, path = "/v1/templates/{template}", tag = "templates", operation_id = "deleteTemplate",
    params(("template" = String, Path, description = "Its id or name"),
        ("If-Match" = inline(EntityTag), Header, description = "The ETag that was read, or *")),
    responses((status = 204, description = "It is gone")))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(template): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    caller.may(Scope::TemplatesWrite)?;
    let expected = if_match(&headers);
    let stored = find(&app, &caller, &template).await?;
    let expected = expected.ok_or(ProblemId::PreconditionRequired)?;
    let latest = expected.version(stored.latest)?;
    let deleted = app.engine().records.delete_template(&caller.tenant, stored.id, latest).await;
    app.templates().forget(&caller.tenant);
    match deleted {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(StoreError::Conflict(_)) => Err(ProblemId::PreconditionFailed.into()),
        Err(error) => Err(error.into()),
    }
}

/// Adds a version. A text that equals the newest version's adds none and answers 200.
#[utoipa::path(post, path = "/v1/templates/{template}/versions", tag = "templates", operation_id = "addTemplateVersion",
    params(("template" = String, Path, description = "Its id or name"),
        ("If-Match" = inline(Option<EntityTag>), Header, description = "Only behind that version")),
    request_body = TemplateDocument,
    responses((status = 201, description = "The new version", body = TemplateView,
        headers(("Location" = String, description = "The template's address"), ("ETag" = String, description = "Its version"))),
        (status = 200, description = "Nothing changed", body = TemplateView)))]
async fn add_version(
    State(app): State<App>,
    caller: Caller,
    Path(template): Path<String>,
    headers: HeaderMap,
    idempotency: Idempotency,
    JsonText(source, digest): JsonText,
) -> Result<Response, Problem> {
    caller.may(Scope::TemplatesWrite)?;
    let expected = if_match(&headers);
    let run = async |_: Plan| keep_version(&app, &caller, &template, expected, source).await;
    idempotency.once(&app, &caller, digest, run).await
}

async fn keep_version(
    app: &App,
    caller: &Caller,
    template: &str,
    expected: Option<Expected>,
    source: String,
) -> Result<Response, Problem> {
    let parsed = parse(source, "").await?;
    room_bytes(app, &caller.tenant).await?;
    let id = find(app, caller, template).await?.id;
    let records = &app.engine().records;
    for _ in 0..VERSION_TRIES {
        let stored = find(app, caller, &id.to_string()).await?;
        if stored.name != parsed.name() {
            return Err(Problem::invalid("/name", "must be the name of the template that gets a version"));
        }
        let after = match &expected {
            None => stored.latest,
            Some(expected) => expected.version(stored.latest)?,
        };
        match records.add_version(&caller.tenant, id, after, parsed.source(), app.now_ms()).await {
            Ok(now) => {
                let version = records.version(&caller.tenant, id, Some(now.latest)).await?;
                let status = if now.latest == after { StatusCode::OK } else { StatusCode::CREATED };
                return Ok(TemplateView::of(now, version)?.respond(status));
            }
            // Without a condition it was another writer's version that came in between: this one goes behind it.
            Err(StoreError::Conflict(_)) if !matches!(expected, Some(Expected::OneOf(_))) => {}
            Err(StoreError::Conflict(_)) => return Err(ProblemId::PreconditionFailed.into()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Problem::new(ProblemId::Conflict).detail("too many versions are being added at once").retry_after(1))
}

/// Versions of a template, newest first.
#[utoipa::path(get, path = "/v1/templates/{template}/versions", tag = "templates", operation_id = "listTemplateVersions",
    params(("template" = String, Path, description = "Its id or name"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 500), ("cursor" = inline(Option<CursorText>), Query)),
    responses((status = 200, description = "A page", body = Page<VersionView>)))]
async fn versions(
    State(app): State<App>,
    caller: Caller,
    Path(template): Path<String>,
    OriginalUri(uri): OriginalUri,
    Query(asked): Query<PageQuery>,
) -> Result<Response, Problem> {
    caller.may(Scope::TemplatesRead)?;
    let stored = find(&app, &caller, &template).await?;
    let limit = page::limit(asked.limit)?;
    let list = format!("versions of {}", stored.id);
    let below = asked.cursor.map(|cursor| page::position(&list, &cursor)).transpose()?;
    let mut read = app.engine().records.versions(&caller.tenant, stored.id, below, limit + 1).await?;
    let next_cursor = cut(&mut read, limit).map(|(last, _)| page::cursor(&list, &last.to_string()));
    let view = |(version, created_ms)| VersionView { version, created_at: Time(created_ms) };
    Ok(Page { data: read.into_iter().map(view).collect(), next_cursor }.respond(&uri))
}

/// One version with its text.
#[utoipa::path(get, path = "/v1/templates/{template}/versions/{version}", tag = "templates", operation_id = "getTemplateVersion",
    params(("template" = String, Path, description = "Its id or name"), ("version" = u32, Path, minimum = 1)),
    responses((status = 200, description = "The version", body = TemplateView,
        headers(("ETag" = String, description = "The version")))))]
async fn version(
    State(app): State<App>,
    caller: Caller,
    Path((template, version)): Path<(String, u32)>,
) -> Result<Response, Problem> {
    caller.may(Scope::TemplatesRead)?;
    let stored = find(&app, &caller, &template).await?;
    let version = app.engine().records.version(&caller.tenant, stored.id, Some(version)).await?;
    Ok(TemplateView::of(stored, version)?.respond(StatusCode::OK))
}

/// A JSON Schema of one row's variables, for forms.
#[utoipa::path(get, path = "/v1/templates/{template}/versions/{version}/variables-schema", tag = "templates",
    operation_id = "getVariablesSchema",
    params(("template" = String, Path, description = "Its id or name"), ("version" = u32, Path, minimum = 1)),
    responses((status = 200, description = "JSON Schema, draft 2020-12", body = serde_json::Value,
        content_type = "application/schema+json")))]
async fn variables_schema(
    State(app): State<App>,
    caller: Caller,
    Path((template, version)): Path<(String, u32)>,
) -> Result<Response, Problem> {
    caller.may(Scope::TemplatesRead)?;
    let stored = find(&app, &caller, &template).await?;
    app.engine().records.version(&caller.tenant, stored.id, Some(version)).await?;
    let arg = TemplateArg::Stored(key_of(&template), Which::Version(version));
    let resolved = resolve(&app, &caller.tenant, &arg).await?;
    let mut response = axum::Json(resolved.parsed.variables_schema()).into_response();
    let kind = HeaderValue::from_static("application/schema+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
