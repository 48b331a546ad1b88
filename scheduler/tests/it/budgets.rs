//! Accounts of money: those of the dead, and limits whose time is over.

use promptmill_domain::budget::HoldRequest;
use promptmill_domain::{BatchEvent, BatchState, BudgetScope, Money, PauseReason, Period, SessionId};
use promptmill_ports::{MemoryHub, change_budget};
use promptmill_scheduler::Scheduler;

use crate::support::{Scene, eventually};

fn hold(session: SessionId) -> HoldRequest {
    HoldRequest {
        session,
        spent: Money::from_pico(5),
        reserved: Money::from_pico(7),
        least: Money::ZERO,
        wants: Money::ZERO,
        floor: Money::ZERO,
        limit: Money::from_pico(100),
    }
}

#[tokio::test]
async fn what_a_session_held_that_is_gone_is_unknown_and_a_living_one_keeps_its_hold() {
    let scene = Scene::on(MemoryHub::new()).await;
    let batch = scene.submit(1, 0).await;
    let [gone, alive] = [1, 2].map(|n| SessionId::from_bytes([n; 16]));
    scene.engine.store.open(alive, "worker").await.unwrap();
    let scope = BudgetScope::Batch(batch);
    for session in [gone, alive] {
        let hold = |budget: &mut promptmill_domain::Budget| budget.hold(&hold(session)).map(drop);
        change_budget(scene.engine.store.as_ref(), &scope, 1, hold).await.unwrap().unwrap();
    }
    let scheduler = Scheduler::start(scene.engine.clone());
    eventually("the hold of the one that is gone is unknown", async || {
        let budget = scene.engine.store.budget(&scope).await.unwrap().budget;
        let unknown: Vec<_> =
            budget.unknown_spend().map(|unknown| (unknown.session, unknown.amount)).collect();
        let as_it_must_be = unknown == [(gone, Money::from_pico(7))];
        as_it_must_be && budget.held() == Money::from_pico(7) && budget.spent() == Money::from_pico(10)
    })
    .await;
    scheduler.stop().await;
}

#[tokio::test]
async fn a_batch_goes_on_when_the_day_of_its_tenants_limit_is_over() {
    let scene = Scene::on(MemoryHub::new()).await;
    let batch = scene.submit(1, 0).await;
    let today = Period::Day.of(scene.engine.clock.now_ms());
    let pause = |name: &str| {
        BatchEvent::Pause(PauseReason::TenantBudget { period: Period::Day, name: name.to_owned() })
    };
    let scheduler = Scheduler::start(scene.engine.clone());
    scene.steer(batch, pause("2001-02-03")).await;
    eventually("it goes on", async || scene.batch_state(batch).await == BatchState::Running).await;
    scene.steer(batch, pause(&today)).await;
    scene.clock.advance_ms(1_000);
    assert_eq!(scene.batch_state(batch).await.as_str(), "paused");
    scene.clock.advance_ms(86_400_000);
    eventually("it goes on the next day", async || scene.batch_state(batch).await == BatchState::Running)
        .await;
    scheduler.stop().await;
}
