//! The limits on money that this process spends from: a purse for each, kept in step with the store.

use std::collections::HashMap;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use promptmill_domain::budget::{Budget, BudgetScope, Period, TenantCosts};
use promptmill_domain::{BatchId, Money, SessionId, TenantId};
use promptmill_ports::{Clock, Store, StoreResult, change_budget};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::purse::{Out, Purse};
use crate::set_aside::SetAside;

/// How often what was spent is told, and what is held too long is given back.
const LOOKS_EVERY: Duration = Duration::from_millis(250);

/// Accounts that are written at the same time.
const AT_ONCE: usize = 16;

/// How soon the store is asked again that did not answer.
const ASKS_AGAIN: Duration = Duration::from_millis(200);

/// How long calls that were given up may take to be over when the process ends, and how often is looked.
const GIVES_UP_WITHIN: Duration = Duration::from_secs(1);
const LOOKS_AT_CALLS: Duration = Duration::from_millis(5);

/// How long the store may take to be told when the process ends.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);

const DAY_MS: u64 = 86_400_000;

/// The limit of a batch.
#[derive(Debug, Clone, Copy)]
pub struct OwnLimit {
    /// Which batch.
    pub batch: BatchId,
    /// What it may cost.
    pub limit: Money,
    /// What is known to be spent of it at least.
    pub floor: Money,
}

/// The purses of a process.
pub struct Treasury {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    session: Box<dyn Fn() -> SessionId + Send + Sync>,
    tenants: TenantCosts,
    purses: Mutex<HashMap<BudgetScope, Arc<Purse>>>,
    asks: Arc<Notify>,
}

/// The limits that calls of one batch are within. Cheap to clone.
#[derive(Clone, Default)]
pub struct Purses(Vec<Arc<Purse>>);

