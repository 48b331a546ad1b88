//! What a client asks for, checked and pinned: the same words of refusal as for a batch and its rows.

use std::sync::Arc;

use promptmill_domain::{BatchSpec, FallbackOn, StoreReplies, TemplateRef, TenantId};
use promptmill_prompt::{self as prompt, Template, read_messages};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::job::{StoredContent, StoredRequest};
use crate::App;
use crate::batches::lane_of;
use crate::batches::models::{self, MaxPriceBody, ModelsArg};
use crate::batches::names::FallbackNames;
use crate::batches::settings::SettingsBody;
use crate::heavy::heavy;
use crate::problem::{FieldError, Problem, ProblemId};
use crate::shapes::{MessageList, ModelNames, OutputDocument};
use crate::templates::{self, TemplateArg};

/// A generation to be made: a template with its variables, or messages.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewGeneration)]
#[serde(deny_unknown_fields)]
pub(super) struct NewGenerationBody {
    /// A stored template (`name`, `name@3`, `tmpl_...`, `tmpl_...@3`) or an inline one.
    template: Option<TemplateArg>,
    /// The conversation itself, instead of a template: `[{"role", "content"}]`.
    #[schema(value_type = Option<MessageList>)]
    messages: Option<Box<RawValue>>,
    /// The template's variables.
    #[schema(value_type = Option<Object>)]
    variables: Option<Box<RawValue>>,
    /// `provider:name`; wins over the template's. Several are a chain: each is asked when those before it do not do, as `fallback_on` says.
    #[schema(value_type = Option<ModelNames>, inline, example = "demo:any")]
    model: Option<ModelsArg>,
    /// When the next model is asked, always unless told: the provider of the one before is `unavailable`, its lane is `over_rate`, or its reply is
    /// `invalid` after every repair.
    #[schema(value_type = Option<Vec<FallbackNames>>, inline)]
    fallback_on: Option<Vec<FallbackOn>>,
    /// Models whose price is known to be above this are passed over.
    #[schema(inline)]
    max_price: Option<MaxPriceBody>,
    /// Sampling settings; each wins over the template's.
    settings: Option<SettingsBody>,
    /// What the reply must be, as a template's `output`; only with messages.
    #[schema(value_type = Option<OutputDocument>)]
    output: Option<Box<RawValue>>,
}

/// Checks what is asked for, and answers it with its template compiled. Nothing is stored and nothing called.
///
/// # Errors
/// `invalid` with a pointer for each member, `invalid_template`, and what a template that is not there gives.
pub(super) async fn check(
    app: &App,
    tenant: &TenantId,
    body: &NewGenerationBody,
) -> Result<(StoredRequest, Arc<Template>), Problem> {
    let errors = contradictions(body);
    if !errors.is_empty() {
        return Err(Problem::new(ProblemId::Invalid).errors(errors));
    }
    let wrong = |error: FieldError| Problem::new(ProblemId::Invalid).errors([error]);
    let models = body.model.as_ref().map(ModelsArg::parsed).transpose().map_err(wrong)?;
    let mut models = models.unwrap_or_default().into_iter();
    let max_price = body.max_price.as_ref().map(MaxPriceBody::parsed).transpose().map_err(wrong)?;
    let settings = match &body.settings {
        None => Default::default(),
        Some(settings) => {
            settings.checked("/settings").map_err(|wrong| Problem::new(ProblemId::Invalid).errors(wrong))?
        }
    };
    let (template, template_ref, content) = match &body.template {
        Some(asked) => of_template(app, tenant, asked, body).await?,
        None => of_messages(body).await?,
    };
    let Some(model) = models.next().or_else(|| template.model().cloned()) else {
        let detail = "is needed, for example \"demo:any\", where the template names none";
        return Err(Problem::invalid("/model", detail));
    };
    let lane = lane_of(app, &model, "/model")?;
    let further: Vec<_> = models.collect();
    let fallback = models::fallback(app, &further, body.fallback_on.as_deref(), max_price)?;
    let spec = BatchSpec {
        template_ref,
        fallback,
        settings,
        store_replies: StoreReplies::Failed,
        ..BatchSpec::new(template.source().to_owned(), model, lane)
    };
    Ok((StoredRequest { spec, content }, template))
}

fn contradictions(body: &NewGenerationBody) -> Vec<FieldError> {
    let of_template = body.template.is_some();
    let of_messages = body.messages.is_some();
    let rules = [
        (!of_template && !of_messages, "", "either template or messages is needed"),
        (of_template && of_messages, "/messages", "leave it out beside a template"),
        (!of_template && body.variables.is_some(), "/variables", "is of use only with a template"),
        (
            of_template && body.output.is_some(),
            "/output",
            "is the template's own; leave it out beside a template",
        ),
    ];
    let broken = rules.into_iter().filter(|(broken, ..)| *broken);
    broken.map(|(_, pointer, detail)| FieldError::at(pointer, detail)).collect()
}

type Asked = (Arc<Template>, Option<TemplateRef>, StoredContent);

async fn of_template(
    app: &App,
    tenant: &TenantId,
    asked: &TemplateArg,
    body: &NewGenerationBody,
) -> Result<Asked, Problem> {
    let found = templates::resolve(app, tenant, asked).await?;
    let template = found.parsed;
    let row = body.variables.as_ref().map_or("{}", |variables| variables.get()).to_owned();
    let content = heavy(move || {
        let variables = template.check(&row).map_err(|problems| invalid("/variables", problems))?;
        // Once to find out; what it costs is nothing beside a call.
        template.render(&variables).map_err(|error| Problem::invalid("/variables", error.to_string()))?;
        Ok::<_, Problem>((template, variables.to_json()))
    });
    let (template, variables) = content.await??;
    Ok((template, found.reference, StoredContent::Variables(variables)))
}

async fn of_messages(body: &NewGenerationBody) -> Result<Asked, Problem> {
    let messages = body.messages.as_ref().map_or("[]", |messages| messages.get()).to_owned();
    let output = body.output.as_ref().map(|output| output.get().to_owned());
    let checked = heavy(move || {
        let messages = read_messages(&messages).map_err(|problems| invalid("/messages", problems))?;
        let template = Template::for_messages(output.as_deref())
            .and_then(|source| Template::parse(&source))
            .map_err(|problems| invalid("", problems))?;
        Ok::<_, Problem>((Arc::new(template), None, StoredContent::Messages(messages)))
    });
    checked.await?
}

fn invalid(at: &str, problems: Vec<prompt::Problem>) -> Problem {
    let errors = problems
        .into_iter()
        .map(|problem| FieldError::at(format!("{at}{}", problem.pointer), problem.message));
    Problem::new(ProblemId::Invalid).errors(errors)
}
