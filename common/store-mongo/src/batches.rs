//! The batch's document: how it is found, read and changed.
//!
//! Every lookup names the tenant or is about the fleet, and leaves out batches that are being deleted or made, so that a foreign tenant and such a
//! batch are the same as no batch. Every change of more than one field is a compare-and-set on `rev` ([`change`]).

use std::collections::{HashMap, HashSet};

use mongodb::bson::{Bson, Document, doc};
use promptmill_domain::{Batch, BatchId, BatchSpec, BatchState, TenantId};
use promptmill_ports::{StoreError, StoreResult};

use crate::close_small;
use crate::codec::{Fields, binary, corrupt, from_json, int, to_json};
use crate::collections::{BATCHES, META};
use crate::commands::{Commands, Concern, Query, Update, fresh_mark};
use crate::unwritten::{OwnRows, Small};

/// How often a change of one batch is tried while others change it.
const TRIES: u32 = 64;
/// The document in [`META`] that counts changes.
const CHANGES: &str = "changes";

/// `phase`: the state as far as an index needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Rows are coming in.
    Draft = 0,
    /// Neither draft nor final.
    Open = 1,
    /// Final.
    Final = 2,
    /// Being deleted, and gone for everyone but that.
    Deleting = 3,
    /// Being made with all of its rows, and not there yet for anyone but that.
    Accepting = 4,
}

impl Phase {
    /// The phase of a state.
    pub(crate) fn of(state: &BatchState) -> Self {
        match state {
            BatchState::Draft => Self::Draft,
            state if state.is_final() => Self::Final,
            _ => Self::Open,
        }
    }

    /// Of its number.
    pub(crate) fn from_number(number: u32) -> StoreResult<Self> {
        match number {
            0 => Ok(Self::Draft),
            1 => Ok(Self::Open),
            2 => Ok(Self::Final),
            3 => Ok(Self::Deleting),
            4 => Ok(Self::Accepting),
            _ => Err(corrupt("the phase of a batch")),
        }
    }

    /// As it is stored.
    pub(crate) const fn number(self) -> i32 {
        self as i32
    }
}

/// The phases of batches that are there: neither being deleted nor not yet made.
pub(crate) fn there() -> Document {
    doc! { "$lt": Phase::Deleting.number() }
}

/// The filter for any batch that is there.
pub(crate) fn existing(batch: BatchId) -> Document {
    doc! { "_id": binary(*batch.as_bytes()), "phase": there() }
}

/// The same of this tenant.
pub(crate) fn existing_of(tenant: &TenantId, batch: BatchId) -> Document {
    let mut filter = existing(batch);
    filter.insert("tenant", tenant.as_str());
    filter
}

/// These fields of the tenant's batch.
///
/// # Errors
/// `NotFound` when there is none.
pub(crate) async fn owned(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    fields: Document,
    concern: Concern,
) -> StoreResult<Document> {
    let query = Query::of(existing_of(tenant, batch)).fields(fields);
    commands.find_one(BATCHES, query, concern).await?.ok_or(StoreError::NotFound)
}

/// Those of the batches that are there, whoever's.
pub(crate) async fn any_of(commands: &Commands, batches: &[BatchId]) -> StoreResult<Vec<Batch>> {
    if batches.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = batches.iter().map(|batch| binary(*batch.as_bytes())).collect();
    let query = Query::of(doc! { "_id": { "$in": ids }, "phase": there() }).fields(all_fields());
    commands.find(BATCHES, query, Concern::Majority).await?.iter().map(decode).collect()
}

/// That the tenant has the batch, for readers.
///
/// # Errors
/// `NotFound` when there is none.
pub(crate) async fn check(commands: &Commands, tenant: &TenantId, batch: BatchId) -> StoreResult<()> {
    owned(commands, tenant, batch, doc! { "_id": 1 }, Concern::Majority).await.map(|_| ())
}

/// The state in a document that has it.
pub(crate) fn state_of(found: &Document) -> StoreResult<BatchState> {
    from_json(Fields(found).text("state")?, "batch state")
}