impl Treasury {
    /// One that spends under the session which `session` tells, one that beats: another one takes its place when it is found dead.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        session: impl Fn() -> SessionId + Send + Sync + 'static,
        tenants: TenantCosts,
    ) -> Arc<Self> {
        let (purses, asks) = (Mutex::default(), Arc::default());
        Arc::new(Self { store, clock, session: Box::new(session), tenants, purses, asks })
    }

    /// What tenants may spend.
    pub fn tenants(&self) -> &TenantCosts {
        &self.tenants
    }

    fn purses(&self) -> MutexGuard<'_, HashMap<BudgetScope, Arc<Purse>>> {
        // Whole entries only: a panic in between leaves a usable map.
        self.purses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limits of calls now: that of a batch, where it has one, and those of the tenant. Whoever asks means to go on where one was spent.
    pub fn of_batch(&self, own: Option<OwnLimit>, tenant: &TenantId) -> Purses {
        let own =
            own.map(|OwnLimit { batch, limit, floor }| self.purse(BudgetScope::Batch(batch), limit, floor));
        let now_ms = self.clock.now_ms();
        let tenants = Period::ALL.into_iter().filter_map(|period| {
            let limit = self.tenants.of(tenant, period)?;
            let scope = BudgetScope::of_tenant(tenant.clone(), period, now_ms);
            Some(self.purse(scope, limit, Money::ZERO))
        });
        Purses(own.into_iter().chain(tenants).collect())
    }

    /// The day of now, after which [`of_batch`](Self::of_batch) is to be asked again; `None` where no tenant has a limit.
    pub fn day(&self) -> Option<u64> {
        (!self.tenants.is_empty()).then(|| self.clock.now_ms() / DAY_MS)
    }

    fn purse(&self, scope: BudgetScope, limit: Money, floor: Money) -> Arc<Purse> {
        let mut purses = self.purses();
        if let Some(purse) = purses.get(&scope) {
            purse.set_limit(limit, floor);
            return purse.clone();
        }
        let purse = Arc::new(Purse::new(scope.clone(), limit, floor, self.asks.clone()));
        purses.insert(scope, purse.clone());
        purse
    }

    /// Keeps purses and store in step, without end.
    pub async fn run(&self) {
        let mut session = (self.session)();
        loop {
            let _ = timeout(LOOKS_EVERY, self.asks.notified()).await;
            let now = (self.session)();
            if now != session {
                self.purses().values().for_each(|purse| purse.begin_anew());
                session = now;
            }
            let all: Vec<_> = self.purses().values().cloned().collect();
            let look = |purse: Arc<Purse>| async move {
                match purse.is_closing() {
                    true => self.close_one(&purse, session).await.is_err(),
                    false => self.exchange(&purse, session).await.is_err(),
                }
            };
            let looks = stream::iter(all).map(look).buffer_unordered(AT_ONCE);
            let failed = looks.fold(false, |any, failed| ready(any || failed)).await;
            self.close_idle(session).await;
            if failed {
                tokio::time::sleep(ASKS_AGAIN).await;
            }
        }
    }

    async fn exchange(&self, purse: &Purse, session: SessionId) -> StoreResult<()> {
        let Some(request) = purse.ask(session, Instant::now()) else { return Ok(()) };
        let hold = |budget: &mut Budget| budget.hold(&request);
        let answer = change_budget(self.store.as_ref(), purse.scope(), self.clock.now_ms(), hold).await;
        match answer {
            Ok(answer) => {
                purse.told(&request, answer, Instant::now());
                Ok(())
            }
            Err(error) => {
                tracing::warn!(budget = %purse.scope(), error = %error, "a limit on money could not be asked about; no call begins meanwhile");
                Err(error)
            }
        }
    }

    /// Gives up purses that nobody spends from any more. One whose account cannot be written is tried again with the next look.
    async fn close_idle(&self, session: SessionId) {
        let is_idle = |purse: &&Arc<Purse>| Arc::strong_count(purse) == 1;
        let idle: Vec<_> = self.purses().values().filter(is_idle).cloned().collect();
        for purse in idle {
            if self.close_one(&purse, session).await.is_ok() {
                let mut purses = self.purses();
                // Somebody may have taken it up again meanwhile.
                if Arc::strong_count(&purse) == 2 {
                    purses.remove(purse.scope());
                }
            }
        }
    }

    async fn close_one(&self, purse: &Purse, session: SessionId) -> StoreResult<()> {
        let spent = purse.close();
        let end = |budget: &mut Budget| budget.end(session, spent);
        change_budget(self.store.as_ref(), purse.scope(), self.clock.now_ms(), end).await?;
        purse.closed(spent);
        Ok(())
    }

    /// Tells what was spent in all, and holds nothing more: the process spends nothing from now on. What calls cost that are not over in a second counts
    /// as what was set aside. A store that is away is waited for five seconds.
    pub async fn close(&self) {
        let all: Vec<_> = self.purses().drain().map(|(_, purse)| purse).collect();
        // Calls that were given up are over in a moment.
        let until = Instant::now() + GIVES_UP_WITHIN;
        while all.iter().any(|purse| purse.has_aside()) && Instant::now() < until {
            tokio::time::sleep(LOOKS_AT_CALLS).await;
        }
        let session = (self.session)();
        let closing = all.iter().map(|purse| async move {
            let spent = purse.spent_at_most();
            let end = |budget: &mut Budget| budget.end(session, spent);
            let told = change_budget(self.store.as_ref(), purse.scope(), self.clock.now_ms(), end);
            if !matches!(timeout(CLOSES_WITHIN, told).await, Ok(Ok(()))) {
                tracing::warn!(budget = %purse.scope(), "what is held of a limit on money could not be given back; it counts as unknown spend");
            }
        });
        futures_util::future::join_all(closing).await;
    }
}

impl Purses {
    /// Whether there are none, so that money is no matter.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets so much aside of each, as soon as it is there.
    ///
    /// # Errors
    /// A limit that is spent.
    pub async fn set_aside(&self, amount: Money) -> Result<SetAside, BudgetScope> {
        let mut aside = SetAside::default();
        // What is there of one is kept while another is waited for, always in the same order.
        for purse in &self.0 {
            purse.take(amount).await.map_err(|Out| purse.scope().clone())?;
            aside = aside.and(purse.clone(), amount);
        }
        Ok(aside)
    }
}
