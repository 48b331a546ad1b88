//! A chain of retries read as one: each item of the first batch with the outcome of the last batch that ran it.
//!
//! A retry took the items whose outcome its filter matches, in their order, so the k-th match of the batch before is its item
//! k. All but the last batch of a chain are final; what the last one has not settled yet is left out.

use std::collections::VecDeque;

use promptmill_domain::{Batch, ItemFilter};
use promptmill_ports::{PageLimit, Store, StoreError, StoreResult, StoredOutcome};

use super::encode::Line;
use super::source::{Shelf, SourcePage};

/// Retries of retries that are read as one. Each holds a page in memory.
pub(crate) const MAX_CHAIN: usize = 32;

/// Why a chain cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChainError {
    /// A batch of it is gone.
    #[error("a batch that was retried is deleted, so its outcomes cannot be merged; ask without merged=true")]
    Gone,
    /// It is too long.
    #[error("more than {MAX_CHAIN} retries follow one another; ask for each without merged=true")]
    TooLong,
    #[error(transparent)]
    Store(StoreError),
}

/// The batches that `last` retries, the first of them first, and `last` itself at the end.
pub(super) async fn chain(store: &dyn Store, last: Batch) -> Result<Vec<Batch>, ChainError> {
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

/// One batch of the chain, read along.
struct Level {
    shelf: Shelf,
    /// Which of its items the next batch took; nothing for the last.
    taken_by_next: Option<ItemFilter>,
    /// How many of its items so far.
    taken: u32,
    page: VecDeque<StoredOutcome>,
    next: Option<u32>,
    /// How many levels share what may be read at once.
    shared_by: usize,
}

impl Level {
    /// The next outcome.
    async fn pop(&mut self) -> StoreResult<Option<StoredOutcome>> {
        while self.page.is_empty()
            && let Some(from) = self.next
        {
            let Shelf { store, tenant, batch, .. } = &self.shelf;
            let limit = self.shelf.page();
            let limit = PageLimit { bytes: limit.bytes / self.shared_by, ..limit };
            let _turn = self.shelf.turns.page(tenant).await;
            let page = store.outcomes(tenant, *batch, from, limit).await?;
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

/// The lines of a chain.
pub(super) struct MergedSource {
    levels: Vec<Level>,
    filter: ItemFilter,
    /// Items of the first batch below this index are passed over.
    from: u32,
}

impl MergedSource {
    /// The items of `chain` (as [`chain`] gives it) from index `from` of the first batch on. `shelf` makes a batch's shelf.
    pub(super) fn new(
        chain: &[Batch],
        shelf: impl Fn(&Batch) -> Shelf,
        filter: ItemFilter,
        from: u32,
    ) -> Self {
        let retries =
            chain.iter().skip(1).map(|batch| batch.spec.retry_of.as_ref().map(|of| of.filter.clone()));
        let levels = chain.iter().zip(retries.chain([None])).map(|(batch, taken_by_next)| Level {
            shelf: shelf(batch),
            taken_by_next,
            taken: 0,
            page: VecDeque::new(),
            next: Some(0),
            shared_by: chain.len(),
        });
        Self { levels: levels.collect(), filter, from }
    }

    pub(super) const fn position(&self) -> u64 {
        self.from as u64
    }

    pub(super) async fn next(&mut self) -> StoreResult<SourcePage> {
        let mut page = SourcePage::default();
        let mut bytes = 0;
        let limit = self.levels[0].shelf.page();
        for _ in 0..limit.items {
            if bytes >= limit.bytes {
                return Ok(page);
            }
            let Some((index, found)) = self.pull().await? else {
                page.last = true;
                return Ok(page);
            };
            if index < self.from {
                continue;
            }
            self.from = index.saturating_add(1);
            if let Some((level, stored)) = found.filter(|(_, stored)| self.filter.matches(stored.code)) {
                bytes += stored.body.as_ref().map_or(0, bytes::Bytes::len);
                let batch = self.levels[level].shelf.batch;
                page.lines.push_back(Line { stored, index, batch, after: u64::from(index) + 1 });
            }
        }
        Ok(page)
    }

    /// The next item of the first batch: its index, and the outcome that counts with the level that holds it, if there is one yet.
    async fn pull(&mut self) -> StoreResult<Option<(u32, Option<(usize, StoredOutcome)>)>> {
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
        Ok(Some((index, Some((level, stored)))))
    }
}
