//! The settler: gathers the ends of items into groups, one write a group, and lets go of chunks that are through.
//!
//! It is the only writer of this worker's heads and has one write under way at a time, so an older byte string can never land
//! after a newer one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::{BatchId, ChunkId, ItemCode, LeaseToken, Release, SettledItem, TenantId, Totals};
use promptmill_ports::{SettleGroup, Settled, Signal, StoreError};
use promptmill_runtime::{Engine, close_batch};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::active::ActiveBatch;
use crate::end::End;
use crate::slots::{Slot, Slots};

/// The longest an end waits for others.
const GROUP_WAIT: Duration = Duration::from_millis(20);

/// Ends in hand at which waiting for more stops; a third of those that may wait without a slot, where that is more.
const GROUP_ENOUGH: usize = 128;

/// The most ends of one write.
const GROUP_MAX: usize = 1024;

/// Bytes of ends in hand at which a write takes no more: it holds all of them twice, and the store's other writes wait for it.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// Pause before a write that failed is repeated.
const RETRY_WRITE: Duration = Duration::from_millis(200);

/// One lease of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LeaseKey {
    pub(crate) chunk: ChunkId,
    pub(crate) token: LeaseToken,
}

/// What the settler is told.
enum Told {
    /// A chunk was leased with this many items to work on; without a batch it is only let go of.
    Leased { key: LeaseKey, items: u32, batch: Option<Arc<ActiveBatch>> },
    /// An item ended.
    Ended { key: LeaseKey, offset: u32, end: End, at: Instant, slot: Slot },
    /// Items of a lease will not be begun.
    Dropped { key: LeaseKey, items: u32 },
}

/// Tells the settler. Cheap to clone; the settler ends when every handle is gone and everything is written.
#[derive(Clone)]
pub(crate) struct SettlerHandle(mpsc::UnboundedSender<Told>);

impl SettlerHandle {
    fn tell(&self, told: Told) {
        // The settler outlives its handles unless the process is being torn down, and then the lease ends with the session.
        let _ = self.0.send(told);
    }

    pub(crate) fn leased(&self, key: LeaseKey, items: u32, batch: Arc<ActiveBatch>) {
        self.tell(Told::Leased { key, items, batch: Some(batch) });
    }

    /// Lets go of a lease nothing of which will be worked on, if there is one.
    pub(crate) fn let_go(&self, key: LeaseKey) {
        self.tell(Told::Leased { key, items: 0, batch: None });
    }

    pub(crate) fn ended(&self, key: LeaseKey, offset: u32, end: End, mut slot: Slot) {
        let at = Instant::now();
        slot.ended(end.bytes(), at);
        self.tell(Told::Ended { key, offset, end, at, slot });
    }

    pub(crate) fn dropped(&self, key: LeaseKey, items: u32) {
        if items > 0 {
            self.tell(Told::Dropped { key, items });
        }
    }
}

/// A lease in hand.
#[derive(Default)]
struct Held {
    batch: Option<Arc<ActiveBatch>>,
    /// Items whose end is not in a group yet.
    remaining: u32,
    /// The last group of the lease.
    seq: u32,
    lane_paused_until_ms: Option<u64>,
}

/// What one write holds for one lease.
#[derive(Default)]
struct Gathered {
    settled: Vec<(SettledItem, bytes::Bytes)>,
    parked: Vec<promptmill_domain::ParkedItem>,
    spent: Totals,
    /// How each settled item ended, and when.
    ends: Vec<(ItemCode, Instant)>,
}

/// The loop's state.
pub(crate) struct Settler {
    engine: Engine,
    told: mpsc::UnboundedReceiver<Told>,
    slots: Arc<Slots>,
    held: HashMap<LeaseKey, Held>,
}

impl Settler {
    pub(crate) fn new(engine: Engine, slots: Arc<Slots>) -> (Self, SettlerHandle) {
        // Unbounded, yet never larger than what may be unsettled plus two words a lease.
        let (handle, told) = mpsc::unbounded_channel();
        (Self { engine, told, slots, held: HashMap::new() }, SettlerHandle(handle))
    }

    /// Runs until every handle is gone and everything told is written.
    pub(crate) async fn run(mut self) {
        let mut inbox = Vec::with_capacity(GROUP_MAX);
        let (tell, told) = mpsc::unbounded_channel();
        let telling = tokio::spawn(tell_of(self.engine.clone(), told));
        while self.gather(&mut inbox).await {
            let (slots, advanced) = self.write(&mut inbox).await;
            drop(slots);
            // It ends only by a panic, and then the sweep and the closing of batches make up for it.
            let _ = tell.send(advanced);
        }
        drop(tell);
        let _ = telling.await;
    }

