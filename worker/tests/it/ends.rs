//! Batches that end: on a hub that misbehaves, with several workers, with items that panic, with large rows.

use std::time::Duration;

use promptmill_domain::{BatchLimits, BatchState, FailureKind, ItemCode};
use promptmill_ports::hub::{Faults, FaultyHub};

use crate::provider::{COST, Does, Scripted};
use crate::support::{Scene, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_ends_on_a_hub_that_drops_repeats_delays_forgets_and_fails() {
    let faults = Faults { drop: 0.3, repeat: 0.3, delay: 0.3, forget: 0.2, fail: 0.2 };
    for seed in 1..=3 {
        let provider = Scripted::new(|_, _| Does::Answer);
        let scene = Scene::on(FaultyHub::new(seed, faults), provider.clone()).schedule();
        let batch = scene.submit(2_000).await;
        let worker = scene.worker(16).await;
        let counts = scene.ended(batch, BatchState::Completed).await;
        Scene::check_all_succeeded(&counts, 2_000);
        scene.check_one_outcome_each(batch, 2_000).await;
        assert_eq!((provider.begun(), provider.rows_begun(), provider.most_answered()), (2_000, 2_000, 1));
        assert_eq!((counts.totals.calls, counts.totals.cost), (2_000, COST.times(2_000)));
        scene.stop(worker).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_ends_on_a_hub_that_is_nearly_always_away() {
    let faults = Faults { drop: 0.5, repeat: 0.0, delay: 0.0, forget: 0.0, fail: 0.9 };
    let scene = Scene::on(FaultyHub::new(1, faults), Scripted::new(|_, _| Does::Answer)).schedule();
    let batch = scene.submit(100).await;
    let worker = scene.worker(4).await;
    Scene::check_all_succeeded(&scene.ended(batch, BatchState::Completed).await, 100);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_share_a_batch_and_call_no_item_twice() {
    let provider = Scripted::new(|_, _| Does::AnswerLater);
    let scene = Scene::new(provider.clone()).schedule();
    let batch = scene.submit(2_000).await;
    let (one, two) = (scene.worker(8).await, scene.worker(8).await);
    eventually("both workers call", async || one.calls_in_flight() == 8 && two.calls_in_flight() == 8).await;
    assert_eq!(provider.take_most(), 16);
    provider.release(2_000);
    let counts = scene.ended(batch, BatchState::Completed).await;
    Scene::check_all_succeeded(&counts, 2_000);
    assert_eq!((provider.begun(), provider.rows_begun()), (2_000, 2_000));
    scene.stop(one).await;
    scene.stop(two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_panics_fails_alone_and_the_worker_goes_on() {
    let provider = Scripted::new(|row, _| if row % 50 == 7 { Does::Panic } else { Does::Answer });
    let scene = Scene::new(provider.clone()).schedule();
    let batch = scene.submit(200).await;
    let worker = scene.worker(8).await;
    let counts = scene.ended(batch, BatchState::Completed).await;
    assert_eq!((counts.succeeded, counts.failed[&FailureKind::Internal]), (196, 4));
    let failed =
        scene.outcomes(batch).await.into_iter().filter(|outcome| outcome.code != ItemCode::Succeeded);
    assert!(failed.map(|outcome| outcome.index).eq([7, 57, 107, 157]));
    assert_eq!(worker.calls_in_flight(), 0, "a panic gives its place back");
    let next = scene.submit(20).await;
    assert_eq!(scene.ended(next, BatchState::Completed).await.succeeded, 19);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_the_provider_cost_attempts_and_not_the_batch() {
    let provider = Scripted::new(|row, before| match (row % 4, before) {
        (1, 0) => Does::Fail(FailureKind::EmptyReply),
        (2, _) => Does::Fail(FailureKind::ContentRefused),
        _ => Does::Answer,
    });
    let scene = Scene::new(provider).schedule();
    let batch = scene.submit(400).await;
    let worker = scene.worker(32).await;
    let counts = scene.ended(batch, BatchState::Completed).await;
    assert_eq!((counts.succeeded, counts.failed[&FailureKind::ContentRefused]), (300, 100));
    assert_eq!(counts.totals.calls, 500, "failed calls count");
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_a_lane_that_stands_still_wake_when_it_goes_on() {
    let provider = Scripted::new(
        |row, before| if row == 0 && before == 0 { Does::SlowDown(6_000) } else { Does::Answer },
    );
    let scene = Scene::new(provider.clone()).schedule();
    let batch = scene.submit(64).await;
    let worker = scene.worker(1).await;
    eventually("chunks are parked", async || scene.counts(batch).await.parked > 0).await;
    let counts = scene.ended(batch, BatchState::Completed).await;
    Scene::check_all_succeeded(&counts, 64);
    assert_eq!(counts.totals.calls, 65, "nothing was called while the lane stood still");
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_in_hand_are_bounded_by_their_bytes() {
    // 130 rows of 1 MB fit the slots; 64 MiB of room do not hold half of them.
    let provider = Scripted::new(|_, _| Does::AnswerLater);
    let scene = Scene::new(provider.clone()).schedule();
    let rows = (0..130).map(|row| format!("{row}{}", "x".repeat(1_000_000)));
    let batch = scene.submit_rows(rows, BatchLimits::default()).await;
    let worker = scene.worker(130).await;
    eventually("rows are called", async || provider.now() >= 40).await;
    // Whatever is begun next needs room that is given back first.
    provider.release(10);
    eventually("more are called", async || provider.begun() >= 50).await;
    assert!(provider.take_most() < 68, "more rows in hand than there is room for");
    provider.release(1_000);
    Scene::check_all_succeeded(&scene.ended(batch, BatchState::Completed).await, 130);
    assert!(provider.take_most() < 68);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_nothing_to_do_stops_at_once() {
    let scene = Scene::new(Scripted::new(|_, _| Does::Answer));
    let worker = scene.worker(4).await;
    tokio::time::timeout(Duration::from_secs(20), scene.stop(worker)).await.unwrap();
    assert!(scene.engine.store.sessions().await.unwrap().is_empty());
}
