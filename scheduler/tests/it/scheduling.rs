//! What is admitted in which order, what is woken, hinted again, sealed, closed and declared dead.

use std::time::Duration;

use promptmill_domain::{BatchEvent, BatchLimits, BatchState, PauseReason, Release};
use promptmill_ports::{MemoryHub, Settled, Signal};
use promptmill_scheduler::{Scheduler, SchedulerConfig};

use crate::support::{SLOTS, Scene, eventually};

#[tokio::test]
async fn a_batch_of_higher_priority_is_served_first_and_equals_in_turn() {
    let scene = Scene::on(MemoryHub::new()).await;
    let low = scene.submit(8, 0).await;
    let (one, two) = (scene.submit(32, 5).await, scene.submit(32, 5).await);
    let scheduler = Scheduler::start(scene.engine.clone());
    let mut order = Vec::new();
    while order.len() < 72 {
        scene.beat().await;
        // One at a time, so that there is room for one more chunk then.
        let hint = scene.hints(1).await;
        for lease in scene.claim(&hint).await {
            scene.finish(&lease).await;
            order.push(lease.head.chunk.batch);
        }
        eventually("the window is filled up", async || {
            let left = 72 - order.len();
            scene.engine.queue.depth().await.unwrap() >= left.min(32)
        })
        .await;
    }
    scheduler.stop().await;
    let first_low = order.iter().position(|batch| *batch == low).unwrap();
    assert_eq!(first_low, 64, "a lower priority comes when nothing of a higher one is left");
    for batch in [one, two] {
        let among_first = order[..48].iter().filter(|admitted| **admitted == batch).count();
        assert!((16..=32).contains(&among_first), "{among_first} of the first 48");
    }
}

#[tokio::test]
async fn a_batch_that_has_nothing_ready_does_not_wait_behind_a_queue_full_of_its_equals() {
    let scene = Scene::on(MemoryHub::new()).await;
    let slow = scene.submit(32, 0).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    scene.queued(32).await;
    let other = scene.submit(8, 0).await;
    // However slowly the queue is emptied, the other batch always has a chunk in it until it is done.
    for chunks_left in (0..8).rev() {
        eventually("a chunk of the other batch is ready", async || {
            scene.beat().await;
            let ready = scene.engine.store.ready(None, 512).await.unwrap();
            ready.iter().any(|chunk| chunk.batch == other)
        })
        .await;
        let ready = scene.engine.store.ready(None, 512).await.unwrap();
        let chunk = ready.iter().find(|chunk| chunk.batch == other).unwrap();
        assert_eq!(ready.iter().filter(|chunk| chunk.batch == slow).count(), 32, "{chunks_left}");
        let leases = scene.claim(&[*chunk]).await;
        scene.finish(&leases[0]).await;
    }
    scheduler.stop().await;
}

#[tokio::test]
async fn a_batch_of_higher_priority_does_not_wait_behind_a_full_queue() {
    let scene = Scene::on(MemoryHub::new()).await;
    let first = scene.submit(32, 0).await;
    let other = scene.submit(32, 0).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    scene.queued(32).await;
    let urgent = scene.submit(2, 9).await;
    scene.queued(34).await;
    assert!(scene.hints(2).await.iter().all(|chunk| chunk.batch == urgent));
    // What was admitted already comes first too once its batch does.
    scene.set_limits(other, BatchLimits { priority: 5, ..BatchLimits::default() }).await;
    eventually("its chunks are first", async || {
        let hint = scene.hints(1).await;
        hint[0].batch == other
    })
    .await;
    assert_ne!(first, other);
    scheduler.stop().await;
}

#[tokio::test]
async fn no_more_batches_of_a_tenant_run_than_may() {
    let scene = Scene::on(MemoryHub::new()).await;
    let (one, two, urgent) = (scene.submit(2, 0).await, scene.submit(2, 0).await, scene.submit(2, 3).await);
    let config = SchedulerConfig { running_batches: Some(1), ..SchedulerConfig::default() };
    let scheduler = Scheduler::with(scene.engine.clone(), config);
    for batch in [urgent, one, two] {
        for _ in 0..2 {
            let hint = scene.hints(1).await;
            assert_eq!(hint[0].batch, batch);
            for lease in scene.claim(&hint).await {
                scene.finish(&lease).await;
            }
        }
        scene.ended(batch, BatchState::Completed).await;
    }
    scheduler.stop().await;
}

