//! What is deleted when it was kept long enough, and what is not.

use std::time::Duration;

use bytes::Bytes;
use promptmill_domain::schedule::TickBy;
use promptmill_domain::{
    BatchEvent, BatchId, BatchState, DeliveryId, EventId, EventKind, GenerationId, RowSetId, ScheduleId,
    SessionId, Tick, TickState, UploadId,
};
use promptmill_ports::{
    Claim, Claimed, Delivery, DeliveryState, Generation, MemoryHub, PartCommit, ReplyKey, RowBlock,
    StoreError,
};
use promptmill_scheduler::{Keeping, Scheduler, SchedulerConfig};

use crate::support::{Scene, eventually};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

fn keeping(scene: &Scene) -> Scheduler {
    let keeping =
        Keeping { every: Duration::from_millis(5), rest: Duration::from_millis(1), ..Keeping::default() };
    let config = SchedulerConfig { keeping: Some(keeping), ..SchedulerConfig::default() };
    Scheduler::with(scene.engine.clone(), config)
}

async fn is_gone(scene: &Scene, batch: BatchId) -> bool {
    match scene.engine.store.batch(&scene.tenant, batch).await {
        Ok(_) => false,
        Err(StoreError::NotFound) => true,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_batch_is_deleted_when_its_own_or_the_default_retention_is_over() {
    let scene = Scene::on(MemoryHub::new()).await;
    let short = scene.submit_with(2, |new| new.spec.retention_ms = Some(HOUR_MS)).await;
    let usual = scene.submit(2, 0).await;
    let long = scene.submit_with(2, |new| new.spec.retention_ms = Some(300 * DAY_MS)).await;
    let open = scene.submit(2, 0).await;
    scene.steer(open, BatchEvent::Pause(promptmill_domain::PauseReason::Requested)).await;
    let scheduler = keeping(&scene);
    for batch in [short, usual, long] {
        scene.steer(batch, BatchEvent::Cancel).await;
        scene.ended(batch, BatchState::Cancelled).await;
    }
    assert!(!is_gone(&scene, short).await);
    scene.clock.advance_ms(HOUR_MS);
    eventually("the short-lived one is gone", async || is_gone(&scene, short).await).await;
    assert!(!is_gone(&scene, usual).await);
    scene.clock.advance_ms(30 * DAY_MS);
    eventually("the usual one is gone", async || is_gone(&scene, usual).await).await;
    assert!(!is_gone(&scene, long).await && !is_gone(&scene, open).await);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_draft_goes_a_day_after_its_last_rows_and_an_upload_that_became_nothing_after_ten_minutes() {
    let scene = Scene::on(MemoryHub::new()).await;
    let draft = scene.draft(2, |_| {}).await;
    let committed = stored_bytes(&scene).await;
    let stale = UploadId::from_bytes([9; 16]);
    scene.upload(draft, stale, 3).await;
    assert!(stored_bytes(&scene).await > committed);
    let scheduler = keeping(&scene);
    scene.clock.advance_ms(601_000);
    eventually("the upload is dropped", async || stored_bytes(&scene).await == committed).await;
    let commit = PartCommit { part: 1, upload: stale, blocks: 1, digest: [0; 32] };
    let refused = scene.engine.store.commit_part(&scene.tenant, draft, commit).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))));
    // Later rows keep the draft.
    scene.clock.advance_ms(20 * HOUR_MS);
    scene.upload(draft, UploadId::from_bytes([8; 16]), 1).await;
    scene.clock.advance_ms(DAY_MS - 20 * HOUR_MS);
    assert!(!is_gone(&scene, draft).await);
    scene.clock.advance_ms(DAY_MS);
    eventually("the draft is gone", async || is_gone(&scene, draft).await).await;
    scheduler.stop().await;
}

async fn stored_bytes(scene: &Scene) -> u64 {
    scene.engine.store.usage(&scene.tenant, scene.engine.clock.now_ms()).await.unwrap().bytes
}

