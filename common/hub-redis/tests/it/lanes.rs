//! Lanes between processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::poll;
use promptmill_ports::{CallNeed, Denied, Limiter as _, Permit, Signal, Signals as _};
use tokio::task::JoinSet;

use crate::scene::{LONG, READY, Scene, hub, lane, permit, process, told_by_parent, until};

#[tokio::test]
async fn hubs_together_run_no_more_calls_than_the_limit() {
    let scene = Scene::new().await;
    let other = scene.another().await;
    scene.set_concurrency(lane(), Some(3)).await.unwrap();
    let (first, second, _third) = (permit(&scene).await, permit(&scene).await, permit(&other).await);

    let mut fourth = Box::pin(other.acquire(lane(), CallNeed::of(1), 0));
    assert!(poll!(&mut fourth).is_pending());
    // Redis told the other hub that there is no place when it took its word: one call, and one that waits.
    until("its word", async || (words_wanting(&scene, 2) == 2).then_some(())).await;
    assert!(poll!(&mut fourth).is_pending());

    drop(first);
    let _fourth = tokio::time::timeout(LONG, fourth).await.unwrap().unwrap();
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_many_hubs_are_never_more_than_the_limit_and_all_get_through() {
    const LIMIT: usize = 5;
    let scene = Scene::new().await;
    scene.set_concurrency(lane(), Some(LIMIT as u32)).await.unwrap();
    let running = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let hub = Arc::new(scene.another().await);
        for _ in 0..8 {
            let (hub, running) = (hub.clone(), running.clone());
            tasks.spawn(async move {
                for _ in 0..50 {
                    let permit = permit(&hub).await;
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    assert!(now <= LIMIT, "{now} calls at a time");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    drop(permit);
                }
            });
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn one_hub_that_could_use_every_place_leaves_others_their_share() {
    let scene = Scene::new().await;
    let other = scene.another().await;
    scene.set_concurrency(lane(), Some(4)).await.unwrap();
    // Ten calls at a time, one after the other without end.
    let greedy = join_all((0..10).map(|_| async {
        loop {
            let permit = permit(&scene).await;
            tokio::task::yield_now().await;
            drop(permit);
        }
    }));
    let modest = async {
        let permits: Vec<Permit> = vec![permit(&other).await, permit(&other).await];
        permits.len()
    };
    tokio::select! {
        never = greedy => { let _: Vec<()> = never; }
        got = tokio::time::timeout(LONG, modest) => assert_eq!(got.unwrap(), 2),
    }
}

#[tokio::test]
async fn one_place_goes_round_between_hubs_that_want_it_all_the_time() {
    let scene = Scene::new().await;
    let other = scene.another().await;
    scene.set_concurrency(lane(), Some(1)).await.unwrap();
    let always = async {
        loop {
            drop(permit(&scene).await);
            tokio::task::yield_now().await;
        }
    };
    let now_and_then = async {
        for _ in 0..3 {
            drop(permit(&other).await);
        }
    };
    tokio::select! {
        () = always => {}
        done = tokio::time::timeout(LONG, now_and_then) => done.unwrap(),
    }
}

#[tokio::test]
async fn a_limit_that_another_hub_sets_counts_the_calls_that_run_already() {
    let scene = Scene::new().await;
    let other = scene.another().await;
    let running: Vec<Permit> = vec![permit(&scene).await, permit(&scene).await];
    let _one = permit(&other).await;
    other.set_concurrency(lane(), Some(2)).await.unwrap();

    // Who sets it is told of the places in use with its next word.
    let mut next = Box::pin(other.acquire(lane(), CallNeed::of(1), 0));
    assert!(poll!(&mut next).is_pending());
    until("its word", async || (words_wanting(&scene, 2) == 2).then_some(())).await;
    assert!(poll!(&mut next).is_pending());
    drop(running);
    assert!(tokio::time::timeout(LONG, next).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_pause_is_known_to_another_hub_when_it_hears_of_it() {
    let scene = Scene::new().await;
    let other = scene.another().await;
    // It may call, and asks nobody for the next second.
    drop(permit(&other).await);
    let mut heard = other.subscribe();
    scene.pause(lane(), 5_000).await.unwrap();
    let signal = tokio::time::timeout(LONG, heard.recv()).await.unwrap().unwrap();
    assert_eq!(signal, Signal::LanePaused { lane: lane().clone(), until_ms: 5_000 });
    let denied = other.acquire(lane(), CallNeed::of(1), 4_999).await;
    assert!(matches!(denied, Err(Denied::Paused { until_ms: 5_000 })), "{denied:?}");
    // And one that was not there learns of it by asking.
    let late = scene.another().await;
    let denied = late.acquire(lane(), CallNeed::of(1), 4_999).await;
    assert!(matches!(denied, Err(Denied::Paused { until_ms: 5_000 })), "{denied:?}");
}

#[tokio::test]
async fn the_places_of_a_killed_process_come_back() {
    if let Some(url) = told_by_parent() {
        let hub = hub(&url).await;
        let _permits: Vec<Permit> = vec![permit(&hub).await, permit(&hub).await];
        println!("\n{READY}");
        std::future::pending::<()>().await;
    }
    let scene = Scene::new().await;
    scene.set_concurrency(lane(), Some(2)).await.unwrap();
    let mut holder = process("lanes::the_places_of_a_killed_process_come_back", &scene.server.url(), None);
    let mut waiting = Box::pin(scene.acquire(lane(), CallNeed::of(1), 0));
    // Longer than the word of a process holds: one that lives keeps its places.
    let kept = tokio::time::timeout(Duration::from_secs(8), &mut waiting).await;
    assert!(kept.is_err(), "a place of a living process was given away");

    holder.kill();

    assert!(tokio::time::timeout(LONG, waiting).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_hub_that_ends_in_order_gives_its_places_back_at_once() {
    let scene = Scene::new().await;
    scene.set_concurrency(lane(), Some(2)).await.unwrap();
    drop(permit(&scene).await);
    assert_eq!(owners(&scene), 1);
    scene.leave().await;
    assert_eq!(owners(&scene), 0);

    let other = scene.another().await;
    drop(permit(&other).await);
    assert_eq!(owners(&scene), 1);
    drop(other);
    // Nobody else asks for the lane, so nothing but its farewell can take it away.
    until("the farewell", async || (owners(&scene) == 0).then_some(())).await;
}

#[tokio::test]
async fn calls_cost_no_commands_while_the_places_last() {
    let scene = Scene::new().await;
    scene.set_concurrency(lane(), Some(8)).await.unwrap();
    drop(permit(&scene).await);
    let before = commands(&scene);
    for _ in 0..5_000 {
        drop(permit(&scene).await);
    }
    // The words of each second and what this test asks itself; one a call would be thousands.
    let made = commands(&scene) - before;
    assert!(made < 500, "{made} commands for 5,000 calls");
}

/// How many hubs have told that they want so many places of the lane.
fn words_wanting(scene: &Scene, places: u32) -> usize {
    let words = scene.server.command(&["HVALS", "promptmill:{lane:test/lane}:owners"]);
    words.lines().filter(|word| word.split(' ').nth(1) == Some(&places.to_string())).count()
}

fn owners(scene: &Scene) -> usize {
    scene.server.command(&["HLEN", "promptmill:{lane:test/lane}:owners"]).parse().unwrap()
}

fn commands(scene: &Scene) -> u64 {
    let stats = scene.server.command(&["INFO", "stats"]);
    let told = stats.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
    told.unwrap().trim().parse().unwrap()
}
