//! Where lines come from: pages of the store, in the order of the rows or of settling, or of a chain of retries merged.

use std::collections::VecDeque;
use std::sync::Arc;

use promptmill_domain::{BatchId, ItemFilter, TenantId};
use promptmill_ports::{PageLimit, SettledCursor, Store, StoreResult};

use super::encode::Line;
use super::merged::MergedSource;
use super::turns::Turns;
use promptmill_runtime::places::Places;

/// Items read from the store at once.
const PAGE_ITEMS: u32 = 512;

/// Bytes read from the store at once by whoever reads alone...
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// ...and at least, however many read at the same time. One outcome may be longer, and comes alone then.
const LEAST_PAGE_BYTES: usize = 128 * 1024;

/// Bytes that the pages of all who read come to if they came together. Whoever came earlier, and reads slowly, holds a larger one.
const PAGES_BYTES: usize = 16 * 1024 * 1024;

/// Lines as they come, page by page.
pub(super) enum Source {
    Index(IndexSource),
    Settled(SettledSource),
    Merged(MergedSource),
}

/// Some lines. A page may be empty although more follow, where the filter left nothing of it.
#[derive(Debug, Default)]
pub(super) struct SourcePage {
    pub(super) lines: VecDeque<Line>,
    /// Whether nothing is behind it at this moment.
    pub(super) last: bool,
}

impl Source {
    /// The next page; after the last one, those that came meanwhile where the order is that of settling.
    pub(super) async fn next(&mut self) -> StoreResult<SourcePage> {
        match self {
            Self::Index(source) => source.next().await,
            Self::Settled(source) => source.next().await,
            Self::Merged(source) => source.next().await,
        }
    }

    /// Where a reading goes on that has taken every page so far.
    pub(super) const fn position(&self) -> u64 {
        match self {
            Self::Index(source) => source.from as u64,
            Self::Settled(source) => source.after.0,
            Self::Merged(source) => source.position(),
        }
    }
}

/// A batch of a tenant in a store, and who else reads there.
#[derive(Clone)]
pub(super) struct Shelf {
    pub(super) store: Arc<dyn Store>,
    pub(super) tenant: TenantId,
    pub(super) batch: BatchId,
    pub(super) readings: Places<TenantId>,
    pub(super) turns: Arc<Turns>,
}

impl Shelf {
    /// What is to be read at once now.
    pub(super) fn page(&self) -> PageLimit {
        let bytes = PAGES_BYTES / self.readings.taken().max(1);
        PageLimit { items: PAGE_ITEMS, bytes: bytes.clamp(LEAST_PAGE_BYTES, PAGE_BYTES) }
    }
}

/// In the order of the rows.
pub(super) struct IndexSource {
    shelf: Shelf,
    filter: ItemFilter,
    from: u32,
}

impl IndexSource {
    /// Items from index `from` on.
    pub(super) const fn new(shelf: Shelf, filter: ItemFilter, from: u32) -> Self {
        Self { shelf, filter, from }
    }

    async fn next(&mut self) -> StoreResult<SourcePage> {
        let Shelf { store, tenant, batch, .. } = &self.shelf;
        let _turn = self.shelf.turns.page(tenant).await;
        let page = store.outcomes(tenant, *batch, self.from, self.shelf.page()).await?;
        if let Some(last) = page.outcomes.last() {
            self.from = last.index.saturating_add(1);
        }
        self.from = page.next.unwrap_or(self.from);
        let lines =
            page.outcomes.into_iter().filter(|stored| self.filter.matches(stored.code)).map(|stored| {
                let index = stored.index;
                Line { stored, index, batch: *batch, after: u64::from(index) + 1 }
            });
        Ok(SourcePage { lines: lines.collect(), last: page.next.is_none() })
    }
}

/// In the order of settling.
pub(super) struct SettledSource {
    shelf: Shelf,
    filter: ItemFilter,
    after: SettledCursor,
}

impl SettledSource {
    /// Outcomes that settled behind `after`.
    pub(super) const fn new(shelf: Shelf, filter: ItemFilter, after: SettledCursor) -> Self {
        Self { shelf, filter, after }
    }

    async fn next(&mut self) -> StoreResult<SourcePage> {
        let Shelf { store, tenant, batch, .. } = &self.shelf;
        let _turn = self.shelf.turns.page(tenant).await;
        let page = store.settled(tenant, *batch, self.after, self.shelf.page()).await?;
        self.after = page.next;
        let matching = page.outcomes.into_iter().filter(|(stored, _)| self.filter.matches(stored.code));
        let lines = matching.map(|(stored, after)| {
            let index = stored.index;
            Line { stored, index, batch: *batch, after: after.0 }
        });
        Ok(SourcePage { lines: lines.collect(), last: page.caught_up })
    }
}
