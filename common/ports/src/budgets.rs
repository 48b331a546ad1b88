//! The accounts of limits on money, one record each.

use async_trait::async_trait;
use promptmill_domain::budget::{Budget, BudgetScope};

use crate::{StoreError, StoreResult};

/// An account as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BudgetRecord {
    /// What it says.
    pub budget: Budget,
    /// Counts its changes; 0 of one that is not there.
    pub ver: u64,
}

/// The accounts of limits on money.
#[async_trait]
pub trait Budgets: Send + Sync {
    /// The account; an empty one of version 0 where there is none.
    async fn budget(&self, scope: &BudgetScope) -> StoreResult<BudgetRecord>;

    /// Replaces the account if it is of the version `ver` still, with the next version; 0 makes it. Answers whether it did. Atomic; after an
    /// unknown result the caller reads what became of it.
    async fn put_budget(
        &self,
        scope: &BudgetScope,
        ver: u64,
        budget: &Budget,
        now_ms: u64,
    ) -> StoreResult<bool>;

    /// Up to `limit` accounts that a session may spend from, in the order of their keys, after `after`.
    async fn open_budgets(&self, after: Option<&BudgetScope>, limit: u32) -> StoreResult<Vec<BudgetScope>>;

    /// Removes up to about 1,000 accounts that nobody may spend from and that were not changed since `before_ms`. Answers how many.
    async fn forget_budgets(&self, before_ms: u64) -> StoreResult<u32>;
}

/// How often a change is tried that others come before.
const TRIES: u32 = 100;

/// Changes an account by `change`, which is asked again when somebody else changed it meanwhile. After an error it is not known whether it was
/// written, and the caller repeats it: so it must come to the same when it was applied before. An account that comes out as it was is not written.
///
/// # Errors
/// As the store's, and `Unavailable` when others came before all the time.
pub async fn change_budget<T>(
    store: &(impl Budgets + ?Sized),
    scope: &BudgetScope,
    now_ms: u64,
    mut change: impl FnMut(&mut Budget) -> T,
) -> StoreResult<T> {
    for _ in 0..TRIES {
        let BudgetRecord { budget: before, ver } = store.budget(scope).await?;
        let mut budget = before.clone();
        let answer = change(&mut budget);
        if budget == before || store.put_budget(scope, ver, &budget, now_ms).await? {
            return Ok(answer);
        }
    }
    Err(StoreError::Unavailable("an account was changed by others all the time".into()))
}
