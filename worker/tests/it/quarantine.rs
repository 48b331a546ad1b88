//! Chunks whose holders died: one item at a time, and the killer is found.

use promptmill_domain::head::KILLER_AFTER_KILLS_ALONE;
use promptmill_domain::{BatchState, FailureKind, ItemCode};

use crate::provider::{Does, Scripted};
use crate::support::{Scene, eventually};

/// A batch of 320 rows has chunks of ten rows; this one is in the middle of the second.
const KILLER: u64 = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_item_that_kills_its_workers_fails_alone_and_every_other_one_succeeds() {
    let provider = Scripted::new(|row, _| if row == KILLER { Does::Hang } else { Does::Answer });
    let scene = Scene::new(provider.clone()).schedule();
    let batch = scene.submit(320).await;
    let mut deaths = 0;
    loop {
        let mut worker = scene.worker(16).await;
        eventually("the killer is called, or all is done", async || {
            provider.begun_of(KILLER) > deaths || scene.batch(batch).await.state.is_final()
        })
        .await;
        if scene.batch(batch).await.state.is_final() {
            scene.stop(worker).await;
            break;
        }
        // Nothing but the killer's chunk of ten is open, so that each death is its own.
        eventually("only the killer's chunk is left", async || {
            provider.now() == 1 && scene.counts(batch).await.succeeded >= 310
        })
        .await;
        deaths += 1;
        scene.bury(worker.session()).await;
        worker.ended().await;
        eventually("its call is given up", async || provider.now() == 0).await;
    }
    let counts = scene.ended(batch, BatchState::Completed).await;
    assert_eq!((counts.succeeded, counts.failed[&FailureKind::WorkerKiller]), (319, 1));
    let killer = scene.outcomes(batch).await.into_iter().find(|outcome| u64::from(outcome.index) == KILLER);
    assert_eq!(killer.map(|outcome| outcome.code), Some(ItemCode::Failed(FailureKind::WorkerKiller)));
    assert_eq!(deaths, 2 + KILLER_AFTER_KILLS_ALONE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_over_which_two_workers_died_run_one_item_at_a_time() {
    let provider = Scripted::new(|_, before| if before < 2 { Does::Hang } else { Does::Answer });
    let scene = Scene::new(provider.clone()).schedule();
    let batch = scene.submit(64).await;
    for deaths in 1..=2 {
        let mut worker = scene.worker(64).await;
        eventually("every row is called", async || (0..64).all(|row| provider.begun_of(row) == deaths)).await;
        scene.bury(worker.session()).await;
        worker.ended().await;
        eventually("its calls are given up", async || provider.now() == 0).await;
    }
    provider.take_most();
    let worker = scene.worker(64).await;
    let counts = scene.ended(batch, BatchState::Completed).await;
    Scene::check_all_succeeded(&counts, 64);
    // 32 chunks of two rows, all of them in quarantine: not even items of different chunks run beside each other.
    assert_eq!(provider.take_most(), 1);
    assert_eq!(provider.begun(), 3 * 64);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killer_takes_no_item_of_another_chunk_with_it() {
    // Every row is slow the first time, so that all chunks are held when the killer strikes; it strikes as soon as it is called.
    let provider = Scripted::new(|row, before| match (row, before) {
        (0, _) => Does::Hang,
        (_, 0..2) => Does::Hang,
        _ => Does::AnswerLater,
    });
    let scene = Scene::new(provider.clone()).schedule();
    let batch = scene.submit(64).await;
    for deaths in 1..=2 + KILLER_AFTER_KILLS_ALONE {
        let mut worker = scene.worker(64).await;
        eventually("the killer is called", async || {
            provider.release(64);
            provider.begun_of(0) == deaths && (deaths > 2 || provider.now() == 64)
        })
        .await;
        scene.bury(worker.session()).await;
        worker.ended().await;
        eventually("its calls are given up", async || provider.now() == 0).await;
    }
    provider.release(1_000);
    let worker = scene.worker(64).await;
    let counts = scene.ended(batch, BatchState::Completed).await;
    assert_eq!((counts.succeeded, counts.failed[&FailureKind::WorkerKiller]), (63, 1), "{counts:?}");
    scene.stop(worker).await;
}
