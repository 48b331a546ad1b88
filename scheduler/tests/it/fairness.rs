//! Who is let in beside whom, from the submit to the hints that workers take.

use std::collections::HashMap;

use promptmill_domain::fairness::{AGING_MS, BULK};
use promptmill_domain::{BatchId, BatchReport, LaneId, SessionId, TenantId, WorkerReport};
use promptmill_ports::{MemoryHub, NewBatch, Signal};
use promptmill_scheduler::{Scheduler, SchedulerConfig};

use crate::support::{Scene, eventually};

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

/// One row a chunk.
fn row_by_row(new: &mut NewBatch) {
    new.spec.chunk_rows = 1;
}

/// Takes one hint and works through its chunk; answers its batch, unless the hint came twice.
async fn work(scene: &Scene) -> Option<BatchId> {
    let hint = scene.hints(1).await;
    let lease = scene.claim(&hint).await.pop()?;
    scene.finish(&lease).await;
    // There is room, which a worker says by what it has done.
    scene.engine.signals.publish(Signal::ChunkDone(lease.head.chunk.batch)).await.unwrap();
    Some(lease.head.chunk.batch)
}

#[tokio::test]
async fn ten_rows_of_one_tenant_beside_a_hundred_thousand_of_another_begin_within_a_few_chunks() {
    let scene = Scene::on(MemoryHub::new()).await;
    scene.tell(640, vec![]).await;
    let noisy = scene.submit_of(&tenant("noisy"), 100_000, |_| {}).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    for _ in 0..5 {
        scene.tell(640, vec![]).await;
        assert_eq!(work(&scene).await, Some(noisy));
        eventually("the window is full again", async || scene.ready(noisy).await == 3).await;
    }
    let small = scene.submit_of(&tenant("small"), 10, |_| {}).await;
    // Nobody takes anything, and yet it is let in.
    eventually("it is let in", async || scene.ready(small).await == 10).await;
    let mut others = 0;
    let mut served = 0;
    while served < 10 {
        scene.tell(640, vec![]).await;
        match work(&scene).await {
            Some(batch) if batch == small => served += 1,
            Some(_) => others += 1,
            None => {}
        }
    }
    assert!(others <= 3, "only what was in the queue before goes first: {others}");
    scheduler.stop().await;
}

#[tokio::test]
async fn tenants_share_as_their_weights_say_however_many_batches_each_has() {
    let scene = Scene::on(MemoryHub::new()).await;
    let (heavy, light) = (tenant("heavy"), tenant("light"));
    let mut of = HashMap::new();
    of.insert(scene.submit_of(&heavy, 400, row_by_row).await, "heavy");
    for _ in 0..4 {
        of.insert(scene.submit_of(&light, 200, row_by_row).await, "light");
    }
    let config = SchedulerConfig { weights: [(heavy, 3)].into(), ..SchedulerConfig::default() };
    let scheduler = Scheduler::with(scene.engine.clone(), config);
    let mut order = vec![];
    while order.len() < 240 {
        scene.beat().await;
        eventually("the window is full", async || scene.engine.queue.depth().await.unwrap() >= 32).await;
        order.extend(work(&scene).await.map(|batch| of[&batch]));
    }
    let heavy = order[40..].iter().filter(|of| **of == "heavy").count();
    assert!((140..=160).contains(&heavy), "{heavy} of 200");
    scheduler.stop().await;
}

#[tokio::test]
async fn a_lane_that_is_full_holds_back_nobody_on_another() {
    let scene = Scene::on(MemoryHub::new()).await;
    let full = scene.submit_with(200, row_by_row).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    eventually("the lane is full", async || scene.ready(full).await == 32).await;
    let other = scene
        .submit_with(200, |new| {
            row_by_row(new);
            new.spec.lane = LaneId::new("other", "none");
        })
        .await;
    eventually("the other lane is filled as if it were alone", async || scene.ready(other).await == 32).await;
    assert_eq!(scene.ready(full).await, 32);
    scheduler.stop().await;
}

