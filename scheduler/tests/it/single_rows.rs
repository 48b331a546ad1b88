//! Batches of a single row: hinted at once, admitted only where they are not done soon.

use promptmill_domain::{BatchEvent, BatchState, PauseReason, Release};
use promptmill_ports::{MemoryHub, Signal};
use promptmill_scheduler::{Scheduler, SchedulerConfig};

use crate::support::{Scene, eventually};

#[tokio::test]
async fn a_single_row_is_hinted_before_it_is_admitted_and_its_batch_runs_soon() {
    let scene = Scene::on(MemoryHub::new()).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    let mut seen_queued = 0;
    for _ in 0..3 {
        scene.beat().await;
        let batch = scene.submit(1, 0).await;
        scene.engine.signals.publish(Signal::BatchQueued(batch)).await.unwrap();
        let hint = scene.hints(1).await;
        seen_queued += usize::from(scene.batch_state(batch).await == BatchState::Queued);
        let lease = scene.claim(&hint).await.remove(0);
        eventually("the batch runs", async || scene.batch_state(batch).await == BatchState::Running).await;
        assert_eq!(scene.ready(batch).await, 0);
        scene.finish(&lease).await;
        scene.ended(batch, BatchState::Completed).await;
    }
    // A machine that stands still between the hint and the look lets one be admitted before, and hardly all.
    assert!(seen_queued > 0);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_single_row_whose_hint_was_lost_is_hinted_again() {
    let scene = Scene::on(MemoryHub::new()).await;
    let batch = scene.submit(1, 0).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    for _ in 0..3 {
        assert_eq!(scene.hints(1).await[0].batch, batch);
        scene.beat().await;
    }
    scene.work_through(1).await;
    scene.ended(batch, BatchState::Completed).await;
    scheduler.stop().await;
}

#[tokio::test]
async fn a_single_row_whose_batch_was_paused_when_a_worker_took_its_hint_goes_on_when_it_is_resumed() {
    let scene = Scene::on(MemoryHub::new()).await;
    // With signals, and without: then the pause is seen by a look, or by nobody.
    for is_told in [true, false] {
        let batch = scene.submit(1, 0).await;
        let scheduler = Scheduler::start(scene.engine.clone());
        let hint = scene.hints(1).await;
        let steer = async |event| {
            scene.steer(batch, event).await;
            if is_told {
                scene.engine.signals.publish(Signal::BatchChanged(batch)).await.unwrap();
            }
        };
        steer(BatchEvent::Pause(PauseReason::Requested)).await;
        assert!(scene.claim(&hint).await.is_empty());
        steer(BatchEvent::Resume).await;
        scene.work_through(1).await;
        scene.ended(batch, BatchState::Completed).await;
        scheduler.stop().await;
    }
}

#[tokio::test]
async fn a_batch_that_a_worker_ended_makes_room_for_the_next_of_its_tenant() {
    let scene = Scene::on(MemoryHub::new()).await;
    // Of two rows each, so that nothing but signals has it look again: a single one is admitted after a moment.
    let mut batches = [scene.submit(2, 0).await, scene.submit(2, 0).await, scene.submit(2, 0).await];
    batches.sort_unstable();
    let poll = std::time::Duration::from_secs(3_600);
    let config = SchedulerConfig { running_batches: Some(1), poll, ..SchedulerConfig::default() };
    let scheduler = Scheduler::with(scene.engine.clone(), config);
    for batch in batches {
        scene.queued(2).await;
        let hints = scene.hints(6).await;
        assert!(hints.iter().all(|chunk| chunk.batch == batch), "{hints:?}");
        for lease in scene.claim(&hints).await {
            scene.finish(&lease).await;
        }
        let (store, now_ms) = (&scene.engine.store, scene.engine.clock.now_ms());
        assert_eq!(store.close(&scene.tenant, batch, now_ms).await.unwrap().unwrap().succeeded, 2);
        scene.engine.signals.publish(Signal::BatchEnded(batch)).await.unwrap();
    }
    scheduler.stop().await;
}

#[tokio::test]
async fn a_single_row_that_a_worker_settled_and_did_not_end_is_ended() {
    let scene = Scene::on(MemoryHub::new()).await;
    let batch = scene.submit(1, 0).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    scene.work_through(1).await;
    // As if its worker had died just then.
    scene.engine.signals.publish(Signal::ChunkDone(batch)).await.unwrap();
    assert_eq!(scene.ended(batch, BatchState::Completed).await.succeeded, 1);
    scheduler.stop().await;
}

#[tokio::test]
async fn single_rows_fill_the_window_like_any_other_chunk() {
    let scene = Scene::on(MemoryHub::new()).await;
    for _ in 0..200 {
        scene.submit(1, 0).await;
    }
    let scheduler = Scheduler::start(scene.engine.clone());
    let depth = async || scene.engine.queue.depth().await.unwrap();
    eventually("all that was hinted is admitted", async || {
        scene.beat().await;
        let hinted = depth().await;
        hinted > 0 && scene.engine.store.ready(None, 1_000).await.unwrap().len() == hinted
    })
    .await;
    // Twice the worker's slots at the most, however often it is counted meanwhile.
    assert!((32..=64).contains(&depth().await), "{}", depth().await);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_single_row_that_was_let_go_of_is_hinted_again() {
    let scene = Scene::on(MemoryHub::new()).await;
    let batch = scene.submit(1, 0).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    let lease = scene.claim(&scene.hints(1).await).await.remove(0);
    scene.settle(&lease, vec![], Release::LetGo).await;
    scene.work_through(1).await;
    assert_eq!(scene.ended(batch, BatchState::Completed).await.succeeded, 1);
    scheduler.stop().await;
}