    /// Fills `inbox` with what is to be written next, at most about [`GROUP_BYTES`]; `false` when nothing will come any more.
    async fn gather(&mut self, inbox: &mut Vec<Told>) -> bool {
        inbox.clear();
        let Some(first) = self.told.recv().await else { return false };
        let (mut bytes, mut ended) = (first.bytes(), first.is_end());
        inbox.push(first);
        // Two groups gather while one of them is being written.
        let enough = GROUP_ENOUGH.max(self.slots.recording() / 3);
        let until = Instant::now() + GROUP_WAIT;
        while bytes < GROUP_BYTES && inbox.len() < GROUP_MAX {
            let told = match self.told.try_recv() {
                Ok(told) => told,
                Err(TryRecvError::Disconnected) => break,
                // When all that is begun and unsettled is in hand, nothing else is in flight.
                Err(TryRecvError::Empty) if inbox.len() < enough && ended < self.slots.unsettled() => {
                    match timeout_at(until, self.told.recv()).await {
                        Ok(Some(told)) => told,
                        Ok(None) | Err(_) => break,
                    }
                }
                Err(TryRecvError::Empty) => break,
            };
            bytes += told.bytes();
            ended += told.is_end();
            inbox.push(told);
        }
        true
    }

    /// Writes what was told, repeating until the store took it; answers the slots that are free now, and the batches that advanced.
    async fn write(&mut self, inbox: &mut Vec<Told>) -> (Vec<Slot>, Advanced) {
        let mut slots = Vec::with_capacity(inbox.len());
        let mut gathered: HashMap<LeaseKey, Gathered> = HashMap::new();
        for told in inbox.drain(..) {
            self.take(told, &mut gathered, &mut slots);
        }
        let mut keys = Vec::with_capacity(gathered.len());
        let mut groups = Vec::with_capacity(gathered.len());
        for (key, mut gathered) in gathered {
            // Bodies that come by their index go to the end of the store's tree.
            gathered.settled.sort_by_key(|(item, _)| item.offset);
            let Some(held) = self.held.get_mut(&key) else {
                continue;
            };
            let release = match (held.remaining, held.lane_paused_until_ms) {
                (0, Some(until_ms)) => Release::ParkUntil(until_ms),
                (0, None) => Release::LetGo,
                _ => Release::Keep,
            };
            if gathered.settled.is_empty() && gathered.parked.is_empty() && release == Release::Keep {
                continue;
            }
            held.seq += 1;
            groups.push(SettleGroup {
                chunk: key.chunk,
                token: key.token,
                settled: gathered.settled,
                parked: gathered.parked,
                seq: held.seq,
                spent: gathered.spent,
                release,
            });
            keys.push((key, release, gathered.ends, gathered.spent.cached));
        }
        let mut advanced = Advanced::new();
        if groups.is_empty() {
            return (slots, advanced);
        }
        self.slots.writing(Some(Instant::now()));
        let results = self.settle(groups.into()).await;
        self.slots.writing(None);
        for ((key, release, ends, cached), result) in keys.into_iter().zip(results) {
            match result {
                Settled::Recorded { done } => {
                    self.count(key, &ends);
                    self.engine.metrics.cached(cached);
                    if done {
                        let of = self.held.get(&key).and_then(|held| held.batch.as_ref());
                        let ended = of.filter(|batch| batch.rows == 1).map(|batch| batch.tenant.clone());
                        advanced.insert(key.chunk.batch, ended);
                    }
                    if done || release != Release::Keep {
                        self.held.remove(&key);
                    }
                }
                Settled::Fenced => {
                    // A repeated write whose first answer was lost looks the same once the lease has ended with it.
                    if release == Release::Keep {
                        tracing::warn!(chunk = %key.chunk, "a lease was lost; what was in hand of it is dropped");
                    }
                    self.held.remove(&key);
                }
            }
        }
        (slots, advanced)
    }

    fn count(&self, key: LeaseKey, ends: &[(ItemCode, Instant)]) {
        for (code, at) in ends {
            self.engine.metrics.item_settled(*code);
            self.engine.metrics.settle_took(at.elapsed());
        }
        if let Some(batch) = self.held.get(&key).and_then(|held| held.batch.as_ref()) {
            batch.settled(ends.len() as u64);
        }
    }

