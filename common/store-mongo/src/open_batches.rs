//! The open batches as they were decoded last, so that one look costs one command and no more bytes than it must.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mongodb::bson::{Bson, Document, doc};
use promptmill_domain::{Batch, BatchId, BatchState};
use promptmill_ports::StoreResult;

use crate::batches::{self, Phase, Standing, all_fields, bump_changes, decode, decode_with};
use crate::codec::{Fields, binary, corrupt};
use crate::collections::BATCHES;
use crate::commands::{Commands, Concern, Query};
use crate::unwritten::Small;

/// Batches that are named to the server as known. Of more their versions are read first.
const FEW: usize = 256;
/// For how long it is good enough to know how a batch stood: who claims a chunk of it looks again.
const MOMENT: Duration = Duration::from_millis(100);
/// Batches read at a time; they hold whole templates.
const TOGETHER: u32 = 100;

/// They are asked for many times a second and seldom change, and every change of what a batch is decoded from gives it another version.
#[derive(Default)]
pub(crate) struct OpenBatches {
    by_id: Mutex<HashMap<BatchId, Batch>>,
    /// How batches stood that were read by name, and when.
    standing: Mutex<HashMap<BatchId, (Instant, Standing)>>,
}

impl OpenBatches {
    /// Every batch that is neither draft nor final, oldest first.
    pub(crate) async fn load(&self, commands: &Commands) -> StoreResult<Vec<Batch>> {
        let known = std::mem::take(&mut *self.by_id.lock().unwrap_or_else(PoisonError::into_inner));
        let (open, is_news) = match known.len() {
            0..=FEW => load_few(commands, &known).await?,
            _ => load_many(commands, &known).await?,
        };
        if is_news {
            // Whoever changed one may have died before it counted the change, and nobody would look again.
            bump_changes(commands).await?;
        }
        let by_id = open.iter().map(|batch| (batch.id, batch.clone())).collect();
        *self.by_id.lock().unwrap_or_else(PoisonError::into_inner) = by_id;
        Ok(open)
    }
}

impl OpenBatches {
    /// How those of the batches stand that were read a moment ago. Each is given once, unless it goes on as it is.
    pub(crate) fn take_standing(&self, ids: &HashSet<BatchId>) -> HashMap<BatchId, Standing> {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut take = |id: &BatchId| {
            let (at, known) = standing.remove(id).filter(|(at, _)| at.elapsed() < MOMENT)?;
            if known.goes_on() {
                standing.insert(*id, (at, known.clone()));
            }
            Some((*id, known))
        };
        ids.iter().filter_map(&mut take).collect()
    }

    /// Forgets how a batch stood that was steered here. Whoever reads it at that moment may note it again, for [`MOMENT`].
    pub(crate) fn forget_standing(&self, batch: BatchId) {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).remove(&batch);
    }

    /// Notes how batches stand that were read from `now` on.
    pub(crate) fn note_standing(&self, now: Instant, read: impl IntoIterator<Item = (BatchId, Standing)>) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.retain(|_, (at, _)| now.duration_since(*at) < MOMENT);
        standing.extend(read.into_iter().map(|(id, read)| (id, (now, read))));
    }

    /// Those of the batches that are neither draft nor final, oldest first.
    pub(crate) async fn load_among(&self, commands: &Commands, ids: &[BatchId]) -> StoreResult<Vec<Batch>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let begun = Instant::now();
        let keys: Vec<Bson> = ids.iter().map(|id| binary(*id.as_bytes())).collect();
        let filter = doc! { "_id": { "$in": keys }, "phase": Phase::Open.number() };
        let mut fields = all_fields();
        fields.extend(Small::fields());
        let query = Query::of(filter).fields(fields).sort(doc! { "_id": 1 });
        let mut rows = commands.stream(BATCHES, query, Concern::Majority, TOGETHER).await?;
        let (mut open, mut standing) = (Vec::new(), Vec::new());
        while let Some(row) = rows.next().await? {
            let found = Document::try_from(row).map_err(|_| corrupt("a batch"))?;
            let batch = decode(&found)?;
            let (state, small) = (batch.state.clone(), Small::of(&found)?);
            let stands = Standing { state, total: batch.total, small, rows: None, single: None };
            standing.push((batch.id, stands));
            open.push(batch);
        }
        self.note_standing(begun, standing);
        let is_news = {
            let mut known = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
            let is_news = open.iter().any(|batch| is_news(known.get(&batch.id), batch));
            ids.iter().for_each(|id| drop(known.remove(id)));
            known.extend(open.iter().map(|batch| (batch.id, batch.clone())));
            is_news
        };
        if is_news {
            bump_changes(commands).await?;
        }
        Ok(open)
    }
}

