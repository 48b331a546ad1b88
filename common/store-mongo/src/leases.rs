//! The heads of the chunks that were claimed through this store, as they were written last.
//!
//! While a lease is held nobody but its holder changes the head, so whoever settles a moment later need not read it again. Where that is not so
//! (the lease was taken away, or an answer was lost) the write finds another version than it expects, and the head is read after all.
//!
//! A head that is done never changes again. That of a single row is remembered for whoever closes its batch, which happens at once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use promptmill_domain::{ChunkId, ChunkState, LeaseToken};

use crate::heads::Stored;

/// Heads that are remembered: more than workers have in hand at a time.
const REMEMBERED: usize = 4_096;

/// How long a head is remembered: a lease that is older may well have been taken away, and what its holder has to say is not to be stored then.
const GOOD_FOR: Duration = Duration::from_secs(2);

/// By chunk, each with when it was written.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    leased: Mutex<HashMap<ChunkId, (Instant, Stored)>>,
    /// Of single rows.
    done: Mutex<HashMap<ChunkId, (Instant, Stored)>>,
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
        let now = Instant::now();
        let mut heads = locked(heads);
        if heads.len() >= REMEMBERED {
            heads.retain(|_, (at, _)| now.duration_since(*at) < GOOD_FOR);
        }
        if heads.len() < REMEMBERED {
            heads.insert(stored.head.chunk, (now, stored));
        }
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
}

fn locked<T>(heads: &Mutex<T>) -> MutexGuard<'_, T> {
    heads.lock().unwrap_or_else(PoisonError::into_inner)
}
