//! A prompt template, parsed and compiled: the entry point of this crate.

use promptmill_domain::{Message, ModelRef, ModelSettings, Reason};
use serde_json::{Map, Value, json};

use crate::format;
use crate::jinja::Messages;
use crate::judge::{Judgement, judge};
use crate::messages;
use crate::output::OutputSpec;
use crate::problem::{Problem, RenderError};
use crate::repair;
use crate::row::{RowCheck, Variables};
use crate::rules::Rule;
use crate::variables::VariableSpec;

/// A prompt template. Everything in it was checked and compiled by [`Template::parse`]; share it in an `Arc`.
pub struct Template {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) source: String,
    pub(crate) model: Option<ModelRef>,
    pub(crate) settings: ModelSettings,
    pub(crate) max_repairs: u32,
    pub(crate) rows: RowCheck,
    pub(crate) messages: Messages,
    pub(crate) output: OutputSpec,
    pub(crate) rules: Vec<Rule>,
}

impl Template {
    /// Parses and compiles the JSON text of a template.
    ///
    /// # Errors
    /// Every problem that could be found at once, each with a JSON Pointer into the text.
    pub fn parse(json: &str) -> Result<Self, Vec<Problem>> {
        format::parse(json)
    }

    /// The JSON text of a template whose rows bring their own messages, so that it only judges: `output` is the text of a template's
    /// `output`, free text where it is absent. [`Template::parse`] reads it; it declares no variables, and its own message stands
    /// in the place of the row's and must not be rendered.
    ///
    /// # Errors
    /// What is wrong with `output`, with pointers that begin `/output`.
    pub fn for_messages(output: Option<&str>) -> Result<String, Vec<Problem>> {
        messages::template_source(output)
    }

    /// Whether the text of a template is one that [`Template::for_messages`] made, so that every row brings its messages.
    pub fn is_for_messages(source: &str) -> bool {
        messages::is_template_source(source)
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is for, in its author's words.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The JSON text as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The model the template asks for, where it asks for one.
    pub fn model(&self) -> Option<&ModelRef> {
        self.model.as_ref()
    }

    /// The sampling settings the template asks for.
    pub fn settings(&self) -> &ModelSettings {
        &self.settings
    }

    /// How often one attempt may ask the model again.
    pub fn max_repairs(&self) -> u32 {
        self.max_repairs
    }

    /// The variables in the order they are declared, or first used where the template declares none.
    pub fn variables(&self) -> &[VariableSpec] {
        self.rows.specs()
    }

    /// What a reply must be.
    pub fn output(&self) -> &OutputSpec {
        &self.output
    }

    /// What replies are judged by, `output` and `rules`, as JSON text: templates whose texts are equal judge alike.
    pub fn judged_by(&self) -> String {
        let members: serde_json::Map<String, Value> = serde_json::from_str(&self.source).unwrap_or_default();
        serde_json::json!([members.get("output"), members.get("rules")]).to_string()
    }

    /// Checks a row given as the text of a JSON object and fills in defaults. `null` counts as absent.
    ///
    /// # Errors
    /// Every problem of the row, each with the pointer of its field. Content of the row is never repeated.
    pub fn check(&self, row: &str) -> Result<Variables, Vec<Problem>> {
        self.rows.check(row)
    }

    /// Checks a row given as texts, as CSV has them: each text is read as the type its variable declares, and an
    /// empty text is absence unless a required string is asked. The result equals that of the same row as JSON.
    ///
    /// # Errors
    /// As [`Template::check`].
    pub fn check_texts(&self, fields: &[(&str, &str)]) -> Result<Variables, Vec<Problem>> {
        self.rows.check_texts(fields)
    }

    /// Renders the messages with a checked row.
    ///
    /// # Errors
    /// [`RenderError`] when a message uses what is not there, works too long or becomes too large.
    ///
    /// ```
    /// use promptmill_prompt::Template;
    ///
    /// let template = Template::parse(
    ///     r#"{"name": "greeting", "messages": [{"role": "user", "content": "Greet {{ name }}."}]}"#,
    /// )
    /// .expect("the template is valid");
    /// let row = template.check(r#"{"name": "{{ Ada }}"}"#).expect("the row is valid");
    /// assert_eq!(template.render(&row).expect("it renders")[0].content, "Greet {{ Ada }}.");
    /// ```
    pub fn render(&self, variables: &Variables) -> Result<Vec<Message>, RenderError> {
        self.messages.render(variables.root())
    }

    /// Judges a complete reply to the prompt that was rendered with `variables` ([`Variables::empty`] where it was not rendered).
    pub fn judge(&self, reply: &str, variables: &Variables) -> Judgement {
        judge(&self.output, &self.rules, reply, variables)
    }

    /// The user message that asks again, to follow the reply it complains about. Of bounded length.
    pub fn repair_message(&self, reasons: &[Reason]) -> Message {
        repair::message(&self.output, reasons)
    }

    /// A JSON Schema (draft 2020-12) of one row, for forms and for clients.
    pub fn variables_schema(&self) -> Value {
        let specs = self.variables();
        let properties: Map<String, Value> =
            specs.iter().map(|spec| (spec.name.clone(), spec.to_schema())).collect();
        let required: Vec<&str> =
            specs.iter().filter(|spec| spec.required).map(|spec| spec.name.as_str()).collect();
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": self.name,
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": self.rows.is_open(),
        })
    }
}

/// Names the template and leaves out its text: a prompt never reaches a log by accident.
impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template").field("name", &self.name).finish_non_exhaustive()
    }
}
