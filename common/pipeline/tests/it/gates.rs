//! A gate that closes: before, between and during calls.
//!
//! Time is tokio's paused clock: a sleep is a moment of the story, exact and over at once.

use std::time::Duration;

use promptmill_domain::FailureKind;
use promptmill_ports::{CallNeed, Limiter as _};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_closed_gate_leaves_an_item_untouched() {
    let scene = Scene::of(vec![]);
    scene.gate.close();
    assert_eq!(untouched(scene.run().await), None);
    assert_eq!(scene.provider.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_closes_during_a_wait_parks_the_item_with_its_due_time() {
    let scene = Scene::of(vec![slow_down(Duration::from_secs(3))]);
    let running = scene.spawn(item(0));
    tokio::time::sleep(Duration::from_millis(500)).await;
    scene.gate.close();
    let (item, spent) = parked(running.await.unwrap());
    assert!(scene.provider.seen()[0].at < Duration::from_millis(500));
    assert!(item.due_ms >= START_MS + 3_010);
    assert_eq!((item.attempts.len(), item.counted, spent.calls), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_closes_before_a_repair_parks_what_was_called() {
    let scene =
        Setting { takes: Duration::from_secs(1), ..Setting::default() }.scene(|_, _| says("not JSON"));
    let running = scene.spawn(item(0));
    tokio::time::sleep(Duration::from_millis(500)).await;
    scene.gate.close();
    let (item, spent) = parked(running.await.unwrap());
    assert_eq!((spent.calls, spent.cost), (1, COST), "a call under way is awaited and paid for");
    assert_eq!((item.counted, item.attempts.len(), item.attempts[0].calls.len()), (0, 1, 1));
    assert!(item.due_ms <= START_MS + 1_001, "it may go on as soon as the gate is open");
}

#[tokio::test(start_paused = true)]
async fn a_call_under_way_when_the_gate_closes_still_settles_its_item() {
    let scene = Setting { takes: Duration::from_secs(1), ..Setting::default() }.scene(|_, _| says(GOOD));
    let running = scene.spawn(item(0));
    tokio::time::sleep(Duration::from_millis(500)).await;
    scene.gate.close();
    succeeded(running.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_place_or_for_the_lane_lets_go_when_the_gate_closes() {
    for lane_limit in [None, Some(1)] {
        let concurrency = if lane_limit.is_some() { 4 } else { 1 };
        let scene = Setting { concurrency, takes: Duration::from_secs(600), ..Setting::default() }
            .scene(|_, _| says(GOOD));
        scene.limiter.set_concurrency(&scene.lane(), lane_limit).await.unwrap();
        let calling = scene.spawn(item(0));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let waiting = scene.spawn(item(1));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        scene.gate.close();
        assert_eq!(untouched(waiting.await.unwrap()), None);
        assert_eq!(scene.provider.calls(), 1);
        calling.abort();
        let _ = calling.await;
        assert_eq!(scene.calls_in_flight(), 0, "a call that is given up frees its place");
        let lane = scene.lane();
        let permit = scene.limiter.acquire(&lane, CallNeed::of(0), START_MS);
        assert!(tokio::time::timeout(Duration::from_secs(1), permit).await.is_ok(), "and its permit");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_stands_still_for_long_gives_a_fresh_item_back_untouched() {
    let scene = Scene::of(vec![]);
    scene.limiter.pause(&scene.lane(), START_MS + 60_000).await.unwrap();
    assert_eq!(untouched(scene.run().await), Some(START_MS + 60_000));
    assert_eq!(scene.provider.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_stands_still_for_long_parks_an_item_that_was_begun() {
    let scene = Scene::of(vec![fails(FailureKind::EmptyReply)]);
    let running = scene.spawn(item(0));
    tokio::time::sleep(Duration::from_millis(5)).await;
    scene.limiter.pause(&scene.lane(), START_MS + 60_000).await.unwrap();
    let (item, _) = parked(running.await.unwrap());
    assert_eq!((item.due_ms, item.counted), (START_MS + 60_000, 1));
}

#[tokio::test(start_paused = true)]
async fn a_short_pause_of_the_lane_is_waited_out_without_holding_a_place() {
    let scene = Scene::of(vec![]);
    scene.limiter.pause(&scene.lane(), START_MS + 4_000).await.unwrap();
    let running = scene.spawn(item(0));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.calls_in_flight(), 0);
    succeeded(running.await.unwrap());
    assert!(scene.provider.seen()[0].at >= Duration::from_secs(4));
}
