//! Codes of items in the order of their index, those without an outcome too.

use std::sync::Arc;

use promptmill_domain::{Batch, BatchId, ItemCode, TenantId};
use promptmill_ports::{PageLimit, Store, StoreResult};

/// What is read from the store at once.
const PAGE: PageLimit = PageLimit { items: 512, bytes: 2 * 1024 * 1024 };

/// Reads a batch's codes page by page.
pub(super) struct Walk {
    store: Arc<dyn Store>,
    tenant: TenantId,
    batch: BatchId,
    total: u32,
    next: u32,
    /// Where the store's next page begins; `None` when only items without an outcome are left.
    from: Option<u32>,
    pages: u32,
}

impl Walk {
    /// From item `from` on.
    pub(super) fn new(store: Arc<dyn Store>, batch: &Batch, from: u32) -> Self {
        let tenant = batch.tenant.clone();
        Self { store, tenant, batch: batch.id, total: batch.total, next: from, from: Some(from), pages: 0 }
    }

    /// How many pages were read.
    pub(super) const fn pages(&self) -> u32 {
        self.pages
    }

    /// A run of items, as (index, code) in order, of bounded length; empty at the end of the batch.
    pub(super) async fn next(&mut self) -> StoreResult<Vec<(u32, ItemCode)>> {
        let until = self.next.saturating_add(PAGE.items).min(self.total);
        let mut codes: Vec<(u32, ItemCode)> =
            (self.next..until).map(|index| (index, ItemCode::Open)).collect();
        let Some(&(first, _)) = codes.first() else { return Ok(codes) };
        while let Some(from) = self.from.filter(|from| *from < until) {
            let limit = PageLimit { items: until - from, ..PAGE };
            let page = self.store.outcomes(&self.tenant, self.batch, from, limit).await?;
            self.pages += 1;
            // Where items without an outcome lie between, a page may reach behind this run; the next run reads that again.
            let reaches_behind = page.outcomes.last().is_some_and(|last| last.index >= until);
            for stored in page.outcomes {
                if let Some(slot) = codes.get_mut((stored.index - first) as usize) {
                    slot.1 = stored.code;
                }
            }
            self.from = if reaches_behind { Some(until) } else { page.next };
        }
        self.next = until;
        Ok(codes)
    }
}
