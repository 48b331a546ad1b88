//! The head's row: read, apply one event, write. Nothing else in this crate changes a head.

use promptmill_domain::head::Trying;
use promptmill_domain::{
    BatchId, ChunkId, ChunkState, Head, HeadEvent, LaneId, LeaseToken, Money, ParkedItem, Refusal, RowsRef,
    SessionId, Tokens, Totals, UploadId,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::batches::{BatchNum, from_json, int, low, parse_tenant, to_json};
use crate::fault::Fault;
use crate::order;

/// `heads.state`. The partial indexes know that numbers below 4 are not final.
pub(crate) const WAITING: i64 = 0;
/// Admitted.
pub(crate) const READY: i64 = 1;
/// In a worker's hands.
pub(crate) const LEASED: i64 = 2;
/// Every open item waits.
pub(crate) const PARKED: i64 = 3;
/// Every item has its outcome.
pub(crate) const DONE: i64 = 4;
/// Closed early.
pub(crate) const SEALED: i64 = 5;

const fn state_number(state: &ChunkState) -> i64 {
    match state {
        ChunkState::Waiting => WAITING,
        ChunkState::Ready => READY,
        ChunkState::Leased { .. } => LEASED,
        ChunkState::Parked { .. } => PARKED,
        ChunkState::Done => DONE,
        ChunkState::Sealed => SEALED,
    }
}

/// What became of an event.
#[derive(Debug)]
pub(crate) enum Changed {
    /// It is written; the head as it is now.
    Applied(Box<Head>),
    /// The head refused it.
    Refused(Refusal),
    /// There is no such chunk.
    Missing,
}

/// What a head was before an event, as far as its writing needs it.
#[derive(Debug)]
pub(crate) struct Before {
    state: ChunkState,
    done: Vec<u8>,
}

impl Before {
    /// Of a head that is about to change.
    pub(crate) fn of(head: &Head) -> Self {
        Self { state: head.state.clone(), done: head.done.clone() }
    }
}

/// Reads the head, applies the event and writes it.
pub(crate) fn change(db: &Connection, key: i64, event: HeadEvent<'_>, now_ms: u64) -> Result<Changed, Fault> {
    let Some(mut head) = load(db, key)? else {
        return Ok(Changed::Missing);
    };
    let before = Before::of(&head);
    match head.apply(event, now_ms) {
        Ok(()) => {
            save(db, key, &head, &before)?;
            Ok(Changed::Applied(Box::new(head)))
        }
        Err(refusal) => Ok(Changed::Refused(refusal)),
    }
}

/// Reads a head.
pub(crate) fn load(db: &Connection, key: i64) -> Result<Option<Head>, Fault> {
    let sql = "SELECT b.id, b.tenant, h.first, h.state, h.owner, h.token, h.due, h.ver, h.kills, h.upload, h.seq, h.skip,
            h.trying_offset, h.trying_kills, h.calls, h.prompt_tokens, h.completion_tokens, h.cost, h.cached, h.lane, h.done, h.parked, h.settles
        FROM heads h JOIN batches b ON b.num = h.id >> 32 WHERE h.id = ?1";
    let raw = db.prepare_cached(sql)?.query_row([key], RawHead::read).optional()?;
    raw.map(|raw| raw.decode(low(key))).transpose()
}

struct RawHead {
    batch: [u8; 16],
    tenant: String,
    first: i64,
    state: i64,
    owner: Option<[u8; 16]>,
    token: Option<[u8; 16]>,
    due: Option<u64>,
    ver: u64,
    kills: u32,
    rows: RowsRef,
    trying: Option<Trying>,
    totals: Totals,
    lane: String,
    done: Vec<u8>,
    parked: Option<String>,
    settles: u32,
}

impl RawHead {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let trying = match (row.get(12)?, row.get(13)?) {
            (Some(offset), Some(kills)) => Some(Trying { offset, kills }),
            _ => None,
        };
        Ok(Self {
            batch: row.get(0)?,
            tenant: row.get(1)?,
            first: row.get(2)?,
            state: row.get(3)?,
            owner: row.get(4)?,
            token: row.get(5)?,
            due: row.get(6)?,
            ver: row.get(7)?,
            kills: row.get(8)?,
            rows: RowsRef {
                upload: UploadId::from_bytes(row.get(9)?),
                seq: row.get(10)?,
                skip: row.get(11)?,
            },
            trying,
            totals: read_totals(row, 14)?,
            lane: row.get(19)?,
            done: row.get(20)?,
            parked: row.get(21)?,
            settles: row.get(22)?,
        })
    }

    fn decode(self, n: u32) -> Result<Head, Fault> {
        let state = match (self.state, self.owner, self.token, self.due) {
            (WAITING, None, None, None) => ChunkState::Waiting,
            (READY, None, None, None) => ChunkState::Ready,
            (LEASED, Some(owner), Some(token), None) => ChunkState::Leased {
                owner: SessionId::from_bytes(owner),
                token: LeaseToken::from_bytes(token),
            },
            (PARKED, None, None, Some(due_ms)) => ChunkState::Parked { due_ms },
            (DONE, None, None, None) => ChunkState::Done,
            (SEALED, None, None, None) => ChunkState::Sealed,
            _ => return Err(Fault::corrupt("the state of a chunk")),
        };
        let parked: Vec<ParkedItem> = match &self.parked {
            Some(json) => from_json(json, "the parked items of a chunk")?,
            None => Vec::new(),
        };
        Ok(Head {
            chunk: ChunkId { batch: BatchId::from_bytes(self.batch), n },
            tenant: parse_tenant(&self.tenant)?,
            rows: self.rows,
            base: low(self.first),
            lane: LaneId::from_stored(self.lane),
            state,
            ver: self.ver,
            kills: self.kills,
            trying: self.trying,
            done: self.done,
            parked,
            totals: self.totals,
            settles: self.settles,
        })
    }
}

