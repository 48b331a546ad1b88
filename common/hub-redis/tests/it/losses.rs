//! Redis forgets, restarts and stands still: nothing of it needs a hand.

use std::process::Command;
use std::time::Duration;

use futures_util::poll;
use promptmill_domain::BatchId;
use promptmill_domain::rate::{CallEnd, LaneLimits, Learned, RateHints};
use promptmill_ports::{CallNeed, CallReport, Denied, Limiter as _, Queue as _, Signal, Signals as _};
use promptmill_test_servers::RedisServer;

use crate::scene::{LONG, Scene, chunk, lane, permit, permit_after_failures, until};

#[tokio::test]
async fn after_a_flush_the_queue_takes_and_gives_hints() {
    let scene = Scene::new().await;
    scene.push(&[(chunk(1), 0), (chunk(2), 0)]).await.unwrap();
    scene.server.flush();
    scene.server.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(scene.depth().await.unwrap(), 0);
    scene.push(&[(chunk(3), 0), (chunk(4), 1)]).await.unwrap();
    assert_eq!(scene.pop(9, Duration::ZERO).await.unwrap(), [(chunk(4), 1), (chunk(3), 0)]);
}

#[tokio::test]
async fn a_flush_while_somebody_waits_for_hints_costs_nothing() {
    let scene = Scene::new().await;
    let waiting = scene.pop(1, LONG);
    let flushing = async {
        until("a waiting client", async || {
            scene.server.command(&["INFO", "clients"]).contains("blocked_clients:1").then_some(())
        })
        .await;
        scene.server.flush();
        scene.push(&[(chunk(1), 0)]).await.unwrap();
    };
    let (taken, ()) = tokio::join!(waiting, flushing);
    assert_eq!(taken.unwrap(), [(chunk(1), 0)]);
}

#[tokio::test]
async fn after_a_flush_limits_calls_and_pauses_come_back() {
    let scene = Scene::new().await;
    let other = scene.another().await;
    scene.set_concurrency(lane(), Some(2)).await.unwrap();
    let held = (permit(&scene).await, permit(&scene).await);

    scene.server.flush();

    // The lane is known again as soon as those who use it have spoken, and with it the calls that run.
    until("the limit", async || {
        let limit = scene.server.command(&["HGET", "promptmill:{lane:test/lane}:state", "limit"]);
        (limit == "2").then_some(())
    })
    .await;
    let mut third = Box::pin(other.acquire(lane(), CallNeed::of(1), 0));
    assert!(poll!(&mut third).is_pending());
    until("the other's word", async || {
        let owners = scene.server.command(&["HLEN", "promptmill:{lane:test/lane}:owners"]);
        (owners == "2").then_some(())
    })
    .await;
    assert!(poll!(&mut third).is_pending());
    drop(held);
    drop(tokio::time::timeout(LONG, third).await.unwrap().unwrap());

    // A pause that the server forgot before another hub heard of it is told by the one that knows it.
    scene.pause(lane(), 9_000).await.unwrap();
    scene.server.flush();
    let _ = scene.acquire(lane(), CallNeed::of(1), 9_000).await.unwrap();
    let late = scene.another().await;
    let until_ms = until("the pause", async || match late.acquire(lane(), CallNeed::of(1), 8_000).await {
        Err(Denied::Paused { until_ms }) => Some(until_ms),
        _ => None,
    })
    .await;
    assert_eq!(until_ms, 9_000);
}

#[tokio::test]
async fn after_a_flush_nobody_takes_the_place_of_a_call_that_redis_has_not_heard_of_again() {
    let scene = Scene::new().await;
    let other = scene.another().await;
    scene.set_concurrency(lane(), Some(2)).await.unwrap();
    let _mine = permit(&scene).await;
    let others = permit(&other).await;

    scene.server.flush();
    // It asks at once, the other speaks within the second.
    let mut second = Box::pin(scene.acquire(lane(), CallNeed::of(1), 0));
    assert!(poll!(&mut second).is_pending());
    until("the word of both", async || {
        let owners = scene.server.command(&["HLEN", "promptmill:{lane:test/lane}:owners"]);
        (owners == "2").then_some(())
    })
    .await;
    assert!(poll!(&mut second).is_pending());

    drop(others);
    assert!(tokio::time::timeout(LONG, second).await.unwrap().is_ok());
}

