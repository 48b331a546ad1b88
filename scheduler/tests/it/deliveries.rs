//! Events reach their receivers at least once, signed, under one id, and one receiver's trouble is its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Once};
use std::time::Duration;

use promptmill_domain::rate::Learned;
use promptmill_domain::{
    BatchEvent, BatchId, BatchState, DeliveryId, Ending, Endpoint, EndpointId, EndpointSecret, EndpointState,
    EventId, EventKind, FailureKind, LaneId, Outcome, Output, PauseReason, Release, SealedHeaders,
    SettledItem, Totals, Webhook, WhyDisabled,
};
use promptmill_egress::retry::Schedule;
use promptmill_egress::{Deadlines, UrlPolicy};
use promptmill_ports::{
    Delivery, DeliveryState, LaneRecord, MemoryHub, NewBatch, Replay, Tenant, encode_outcome,
};
use promptmill_scheduler::{Scheduler, SchedulerConfig, Webhooks};
use promptmill_vault::{ResultsLink, Vault};

use crate::receiver::{Got, Receiver, Reply};
use crate::support::{Scene, eventually};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

pub(crate) fn vault() -> Arc<Vault> {
    let key = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    Arc::new(Vault::from_keys(key).unwrap())
}

/// What clients of this process encrypt with.
pub(crate) fn install_tls() {
    static TLS: Once = Once::new();
    TLS.call_once(|| rustls::crypto::ring::default_provider().install_default().unwrap());
}

/// Webhooks to loopback that are tried again at once, so many times in all.
pub(crate) fn webhooks(tries: usize) -> Webhooks {
    install_tls();
    let schedule = Schedule::of(vec![Duration::ZERO; tries]);
    Webhooks { schedule, ..Webhooks::new(vault(), UrlPolicy::with_loopback()) }
}

fn delivering(scene: &Scene, webhooks: Webhooks) -> Scheduler {
    let config = SchedulerConfig { webhooks: Some(webhooks), ..SchedulerConfig::default() };
    Scheduler::with(scene.engine.clone(), config)
}

fn telling(scene: &Scene, url: &str) -> impl FnOnce(&mut NewBatch) {
    let (tenant, url) = (scene.tenant.clone(), url.to_owned());
    move |new| {
        let context = format!("{tenant}|webhook|{}", new.id);
        let sealed_secret = vault().seal(&context, SECRET.as_bytes()).unwrap();
        new.spec.webhook = Some(Webhook { url, sealed_secret, results: false });
        new.spec.name = Some("tickets".to_owned());
        new.spec.metadata = Some("{\"order\":17}".to_owned());
    }
}

/// Submits a batch of one row that tells `url`, and pauses it, which is an event.
async fn paused(scene: &Scene, url: &str) -> BatchId {
    let batch = scene.submit_with(1, telling(scene, url)).await;
    scene.steer(batch, BatchEvent::Pause(PauseReason::Budget)).await;
    batch
}

async fn deliveries(scene: &Scene, batch: BatchId) -> Vec<Delivery> {
    scene.engine.records.deliveries(&scene.tenant, batch, 100).await.unwrap()
}

/// The only delivery of the batch, once it is `state`.
async fn ended(scene: &Scene, batch: BatchId, state: DeliveryState) -> Delivery {
    eventually("the delivery is over", async || {
        deliveries(scene, batch).await.iter().any(|delivery| delivery.state != DeliveryState::Pending)
    })
    .await;
    let mut all = deliveries(scene, batch).await;
    assert_eq!((all.len(), all[0].state), (1, state), "{:?}", all[0].attempts);
    all.remove(0)
}

#[tokio::test]
async fn a_completed_batch_is_told_with_a_signature_that_holds() {
    let scene = Scene::on(MemoryHub::new()).await;
    let receiver = Receiver::taking().await;
    let batch = scene.submit_with(3, telling(&scene, &receiver.url())).await;
    let scheduler = delivering(&scene, webhooks(1));
    scene.work_through(3).await;
    let got = receiver.gets(1).await.remove(0);
    got.check_signed_with(SECRET);
    let body = got.json();
    assert_eq!(body["type"], "batch.completed");
    let data = &body["data"];
    assert_eq!((data["batch_id"].as_str(), data["rows"].as_u64()), (Some(&*batch.to_string()), Some(3)));
    assert_eq!((&data["state"], &data["counts"]["succeeded"]), (&"completed".into(), &3.into()));
    assert_eq!((&data["name"], &data["metadata"]["order"]), (&"tickets".into(), &17.into()));
    let delivery = ended(&scene, batch, DeliveryState::Delivered).await;
    assert_eq!((delivery.body, delivery.event.to_string()), (got.body.clone().into(), got.id().to_owned()));
    assert_eq!(delivery.attempts.len(), 1);
    assert_eq!((delivery.attempts[0].status, &delivery.attempts[0].error), (Some(200), &None));
    assert!(scene.engine.store.pending(9).await.unwrap().is_empty());
    scheduler.stop().await;
    assert_eq!(receiver.got().len(), 1);
}

