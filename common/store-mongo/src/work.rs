//! `Work`: chunks are claimed, outcomes settle.
//!
//! Settling looks at the lease (or remembers it from a moment ago), then inserts bodies, then writes the head under the lease's token. Bodies
//! whose head was taken in between are invisible; the next holder takes them over.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use mongodb::bson::doc;
use promptmill_domain::{
    BatchId, ChunkId, ChunkState, Counts, Head, HeadEvent, ItemCode, LeaseToken, Refusal, SessionId, TenantId,
};
use promptmill_ports::{Assignment, Lease, SettleGroup, Settled, StoreResult, Work};

use crate::MongoStore;
use crate::batches::{self, Look, Single};
use crate::bundles;
use crate::codec::{Fields, binary, conflict, corrupt, int};
use crate::collections::ROWS;
use crate::commands::{Commands, Concern, Query};
use crate::heads::{self, Changed, Placing, Stored};
use crate::uploads::row_key;
use crate::{assignments, delete, order, sessions, usage};

/// Blocks of rows read in one command.
const BLOCKS_TOGETHER: usize = 128;

#[async_trait]
impl Work for MongoStore {
    async fn claim(
        &self,
        owner: SessionId,
        chunks: &[(ChunkId, LeaseToken)],
        now_ms: u64,
    ) -> StoreResult<Vec<Lease>> {
        claim(self, owner, chunks, now_ms).await
    }

    async fn assignments(&self, batches: &[BatchId]) -> StoreResult<Vec<Assignment>> {
        assignments::load(self.commands(), batches).await
    }

