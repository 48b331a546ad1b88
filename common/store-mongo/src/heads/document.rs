//! The head as its document.

use std::collections::HashMap;

use bytes::Bytes;
use mongodb::bson::{Bson, Document, doc};
use promptmill_domain::chunk::ChunkCut;
use promptmill_domain::head::Trying;
use promptmill_domain::{
    BatchId, ChunkId, ChunkState, Head, ItemCode, LaneId, LeaseToken, Money, ParkedItem, RowsRef, SessionId,
    TenantId, Tokens, Totals, UploadId,
};
use promptmill_ports::StoreResult;
use serde::{Deserialize, Serialize};

use crate::codec::{Fields, binary, corrupt, from_json, int, key, number_of, to_json};
use crate::order::Change;
use crate::slices::Sliced;

/// Bytes of a body that a head takes in.
const BODY: usize = 16 * 1024;

/// `state`. The index of open chunks knows that numbers below 4 are not final.
pub(crate) const WAITING: i32 = 0;
/// Admitted.
pub(crate) const READY: i32 = 1;
/// In a worker's hands.
pub(crate) const LEASED: i32 = 2;
/// Every open item waits.
pub(crate) const PARKED: i32 = 3;
/// Every item has its outcome.
pub(crate) const DONE: i32 = 4;
/// Closed early.
pub(crate) const SEALED: i32 = 5;

const fn state_number(state: &ChunkState) -> i32 {
    match state {
        ChunkState::Waiting => WAITING,
        ChunkState::Ready => READY,
        ChunkState::Leased { .. } => LEASED,
        ChunkState::Parked { .. } => PARKED,
        ChunkState::Done => DONE,
        ChunkState::Sealed => SEALED,
    }
}

/// A head as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// The head. Parked items whose history stands elsewhere have none here ([`Stored::histories`]).
    pub(crate) head: Head,
    /// Where the histories of parked items are that are too large for the head, by offset.
    pub(crate) histories: HashMap<u32, Sliced>,
    /// The last of its changes that gave items their outcome.
    pub(crate) last: Option<Change>,
    /// How many bundles of bodies it counts: those before this number.
    pub(crate) bundles: u32,
    /// The body of its only item, if that stands in the head itself.
    pub(crate) body: Option<Bytes>,
    /// Whether its item is the only one of the batch. What has no second needs no place in the order of settling.
    pub(crate) alone: bool,
}

/// A parked item as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct ParkedRecord {
    #[serde(flatten)]
    item: ParkedItem,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    history: Option<Sliced>,
}

/// The document of a chunk that was just cut.
pub(crate) fn fresh(tenant: &TenantId, batch: BatchId, lane: &LaneId, cut: &ChunkCut) -> Document {
    let done = vec![ItemCode::Open.byte(); cut.len as usize];
    let mut document = doc! {
        "_id": binary(key(batch, cut.n)), "first": binary(key(batch, cut.base)), "tenant": tenant.as_str(),
        "upload": binary(*cut.rows.upload.as_bytes()), "seq": i64::from(cut.rows.seq), "skip": i64::from(cut.rows.skip),
        "lane": lane.as_str(), "state": WAITING, "ver": 0_i64, "settles": 0_i64, "kills": 0_i64,
        "calls": 0_i64, "prompt_tokens": 0_i64, "completion_tokens": 0_i64, "cost": 0_i64, "parked_len": 0_i64,
        "bundles": 0_i64,
    };
    document.extend(counted(&done));
    document.insert("done", binary(done));
    document
}

