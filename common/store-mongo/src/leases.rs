//! The heads of the chunks that were claimed through this store, as they were written last.
//!
//! While a lease is held nobody but its holder changes the head, so whoever settles a moment later need not read it again. Where that is not so
//! (the lease was taken away, or an answer was lost) the write finds another version than it expects, and the head is read after all.
//!
//! A head that is done never changes again. That of a single row is remembered for whoever closes its batch, which happens at once, and so is
//! what the batch's document was as the row was claimed.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mongodb::bson::Document;
use promptmill_domain::{BatchId, ChunkId, ChunkState, LeaseToken};

use crate::heads::Stored;

/// Heads that are remembered: more than workers have in hand at a time.
const REMEMBERED: usize = 4_096;

/// How long a head is remembered: a lease that is older may well have been taken away, and what its holder has to say is not to be stored then.
const GOOD_FOR: Duration = Duration::from_secs(2);

/// How long the document of a batch is remembered: one whose row takes longer is admitted meanwhile, and has another version then.
const UNCHANGED_FOR: Duration = Duration::from_millis(200);

/// Each with when it was written or read.
#[derive(Default)]
pub(crate) struct Leases {
    leased: Mutex<HashMap<ChunkId, (Instant, Stored)>>,
    /// Of single rows.
    done: Mutex<HashMap<ChunkId, (Instant, Stored)>>,
    /// Those of the single rows.
    batches: Mutex<HashMap<BatchId, (Instant, Document)>>,
}

impl Leases {
    /// Remembers a head if it is leased, or that of a single row which is done.
    pub(crate) fn note(&self, stored: &Stored) {
        let heads = match stored.head.state {
            ChunkState::Leased { .. } => &self.leased,
            ChunkState::Done if stored.alone => &self.done,
            _ => return,
        };
        let mut stored = stored.clone();
        // Histories that stand beside the head may be large.
        for item in &mut stored.head.parked {
            if stored.histories.contains_key(&item.offset) {
                item.attempts = Vec::new();
            }
        }
        if stored.head.state == ChunkState::Done {
            stored.body = None;
        }
        remember(heads, GOOD_FOR, stored.head.chunk, stored);
    }

    /// Remembers what a close must know of the batch of a single row that was just claimed.
    pub(crate) fn note_batch(&self, batch: BatchId, to_close: Document) {
        remember(&self.batches, UNCHANGED_FOR, batch, to_close);
    }

    /// Gives the head of this lease and forgets it.
    pub(crate) fn take(&self, chunk: ChunkId, token: LeaseToken) -> Option<Stored> {
        let (at, stored) = locked(&self.leased).remove(&chunk)?;
        let is_held = matches!(stored.head.state, ChunkState::Leased { token: held, .. } if held == token);
        (is_held && at.elapsed() < GOOD_FOR).then_some(stored)
    }

    /// Gives the head of a single row that is done, without its body, and forgets it.
    pub(crate) fn take_done(&self, chunk: ChunkId) -> Option<Stored> {
        locked(&self.done).remove(&chunk).map(|(_, stored)| stored)
    }

    /// Gives what a close must know of the batch of a single row, as it was when that was claimed, and forgets it.
    pub(crate) fn take_batch(&self, batch: BatchId) -> Option<Document> {
        let (at, to_close) = locked(&self.batches).remove(&batch)?;
        (at.elapsed() < UNCHANGED_FOR).then_some(to_close)
    }
}

impl fmt::Debug for Leases {
    /// Shows nothing of what is remembered, which holds what tenants sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases").finish_non_exhaustive()
    }
}

/// Where there are many already, those that are no longer good make room.
fn remember<K: Eq + Hash, V>(all: &Mutex<HashMap<K, (Instant, V)>>, good_for: Duration, key: K, value: V) {
    let now = Instant::now();
    let mut all = locked(all);
    if all.len() >= REMEMBERED {
        all.retain(|_, (at, _)| now.duration_since(*at) < good_for);
    }
    if all.len() < REMEMBERED {
        all.insert(key, (now, value));
    }
}

fn locked<T>(all: &Mutex<T>) -> MutexGuard<'_, T> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}