#[tokio::test]
async fn after_a_flush_a_lane_knows_what_it_learned_of_its_provider() {
    let scene = Scene::new().await;
    scene.set_rules(lane(), LaneLimits::default(), Learned::default());
    let view = || scene.lanes().into_iter().find(|report| report.lane == *lane()).unwrap().view;
    let call = async |end| {
        let mut permit = permit(&scene).await;
        permit.begin();
        permit.end(CallReport { end, hints: RateHints::default(), tokens: Some(1) });
    };
    call(CallEnd::TooOften { retry_after: Some(Duration::from_millis(50)) }).await;
    until("the refusal", async || (view().refused == 1).then_some(())).await;
    let (begun, rate) = (view().begun, view().allowed_per_s);

    scene.server.flush();

    call(CallEnd::Taken).await;
    until("the call", async || (view().begun > begun).then_some(())).await;
    assert_eq!((view().refused, view().allowed_per_s), (1, rate));
    // Another hub reads what this one wrote again.
    let other = scene.another().await;
    other.set_rules(lane(), LaneLimits::default(), Learned::default());
    let _permit = permit(&other).await;
    assert_eq!(other.lanes()[0].view.refused, 1);
}

#[tokio::test]
async fn a_restarted_server_is_used_again_by_every_port() {
    let mut scene = Scene::new().await;
    drop(permit(&scene).await);
    scene.push(&[(chunk(1), 0)]).await.unwrap();
    let mut heard = scene.subscribe();

    scene.server.kill();
    assert!(scene.push(&[(chunk(2), 0)]).await.is_err());
    assert!(scene.pop(1, Duration::ZERO).await.is_err());
    assert!(scene.depth().await.is_err());
    assert!(scene.publish(Signal::BatchChanged(BatchId::from_bytes([4; 16]))).await.is_err());
    until("permits to end", async || {
        matches!(scene.acquire(lane(), CallNeed::of(1), 0).await, Err(Denied::Unavailable(_))).then_some(())
    })
    .await;
    scene.server.restart();

    until("a push", async || scene.push(&[(chunk(3), 0)]).await.ok()).await;
    assert_eq!(scene.pop(9, LONG).await.unwrap(), [(chunk(3), 0)]);
    drop(permit_after_failures(&scene).await);
    let signal = Signal::BatchChanged(BatchId::from_bytes([5; 16]));
    until("a signal", async || {
        scene.publish(signal.clone()).await.unwrap();
        tokio::time::timeout(Duration::from_millis(50), heard.recv()).await.ok()
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_pop_that_waits_while_the_server_restarts_ends() {
    let mut scene = Scene::new().await;
    let url = scene.server.url();
    let other = crate::scene::hub(&url).await;
    let waiting = tokio::spawn(async move { other.pop(1, LONG).await });
    until("a waiting client", async || {
        scene.server.command(&["INFO", "clients"]).contains("blocked_clients:1").then_some(())
    })
    .await;
    scene.server.restart();
    let ended = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap();
    assert!(ended.is_err(), "{ended:?}");
}

#[tokio::test]
async fn a_server_that_stands_still_is_an_error_and_then_used_again() {
    let scene = Scene::new().await;
    drop(permit(&scene).await);
    signal(&scene.server, "-STOP");
    assert!(tokio::time::timeout(LONG, scene.depth()).await.unwrap().is_err());
    signal(&scene.server, "-CONT");
    until("the depth", async || scene.depth().await.ok()).await;
    drop(permit_after_failures(&scene).await);
}

#[tokio::test]
async fn a_signal_of_the_time_without_a_subscription_is_lost_and_the_next_is_heard() {
    let scene = Scene::new().await;
    let mut heard = scene.subscribe();
    scene.server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let signal = Signal::ChunkDone(BatchId::from_bytes([6; 16]));
    let told = until("a signal", async || {
        scene.publish(signal.clone()).await.unwrap();
        // The receiver of this test is made before the subscription broke and lasts.
        let mut again = heard.resubscribe();
        tokio::time::timeout(Duration::from_millis(50), again.recv()).await.ok()
    })
    .await;
    assert_eq!(told.unwrap(), signal);
    assert_eq!(tokio::time::timeout(LONG, heard.recv()).await.unwrap().unwrap(), signal);
}

fn signal(server: &RedisServer, signal: &str) {
    let done = Command::new("kill").args([signal, &server.process_id().to_string()]).status().unwrap();
    assert!(done.success());
}
