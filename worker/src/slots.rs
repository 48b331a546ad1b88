//! What bounds the work in hand: slots for items that are begun and unsettled, and room for the bytes of their rows.
//!
//! Slots alone would let a few hundred rows of a mebibyte each into memory. Room is set aside before a chunk is claimed and goes
//! with its items until they are settled, so rows that were claimed and not begun count as well.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use promptmill_domain::chunk::{MAX_BLOCK_BYTES, MAX_CHUNK_ROWS};
use promptmill_pipeline::ItemInput;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::active::Begun;

/// Room for items whose end is being recorded, beside those that call: with less, every slot would stand in the settler while
/// nothing calls.
const SETTLING_ROOM: usize = 256;

/// A batch holds at most this many times the slots that are free then, so that one alone leaves a fifth of them to a batch that
/// comes later, however slow its calls are.
const SHARE_OF_FREE: usize = 4;

/// Bytes of rows in hand at the same time.
const ROW_BYTES: usize = 64 * 1024 * 1024;

/// About what an item takes beside its row.
const ITEM_BYTES: usize = 512;

/// The most bytes one chunk is expected to bring. A chunk of one larger row brings more and is let in all the same.
const CHUNK_BYTES: u32 = MAX_BLOCK_BYTES as u32 + MAX_CHUNK_ROWS * ITEM_BYTES as u32;

/// Bytes of outcomes that wait to be recorded, from which on nothing more begins: replies may be large, and a full disk keeps them here.
const UNRECORDED_BYTES: usize = 64 * 1024 * 1024;

/// A write of outcomes that has been under way for so long says that the store is slow or away: what ends then keeps its slot, so that
/// little would have to be called again if this process died as well.
const SLOW_WRITE: Duration = Duration::from_millis(100);

/// The slots of a worker.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    count: usize,
    recording: Arc<Recording>,
    room: Arc<Semaphore>,
    unrecorded: Arc<AtomicUsize>,
    changed: Arc<Notify>,
}

/// The slot of one begun item, with the room of its row.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Among the slots, or among the ends that are recorded without one.
    place: OwnedSemaphorePermit,
    /// As long as it has a slot.
    of_batch: Option<Begun>,
    recording: Arc<Recording>,
    _room: Room,
    outcome: OutcomeBytes,
    /// Its receiver ends with the slot, which is when the item's end is recorded.
    _watched: Option<oneshot::Sender<Never>>,
    /// Dropped last: the pump finds all of the above given back.
    wake: Wake,
}

/// Ends that wait to be recorded, or are being written, and gave their slot back.
#[derive(Debug)]
struct Recording {
    free: Arc<Semaphore>,
    count: usize,
    /// The most that were taken at the same time since it was asked last.
    most: AtomicUsize,
    /// Since when outcomes are being written, if they are.
    writing: Mutex<Option<Instant>>,
}

impl Recording {
    fn taken(&self) -> usize {
        self.count - self.free.available_permits()
    }

    /// A place, if one is free and the store is not slow.
    fn try_place(&self, now: Instant) -> Option<OwnedSemaphorePermit> {
        let since = *self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_some_and(|since| now.duration_since(since) > SLOW_WRITE) {
            return None;
        }
        let place = self.free.clone().try_acquire_owned().ok()?;
        self.most.fetch_max(self.taken(), Ordering::AcqRel);
        Some(place)
    }
}

/// Wakes the pump when dropped.
#[derive(Debug)]
struct Wake(Arc<Notify>);

