//! The lines of a chain of retries, each with the outcome of the last batch that ran it.

use promptmill_domain::{Batch, ItemFilter};
use promptmill_intake::{Merged, Pages};
use promptmill_ports::{OutcomePage, PageLimit, StoreResult};

use super::encode::Line;
use super::source::{Shelf, SourcePage};

/// A batch of a chain, whose batches share what may be read at once.
struct Shared {
    shelf: Shelf,
    by: usize,
}

impl Pages for Shared {
    async fn page(&self, from: u32) -> StoreResult<OutcomePage> {
        let Shelf { store, tenant, batch, .. } = &self.shelf;
        let limit = self.shelf.page();
        let limit = PageLimit { bytes: limit.bytes / self.by, ..limit };
        let _turn = self.shelf.turns.page(tenant).await;
        store.outcomes(tenant, *batch, from, limit).await
    }
}

/// The lines of a chain.
pub(super) struct MergedSource {
    merged: Merged<Shared>,
    /// What is read at once of all batches together.
    first: Shelf,
    filter: ItemFilter,
    /// Items of the first batch below this index are passed over.
    from: u32,
}

impl MergedSource {
    /// The items of `chain` (as [`promptmill_intake::chain`] gives it, not empty) from index `from` of the first batch on. `shelf` makes a batch's shelf.
    pub(super) fn new(
        chain: &[Batch],
        shelf: impl Fn(&Batch) -> Shelf,
        filter: ItemFilter,
        from: u32,
    ) -> Self {
        let by = chain.len();
        let merged = Merged::new(chain, |batch| Shared { shelf: shelf(batch), by });
        Self { merged, first: shelf(&chain[0]), filter, from }
    }

    pub(super) const fn position(&self) -> u64 {
        self.from as u64
    }

    pub(super) async fn next(&mut self) -> StoreResult<SourcePage> {
        let mut page = SourcePage::default();
        let mut bytes = 0;
        let limit = self.first.page();
        for _ in 0..limit.items {
            if bytes >= limit.bytes {
                return Ok(page);
            }
            let Some((index, found)) = self.merged.next().await? else {
                page.last = true;
                return Ok(page);
            };
            if index < self.from {
                continue;
            }
            self.from = index.saturating_add(1);
            if let Some((of, stored)) = found.filter(|(_, stored)| self.filter.matches(stored.code)) {
                bytes += stored.body.as_ref().map_or(0, bytes::Bytes::len);
                let batch = of.shelf.batch;
                page.lines.push_back(Line { stored, index, batch, after: u64::from(index) + 1 });
            }
        }
        Ok(page)
    }
}
