//! Cases about accounts of money.

use promptmill_domain::budget::{Budget, BudgetScope, HoldRequest, Period};
use promptmill_domain::{BatchId, Money, SessionId};

use crate::{BudgetRecord, Store, change_budget};

const LIMIT: Money = Money::from_pico(1_000);

fn session(n: u8) -> SessionId {
    SessionId::from_bytes([n; 16])
}

fn held(n: u8, spent: u64) -> HoldRequest {
    HoldRequest {
        session: session(n),
        spent: Money::from_pico(spent),
        reserved: Money::from_pico(3),
        least: Money::ZERO,
        wants: Money::from_pico(2),
        floor: Money::ZERO,
        limit: LIMIT,
    }
}

fn scopes() -> [BudgetScope; 3] {
    let tenant = || "acme".parse().expect("a tenant's name");
    [
        BudgetScope::Batch(BatchId::from_bytes([7; 16])),
        BudgetScope::of_tenant(tenant(), Period::Day, 0),
        BudgetScope::of_tenant(tenant(), Period::Month, 0),
    ]
}

/// See its name.
pub async fn an_account_is_replaced_only_by_who_knows_its_version(store: &dyn Store) {
    let [scope, other, _] = scopes();
    assert_eq!(store.budget(&scope).await.unwrap(), BudgetRecord::default());
    let mut budget = Budget::default();
    budget.hold(&held(1, 10)).unwrap();
    assert!(store.put_budget(&scope, 0, &budget, 5).await.unwrap());
    assert!(!store.put_budget(&scope, 0, &Budget::default(), 6).await.unwrap());
    assert!(!store.put_budget(&scope, 2, &Budget::default(), 6).await.unwrap());
    assert!(!store.put_budget(&other, 1, &budget, 6).await.unwrap());
    assert_eq!(store.budget(&scope).await.unwrap(), BudgetRecord { budget: budget.clone(), ver: 1 });
    assert_eq!(store.budget(&other).await.unwrap(), BudgetRecord::default());
    budget.end(session(1), Money::from_pico(12));
    assert!(store.put_budget(&scope, 1, &budget, 7).await.unwrap());
    assert_eq!(store.budget(&scope).await.unwrap(), BudgetRecord { budget, ver: 2 });
}

/// See its name.
pub async fn changes_of_an_account_at_once_all_count(store: &dyn Store) {
    let [scope, ..] = scopes();
    let change = async |n: u8| {
        for spent in 1..=5 {
            let hold = |budget: &mut Budget| budget.hold(&held(n, spent * 10));
            change_budget(store, &scope, spent, hold).await.unwrap().unwrap();
        }
    };
    futures_util::future::join_all((1..=6).map(change)).await;
    let record = store.budget(&scope).await.unwrap();
    assert_eq!((record.budget.spent(), record.budget.held()), (Money::from_pico(300), Money::from_pico(30)));
    assert_eq!(record.ver, 30);
    // What comes out the same is not written.
    change_budget(store, &scope, 9, |budget| budget.hold(&held(1, 50))).await.unwrap().unwrap();
    assert_eq!(store.budget(&scope).await.unwrap(), record);
}

/// See its name.
pub async fn accounts_that_may_be_spent_from_are_listed_and_others_are_forgotten_in_time(store: &dyn Store) {
    let scopes = scopes();
    for scope in &scopes {
        change_budget(store, scope, 10, |budget| budget.hold(&held(1, 1))).await.unwrap().unwrap();
    }
    let first = store.open_budgets(None, 2).await.unwrap();
    assert_eq!(first, scopes[..2]);
    assert_eq!(store.open_budgets(Some(&first[1]), 2).await.unwrap(), scopes[2..]);
    assert_eq!(store.forget_budgets(1_000).await.unwrap(), 0);
    for (scope, at_ms) in scopes.iter().zip([20, 30, 40]) {
        change_budget(store, scope, at_ms, |budget| budget.end(session(1), Money::ZERO)).await.unwrap();
    }
    assert_eq!(store.open_budgets(None, 9).await.unwrap(), []);
    assert_eq!(store.forget_budgets(30).await.unwrap(), 1);
    assert_eq!(store.budget(&scopes[0]).await.unwrap(), BudgetRecord::default());
    assert_eq!(store.budget(&scopes[1]).await.unwrap().budget.spent(), Money::from_pico(1));
}