/// How a batch stands.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    /// Its state.
    pub(crate) state: BatchState,
    /// How many rows it has.
    pub(crate) total: u32,
    /// What its chunks follow from, if it is small.
    pub(crate) small: Option<Small>,
    /// Its rows, if they were asked for and stand in its document.
    pub(crate) rows: Option<OwnRows>,
    /// The rest of a batch of a single row, if it was asked for and is not damaged.
    pub(crate) single: Option<Single>,
}

/// A batch of a single row as whoever claims its chunk must know it.
#[derive(Debug, Clone)]
pub(crate) struct Single {
    /// For its worker.
    pub(crate) batch: Batch,
    /// Its document as far as whoever closes it must know it, which follows at once.
    pub(crate) to_close: Document,
}

impl Single {
    /// Of a document with [`all_fields`] and those a close reads.
    fn of(mut found: Document) -> StoreResult<Self> {
        let batch = decode(&found)?;
        let names = close_small::fields();
        let names = names.keys().filter_map(|name| name.split('.').next());
        let to_close = names.filter_map(|name| Some((name.to_owned(), found.remove(name)?))).collect();
        Ok(Self { batch, to_close })
    }
}

/// How much is read of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// How it stands.
    Standing,
    /// That, and the rows in its document.
    Rows,
    /// That, and all of a batch of a single row.
    Single,
}

impl Standing {
    /// Whether to admit chunks of it leaves it as it is.
    pub(crate) fn goes_on(&self) -> bool {
        self.state == BatchState::Running && self.small.is_none()
    }
}

/// How those of the batches stand that exist.
pub(crate) async fn standing(
    commands: &Commands,
    batches: impl IntoIterator<Item = BatchId>,
    look: Look,
) -> StoreResult<HashMap<BatchId, Standing>> {
    let mut fields = Small::fields();
    fields.insert("state", 1);
    if look != Look::Standing {
        fields.extend(OwnRows::fields());
    }
    if look == Look::Single {
        fields.extend(all_fields());
        fields.extend(close_small::fields());
    }
    let standing = |mut found: Document| {
        let id = BatchId::from_bytes(Fields(&found).id("_id")?);
        let (state, small, total) = (state_of(&found)?, Small::of(&found)?, Fields(&found).small("total")?);
        let rows = OwnRows::of(&mut found)?;
        // One that is damaged is told of by whoever reads it by itself.
        let single = (look == Look::Single && total == 1).then(|| Single::of(found).ok()).flatten();
        Ok((id, Standing { state, total, small, rows, single }))
    };
    those_there(commands, batches, fields).await?.into_iter().map(standing).collect()
}

/// Those of the batches that exist.
pub(crate) async fn are_there(
    commands: &Commands,
    batches: impl IntoIterator<Item = BatchId>,
) -> StoreResult<HashSet<BatchId>> {
    let there = those_there(commands, batches, doc! { "_id": 1 }).await?;
    there.iter().map(|found| Ok(BatchId::from_bytes(Fields(found).id("_id")?))).collect()
}

/// These fields of those of the batches that exist.
pub(crate) async fn those_there(
    commands: &Commands,
    batches: impl IntoIterator<Item = BatchId>,
    fields: Document,
) -> StoreResult<Vec<Document>> {
    let mut ids: Vec<_> = batches.into_iter().collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    ids.sort_unstable();
    ids.dedup();
    let ids: Vec<_> = ids.into_iter().map(|id| binary(*id.as_bytes())).collect();
    let filter = doc! { "_id": { "$in": ids }, "phase": there() };
    commands.find(BATCHES, Query::of(filter).fields(fields), Concern::Local).await
}

/// What a state is stored as, with the version the change gives the batch.
pub(crate) fn set_state(state: &BatchState, ver: u64) -> Document {
    doc! {
        "state": to_json(state), "state_name": state.as_str(), "phase": Phase::of(state).number(), "ver": int(ver),
    }
}

/// Changes the tenant's batch by what `decide` makes of these fields of it: update operators, or nothing. Answers whether it did.
///
/// `decide` may be asked again when someone else changes the batch at that moment.
///
/// # Errors
/// `NotFound` when there is none, and those of `decide`.
pub(crate) async fn change(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    fields: Document,
    decide: impl FnMut(&Document) -> StoreResult<Option<Document>>,
) -> StoreResult<bool> {
    let found = to_change(commands, tenant, batch, fields.clone()).await?;
    change_found(commands, tenant, batch, fields, found, decide).await
}

