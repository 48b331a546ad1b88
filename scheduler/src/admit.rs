//! Which waiting chunks may run next: what the store says of each lane, put before the rule of [`fairness`].
//!
//! What is remembered between the steps makes them fair and cheap. A scheduler that begins without it, or beside another one, admits
//! no chunk twice and forgets none; it only counts from then on.
//!
//! [`fairness`]: promptmill_domain::fairness

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use promptmill_domain::chunk::largest_chunk;
use promptmill_domain::fairness::{Applicant, Lane, Turns, urgent_from};
use promptmill_domain::{Batch, BatchId, BatchState, ChunkId, LaneId, TenantId};
use promptmill_ports::StoreResult;
use promptmill_runtime::Engine;
use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::offers::Offers;
use crate::ready::{Ready, before_all};
use crate::waiting::Waiting;

/// Chunks admitted in one step of the store.
const STEP: usize = 500;

/// The priority of hints by batch.
pub(crate) type Ranks = HashMap<BatchId, i16>;

/// Lets chunks run. [`Admitter::begin_step`] first, then [`Admitter::look`], then [`Admitter::admit`].
#[derive(Debug, Default)]
pub(crate) struct Admitter {
    /// The most batches of one tenant that run at the same time.
    most_running: Option<usize>,
    /// Tenants that weigh more than one.
    weights: BTreeMap<TenantId, u32>,
    fleet: Fleet,
    ready: Ready,
    lanes: HashMap<LaneId, Seen>,
    /// Since when nothing of a batch was worked on, Unix milliseconds.
    waits_since: HashMap<BatchId, u64>,
    waiting: Waiting,
    offers: Offers,
}

/// A lane as it was looked at, and whose turn it is there.
#[derive(Debug, Default)]
struct Seen {
    turns: Turns,
    applicants: Vec<Applicant>,
}

impl Admitter {
    pub(crate) fn new(most_running: Option<usize>, weights: BTreeMap<TenantId, u32>) -> Self {
        Self { most_running, weights, ..Self::default() }
    }

    /// A step begins.
    pub(crate) fn begin_step(&mut self) {
        self.ready.begin_step();
    }

    /// Looks at workers and queue while batches that `changed` are still being read; `known` are all others that are open.
    pub(crate) async fn look_ahead(
        &mut self,
        engine: &Engine,
        known: &[Batch],
        changed: &HashSet<BatchId>,
    ) -> StoreResult<()> {
        if !changed.iter().any(|batch| self.waiting.has_some(*batch)) {
            return Ok(());
        }
        let now = Instant::now();
        let ids = known.iter().map(|batch| batch.id).chain(changed.iter().copied());
        let ready = self.ready.look(engine, before_all(ids), &self.offers, now);
        let (fleet, ready) = tokio::join!(self.fleet.look(engine, now), ready);
        fleet.and(ready)
    }

    /// Looks at workers, queue and batches, and answers the priority that hints of each batch have now.
    pub(crate) async fn look(&mut self, engine: &Engine, batches: &[Batch]) -> StoreResult<Ranks> {
        let now = Instant::now();
        // Where no chunk waits there is nothing to be let in, however much room there is.
        let may_wait = batches.iter().any(|batch| batch.state.may_begin() && self.waiting.has_some(batch.id));
        let after = before_all(batches.iter().map(|batch| batch.id));
        let ready =
            async { if may_wait { self.ready.look(engine, after, &self.offers, now).await } else { Ok(()) } };
        let (fleet, ready) = tokio::join!(self.fleet.look(engine, now), ready);
        fleet.and(ready)?;
        let now_ms = engine.clock.now_ms();
        self.note_who_waits(batches, now_ms);
        for seen in self.lanes.values_mut() {
            seen.applicants.clear();
        }
        for batch in self.candidates(batches, now_ms) {
            let applicant = self.applicant(batch);
            self.lanes.entry(batch.spec.lane.clone()).or_default().applicants.push(applicant);
        }
        self.lanes.retain(|_, seen| !seen.applicants.is_empty());
        let mut ranks = HashMap::new();
        for Seen { turns, applicants } in self.lanes.values_mut() {
            let of_lane = turns.ranks(Lane { slots: self.fleet.slots(), now_ms, applicants });
            ranks.extend(applicants.iter().map(|of| of.batch).zip(of_lane));
        }
        Ok(ranks)
    }

