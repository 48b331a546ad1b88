//! The pump: takes hints, claims chunks, and feeds their items to the runtime as slots become free.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::{ChunkId, Head, LeaseToken, SessionId};
use promptmill_pipeline::{Gate as _, ItemContent, ItemInput};
use promptmill_ports::Lease;
use promptmill_rowio::{CorruptBlock, RowContent, StoredRow, decode_range};
use promptmill_runtime::Engine;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::active::ActiveBatch;
use crate::batches::{Batches, Loaded};
use crate::gate::SessionGate;
use crate::hints::{FEW_IN_HAND, HINTS_AT_A_TIME, Look};
use crate::runtime::Job;
use crate::settler::{LeaseKey, SettlerHandle};
use crate::slots::{Room, Slots};
use crate::stock::{Claimed, Stock, Unbegun};

/// How long the pump waits for a hint before it looks at the gate again.
const HINT_WAIT: Duration = Duration::from_millis(500);

/// How long after a look at the queue that brought nothing the pump, which has work in hand that must wait, looks again if it is not told of any
/// before.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Pause after a failure of the hub or the store.
const RETRY: Duration = Duration::from_millis(200);

/// How long a chunk that cannot be run here is kept from coming back.
const GIVEN_UP_FOR: Duration = Duration::from_secs(5);

/// The loop's parts.
pub(crate) struct Pump {
    pub(crate) engine: Engine,
    pub(crate) session: SessionId,
    pub(crate) gate: Arc<SessionGate>,
    pub(crate) batches: Arc<Batches>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) settler: SettlerHandle,
    pub(crate) jobs: mpsc::Sender<Job>,
    /// Told when hints of batches that had none were queued.
    pub(crate) queued: Arc<Notify>,
    /// Held while an item of a quarantined chunk is tried.
    pub(crate) alone: Arc<Semaphore>,
}

impl Pump {
    /// Feeds until the process stops; what was claimed and not begun is let go of.
    pub(crate) async fn run(self) {
        let mut stock = Stock::default();
        // Items of a claimed chunk as of late, so that the pump takes about as many hints as the free slots need.
        let mut usual_len = FEW_IN_HAND;
        let mut look_at = Instant::now();
        while !self.gate.stopping().is_cancelled() {
            for chunk in stock.take_closed() {
                self.settler.dropped(chunk.key, chunk.len());
            }
            self.begin_all(&mut stock).await;
            // What is in hand now waits for slots, or for limits of its own: other batches may still use the slots that are free.
            let free = self.slots.free();
            let idle = stock.is_empty();
            let rooms = if free > 0 && (idle || Instant::now() >= look_at) {
                self.slots.rooms(HINTS_AT_A_TIME)
            } else {
                vec![]
            };
            if rooms.is_empty() {
                let now = Instant::now();
                let look_again = match free > 0 && !idle {
                    true if look_at > now => look_at,
                    // There is no room for rows.
                    true => now + LOOK_EVERY,
                    false => now + HINT_WAIT,
                };
                tokio::select! {
                    () = self.slots.changed() => {}
                    () = sleep_until(look_again) => {}
                    () = self.queued.notified() => look_at = Instant::now(),
                    () = self.gate.stopping().cancelled() => {}
                }
                continue;
            }
            let look = match idle {
                true => Look { first: free.div_ceil(usual_len), usual_len, wait: HINT_WAIT },
                false => Look { first: HINTS_AT_A_TIME, usual_len, wait: Duration::ZERO },
            };
            let fresh = self.claim(&stock, rooms, look).await;
            match fresh.iter().map(|chunk| chunk.items.len()).max() {
                Some(len) => usual_len = len.max(1),
                None => look_at = Instant::now() + LOOK_EVERY,
            }
            for chunk in fresh {
                stock.add(chunk);
            }
        }
        for chunk in stock.take_all() {
            self.settler.dropped(chunk.key, chunk.len());
        }
    }

