//! What a run came to, item by item: the outcomes of a batch with those of its retries in their places, without their text.

use promptmill_domain::{Batch, ItemFilter};
use promptmill_intake::{ChainError, chain};
use promptmill_ports::StoredOutcome;

use super::merged::MergedSource;
use super::source::Shelf;
use crate::App;
use crate::problem::{Problem, ProblemId};

/// A reading of a batch and the retries that end in it.
pub(crate) struct Walk {
    source: MergedSource,
    is_over: bool,
}

/// The first batch of the retries that end in `last`, and a reading of all of them.
pub(crate) async fn walk(app: &App, last: Batch) -> Result<(Batch, Walk), Problem> {
    let chain = chain(app.engine().store.as_ref(), last).await.map_err(|error| match error {
        ChainError::Store(error) => error.into(),
        refused => Problem::new(ProblemId::Conflict).detail(refused.to_string()),
    })?;
    let source = MergedSource::new(&chain, |batch| Shelf::new(app, batch), ItemFilter::default(), 0);
    let first = chain.into_iter().next().ok_or(ProblemId::NotFound)?;
    Ok((first, Walk { source, is_over: false }))
}

impl Walk {
    /// The next items by the index they have in the first batch, ascending; nothing at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<(u32, StoredOutcome)>>, Problem> {
        while !self.is_over {
            let page = self.source.next().await?;
            self.is_over = page.last;
            if !page.lines.is_empty() {
                return Ok(Some(page.lines.into_iter().map(|line| (line.index, line.stored)).collect()));
            }
        }
        Ok(None)
    }
}
