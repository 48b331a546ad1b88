//! Whose fault a failure is, how often a lane pauses, and how many calls run at once.

use std::time::Duration;

use promptmill_domain::FailureKind;
use promptmill_domain::rate::{LaneLimits, Learned};
use promptmill_pipeline::{ItemEnd, RetryPolicy};
use promptmill_ports::Limiter as _;
use promptmill_provider::CallFailure;
use proptest::prelude::*;

use crate::support::*;

/// The credential is refused, for every call of the lane as far as is known.
fn refused(kind: FailureKind) -> Answer {
    let mut failure = CallFailure::new(kind, "the provider's words");
    failure.lane_wide = true;
    Err(failure)
}

/// Waits everything out, so that no item parks.
fn patient() -> RetryPolicy {
    RetryPolicy { patience_under_lease: Duration::from_secs(600), ..RetryPolicy::default() }
}

#[tokio::test(start_paused = true)]
async fn an_outage_counts_no_attempts_and_costs_few_calls() {
    let scene = Setting { concurrency: 16, ..Setting::default() }
        .scene(|call, _| if call < 60 { fails(FailureKind::ConnectionFailed) } else { says(GOOD) });
    scene.limiter.set_rules(&scene.lane(), LaneLimits::default(), Learned::default());
    let mut waiting: Vec<_> = (0..40).map(item).collect();
    let mut ended = 0;
    while ended < 40 {
        let running: Vec<_> = waiting.drain(..).map(|input| scene.spawn(input)).collect();
        for (handle, index) in running.into_iter().zip(0..) {
            match handle.await.unwrap() {
                ItemEnd::Parked { item: parked, .. } => {
                    assert_eq!(parked.counted, 0, "the outage is not the row's fault");
                    waiting.push(promptmill_pipeline::ItemInput { parked: Some(parked), ..item(index) });
                }
                ItemEnd::Untouched { .. } => waiting.push(item(index)),
                end => {
                    succeeded(end);
                    ended += 1;
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // One call at a time asks whether the provider is back, until it is.
    let began: Vec<_> = scene.provider.seen().iter().map(|seen| seen.at).collect();
    let probes = began[10..60].windows(2);
    assert!(probes.clone().all(|pair| pair[1] - pair[0] >= Duration::from_secs(4)), "{began:?}");
    assert!(began[10..60].windows(2).all(|pair| pair[1] - pair[0] < Duration::from_secs(6)), "{began:?}");
    // And then all others go on.
    assert!(began[99] - began[60] < Duration::from_secs(5), "{began:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_credential_pauses_lane_and_batch_once_and_fails_no_item() {
    for kind in [FailureKind::CredentialRefused, FailureKind::PaymentRequired] {
        let scene = Scene::json(move |call, _| if call < 3 { says(GOOD) } else { refused(kind) });
        scene.gate.pause_for_refusals();
        for index in 0..3 {
            succeeded(scene.run_item(item(index)).await);
        }
        // Others got through a moment ago, so the first may be refused for themselves.
        for index in 3..5 {
            let (parked, spent) = parked(scene.run_item(item(index)).await);
            assert_eq!((parked.reason, parked.attempts.len(), spent.calls), (kind, 1, 1));
        }
        assert!(scene.gate.refusals().is_empty() && scene.limiter.pauses().is_empty());
        let _ = parked(scene.run_item(item(5)).await);
        assert_eq!(scene.gate.refusals(), [(kind, "the provider's words".to_owned())]);
        assert_eq!(scene.limiter.pauses().len(), 1);
        // Nobody else calls meanwhile.
        assert!(matches!(
            scene.run_item(item(6)).await,
            ItemEnd::Untouched { lane_paused_until_ms: Some(_) }
        ));
        assert_eq!(scene.provider.calls(), 6);
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_refused_for_itself_fails_alone() {
    let scene = Scene::json(|_, request| {
        if request.seed_hint == 1 { refused(FailureKind::CredentialRefused) } else { says(GOOD) }
    });
    scene.gate.pause_for_refusals();
    let (first, _) = parked(scene.run_item(item(1)).await);
    tokio::time::sleep(Duration::from_secs(20)).await;
    // Others get through with the same credential.
    succeeded(scene.run_item(item(0)).await);
    let again = promptmill_pipeline::ItemInput { parked: Some(first), ..item(1) };
    let (kind, ..) = failed(scene.run_item(again).await);
    assert_eq!(kind, FailureKind::CredentialRefused);
    assert_eq!(scene.gate.refusals().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn where_the_batch_does_not_stand_still_a_refused_credential_fails_the_item() {
    let scene = Scene::json(|_, _| refused(FailureKind::CredentialRefused));
    assert_eq!(failed(scene.run().await).0, FailureKind::CredentialRefused);
    assert!(scene.limiter.pauses().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_row_that_always_breaks_the_connection_fails_while_others_succeed() {
    let scene = Setting { policy: patient(), ..Setting::default() }.scene(|_, request| {
        if request.seed_hint == 0 { fails(FailureKind::ConnectionFailed) } else { says(GOOD) }
    });
    let bad = scene.spawn(item(0));
    let others = {
        let (scene, bad) = (scene.clone(), bad.abort_handle());
        tokio::spawn(async move {
            for index in 1.. {
                if bad.is_finished() {
                    return;
                }
                succeeded(scene.run_item(item(index)).await);
            }
        })
    };
    let (kind, _, outcome) = failed(bad.await.unwrap());
    others.await.unwrap();
    assert_eq!(kind, FailureKind::ConnectionFailed);
    assert!((5..=6).contains(&outcome.attempts.len()), "{}", outcome.attempts.len());
    assert!(scene.limiter.pauses().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_row_that_breaks_the_connection_at_once_fails_although_nothing_succeeds_in_that_moment() {
    let scene =
        Setting { takes: Duration::ZERO, policy: patient(), ..Setting::default() }.scene(|_, request| {
            if request.seed_hint == 0 { fails(FailureKind::ConnectionFailed) } else { says(GOOD) }
        });
    let bad = scene.spawn(item(0));
    for index in 1..1_000 {
        succeeded(scene.run_item(item(index)).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (kind, _, outcome) = failed(bad.await.unwrap());
    assert_eq!(kind, FailureKind::ConnectionFailed);
    assert!((5..=8).contains(&outcome.attempts.len()), "{}", outcome.attempts.len());
}

#[tokio::test(start_paused = true)]
async fn what_succeeded_while_an_item_waited_for_leave_does_not_count_against_it() {
    // The first call succeeds, then the provider is gone; the second item had been waiting for the only place meanwhile.
    let scene =
        Setting { concurrency: 1, max_attempts: 1, ..Setting::default() }.scene(|call, _| match call {
            0 => says(GOOD),
            1 => fails(FailureKind::ConnectionFailed),
            _ => says(GOOD),
        });
    let first = scene.spawn(item(0));
    let second = scene.spawn(item(1));
    succeeded(first.await.unwrap());
    tokio::time::advance(Duration::from_millis(1)).await;
    // With the failure counted against it, the item would have failed after its one attempt.
    let end = second.await.unwrap();
    assert_eq!(scene.provider.calls(), 3, "{end:?}");
    succeeded(end);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn there_are_never_more_calls_than_places_nor_than_the_lane_allows(
        concurrency in 1_usize..12,
        lane in prop::option::of(1_u32..8),
        items in 1_u32..120,
        faults in prop::collection::vec(0_u8..5, 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let scene = Setting { concurrency, policy: patient(), ..Setting::default() }.scene(move |call, _| {
                match faults[call % faults.len()] {
                    0 if call < 200 => fails(FailureKind::EmptyReply),
                    1 if call < 200 => says("not JSON"),
                    2 if call < 200 => slow_down(Duration::from_millis(50)),
                    _ => says(GOOD),
                }
            });
            scene.limiter.set_concurrency(&scene.lane(), lane).await.unwrap();
            let running: Vec<_> = (0..items).map(|index| scene.spawn(item(index))).collect();
            let mut calls = 0;
            for handle in running {
                calls += settled(handle.await.unwrap()).1.calls;
            }
            let most = lane.map_or(concurrency, |lane| concurrency.min(lane as usize));
            prop_assert!(scene.provider.most() <= most, "{} calls at once", scene.provider.most());
            prop_assert_eq!(scene.provider.calls() as u64, calls);
            prop_assert_eq!(scene.gate.spent().calls, calls);
            prop_assert_eq!(scene.calls_in_flight(), 0);
            Ok(())
        })?;
    }
}
