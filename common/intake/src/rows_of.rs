//! How the rows of a batch are read: against which template, and of which kinds.

use std::io::Read;
use std::sync::Arc;

use promptmill_prompt::{Problem, Template};
use promptmill_rowio::{RowFormat, RowKinds, RowLimits, RowReader};

/// Custom ids of one input that are told as doubles at once, with their lines; all ids are compared at the submit, in bounded memory.
pub const KEPT_IDS: usize = 200_000;

/// A template that asks for nothing and takes everything.
const ANY: &str = r#"{"name":"any","messages":[{"role":"user","content":"any"}]}"#;

/// The template of a batch, parsed, and whether it only stands for rows of messages.
#[derive(Debug, Clone)]
pub struct RowsOf {
    template: Arc<Template>,
    kinds: RowKinds,
}

impl RowsOf {
    /// Rows for a template; one may bring messages instead.
    pub const fn template(template: Arc<Template>) -> Self {
        Self { template, kinds: RowKinds::Either }
    }

    /// Rows that all bring messages.
    pub const fn messages(template: Arc<Template>) -> Self {
        Self { template, kinds: RowKinds::Messages }
    }

    /// Those of a batch that is pinned to the template text `source`. Blocks the thread for a while.
    ///
    /// # Errors
    /// When this release does not read the text any more.
    pub fn pinned(source: &str) -> Result<Self, Vec<Problem>> {
        let template = Arc::new(Template::parse(source)?);
        Ok(if Template::is_for_messages(source) {
            Self::messages(template)
        } else {
            Self::template(template)
        })
    }

    /// Rows that are held against nothing yet: any variables, or messages.
    pub fn any() -> Self {
        let template = Template::parse(ANY).expect("it is a template");
        Self { template: Arc::new(template), kinds: RowKinds::Either }
    }

    /// The template.
    pub const fn parsed(&self) -> &Arc<Template> {
        &self.template
    }

    /// A reader of rows that checks each and renders it once.
    pub fn reader<R: Read>(&self, source: R, format: RowFormat, limits: RowLimits) -> RowReader<R> {
        let reader = RowReader::new(source, format, self.template.clone(), limits);
        reader.accepting(self.kinds).rendering().keeping_ids(KEPT_IDS)
    }
}
