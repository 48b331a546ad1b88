//! The pump: takes hints, claims chunks, and feeds their items to the runtime as slots become free.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::{ChunkId, LeaseToken, SessionId};
use promptmill_pipeline::ItemInput;
use promptmill_ports::Lease;
use promptmill_rowio::{StoredRow, decode_range};
use promptmill_runtime::Engine;
use tokio::sync::{Semaphore, mpsc};

use crate::batches::{ActiveBatch, Batches};
use crate::gate::SessionGate;
use crate::runtime::Job;
use crate::settler::{LeaseKey, SettlerHandle};
use crate::slots::{Room, Slot, Slots};

/// How long the pump waits for a hint before it looks at the gate again.
const HINT_WAIT: Duration = Duration::from_millis(500);

/// Pause after a failure of the hub or the store.
const RETRY: Duration = Duration::from_millis(200);

/// How long a chunk that cannot be run here is kept from coming back.
const GIVEN_UP_FOR: Duration = Duration::from_secs(5);

/// A chunk in hand: the items that were not begun yet.
struct Claimed {
    key: LeaseKey,
    batch: Arc<ActiveBatch>,
    items: VecDeque<Unbegun>,
}

/// An item that was not begun yet, and the room its row takes.
struct Unbegun {
    input: ItemInput,
    room: Room,
}

/// The loop's parts.
pub(crate) struct Pump {
    pub(crate) engine: Engine,
    pub(crate) session: SessionId,
    pub(crate) gate: Arc<SessionGate>,
    pub(crate) batches: Arc<Batches>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) settler: SettlerHandle,
    pub(crate) jobs: mpsc::Sender<Job>,
    /// Held while an item of a quarantined chunk is tried.
    pub(crate) alone: Arc<Semaphore>,
}

impl Pump {
    /// Feeds until the process stops; what was claimed and not begun is let go of.
    pub(crate) async fn run(self) {
        let mut claimed: VecDeque<Claimed> = VecDeque::new();
        // Items of a claimed chunk as of late, so that the pump asks for as many chunks as the free slots need.
        let mut usual_len = 64;
        while !self.gate.stopping().is_cancelled() {
            let unbegun: usize = claimed.iter().map(|chunk| chunk.items.len()).sum();
            let want = self.slots.free().saturating_sub(unbegun);
            if unbegun == 0 || want >= usual_len {
                let rooms = self.make_room(want.div_ceil(usual_len).max(1), unbegun == 0).await;
                let wait = if unbegun == 0 { HINT_WAIT } else { Duration::ZERO };
                let fresh = if rooms.is_empty() { vec![] } else { self.claim(rooms, wait).await };
                if let Some(len) = fresh.iter().map(|chunk| chunk.items.len()).max() {
                    usual_len = len.max(1);
                }
                claimed.extend(fresh);
            }
            self.feed(&mut claimed).await;
        }
        for chunk in claimed {
            self.settler.dropped(chunk.key, len_of(&chunk.items));
        }
    }

    /// Begins items while there are free slots; waits for one slot when there is none.
    async fn feed(&self, claimed: &mut VecDeque<Claimed>) {
        let mut waited = false;
        while let Some(chunk) = claimed.front_mut() {
            if !self.gate.is_open() || !promptmill_pipeline::Gate::is_open(chunk.batch.as_ref()) {
                self.settler.dropped(chunk.key, len_of(&chunk.items));
                claimed.pop_front();
                continue;
            }
            let place = match self.slots.try_place() {
                Some(place) => place,
                None if waited => return,
                None => {
                    waited = true;
                    tokio::select! {
                        place = self.slots.place() => place,
                        () = self.gate.stopping().cancelled() => return,
                    }
                }
            };
            if let Some(Unbegun { input, room }) = chunk.items.pop_front() {
                self.begin(chunk.key, chunk.batch.clone(), input, Slot::new(place, room)).await;
            }
            if chunk.items.is_empty() {
                claimed.pop_front();
            }
        }
    }

    /// Hands an item to the runtime; `false` when that is gone.
    async fn begin(&self, key: LeaseKey, batch: Arc<ActiveBatch>, input: ItemInput, slot: Slot) -> bool {
        // The channel ends only with the runtime, when the whole worker is being torn down.
        self.jobs.send(Job { key, batch, input, slot }).await.is_ok()
    }

    /// Room for up to `chunks` chunks. When there is none now it is waited for only if `must`.
    async fn make_room(&self, chunks: usize, must: bool) -> Vec<Room> {
        let rooms = self.slots.rooms(chunks);
        if !rooms.is_empty() || !must {
            return rooms;
        }
        tokio::select! {
            room = self.slots.room() => vec![room],
            () = self.gate.stopping().cancelled() => vec![],
        }
    }

