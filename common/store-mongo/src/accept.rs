//! Batches that are made with all of their rows and queued in one step ([`Intake::accept`](promptmill_ports::Intake::accept)).
//!
//! A small batch is one document, which holds its rows ([`unwritten`]), and the insert of it is the step. Of larger ones the documents come
//! first, in a phase in which they are there for nobody ([`Phase::Accepting`]); under them rows and heads; then one update, which is the step:
//! it moves them to the phase of open batches. What a crash leaves before it is nobody's batch. Whoever accepts the same batch again
//! finishes it, from the spec that is stored, and else the sweep of outlived drafts removes it with all that is under it. That sweep moves the
//! document on first, so a slow accept whose batch it took finds no document to move, and takes back what it wrote. The tenant's sums
//! (`usage`) are added to beside the step: after a crash there they lack, or have too much, what was in hand.

use std::collections::HashMap;
use std::sync::Arc;

use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use promptmill_domain::chunk::ChunkCut;
use promptmill_domain::{Batch, BatchId, BatchSpec, BatchState, LaneId, TenantId};
use promptmill_ports::{Accepted, StoreError, StoreResult, WholeBatch, flow};

use crate::MongoStore;
use crate::batches::{self, Phase};
use crate::codec::{Fields, binary, conflict, from_json, int, to_json};
use crate::collections::{BATCHES, HEADS};
use crate::commands::{Commands, Concern, Query, Update, encode, fresh_mark};
use crate::intake::{insert_blocks, new_document};
use crate::parts::{self, CommittedPart};
use crate::{delete, heads, unwritten, usage};

/// The version of a batch that was accepted: that of one for which each step of a submit was taken.
const VERSION: u64 = 2;

/// One accept.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    tenant: TenantId,
    whole: Arc<WholeBatch>,
    cuts: Vec<ChunkCut>,
    /// By which its document is known.
    mark: Bson,
}

impl Call {
    /// Of a batch whose rows are those of one block.
    pub(crate) fn new(tenant: &TenantId, whole: WholeBatch) -> StoreResult<Self> {
        let cuts = flow::cut_whole(&whole, whole.batch.spec.chunk_rows)?;
        Ok(Self { tenant: tenant.clone(), whole: Arc::new(whole), cuts, mark: fresh_mark() })
    }

    /// About what it takes in a command.
    pub(crate) fn bytes(&self) -> usize {
        let (spec, rows) = (&self.whole.batch.spec, &self.whole.rows);
        spec.template.len() + rows.bytes.len() + rows.ids.len()
    }

    /// Whether its document is all there is to be written.
    fn is_small(&self) -> bool {
        unwritten::is_small(&self.whole.rows)
    }

    fn id(&self) -> BatchId {
        self.whole.batch.id
    }

    /// The document of the batch as it will be, but for its phase.
    fn document(&self) -> StoreResult<RawDocumentBuf> {
        let new = &self.whole.batch;
        let mut document = new_document(&self.tenant, new, to_json(&new.spec), self.mark.clone());
        document.extend(batches::set_state(&BatchState::Queued, VERSION));
        if self.is_small() {
            document.extend(unwritten::fields_of(&new.spec.lane, &self.whole.rows));
        } else {
            document.insert("phase", Phase::Accepting.number());
        }
        document.insert("total", i64::from(self.whole.rows.len));
        document.insert("submitted_ms", int(new.now_ms));
        document.insert("parts", vec![self.part().document()]);
        encode(&document)
    }

    fn part(&self) -> CommittedPart {
        let rows = u64::from(self.whole.rows.len);
        CommittedPart { part: 0, upload: self.whole.upload(), blocks: 1, digest: self.whole.digest, rows }
    }

    fn heads(&self, begun: &Begun) -> StoreResult<Vec<RawDocumentBuf>> {
        let (lane, cuts) = match begun {
            Begun::Left { lane, cuts } => (lane, cuts),
            Begun::Made | Begun::Answered(_) => (&self.whole.batch.spec.lane, &self.cuts),
        };
        cuts.iter().map(|cut| encode(&heads::fresh(&self.tenant, self.id(), lane, cut))).collect()
    }

