//! Closing many batches at once, those that are so small that each of their rows is a chunk: their heads have known keys, and are few enough to
//! be read and counted here.
//!
//! Whatever is not as expected (a larger batch, one whose chunks were cut otherwise, one that someone else changes at this moment) is closed
//! alone (`close`). A crash between the commands leaves at most changes in the order of settling that would have come
//! there anyway, and a number that no event has; whoever closes again does the rest. The step itself is one update of the batch: its state
//! with the counts and the event.

use std::collections::{HashMap, HashSet};

use mongodb::bson::{Document, doc};
use promptmill_domain::chunk::SPREAD;
use promptmill_domain::{BatchEvent, BatchId, ChunkId, Counts, Head, TenantId};
use promptmill_ports::{StoreError, StoreResult};

use crate::batches::{self, put};
use crate::close::{end, frozen_counts};
use crate::codec::{Fields, binary, int};
use crate::collections::BATCHES;
use crate::commands::{Commands, Concern, Query, Update, fresh_mark};
use crate::heads::{self, Stored};
use crate::outbox::{self, Change};
use crate::unwritten::Small;
use crate::{MongoStore, endpoints, order};

/// One close.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Whose batch.
    pub(crate) tenant: TenantId,
    /// Which batch.
    pub(crate) batch: BatchId,
    /// Now.
    pub(crate) now_ms: u64,
}

/// What became of a close.
#[derive(Debug)]
pub(crate) enum Closed {
    /// The answer.
    Answered(Option<Counts>),
    /// It is to be done alone: it may take long, and others must not wait for it.
    NotHere,
}

/// What a close is to come to.
#[derive(Debug)]
enum Plan {
    /// It is answered.
    Answered(StoreResult<Option<Counts>>),
    /// Every chunk is final: the batch as it was read, and its counts.
    Final(Document, Counts),
    /// It is to be closed alone.
    Alone,
}

/// Closes those of the batches that are small; answers each.
pub(crate) async fn close(store: &MongoStore, calls: &[Call]) -> StoreResult<Vec<StoreResult<Closed>>> {
    let commands = store.commands();
    // A single row that was claimed and settled here a moment ago is known: its head, which has no place in the order, and its batch. Where someone
    // changed that meanwhile it is not written.
    let (mut known, mut found) = (HashMap::new(), HashMap::new());
    for Call { batch, .. } in calls {
        let chunk = ChunkId { batch: *batch, n: 0 };
        if let Some(stored) = store.leases().take_done(chunk) {
            known.insert(chunk, stored);
            found.extend(store.leases().take_batch(*batch).map(|found| (*batch, found)));
        }
    }
    let unread: Vec<_> = calls.iter().map(|call| call.batch).filter(|id| !found.contains_key(id)).collect();
    found.extend(read(commands, unread).await?);
    let mut small = Vec::new();
    for call in calls {
        if let Some(total) = found.get(&call.batch).and_then(|found| small_total(call, found)) {
            small.extend((0..total).map(|n| ChunkId { batch: call.batch, n }));
        }
    }
    small.retain(|chunk| !known.contains_key(chunk));
    let batches: Vec<_> = small.iter().filter(|chunk| chunk.n == 0).map(|chunk| chunk.batch).collect();
    let (heads, marks) =
        tokio::join!(heads::load_without_bodies(commands, &small), order::first_marks(commands, &batches));
    let (mut heads, marks) = (heads?, marks?);
    heads.extend(known);
    let mut seen = HashSet::new();
    let mut plans = Vec::with_capacity(calls.len());
    let mut missing = Vec::new();
    for call in calls {
        let plan = match plan(call, found.get(&call.batch), &heads) {
            // Of two calls for one batch one closes it, and the other is told.
            Plan::Final(..) if !seen.insert(call.batch) => Plan::Alone,
            plan => plan,
        };
        if let Plan::Final(..) = &plan {
            let of_batch = (0..SPREAD).filter_map(|n| heads.get(&ChunkId { batch: call.batch, n }));
            missing.extend(
                of_batch.filter_map(heads::record).filter(|record| !marks.contains(&record.mark()[..])),
            );
        }
        plans.push(plan);
    }
    // No chunk of these batches changes any more; what a crash kept from the order comes there now.
    order::append(store, missing).await?;
    let closed = write(commands, calls, &plans).await?;
    let answer = |(call, plan): (&Call, Plan)| match plan {
        Plan::Answered(answer) => answer.map(Closed::Answered),
        Plan::Final(_, counts) if closed.contains(&call.batch) => Ok(Closed::Answered(Some(counts))),
        Plan::Final(..) | Plan::Alone => Ok(Closed::NotHere),
    };
    Ok(calls.iter().zip(plans).map(answer).collect())
}

/// What a close must know of a batch.
pub(crate) fn fields() -> Document {
    let mut fields = outbox::fields();
    fields
        .extend(doc! { "tenant": 1, "rev": 1, "total": 1, "lane": 1, "final_counts": 1, "retention_ms": 1 });
    fields
}

