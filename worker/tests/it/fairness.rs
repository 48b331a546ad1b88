//! A batch that is limited or slow, and what it leaves to others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use promptmill_domain::{BatchEvent, BatchId, BatchLimits, BatchState, PauseReason};
use promptmill_ports::{MemoryHub, Signal};

use crate::failing_store::{FailingStore, Fate};
use crate::provider::{Does, Scripted};
use crate::support::{Scene, eventually};

fn at_most(calls: u32) -> BatchLimits {
    BatchLimits { max_concurrency: Some(calls), ..BatchLimits::default() }
}

async fn set_limits(scene: &Scene, batch: BatchId, limits: BatchLimits, signal: bool) {
    scene.engine.store.set_limits(&scene.tenant, batch, limits).await.unwrap();
    if signal {
        scene.engine.signals.publish(Signal::BatchChanged(batch)).await.unwrap();
    }
}

/// Waits until the worker has certainly heard of what was changed, without any signal too: what a beat answers is read before the next.
async fn heard(scene: &Scene) {
    let beat = async || scene.engine.store.sessions().await.unwrap()[0].beat;
    let now = beat().await;
    eventually("two beats went by", async || beat().await >= now + 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_makes_as_many_calls_at_once_as_it_may_and_a_change_holds_while_it_runs() {
    for signal in [true, false] {
        let provider = Scripted::new(|_, _| Does::AnswerLater);
        let scene = Scene::new(provider.clone()).schedule();
        let batch = scene.submit_with(1_000, at_most(3)).await;
        let worker = scene.worker(16).await;
        eventually("it runs", async || provider.now() == 3).await;
        provider.release(50);
        eventually("fifty are through", async || scene.counts(batch).await.succeeded == 50).await;
        assert_eq!(provider.take_most(), 3);
        set_limits(&scene, batch, at_most(7), signal).await;
        eventually("the higher limit holds", async || provider.now() == 7).await;
        set_limits(&scene, batch, at_most(2), signal).await;
        heard(&scene).await;
        eventually("calls above the lower limit end and are not followed by others", async || {
            if provider.now() > 2 {
                provider.release(1);
            }
            provider.now() <= 2
        })
        .await;
        provider.take_most();
        let before = scene.counts(batch).await.succeeded;
        provider.release(50);
        eventually("fifty more are through", async || scene.counts(batch).await.succeeded >= before + 50)
            .await;
        assert_eq!(provider.take_most(), 2);
        set_limits(&scene, batch, BatchLimits::default(), signal).await;
        eventually("without a limit every place is used", async || provider.now() == 16).await;
        provider.release(2_000);
        Scene::check_all_succeeded(&scene.ended(batch, BatchState::Completed).await, 1_000);
        assert_eq!(provider.begun(), 1_000);
        scene.stop(worker).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limited_batch_whose_calls_hang_starves_nobody() {
    let (stuck, quick) =
        (Scripted::new(|_, _| Does::AnswerLater), Scripted::named("quick", |_, _| Does::Answer));
    let scene = Scene::among(vec![stuck.clone(), quick.clone()]).schedule();
    let limited = scene.submit_with(5_000, at_most(2)).await;
    let worker = scene.worker(4).await;
    eventually("it runs", async || stuck.now() == 2).await;
    let other = scene.submit_to(&quick, 1_000, BatchLimits::default()).await;
    Scene::check_all_succeeded(&scene.ended(other, BatchState::Completed).await, 1_000);
    let counts = scene.counts(limited).await;
    assert_eq!((stuck.begun(), counts.succeeded), (2, 0));
    // What the worker took of it is little beside the whole.
    assert!(counts.leased <= 1_000, "{counts:?}");
    stuck.release(10_000);
    Scene::check_all_succeeded(&scene.ended(limited, BatchState::Completed).await, 5_000);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_calls_are_slow_shares_slots_and_places_with_one_that_came_later() {
    let slow = Scripted::new(|_, _| Does::AnswerLater);
    let quick = Scripted::named("quick", |_, _| Does::Answer);
    let scene = Scene::among(vec![slow.clone(), quick.clone()]).schedule();
    let first = scene.submit(5_000).await;
    let worker = scene.worker(4).await;
    eventually("it has every place", async || slow.now() == 4).await;
    let second = scene.submit_to(&quick, 40, BatchLimits::default()).await;
    eventually("items of both wait", async || {
        let reports = scene.reports().await;
        let mut batches = reports.iter().flat_map(|report| &report.batches);
        batches.any(|report| report.batch == second && report.waiting_place == 40)
    })
    .await;
    // A place that comes free goes to the other batch every second time, and does not stay with the one whose queue is long.
    slow.release(50);
    Scene::check_all_succeeded(&scene.ended(second, BatchState::Completed).await, 40);
    assert!(slow.begun() <= 54 && scene.counts(first).await.succeeded <= 50);
    scene.steer(first, BatchEvent::Pause(PauseReason::Requested)).await;
    slow.release(10_000);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_other_work_a_short_batch_is_claimed_at_once_and_of_a_long_one_no_more_than_is_of_use() {
    let slow = Scripted::new(|_, _| Does::AnswerLater);
    let claims = Arc::new(AtomicU32::new(0));
    let scene = Scene::with(MemoryHub::new(), slow.clone(), |store| {
        let claims = claims.clone();
        Arc::new(FailingStore::new(store, move |method| {
            claims.fetch_add(u32::from(method == "claim"), Ordering::SeqCst);
            Fate::Works
        }))
    });
    scene.submit(1_000).await;
    scene.step().await;
    let worker = scene.worker(4).await;
    eventually("the first batch has every place", async || slow.now() == 4).await;
    let settled_down = async || {
        let before = claims.load(Ordering::SeqCst);
        heard(&scene).await;
        claims.load(Ordering::SeqCst) == before
    };
    eventually("nothing more is claimed of it", settled_down).await;
    let begun = claims.load(Ordering::SeqCst);
    let short = scene.submit(10).await;
    scene.step().await;
    eventually("all of the short one is claimed", async || scene.counts(short).await.leased == 10).await;
    assert_eq!(claims.load(Ordering::SeqCst), begun + 1);
    let long = scene.submit(5_000).await;
    scene.step().await;
    eventually("some of the long one is claimed", async || scene.counts(long).await.leased > 0).await;
    eventually("nothing more is claimed of it", settled_down).await;
    assert_eq!(scene.counts(long).await.leased, 5_000_u64.div_ceil(32));
    slow.release(10_000);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_comes_beside_a_batch_with_every_place_need_not_wait_for_its_calls() {
    let slow = Scripted::new(|_, _| Does::AnswerLater);
    let quick = Scripted::named("quick", |_, _| Does::Answer);
    let scene = Scene::among(vec![slow.clone(), quick.clone()]).schedule();
    scene.submit(1_000).await;
    let worker = scene.worker(16).await;
    eventually("the first batch has every place", async || slow.now() == 16).await;
    let other = scene.submit_to(&quick, 40, BatchLimits::default()).await;
    Scene::check_all_succeeded(&scene.ended(other, BatchState::Completed).await, 40);
    assert_eq!((slow.begun(), slow.take_most()), (16, 16));
    assert!((1..=4).contains(&quick.take_most()));
    slow.release(10_000);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_lane_starves_no_other_lane_of_the_worker() {
    let (full, quick) =
        (Scripted::new(|_, _| Does::AnswerLater), Scripted::named("quick", |_, _| Does::Answer));
    let scene = Scene::among(vec![full.clone(), quick.clone()]).schedule();
    scene.engine.limiter.set_concurrency(&scene.lane(), Some(1)).await.unwrap();
    let first = scene.submit(5_000).await;
    let worker = scene.worker(4).await;
    eventually("the lane is full", async || {
        scene
            .reports()
            .await
            .iter()
            .flat_map(|report| &report.batches)
            .any(|report| report.waiting_lane > 100)
    })
    .await;
    let other = scene.submit_to(&quick, 1_000, BatchLimits::default()).await;
    Scene::check_all_succeeded(&scene.ended(other, BatchState::Completed).await, 1_000);
    assert_eq!((full.begun(), scene.counts(first).await.succeeded), (1, 0));
    full.release(10_000);
    scene.stop(worker).await;
}
