//! The prompt program: the template format, a row's variables, rendering, and judging what came back.
//!
//! Pure: no I/O, no clock, no randomness, no logging. Everything of a template is compiled once by
//! [`Template::parse`]; checking a row, rendering it and judging a reply only run what was compiled.
//! Start at [`Template`]; the format is written down for editors in `templates/template.schema.json`.

mod extract;
mod fields;
mod format;
mod jinja;
mod json;
mod judge;
mod mend;
mod messages;
mod model;
mod names;
mod output;
mod percent;
mod problem;
mod reading;
mod repair;
mod row;
mod rules;
mod schema;
mod template;
mod variables;

pub use format::limits;
pub use jinja::RENDERED_BYTES;
pub use judge::{Judgement, REPLY_BYTES};
pub use messages::{estimate_tokens, read_messages};
pub use output::{OutputSchema, OutputSpec};
pub use problem::{Problem, RenderError};
pub use row::{CorruptVariables, Variables};
pub use template::Template;
pub use variables::{VariableKind, VariableSpec};