    fn take(&mut self, told: Told, gathered: &mut HashMap<LeaseKey, Gathered>, slots: &mut Vec<Slot>) {
        match told {
            Told::Leased { key, items, batch } => {
                self.held.insert(key, Held { batch, remaining: items, ..Held::default() });
                gathered.entry(key).or_default();
            }
            Told::Dropped { key, items } => {
                if let Some(held) = self.held.get_mut(&key) {
                    held.remaining = held.remaining.saturating_sub(items);
                    gathered.entry(key).or_default();
                }
            }
            Told::Ended { key, offset, end, at, slot } => {
                slots.push(slot);
                // A lease that was lost is no longer held, and its items belong to someone else.
                let Some(held) = self.held.get_mut(&key) else {
                    return;
                };
                held.remaining = held.remaining.saturating_sub(1);
                let group = gathered.entry(key).or_default();
                match end {
                    End::Settled { code, body, spent } => {
                        group.settled.push((SettledItem { offset, code }, body));
                        group.ends.push((code, at));
                        group.spent += spent;
                    }
                    End::Parked { item, spent } => {
                        group.parked.push(*item);
                        group.spent += spent;
                    }
                    End::Untouched { lane_paused_until_ms } => {
                        held.lane_paused_until_ms = held.lane_paused_until_ms.max(lane_paused_until_ms);
                    }
                }
            }
        }
    }

    /// Settles all groups at once; when the store refuses them, one by one, so that a damaged chunk takes no other with it.
    async fn settle(&self, groups: Arc<[SettleGroup]>) -> Vec<Settled> {
        if let Some(results) = self.try_settle(groups.clone()).await {
            return results;
        }
        let mut results = Vec::with_capacity(groups.len());
        for group in &groups[..] {
            let chunk = group.chunk;
            let alone = self.try_settle([group.clone()].into()).await.and_then(|mut alone| alone.pop());
            results.push(alone.unwrap_or_else(|| {
                // Nothing this worker can do makes it right; the chunk goes back with the session, its items run again.
                tracing::error!(chunk = %chunk, "what a chunk came to is dropped");
                Settled::Fenced
            }));
        }
        results
    }

    /// Repeats the write while the store is away; `None` when it refuses.
    async fn try_settle(&self, groups: Arc<[SettleGroup]>) -> Option<Vec<Settled>> {
        loop {
            match self.engine.store.settle(groups.clone(), self.engine.clock.now_ms()).await {
                Ok(results) => return Some(results),
                Err(error @ StoreError::Unavailable(_)) => {
                    tracing::warn!(error = %error, "outcomes could not be stored; trying again");
                    tokio::time::sleep(RETRY_WRITE).await;
                }
                Err(error) => {
                    tracing::error!(error = %error, groups = groups.len(), "the store refuses outcomes");
                    return None;
                }
            }
        }
    }
}

/// Batches of which a chunk is done, with the tenants of those of a single row, which are at their end by that.
type Advanced = HashMap<BatchId, Option<TenantId>>;

/// Has what was recorded put in its order, ends batches of a single row, and tells of the others that advanced. The settler does not wait for
/// it, and the order not for who is told.
async fn tell_of(engine: Engine, mut told: mpsc::UnboundedReceiver<Advanced>) {
    let mut telling = JoinSet::new();
    while let Some(mut advanced) = told.recv().await {
        while let Ok(more) = told.try_recv() {
            advanced.extend(more);
        }
        while let Err(error) = engine.store.order().await {
            if !matches!(error, StoreError::Unavailable(_)) {
                tracing::error!(error = %error, "the order of outcomes cannot be stored before their batches close");
                break;
            }
            tracing::warn!(error = %error, "the order of outcomes could not be stored; trying again");
            tokio::time::sleep(RETRY_WRITE).await;
        }
        while telling.try_join_next().is_some() {}
        for (batch, ended) in advanced {
            telling.spawn(tell(engine.clone(), batch, ended));
        }
    }
    while telling.join_next().await.is_some() {}
}

/// Tells that a chunk is done, and ends its batch where that was all of it. The sweep finds what is not told, and ends what is not ended here.
async fn tell(engine: Engine, batch: BatchId, ended: Option<TenantId>) {
    let end = async {
        let Some(tenant) = ended else { return };
        while let Err(error) = close_batch(&engine, &tenant, batch).await {
            if !matches!(error, StoreError::Unavailable(_)) {
                tracing::warn!(batch.id = %batch, error = %error, "a batch is left to the scheduler to be closed");
                return;
            }
            tokio::time::sleep(RETRY_WRITE).await;
        }
    };
    let ((), _) = tokio::join!(end, engine.signals.publish(Signal::ChunkDone(batch)));
}

impl Told {
    /// 1 for the end of an item, 0 for the rest.
    fn is_end(&self) -> usize {
        usize::from(matches!(self, Self::Ended { .. }))
    }

    /// About how many bytes are written for it.
    fn bytes(&self) -> usize {
        match self {
            Self::Ended { end, .. } => end.bytes(),
            Self::Leased { .. } | Self::Dropped { .. } => 0,
        }
    }
}
