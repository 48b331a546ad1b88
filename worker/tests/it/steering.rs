//! A batch that is paused, resumed, cancelled, over its budget or doomed.

use std::sync::atomic::{AtomicU32, Ordering};

use promptmill_domain::{
    BatchEvent, BatchLimits, BatchState, FailureKind, ItemCode, PauseReason, batch::GUARD_SAMPLE,
};
use promptmill_ports::Signal;

use crate::provider::{COST, Does, Scripted};
use crate::support::{Scene, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_seals_what_is_open_and_a_late_reply_is_no_result() {
    // By the order of the calls and not by the row: items of a worker begin in no particular order.
    let calls = AtomicU32::new(0);
    let provider = Scripted::new(move |_, _| {
        if calls.fetch_add(1, Ordering::SeqCst) < 10 { Does::Answer } else { Does::AnswerLater }
    });
    let scene = Scene::new(provider.clone()).schedule();
    let batch = scene.submit(100).await;
    let worker = scene.worker(8).await;
    eventually("the first are settled and others wait", async || {
        provider.now() == 8 && scene.counts(batch).await.succeeded == 10
    })
    .await;
    scene.steer(batch, BatchEvent::Cancel).await;
    let counts = scene.ended(batch, BatchState::Cancelled).await;
    assert_eq!((counts.succeeded, counts.cancelled), (10, 90));
    scene.engine.signals.publish(Signal::BatchChanged(batch)).await.unwrap();
    eventually("the late replies came and nothing follows them", async || {
        provider.release(1);
        provider.now() == 0
    })
    .await;
    scene.stop(worker).await;
    let outcomes = scene.outcomes(batch).await;
    let cancelled: Vec<_> = outcomes.iter().filter(|outcome| outcome.code == ItemCode::Cancelled).collect();
    assert_eq!(cancelled.len(), 90);
    assert!(cancelled.iter().all(|outcome| outcome.body.is_none()));
    assert_eq!(scene.batch(batch).await.final_counts, Some(counts));
    assert!(provider.begun() < 100, "a cancelled batch calls nothing more");
}

async fn check_pause_and_resume(scene: Scene, provider: &Scripted, signal: bool) {
    let batch = scene.submit(400).await;
    let worker = scene.worker(4).await;
    provider.release(20);
    eventually("it runs", async || scene.counts(batch).await.succeeded == 20).await;
    scene.steer(batch, BatchEvent::Pause(PauseReason::Requested)).await;
    if signal {
        scene.engine.signals.publish(Signal::BatchChanged(batch)).await.unwrap();
    }
    // Calls under way hold their chunks, of at most 13 rows; all others are let go of once the pause arrives.
    eventually("the pause arrives", async || scene.counts(batch).await.leased <= 4 * 13).await;
    provider.release(4);
    eventually("everything is let go of", async || scene.counts(batch).await.leased == 0).await;
    let begun = provider.begun();
    provider.release(1_000);
    scene.step().await;
    assert_eq!(provider.begun(), begun, "nothing begins while the batch is paused");
    assert!(matches!(scene.batch(batch).await.state, BatchState::Paused { .. }));
    scene.steer(batch, BatchEvent::Resume).await;
    let counts = scene.ended(batch, BatchState::Completed).await;
    Scene::check_all_succeeded(&counts, 400);
    assert_eq!(provider.begun(), 400);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_batch_begins_nothing_and_a_resumed_one_completes() {
    let provider = Scripted::new(|_, _| Does::AnswerLater);
    check_pause_and_resume(Scene::new(provider.clone()).schedule(), &provider, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_without_a_signal_arrives_with_a_beat() {
    let provider = Scripted::new(|_, _| Does::AnswerLater);
    check_pause_and_resume(Scene::new(provider.clone()).schedule(), &provider, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_has_spent_its_budget_is_paused_and_goes_on_with_a_higher_one() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let scene = Scene::new(provider.clone()).schedule();
    let limits = BatchLimits { max_cost: Some(COST.times(50)), ..BatchLimits::default() };
    let batch = scene.submit_with(400, limits).await;
    let worker = scene.worker(4).await;
    eventually("the budget pauses it", async || {
        matches!(scene.batch(batch).await.state, BatchState::Paused { reason: PauseReason::Budget })
    })
    .await;
    eventually("everything is let go of", async || scene.counts(batch).await.leased == 0).await;
    let begun = provider.begun();
    assert!((50..=54).contains(&begun), "{begun} calls: at most those under way end above the limit");
    assert_eq!(scene.counts(batch).await.totals.cost, COST.times(begun as u64));
    let more = BatchLimits { max_cost: Some(COST.times(1_000)), ..limits };
    scene.engine.store.set_limits(&scene.tenant, batch, more).await.unwrap();
    scene.steer(batch, BatchEvent::Resume).await;
    Scene::check_all_succeeded(&scene.ended(batch, BatchState::Completed).await, 400);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_first_items_all_fail_for_a_cause_outside_the_rows_is_paused() {
    for guard in [true, false] {
        let provider = Scripted::new(|_, _| Does::Fail(FailureKind::ModelUnavailable));
        let scene = Scene::new(provider.clone()).schedule();
        let batch = scene.submit_with(400, BatchLimits { guard, ..BatchLimits::default() }).await;
        let worker = scene.worker(4).await;
        if guard {
            eventually("the guard pauses it", async || {
                let state = scene.batch(batch).await.state;
                matches!(
                    state,
                    BatchState::Paused {
                        reason: PauseReason::Suspect { kind: FailureKind::ModelUnavailable, .. }
                    }
                )
            })
            .await;
            eventually("everything is let go of", async || scene.counts(batch).await.leased == 0).await;
            let begun = provider.begun();
            assert!((GUARD_SAMPLE as usize..GUARD_SAMPLE as usize + 8).contains(&begun), "{begun} calls");
        } else {
            let counts = scene.ended(batch, BatchState::Completed).await;
            assert_eq!(counts.failed[&FailureKind::ModelUnavailable], 400);
        }
        scene.stop(worker).await;
    }
}