/// These fields of the tenant's batch, and what [`change_found`] needs beside.
///
/// # Errors
/// `NotFound` when there is none.
pub(crate) async fn to_change(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    mut fields: Document,
) -> StoreResult<Document> {
    fields.insert("rev", 1);
    owned(commands, tenant, batch, fields, Concern::Local).await
}

/// [`change`] of a batch that was just read by [`to_change`].
pub(crate) async fn change_found(
    commands: &Commands,
    tenant: &TenantId,
    batch: BatchId,
    fields: Document,
    found: Document,
    mut decide: impl FnMut(&Document) -> StoreResult<Option<Document>>,
) -> StoreResult<bool> {
    let mut found = Some(found);
    for _ in 0..TRIES {
        let found = match found.take() {
            Some(found) => found,
            None => to_change(commands, tenant, batch, fields.clone()).await?,
        };
        let Some(mut operators) = decide(&found)? else {
            return Ok(false);
        };
        let mark = fresh_mark();
        put(&mut operators, "$set", "mark", mark.clone());
        put(&mut operators, "$inc", "rev", Bson::Int64(1));
        let mut filter = existing_of(tenant, batch);
        filter.insert("rev", int(Fields(&found).uint("rev")?));
        if commands.update(BATCHES, vec![Update::this(filter, operators)]).await?.n == 1 {
            return Ok(true);
        }
        // Someone else was first, or the answer to our own write was lost.
        let mut mine = existing_of(tenant, batch);
        mine.insert("mark", mark);
        let query = Query::of(mine).fields(doc! { "_id": 1 });
        if commands.find_one(BATCHES, query, Concern::Local).await?.is_some() {
            return Ok(true);
        }
    }
    Err(StoreError::unavailable("a batch is changed by too many at once"))
}

/// Adds a field to one of the operators of an update.
pub(crate) fn put(operators: &mut Document, operator: &str, field: &str, value: Bson) {
    match operators.get_mut(operator) {
        Some(Bson::Document(fields)) => drop(fields.insert(field, value)),
        _ => drop(operators.insert(operator, doc! { field: value })),
    }
}

/// Counts a change for sessions to see. Whoever repeats a step after an unknown result counts again: a number too many makes readers read
/// once more.
pub(crate) async fn bump_changes(commands: &Commands) -> StoreResult<()> {
    let more = doc! { "$inc": { "value": 1_i64 } };
    commands.update(META, vec![Update::upsert(doc! { "_id": CHANGES }, more)]).await.map(|_| ())
}

/// The change counter.
pub(crate) async fn changes(commands: &Commands) -> StoreResult<u64> {
    let found = commands.find_one(META, Query::of(doc! { "_id": CHANGES }), Concern::Majority).await?;
    found.map_or(Ok(0), |found| Fields(&found).uint("value"))
}

/// The fields a batch is decoded from.
pub(crate) fn all_fields() -> Document {
    doc! {
        "tenant": 1, "state": 1, "ver": 1, "spec": 1, "limits": 1, "total": 1, "created_ms": 1, "final_counts": 1,
        "submitted_ms": 1, "finished_ms": 1,
    }
}

/// A batch of a document with [`all_fields`].
pub(crate) fn decode(found: &Document) -> StoreResult<Batch> {
    decode_with(found, from_json(Fields(found).text("spec")?, "batch spec")?)
}

/// The same but for the spec, which is known.
pub(crate) fn decode_with(found: &Document, spec: BatchSpec) -> StoreResult<Batch> {
    let fields = Fields(found);
    Ok(Batch {
        id: BatchId::from_bytes(fields.id("_id")?),
        tenant: fields.tenant("tenant")?,
        state: state_of(found)?,
        ver: fields.uint("ver")?,
        spec,
        limits: from_json(fields.text("limits")?, "batch limits")?,
        total: fields.small("total")?,
        created_ms: fields.uint("created_ms")?,
        submitted_ms: fields.maybe_uint("submitted_ms")?,
        finished_ms: fields.maybe_uint("finished_ms")?,
        final_counts: fields
            .maybe_text("final_counts")?
            .map(|json| from_json(json, "final counts"))
            .transpose()?,
    })
}
