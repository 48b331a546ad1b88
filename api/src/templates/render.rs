//! What a template makes of variables, without asking a model.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use promptmill_domain::{Message, TemplateRef};
use promptmill_prompt::{OutputSpec, Problem as RowProblem, Template, estimate_tokens};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::resolve::{TemplateArg, resolve};
use crate::auth::{Caller, Scope};
use crate::batches::room_bytes;
use crate::extract::Json;
use crate::heavy::heavy;
use crate::idempotency::Idempotency;
use crate::problem::{FieldError, Problem, ProblemId};
use crate::state::App;

/// What to render.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenderRequest {
    template: TemplateArg,
    /// One row's variables.
    #[schema(value_type = Object)]
    variables: Box<RawValue>,
}

/// The prompt a model would get.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RenderView {
    /// The messages.
    #[schema(value_type = Vec<Object>)]
    messages: Vec<Message>,
    /// About how many tokens they are: a quarter of their bytes.
    tokens_estimate: u64,
    /// The stored version, where it is one.
    template: Option<TemplateRefView>,
    /// What the reply is read as: text or json.
    output: &'static str,
}

/// A version of a stored template.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct TemplateRefView {
    id: String,
    version: u32,
}

impl From<&TemplateRef> for TemplateRefView {
    fn from(reference: &TemplateRef) -> Self {
        Self { id: reference.id.to_string(), version: reference.version }
    }
}

/// Renders a template with variables; nothing is kept and no model is asked.
#[utoipa::path(post, path = "/v1/render", tag = "templates", operation_id = "render",
    request_body(content = RenderRequest, example = json!({
        "template": {"name": "greet", "messages": [{"role": "user", "content": "Greet {{ name }}."}]},
        "variables": {"name": "Ada"},
    })),
    responses((status = 200, description = "The messages", body = RenderView)))]
pub(crate) async fn render(
    State(app): State<App>,
    caller: Caller,
    idempotency: Idempotency,
    Json(request, digest): Json<RenderRequest>,
) -> Result<Response, Problem> {
    caller.may(Scope::TemplatesRead)?;
    if idempotency.keeps_the_answer() {
        room_bytes(&app, &caller.tenant).await?;
    }
    let run = async |_| Ok(axum::Json(preview(&app, &caller, request).await?).into_response());
    idempotency.once(&app, &caller, digest, run).await
}

async fn preview(app: &App, caller: &Caller, request: RenderRequest) -> Result<RenderView, Problem> {
    let resolved = resolve(app, &caller.tenant, &request.template).await?;
    let template = resolved.parsed.clone();
    let variables = request.variables;
    let messages = heavy(move || messages_of(&template, variables.get()))
        .await?
        .map_err(|errors| Problem::new(ProblemId::Invalid).errors(errors))?;
    Ok(RenderView {
        tokens_estimate: estimate_tokens(&messages),
        messages,
        template: resolved.reference.as_ref().map(TemplateRefView::from),
        output: output_word(resolved.parsed.output()),
    })
}

fn messages_of(template: &Template, variables: &str) -> Result<Vec<Message>, Vec<FieldError>> {
    let in_variables =
        |problem: RowProblem| FieldError::at(format!("/variables{}", problem.pointer), problem.message);
    let row = template
        .check(variables)
        .map_err(|problems| problems.into_iter().map(in_variables).collect::<Vec<_>>())?;
    template
        .render(&row)
        .map_err(|error| vec![FieldError::at("/variables", format!("{}: {}", error.pointer, error.message))])
}

fn output_word(output: &OutputSpec) -> &'static str {
    match output {
        OutputSpec::Text { .. } => "text",
        OutputSpec::Json { .. } => "json",
    }
}