    async fn settle(&self, groups: Arc<[SettleGroup]>, now_ms: u64) -> StoreResult<Vec<Settled>> {
        let mut answers: Vec<Option<Settled>> = groups.iter().map(|_| None).collect();
        // Groups of one chunk go one after the other.
        while answers.contains(&None) {
            let mut chunks = HashSet::new();
            let some: Vec<_> = (0..groups.len())
                .filter(|at| answers[*at].is_none() && chunks.insert(groups[*at].chunk))
                .collect();
            let these: Vec<_> = some.iter().map(|at| &groups[*at]).collect();
            for (at, settled) in some.into_iter().zip(settle(self, &these, now_ms).await?) {
                answers[at] = Some(settled);
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    async fn order(&self) -> StoreResult<()> {
        order::catch_up(self).await
    }

    async fn try_item(
        &self,
        chunk: ChunkId,
        token: LeaseToken,
        offset: u32,
        now_ms: u64,
    ) -> StoreResult<bool> {
        let attempt = |_, head: &mut Head| head.apply(HeadEvent::Try { token, offset }, now_ms);
        match heads::change_plain(self, &[chunk], attempt).await?.pop() {
            Some(Changed::Applied(_)) => Ok(true),
            None | Some(Changed::Missing | Changed::Refused(Refusal::Fenced)) => Ok(false),
            Some(Changed::Refused(refusal @ (Refusal::WrongState(_) | Refusal::NoSuchItem))) => {
                Err(conflict(refusal.to_string()))
            }
        }
    }
}

/// Leases first, then looks whether the session lives: only what it sees afterwards counts, since whoever buries a session first says so and
/// then takes its chunks. A beat of late says the same as a look. A crash before the look leaves leases that end with the session, or that the
/// sweep of strays takes.
async fn claim(
    store: &MongoStore,
    owner: SessionId,
    chunks: &[(ChunkId, LeaseToken)],
    now_ms: u64,
) -> StoreResult<Vec<Lease>> {
    let commands = store.commands();
    if chunks.is_empty() {
        return Ok(Vec::new());
    }
    // A first chunk beside others is no single row, and its head is there.
    let of_many: HashSet<_> =
        chunks.iter().filter(|(chunk, _)| chunk.n > 0).map(|(chunk, _)| chunk.batch).collect();
    let (firsts, others): (Vec<_>, Vec<_>) =
        chunks.iter().map(|(chunk, _)| *chunk).partition(|chunk| !of_many.contains(&chunk.batch));
    let (singles, standing, known) = tokio::join!(
        batches::standing(commands, firsts.iter().map(|chunk| chunk.batch), Look::Single),
        batches::standing(commands, others.iter().map(|chunk| chunk.batch), Look::Rows),
        heads::load(commands, &others),
    );
    let (mut standing, mut known) = (standing?, known?);
    standing.extend(singles?);
    // The head of a single row is seldom there.
    let lone = |chunk: &ChunkId| {
        let batch = standing.get(&chunk.batch).filter(|batch| batch.total == 1 && chunk.n == 0)?;
        batch.small.as_ref()
    };
    let firsts: Vec<_> = firsts.into_iter().filter(|chunk| lone(chunk).is_none()).collect();
    known.extend(heads::load(commands, &firsts).await?);
    for stored in known.values().filter(|stored| stored.head.state == ChunkState::Ready) {
        if !standing.contains_key(&stored.head.chunk.batch) {
            // It was admitted in the moment in which its batch was sealed, ended and deleted.
            delete::clear_away(commands, &stored.head.tenant, stored.head.chunk.batch).await?;
        }
    }
    let begins = |chunk: &ChunkId| standing.get(&chunk.batch).is_some_and(|batch| batch.state.may_begin());
    let mut wanted = Vec::with_capacity(chunks.len());
    let mut unwritten = Vec::new();
    for (chunk, token) in chunks {
        if !begins(chunk) {
            continue;
        }
        match lone(chunk) {
            Some(small) => unwritten.push((small, *chunk, *token)),
            None => wanted.push((*chunk, *token)),
        }
    }
    let (fresh, others) = heads::write_leased(commands, owner, &unwritten, now_ms).await?;
    let mut claimed = of_batches_there(commands, fresh).await?;
    wanted.extend(others);
    let ids: Vec<_> = wanted.iter().map(|(chunk, _)| *chunk).collect();
    let lease = |at: usize, stored: &mut Stored| {
        let (chunk, token) = wanted[at];
        let is_of_one_row = standing.get(&chunk.batch).is_some_and(|batch| batch.total == 1);
        let taken = match is_of_one_row {
            true => heads::take(&mut stored.head, owner, token, now_ms),
            false => stored.head.apply(HeadEvent::Claim { owner, token }, now_ms),
        };
        taken.map(|()| Vec::new())
    };
    let changed = heads::change(store, &ids, known, Placing::Now, lease).await?;
    for (changed, (_, token)) in changed.into_iter().zip(&wanted) {
        if let Changed::Applied(stored) = changed {
            claimed.push((*stored, *token));
        }
    }
    if claimed.is_empty() {
        return Ok(Vec::new());
    }
    // As they were asked for.
    let places: HashMap<_, _> = chunks.iter().map(|(chunk, _)| *chunk).zip(0..).collect();
    claimed.sort_by_key(|(stored, _)| places.get(&stored.head.chunk).copied().unwrap_or(usize::MAX));
    let own = |head: &Head| standing.get(&head.chunk.batch).is_some_and(|batch| batch.rows.is_some());
    let elsewhere = claimed.iter().map(|(stored, _)| &stored.head).filter(|head| !own(head));
    let (is_alive, blocks) = tokio::join!(sessions::lives(store, owner), load_blocks(commands, elsewhere));
    // A lease of a session that died would be nobody's to take away.
    if !is_alive? {
        let ids: Vec<_> = claimed.iter().map(|(stored, _)| stored.head.chunk).collect();
        let hand_back = |_, head: &mut Head| head.apply(HeadEvent::HandBack { owner }, now_ms);
        heads::change_plain(store, &ids, hand_back).await?;
        return Ok(Vec::new());
    }
    let mut blocks = blocks?;
    for (stored, _) in &claimed {
        let head = &stored.head;
        if let Some(rows) = standing.get(&head.chunk.batch).and_then(|batch| batch.rows.as_ref()) {
            blocks.insert(block_key(head), rows.bytes.clone());
        }
    }
    let mut leases = Vec::with_capacity(claimed.len());
    for (stored, token) in claimed {
        store.leases().note(&stored);
        let head = heads::with_histories(commands, stored).await?;
        let key = block_key(&head);
        let rows = blocks.get(&key).cloned().ok_or_else(|| corrupt("a chunk's rows are missing"))?;
        let single = standing.get_mut(&head.chunk.batch).and_then(|batch| batch.single.take());
        let batch = single.map(|Single { batch, to_close }| {
            store.leases().note_batch(batch.id, to_close);
            let mut counts = Counts::default();
            counts.add(&head);
            Assignment { batch, counts }
        });
        leases.push(Lease { head, token, rows, batch });
    }
    Ok(leases)
}

/// Those whose batches are there still. A head that was not there is written after a look at its batch, which may have been sealed, ended and
/// deleted meanwhile; nobody would remove it then.
async fn of_batches_there(
    commands: &Commands,
    fresh: Vec<(Stored, LeaseToken)>,
) -> StoreResult<Vec<(Stored, LeaseToken)>> {
    if fresh.is_empty() {
        return Ok(fresh);
    }
    let batches = fresh.iter().map(|(stored, _)| stored.head.chunk.batch);
    let there = batches::are_there(commands, batches).await?;
    let is_there = |(stored, _): &(Stored, LeaseToken)| there.contains(&stored.head.chunk.batch);
    let (fresh, gone): (Vec<_>, Vec<_>) = fresh.into_iter().partition(is_there);
    for (stored, _) in gone {
        delete::clear_away(commands, &stored.head.tenant, stored.head.chunk.batch).await?;
    }
    Ok(fresh)
}

fn block_key(head: &Head) -> [u8; 36] {
    row_key(head.chunk.batch, head.rows.upload, head.rows.seq)
}

/// The blocks that these chunks' rows are in, by key. Chunks of a small batch share one.
pub(crate) async fn load_blocks(
    commands: &Commands,
    heads: impl Iterator<Item = &Head>,
) -> StoreResult<HashMap<[u8; 36], Bytes>> {
    let mut keys: Vec<_> = heads.map(block_key).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut blocks = HashMap::with_capacity(keys.len());
    for some in keys.chunks(BLOCKS_TOGETHER) {
        let ids: Vec<_> = some.iter().map(|key| binary(*key)).collect();
        let query = Query::of(doc! { "_id": { "$in": ids } }).fields(doc! { "bytes": 1 });
        for mut found in commands.find(ROWS, query, Concern::Local).await? {
            let key = Fields(&found).id("_id")?;
            let bytes = found.get_binary_generic_mut("bytes").map_err(|_| corrupt("a block of rows"))?;
            blocks.insert(key, std::mem::take(bytes).into());
        }
    }
    Ok(blocks)
}

/// Settles groups of different chunks.
async fn settle(store: &MongoStore, groups: &[&SettleGroup], now_ms: u64) -> StoreResult<Vec<Settled>> {
    let commands = store.commands();
    let chunks: Vec<_> = groups.iter().map(|group| group.chunk).collect();
    let mut known = HashMap::with_capacity(groups.len());
    for group in groups {
        known.extend(store.leases().take(group.chunk, group.token).map(|stored| (group.chunk, stored)));
    }
    let unknown: Vec<_> = chunks.iter().filter(|chunk| !known.contains_key(chunk)).copied().collect();
    known.extend(heads::load(commands, &unknown).await?);
    let held: Vec<bool> = groups.iter().map(|group| holds(known.get(&group.chunk), group)).collect();
    for (group, _) in groups.iter().zip(&held).filter(|(_, held)| **held) {
        check_items(known.get(&group.chunk), group)?;
    }
    let leased: Vec<usize> = (0..groups.len()).filter(|at| held[*at]).collect();
    let theirs = leased.iter().filter_map(|at| Some((groups[*at], known.get(&chunks[*at])?)));
    let bundled = bundles::store(commands, &theirs.collect::<Vec<_>>()).await?;
    let ids: Vec<_> = leased.iter().map(|at| chunks[*at]).collect();
    // What a group that ended its lease gave, and whose answer was lost, must come into the order all the same.
    let fenced = groups.iter().zip(&held).filter(|(_, held)| !**held);
    let left = fenced.filter_map(|(group, _)| known.get(&group.chunk)).filter_map(heads::record);
    order::append(store, left.collect()).await?;
    let apply = |position: usize, stored: &mut Stored| {
        let (group, bundled) = (groups[leased[position]], &bundled[position]);
        let event = HeadEvent::Settle {
            token: group.token,
            settled: &bundled.settled,
            parked: &group.parked,
            seq: group.seq,
            spent: group.spent,
            release: group.release,
        };
        let was_open = stored.is_open(0);
        stored.head.apply(event, now_ms)?;
        stored.bundles = stored.bundles.max(bundled.count);
        if was_open && bundled.body.is_some() {
            stored.body.clone_from(&bundled.body);
        }
        Ok(heads::offsets(&group.parked))
    };
    let tenants: HashMap<ChunkId, TenantId> =
        known.iter().map(|(chunk, stored)| (*chunk, stored.head.tenant.clone())).collect();
    let stored = ids.iter().zip(&bundled).map(|(chunk, bundled)| (chunk, bundled.bytes));
    count(commands, &tenants, stored);
    let changed = heads::change(store, &ids, known, Placing::Later, apply).await?;
    let in_heads = ids.iter().zip(&changed).zip(&bundled).map(|((chunk, changed), bundled)| {
        let body = bundled.body.as_ref().filter(|_| changed.is_applied());
        (chunk, body.map_or(0, |body| body.len() as u64))
    });
    count(commands, &tenants, in_heads);
    let mut answers = vec![Settled::Fenced; groups.len()];
    for (changed, at) in changed.into_iter().zip(leased) {
        if let (Changed::Missing, Some(tenant)) = (&changed, tenants.get(&chunks[at])) {
            // The batch was deleted just now, and these bodies may have come after all others were gone.
            delete::clear_away(commands, tenant, chunks[at].batch).await?;
        }
        answers[at] = match changed {
            Changed::Applied(stored) => {
                store.leases().note(&stored);
                // Of a call that is repeated too, whose first answer was lost.
                store.logs().leave(heads::record(&stored));
                Settled::Recorded { done: stored.head.state == ChunkState::Done }
            }
            Changed::Missing | Changed::Refused(Refusal::Fenced) => Settled::Fenced,
            Changed::Refused(refusal @ (Refusal::WrongState(_) | Refusal::NoSuchItem)) => {
                return Err(conflict(refusal.to_string()));
            }
        };
    }
    Ok(answers)
}

fn holds(stored: Option<&Stored>, group: &SettleGroup) -> bool {
    let state = stored.map(|stored| &stored.head.state);
    matches!(state, Some(ChunkState::Leased { token, .. }) if *token == group.token)
}

/// That the group names items of its chunk and outcomes, before anything of the call is written.
fn check_items(stored: Option<&Stored>, group: &SettleGroup) -> StoreResult<()> {
    let len = stored.map_or(0, |stored| stored.head.len());
    let bad_settled = group.settled.iter().any(|(item, _)| item.offset >= len || item.code == ItemCode::Open);
    if bad_settled || group.parked.iter().any(|item| item.offset >= len) {
        return Err(conflict(Refusal::NoSuchItem.to_string()));
    }
    Ok(())
}

fn count<'a>(
    commands: &Commands,
    tenants: &HashMap<ChunkId, TenantId>,
    stored: impl Iterator<Item = (&'a ChunkId, u64)>,
) {
    let mut bytes: HashMap<&TenantId, i64> = HashMap::new();
    for (chunk, stored) in stored.filter(|(_, stored)| *stored > 0) {
        if let Some(tenant) = tenants.get(chunk) {
            *bytes.entry(tenant).or_default() += int(stored);
        }
    }
    usage::gather(commands, &bytes, &HashMap::new());
}