#[tokio::test]
async fn a_pause_and_a_cancel_are_two_events_and_the_later_one_has_the_larger_revision() {
    let scene = Scene::on(MemoryHub::new()).await;
    let receiver = Receiver::taking().await;
    let scheduler = delivering(&scene, webhooks(1));
    let batch = paused(&scene, &receiver.url()).await;
    receiver.gets(1).await;
    scene.steer(batch, BatchEvent::Cancel).await;
    let got = receiver.gets(2).await;
    let [pause, cancel] = [got[0].json(), got[1].json()];
    assert_eq!((&pause["type"], &cancel["type"]), (&"batch.paused".into(), &"batch.cancelled".into()));
    assert_eq!(pause["data"]["pause"]["reason"], "budget");
    assert_eq!(
        (&cancel["data"]["pause"], &cancel["data"]["counts"]["cancelled"]),
        (&serde_json::Value::Null, &1.into())
    );
    assert!(pause["data"]["revision"].as_u64() < cancel["data"]["revision"].as_u64());
    assert_ne!(got[0].id(), got[1].id());
    scheduler.stop().await;
}

#[tokio::test]
async fn a_delivery_that_fails_is_repeated_under_its_id_and_signed_again() {
    let scene = Scene::on(MemoryHub::new()).await;
    let receiver = Receiver::new(|n| Reply::status(if n == 0 { 500 } else { 204 })).await;
    let scheduler = delivering(&scene, webhooks(3));
    let batch = paused(&scene, &receiver.url()).await;
    let delivery = ended(&scene, batch, DeliveryState::Delivered).await;
    let statuses: Vec<_> = delivery.attempts.iter().map(|attempt| attempt.status).collect();
    assert_eq!(statuses, [Some(500), Some(204)]);
    assert!(delivery.attempts[0].error.is_some());
    let got = receiver.got();
    assert_eq!((got[0].id(), &got[0].body), (got[1].id(), &got[1].body));
    for got in &got {
        got.check_signed_with(SECRET);
    }
    scheduler.stop().await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_not_asked_again_and_one_that_fails_only_as_often_as_the_schedule_says() {
    let scene = Scene::on(MemoryHub::new()).await;
    let (gone, failing) =
        (Receiver::new(|_| Reply::status(410)).await, Receiver::new(|_| Reply::status(503)).await);
    let scheduler = delivering(&scene, webhooks(4));
    let (one, two) = (paused(&scene, &gone.url()).await, paused(&scene, &failing.url()).await);
    assert_eq!(ended(&scene, one, DeliveryState::GivenUp).await.attempts.len(), 1);
    assert_eq!(ended(&scene, two, DeliveryState::GivenUp).await.attempts.len(), 4);
    scheduler.stop().await;
    assert_eq!((gone.got().len(), failing.got().len()), (1, 4));
}

#[tokio::test]
async fn what_a_receiver_answered_is_kept_as_text_and_not_much_of_it() {
    let scene = Scene::on(MemoryHub::new()).await;
    // Long, cut in the midst of a character, not all of it text.
    let long = [b"busy\0\xff".as_slice(), "\u{e9}".repeat(2_000).as_bytes()].concat();
    let receiver = Receiver::new(move |n| match n {
        0 => Reply::Body("503 Busy".to_owned(), long.clone()),
        _ => Reply::status(204),
    })
    .await;
    let scheduler = delivering(&scene, webhooks(2));
    let batch = paused(&scene, &receiver.url()).await;
    let delivery = ended(&scene, batch, DeliveryState::Delivered).await;
    let [first, second] = &delivery.attempts[..] else { panic!("{:?}", delivery.attempts) };
    let answer = first.answer.as_deref().unwrap();
    assert!(answer.starts_with("busy\u{fffd}\u{fffd}\u{e9}\u{e9}") && answer.len() <= 1024, "{answer}");
    assert!(answer.chars().skip(6).all(|character| character == '\u{e9}'), "{answer}");
    assert_eq!(second.answer, None);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_delivery_that_was_given_up_has_one_more_try_when_it_is_asked_for() {
    let scene = Scene::on(MemoryHub::new()).await;
    let receiver = Receiver::new(|n| Reply::status(if n < 3 { 503 } else { 204 })).await;
    let scheduler = delivering(&scene, webhooks(2));
    let batch = paused(&scene, &receiver.url()).await;
    let given_up = ended(&scene, batch, DeliveryState::GivenUp).await;
    assert_eq!(given_up.attempts.len(), 2);
    let replay = async |which| {
        scene.engine.records.replay(&scene.tenant, which, scene.engine.clock.now_ms()).await.unwrap()
    };
    assert_eq!(replay(Replay::GivenUpSince(given_up.created_ms)).await, 1);
    receiver.gets(3).await;
    assert_eq!(ended(&scene, batch, DeliveryState::GivenUp).await.attempts.len(), 3);
    assert_eq!(replay(Replay::One(given_up.id)).await, 1);
    let taken = ended(&scene, batch, DeliveryState::Delivered).await;
    assert_eq!(taken.attempts.len(), 4);
    let ids: HashSet<_> = receiver.got().iter().map(|got| got.id().to_owned()).collect();
    assert_eq!(ids.len(), 1);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_gets_it_up_to_twice_the_wait() {
    let scene = Scene::on(MemoryHub::new()).await;
    let head = "429 Slow Down\r\nretry-after: 86400".to_owned();
    let receiver = Receiver::new(move |_| Reply::Head(head.clone())).await;
    let wait = Duration::from_secs(1000);
    let schedule = Schedule::of(vec![Duration::ZERO, wait]);
    let scheduler = delivering(&scene, Webhooks { schedule, ..webhooks(1) });
    let batch = paused(&scene, &receiver.url()).await;
    eventually("the first try is recorded", async || {
        deliveries(&scene, batch).await.iter().any(|delivery| delivery.attempts.len() == 1)
    })
    .await;
    let delivery = deliveries(&scene, batch).await.remove(0);
    let ended_ms = delivery.attempts[0].at_ms + u64::from(delivery.attempts[0].duration_ms);
    // Twice the wait, and a fifth of it as jitter.
    assert!(delivery.due_ms >= ended_ms + 2_000_000, "{delivery:?}");
    assert!(delivery.due_ms <= scene.engine.clock.now_ms() + 2_200_000, "{delivery:?}");
    scene.clock.advance_ms(2_200_000);
    assert_eq!(ended(&scene, batch, DeliveryState::GivenUp).await.attempts.len(), 2);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_redirect_reaches_nobody() {
    let scene = Scene::on(MemoryHub::new()).await;
    let canary = Receiver::taking().await;
    let head = format!("307 Elsewhere\r\nlocation: {}", canary.url());
    let receiver = Receiver::new(move |_| Reply::Head(head.clone())).await;
    let scheduler = delivering(&scene, webhooks(2));
    let batch = paused(&scene, &receiver.url()).await;
    let delivery = ended(&scene, batch, DeliveryState::GivenUp).await;
    assert_eq!(delivery.attempts[1].status, Some(307));
    scheduler.stop().await;
    assert_eq!((receiver.got().len(), canary.got().len()), (2, 0));
}

#[tokio::test]
async fn an_address_that_is_not_allowed_is_not_called() {
    let scene = Scene::on(MemoryHub::new()).await;
    let canary = Receiver::taking().await;
    let policy = UrlPolicy { allow_http: true, ports: vec![], allowed_subnets: vec![] };
    let scheduler = delivering(&scene, Webhooks { policy, ..webhooks(1) });
    let batch = paused(&scene, &canary.url()).await;
    let delivery = ended(&scene, batch, DeliveryState::GivenUp).await;
    let error = delivery.attempts[0].error.as_deref();
    assert_eq!(error, Some("the URL leads to an address that is not allowed"));
    scheduler.stop().await;
    assert!(canary.got().is_empty());
}

#[tokio::test]
async fn receivers_that_hang_do_not_delay_another_one() {
    let scene = Scene::on(MemoryHub::new()).await;
    let hanging = Receiver::new(|_| Reply::Hang).await;
    let quick = Receiver::taking().await;
    for _ in 0..30 {
        paused(&scene, &hanging.url()).await;
    }
    let batch = paused(&scene, &quick.url()).await;
    // Long enough that nothing ends by it within the test.
    let deadlines = Deadlines { total: Duration::from_secs(600) };
    let scheduler = delivering(&scene, Webhooks { deadlines, ..webhooks(1) });
    ended(&scene, batch, DeliveryState::Delivered).await;
    let later = paused(&scene, &quick.url()).await;
    ended(&scene, later, DeliveryState::Delivered).await;
    assert_eq!(hanging.gets(4).await.len(), 4, "as many tries as one host may have");
    scheduler.stop().await;
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_in_time_is_tried_again() {
    let scene = Scene::on(MemoryHub::new()).await;
    let receiver = Receiver::new(|n| if n == 0 { Reply::Hang } else { Reply::status(200) }).await;
    let deadlines = Deadlines { total: Duration::from_millis(200) };
    let scheduler = delivering(&scene, Webhooks { deadlines, ..webhooks(50) });
    let batch = paused(&scene, &receiver.url()).await;
    let delivery = ended(&scene, batch, DeliveryState::Delivered).await;
    assert_eq!(delivery.attempts[0].error.as_deref(), Some("no answer came in time"));
    scheduler.stop().await;
}

#[tokio::test]
async fn what_happened_while_nobody_delivered_is_delivered_later_and_so_is_what_was_left_lying() {
    let scene = Scene::on(MemoryHub::new()).await;
    let receiver = Receiver::taking().await;
    let batch = paused(&scene, &receiver.url()).await;
    let scheduler = Scheduler::start(scene.engine.clone());
    scheduler.stop().await;
    assert!(receiver.got().is_empty());
    let scheduler = delivering(&scene, webhooks(2));
    let delivery = ended(&scene, batch, DeliveryState::Delivered).await;
    scheduler.stop().await;

    // Another one is taken by a process that dies before it comes to the try.
    let lying = Delivery {
        id: DeliveryId::from_bytes([7; 16]),
        event: EventId::from_bytes([7; 16]),
        state: DeliveryState::Pending,
        attempts: vec![],
        ..delivery
    };
    scene.engine.records.add_deliveries(&[lying]).await.unwrap();
    let now_ms = scene.engine.clock.now_ms();
    assert_eq!(scene.engine.records.take_due(now_ms, now_ms + 60_000, 9).await.unwrap().len(), 1);
    let scheduler = delivering(&scene, webhooks(2));
    scene.clock.advance_ms(60_000);
    assert_eq!(receiver.gets(2).await[1].id(), EventId::from_bytes([7; 16]).to_string());
    scheduler.stop().await;
}

#[tokio::test]
async fn two_schedulers_deliver_an_event_once() {
    let scene = Scene::on(MemoryHub::new()).await;
    let receiver = Receiver::taking().await;
    let schedulers = [delivering(&scene, webhooks(1)), delivering(&scene, webhooks(1))];
    let mut batches = Vec::new();
    for _ in 0..20 {
        batches.push(paused(&scene, &receiver.url()).await);
    }
    for batch in batches {
        ended(&scene, batch, DeliveryState::Delivered).await;
    }
    for scheduler in schedulers {
        scheduler.stop().await;
    }
    assert_eq!(receiver.got().len(), 20);
}

#[tokio::test]
async fn a_secret_that_does_not_open_is_a_failed_try_and_nothing_is_sent() {
    let scene = Scene::on(MemoryHub::new()).await;
    let receiver = Receiver::taking().await;
    let scheduler = delivering(&scene, webhooks(1));
    let batch = scene
        .submit_with(1, |new| {
            telling(&scene, &receiver.url())(new);
            let webhook = new.spec.webhook.as_mut().unwrap();
            webhook.sealed_secret = vault().seal("other|webhook|other", SECRET.as_bytes()).unwrap();
        })
        .await;
    scene.steer(batch, BatchEvent::Pause(PauseReason::Requested)).await;
    let delivery = ended(&scene, batch, DeliveryState::GivenUp).await;
    assert_eq!(
        delivery.attempts[0].error.as_deref(),
        Some("the signing secret or the headers cannot be opened")
    );
    scheduler.stop().await;
    assert!(receiver.got().is_empty());
}

#[tokio::test]
async fn the_event_of_a_batch_that_was_deleted_meanwhile_holds_up_nothing() {
    let scene = Scene::on(MemoryHub::new()).await;
    let receiver = Receiver::taking().await;
    let scheduler = Scheduler::start(scene.engine.clone());
    let deleted = scene.submit_with(1, telling(&scene, &receiver.url())).await;
    scene.steer(deleted, BatchEvent::Cancel).await;
    scene.ended(deleted, BatchState::Cancelled).await;
    scheduler.stop().await;
    while !scene.engine.store.delete(&scene.tenant, deleted).await.unwrap() {}
    let scheduler = delivering(&scene, webhooks(1));
    let batch = paused(&scene, &receiver.url()).await;
    ended(&scene, batch, DeliveryState::Delivered).await;
    scheduler.stop().await;
    assert_eq!(receiver.got().len(), 1);
}

/// An endpoint of the scene's tenant with this secret.
pub(crate) async fn endpoint(scene: &Scene, url: &str, kinds: &[EventKind]) -> Endpoint {
    let id = EndpointId::at(1, rand::random());
    let sealed = vault().seal(&Endpoint::context(&scene.tenant, id), SECRET.as_bytes()).unwrap();
    let endpoint = Endpoint {
        id,
        tenant: scene.tenant.clone(),
        url: url.to_owned(),
        description: None,
        kinds: kinds.to_vec(),
        headers: None,
        email: None,
        results: false,
        max_per_second: None,
        secrets: vec![EndpointSecret { sealed, public_key: None, until_ms: None, request: None }],
        state: EndpointState::Enabled,
        failing: None,
        created_ms: scene.engine.clock.now_ms(),
        since_ms: scene.engine.clock.now_ms(),
        ver: 1,
    };
    assert!(scene.engine.records.put_endpoint(&endpoint).await.unwrap());
    endpoint
}

/// A batch without a webhook of its own that is paused, which is an event.
async fn paused_alone(scene: &Scene) -> BatchId {
    let batch = scene.submit(1, 0).await;
    scene.steer(batch, BatchEvent::Pause(PauseReason::Budget)).await;
    batch
}

#[tokio::test]
async fn endpoints_are_told_of_every_batch_each_of_what_it_asked_for() {
    let scene = Scene::on(MemoryHub::new()).await;
    let [all, paused_only, completed_only, webhook] = [
        Receiver::taking().await,
        Receiver::taking().await,
        Receiver::taking().await,
        Receiver::taking().await,
    ];
    // Before there was anybody to tell.
    paused_alone(&scene).await;
    endpoint(&scene, &all.url(), &[]).await;
    endpoint(&scene, &paused_only.url(), &[EventKind::BatchPaused]).await;
    endpoint(&scene, &completed_only.url(), &[EventKind::BatchCompleted]).await;
    let scheduler = delivering(&scene, webhooks(1));
    let (alone, own) = (paused_alone(&scene).await, paused(&scene, &webhook.url()).await);
    let batches = |got: &[Got]| {
        let mut ids: Vec<_> =
            got.iter().map(|got| got.json()["data"]["batch_id"].as_str().unwrap().to_owned()).collect();
        ids.sort_unstable();
        ids
    };
    let both = batches_of([alone, own]);
    for receiver in [&all, &paused_only] {
        let got = receiver.gets(2).await;
        assert_eq!(batches(&got), both);
        got.iter().for_each(|got| got.check_signed_with(SECRET));
    }
    assert_eq!(batches(&webhook.gets(1).await), batches_of([own]));
    // One event, whoever it goes to.
    let told = |receiver: &Receiver| {
        let of_own = receiver.got().into_iter().find(|got| got.json()["data"]["batch_id"] == own.to_string());
        of_own.unwrap().id().to_owned()
    };
    assert_eq!((told(&all), told(&paused_only)), (told(&webhook), told(&webhook)));
    eventually("all are delivered", async || {
        let [alone, own] = [deliveries(&scene, alone).await, deliveries(&scene, own).await];
        (alone.len(), own.len()) == (2, 3)
            && alone.iter().chain(&own).all(|delivery| delivery.state == DeliveryState::Delivered)
    })
    .await;
    scheduler.stop().await;
    assert_eq!((all.got().len(), paused_only.got().len(), completed_only.got().len()), (2, 2, 0));
}

fn batches_of(batches: impl IntoIterator<Item = BatchId>) -> Vec<String> {
    let mut ids: Vec<_> = batches.into_iter().map(|batch| batch.to_string()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn an_endpoint_that_moved_or_has_a_new_secret_is_told_as_it_is_now() {
    let scene = Scene::on(MemoryHub::new()).await;
    let (before, after) = (Receiver::new(|_| Reply::status(500)).await, Receiver::taking().await);
    let made = endpoint(&scene, &before.url(), &[]).await;
    let scheduler = delivering(
        &scene,
        Webhooks { schedule: Schedule::of(vec![Duration::ZERO, Duration::from_secs(60)]), ..webhooks(1) },
    );
    let batch = paused_alone(&scene).await;
    before.gets(1).await;
    eventually("the first try is noted", async || {
        let failing = scene.engine.records.endpoint(&scene.tenant, made.id).await.unwrap();
        failing.failing.is_some()
    })
    .await;
    let mut endpoint = scene.engine.records.endpoint(&scene.tenant, made.id).await.unwrap();
    let context = Endpoint::context(&scene.tenant, endpoint.id);
    let new = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let sealed = vault().seal(&context, new.as_bytes()).unwrap();
    let secret = EndpointSecret { sealed, public_key: None, until_ms: None, request: None };
    endpoint.rotate(secret, scene.engine.clock.now_ms(), 3_600_000);
    endpoint.url = after.url();
    endpoint.ver += 1;
    assert!(scene.engine.records.put_endpoint(&endpoint).await.unwrap());
    scene.clock.advance_ms(100_000);
    let got = after.gets(1).await.remove(0);
    // Both secrets hold for a while, the newest one first.
    let items: Vec<_> = got.headers["webhook-signature"].split(' ').map(str::to_owned).collect();
    assert_eq!(items.len(), 2);
    for (item, secret) in items.into_iter().zip([new, SECRET]) {
        let mut one = got.clone();
        one.headers.insert("webhook-signature".to_owned(), item);
        one.check_signed_with(secret);
    }
    ended(&scene, batch, DeliveryState::Delivered).await;
    let reached = scene.engine.records.endpoint(&scene.tenant, endpoint.id).await.unwrap();
    assert_eq!((reached.failing, reached.state), (None, EndpointState::Enabled));
    scheduler.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_wants_no_more_or_fails_for_five_days_is_switched_off_and_what_waits_is_given_up() {
    let scene = Scene::on(MemoryHub::new()).await;
    let (gone, failing) =
        (Receiver::new(|_| Reply::status(410)).await, Receiver::new(|_| Reply::status(503)).await);
    let paused = [EventKind::BatchPaused];
    let (one, two) =
        (endpoint(&scene, &gone.url(), &paused).await, endpoint(&scene, &failing.url(), &paused).await);
    let watching = Receiver::taking().await;
    endpoint(&scene, &watching.url(), &[EventKind::EndpointDisabled]).await;
    // With the jitter less than the longest time that tries lie apart.
    let days = Duration::from_secs(164_160);
    let schedule = Schedule::of(vec![Duration::ZERO, days, days, days, days]);
    let scheduler = delivering(&scene, Webhooks { schedule, ..webhooks(1) });
    let batch = paused_alone(&scene).await;
    let why = async |endpoint: &Endpoint| match scene
        .engine
        .records
        .endpoint(&scene.tenant, endpoint.id)
        .await
        .unwrap()
        .state
    {
        EndpointState::Enabled => None,
        EndpointState::Disabled { why, .. } => Some(why),
    };
    eventually("one wants no more", async || why(&one).await == Some(WhyDisabled::Gone)).await;
    for tries in 1..=3 {
        failing.gets(tries).await;
        eventually("the try is recorded", async || {
            let all = scene.engine.records.deliveries_to(&scene.tenant, two.id, 9).await.unwrap();
            all[0].attempts.len() == tries
        })
        .await;
        assert_eq!(why(&two).await, None);
        scene.clock.advance_ms(207_360_000);
    }
    eventually("the other one fails for too long", async || why(&two).await == Some(WhyDisabled::Failing))
        .await;
    scene.clock.advance_ms(4 * 86_400_000);
    eventually("what waited is given up", async || {
        deliveries(&scene, batch).await.iter().all(|delivery| delivery.state == DeliveryState::GivenUp)
    })
    .await;
    let last = scene.engine.records.deliveries_to(&scene.tenant, two.id, 9).await.unwrap().remove(0);
    let error = last.attempts.last().unwrap().error.as_deref();
    assert_eq!(error, Some("the endpoint is switched off or deleted"));
    // Nobody is asked who is off, and a new event is not for them.
    let later = paused_alone(&scene).await;
    eventually("the event is handed on", async || scene.engine.store.pending(9).await.unwrap().is_empty())
        .await;
    assert_eq!(deliveries(&scene, later).await, []);
    assert_eq!((gone.got().len(), failing.got().len()), (1, 4));
    // The tenant's other endpoint was told of both.
    let told: Vec<_> = watching.gets(2).await.iter().map(|got| (got.id().to_owned(), got.json())).collect();
    for ((_, event), (off, why)) in told.iter().zip([(&one, "gone"), (&two, "failing")]) {
        assert_eq!(
            (&event["type"], &event["data"]["because"]),
            (&"endpoint.disabled".into(), &why.into()),
            "{event}"
        );
        assert_eq!(
            (event["data"]["endpoint_id"].as_str(), &event["data"]["url"]),
            (Some(&*off.id.to_string()), &off.url.clone().into())
        );
    }
    assert_ne!(told[0].0, told[1].0);
    scheduler.stop().await;
    assert_eq!(watching.got().len(), 2);
}

#[tokio::test]
async fn what_an_endpoint_wants_in_its_requests_stands_there_beside_the_signature() {
    let scene = Scene::on(MemoryHub::new()).await;
    let receiver = Receiver::taking().await;
    let mut keyed = endpoint(&scene, &receiver.url(), &[]).await;
    let context = Endpoint::headers_context(&scene.tenant, keyed.id);
    let sealed = vault().seal(&context, br#"{"Authorization":"Bearer token","X-Tenant":"one"}"#).unwrap();
    keyed.headers = Some(SealedHeaders { names: vec![], sealed });
    keyed.ver += 1;
    assert!(scene.engine.records.put_endpoint(&keyed).await.unwrap());
    let scheduler = delivering(&scene, webhooks(1));
    paused_alone(&scene).await;
    let got = receiver.gets(1).await.remove(0);
    got.check_signed_with(SECRET);
    assert_eq!((&*got.headers["authorization"], &*got.headers["x-tenant"]), ("Bearer token", "one"));
    scheduler.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_wants_few_requests_a_second_gets_them_one_after_the_other_and_all_of_them() {
    let scene = Scene::on(MemoryHub::new()).await;
    let (slow, quick) = (Receiver::taking().await, Receiver::taking().await);
    let mut few = endpoint(&scene, &slow.url(), &[]).await;
    (few.max_per_second, few.ver) = (Some(10), 2);
    assert!(scene.engine.records.put_endpoint(&few).await.unwrap());
    endpoint(&scene, &quick.url(), &[]).await;
    // More than wait in memory for a turn within two seconds.
    for _ in 0..30 {
        paused_alone(&scene).await;
    }
    let begun = std::time::Instant::now();
    let scheduler = delivering(&scene, webhooks(1));
    quick.gets(30).await;
    assert!(slow.got().len() < 30, "nobody waits for it");
    slow.gets(21).await;
    assert!(begun.elapsed() >= Duration::from_millis(1_900), "{:?}", begun.elapsed());
    // The clock of what was put off is the scene's.
    scene.clock.advance_ms(5_000);
    slow.gets(30).await;
    assert!(begun.elapsed() >= Duration::from_millis(2_800), "{:?}", begun.elapsed());
    scheduler.stop().await;
    let ids: HashSet<_> = slow.got().iter().map(|got| got.id().to_owned()).collect();
    assert_eq!((ids.len(), slow.got().len()), (30, 30));
}

#[tokio::test]
async fn what_a_process_that_died_did_not_tell_of_an_endpoint_the_next_one_does_once() {
    let scene = Scene::on(MemoryHub::new()).await;
    let tenant = Tenant { id: scene.tenant.clone(), created_ms: scene.engine.clock.now_ms() };
    scene.engine.records.add_tenant(&tenant).await.unwrap();
    let watching = Receiver::taking().await;
    let watcher = endpoint(&scene, &watching.url(), &[]).await;
    let mut off = endpoint(&scene, "http://127.0.0.1:9/", &[]).await;
    off.state = EndpointState::Disabled { why: WhyDisabled::Gone, at_ms: scene.engine.clock.now_ms() };
    off.ver += 1;
    assert!(scene.engine.records.put_endpoint(&off).await.unwrap());
    // Whom somebody switched off is nobody's surprise.
    let mut asked = endpoint(&scene, "http://127.0.0.1:9/", &[]).await;
    asked.state = EndpointState::Disabled { why: WhyDisabled::Requested, at_ms: scene.engine.clock.now_ms() };
    asked.ver += 1;
    assert!(scene.engine.records.put_endpoint(&asked).await.unwrap());
    for _ in 0..2 {
        let scheduler = delivering(&scene, webhooks(1));
        assert_eq!(watching.gets(1).await[0].json()["data"]["endpoint_id"], off.id.to_string());
        // An event behind it shows that there is no other one before it.
        let batch = paused_alone(&scene).await;
        eventually("the pause is told", async || told(&watching.got(), batch).len() == 1).await;
        scheduler.stop().await;
    }
    assert_eq!(watching.got().len(), 3);
    let to_it = scene.engine.records.deliveries_to(&scene.tenant, watcher.id, 9).await.unwrap();
    assert_eq!(to_it.iter().filter(|delivery| delivery.batch.is_none()).count(), 1);
}

/// What a receiver was told of a batch, in no order: the type of each event, and how far the batch was.
fn told(got: &[Got], batch: BatchId) -> Vec<(String, Option<u64>)> {
    let bodies = got.iter().map(Got::json).filter(|body| body["data"]["batch_id"] == batch.to_string());
    let mut told: Vec<_> = bodies
        .map(|body| (body["type"].as_str().unwrap().to_owned(), body["data"]["percent"].as_u64()))
        .collect();
    told.sort_unstable();
    told
}

fn events<const N: usize>(of: [(&str, Option<u64>); N]) -> Vec<(String, Option<u64>)> {
    of.map(|(name, percent)| (name.to_owned(), percent)).into()
}

#[tokio::test]
async fn a_batch_on_its_way_is_told_of_once_as_far_as_somebody_asked_for_it() {
    let scene = Scene::on(MemoryHub::new()).await;
    let [asked, all, webhook] =
        [Receiver::taking().await, Receiver::taking().await, Receiver::taking().await];
    endpoint(&scene, &asked.url(), &[EventKind::BatchStarted, EventKind::BatchProgress]).await;
    endpoint(&scene, &all.url(), &[]).await;
    let url = webhook.url();
    let telling = telling(&scene, &url);
    let batch = scene
        .submit_with(4, |new| {
            telling(new);
            new.spec.progress_at = vec![20, 25, 75];
            new.spec.chunk_rows = 1;
        })
        .await;
    let quiet = scene.submit_with(1, |new| new.limits.priority = -1).await;
    let scheduler = delivering(&scene, webhooks(1));
    scene.work_through(1).await;
    let got = asked.gets(3).await;
    let first = [("batch.progress", Some(20)), ("batch.progress", Some(25)), ("batch.started", None)];
    assert_eq!(told(&got, batch), events(first));
    let progress = got.iter().map(Got::json).find(|body| body["data"]["percent"] == 25).unwrap();
    let data = &progress["data"];
    assert_eq!((&data["state"], &data["counts"]["settled"]), (&"running".into(), &1.into()));
    // Another process, which was told nothing of it.
    scheduler.stop().await;
    let scheduler = delivering(&scene, webhooks(1));
    scene.work_through(4).await;
    for receiver in [&all, &webhook, &asked] {
        eventually("the rest is told", async || told(&receiver.got(), batch).len() >= 4).await;
    }
    eventually("the other one, too", async || {
        told(&all.got(), quiet).len() + told(&asked.got(), quiet).len() == 2
    })
    .await;
    scheduler.stop().await;
    let marks = [Some(20), Some(25), Some(75)].map(|percent| ("batch.progress", percent));
    let with_end = || events([("batch.completed", None), marks[0], marks[1], marks[2]]);
    assert_eq!((told(&all.got(), batch), told(&webhook.got(), batch)), (with_end(), with_end()));
    assert_eq!(told(&asked.got(), batch), events([marks[0], marks[1], marks[2], ("batch.started", None)]));
    // One that was at its end before anybody looked tells that it began, too.
    assert_eq!(told(&asked.got(), quiet), events([("batch.started", None)]));
    assert_eq!(told(&all.got(), quiet), events([("batch.completed", None)]));
}

/// Settles chunks until so many items have an outcome: those whose index is even fail, with an outcome that has an id, but for every tenth, which has none. Answers those in
/// the order in which they settled.
async fn half_fail(scene: &Scene, items: usize) -> Vec<(u64, Option<String>)> {
    let custom_id = |index: u32| (!index.is_multiple_of(10)).then(|| format!("row-{index}"));
    let (mut failed, mut done) = (Vec::new(), 0);
    while done < items {
        let hints = scene.hints(1).await;
        for lease in scene.claim(&hints).await {
            let settled = (0..lease.head.len()).map(|offset| {
                let index = lease.head.base + offset;
                let ending = if index.is_multiple_of(2) {
                    failed.push((u64::from(index), custom_id(index)));
                    Ending::Failed { kind: FailureKind::Timeout, message: "no answer".to_owned() }
                } else {
                    Ending::Succeeded { output: Output::Text("fine".to_owned()), repaired: false }
                };
                let custom_id = custom_id(index);
                let outcome =
                    Outcome { custom_id, ending, attempts: vec![], cut: Totals::default(), flags: vec![] };
                (SettledItem { offset, code: outcome.code() }, encode_outcome(&outcome))
            });
            scene.settle(&lease, settled.collect(), Release::Keep).await;
            done += lease.head.len() as usize;
        }
    }
    failed
}

/// The groups of failed items that a receiver was told of, by what went before them; each once, however often it came.
fn groups(got: &[Got]) -> BTreeMap<u64, Vec<(u64, Option<String>)>> {
    let mut ids: HashMap<u64, HashSet<String>> = HashMap::new();
    let mut groups = BTreeMap::new();
    for got in got.iter().filter(|got| got.json()["type"] == "item.failed") {
        let data = got.json()["data"].clone();
        let before = data["before"].as_u64().unwrap();
        ids.entry(before).or_default().insert(got.id().to_owned());
        let item = |item: &serde_json::Value| {
            assert_eq!(item["reason"], "timeout");
            (item["index"].as_u64().unwrap(), item["custom_id"].as_str().map(str::to_owned))
        };
        groups.insert(before, data["items"].as_array().unwrap().iter().map(item).collect());
    }
    assert!(ids.values().all(|ids| ids.len() == 1), "a group has one id: {ids:?}");
    groups
}

#[tokio::test]
async fn failed_items_are_told_in_groups_each_once_to_who_asks_for_them() {
    let scene = Scene::on(MemoryHub::new()).await;
    let [asked, all] = [Receiver::taking().await, Receiver::taking().await];
    endpoint(&scene, &asked.url(), &[EventKind::ItemFailed]).await;
    endpoint(&scene, &all.url(), &[]).await;
    let scheduler = delivering(&scene, webhooks(1));
    let batch = scene.submit_with(60, |_| {}).await;
    // The first, and those up to the tenth.
    let mut failed = half_fail(&scene, 20).await;
    eventually("they are told while the batch runs", async || groups(&asked.got()).len() == 2).await;
    failed.extend(half_fail(&scene, 6).await);
    // Another process, which begins with the order of settling anew.
    scheduler.stop().await;
    let scheduler = delivering(&scene, webhooks(1));
    failed.extend(half_fail(&scene, 34).await);
    scene.ended(batch, BatchState::Completed).await;
    eventually("the rest is told with the end", async || groups(&asked.got()).len() == 3).await;
    let told: Vec<_> = groups(&asked.got()).into_values().collect();
    assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [1, 9, 20]);
    assert_eq!(told.concat(), failed);
    eventually("nothing is left to be handed on", async || {
        scene.engine.store.pending(9).await.unwrap().is_empty()
    })
    .await;
    eventually("the end is told", async || !all.got().is_empty()).await;
    scheduler.stop().await;
    assert_eq!(told_kinds(&all.got()), ["batch.completed"]);
    assert_eq!(asked.got().len(), 3, "no event went out twice");
}

fn told_kinds(got: &[Got]) -> Vec<String> {
    got.iter().map(|got| got.json()["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_lane_that_stands_still_is_told_once_to_whose_batches_call_it() {
    let scene = Scene::on(MemoryHub::new()).await;
    let told = Receiver::taking().await;
    endpoint(&scene, &told.url(), &[EventKind::LanePaused, EventKind::BatchStarted]).await;
    let of_kind =
        |kind: &str| told.got().iter().map(Got::json).filter(|body| body["type"] == kind).collect::<Vec<_>>();
    let pause = async |lane: &str, ms: u64| {
        let at_ms = scene.engine.clock.now_ms();
        let (lane, learned, paused_until_ms) = (LaneId::new(lane, "none"), Learned::default(), at_ms + ms);
        scene.engine.store.keep_lanes(&[LaneRecord { lane, learned, paused_until_ms, at_ms }]).await.unwrap();
    };
    pause("other", 3_600_000).await;
    pause("scripted", 2_000).await;
    // Begins another batch, which is told before lanes are looked at.
    let goes_on = async |batches: usize| {
        scene.submit(1, 0).await;
        eventually("it is told", async || of_kind("batch.started").len() == batches).await;
    };
    let scheduler = delivering(&scene, webhooks(1));
    let batch = scene.submit(2, 0).await;
    goes_on(2).await;
    pause("scripted", 30_000).await;
    eventually("the pause is told", async || of_kind("lane.paused").len() == 1).await;
    let data = &of_kind("lane.paused")[0]["data"];
    assert_eq!((&data["lane"], data["batches"].as_array().unwrap().len()), (&"scripted/none".into(), 2));
    assert!(data["batches"].as_array().unwrap().contains(&batch.to_string().into()));
    // Neither that it goes on nor that it does so once more is told.
    pause("scripted", 31_000).await;
    goes_on(3).await;
    scene.clock.advance_ms(80_000);
    pause("scripted", 40_000).await;
    goes_on(4).await;
    // A minute after its end another one is, and no other process tells that again.
    scene.clock.advance_ms(40_000 + 61_000);
    pause("scripted", 3_600_000).await;
    eventually("the next pause is told", async || of_kind("lane.paused").len() == 2).await;
    scheduler.stop().await;
    let scheduler = delivering(&scene, webhooks(1));
    goes_on(5).await;
    goes_on(6).await;
    scheduler.stop().await;
    assert_eq!(of_kind("lane.paused").len(), 2);
}

#[tokio::test]
async fn results_stand_in_the_event_of_an_end_for_who_asked_and_where_they_are_small() {
    let scene = Scene::on(MemoryHub::new()).await;
    let [asked, all, webhook] =
        [Receiver::taking().await, Receiver::taking().await, Receiver::taking().await];
    let asking = endpoint(&scene, &asked.url(), &[]).await;
    let changed = Endpoint { results: true, ver: 2, ..asking };
    assert!(scene.engine.records.put_endpoint(&changed).await.unwrap());
    endpoint(&scene, &all.url(), &[]).await;
    let public_url = Some("https://mill.example".to_owned());
    let scheduler = delivering(&scene, Webhooks { public_url, ..webhooks(1) });
    let url = webhook.url();
    let telling = telling(&scene, &url);
    let batch = scene
        .submit_with(4, |new| {
            telling(new);
            new.spec.webhook.as_mut().unwrap().results = true;
            new.spec.progress_at = vec![50, 99];
        })
        .await;
    scene.steer(batch, BatchEvent::Pause(PauseReason::Budget)).await;
    eventually("the pause is told", async || webhook.got().len() == 1 && all.got().len() == 1).await;
    scene.steer(batch, BatchEvent::Resume).await;
    half_fail(&scene, 4).await;
    scene.ended(batch, BatchState::Completed).await;
    // Two marks are told too, at the latest with the end, and without results as their schema has it.
    let of = async |receiver: &Receiver| {
        let got = receiver.gets(4).await;
        let others = got.iter().map(Got::json).filter(|body| body["type"] != "batch.progress");
        others.map(|body| body["data"].clone()).collect::<Vec<_>>()
    };
    let (by_webhook, by_asked, by_all) = (of(&webhook).await, of(&asked).await, of(&all).await);
    scheduler.stop().await;
    assert_eq!((by_webhook.len(), by_asked.len(), by_all.len()), (2, 2, 2));
    assert!(by_webhook[0].get("results").is_none(), "a pause is no end");
    assert_eq!(by_webhook[1]["results"], by_asked[1]["results"]);
    assert!(by_all[1].get("results").is_none());
    let results = by_webhook[1]["results"].as_array().unwrap();
    let short = |result: &serde_json::Value| {
        (
            result["index"].as_u64().unwrap(),
            result["custom_id"].as_str().map(str::to_owned),
            result["outcome"].as_str().unwrap().to_owned(),
        )
    };
    let row = |n: u64, outcome: &str| (n, (n > 0).then(|| format!("row-{n}")), outcome.to_owned());
    assert_eq!(
        results.iter().map(short).collect::<Vec<_>>(),
        [row(0, "failed"), row(1, "succeeded"), row(2, "failed"), row(3, "succeeded")]
    );
    // The link of each event opens under our keys alone, as one to this batch.
    for told in [&by_webhook[0], &by_webhook[1], &by_all[1]] {
        let url = told["results_url"].as_str().unwrap();
        let link =
            ResultsLink::parse(&vault(), url.strip_prefix("https://mill.example/v1/results/").unwrap())
                .unwrap();
        assert_eq!((link.batch, &link.tenant), (batch, &scene.tenant));
        assert!(link.until_ms > scene.engine.clock.now_ms() + 151 * 3_600_000, "it outlives the last try");
    }
}
