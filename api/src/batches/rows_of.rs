//! How the rows of a batch are read: against which template, and of which kinds.

use std::io::Read;
use std::sync::Arc;

use promptmill_prompt::Template;
use promptmill_rowio::{RowFormat, RowKinds, RowLimits, RowReader};

use crate::heavy::heavy;
use crate::problem::Problem;

/// Custom ids of one input that are told as doubles at once, with their lines; all ids are compared at the submit, in bounded memory.
pub(crate) const KEPT_IDS: usize = 200_000;

/// The template of a batch, parsed, and whether it only stands for rows of messages.
#[derive(Debug, Clone)]
pub(crate) struct RowsOf {
    template: Arc<Template>,
    kinds: RowKinds,
}

impl RowsOf {
    /// Rows for a template; one may bring messages instead.
    pub(crate) fn template(template: Arc<Template>) -> Self {
        Self { template, kinds: RowKinds::Either }
    }

    /// Rows that all bring messages.
    pub(crate) fn messages(template: Arc<Template>) -> Self {
        Self { template, kinds: RowKinds::Messages }
    }

    /// Those of a batch that is pinned to the template text `source`.
    ///
    /// # Errors
    /// `internal` when this release does not read the text any more.
    pub(crate) async fn pinned(source: String) -> Result<Self, Problem> {
        let is_for_messages = Template::is_for_messages(&source);
        let template = heavy(move || Template::parse(&source)).await?;
        let unread = |_| Problem::internal("the template a batch is pinned to cannot be parsed");
        let template = Arc::new(template.map_err(unread)?);
        Ok(if is_for_messages { Self::messages(template) } else { Self::template(template) })
    }

    /// A reader of rows that checks each and renders it once.
    pub(crate) fn reader<R: Read>(&self, source: R, format: RowFormat, limits: RowLimits) -> RowReader<R> {
        let reader = RowReader::new(source, format, self.template.clone(), limits);
        reader.accepting(self.kinds).rendering().keeping_ids(KEPT_IDS)
    }
}