    fn note_who_waits(&mut self, batches: &[Batch], now_ms: u64) {
        let open: HashSet<BatchId> = batches.iter().map(|batch| batch.id).collect();
        self.waits_since.retain(|batch, _| open.contains(batch));
        self.waiting.keep(&open);
        self.offers.keep(&open);
        for batch in batches {
            if !batch.state.may_begin() {
                // A chunk of it that was hinted and not admitted is refused meanwhile, and then waits still.
                self.waiting.forget(batch.id);
            }
            let begun = match batch.state {
                BatchState::Queued => batch.submitted_ms.unwrap_or(now_ms),
                _ => now_ms,
            };
            let since = self.waits_since.entry(batch.id).or_insert(begun);
            // A batch that stands still waits for whoever resumes it, and not for its turn.
            if self.fleet.of(batch.id).worked_on || !batch.state.may_begin() {
                *since = now_ms;
            }
        }
    }

    fn applicant(&self, batch: &Batch) -> Applicant {
        let in_hand = self.fleet.of(batch.id);
        let most = largest_chunk(batch.total, batch.spec.chunk_rows);
        Applicant {
            batch: batch.id,
            tenant: batch.tenant.clone(),
            weight: self.weights.get(&batch.tenant).copied().unwrap_or(1),
            priority: batch.limits.priority,
            waits_since_ms: self.waits_since.get(&batch.id).copied().unwrap_or(u64::MAX),
            urgent_from_ms: batch
                .submitted_ms
                .zip(batch.limits.deadline_ms)
                .map(|(submitted_ms, deadline_ms)| urgent_from(submitted_ms, deadline_ms)),
            leased: in_hand.items,
            waiting: if self.waiting.has_some(batch.id) { u32::MAX } else { 0 },
            queued: self.ready.of(batch.id),
            // Of long rows fewer are stored together; whoever has some of them in hand knows.
            chunk_items: if in_hand.chunk_items > 0 { in_hand.chunk_items.min(most) } else { most },
            max_concurrency: batch.limits.max_concurrency,
        }
    }