/// Reads calls, prompt tokens, completion tokens, cost and replies of the cache from five columns.
pub(crate) fn read_totals(row: &Row<'_>, at: usize) -> rusqlite::Result<Totals> {
    Ok(Totals {
        calls: row.get(at)?,
        tokens: Tokens { prompt: row.get(at + 1)?, completion: row.get(at + 2)? },
        cost: Money::from_pico(row.get(at + 3)?),
        cached: row.get(at + 4)?,
    })
}

/// Writes a head that was `before`, and the order in which items settled by the change.
pub(crate) fn save(db: &Connection, key: i64, head: &Head, before: &Before) -> Result<(), Fault> {
    let parked = (!head.parked.is_empty()).then(|| to_json(&head.parked));
    let trying = (head.trying.map(|trying| trying.offset), head.trying.map(|trying| trying.kills));
    let totals = &head.totals;
    let sql = "UPDATE heads SET ver = ?2, settles = ?3, kills = ?4, trying_offset = ?5, trying_kills = ?6, calls = ?7,
            prompt_tokens = ?8, completion_tokens = ?9, cost = ?10, parked_len = ?11, done = ?12, parked = ?13, cached = ?14 WHERE id = ?1";
    let changed = db.prepare_cached(sql)?.execute(params![
        key,
        int(head.ver),
        head.settles,
        head.kills,
        trying.0,
        trying.1,
        int(totals.calls),
        int(totals.tokens.prompt),
        int(totals.tokens.completion),
        int(totals.cost.pico()),
        head.parked.len(),
        head.done,
        parked,
        int(totals.cached),
    ])?;
    // Most writes leave the state alone, and with it every index.
    if head.state != before.state {
        save_state(db, key, &head.state)?;
    }
    order::record(db, BatchNum::of_key(key), head.base, &before.done, &head.done)?;
    if changed == 1 { Ok(()) } else { Err(Fault::corrupt("a chunk vanished while it was written")) }
}

fn save_state(db: &Connection, key: i64, state: &ChunkState) -> Result<(), Fault> {
    let (owner, token) = match state {
        ChunkState::Leased { owner, token } => (Some(owner.as_bytes()), Some(token.as_bytes())),
        _ => (None, None),
    };
    let due = match state {
        ChunkState::Parked { due_ms } => Some(int(*due_ms)),
        _ => None,
    };
    let sql = "UPDATE heads SET state = ?2, owner = ?3, token = ?4, due = ?5 WHERE id = ?1";
    db.prepare_cached(sql)?.execute(params![key, state_number(state), owner, token, due])?;
    Ok(())
}

/// The keys of all chunks of this state in a batch, or of the first `limit`.
pub(crate) fn in_state(
    db: &Connection,
    num: BatchNum,
    state: i64,
    after: i64,
    limit: u32,
) -> Result<Vec<i64>, Fault> {
    let sql =
        "SELECT id FROM heads WHERE state = ?1 AND state < 4 AND id > ?2 AND id <= ?3 ORDER BY id LIMIT ?4";
    let mut statement = db.prepare_cached(sql)?;
    let keys = statement.query_map(params![state, after, num.range().1, limit], |row| row.get(0))?;
    Ok(keys.collect::<Result<_, _>>()?)
}