    /// Claims as many hinted chunks as there are `rooms` and makes their items ready.
    async fn claim(&self, rooms: Vec<Room>, wait: Duration) -> Vec<Claimed> {
        if !self.gate.is_open() {
            // A hint that is taken and not used is lost to the workers that could use it.
            return self.pause().await;
        }
        let hints = tokio::select! {
            hints = self.engine.queue.pop(rooms.len(), wait) => hints,
            () = self.gate.stopping().cancelled() => return vec![],
        };
        let hints = match hints {
            Ok(hints) => hints,
            Err(error) => {
                tracing::warn!(error = %error, "the queue gave no hints");
                return self.pause().await;
            }
        };
        if hints.is_empty() || !self.gate.is_open() {
            return vec![];
        }
        let wanted: Vec<(ChunkId, LeaseToken)> =
            hints.into_iter().map(|chunk| (chunk, LeaseToken::from_bytes(rand::random()))).collect();
        match self.engine.store.claim(self.session, &wanted, self.engine.clock.now_ms()).await {
            Ok(leases) => {
                let mut claimed = Vec::with_capacity(leases.len());
                for (lease, room) in leases.into_iter().zip(rooms) {
                    claimed.extend(self.open(lease, room).await);
                }
                claimed
            }
            Err(error) => {
                tracing::warn!(error = %error, "the store gave no chunks");
                // The leases may exist all the same, and would then stand as long as this session lives: let go of each.
                for (chunk, token) in wanted {
                    self.settler.leased(LeaseKey { chunk, token }, 0);
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
    async fn open(&self, lease: Lease, room: Room) -> Option<Claimed> {
        let key = LeaseKey { chunk: lease.head.chunk, token: lease.token };
        let batch = match self.batches.get(&lease.head.tenant, lease.head.chunk.batch).await {
            Ok(batch) => batch,
            Err(error) => return self.give_up(key, &error),
        };
        let rows = match decode_range(&lease.rows, lease.head.rows.skip as usize, lease.head.len() as usize) {
            Ok(rows) => rows,
            Err(error) => return self.give_up(key, &error),
        };
        let quarantined = lease.head.in_quarantine();
        let items = due_items(lease, rows, room, self.engine.clock.now_ms());
        self.settler.leased(key, len_of(&items));
        let claimed = Claimed { key, batch, items };
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
            settler.leased(key, 0);
        });
        None
    }

    /// Runs the items of a quarantined chunk one at a time, and no item of another quarantined chunk beside them: the death of this
    /// process is held against every item that is being tried, and all but one of them would be innocent.
    async fn run_alone(self, mut chunk: Claimed) {
        while let Some(Unbegun { input, room }) = chunk.items.pop_front() {
            let begun = async {
                let alone = self.alone.clone().acquire_owned().await.expect("the semaphore is never closed");
                let place = self.slots.place().await;
                let now_ms = self.engine.clock.now_ms();
                let mine =
                    self.engine.store.try_item(chunk.key.chunk, chunk.key.token, input.offset, now_ms).await;
                matches!(mine, Ok(true)).then_some((alone, place))
            };
            let begun = tokio::select! {
                begun = begun => begun,
                () = promptmill_pipeline::Gate::closed(chunk.batch.as_ref()) => None,
            };
            let Some((alone, place)) = begun else {
                self.settler.dropped(chunk.key, len_of(&chunk.items) + 1);
                return;
            };
            let (slot, recorded) = Slot::watched(place, room);
            if !self.begin(chunk.key, chunk.batch.clone(), input, slot).await {
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
            alone: self.alone.clone(),
        }
    }
}

/// The items of a lease that may be worked on now, each with its part of the chunk's room.
fn due_items(lease: Lease, rows: Vec<StoredRow>, mut room: Room, now_ms: u64) -> VecDeque<Unbegun> {
    let mut head = lease.head;
    let mut items = VecDeque::new();
    for (row, offset) in rows.into_iter().zip(0..) {
        if !head.is_due(offset, now_ms) {
            continue;
        }
        let parked =
            head.parked.iter().position(|item| item.offset == offset).map(|at| head.parked.swap_remove(at));
        let input = ItemInput {
            index: head.base + offset,
            offset,
            custom_id: row.custom_id,
            variables: row.variables_json,
            parked,
        };
        let room = room.of(&input);
        items.push_back(Unbegun { input, room });
    }
    items
}

fn len_of(items: &VecDeque<Unbegun>) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}
