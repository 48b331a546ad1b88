//! Limits on money: shared by workers, of tenants, and what the dead held.

use std::sync::atomic::{AtomicU32, Ordering};

use promptmill_domain::{
    BatchEvent, BatchLimits, BatchState, BudgetScope, Money, PauseReason, Period, TenantCosts,
};
use promptmill_ports::change_budget;
use promptmill_worker::{Worker, WorkerConfig};

use crate::provider::{COST, Does, Scripted};
use crate::support::{Scene, eventually};

fn within(calls: u64) -> BatchLimits {
    BatchLimits { max_cost: Some(COST.times(calls)), ..BatchLimits::default() }
}

async fn paused_for(scene: &Scene, batch: promptmill_domain::BatchId, wanted: &PauseReason) {
    eventually(
        "a limit pauses it",
        async || matches!(scene.batch(batch).await.state, BatchState::Paused { reason } if reason == *wanted),
    )
    .await;
    eventually("everything is let go of", async || scene.counts(batch).await.leased == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_workers_spend_one_limit_together_and_the_rest_with_a_higher_one() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let scene = Scene::new(provider.clone()).schedule();
    let batch = scene.submit_with(600, within(200)).await;
    let workers = [scene.worker(4).await, scene.worker(4).await, scene.worker(4).await];
    paused_for(&scene, batch, &PauseReason::Budget).await;
    let begun = provider.begun();
    // What the first calls of each cost nobody knew before.
    assert!((190..=212).contains(&begun), "{begun} calls within a limit of 200");
    let scope = BudgetScope::Batch(batch);
    // What was spent is told a moment later.
    eventually("the account says what was spent", async || {
        let account = scene.engine.store.budget(&scope).await.unwrap().budget;
        account.spent() == COST.times(begun as u64) && account.held() == Money::ZERO
    })
    .await;
    assert_eq!(scene.counts(batch).await.totals.cost, COST.times(begun as u64));
    scene.engine.store.set_limits(&scene.tenant, batch, within(10_000)).await.unwrap();
    scene.steer(batch, BatchEvent::Resume).await;
    Scene::check_all_succeeded(&scene.ended(batch, BatchState::Completed).await, 600);
    assert_eq!(provider.begun(), 600);
    for worker in workers {
        scene.stop(worker).await;
    }
    let account = scene.engine.store.budget(&scope).await.unwrap().budget;
    assert_eq!((account.spent(), account.held(), account.is_open()), (COST.times(600), Money::ZERO, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_spent_without_a_limit_counts_when_there_is_one() {
    // By the order of the calls and not by the row: items of a worker begin in no particular order.
    let calls = AtomicU32::new(0);
    let provider = Scripted::new(move |_, _| {
        if calls.fetch_add(1, Ordering::SeqCst) < 100 { Does::Answer } else { Does::AnswerLater }
    });
    let scene = Scene::new(provider.clone()).schedule();
    let batch =
        scene.submit_with(400, BatchLimits { max_concurrency: Some(4), ..BatchLimits::default() }).await;
    let worker = scene.worker(4).await;
    eventually("a hundred are settled", async || scene.counts(batch).await.succeeded >= 100).await;
    let limits = BatchLimits { max_concurrency: Some(4), ..within(100) };
    scene.engine.store.set_limits(&scene.tenant, batch, limits).await.unwrap();
    eventually("the worker knows the limit", async || {
        provider.release(1);
        matches!(scene.batch(batch).await.state, BatchState::Paused { reason: PauseReason::Budget })
    })
    .await;
    provider.release(1_000);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_limit_of_the_day_holds_over_all_of_its_batches_and_one_that_is_over_lets_them_go_on() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let scene = Scene::new(provider.clone()).schedule();
    let mut costs = TenantCosts::default();
    costs.set(Some(scene.tenant.clone()), Period::Day, COST.times(100));
    let config = WorkerConfig { concurrency: 4, tenant_costs: costs, ..WorkerConfig::default() };
    let worker = Worker::start(scene.engine.clone(), config).await.unwrap();
    let first = scene.submit(60).await;
    Scene::check_all_succeeded(&scene.ended(first, BatchState::Completed).await, 60);
    let second = scene.submit(60).await;
    let name = Period::Day.of(scene.engine.clock.now_ms());
    paused_for(&scene, second, &PauseReason::TenantBudget { period: Period::Day, name }).await;
    let begun = provider.begun();
    assert!((98..=104).contains(&begun), "{begun} calls within a limit of 100");
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_worker_held_when_it_died_is_not_spent_again() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let scene = Scene::new(provider.clone()).schedule();
    let batch = scene.submit_with(300, within(100)).await;
    let dead = promptmill_domain::SessionId::from_bytes([9; 16]);
    let scope = BudgetScope::Batch(batch);
    change_budget(scene.engine.store.as_ref(), &scope, 1, |budget| {
        let request = promptmill_domain::budget::HoldRequest {
            session: dead,
            spent: Money::ZERO,
            reserved: COST.times(30),
            least: Money::ZERO,
            wants: Money::ZERO,
            floor: Money::ZERO,
            limit: COST.times(100),
        };
        budget.hold(&request).unwrap();
        budget.bury(dead, 2);
    })
    .await
    .unwrap();
    let worker = scene.worker(4).await;
    paused_for(&scene, batch, &PauseReason::Budget).await;
    let begun = provider.begun();
    assert!((68..=74).contains(&begun), "{begun} calls where 70 are left");
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_within_a_limit_shares_a_full_lane_with_one_that_has_none() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let scene = Scene::new(provider.clone()).schedule();
    let unlimited = scene.submit(300).await;
    let limited = scene.submit_with(300, within(1_000)).await;
    scene.engine.limiter.set_concurrency(&scene.lane(), Some(2)).await.unwrap();
    let worker = scene.worker(8).await;
    Scene::check_all_succeeded(&scene.ended(limited, BatchState::Completed).await, 300);
    Scene::check_all_succeeded(&scene.ended(unlimited, BatchState::Completed).await, 300);
    scene.stop(worker).await;
    let account = scene.engine.store.budget(&BudgetScope::Batch(limited)).await.unwrap().budget;
    assert_eq!(
        (account.spent(), account.held(), account.unknown()),
        (COST.times(300), Money::ZERO, Money::ZERO)
    );
}