    /// Begins every item there is a slot for and whose batch may begin one.
    async fn begin_all(&self, stock: &mut Stock) {
        while self.slots.may_begin()
            && let Some(place) = self.slots.try_place()
        {
            let next = stock.next(|batch| batch.may_begin() && self.slots.has_one_for(batch.slots_held()));
            let Some((key, batch, item)) = next else { return };
            if !self.hand_over(self.job(key, &batch, item, place)).await {
                return;
            }
        }
    }

    /// An item that begins.
    fn job(
        &self,
        key: LeaseKey,
        batch: &Arc<ActiveBatch>,
        item: Unbegun,
        place: OwnedSemaphorePermit,
    ) -> Job {
        let (begun, running) = batch.begin();
        let slot = self.slots.slot(place, item.room, begun);
        Job { key, batch: batch.clone(), input: item.input, running, slot }
    }

    /// Hands an item to the runtime; `false` when that is gone.
    async fn hand_over(&self, job: Job) -> bool {
        // The channel ends only with the runtime, when the whole worker is being torn down.
        self.jobs.send(job).await.is_ok()
    }

    /// Claims hinted chunks, as many as are of use and there are `rooms` for, and makes their items ready.
    async fn claim(&self, stock: &Stock, rooms: Vec<Room>, look: Look) -> Vec<Claimed> {
        if !self.gate.is_open() {
            // A hint that is taken and not used is lost to the workers that could use it.
            return self.pause().await;
        }
        let hints = match self.hints(stock, rooms.len(), look).await {
            Ok(hints) => hints,
            Err(error) => {
                tracing::warn!(error = %error, "the queue gave no hints");
                return self.pause().await;
            }
        };
        if hints.wanted.is_empty() || !self.gate.is_open() {
            return vec![];
        }
        let wanted: Vec<(ChunkId, LeaseToken)> = hints
            .wanted
            .into_iter()
            .map(|(chunk, _)| (chunk, LeaseToken::from_bytes(rand::random())))
            .collect();
        let since = self.batches.told();
        match self.engine.store.claim(self.session, &wanted, self.engine.clock.now_ms()).await {
            Ok(mut leases) => {
                let mut batches = hints.batches;
                let ids = leases.iter().map(|lease| lease.head.chunk.batch);
                let ids = ids.filter(|batch| !batches.contains_key(batch)).collect();
                let read = leases.iter_mut().filter_map(|lease| lease.batch.take()).collect();
                batches.extend(self.batches.get(&ids, read, since).await);
                let of_batch = |lease: Lease| Some((batches.get(&lease.head.chunk.batch)?, lease));
                let opened = leases.into_iter().filter_map(of_batch).zip(rooms);
                opened.filter_map(|((batch, lease), room)| self.open(batch, lease, room)).collect()
            }
            Err(error) => {
                tracing::warn!(error = %error, "the store gave no chunks");
                // The leases may exist all the same, and would then stand as long as this session lives: let go of each.
                for (chunk, token) in wanted {
                    self.settler.let_go(LeaseKey { chunk, token });
                }
                self.pause().await
            }
        }
    }