    /// The batches that may be served, oldest first: those that run, and as many queued ones of each tenant as may run beside them, by
    /// priority and then by age.
    fn candidates<'a>(&self, batches: &'a [Batch], now_ms: u64) -> Vec<&'a Batch> {
        let mut serving: Vec<&Batch> = batches.iter().filter(|batch| batch.state.may_begin()).collect();
        let Some(most) = self.most_running else { return serving };
        let offered = self.offers.batches();
        let runs = |batch: &Batch| batch.state == BatchState::Running || offered.contains(&batch.id);
        let mut running: HashMap<&TenantId, usize> = HashMap::new();
        for batch in serving.iter().filter(|batch| runs(batch)) {
            *running.entry(&batch.tenant).or_default() += 1;
        }
        let mut queued: Vec<&Batch> = serving.iter().copied().filter(|batch| !runs(batch)).collect();
        queued.sort_by_key(|batch| Reverse(self.applicant(batch).effective_priority(now_ms)));
        let mut begin = HashSet::new();
        for batch in queued {
            let running = running.entry(&batch.tenant).or_default();
            if *running < most {
                *running += 1;
                begin.insert(batch.id);
            }
        }
        serving.retain(|batch| runs(batch) || begin.contains(&batch.id));
        serving
    }

    /// Forgets which chunks wait: while another scheduler leads they change.
    pub(crate) fn forget(&mut self) {
        self.waiting.forget_all();
        self.offers.clear();
    }

    /// When something is to be done though nothing happens.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.offers.next_due()
    }

    /// Whether it was not looked yet for chunks of the batch that wait.
    pub(crate) fn is_unsure(&self, batch: BatchId) -> bool {
        self.waiting.is_unsure(batch)
    }

    /// Whether chunks wait for room that an older count did not show.
    pub(crate) fn looks_again(&self) -> bool {
        self.ready.looks_again()
    }

    /// Whether chunks of the batch may wait.
    pub(crate) fn waits(&self, batch: BatchId) -> bool {
        self.waiting.has_some(batch)
    }

    /// Lets as many chunks run as the rule allows: hints them, and admits them before unless they are single rows, which follow soon
    /// ([`Admitter::follow_up`]). Answers the batches that were let run with them.
    pub(crate) async fn admit(
        &mut self,
        engine: &Engine,
        batches: &[Batch],
    ) -> StoreResult<HashSet<BatchId>> {
        let known: HashMap<BatchId, &Batch> = batches.iter().map(|batch| (batch.id, batch)).collect();
        let slots = self.fleet.slots();
        let mut begun = HashSet::new();
        self.ready.trust();
        for seen in self.lanes.values_mut() {
            let now_ms = engine.clock.now_ms();
            let chosen = choose(engine, seen, &mut self.waiting, slots, now_ms, &known).await;
            // What was taken out and is not admitted waits still: its batch may have been paused just now, or the store be away.
            let chosen = chosen.inspect_err(|_| self.waiting.forget_all())?;
            let is_lone = |chunk: &ChunkId| known.get(&chunk.batch).is_some_and(|batch| batch.total == 1);
            let (mut moved, chosen): (Vec<_>, Vec<_>) = chosen.into_iter().partition(is_lone);
            self.offers.add(&moved, Instant::now());
            let mut admitted = HashSet::with_capacity(chosen.len());
            for chunks in chosen.chunks(STEP) {
                let some = engine.store.admit(chunks, now_ms).await;
                admitted.extend(some.inspect_err(|_| self.waiting.forget_all())?);
            }
            for chunk in chosen {
                match admitted.contains(&chunk) {
                    true => moved.push(chunk),
                    false => self.waiting.forget(chunk.batch),
                }
            }
            begun.extend(moved.iter().map(|chunk| chunk.batch));
            self.ready.add(&moved);
            if seen.applicants.iter().any(|of| of.waiting > 0) {
                self.ready.doubt();
            }
            hint(engine, seen, slots, now_ms, moved).await;
        }
        Ok(begun)
    }

    /// Admits what was hinted before and is not done: its batch runs then for everybody to see, and a hint that was lost comes again. Answers those
    /// that waited still, which are to be hinted again.
    pub(crate) async fn follow_up(&mut self, engine: &Engine) -> StoreResult<Vec<ChunkId>> {
        let due = self.offers.take_due(Instant::now(), |batch| self.fleet.of(batch).worked_on);
        if due.is_empty() {
            return Ok(due);
        }
        let mut moved = Vec::new();
        for some in due.chunks(STEP) {
            let admitted = engine.store.admit(some, engine.clock.now_ms()).await?;
            admitted.iter().for_each(|chunk| self.offers.remove(*chunk));
            moved.extend(admitted);
        }
        Ok(moved)
    }
}

/// Chooses chunks of a lane until the rule grants no more. How many chunks of a batch wait is known only when they are asked for, and
/// what one batch does not have is for the others.
async fn choose(
    engine: &Engine,
    seen: &mut Seen,
    waiting: &mut Waiting,
    slots: u64,
    now_ms: u64,
    known: &HashMap<BatchId, &Batch>,
) -> StoreResult<Vec<ChunkId>> {
    let mut chosen = Vec::new();
    loop {
        let grants = seen.turns.admit(Lane { slots, now_ms, applicants: &seen.applicants });
        if grants.is_empty() {
            return Ok(chosen);
        }
        let mut granted: HashMap<BatchId, u32> = HashMap::new();
        for grant in &grants {
            *granted.entry(grant.batch).or_default() += grant.chunks;
        }
        let mut fresh = HashMap::new();
        for applicant in &mut seen.applicants {
            let Some(chunks) = granted.get(&applicant.batch).copied() else { continue };
            let taken = match known.get(&applicant.batch) {
                Some(batch) => waiting.take(engine, batch, chunks).await?,
                None => vec![],
            };
            let found = u32::try_from(taken.len()).unwrap_or(u32::MAX);
            if found < chunks || !waiting.has_some(applicant.batch) {
                applicant.waiting = 0;
            }
            applicant.queued += found;
            seen.turns.took(applicant, found);
            fresh.insert(applicant.batch, taken.into_iter());
        }
        for grant in grants {
            let fresh = fresh.get_mut(&grant.batch).into_iter().flatten();
            chosen.extend(fresh.take(grant.chunks as usize));
        }
    }
}