impl Drop for Wake {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// The bytes of an item's outcome, counted until they are recorded.
#[derive(Debug)]
struct OutcomeBytes {
    bytes: usize,
    unrecorded: Arc<AtomicUsize>,
}

impl Drop for OutcomeBytes {
    fn drop(&mut self) {
        self.unrecorded.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// What is never sent.
#[derive(Debug)]
pub(crate) enum Never {}

/// Room for the rows of one chunk, or for one of them.
#[derive(Debug)]
pub(crate) struct Room(OwnedSemaphorePermit);

impl Slots {
    /// Slots for a worker that makes so many calls at the same time, and in which so many more ends may wait to be recorded. `changed` is told
    /// when a slot is given back.
    pub(crate) fn new(concurrency: usize, recording: usize, changed: Arc<Notify>) -> Self {
        let count = (concurrency.max(1) + SETTLING_ROOM).div_ceil(SHARE_OF_FREE) * (SHARE_OF_FREE + 1);
        Self {
            free: Arc::new(Semaphore::new(count)),
            count,
            recording: Arc::new(Recording {
                free: Arc::new(Semaphore::new(recording)),
                count: recording,
                most: AtomicUsize::new(0),
                writing: Mutex::default(),
            }),
            room: Arc::new(Semaphore::new(ROW_BYTES)),
            unrecorded: Arc::default(),
            changed,
        }
    }

    /// All slots, free or not.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Slots that nobody holds.
    pub(crate) fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// Items that are begun and unsettled.
    pub(crate) fn unsettled(&self) -> usize {
        self.count.saturating_sub(self.free()) + self.recording.taken()
    }

    /// Items that are of use in hand: as many as there are slots, and as many more as waited to be recorded without one since this was asked last.
    /// Where calls are slow these are none, and work that is let in ahead of others would only stand in their way.
    pub(crate) fn in_use(&self) -> usize {
        self.count + self.recording.most.swap(self.recording.taken(), Ordering::AcqRel)
    }

    /// Ends that may wait to be recorded without a slot.
    pub(crate) fn recording(&self) -> usize {
        self.recording.count
    }

    /// Outcomes are being written since then, or are no more.
    pub(crate) fn writing(&self, since: Option<Instant>) {
        *self.recording.writing.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Whether a batch that holds so many slots may have one more.
    pub(crate) fn has_one_for(&self, held: u32) -> bool {
        (held as usize) < self.free() * SHARE_OF_FREE
    }

    /// Whether what waits to be recorded is little enough for more to begin.
    pub(crate) fn may_begin(&self) -> bool {
        self.unrecorded.load(Ordering::Acquire) < UNRECORDED_BYTES
    }

    /// Waits until a slot was given back, or something else that the pump must look at changed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// A place, if one is free now.
    pub(crate) fn try_place(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_owned().ok()
    }

    /// Waits for a free place.
    pub(crate) async fn place(&self) -> OwnedSemaphorePermit {
        self.free.clone().acquire_owned().await.expect("the semaphore of slots is never closed")
    }

    /// Room for as many of `chunks` chunks as there is now.
    pub(crate) fn rooms(&self, chunks: usize) -> Vec<Room> {
        let one = || self.room.clone().try_acquire_many_owned(CHUNK_BYTES).ok().map(Room);
        std::iter::from_fn(one).take(chunks).collect()
    }

    /// The slot of an item that begins.
    pub(crate) fn slot(&self, place: OwnedSemaphorePermit, room: Room, of_batch: Begun) -> Slot {
        Slot {
            place,
            of_batch: Some(of_batch),
            recording: self.recording.clone(),
            _room: room,
            outcome: OutcomeBytes { bytes: 0, unrecorded: self.unrecorded.clone() },
            _watched: None,
            wake: Wake(self.changed.clone()),
        }
    }
}

impl Slot {
    /// Notes that the item has come to its end, and how many bytes that takes. It gives its slot back where it may be recorded without one.
    pub(crate) fn ended(&mut self, bytes: usize, now: Instant) {
        self.outcome.bytes += bytes;
        self.outcome.unrecorded.fetch_add(bytes, Ordering::AcqRel);
        if let Some(place) = self.recording.try_place(now) {
            self.place = place;
            self.of_batch = None;
            self.wake.0.notify_one();
        }
    }

    /// The same slot, and a receiver that ends when it is given back.
    pub(crate) fn watched(mut self) -> (Self, oneshot::Receiver<Never>) {
        let (watched, given_back) = oneshot::channel();
        self._watched = Some(watched);
        (self, given_back)
    }
}

impl Room {
    /// Takes the room of one item out of its chunk's; what is left when the chunk brought more than was set aside.
    pub(crate) fn of(&mut self, input: &ItemInput) -> Self {
        let bytes = (input.content.bytes() + ITEM_BYTES).min(self.0.num_permits());
        Self(self.0.split(bytes).expect("no more is split off than there is"))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use promptmill_pipeline::ItemContent;

    use super::*;

    fn slots() -> Slots {
        Slots::new(1, 0, Arc::default())
    }

    fn item(bytes: usize) -> ItemInput {
        let content = ItemContent::Variables("x".repeat(bytes));
        ItemInput { index: 0, offset: 0, custom_id: None, content, parked: None, deltas: None }
    }

    #[test]
    fn room_is_set_aside_by_the_chunk_and_held_by_the_row() {
        let slots = slots();
        let mut rooms = slots.rooms(1_000);
        assert_eq!(rooms.len(), ROW_BYTES / CHUNK_BYTES as usize);
        assert!(slots.rooms(1).is_empty());
        let row = rooms[0].of(&item(1_000_000));
        assert_eq!(row.0.num_permits(), 1_000_000 + ITEM_BYTES);
        rooms.clear();
        assert_eq!(slots.room.available_permits(), ROW_BYTES - row.0.num_permits());
        drop(row);
        assert_eq!(slots.room.available_permits(), ROW_BYTES);
    }

    #[test]
    fn a_row_larger_than_a_chunk_should_be_is_let_in() {
        let slots = slots();
        let mut room = slots.rooms(1).remove(0);
        let large = room.of(&item(CHUNK_BYTES as usize * 2));
        assert_eq!(large.0.num_permits(), CHUNK_BYTES as usize);
        assert_eq!(room.of(&item(10)).0.num_permits(), 0);
    }

    #[test]
    fn large_outcomes_that_wait_to_be_recorded_keep_others_from_beginning() {
        let slots = slots();
        let unrecorded = |bytes| OutcomeBytes { bytes, unrecorded: slots.unrecorded.clone() };
        slots.unrecorded.fetch_add(UNRECORDED_BYTES, Ordering::AcqRel);
        let (large, small) = (unrecorded(UNRECORDED_BYTES - 1), unrecorded(1));
        assert!(!slots.may_begin());
        drop(small);
        assert!(slots.may_begin());
        drop(large);
        assert_eq!(slots.unrecorded.load(Ordering::Acquire), 0);
    }

    #[test]
    fn ends_give_their_slot_back_while_there_is_room_and_the_store_is_not_slow() {
        let changed = Arc::new(Notify::new());
        let (slots, now) = (Slots::new(1, 2, changed.clone()), Instant::now());
        let ended = |at| {
            let mut slot = Slot {
                place: slots.try_place().unwrap(),
                of_batch: None,
                recording: slots.recording.clone(),
                _room: slots.rooms(1).remove(0),
                outcome: OutcomeBytes { bytes: 0, unrecorded: slots.unrecorded.clone() },
                _watched: None,
                wake: Wake(changed.clone()),
            };
            slot.ended(10, at);
            slot
        };
        let slots_held = || slots.count() - slots.free();
        slots.writing(Some(now));
        let first = ended(now);
        assert_eq!((slots_held(), slots.unsettled()), (0, 1), "what waits to be recorded is unsettled");
        assert!(changed.notified().now_or_never().is_some(), "the pump looks for more");
        let late = now + SLOW_WRITE + Duration::from_millis(1);
        let second = ended(late);
        assert_eq!((slots_held(), slots.unsettled()), (1, 2), "the store is slow");
        drop(second);
        slots.writing(None);
        let all = [first, ended(late), ended(late)];
        assert_eq!((slots_held(), slots.unsettled()), (1, 3), "there is room for two");
        assert_eq!([slots.in_use(), slots.in_use()], [slots.count() + 2; 2], "they wait still");
        drop(all);
        assert_eq!((slots_held(), slots.unsettled()), (0, 0));
        assert_eq!([slots.in_use(), slots.in_use()], [slots.count() + 2, slots.count()]);
    }

    #[test]
    fn one_batch_alone_leaves_a_fifth_of_the_slots_to_others_and_still_has_room_to_settle() {
        for concurrency in [1, 16, 512] {
            let slots = Slots::new(concurrency, 0, Arc::default());
            let mut places = vec![];
            while slots.has_one_for(u32::try_from(places.len()).unwrap()) {
                places.push(slots.try_place().unwrap());
            }
            assert!(places.len() >= concurrency + SETTLING_ROOM, "{}", places.len());
            assert!(slots.free() * 5 >= slots.count(), "{} of {}", slots.free(), slots.count());
        }
    }
}