    async fn pause(&self) -> Vec<Claimed> {
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = self.gate.stopping().cancelled() => {}
        }
        vec![]
    }

    /// Makes the items of a lease ready; a quarantined chunk runs beside the pump, one item at a time.
    fn open(&self, batch: &Loaded, lease: Lease, room: Room) -> Option<Claimed> {
        let key = LeaseKey { chunk: lease.head.chunk, token: lease.token };
        let batch = match batch {
            Ok(batch) => batch.clone(),
            Err(error) => return self.give_up(key, error.as_ref()),
        };
        let quarantined = lease.head.in_quarantine();
        let rows = rows_of(&lease);
        batch.claimed(lease.head.len());
        let items = due_items(lease.head, rows, room, self.engine.clock.now_ms());
        let claimed = Claimed { key, batch, items };
        self.settler.leased(key, claimed.len(), claimed.batch.clone());
        if quarantined {
            tracing::warn!(chunk = %key.chunk, "two workers died over this chunk; it runs one item at a time");
            tokio::spawn(self.clone().run_alone(claimed));
            return None;
        }
        Some(claimed)
    }

    /// Lets go of a chunk that this worker cannot run. It stays leased to the session for a while, so that it does not come
    /// straight back.
    fn give_up(&self, key: LeaseKey, error: &(dyn std::error::Error + 'static)) -> Option<Claimed> {
        tracing::error!(chunk = %key.chunk, error = %error, "a chunk cannot be run here");
        let (settler, stopping) = (self.settler.clone(), self.gate.stopping().clone());
        tokio::spawn(async move {
            let _ = tokio::time::timeout(GIVEN_UP_FOR, stopping.cancelled()).await;
            settler.let_go(key);
        });
        None
    }

    /// Runs the items of a quarantined chunk one at a time, and no item of another quarantined chunk beside them: the death of this
    /// process is held against every item that is being tried, and all but one of them would be innocent.
    async fn run_alone(self, mut chunk: Claimed) {
        while let Some(item) = chunk.items.pop_front() {
            let offset = item.input.offset;
            let begun = async {
                let alone = self.alone.clone().acquire_owned().await.expect("the semaphore is never closed");
                let place = self.slots.place().await;
                let now_ms = self.engine.clock.now_ms();
                let mine = self.engine.store.try_item(chunk.key.chunk, chunk.key.token, offset, now_ms).await;
                matches!(mine, Ok(true)).then_some((alone, place))
            };
            let begun = tokio::select! {
                begun = begun => begun,
                () = chunk.batch.closed() => None,
            };
            let Some((alone, place)) = begun else {
                self.settler.dropped(chunk.key, chunk.len() + 1);
                return;
            };
            let job = self.job(chunk.key, &chunk.batch, item, place);
            let (slot, recorded) = job.slot.watched();
            if !self.hand_over(Job { slot, ..job }).await {
                return;
            }
            // Until it is recorded the head still says that this item is being tried.
            let _ = recorded.await;
            drop(alone);
        }
    }
}

impl Clone for Pump {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            session: self.session,
            gate: self.gate.clone(),
            batches: self.batches.clone(),
            slots: self.slots.clone(),
            settler: self.settler.clone(),
            jobs: self.jobs.clone(),
            queued: self.queued.clone(),
            alone: self.alone.clone(),
        }
    }
}

/// The id and content of every row of the chunk. Trying again would not mend a damaged one, so its item is to fail with it.
fn rows_of(lease: &Lease) -> Vec<(Option<String>, ItemContent)> {
    let damaged = |error: &CorruptBlock| {
        tracing::error!(chunk = %lease.head.chunk, error = %error, "stored rows cannot be read; their items fail");
        ItemContent::Damaged
    };
    let of_row = |row: StoredRow| {
        let content = match row.content {
            RowContent::Variables(json) => ItemContent::Variables(json),
            RowContent::Messages(json) => {
                RowContent::read_messages(&json).map_or_else(|error| damaged(&error), ItemContent::Messages)
            }
        };
        (row.custom_id, content)
    };
    let len = lease.head.len() as usize;
    match decode_range(&lease.rows, lease.head.rows.skip as usize, len) {
        Ok(rows) => rows.into_iter().map(of_row).collect(),
        Err(error) => {
            let content = damaged(&error);
            std::iter::repeat_n((None, content), len).collect()
        }
    }
}

/// The items of a chunk that may be worked on now, each with its part of the chunk's room.
fn due_items(
    mut head: Head,
    rows: Vec<(Option<String>, ItemContent)>,
    mut room: Room,
    now_ms: u64,
) -> VecDeque<Unbegun> {
    let mut items = VecDeque::new();
    for ((custom_id, content), offset) in rows.into_iter().zip(0..) {
        if !head.is_due(offset, now_ms) {
            continue;
        }
        let parked =
            head.parked.iter().position(|item| item.offset == offset).map(|at| head.parked.swap_remove(at));
        let input = ItemInput { index: head.base + offset, offset, custom_id, content, parked, deltas: None };
        let room = room.of(&input);
        items.push_back(Unbegun { input, room });
    }
    items
}