/// Queues the hints of chunks that were just let in.
async fn hint(engine: &Engine, seen: &mut Seen, slots: u64, now_ms: u64, chunks: Vec<ChunkId>) {
    let ranks = seen.turns.ranks(Lane { slots, now_ms, applicants: &seen.applicants });
    let ranks: Ranks = seen.applicants.iter().map(|of| of.batch).zip(ranks).collect();
    let rank = |chunk: &ChunkId| ranks.get(&chunk.batch).copied().unwrap_or(0);
    let hints: Vec<_> = chunks.into_iter().map(|chunk| (chunk, rank(&chunk))).collect();
    if hints.is_empty() {
        return;
    }
    if let Err(error) = engine.queue.push(&hints).await {
        // The sweep hints what is ready in the store again, the follow-up what is not.
        tracing::warn!(error = %error, "hints could not be queued");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use promptmill_domain::{BatchLimits, BatchSpec};

    fn batch(n: u8, tenant: &str, state: BatchState, priority: i16) -> Batch {
        let lane = LaneId::new("demo", "none");
        Batch {
            id: BatchId::from_bytes([n; 16]),
            tenant: tenant.parse().unwrap(),
            state,
            ver: 1,
            spec: BatchSpec::new("{}".to_owned(), "demo:m".parse().unwrap(), lane),
            limits: BatchLimits { priority, ..BatchLimits::default() },
            total: 1,
            created_ms: 0,
            submitted_ms: None,
            finished_ms: None,
            final_counts: None,
        }
    }

    #[test]
    fn beside_the_running_batches_of_a_tenant_the_most_urgent_queued_ones_may_run() {
        let (running, queued) = (BatchState::Running, BatchState::Queued);
        let batches = [
            batch(1, "a", queued.clone(), 0),
            batch(2, "a", running.clone(), -5),
            batch(3, "a", queued.clone(), 7),
            batch(4, "a", queued.clone(), 7),
            batch(5, "b", queued, 0),
            batch(6, "c", BatchState::Cancelling, 9),
            batch(7, "c", running.clone(), 0),
            batch(8, "c", running, 0),
        ];
        let ids = |most| -> Vec<u8> {
            let admitter = Admitter::new(most, BTreeMap::new());
            admitter.candidates(&batches, 0).iter().map(|batch| batch.id.as_bytes()[0]).collect()
        };
        assert_eq!(ids(Some(2)), [2, 3, 5, 7, 8]);
        assert_eq!(ids(Some(1)), [2, 5, 7, 8], "what runs already goes on");
        assert_eq!(ids(None), [1, 2, 3, 4, 5, 7, 8]);
    }

    #[test]
    fn a_single_row_that_was_hinted_runs_though_the_store_calls_it_queued() {
        let batches = [batch(1, "a", BatchState::Queued, 0), batch(2, "a", BatchState::Queued, 9)];
        let mut admitter = Admitter::new(Some(1), BTreeMap::new());
        admitter.offers.add(&[ChunkId { batch: batches[0].id, n: 0 }], Instant::now());
        let ids: Vec<u8> =
            admitter.candidates(&batches, 0).iter().map(|batch| batch.id.as_bytes()[0]).collect();
        assert_eq!(ids, [1]);
    }

    #[test]
    fn a_queued_batch_that_waited_for_long_comes_before_urgent_ones_that_came_later() {
        let batches = [batch(1, "a", BatchState::Queued, -100), batch(2, "a", BatchState::Queued, 99)];
        let mut admitter = Admitter::new(Some(1), BTreeMap::new());
        for (now_ms, first) in [(1_000, 2), (100_000, 2), (200_000, 1)] {
            admitter.note_who_waits(&batches[..1], now_ms);
            admitter.waits_since.insert(batches[1].id, now_ms);
            let ids: Vec<u8> =
                admitter.candidates(&batches, now_ms).iter().map(|batch| batch.id.as_bytes()[0]).collect();
            assert_eq!(ids, [first], "at {now_ms} ms");
        }
    }
}
