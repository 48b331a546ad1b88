//! A store that is away now and then, takes a step and does not say so, or refuses one chunk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use promptmill_domain::{BatchLimits, BatchState, PauseReason};
use promptmill_ports::MemoryHub;

use crate::failing_store::{FailingStore, Fate};
use crate::provider::{COST, Does, Scripted};
use crate::support::{Scene, eventually};

fn scene(provider: &Arc<Scripted>, fate: impl Fn(&str) -> Fate + Send + Sync + 'static) -> Scene {
    Scene::with(MemoryHub::new(), provider.clone(), |store| Arc::new(FailingStore::new(store, fate)))
        .schedule()
}

/// Every `n`-th call of these methods.
fn every(n: u32, methods: &'static [&'static str], fate: Fate) -> impl Fn(&str) -> Fate {
    let calls = AtomicU32::new(0);
    move |method| {
        let hit = methods.contains(&method) && calls.fetch_add(1, Ordering::SeqCst) % n == n - 1;
        if hit { fate } else { Fate::Works }
    }
}

const WORK: &[&str] = &["claim", "settle", "beat", "batch", "assignments"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_ends_on_a_store_that_is_away_now_and_then() {
    for fate in [Fate::FailsBefore, Fate::FailsAfter] {
        let provider = Scripted::new(|_, _| Does::Answer);
        let scene = scene(&provider, every(4, WORK, fate));
        let batch = scene.submit(1_000).await;
        let worker = scene.worker(16).await;
        let counts = scene.ended(batch, BatchState::Completed).await;
        Scene::check_all_succeeded(&counts, 1_000);
        assert_eq!((provider.begun(), counts.totals.calls), (1_000, 1_000), "after {fate:?}");
        scene.stop(worker).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_answer_was_lost_does_not_keep_its_chunks() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let first = AtomicBool::new(true);
    let scene = scene(&provider, move |method| {
        if method == "claim" && first.swap(false, Ordering::SeqCst) { Fate::FailsAfter } else { Fate::Works }
    });
    let batch = scene.submit(100).await;
    let worker = scene.worker(4).await;
    Scene::check_all_succeeded(&scene.ended(batch, BatchState::Completed).await, 100);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_that_are_refused_together_are_stored_one_by_one() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let scene = scene(&provider, every(2, &["settle"], Fate::RefusesSeveral));
    let batch = scene.submit(500).await;
    let worker = scene.worker(16).await;
    let counts = scene.ended(batch, BatchState::Completed).await;
    Scene::check_all_succeeded(&counts, 500);
    assert_eq!(counts.totals.calls, 500);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_the_store_did_not_take_is_ordered_again() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let scene = scene(&provider, {
        let refusals = AtomicU32::new(0);
        move |method| {
            if method == "steer" && refusals.fetch_add(1, Ordering::SeqCst) < 3 {
                Fate::FailsBefore
            } else {
                Fate::Works
            }
        }
    });
    let limits = BatchLimits { max_cost: Some(COST.times(10)), ..BatchLimits::default() };
    let batch = scene.submit_with(200, limits).await;
    let worker = scene.worker(4).await;
    eventually("the budget pauses it", async || {
        matches!(scene.batch(batch).await.state, BatchState::Paused { reason: PauseReason::Budget })
    })
    .await;
    assert!(provider.begun() <= 14);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_could_not_be_read_again_is_read_at_the_next_beat() {
    let provider = Scripted::new(|_, _| Does::AnswerLater);
    let broken = Arc::new(AtomicU32::new(0));
    let scene = scene(&provider, {
        let broken = broken.clone();
        // Only the worker reads a single batch here while the count runs.
        move |method| {
            let hit = method == "batch"
                && broken
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                    .is_ok();
            if hit { Fate::FailsBefore } else { Fate::Works }
        }
    });
    let batch = scene.submit(100).await;
    let worker = scene.worker(4).await;
    eventually("it runs", async || provider.now() == 4).await;
    broken.store(1, Ordering::SeqCst);
    scene.steer(batch, promptmill_domain::BatchEvent::Pause(PauseReason::Requested)).await;
    eventually("the worker failed to read it", async || broken.load(Ordering::SeqCst) == 0).await;
    // Calls under way hold their chunks, of four rows each.
    eventually("and lets go all the same", async || scene.counts(batch).await.leased <= 16).await;
    assert_eq!(provider.begun(), 4);
    provider.release(4);
    scene.stop(worker).await;
}
