//! What a template asks the model to give back.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::schema::Checker;

/// What a reply must be.
#[derive(Debug, Clone)]
pub enum OutputSpec {
    /// Text.
    Text {
        /// Fewest characters, white space at both ends not counted.
        min_length: Option<u64>,
        /// Most characters, white space at both ends not counted.
        max_length: Option<u64>,
        /// The only texts allowed, when not empty; compared without white space at both ends.
        choices: Vec<String>,
    },
    /// JSON.
    Json {
        /// What it must satisfy; `None` takes any JSON.
        schema: Option<Arc<OutputSchema>>,
    },
}

/// The JSON Schema a reply must satisfy, ready to hand to a provider as well.
pub struct OutputSchema {
    /// A name for providers that want one: at most 64 of `A-Z a-z 0-9 _ -`, made from the template's name.
    pub name: String,
    /// The schema as written, its members in the order of the source.
    pub schema: Value,
    pub(crate) checker: Checker,
}

impl fmt::Debug for OutputSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputSchema")
            .field("name", &self.name)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl OutputSchema {
    /// The provider-side name for a template's name.
    pub(crate) fn name_for(template: &str) -> String {
        let fits = |c: char| {
            if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }
        };
        let name: String = template.chars().take(64).map(fits).collect();
        if name.is_empty() { "output".to_owned() } else { name }
    }
}