    fn accepted(&self) -> Accepted {
        let new = &self.whole.batch;
        Accepted::New(Box::new(Batch {
            id: new.id,
            tenant: self.tenant.clone(),
            state: BatchState::Queued,
            ver: VERSION,
            spec: new.spec.clone(),
            limits: new.limits,
            total: self.whole.rows.len,
            created_ms: new.now_ms,
            submitted_ms: Some(new.now_ms),
            finished_ms: None,
            final_counts: None,
        }))
    }
}

/// What stands under the batch's id once the documents are there.
#[derive(Debug)]
enum Begun {
    /// The document of this call.
    Made,
    /// That of an earlier one, which was cut off or is under way: its chunks are those of its spec.
    Left { lane: LaneId, cuts: Vec<ChunkCut> },
    /// Something that decides the call.
    Answered(StoreResult<Accepted>),
}

/// Accepts batches together; answers each.
pub(crate) async fn accept(store: &MongoStore, calls: &[Call]) -> StoreResult<Vec<StoreResult<Accepted>>> {
    let commands = store.commands();
    let begun = begin(commands, calls).await?;
    let is_made = |begun: &Begun| matches!(begun, Begun::Made);
    let small = calls.iter().zip(&begun).filter(|(call, begun)| call.is_small() && is_made(begun));
    let small: Vec<_> = small.map(|(call, _)| call).collect();
    count(store, &small, &small);
    let open = calls.iter().zip(&begun).filter(|(call, begun)| match begun {
        Begun::Made => !call.is_small(),
        Begun::Left { .. } => true,
        Begun::Answered(_) => false,
    });
    let open: Vec<_> = open.collect();
    let blocks: Vec<_> =
        open.iter().map(|(call, _)| (call.id(), call.whole.upload(), &call.whole.rows)).collect();
    let mut documents = Vec::with_capacity(open.len());
    for (call, begun) in &open {
        documents.extend(call.heads(begun)?);
    }
    let inserted = if open.is_empty() {
        Vec::new()
    } else {
        let (inserted, cut) =
            tokio::join!(insert_blocks(commands, &blocks), commands.insert(HEADS, documents));
        cut.and(inserted)?
    };
    let with_new_rows = inserted.into_iter().zip(&open).filter(|(is_new, _)| *is_new);
    let with_new_rows: Vec<_> = with_new_rows.map(|(_, (call, _))| *call).collect();
    let made: Vec<_> = open.iter().filter(|(_, begun)| is_made(begun)).map(|(call, _)| *call).collect();
    count(store, &made, &with_new_rows);
    let ids: Vec<_> = open.iter().map(|(call, _)| call.id()).collect();
    let gone = queue(commands, &ids).await?;
    let mut answers = Vec::with_capacity(calls.len());
    for (call, begun) in calls.iter().zip(begun) {
        let is_queued = !gone.contains(&call.id());
        answers.push(match begun {
            Begun::Answered(answer) => answer,
            Begun::Made | Begun::Left { .. } if !is_queued => {
                delete::clear_away(commands, &call.tenant, call.id()).await?;
                Err(StoreError::unavailable("a batch was given up while it was accepted"))
            }
            Begun::Made => Ok(call.accepted()),
            Begun::Left { .. } => Ok(Accepted::Existing(call.id())),
        });
    }
    Ok(answers)
}

/// Counts the rows and the spec of what was made, and the bytes of the rows that were stored. Whoever repeats a call after an unknown result counts
/// nothing.
fn count(store: &MongoStore, made: &[&Call], with_new_rows: &[&Call]) {
    let mut bytes: HashMap<&TenantId, i64> = HashMap::new();
    for call in with_new_rows {
        *bytes.entry(&call.tenant).or_default() += int(call.whole.rows.bytes.len() as u64);
    }
    let mut rows: HashMap<(&TenantId, u64), u32> = HashMap::new();
    for call in made {
        *rows.entry((&call.tenant, call.whole.batch.now_ms)).or_default() += call.whole.rows.len;
        store.kept_bytes().add(&call.tenant, to_json(&call.whole.batch.spec).len());
    }
    usage::gather(store.commands(), &bytes, &rows);
}

