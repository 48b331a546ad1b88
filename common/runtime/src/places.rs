//! Shares of something bounded: how many places one party has of it at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts places by who has them, up to a limit for each, and one for all together.
#[derive(Debug, Clone)]
pub struct Places<K> {
    limit: usize,
    limit_of_all: usize,
    taken: Arc<Mutex<Taken<K>>>,
}

#[derive(Debug)]
struct Taken<K> {
    by_holder: HashMap<K, usize>,
    by_all: usize,
}

/// One place; given back when dropped.
#[derive(Debug)]
pub struct Place<K: Hash + Eq> {
    of: Places<K>,
    holder: K,
}

impl<K> Places<K> {
    /// `limit` places for each.
    pub fn new(limit: usize) -> Self {
        Self::within(limit, usize::MAX)
    }

    /// `limit` places for each, of `limit_of_all`.
    pub fn within(limit: usize, limit_of_all: usize) -> Self {
        let taken = Taken { by_holder: HashMap::new(), by_all: 0 };
        Self { limit, limit_of_all, taken: Arc::new(Mutex::new(taken)) }
    }

    /// Places that a holder has.
    pub fn held(&self, holder: &K) -> usize
    where
        K: Hash + Eq,
    {
        self.lock().by_holder.get(holder).copied().unwrap_or(0)
    }

    /// Places that are taken, by whomever.
    pub fn taken(&self) -> usize {
        self.lock().by_all
    }

    fn lock(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone> Places<K> {
    /// A place, unless the holder has its share or all are taken.
    pub fn enter(&self, holder: K) -> Option<Place<K>> {
        self.enter_within(self.limit, holder)
    }

    /// The same for a holder whose share are so many.
    pub fn enter_within(&self, limit: usize, holder: K) -> Option<Place<K>> {
        let mut taken = self.lock();
        let held = taken.by_holder.get(&holder).copied().unwrap_or(0);
        if held >= limit || taken.by_all >= self.limit_of_all {
            return None;
        }
        taken.by_holder.insert(holder.clone(), held + 1);
        taken.by_all += 1;
        drop(taken);
        Some(Place { of: self.clone(), holder })
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.of.lock();
        taken.by_all -= 1;
        if let Some(count) = taken.by_holder.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                taken.by_holder.remove(&self.holder);
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
        assert_eq!((places.held(&"one"), places.held(&"other")), (2, 0));
        assert!(places.enter("other").is_some());
        drop(held);
        assert!(places.enter("one").is_some());
        assert!(places.lock().by_holder.is_empty());
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn all_together_have_no_more_than_there_are() {
        let places = Places::within(2, 3);
        let held: Vec<_> = ["one", "one", "two", "three"].map(|holder| places.enter(holder)).into();
        assert_eq!(held.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, true, false]);
        assert_eq!(places.taken(), 3);
        drop(held);
        assert!(places.enter("three").is_some());
    }
}