/// Whether a session may have to hear of what became of a batch. It knows none that was not admitted, but for single rows, which are over before it
/// matters; and an admission changes nothing for those that know it.
fn is_news(before: Option<&Batch>, now: &Batch) -> bool {
    let state = |batch: &Batch| match &batch.state {
        BatchState::Queued => BatchState::Running,
        state => state.clone(),
    };
    match before {
        Some(before) => before.limits != now.limits || state(before) != state(now),
        None => now.state != BatchState::Queued,
    }
}

/// One command gives them all, those that are known without their specs, which never change.
async fn load_few(commands: &Commands, known: &HashMap<BatchId, Batch>) -> StoreResult<(Vec<Batch>, bool)> {
    let ids: Vec<Bson> = known.keys().map(|id| binary(*id.as_bytes())).collect();
    let mut fields = all_fields();
    fields.insert("spec", doc! { "$cond": [{ "$in": ["$_id", ids] }, "$$REMOVE", "$spec"] });
    let query = Query::of(doc! { "phase": Phase::Open.number() }).fields(fields).sort(doc! { "_id": 1 });
    let mut rows = commands.stream(BATCHES, query, Concern::Majority, TOGETHER).await?;
    let (mut open, mut news) = (Vec::new(), false);
    while let Some(row) = rows.next().await? {
        let found = Document::try_from(row).map_err(|_| corrupt("a batch"))?;
        let before = known.get(&BatchId::from_bytes(Fields(&found).id("_id")?));
        let batch = match before {
            Some(before) => decode_with(&found, before.spec.clone())?,
            None => decode(&found)?,
        };
        news |= is_news(before, &batch);
        open.push(batch);
    }
    Ok((open, news))
}

/// Their versions first, and then those that changed.
async fn load_many(commands: &Commands, known: &HashMap<BatchId, Batch>) -> StoreResult<(Vec<Batch>, bool)> {
    let open = doc! { "phase": Phase::Open.number() };
    let query = Query::of(open.clone()).fields(doc! { "ver": 1 }).sort(doc! { "_id": 1 });
    let (mut order, mut changed) = (Vec::new(), Vec::new());
    for found in commands.find(BATCHES, query, Concern::Majority).await? {
        let id = BatchId::from_bytes(Fields(&found).id("_id")?);
        let ver = Fields(&found).uint("ver")?;
        if known.get(&id).is_none_or(|batch| batch.ver != ver) {
            changed.push(binary(*id.as_bytes()));
        }
        order.push((id, ver));
    }
    let (mut fresh, mut news) = (HashMap::new(), false);
    if !changed.is_empty() {
        let mut filter = open;
        filter.insert("_id", doc! { "$in": changed });
        let query = Query::of(filter).fields(batches::all_fields());
        let mut rows = commands.stream(BATCHES, query, Concern::Majority, TOGETHER).await?;
        while let Some(row) = rows.next().await? {
            let batch = decode(&Document::try_from(row).map_err(|_| corrupt("a batch"))?)?;
            news |= is_news(known.get(&batch.id), &batch);
            fresh.insert(batch.id, batch);
        }
    }
    // One that ended between the two looks is not open any more.
    let batch = |(id, ver): &(BatchId, u64)| {
        fresh.remove(id).or_else(|| known.get(id).filter(|batch| batch.ver == *ver).cloned())
    };
    Ok((order.iter().filter_map(batch).collect(), news))
}

impl fmt::Debug for OpenBatches {
    /// Shows nothing of the batches, which hold prompts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenBatches").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use promptmill_domain::{BatchLimits, BatchSpec, LaneId, PauseReason};

    use super::*;

    fn batch(state: BatchState) -> Batch {
        let lane = LaneId::new("demo", "none");
        Batch {
            id: BatchId::from_bytes([1; 16]),
            tenant: promptmill_domain::TenantId::default_tenant(),
            state,
            ver: 1,
            spec: BatchSpec::new("{}".to_owned(), "demo:m".parse().unwrap(), lane),
            limits: BatchLimits::default(),
            total: 1,
            created_ms: 0,
            submitted_ms: None,
            finished_ms: None,
            final_counts: None,
        }
    }

    #[test]
    fn that_a_batch_came_or_was_admitted_is_no_news_and_every_other_change_is() {
        let (queued, running) = (batch(BatchState::Queued), batch(BatchState::Running));
        let paused = batch(BatchState::Paused { reason: PauseReason::Requested });
        let limits = BatchLimits { priority: 9, ..BatchLimits::default() };
        let limited = Batch { limits, ..queued.clone() };
        for (before, now) in [(None, &queued), (Some(&queued), &queued), (Some(&queued), &running)] {
            assert!(!is_news(before, now), "{before:?} {now:?}");
        }
        let news = [
            (None, &running),
            (Some(&queued), &paused),
            (Some(&running), &paused),
            (Some(&paused), &running),
            (Some(&queued), &limited),
        ];
        for (before, now) in news {
            assert!(is_news(before, now), "{before:?} {now:?}");
        }
    }
}
