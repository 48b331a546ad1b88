//! Shares of something bounded: how many places one party has of it at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts places by who has them, up to a limit for each.
#[derive(Debug, Clone)]
pub(crate) struct Places<K> {
    limit: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// One place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Hash + Eq> {
    of: Places<K>,
    holder: K,
}

impl<K> Places<K> {
    /// `limit` places for each.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, taken: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone> Places<K> {
    /// A place, unless the holder has its share.
    pub(crate) fn enter(&self, holder: K) -> Option<Place<K>> {
        let mut taken = self.lock();
        let count = taken.entry(holder.clone()).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Place { of: self.clone(), holder })
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.of.lock();
        if let Some(count) = taken.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_has_a_share_and_gets_places_back() {
        let places = Places::new(2);
        let held = [places.enter("one"), places.enter("one")];
        assert!(held.iter().all(Option::is_some));
        assert!(places.enter("one").is_none());
        assert!(places.enter("other").is_some());
        drop(held);
        assert!(places.enter("one").is_some());
        assert!(places.lock().is_empty());
    }
}