/// What the bytes of a head add up to, for the server to sum.
fn counted(done: &[u8]) -> Document {
    let mut numbers = [0_i64; 256];
    done.iter().for_each(|byte| numbers[usize::from(*byte)] += 1);
    let take =
        |numbers: &mut [i64; 256], code: ItemCode| std::mem::take(&mut numbers[usize::from(code.byte())]);
    let mut counted = doc! {
        "open": take(&mut numbers, ItemCode::Open),
        "succeeded": take(&mut numbers, ItemCode::Succeeded),
        "repaired": take(&mut numbers, ItemCode::Repaired),
        "cancelled": take(&mut numbers, ItemCode::Cancelled),
        "expired": take(&mut numbers, ItemCode::Expired),
    };
    let failed: Vec<_> = (0u8..=u8::MAX)
        .zip(numbers)
        .filter(|(_, items)| *items > 0)
        .map(|(byte, items)| Bson::from(doc! { "code": i32::from(byte), "items": items }))
        .collect();
    counted.insert("failed", failed);
    counted
}

impl Stored {
    /// Of its document.
    pub(crate) fn of(document: &Document) -> StoreResult<Self> {
        let fields = Fields(document);
        let id: [u8; 20] = fields.id("_id")?;
        let batch = BatchId::from_bytes(id.first_chunk().copied().unwrap_or_default());
        let state = state_of(fields)?;
        let trying = match (fields.maybe_uint("trying_offset")?, fields.maybe_uint("trying_kills")?) {
            (Some(_), Some(_)) => {
                Some(Trying { offset: fields.small("trying_offset")?, kills: fields.small("trying_kills")? })
            }
            _ => None,
        };
        let records: Vec<ParkedRecord> = match fields.maybe_text("parked")? {
            Some(json) => from_json(json, "the parked items of a chunk")?,
            None => Vec::new(),
        };
        let histories =
            records.iter().filter_map(|record| Some((record.item.offset, record.history?))).collect();
        let last = match fields.maybe_uint("change")? {
            Some(_) => Some(Change::of(fields.small("change")?, fields.bytes("change_items")?)?),
            None => None,
        };
        let head = Head {
            chunk: ChunkId { batch, n: number_of(&id) },
            tenant: fields.tenant("tenant")?,
            rows: RowsRef {
                upload: UploadId::from_bytes(fields.id("upload")?),
                seq: fields.small("seq")?,
                skip: fields.small("skip")?,
            },
            base: number_of(fields.bytes("first")?),
            lane: LaneId::from_stored(fields.text("lane")?.to_owned()),
            state,
            ver: fields.uint("ver")?,
            kills: fields.small("kills")?,
            trying,
            done: fields.bytes("done")?.to_vec(),
            parked: records.into_iter().map(|record| record.item).collect(),
            totals: totals(fields)?,
            settles: fields.small("settles")?,
        };
        let body = match fields.has("body") {
            true => Some(Bytes::copy_from_slice(fields.bytes("body")?)),
            false => None,
        };
        let (bundles, alone) = (fields.small("bundles")?, fields.flag("alone"));
        Ok(Self { head, histories, last, bundles, body, alone })
    }

    /// Whether the chunk has such an item, and it has no outcome.
    pub(crate) fn is_open(&self, offset: u32) -> bool {
        self.head.done.get(offset as usize) == Some(&ItemCode::Open.byte())
    }

    /// Whether the body of an item of so many bytes has its place in the head. Then the key of the head follows from the index of the item.
    pub(crate) fn takes_body(&self, bytes: usize) -> bool {
        self.head.len() == 1 && self.head.chunk.n == self.head.base && bytes <= BODY
    }

    /// The change of `before`, as it is stored, into this one, as update operators: of what is different alone.
    pub(crate) fn operators(&self, before: &Self, mark: Bson) -> Document {
        let (now, was) = (self.fields(), before.fields());
        let gone: Document =
            was.keys().filter(|name| !now.contains_key(name)).map(|name| (name.clone(), "".into())).collect();
        let mut set: Document =
            now.into_iter().filter(|(name, value)| was.get(name) != Some(value)).collect();
        set.insert("mark", mark);
        let mut operators = doc! { "$set": set };
        if !gone.is_empty() {
            operators.insert("$unset", gone);
        }
        operators
    }

