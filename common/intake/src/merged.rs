//! A chain of retries read as one: each item of the first batch with the outcome of the last batch that ran it.
//!
//! A retry took the items whose outcome its filter matches, in their order, so the k-th match of the batch before is its item
//! k. All but the last batch of a chain are final; what the last one has not settled yet is left out.

use std::collections::VecDeque;

use promptmill_domain::{Batch, ItemFilter};
use promptmill_ports::{OutcomePage, Read, StoreError, StoreResult, StoredOutcome};

/// Retries of retries that are read as one. Each holds a page in memory.
pub const MAX_CHAIN: usize = 32;

/// Why a chain cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// A batch of it is gone.
    #[error("a batch that was retried is deleted, so its outcomes cannot be merged; ask without merged=true")]
    Gone,
    /// It is too long.
    #[error("more than {MAX_CHAIN} retries follow one another; ask for each without merged=true")]
    TooLong,
    /// The store did not tell.
    #[error(transparent)]
    Store(StoreError),
}

/// The batches that `last` retries, the first of them first, and `last` itself at the end.
///
/// # Errors
/// See [`ChainError`].
pub async fn chain(store: &(impl Read + ?Sized), last: Batch) -> Result<Vec<Batch>, ChainError> {
    let mut chain = vec![last];
    while let Some(newest) = chain.last()
        && let Some(retried) = &newest.spec.retry_of
    {
        if chain.len() > MAX_CHAIN {
            return Err(ChainError::TooLong);
        }
        let batch = store.batch(&newest.tenant, retried.batch).await.map_err(|error| match error {
            StoreError::NotFound => ChainError::Gone,
            other => ChainError::Store(other),
        })?;
        chain.push(batch);
    }
    chain.reverse();
    Ok(chain)
}

/// The outcomes of one batch in the order of its items.
pub trait Pages {
    /// Those from item `from` on, as many as are to be held at once.
    fn page(&self, from: u32) -> impl Future<Output = StoreResult<OutcomePage>> + Send;
}

/// One batch of the chain, read along.
struct Level<P> {
    pages: P,
    /// Which of its items the next batch took; nothing for the last.
    taken_by_next: Option<ItemFilter>,
    /// How many of its items so far.
    taken: u32,
    page: VecDeque<StoredOutcome>,
    next: Option<u32>,
}

impl<P: Pages> Level<P> {
    /// The next outcome.
    async fn pop(&mut self) -> StoreResult<Option<StoredOutcome>> {
        while self.page.is_empty()
            && let Some(from) = self.next
        {
            let page = self.pages.page(from).await?;
            self.page = page.outcomes.into();
            self.next = page.next;
        }
        Ok(self.page.pop_front())
    }

    /// The outcome of item `index`, which is behind every one asked for before; `None` while it is open.
    async fn item(&mut self, index: u32) -> StoreResult<Option<StoredOutcome>> {
        while let Some(stored) = self.pop().await? {
            if stored.index == index {
                return Ok(Some(stored));
            }
            if stored.index > index {
                self.page.push_front(stored);
                break;
            }
        }
        Ok(None)
    }
}

/// The items of a chain.
pub struct Merged<P> {
    levels: Vec<Level<P>>,
}

impl<P: Pages> Merged<P> {
    /// The items of `chain`, as [`chain`] gives it. `pages` reads one batch of it.
    pub fn new(chain: &[Batch], pages: impl Fn(&Batch) -> P) -> Self {
        let retries =
            chain.iter().skip(1).map(|batch| batch.spec.retry_of.as_ref().map(|of| of.filter.clone()));
        let levels = chain.iter().zip(retries.chain([None])).map(|(batch, taken_by_next)| Level {
            pages: pages(batch),
            taken_by_next,
            taken: 0,
            page: VecDeque::new(),
            next: Some(0),
        });
        Self { levels: levels.collect() }
    }

    /// The next item of the first batch: its index, and the outcome that counts with what reads the batch that holds it, if there is one yet.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn next(&mut self) -> StoreResult<Option<(u32, Option<(&P, StoredOutcome)>)>> {
        let Some(first) = self.levels[0].pop().await? else { return Ok(None) };
        let index = first.index;
        let (mut level, mut stored) = (0, first);
        while self.levels[level].taken_by_next.as_ref().is_some_and(|filter| filter.matches(stored.code)) {
            let item = self.levels[level].taken;
            self.levels[level].taken += 1;
            level += 1;
            match self.levels[level].item(item).await? {
                Some(retried) => stored = retried,
                None => return Ok(Some((index, None))),
            }
        }
        Ok(Some((index, Some((&self.levels[level].pages, stored)))))
    }
}
