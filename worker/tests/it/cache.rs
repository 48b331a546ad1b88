//! Rows that share replies: one call for all that ask the same, an outcome for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use promptmill_domain::{BatchId, BatchLimits, BatchState, CacheScope, Counts, FailureKind, Flag};
use promptmill_ports::{MemoryHub, Outlived, StoredOutcome, decode_outcome};

use crate::failing_store::{FailingStore, Fate};
use crate::provider::{COST, Does, Scripted};
use crate::support::{Scene, eventually};

/// So many rows, of which every `distinct` ask something of their own.
fn rows(count: u32, distinct: u32) -> impl Iterator<Item = String> {
    (0..count).map(move |row| format!("text {}", row % distinct))
}

async fn submit(scene: &Scene, cache: CacheScope, count: u32, distinct: u32) -> BatchId {
    scene.submit_sharing(cache, rows(count, distinct), BatchLimits::default()).await
}

#[track_caller]
fn check(counts: &Counts, rows: u64, calls: u64) {
    Scene::check_all_succeeded(counts, rows);
    assert_eq!((counts.totals.calls, counts.totals.cached), (calls, rows - calls));
    assert_eq!((counts.totals.cost, counts.totals.tokens.total()), (COST.times(calls), 3 * calls));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_equal_rows_makes_a_call_for_each_that_differs_and_has_an_outcome_of_each() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let scene = Scene::new(provider.clone()).schedule();
    let worker = scene.worker(16).await;
    let batch = submit(&scene, CacheScope::Batch, 1_000, 10).await;
    check(&scene.ended(batch, BatchState::Completed).await, 1_000, 10);
    assert_eq!(provider.begun(), 10);
    scene.check_one_outcome_each(batch, 1_000).await;
    let outcomes = scene.outcomes(batch).await;
    let is_cached = |outcome: &&StoredOutcome| {
        decode_outcome(outcome.body.as_ref().unwrap()).unwrap().flags == [Flag::Cached]
    };
    assert_eq!(outcomes.iter().filter(is_cached).count(), 990);
    // Another batch is another matter.
    let second = submit(&scene, CacheScope::Batch, 100, 10).await;
    check(&scene.ended(second, BatchState::Completed).await, 100, 10);
    let text = scene.engine.metrics.gather_text();
    assert!(text.contains("promptmill_cached_replies_total 1080"), "{text}");
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_a_tenant_share_across_workers_and_what_is_kept_outlives_them() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let scene = Scene::new(provider.clone()).schedule();
    let worker = scene.worker(8).await;
    let first = submit(&scene, CacheScope::Tenant, 60, 30).await;
    check(&scene.ended(first, BatchState::Completed).await, 60, 30);
    // What was called a moment before the end is kept, too.
    scene.stop(worker).await;
    let bytes = async || scene.engine.store.usage(&scene.tenant, 0).await.unwrap().bytes;
    let kept = bytes().await;
    while !scene.engine.store.delete(&scene.tenant, first).await.unwrap() {}
    assert!(bytes().await < kept && bytes().await > 0);
    let worker = scene.worker(8).await;
    let second = submit(&scene, CacheScope::Tenant, 90, 45).await;
    check(&scene.ended(second, BatchState::Completed).await, 90, 15);
    assert_eq!(provider.begun(), 45);
    let forgotten = AtomicU32::new(0);
    eventually("all 45 are with the store, and are forgotten", async || {
        let some =
            scene.engine.store.forget_replies(&Outlived::OfTenant(scene.tenant.clone())).await.unwrap();
        forgotten.fetch_add(some, Ordering::SeqCst) + some == 45
    })
    .await;
    let third = submit(&scene, CacheScope::Tenant, 5, 5).await;
    check(&scene.ended(third, BatchState::Completed).await, 5, 5);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_of_the_cache_costs_nothing_of_a_limit() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let scene = Scene::new(provider.clone()).schedule();
    let worker = scene.worker(4).await;
    let limits = BatchLimits { max_cost: Some(COST.times(20)), ..BatchLimits::default() };
    let batch = scene.submit_sharing(CacheScope::Batch, rows(400, 20), limits).await;
    check(&scene.ended(batch, BatchState::Completed).await, 400, 20);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_fails_now_and_then_costs_calls_and_no_outcome() {
    for fate in [Fate::FailsBefore, Fate::FailsAfter] {
        let provider = Scripted::new(|_, _| Does::Answer);
        let calls = AtomicU32::new(0);
        let fate = move |method: &str| {
            let is_of_it = matches!(method, "replies" | "keep_replies");
            if is_of_it && calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                fate
            } else {
                Fate::Works
            }
        };
        let wrap = |store| Arc::new(FailingStore::new(store, fate)) as _;
        let scene = Scene::with(MemoryHub::new(), provider.clone(), wrap).schedule();
        let worker = scene.worker(16).await;
        let batch = submit(&scene, CacheScope::Batch, 600, 300).await;
        let counts = scene.ended(batch, BatchState::Completed).await;
        check(&counts, 600, provider.begun() as u64);
        assert!((300..450).contains(&provider.begun()), "{} calls", provider.begun());
        scene.check_one_outcome_each(batch, 600).await;
        scene.stop(worker).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_wait_for_a_call_of_a_worker_that_dies_are_called_by_the_next() {
    // Each text hangs in the hands of the first worker.
    let first = Arc::new(AtomicU32::new(0));
    let provider = Scripted::new({
        let first = first.clone();
        move |_, _| if first.fetch_add(1, Ordering::SeqCst) < 3 { Does::Hang } else { Does::Answer }
    });
    let scene = Scene::new(provider.clone()).schedule();
    let batch = submit(&scene, CacheScope::Batch, 90, 3).await;
    let dead = scene.worker(8).await;
    eventually("all of it waits for three calls", async || provider.now() == 3).await;
    let second = scene.worker(8).await;
    scene.bury(dead.session()).await;
    let counts = scene.ended(batch, BatchState::Completed).await;
    Scene::check_all_succeeded(&counts, 90);
    // The calls of the dead are in no outcome.
    assert_eq!((counts.totals.calls, counts.totals.cached), (3, 87));
    scene.check_one_outcome_each(batch, 90).await;
    scene.stop(second).await;
    drop(dead);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_paused_whose_rows_all_fail_alike_although_the_cache_has_some() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let scene = Scene::new(provider.clone()).schedule();
    let worker = scene.worker(4).await;
    let first = submit(&scene, CacheScope::Tenant, 5, 5).await;
    check(&scene.ended(first, BatchState::Completed).await, 5, 5);
    provider.change(|_, _| Does::Fail(FailureKind::ModelUnavailable));
    let batch = submit(&scene, CacheScope::Tenant, 2_000, 2_000).await;
    eventually("it is paused", async || matches!(scene.batch(batch).await.state, BatchState::Paused { .. }))
        .await;
    assert!(provider.begun() < 100, "{} calls", provider.begun());
    scene.stop(worker).await;
}
