//! From what a request says about a template to the template.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use promptmill_domain::{TemplateId, TemplateRef, TenantId};
use promptmill_ports::{StoreError, TemplateKey};
use promptmill_prompt::Template;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use utoipa::openapi::schema::{OneOfBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::labels::is_label;
use crate::heavy::heavy;
use crate::problem::{FieldError, Problem, ProblemId};
use crate::shapes::{TemplateDocument, TemplateName};
use crate::state::App;

/// How a request names a template: `name`, `name@3`, `name@label`, the same with `tmpl_...`, or the template itself.
#[derive(Debug, Clone)]
pub(crate) enum TemplateArg {
    /// A stored one.
    Stored(TemplateKey, Which),
    /// The JSON text of one.
    Inline(String),
}

/// Which version of a stored template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// The newest.
    Newest,
    /// That one.
    Version(u32),
    /// The one that has the label.
    Label(String),
}

impl Which {
    /// What stands behind the `@`; `None` where it is neither a version nor a label.
    fn of(text: &str) -> Option<Self> {
        if is_label(text) {
            return Some(Self::Label(text.to_owned()));
        }
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        text.parse().ok().filter(|_| is_plain).map(Self::Version)
    }
}

impl FromStr for TemplateArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            "must be \"name\", \"name@version\" or \"name@label\", or \"tmpl_...\" in place of the name";
        let (key, which) = match text.split_once('@') {
            None => (text, Which::Newest),
            Some((key, which)) => (key, Which::of(which).ok_or(wrong)?),
        };
        if key.is_empty() {
            return Err(wrong);
        }
        Ok(Self::Stored(key_of(key), which))
    }
}

/// An id where it is one, otherwise a name.
pub(crate) fn key_of(text: &str) -> TemplateKey {
    match text.parse::<TemplateId>() {
        Ok(id) => TemplateKey::Id(id),
        Err(_) => TemplateKey::Name(text.to_owned()),
    }
}

impl<'de> Deserialize<'de> for TemplateArg {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        match raw.get().bytes().next() {
            Some(b'{') => Ok(Self::Inline(raw.get().to_owned())),
            Some(b'"') => {
                let text: String = serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
                text.parse().map_err(D::Error::custom)
            }
            Some(_) | None => Err(D::Error::custom("must be a template or the name or id of one")),
        }
    }
}

impl PartialSchema for TemplateArg {
    fn schema() -> RefOr<Schema> {
        let inline = Ref::from_schema_name(TemplateDocument::name());
        OneOfBuilder::new().item(TemplateName::schema()).item(inline).into()
    }
}

impl ToSchema for TemplateArg {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((TemplateDocument::name().into(), TemplateDocument::schema()));
    }
}

/// A template that was found and parsed.
#[derive(Debug, Clone)]
pub(crate) struct ResolvedTemplate {
    /// Its JSON text, to be pinned in what is made of it.
    pub(crate) source: String,
    /// The stored version it is, where it is one.
    pub(crate) reference: Option<TemplateRef>,
    /// Itself.
    pub(crate) parsed: Arc<Template>,
}

/// Where requests name a template.
const MEMBER: &str = "/template";

/// Finds and parses the template that the body's member `template` names.
///
/// # Errors
/// `invalid` at the member when there is none of that name, id, version or label in the tenant; `invalid_template` with pointers into the
/// inline one.
pub(crate) async fn resolve(
    app: &App,
    tenant: &TenantId,
    arg: &TemplateArg,
) -> Result<ResolvedTemplate, Problem> {
    let (key, which) = match arg {
        TemplateArg::Inline(source) => {
            let parsed = parse(source.clone(), MEMBER).await?;
            return Ok(ResolvedTemplate { source: source.clone(), reference: None, parsed });
        }
        TemplateArg::Stored(key, which) => (key, which),
    };
    let records = &app.engine().records;
    let absent = |what: &'static str| {
        move |error| match error {
            StoreError::NotFound => Problem::invalid(MEMBER, what),
            error => error.into(),
        }
    };
    let (cache, now) = (app.templates(), Instant::now());
    let named = match which {
        Which::Version(version) => cache.named(tenant, key, *version, now),
        // Either may be another version by now.
        Which::Newest | Which::Label(_) => None,
    };
    let reference = match named {
        Some(reference) => reference,
        None => {
            let stored = records.template(tenant, key).await.map_err(absent("there is no such template"))?;
            let newest = TemplateRef { id: stored.id, version: stored.latest };
            cache.note(tenant, key.clone(), newest.clone(), now);
            let version = match which {
                Which::Newest => newest.version,
                Which::Version(version) => *version,
                Which::Label(label) => {
                    let labels = records.labels(tenant, stored.id).await;
                    let labels = labels.map_err(absent("there is no such template"))?;
                    let found = labels.into_iter().find(|found| found.label == *label);
                    let wrong = || Problem::invalid(MEMBER, "the template has no such label");
                    found.ok_or_else(wrong)?.version
                }
            };
            TemplateRef { version, ..newest }
        }
    };
    let parsed = match app.templates().get(&reference) {
        Some(parsed) => parsed,
        None => {
            let version = records
                .version(tenant, reference.id, Some(reference.version))
                .await
                .map_err(absent("the template has no such version"))?;
            let parsed = parse(version.source, MEMBER).await?;
            app.templates().put(&reference, &parsed);
            parsed
        }
    };
    Ok(ResolvedTemplate { source: parsed.source().to_owned(), reference: Some(reference), parsed })
}

/// Parses a template beside the runtime's threads, because that may take a while.
///
/// # Errors
/// `invalid_template`, its pointers beginning with `pointer`.
pub(crate) async fn parse(source: String, pointer: &str) -> Result<Arc<Template>, Problem> {
    let parsed = heavy(move || Template::parse(&source)).await?;
    parsed.map(Arc::new).map_err(|problems| {
        let errors = problems
            .into_iter()
            .map(|problem| FieldError::at(format!("{pointer}{}", problem.pointer), problem.message));
        Problem::new(ProblemId::InvalidTemplate).errors(errors)
    })
}

#[cfg(test)]
mod tests;