#[tokio::test]
async fn the_window_follows_the_slots_of_the_workers_that_live() {
    let scene = Scene::on(MemoryHub::new()).await;
    let batch = scene.submit_with(400, row_by_row).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    eventually("one worker's window is full", async || scene.ready(batch).await == 32).await;
    let second = SessionId::from_bytes([9; 16]);
    scene.engine.store.open(second, "second").await.unwrap();
    // A worker of an older release tells its calls alone.
    let report = WorkerReport { concurrency: 68, ..WorkerReport::default() };
    scene.engine.store.beat(second, 1, Some(&report)).await.unwrap();
    eventually("both workers' window is full", async || scene.ready(batch).await == 100).await;
    scene.engine.store.end(second, scene.engine.clock.now_ms()).await.unwrap();
    for _ in 0..5 {
        work(&scene).await;
        eventually("one worker's window is full again", async || {
            scene.beat().await;
            if scene.ready(batch).await > 32 {
                work(&scene).await;
            }
            scene.ready(batch).await == 32
        })
        .await;
    }
    assert!(!scene.engine.store.waiting(batch, 1).await.unwrap().is_empty());
    scheduler.stop().await;
}

#[tokio::test]
async fn chunks_of_long_rows_are_counted_by_what_workers_tell_of_them() {
    let scene = Scene::on(MemoryHub::new()).await;
    // Thirteen rows a chunk as far as the number of rows says.
    let batch = scene.submit(400, 0).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    eventually("the window is full", async || scene.ready(batch).await == 2).await;
    let told = BatchReport { chunk_items: 2, ..worked_on(batch) };
    scene.tell(32, vec![told]).await;
    eventually("the window is full of chunks of two", async || scene.ready(batch).await == 16).await;
    scheduler.stop().await;
}

#[tokio::test]
async fn a_bulk_batch_that_waits_beside_endless_normal_work_has_its_turn() {
    let scene = Scene::on(MemoryHub::new()).await;
    let normal = scene.submit_with(400, row_by_row).await;
    let bulk = scene
        .submit_with(40, |new| {
            row_by_row(new);
            new.limits.priority = BULK;
        })
        .await;
    let scheduler = Scheduler::start(scene.engine.clone());
    let in_turn = async || {
        scene.tell(32, vec![worked_on(normal)]).await;
        eventually("the window is full", async || scene.engine.queue.depth().await.unwrap() >= 32).await;
        work(&scene).await
    };
    for _ in 0..40 {
        assert_eq!(in_turn().await, Some(normal));
    }
    scene.clock.advance_ms(2 * AGING_MS);
    // What is taken and not claimed is queued again once a second, all of it at once and in its order.
    eventually("the bulk batch is first", async || {
        scene.tell(32, vec![worked_on(normal)]).await;
        let hints = scene.hints(1_000).await;
        hints.len() > 30 && hints[0].batch == bulk
    })
    .await;
    scheduler.stop().await;
}

fn worked_on(batch: BatchId) -> BatchReport {
    BatchReport {
        batch,
        lane: LaneId::new("scripted", "none"),
        calling: 1,
        waiting_place: 0,
        waiting_lane: 0,
        waiting_batch: 0,
        waiting_money: 0,
        waiting_reply: 0,
        waiting_retry: 0,
        settled_per_s: 0.0,
        chunk_items: 0,
    }
}

#[tokio::test]
async fn a_submit_that_was_cut_short_is_finished_with_the_same_chunks() {
    let scene = Scene::on(MemoryHub::new()).await;
    let batch = scene.draft(10_000, |new| new.spec.chunk_rows = 60).await;
    scene.engine.store.begin_submit(&scene.tenant, batch).await.unwrap();
    let config =
        SchedulerConfig { finish_submit_after: std::time::Duration::ZERO, ..SchedulerConfig::default() };
    let scheduler = Scheduler::with(scene.engine.clone(), config);
    let mut items = 0;
    while items < 300 {
        for lease in scene.claim(&scene.hints(1).await).await {
            assert!(lease.head.len() <= 60);
            scene.finish(&lease).await;
            items += lease.head.len();
        }
    }
    scheduler.stop().await;
}
