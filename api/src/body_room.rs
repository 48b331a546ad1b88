//! Memory for the bodies of requests: how many bytes of them are held at the same time.
//!
//! Room is set aside for a body before it is read beyond its first bytes, for all of it at once: bodies that grew together would wait for each
//! other's room. What is made of a body takes about three times its bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use promptmill_domain::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for all bodies together. One tenant has half of it at most.
pub(crate) struct BodyRoom {
    kib: u32,
    all: Arc<Semaphore>,
    by_tenant: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
}

/// Room of one body, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    _all: OwnedSemaphorePermit,
    _share: OwnedSemaphorePermit,
}

impl BodyRoom {
    /// Room for so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).max(2);
        Self { kib, all: Arc::new(Semaphore::new(kib as usize)), by_tenant: Mutex::default() }
    }

    /// Waits, behind others of its tenant and then behind all, for room for a body. One that is longer than its tenant's share has to do with that.
    pub(crate) async fn reserve(&self, tenant: &TenantId, bytes: usize) -> Reserved {
        let share = self.kib / 2;
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, share);
        let of_tenant = self.of(tenant, share as usize);
        let take = async |room: Arc<Semaphore>| {
            room.acquire_many_owned(kib).await.expect("the semaphores of bodies are never closed")
        };
        // The share first: who waits for it keeps nothing from others.
        let share = take(of_tenant).await;
        Reserved { _all: take(self.all.clone()).await, _share: share }
    }

    fn of(&self, tenant: &TenantId, share: usize) -> Arc<Semaphore> {
        let mut by_tenant = self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_tenant.get(tenant).and_then(Weak::upgrade) {
            return known;
        }
        by_tenant.retain(|_, room| room.strong_count() > 0);
        let room = Arc::new(Semaphore::new(share));
        by_tenant.insert(tenant.clone(), Arc::downgrade(&room));
        room
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_tenant_has_half_of_it_and_what_is_dropped_comes_free() {
        let room = BodyRoom::new(64 * 1024);
        let tenant = |name: &str| name.parse::<TenantId>().unwrap();
        let reserve = |name: &str, kib: usize| room.reserve(&tenant(name), kib * 1024).now_or_never();
        let held = [reserve("one", 16), reserve("one", 16)];
        assert!(held.iter().all(Option::is_some));
        assert!(reserve("one", 1).is_none());
        let other = reserve("two", 1_000).unwrap();
        assert!(reserve("three", 1).is_none(), "all of it is taken");
        drop(held);
        assert!(reserve("three", 32).is_some());
        drop(other);
        assert!(reserve("one", 1).is_some());
        assert_eq!(room.by_tenant.lock().unwrap().len(), 1, "who holds none is forgotten");
    }
}