/// Makes the documents that are not there, and finds out what those are that are.
async fn begin(commands: &Commands, calls: &[Call]) -> StoreResult<Vec<Begun>> {
    let documents = calls.iter().map(Call::document).collect::<StoreResult<_>>()?;
    let there = commands.insert(BATCHES, documents).await?.duplicates;
    let mut begun: Vec<_> = calls.iter().map(|_| Begun::Made).collect();
    let asked: Vec<_> = there.into_iter().filter(|at| *at < calls.len()).collect();
    if asked.is_empty() {
        return Ok(begun);
    }
    let mut either = Vec::new();
    for call in asked.iter().map(|at| &calls[*at]) {
        either.push(doc! { "_id": binary(*call.id().as_bytes()) });
        if let Some(key) = &call.whole.batch.idem_key {
            either.push(doc! { "tenant": call.tenant.as_str(), "idem_key": key });
        }
    }
    let fields = doc! { "tenant": 1, "phase": 1, "idem_key": 1, "mark": 1, "spec": 1, "parts": 1 };
    let found =
        commands.find(BATCHES, Query::of(doc! { "$or": either }).fields(fields), Concern::Local).await?;
    for at in asked {
        begun[at] = standing(&calls[at], &found)?;
    }
    Ok(begun)
}

/// What the call is to make of the batches that are there: of its key, and else of its id.
fn standing(call: &Call, found: &[Document]) -> StoreResult<Begun> {
    let decided = |answer| Ok(Begun::Answered(answer));
    let busy = || StoreError::unavailable("the batch is made or deleted by someone else at this moment");
    let key = call.whole.batch.idem_key.as_deref();
    for one in found.iter().filter(|_| key.is_some()) {
        let id = BatchId::from_bytes(Fields(one).id("_id")?);
        if id != call.id()
            && Fields(one).tenant("tenant")? == call.tenant
            && Fields(one).maybe_text("idem_key")? == key
        {
            let is_made = phase(one)? != Phase::Accepting;
            return decided(if is_made { Ok(Accepted::Existing(id)) } else { Err(busy()) });
        }
    }
    let id = binary(*call.id().as_bytes());
    let Some(one) = found.iter().find(|one| one.get("_id") == Some(&id)) else { return decided(Err(busy())) };
    let taken = || Err(conflict("the batch id is taken"));
    match phase(one)? {
        Phase::Deleting => decided(taken()),
        _ if Fields(one).tenant("tenant")? != call.tenant => decided(taken()),
        Phase::Accepting | Phase::Open if one.get("mark") == Some(&call.mark) => Ok(Begun::Made),
        Phase::Draft | Phase::Open | Phase::Final => decided(Ok(Accepted::Existing(call.id()))),
        // Under its key there are the rows of whoever came first.
        Phase::Accepting if parts::of(one)? != [call.part()] => decided(taken()),
        Phase::Accepting => {
            let spec: BatchSpec = from_json(Fields(one).text("spec")?, "batch spec")?;
            let cuts = flow::cut_whole(&call.whole, spec.chunk_rows)?;
            Ok(Begun::Left { lane: spec.lane, cuts })
        }
    }
}

fn phase(found: &Document) -> StoreResult<Phase> {
    Phase::from_number(Fields(found).small("phase")?)
}

/// The step. Answers those of the batches that are not to be had any more.
async fn queue(commands: &Commands, ids: &[BatchId]) -> StoreResult<Vec<BatchId>> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(ids);
    }
    let these = doc! { "$in": ids.iter().map(|id| binary(*id.as_bytes())).collect::<Vec<_>>() };
    let accepting = doc! { "_id": these.clone(), "phase": Phase::Accepting.number() };
    let open = doc! { "$set": { "phase": Phase::Open.number() } };
    if commands.update(BATCHES, vec![Update::these(accepting, open)]).await?.n == ids.len() as u64 {
        return Ok(Vec::new());
    }
    // Someone else did it for some of them, or the answer to our own update was lost, or the sweep took them.
    let queued = doc! { "$in": [Phase::Open.number(), Phase::Final.number()] };
    let query = Query::of(doc! { "_id": these, "phase": queued }).fields(doc! { "_id": 1 });
    for found in commands.find(BATCHES, query, Concern::Local).await? {
        let id = BatchId::from_bytes(Fields(&found).id("_id")?);
        ids.retain(|other| *other != id);
    }
    Ok(ids)
}
