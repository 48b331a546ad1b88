//! Sessions that end: planned, declared dead, given up.

use std::time::Duration;

use promptmill_domain::BatchState;
use tokio_util::sync::CancellationToken;

use crate::provider::{Does, Scripted};
use crate::support::{Scene, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_session_was_buried_records_nothing_more_and_another_finishes() {
    let provider = Scripted::new(|_, before| if before == 0 { Does::AnswerLater } else { Does::Answer });
    let scene = Scene::new(provider.clone()).schedule();
    let batch = scene.submit(600).await;
    let mut dead = scene.worker(8).await;
    provider.release(100);
    eventually("it settled some", async || scene.counts(batch).await.succeeded >= 100).await;
    eventually("it is in the middle of others", async || provider.now() == 8).await;
    scene.bury(dead.session()).await;
    let settled = scene.counts(batch).await.succeeded;
    // Its calls come back after its death.
    provider.release(4);
    dead.ended().await;
    assert_eq!(scene.counts(batch).await.succeeded, settled, "a late settle is fenced");
    eventually("its calls are given up", async || provider.now() == 0).await;
    let begun = provider.begun();
    let begun_rows = provider.rows_begun();
    assert_eq!(begun, begun_rows);
    provider.release(10_000);
    let heir = scene.worker(8).await;
    let counts = scene.ended(batch, BatchState::Completed).await;
    Scene::check_all_succeeded(&counts, 600);
    scene.check_one_outcome_each(batch, 600).await;
    assert_eq!(provider.rows_begun(), 600);
    let begun_and_unsettled = begun - usize::try_from(settled).unwrap();
    assert_eq!(
        provider.begun(),
        600 + begun_and_unsettled,
        "only what was begun and unsettled is called again"
    );
    // Stopping what has ended by itself is no mistake.
    scene.stop(dead).await;
    scene.stop(heir).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_records_what_is_under_way_and_hands_back_the_rest_without_a_death() {
    let provider = Scripted::new(|_, _| Does::AnswerLater);
    let scene = Scene::new(provider.clone());
    let batch = scene.submit(600).await;
    scene.step().await;
    let worker = scene.worker(8).await;
    eventually("calls are under way", async || provider.now() == 8).await;
    // In order: the stop has begun before the first call comes back.
    let now = CancellationToken::new();
    tokio::join!(biased; worker.stop(&now), async { provider.release(8) });
    assert_eq!(provider.begun(), 8, "nothing begins during a stop");
    let counts = scene.counts(batch).await;
    assert_eq!((counts.succeeded, counts.leased, counts.open()), (8, 0, 592));
    let heads = scene.claim_all(batch).await;
    assert!(heads.iter().all(|head| head.kills == 0), "a planned stop is no death");
    assert_eq!(heads.iter().map(|head| u64::from(head.open())).sum::<u64>(), 592);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_may_not_wait_gives_its_calls_up_without_a_death() {
    let provider = Scripted::new(|_, _| Does::Hang);
    let scene = Scene::new(provider.clone());
    let batch = scene.submit(64).await;
    scene.step().await;
    let worker = scene.worker(8).await;
    eventually("calls are under way", async || provider.now() == 8).await;
    let now = CancellationToken::new();
    now.cancel();
    tokio::time::timeout(Duration::from_secs(20), worker.stop(&now)).await.unwrap();
    eventually("the calls are given up", async || provider.now() == 0).await;
    let heads = scene.claim_all(batch).await;
    assert_eq!((heads.len(), heads.iter().map(|head| head.kills).max()), (32, Some(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_stopped_many_times_calls_every_row_once() {
    let provider = Scripted::new(|_, _| Does::Answer);
    let scene = Scene::new(provider.clone()).schedule();
    let batch = scene.submit(2_000).await;
    for stops in 1..=5_u64 {
        let worker = scene.worker(4).await;
        eventually("it gets on", async || scene.counts(batch).await.succeeded >= stops * 100).await;
        scene.stop(worker).await;
    }
    let last = scene.worker(4).await;
    Scene::check_all_succeeded(&scene.ended(batch, BatchState::Completed).await, 2_000);
    assert_eq!((provider.begun(), provider.rows_begun()), (2_000, 2_000));
    scene.stop(last).await;
}
