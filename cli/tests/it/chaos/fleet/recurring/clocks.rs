//! Clocks of schedulers that are wrong by an hour either way, one after the other and beside a right one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Asked, Stand, ms, now_ms, second_in, time, wait_for_time};
use crate::chaos::fleet::seed;
use crate::chaos::scene::wait_until_it;
use crate::checker::recurring::{Calls, Misfire};

const HOUR_MS: u64 = 3_600_000;

/// Schedules whose ticks are a minute apart.
const POLICIES: [Misfire; 3] = [Misfire::RunEach { most: 100 }, Misfire::RunOnce, Misfire::Skip];

/// What is told of the ticks of these schedules, and the calls for all of them.
async fn all(stand: &Stand) -> (Vec<Vec<Value>>, BTreeMap<String, Calls>) {
    let mut ticks = Vec::new();
    for nth in 0..POLICIES.len() {
        ticks.push(stand.ticks(nth).await);
    }
    let of_these = |name: &String| (0..POLICIES.len()).any(|nth| *name == format!("s{nth}"));
    let calls = stand.calls().into_iter().filter(|(name, _)| of_these(name)).collect();
    (ticks, calls)
}

/// Waits until each of these schedules is decided beyond that time, and what runs of it is over.
async fn wait_until_decided(stand: &Stand, until_ms: u64) {
    for asked in &stand.asked[..POLICIES.len()] {
        let path = format!("/v1/schedules/{}", asked.id);
        wait_until_it("ticks to be decided", async || {
            let (_, view) = stand.client.get(&path).await;
            view["next_at"].is_null() || ms(&view["next_at"]) > until_ms
        })
        .await;
    }
    stand.wait_for_rest(0..POLICIES.len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_whose_clock_is_an_hour_fast_or_slow_runs_no_tick_twice_and_leaves_none_out() {
    let seed = seed(1);
    let mut stand = Stand { has_one_clock: false, ..Stand::begin(seed, 1) };
    let start_ms = second_in(3);
    let end_ms = start_ms + 2 * HOUR_MS;
    for misfire in POLICIES {
        stand.every(misfire, 60, (start_ms, end_ms)).await;
    }
    // One that is due never, and runs when somebody asks.
    let when = json!({"every": 86_400, "paused": true, "end": time(start_ms + 48 * HOUR_MS)});
    let on_request = stand.make(Misfire::Skip, when).await["id"].as_str().unwrap().to_owned();
    stand.asked.push(Asked { id: on_request.clone(), misfire: Misfire::Skip, due: vec![] });
    // The first tick, by the right clock.
    wait_until_decided(&stand, start_ms).await;
    stand.end_scheduler(0);

    // An hour fast: ticks of an hour run or are missed before their time.
    let fast = stand.scheduler_at(now_ms() + HOUR_MS, 1);
    wait_until_decided(&stand, now_ms() + HOUR_MS - 60_000).await;
    let (ticks, _) = all(&stand).await;
    assert!(ticks.iter().all(|ticks| ticks.len() >= 60), "the clock is fast");

    // The right clock again, beside it at first. The elder of the two leads, and its session is of an earlier time.
    let right = stand.scheduler();
    stand.wait_until_it_leads(right);
    stand.end_scheduler(fast);
    stand.wait_for_rest(0..POLICIES.len()).await;
    let before = all(&stand).await;
    // What is due by the right clock is made.
    let soon_ms = second_in(2);
    stand.every(Misfire::RunEach { most: 100 }, 1, (soon_ms, soon_ms + 3_000)).await;
    let witness = stand.asked.len() - 1;
    stand.wait_for_runs(witness, stand.asked[witness].due.len()).await;
    assert_eq!(all(&stand).await, before, "what ran too early does not run again");

    // An hour slow, beside the right one at first, and elder than that: it makes what is asked for, and nothing else is due.
    let slow = stand.scheduler_at(now_ms() - HOUR_MS, 1);
    stand.wait_until_it_leads(slow);
    stand.end_scheduler(0);
    let (status, tick) = stand.client.step(&format!("/v1/schedules/{on_request}/run")).await;
    assert_eq!(status, 202, "{tick}");
    stand.asked[POLICIES.len()].due.push(ms(&tick["at"]));
    stand.wait_for_runs(POLICIES.len(), 1).await;
    assert_eq!(all(&stand).await, before, "a clock that goes back makes nothing again");
    // What is due while it leads waits for whoever comes next.
    let soon_ms = second_in(1);
    stand.every(Misfire::RunEach { most: 100 }, 1, (soon_ms, soon_ms + 3_000)).await;
    let late = stand.asked.len() - 1;
    wait_for_time(soon_ms + 4_000).await;
    assert!(stand.ticks(late).await.is_empty(), "the clock is slow");
    stand.end_scheduler(0);
    stand.scheduler();
    stand.wait_for_runs(late, stand.asked[late].due.len()).await;
    assert_eq!(all(&stand).await, before);

    // And the rest of the two hours, which a fast clock goes on with.
    stand.end_scheduler(0);
    stand.scheduler_at(end_ms + 60_000, 1);
    wait_until_decided(&stand, end_ms).await;
    let stories = stand.conclude("a clock an hour fast, right, an hour slow", seed).await;
    let ran: Vec<usize> = stories[..POLICIES.len()].iter().map(|story| story.ran().len()).collect();
    assert_eq!(ran[0], 121);
    assert!(ran[1] >= 3 && ran[2] >= 1 && ran[1] + ran[2] < 20, "{ran:?}");
}
