//! Something bounded that tenants share: each waits behind its own and then behind all, and none has more than half of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use promptmill_domain::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many units, for all tenants together.
pub(crate) struct Shares {
    units: u32,
    all: Arc<Semaphore>,
    by_tenant: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
}

/// Some of the units, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    all: OwnedSemaphorePermit,
    of_tenant: OwnedSemaphorePermit,
}

impl Share {
    /// Gives back all but so many units.
    pub(crate) fn keep(&mut self, units: usize) {
        let surplus = self.all.num_permits().saturating_sub(units);
        drop((self.all.split(surplus), self.of_tenant.split(surplus)));
    }
}

impl Shares {
    /// So many units, two at least.
    pub(crate) fn new(units: usize) -> Self {
        let units = u32::try_from(units).unwrap_or(u32::MAX).max(2);
        Self { units, all: Arc::new(Semaphore::new(units as usize)), by_tenant: Mutex::default() }
    }

    /// Waits for so many units. Whoever asks for more than a tenant may have gets that.
    pub(crate) async fn take(&self, tenant: &TenantId, units: usize) -> Share {
        let most = self.units / 2;
        let units = u32::try_from(units).unwrap_or(u32::MAX).clamp(1, most);
        let take = async |of: Arc<Semaphore>| {
            of.acquire_many_owned(units).await.expect("the semaphores of shares are never closed")
        };
        // Who waits for its tenant's part keeps nothing from others.
        let of_tenant = take(self.of(tenant, most as usize)).await;
        Share { all: take(self.all.clone()).await, of_tenant }
    }

    fn of(&self, tenant: &TenantId, most: usize) -> Arc<Semaphore> {
        let mut by_tenant = self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_tenant.get(tenant).and_then(Weak::upgrade) {
            return known;
        }
        by_tenant.retain(|_, part| part.strong_count() > 0);
        let part = Arc::new(Semaphore::new(most));
        by_tenant.insert(tenant.clone(), Arc::downgrade(&part));
        part
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_tenant_has_half_of_it_and_what_is_given_back_or_dropped_comes_free() {
        let shares = Shares::new(64);
        let tenant = |name: &str| name.parse::<TenantId>().unwrap();
        let take = |name: &str, units: usize| shares.take(&tenant(name), units).now_or_never();
        let held = [take("one", 16), take("one", 16)];
        assert!(held.iter().all(Option::is_some));
        assert!(take("one", 1).is_none());
        let mut other = take("two", 1_000).unwrap();
        assert!(take("three", 1).is_none(), "all of it is taken");
        other.keep(12);
        assert!(take("three", 20).is_some() && take("two", 20).is_some());
        assert!(take("three", 21).is_none());
        other.keep(1_000);
        drop(held);
        assert!(take("three", 32).is_some());
        drop(other);
        assert!(take("one", 1).is_some());
        assert_eq!(shares.by_tenant.lock().unwrap().len(), 1, "who holds none is forgotten");
    }
}