#[tokio::test]
async fn claims_generations_and_deliveries_are_forgotten() {
    let scene = Scene::on(MemoryHub::new()).await;
    let records = &scene.engine.records;
    let now_ms = scene.engine.clock.now_ms();
    let claim = Claim {
        tenant: scene.tenant.clone(),
        key: "POST /v1/batches k".to_owned(),
        fingerprint: [1; 32],
        plan: [2; 16],
        owner: [3; 16],
    };
    assert_eq!(records.claim(&claim, now_ms).await.unwrap(), Claimed::Run);
    let generation = |id: u8, outcome: Option<Bytes>| Generation {
        id: GenerationId::from_bytes([id; 16]),
        tenant: scene.tenant.clone(),
        request: Bytes::from_static(b"{}"),
        outcome,
        created_ms: now_ms,
        owner: SessionId::from_bytes([4; 16]),
    };
    let (done, running) = (generation(1, Some(Bytes::from_static(b"x"))), generation(2, None));
    records.put_generation(&done).await.unwrap();
    records.put_generation(&running).await.unwrap();
    let batch = scene.draft(1, |_| {}).await;
    let delivery = |id: u8, state| Delivery {
        id: DeliveryId::from_bytes([id; 16]),
        tenant: scene.tenant.clone(),
        batch: Some(batch),
        event: EventId::from_bytes([id; 16]),
        kind: EventKind::BatchCompleted,
        url: "https://receiver.test/".to_owned(),
        sealed_secret: "sealed".to_owned(),
        endpoint: None,
        body: Bytes::from_static(b"{}"),
        state,
        due_ms: now_ms,
        attempts: vec![],
        created_ms: now_ms,
    };
    let (over, pending) = (delivery(1, DeliveryState::Delivered), delivery(2, DeliveryState::Pending));
    records.add_deliveries(&[over, pending]).await.unwrap();

    let reply = ReplyKey { tenant: scene.tenant.clone(), batch: None, digest: [5; 32] };
    let store = &scene.engine.store;
    store.keep_replies(vec![(reply.clone(), Bytes::from_static(b"x"))], now_ms).await.unwrap();

    let keep_the_draft = Keeping {
        drafts: Duration::from_millis(365 * DAY_MS),
        every: Duration::from_millis(5),
        ..Keeping::default()
    };
    let config = SchedulerConfig { keeping: Some(keep_the_draft), ..SchedulerConfig::default() };
    let scheduler = Scheduler::with(scene.engine.clone(), config);
    scene.clock.advance_ms(23 * HOUR_MS);
    let later_ms = scene.engine.clock.now_ms();
    assert!(matches!(records.claim(&claim, later_ms).await.unwrap(), Claimed::Begun { .. }));
    assert!(store.replies(std::slice::from_ref(&reply)).await.unwrap()[0].is_some());
    scene.clock.advance_ms(30 * DAY_MS);
    eventually("what is over is forgotten", async || {
        let deliveries = records.deliveries(&scene.tenant, batch, 9).await.unwrap();
        let gone = records.generation(&scene.tenant, done.id).await;
        let replies = store.replies(std::slice::from_ref(&reply)).await.unwrap();
        replies == [None]
            && deliveries.len() == 1
            && deliveries[0].state == DeliveryState::Pending
            && matches!(gone, Err(StoreError::NotFound))
    })
    .await;
    assert_eq!(records.generation(&scene.tenant, running.id).await.unwrap(), running);
    let now_ms = scene.engine.clock.now_ms();
    assert_eq!(records.claim(&claim, now_ms).await.unwrap(), Claimed::Run);
    scheduler.stop().await;
}

#[tokio::test]
async fn ticks_are_forgotten_after_ninety_days_and_rows_that_no_version_is_after_ten_minutes() {
    let scene = Scene::on(MemoryHub::new()).await;
    let (records, now_ms) = (&scene.engine.records, scene.engine.clock.now_ms());
    let schedule = ScheduleId::from_bytes([1; 16]);
    let tick = |at_ms, state| Tick {
        schedule,
        tenant: scene.tenant.clone(),
        at_ms,
        by: TickBy::Time,
        state,
        ver: 1,
    };
    let over = TickState::Failed { why: String::new() };
    let running = TickState::Running { started_ms: 1, retry: 0 };
    let ticks =
        [tick(now_ms - 10, over.clone()), tick(now_ms - 9, running), tick(now_ms + 60 * DAY_MS, over)];
    records.add_ticks(&ticks).await.unwrap();
    let block = RowBlock { seq: 0, len: 1, bytes: Bytes::from_static(b"rows"), ids: Bytes::new() };
    let (set, upload) = (RowSetId::from_bytes([2; 16]), UploadId::from_bytes([3; 16]));
    records.put_set_blocks(&scene.tenant, set, upload, vec![block], now_ms).await.unwrap();
    assert_eq!(stored_bytes(&scene).await, 4);
    let scheduler = keeping(&scene);
    let left = async || {
        let ticks = records.ticks(&scene.tenant, schedule, None, 9).await.unwrap();
        ticks.iter().map(|tick| tick.at_ms - (now_ms - 10)).collect::<Vec<_>>()
    };
    scene.clock.advance_ms(601_000);
    eventually("the rows are swept", async || stored_bytes(&scene).await == 0).await;
    assert_eq!(left().await.len(), 3);
    scene.clock.advance_ms(90 * DAY_MS);
    eventually("the old tick is forgotten", async || left().await.len() == 2).await;
    assert_eq!(left().await, [60 * DAY_MS + 10, 1]);
    scheduler.stop().await;
}
