//! What an item waits for before its call, in which order, and what it keeps from others meanwhile.

use std::time::Duration;

use promptmill_domain::FailureKind;
use promptmill_pipeline::RetryPolicy;
use promptmill_ports::Limiter as _;
use proptest::prelude::*;

use crate::support::*;

const SLOW: Duration = Duration::from_secs(600);

/// Long enough for everyone to come to where they wait.
async fn settle_down() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_limited_batch_makes_no_more_calls_than_it_may_and_a_raised_limit_holds_at_once() {
    let scene = Setting { takes: SLOW, concurrency: 8, ..Setting::default() }.scene(|_, _| says(GOOD));
    scene.plan.set_max_concurrency(Some(2));
    assert_eq!(scene.plan.max_concurrency(), Some(2));
    let _running: Vec<_> = (0..6).map(|index| scene.spawn(item(index))).collect();
    settle_down().await;
    assert_eq!(scene.standing(), [2, 0, 0, 4, 0]);
    assert_eq!(scene.calls_in_flight(), 2, "who waits for the batch's limit holds no place");
    scene.plan.set_max_concurrency(Some(3));
    settle_down().await;
    assert_eq!(scene.standing(), [3, 0, 0, 3, 0]);
    scene.plan.set_max_concurrency(None);
    settle_down().await;
    assert_eq!(scene.standing(), [6, 0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_lowered_limit_lets_calls_under_way_end_and_begins_none_above_it() {
    let takes = Duration::from_secs(1);
    let scene = Setting { takes, concurrency: 8, ..Setting::default() }.scene(|_, _| says(GOOD));
    let running: Vec<_> = (0..24).map(|index| scene.spawn(item(index))).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.standing()[0], 8);
    scene.plan.set_max_concurrency(Some(1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.standing(), [1, 0, 0, 15, 0]);
    for handle in running {
        succeeded(handle.await.unwrap());
    }
    assert_eq!(scene.standing(), [0; 5]);
}

#[tokio::test(start_paused = true)]
async fn what_an_item_waits_for_is_counted_as_what_is_scarce() {
    // Places are scarce.
    let scene = Setting { takes: SLOW, concurrency: 2, ..Setting::default() }.scene(|_, _| says(GOOD));
    let _running: Vec<_> = (0..5).map(|index| scene.spawn(item(index))).collect();
    settle_down().await;
    assert_eq!(scene.standing(), [2, 3, 0, 0, 0]);
    // The lane is.
    let scene = Setting { takes: SLOW, concurrency: 4, ..Setting::default() }.scene(|_, _| says(GOOD));
    scene.limiter.set_concurrency(&scene.lane(), Some(1)).await.unwrap();
    let _running: Vec<_> = (0..9).map(|index| scene.spawn(item(index))).collect();
    settle_down().await;
    assert_eq!(scene.standing(), [1, 0, 8, 0, 0]);
    assert_eq!(scene.calls_in_flight(), 1, "who waits for the lane holds no place");
    // A lane that allows more than there are places is not what is scarce.
    let scene = Setting { takes: SLOW, concurrency: 4, ..Setting::default() }.scene(|_, _| says(GOOD));
    scene.limiter.set_concurrency(&scene.lane(), Some(6)).await.unwrap();
    let _running: Vec<_> = (0..9).map(|index| scene.spawn(item(index))).collect();
    settle_down().await;
    assert_eq!(scene.standing(), [4, 5, 0, 0, 0]);
    // The item failed and is tried again later.
    let first = Duration::from_secs(60);
    let policy =
        RetryPolicy { first, patience_under_lease: Duration::from_secs(600), ..RetryPolicy::default() };
    let scene = Setting { policy, max_attempts: 100, ..Setting::default() }
        .scene(|_, _| fails(FailureKind::EmptyReply));
    let _running: Vec<_> = (0..3).map(|index| scene.spawn(item(index))).collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(scene.standing(), [0, 0, 0, 0, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_full_lane_keeps_no_other_lane_waiting() {
    let full = Setting { takes: SLOW, concurrency: 4, ..Setting::default() }.scene(|_, _| says(GOOD));
    full.limiter.set_concurrency(&full.lane(), Some(1)).await.unwrap();
    let _waiting: Vec<_> = (0..200).map(|index| full.spawn(item(index))).collect();
    settle_down().await;
    let other = full.beside("second", Duration::from_secs(1), |_, _| says(GOOD));
    let began = tokio::time::Instant::now();
    let running: Vec<_> = (0..30).map(|index| other.spawn(item(index))).collect();
    for handle in running {
        succeeded(handle.await.unwrap());
    }
    // Three places were left, and each call takes a second.
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!(full.standing(), [1, 0, 199, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_slow_calls_shares_the_places_with_one_that_came_later() {
    let takes = Duration::from_secs(10);
    let slow = Setting { takes, concurrency: 4, ..Setting::default() }.scene(|_, _| says(GOOD));
    let _waiting: Vec<_> = (0..200).map(|index| slow.spawn(item(index))).collect();
    settle_down().await;
    let quick = slow.beside("second", Duration::from_millis(100), |_, _| says(GOOD));
    let began = tokio::time::Instant::now();
    let running: Vec<_> = (0..4).map(|index| quick.spawn(item(index))).collect();
    for handle in running {
        succeeded(handle.await.unwrap());
    }
    assert!(began.elapsed() < takes * 2, "{:?}: not behind all that waited before", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_call_begins_in_a_pause_that_was_asked_for_while_items_waited_for_a_place() {
    let takes = Duration::from_secs(1);
    let scene = Setting { takes, concurrency: 2, ..Setting::default() }.scene(|_, _| says(GOOD));
    let other = scene.beside("second", takes, |_, _| says(GOOD));
    scene.limiter.set_concurrency(&scene.lane(), Some(1)).await.unwrap();
    let _others: Vec<_> = (0..8).map(|index| other.spawn(item(index))).collect();
    let running: Vec<_> = (0..4).map(|index| scene.spawn(item(index))).collect();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let before = scene.provider.calls();
    scene.limiter.pause(&scene.lane(), START_MS + 6_000).await.unwrap();
    for handle in running {
        succeeded(handle.await.unwrap());
    }
    let after = &scene.provider.seen()[before..];
    assert!(!after.is_empty() && after.iter().all(|call| call.at >= Duration::from_secs(6)), "{after:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_limited_and_whenever_it_changes_every_item_ends_and_everything_is_given_back(
        concurrency in 1_usize..6,
        lanes in [prop::option::of(1_u32..4), prop::option::of(1_u32..4)],
        items in 1_u32..60,
        limits in prop::collection::vec((prop::option::of(0_u32..5), 1_u64..40), 0..12),
        given_up in prop::collection::vec((0_usize..60, 1_u64..40), 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let scene = Setting { concurrency, ..Setting::default() }.scene(|_, _| says(GOOD));
            let other = scene.beside("second", Duration::from_millis(7), |_, _| says(GOOD));
            for (scene, limit) in [&scene, &other].into_iter().zip(lanes) {
                scene.limiter.set_concurrency(&scene.lane(), limit).await.unwrap();
            }
            let mut running: Vec<_> =
                (0..items).map(|index| if index % 3 == 0 { other.spawn(item(index)) } else { scene.spawn(item(index)) }).collect();
            for (which, after) in given_up {
                tokio::time::sleep(Duration::from_millis(after)).await;
                if which < running.len() {
                    let handle = running.swap_remove(which);
                    handle.abort();
                    let _ = handle.await;
                }
            }
            for (most, after) in limits {
                scene.plan.set_max_concurrency(most);
                tokio::time::sleep(Duration::from_millis(after)).await;
            }
            for handle in running {
                succeeded(handle.await.unwrap());
            }
            prop_assert_eq!((scene.calls_in_flight(), scene.standing(), other.standing()), (0, [0; 5], [0; 5]));
            Ok(())
        })?;
    }
}