#[tokio::test]
async fn a_batch_whose_deadline_passes_expires_even_while_it_is_paused() {
    let scene = Scene::on(MemoryHub::new()).await;
    let (running, paused) = (scene.submit(4, 0).await, scene.submit(4, 0).await);
    scene.steer(paused, BatchEvent::Pause(PauseReason::Requested)).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    let deadline_ms = Some(scene.engine.clock.now_ms() + 3_600_000);
    for batch in [running, paused] {
        scene.set_limits(batch, BatchLimits { deadline_ms, ..BatchLimits::default() }).await;
    }
    let lease = scene.claim(&scene.hints(1).await).await.remove(0);
    scene.finish(&lease).await;
    assert_eq!(scene.batch_state(running).await, BatchState::Running);
    scene.clock.advance_ms(3_600_000);
    assert_eq!(scene.ended(running, BatchState::Expired).await.expired, 3);
    assert_eq!(scene.ended(paused, BatchState::Expired).await.expired, 4);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_submit_that_was_cut_short_is_finished() {
    let scene = Scene::on(MemoryHub::new()).await;
    let batch = scene.draft(3, |_| {}).await;
    scene.engine.store.begin_submit(&scene.tenant, batch).await.unwrap();
    let config = SchedulerConfig { finish_submit_after: Duration::ZERO, ..SchedulerConfig::default() };
    let scheduler = Scheduler::with(scene.engine.clone(), config);
    let mut done = 0;
    while done < 3 {
        for lease in scene.claim(&scene.hints(3).await).await {
            scene.finish(&lease).await;
            done += 1;
        }
    }
    assert_eq!(scene.ended(batch, BatchState::Completed).await.succeeded, 3);
    scheduler.stop().await;
}

#[tokio::test]
async fn workers_are_told_of_the_first_hints_of_a_batch_beside_others_and_not_of_further_ones() {
    let scene = Scene::on(MemoryHub::new()).await;
    scene.beat().await;
    let mut signals = scene.engine.signals.subscribe();
    let scheduler = Scheduler::start(scene.engine.clone());
    let submit = async || {
        // Four times what may be hinted at the same time.
        let batch = scene.submit(8 * SLOTS, 0).await;
        scene.engine.signals.publish(Signal::BatchQueued(batch)).await.unwrap();
        batch
    };
    let told = |signals: &mut tokio::sync::broadcast::Receiver<Signal>| {
        std::iter::from_fn(|| signals.try_recv().ok()).filter(|signal| *signal == Signal::WorkQueued).count()
    };
    let large = submit().await;
    eventually("the first batch runs", async || scene.batch_state(large).await == BatchState::Running).await;
    assert_eq!(told(&mut signals), 0, "an idle worker waits at the queue");
    let other = submit().await;
    while signals.recv().await.unwrap() != Signal::WorkQueued {}
    assert!(scene.ready(other).await > 0, "it is told behind the hints");
    scene.work_through(64).await;
    for batch in [large, other] {
        scene.ended(batch, BatchState::Completed).await;
    }
    assert_eq!(told(&mut signals), 0);
    scheduler.stop().await;
}

#[tokio::test]
async fn workers_are_told_of_a_batch_that_is_let_in_together_with_further_chunks_of_the_only_other_one() {
    let scene = Scene::on(MemoryHub::new()).await;
    scene.beat().await;
    let mut signals = scene.engine.signals.subscribe();
    // Nothing is looked at that no signal tells of.
    let config = SchedulerConfig { poll: Duration::from_secs(600), ..SchedulerConfig::default() };
    let large = scene.submit(8 * SLOTS, 0).await;
    let scheduler = Scheduler::with(scene.engine.clone(), config);
    eventually("the large batch runs", async || scene.batch_state(large).await == BatchState::Running).await;
    scene.queued(4).await;
    assert_eq!(scene.claim(&scene.hints(2).await).await.len(), 2);
    let other = scene.submit(8, 0).await;
    scene.engine.signals.publish(Signal::BatchQueued(other)).await.unwrap();
    while signals.recv().await.unwrap() != Signal::WorkQueued {}
    assert_eq!(scene.ready(other).await, 8);
    assert!(scene.ready(large).await > 2, "there was room for one more of it as well");
    scheduler.stop().await;
}

#[tokio::test]
async fn hints_that_are_lost_are_put_back() {
    let scene = Scene::on(MemoryHub::new()).await;
    let batch = scene.submit(8, 0).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    let mut lost = 0;
    while lost < 8 {
        lost += scene.hints(8).await.len();
    }
    let mut done = 0;
    while done < 8 {
        let hints = scene.hints(8).await;
        for lease in scene.claim(&hints).await {
            assert_eq!(scene.finish(&lease).await, Settled::Recorded { done: true });
            done += 1;
        }
    }
    assert_eq!(scene.ended(batch, BatchState::Completed).await.succeeded, 8);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_batch_is_closed_although_no_signal_comes() {
    let scene = Scene::on(MemoryHub::new()).await;
    let batch = scene.submit(3, 0).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    let mut done = 0;
    while done < 3 {
        let hints = scene.hints(3).await;
        for lease in scene.claim(&hints).await {
            // Nothing is published.
            scene.finish(&lease).await;
            done += 1;
        }
    }
    scene.ended(batch, BatchState::Completed).await;
    scheduler.stop().await;
}

#[tokio::test]
async fn a_parked_chunk_is_woken_when_it_is_due() {
    let scene = Scene::on(MemoryHub::new()).await;
    let batch = scene.submit(1, 0).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    let hints = scene.hints(1).await;
    let lease = scene.claim(&hints).await.remove(0);
    let due_ms = scene.engine.clock.now_ms() + 300;
    scene.settle(&lease, vec![], Release::ParkUntil(due_ms)).await;
    let woken = scene.hints(1).await;
    assert!(scene.engine.clock.now_ms() >= due_ms);
    assert_eq!(woken, hints);
    assert_eq!(scene.claim(&woken).await.len(), 1);
    assert_eq!(scene.counts(batch).await.leased, 1);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_cancelled_batch_is_sealed_and_closed_and_the_late_settle_is_fenced() {
    let scene = Scene::on(MemoryHub::new()).await;
    let batch = scene.submit(4, 0).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    let lease = scene.claim(&scene.hints(1).await).await.remove(0);
    scene.steer(batch, BatchEvent::Cancel).await;
    let counts = scene.ended(batch, BatchState::Cancelled).await;
    assert_eq!((counts.cancelled, counts.succeeded), (4, 0));
    assert_eq!(scene.finish(&lease).await, Settled::Fenced);
    assert_eq!(scene.counts(batch).await, counts);
    scheduler.stop().await;
}

#[tokio::test]
async fn nothing_of_a_paused_batch_is_admitted_or_hinted_until_it_is_resumed() {
    let scene = Scene::on(MemoryHub::new()).await;
    let paused = scene.submit(4, 9).await;
    let pause = BatchEvent::Pause(PauseReason::Requested);
    scene.steer(paused, pause).await;
    let other = scene.submit(4, 0).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    let mut seen = 0;
    while seen < 4 {
        let hints = scene.hints(4).await;
        assert!(hints.iter().all(|chunk| chunk.batch == other));
        seen += scene.claim(&hints).await.len();
    }
    scene.steer(paused, BatchEvent::Resume).await;
    assert_eq!(scene.hints(1).await[0].batch, paused);
    scheduler.stop().await;
}

#[tokio::test]
async fn chunks_of_a_session_that_died_go_on_elsewhere() {
    let scene = Scene::on(MemoryHub::new()).await;
    let batch = scene.submit(2, 0).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    let mut held = 0;
    while held < 2 {
        held += scene.claim(&scene.hints(2).await).await.len();
    }
    // The session never beats.
    eventually("it is declared dead", async || scene.engine.store.sessions().await.unwrap().is_empty()).await;
    assert_eq!(scene.counts(batch).await.leased, 0);
    assert!(!scene.hints(2).await.is_empty());
    scheduler.stop().await;
}

#[tokio::test]
async fn two_schedulers_beside_each_other_admit_and_close_once() {
    let scene = Scene::on(MemoryHub::new()).await;
    let batch = scene.submit(64, 0).await;
    let schedulers = [Scheduler::start(scene.engine.clone()), Scheduler::start(scene.engine.clone())];
    let mut done = 0;
    while done < 32 {
        let hints = scene.hints(32).await;
        for lease in scene.claim(&hints).await {
            scene.finish(&lease).await;
            done += 1;
        }
    }
    assert_eq!(scene.ended(batch, BatchState::Completed).await.succeeded, 64);
    for scheduler in schedulers {
        tokio::time::timeout(Duration::from_secs(20), scheduler.stop()).await.unwrap();
    }
}
