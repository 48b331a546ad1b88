//! `Close`: sealing chunks, closing and deleting batches.

use std::sync::Arc;

use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use promptmill_domain::{BatchEvent, BatchId, BatchState, Counts, Head, HeadEvent, TenantId};
use promptmill_ports::{Close, StoreResult};

use crate::batches::put;
use crate::close_small::Closed;
use crate::codec::{Fields, conflict, corrupt, from_json, int, to_json};
use crate::commands::{Concern, Query};
use crate::heads::{self, LEASED, PARKED, READY, WAITING};
use crate::outbox::{self, Change};
use crate::unwritten::Small;
use crate::{MongoStore, batches, close_small, counts, delete, endpoints, order, unwritten};

/// States of chunks that are neither done nor sealed.
const OPEN: [i32; 4] = [WAITING, READY, LEASED, PARKED];
/// How often sealing looks again when others changed every chunk it was about to seal.
const TRIES: u32 = 16;

#[async_trait]
impl Close for MongoStore {
    async fn seal(&self, tenant: &TenantId, batch: BatchId, limit: u32, now_ms: u64) -> StoreResult<u32> {
        seal(self, tenant, batch, limit, now_ms).await
    }

    async fn close(&self, tenant: &TenantId, batch: BatchId, now_ms: u64) -> StoreResult<Option<Counts>> {
        let call = close_small::Call { tenant: tenant.clone(), batch, now_ms };
        let store = self.clone();
        let run = move |calls: Arc<[close_small::Call]>| {
            let store = store.clone();
            async move { close_small::close(&store, &calls).await }
        };
        match self.together().closes.call(call, 0, run).await? {
            Closed::Answered(counts) => Ok(counts),
            Closed::NotHere => close(self, tenant, batch, now_ms).await,
        }
    }

    async fn delete(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<bool> {
        delete::mark(self, tenant, batch).await?;
        let is_gone = delete::step(self.commands(), tenant, batch).await?;
        self.kept_bytes().removed(tenant);
        Ok(is_gone)
    }
}

async fn seal(
    store: &MongoStore,
    tenant: &TenantId,
    batch: BatchId,
    limit: u32,
    now_ms: u64,
) -> StoreResult<u32> {
    let commands = store.commands();
    let mut fields = Small::fields();
    fields.insert("state", 1);
    let found = batches::owned(commands, tenant, batch, fields, Concern::Local).await?;
    let state = batches::state_of(&found)?;
    if state.is_final() {
        return Ok(0);
    }
    let Some(code) = state.seals_with() else {
        let state = state.as_str();
        return Err(conflict(format!("the chunks of a batch that is {state} cannot be sealed")));
    };
    // From here on nothing is admitted, and what waits without a head is written as it ends.
    if let Some(small) = Small::of(&found)?
        && unwritten::write(commands, &small).await?
        && let Err(error) = batches::check(commands, tenant, batch).await
    {
        // It was deleted before they were there.
        delete::clear_away(commands, tenant, batch).await?;
        return Err(error);
    }
    // Zero would say that all of them are final.
    for _ in 0..TRIES {
        let query = Query::of(heads::in_states(batch, &OPEN)).limit(limit.max(1));
        let open = heads::ids(commands, query, Concern::Local).await?;
        if open.is_empty() {
            return Ok(0);
        }
        let seal = |_, head: &mut Head| head.apply(HeadEvent::Seal(code), now_ms);
        let changed = heads::change_plain(store, &open, seal).await?;
        let sealed = changed.iter().map(|changed| u32::from(changed.is_applied())).sum();
        if sealed > 0 {
            return Ok(sealed);
        }
    }
    Err(promptmill_ports::StoreError::unavailable("the chunks of a batch are changed by too many at once"))
}

/// Closes one batch, however large it is.
async fn close(
    store: &MongoStore,
    tenant: &TenantId,
    batch: BatchId,
    now_ms: u64,
) -> StoreResult<Option<Counts>> {
    let commands = store.commands();
    let mut fields = Small::fields();
    fields.extend(doc! { "state": 1, "final_counts": 1, "tells": 1 });
    let found = batches::owned(commands, tenant, batch, fields, Concern::Local).await?;
    let state = batches::state_of(&found)?;
    state.decide(&BatchEvent::Close)?;
    if state.is_final() {
        return frozen_counts(&found).map(Some);
    }
    // One look at the index, for the scheduler asks often.
    let open = Query::of(heads::in_states(batch, &OPEN)).limit(1);
    if !heads::ids(commands, open, Concern::Local).await?.is_empty() {
        return Ok(None);
    }
    if let Some(small) = Small::of(&found)?
        && !small.absent(commands).await?.is_empty()
    {
        return Ok(None);
    }
    // From here on no chunk changes. One that is open still in what the majority has will not be in a moment.
    order::complete(store, batch).await?;
    let progress = counts::progress(commands, tenant, batch).await?;
    if progress.open_chunks > 0 {
        return Ok(None);
    }
    let told = endpoints::tenants(commands).await?;
    let number = match outbox::tells(&found, tenant, &told) {
        true => outbox::next_number(commands).await?,
        false => 0,
    };
    let mut frozen = Some(progress.counts);
    let mut fields = outbox::fields();
    fields.extend(doc! { "final_counts": 1, "retention_ms": 1 });
    batches::change(commands, tenant, batch, fields, |found| {
        let state = batches::state_of(found)?;
        let next = state.decide(&BatchEvent::Close)?;
        if state.is_final() {
            // Someone else closed it meanwhile, from the same heads.
            frozen = Some(frozen_counts(found)?);
            return Ok(None);
        }
        let counts = frozen.as_ref().ok_or_else(|| corrupt("the counts of a batch"))?;
        let ver = Fields(found).uint("ver")? + 1;
        let mut operators = end(found, &next, ver, counts, now_ms)?;
        let change = Change { tenant, batch, state: &next, ver, counts: Some(counts), at_ms: now_ms, number };
        outbox::tell(found, &mut operators, &change, &told)?;
        Ok(Some(operators))
    })
    .await?;
    Ok(frozen)
}

/// The update that ends a batch, but for its event.
pub(crate) fn end(
    found: &Document,
    next: &BatchState,
    ver: u64,
    counts: &Counts,
    now_ms: u64,
) -> StoreResult<Document> {
    let mut operators = doc! { "$set": batches::set_state(next, ver) };
    put(&mut operators, "$set", "final_counts", to_json(counts).into());
    put(&mut operators, "$set", "finished_ms", int(now_ms).into());
    if let Some(retention_ms) = Fields(found).maybe_uint("retention_ms")? {
        put(&mut operators, "$set", "kept_until_ms", int(now_ms.saturating_add(retention_ms)).into());
    }
    Ok(operators)
}

/// The counts of a batch that is final.
pub(crate) fn frozen_counts(found: &Document) -> StoreResult<Counts> {
    match Fields(found).maybe_text("final_counts")? {
        Some(json) => from_json(json, "final counts"),
        None => Err(corrupt("a final batch has no counts")),
    }
}
