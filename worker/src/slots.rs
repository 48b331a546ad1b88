//! What bounds the work in hand: slots for items that are begun and unsettled, and room for the bytes of their rows.
//!
//! Slots alone would let a few hundred rows of a mebibyte each into memory. Room is set aside before a chunk is claimed and goes
//! with its items until they are settled, so rows that were claimed and not begun count as well.

use std::sync::Arc;

use promptmill_domain::chunk::{MAX_BLOCK_BYTES, MAX_CHUNK_ROWS};
use promptmill_pipeline::ItemInput;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Bytes of rows in hand at the same time.
const ROW_BYTES: usize = 64 * 1024 * 1024;

/// About what an item takes beside its row.
const ITEM_BYTES: usize = 512;

/// The most bytes one chunk is expected to bring. A chunk of one larger row brings more and is let in all the same.
const CHUNK_BYTES: u32 = MAX_BLOCK_BYTES as u32 + MAX_CHUNK_ROWS * ITEM_BYTES as u32;

/// The slots of a worker.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    count: usize,
    room: Arc<Semaphore>,
}

/// The slot of one begun item, with the room of its row.
#[derive(Debug)]
pub(crate) struct Slot {
    _place: OwnedSemaphorePermit,
    _room: Room,
    /// Its receiver ends with the slot, which is when the item's end is recorded.
    _watched: Option<oneshot::Sender<Never>>,
}

/// What is never sent.
#[derive(Debug)]
pub(crate) enum Never {}

/// Room for the rows of one chunk, or for one of them.
#[derive(Debug)]
pub(crate) struct Room(OwnedSemaphorePermit);

impl Slots {
    /// So many slots.
    pub(crate) fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), count, room: Arc::new(Semaphore::new(ROW_BYTES)) }
    }

    /// Slots that nobody holds.
    pub(crate) fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// Slots that are held.
    pub(crate) fn taken(&self) -> usize {
        self.count.saturating_sub(self.free())
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

    /// Waits for the room of one chunk.
    pub(crate) async fn room(&self) -> Room {
        let room = self.room.clone().acquire_many_owned(CHUNK_BYTES).await;
        Room(room.expect("the semaphore of room is never closed"))
    }
}

impl Slot {
    pub(crate) fn new(place: OwnedSemaphorePermit, room: Room) -> Self {
        Self { _place: place, _room: room, _watched: None }
    }

    /// A slot, and a receiver that ends when it is given back.
    pub(crate) fn watched(place: OwnedSemaphorePermit, room: Room) -> (Self, oneshot::Receiver<Never>) {
        let (watched, given_back) = oneshot::channel();
        (Self { _place: place, _room: room, _watched: Some(watched) }, given_back)
    }
}

impl Room {
    /// Takes the room of one item out of its chunk's; what is left when the chunk brought more than was set aside.
    pub(crate) fn of(&mut self, input: &ItemInput) -> Self {
        let bytes = (input.variables.len() + ITEM_BYTES).min(self.0.num_permits());
        Self(self.0.split(bytes).expect("no more is split off than there is"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(bytes: usize) -> ItemInput {
        ItemInput { index: 0, offset: 0, custom_id: None, variables: "x".repeat(bytes), parked: None }
    }

    #[test]
    fn room_is_set_aside_by_the_chunk_and_held_by_the_row() {
        let slots = Slots::new(1);
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
        let slots = Slots::new(1);
        let mut room = slots.rooms(1).remove(0);
        let large = room.of(&item(CHUNK_BYTES as usize * 2));
        assert_eq!(large.0.num_permits(), CHUNK_BYTES as usize);
        assert_eq!(room.of(&item(10)).0.num_permits(), 0);
    }
}
