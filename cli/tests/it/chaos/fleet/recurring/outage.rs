//! All schedulers are down while ticks are due.

use super::{Stand, second_in, wait_for_time};
use crate::chaos::fleet::seed;
use crate::checker::recurring::{Misfire, Story};

const POLICIES: [Misfire; 4] =
    [Misfire::RunOnce, Misfire::RunEach { most: 2 }, Misfire::RunEach { most: 100 }, Misfire::Skip];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_due_while_every_scheduler_was_down_follows_the_policy_after_a_restart() {
    let seed = seed(1);
    let mut stand = Stand::begin(seed, 2);
    let start_ms = second_in(3);
    // Of each policy one schedule that ends during the outage, so that all of its last ticks are late, and one that goes on after it.
    let (over_ms, end_ms) = (start_ms + 18_000, start_ms + 40_000);
    for misfire in POLICIES {
        stand.every(misfire, 2, (start_ms, over_ms)).await;
        stand.every(misfire, 2, (start_ms, end_ms)).await;
    }
    for nth in 0..2 * POLICIES.len() {
        stand.wait_for_runs(nth, 1).await;
    }
    for scheduler in &mut stand.fleet.schedulers {
        scheduler.kill();
    }
    let killed_ms = super::now_ms();
    // All of these are late by more than the grace then.
    wait_for_time(over_ms + 2_000).await;
    for scheduler in &mut stand.fleet.schedulers {
        scheduler.restart(&stand.desk);
    }
    let stories = stand.conclude("both schedulers down", seed).await;
    let down =
        |story: &Story| story.due.iter().copied().filter(|at_ms| *at_ms > killed_ms).collect::<Vec<_>>();
    for (misfire, both) in POLICIES.into_iter().zip(stories.chunks(2)) {
        let late = down(&both[0]);
        assert!(late.len() >= 3, "{} ticks were due while all were down", late.len());
        let made_up = match misfire {
            Misfire::RunOnce => &late[late.len() - 1..],
            Misfire::RunEach { most: 2 } => &late[late.len() - 2..],
            Misfire::RunEach { .. } => &late[..],
            Misfire::Skip => &[],
        };
        let ran = both[0].ran();
        let ran: Vec<u64> = ran.into_iter().filter(|at_ms| *at_ms > killed_ms).collect();
        assert_eq!(ran, made_up, "{misfire:?}, seed {seed}");
        let last_ms = both[1].ran().last().copied();
        assert!(last_ms > Some(over_ms + 2_000), "{misfire:?} goes on after the restart, seed {seed}");
    }
}