async fn read(commands: &Commands, batches: Vec<BatchId>) -> StoreResult<HashMap<BatchId, Document>> {
    let found = batches::those_there(commands, batches, fields()).await?;
    found.into_iter().map(|found| Ok((BatchId::from_bytes(Fields(&found).id("_id")?), found))).collect()
}

/// The rows of the tenant's batch, if it is one of those that are closed here.
fn small_total(call: &Call, found: &Document) -> Option<u32> {
    let fields = Fields(found);
    let is_open = batches::state_of(found).is_ok_and(|state| !state.is_final());
    let is_theirs = fields.tenant("tenant").is_ok_and(|tenant| tenant == call.tenant);
    fields.small("total").ok().filter(|total| is_open && is_theirs && (1..=SPREAD).contains(total))
}

fn plan(call: &Call, found: Option<&Document>, heads: &HashMap<ChunkId, Stored>) -> Plan {
    let try_plan = || -> StoreResult<Plan> {
        let found = found.ok_or(StoreError::NotFound)?;
        if Fields(found).tenant("tenant")? != call.tenant {
            return Err(StoreError::NotFound);
        }
        let state = batches::state_of(found)?;
        state.decide(&BatchEvent::Close)?;
        if state.is_final() {
            return frozen_counts(found).map(|counts| Plan::Answered(Ok(Some(counts))));
        }
        let Some(total) = small_total(call, found) else { return Ok(Plan::Alone) };
        let heads: Vec<&Head> = (0..total)
            .filter_map(|n| heads.get(&ChunkId { batch: call.batch, n }))
            .map(|stored| &stored.head)
            .collect();
        let are_all = heads.iter().map(|head| head.len()).sum::<u32>() == total;
        if !are_all && Small::of(found)?.is_none() {
            return Ok(Plan::Alone);
        }
        // A head that a small batch does not have yet waits.
        if !are_all || heads.iter().any(|head| !head.state.is_final()) {
            return Ok(Plan::Answered(Ok(None)));
        }
        let mut counts = Counts::default();
        heads.into_iter().for_each(|head| counts.add(head));
        Ok(Plan::Final(found.clone(), counts))
    };
    try_plan().unwrap_or_else(|error| Plan::Answered(Err(error)))
}

/// Ends the batches whose chunks are final. Answers those that were ended by this.
async fn write(commands: &Commands, calls: &[Call], plans: &[Plan]) -> StoreResult<HashSet<BatchId>> {
    let ending = calls.iter().zip(plans).filter_map(|(call, plan)| match plan {
        Plan::Final(found, counts) => Some((call, found, counts)),
        Plan::Answered(_) | Plan::Alone => None,
    });
    let ending: Vec<_> = ending.collect();
    let told = endpoints::tenants(commands).await?;
    let tell = ending.iter().filter(|(call, found, _)| outbox::tells(found, &call.tenant, &told)).count();
    let mut number = if tell > 0 { outbox::next_numbers(commands, tell).await? } else { 0 };
    let mark = fresh_mark();
    let mut updates = Vec::with_capacity(ending.len());
    let mut ended = HashSet::with_capacity(ending.len());
    for (call, found, counts) in ending {
        let next = batches::state_of(found)?.decide(&BatchEvent::Close)?;
        let ver = Fields(found).uint("ver")? + 1;
        let mut operators = end(found, &next, ver, counts, call.now_ms)?;
        let (tenant, batch, at_ms) = (&call.tenant, call.batch, call.now_ms);
        let change = Change { tenant, batch, state: &next, ver, counts: Some(counts), at_ms, number };
        if outbox::tell(found, &mut operators, &change, &told).is_err() {
            // Alone it is refused in its own words.
            continue;
        }
        number += u64::from(outbox::tells(found, &call.tenant, &told));
        put(&mut operators, "$set", "mark", mark.clone());
        put(&mut operators, "$inc", "rev", 1_i64.into());
        let mut filter = batches::existing_of(&call.tenant, call.batch);
        filter.insert("rev", int(Fields(found).uint("rev")?));
        updates.push(Update::this(filter, operators));
        ended.insert(call.batch);
    }
    if updates.is_empty() || commands.update(BATCHES, updates).await?.n == ended.len() as u64 {
        return Ok(ended);
    }
    // Someone else was first somewhere, or the answer to our own update was lost.
    let ids: Vec<_> = ended.iter().map(|batch| binary(*batch.as_bytes())).collect();
    let query = Query::of(doc! { "_id": { "$in": ids }, "mark": mark }).fields(doc! { "_id": 1 });
    let mine = commands.find(BATCHES, query, Concern::Local).await?;
    mine.iter().map(|found| Ok(BatchId::from_bytes(Fields(found).id("_id")?))).collect()
}