    /// The document of a head that is not there yet, which would be `waiting` if it were.
    pub(crate) fn document(&self, mut waiting: Document, mark: Bson) -> Document {
        waiting.extend(self.fields());
        waiting.insert("mark", mark);
        waiting
    }

    /// The fields that may change, those that are there.
    fn fields(&self) -> Document {
        let head = &self.head;
        let totals = &head.totals;
        let mut fields = doc! {
            "state": state_number(&head.state), "ver": int(head.ver), "settles": i64::from(head.settles),
            "kills": i64::from(head.kills), "calls": int(totals.calls), "prompt_tokens": int(totals.tokens.prompt),
            "completion_tokens": int(totals.tokens.completion), "cost": int(totals.cost.pico()),
            "parked_len": i64::try_from(head.parked.len()).unwrap_or(i64::MAX), "done": binary(head.done.clone()),
            "bundles": i64::from(self.bundles),
        };
        if totals.cached > 0 {
            fields.insert("cached", int(totals.cached));
        }
        fields.extend(counted(&head.done));
        let (owner, token) = match &head.state {
            ChunkState::Leased { owner, token } => {
                (Some(binary(*owner.as_bytes())), Some(binary(*token.as_bytes())))
            }
            _ => (None, None),
        };
        let due = match &head.state {
            ChunkState::Parked { due_ms } => Some(int(*due_ms).into()),
            _ => None,
        };
        let trying = head.trying;
        let parked = (!head.parked.is_empty()).then(|| to_json(&self.parked_records()).into());
        let optional = [
            ("owner", owner),
            ("token", token),
            ("due", due),
            ("trying_offset", trying.map(|trying| i64::from(trying.offset).into())),
            ("trying_kills", trying.map(|trying| i64::from(trying.kills).into())),
            ("parked", parked),
            ("change", self.last.as_ref().map(|change| i64::from(change.number).into())),
            ("body", self.body.as_ref().map(|body| binary(body.to_vec()))),
            ("size", self.body.as_ref().map(|body| int(body.len() as u64).into())),
            ("change_items", self.last.as_ref().map(|change| binary(change.to_bytes()))),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                fields.insert(name, value);
            }
        }
        fields
    }

    fn parked_records(&self) -> Vec<ParkedRecord> {
        let record = |item: &ParkedItem| {
            let history = self.histories.get(&item.offset).copied();
            let mut item = item.clone();
            if history.is_some() {
                item.attempts = Vec::new();
            }
            ParkedRecord { item, history }
        };
        self.head.parked.iter().map(record).collect()
    }
}

fn state_of(fields: Fields<'_>) -> StoreResult<ChunkState> {
    let state = fields.small("state")?;
    let lease = (fields.maybe_id("owner")?, fields.maybe_id("token")?);
    match (i32::try_from(state).unwrap_or(i32::MAX), lease, fields.maybe_uint("due")?) {
        (WAITING, (None, None), None) => Ok(ChunkState::Waiting),
        (READY, (None, None), None) => Ok(ChunkState::Ready),
        (LEASED, (Some(owner), Some(token)), None) => Ok(ChunkState::Leased {
            owner: SessionId::from_bytes(owner),
            token: LeaseToken::from_bytes(token),
        }),
        (PARKED, (None, None), Some(due_ms)) => Ok(ChunkState::Parked { due_ms }),
        (DONE, (None, None), None) => Ok(ChunkState::Done),
        (SEALED, (None, None), None) => Ok(ChunkState::Sealed),
        _ => Err(corrupt("the state of a chunk")),
    }
}

/// Calls, tokens, cost and replies of the cache of a head, or of a sum over heads.
pub(crate) fn totals(fields: Fields<'_>) -> StoreResult<Totals> {
    Ok(Totals {
        calls: fields.uint("calls")?,
        tokens: Tokens {
            prompt: fields.uint("prompt_tokens")?,
            completion: fields.uint("completion_tokens")?,
        },
        cost: Money::from_pico(fields.uint("cost")?),
        cached: fields.maybe_uint("cached")?.unwrap_or(0),
    })
}
