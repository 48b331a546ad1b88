//! Further attempts: when, how often, and when not.

use std::time::Duration;

use promptmill_domain::{FailureKind, Flag};
use promptmill_pipeline::RetryPolicy;
use promptmill_provider::CallFailure;

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_retried_within_the_ceiling_up_to_max_attempts() {
    for _ in 0..20 {
        let scene = Scene::json(|_, _| fails(FailureKind::ProviderError));
        let (kind, message, outcome) = failed(scene.run().await);
        assert_eq!((kind, message.as_str()), (FailureKind::ProviderError, "the provider's words"));
        assert_eq!((scene.provider.calls(), outcome.attempts.len()), (5, 5));
        let at: Vec<_> = scene.provider.seen().iter().map(|seen| seen.at).collect();
        for (pair, failures) in at.windows(2).zip(1..) {
            let ceiling = RetryPolicy::default().ceiling(failures) + Duration::from_millis(10);
            assert!(pair[1] - pair[0] <= ceiling + Duration::from_millis(3), "{at:?}");
        }
        let attempts: Vec<_> = scene.provider.seen().iter().map(|seen| seen.attempt).collect();
        assert_eq!(attempts, [0, 1, 2, 3, 4]);
        assert!(scene.limiter.pauses().is_empty(), "one row's trouble does not pause the lane");
    }
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_fails_at_once_with_the_providers_words() {
    for kind in [
        FailureKind::RequestRefused,
        FailureKind::CredentialRefused,
        FailureKind::PaymentRequired,
        FailureKind::ModelUnavailable,
        FailureKind::ContextTooLong,
        FailureKind::ContentRefused,
        FailureKind::ReplyTooLarge,
    ] {
        let scene = Scene::json(move |_, _| fails(kind));
        let (found, message, _) = failed(scene.run().await);
        assert_eq!((found, message.as_str(), scene.provider.calls()), (kind, "the provider's words", 1));
    }
}

#[tokio::test(start_paused = true)]
async fn the_provider_may_call_a_transient_kind_permanent_and_the_reverse() {
    let told = |kind, transient| {
        let mut failure = CallFailure::new(kind, "as told");
        failure.transient = transient;
        Err(failure)
    };
    let scene = Scene::of(vec![told(FailureKind::ProviderError, false)]);
    assert_eq!(failed(scene.run().await).0, FailureKind::ProviderError);
    let scene = Scene::of(vec![told(FailureKind::ContentRefused, true)]);
    succeeded(scene.run().await);
    assert_eq!(scene.provider.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_never_undercut_and_pauses_the_lane() {
    for nanos in [1_u64, 999_999, 1_500_000, 250_000_001, 1_999_999_999, 3_000_000_000] {
        let asked = Duration::from_nanos(nanos);
        let scene = Scene::of(vec![slow_down(asked)]);
        // The clock must not begin on a whole millisecond, or the loss of a part of one would not show.
        tokio::time::advance(Duration::from_micros(700)).await;
        succeeded(scene.run().await);
        let seen = scene.provider.seen();
        let waited = seen[1].at - (seen[0].at + Duration::from_millis(10));
        assert!(waited >= asked, "asked for {asked:?}, came back after {waited:?}");
        assert!(waited <= asked * 5 / 4 + Duration::from_millis(260), "{waited:?} for {asked:?}");
        assert_eq!(scene.limiter.pauses().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_one_item_was_told_holds_for_every_other_one() {
    let scene = Scene::json(|call, _| if call == 0 { slow_down(Duration::from_secs(3)) } else { says(GOOD) });
    let first = scene.spawn(item(0));
    tokio::time::advance(Duration::from_millis(1)).await;
    while scene.limiter.pauses().is_empty() {
        tokio::time::advance(Duration::from_millis(1)).await;
        tokio::task::yield_now().await;
    }
    let others: Vec<_> = (1..10).map(|index| scene.spawn(item(index))).collect();
    for other in others {
        succeeded(other.await.unwrap());
    }
    succeeded(first.await.unwrap());
    let told = scene.provider.seen()[0].at + Duration::from_millis(10);
    assert!(scene.provider.seen()[1..].iter().all(|seen| seen.at >= told + Duration::from_secs(3)));
}

#[tokio::test(start_paused = true)]
async fn being_told_to_slow_down_does_not_count_as_an_attempt() {
    let answers = (0..20).map(|_| slow_down(Duration::from_millis(100))).collect();
    let scene = Scene::of(answers);
    succeeded(scene.run().await);
    assert_eq!(scene.provider.calls(), 21);
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_patience_parks_with_due_time_count_and_history() {
    let mut failure = CallFailure::new(FailureKind::ProviderError, "later");
    failure.retry_after = Some(Duration::from_secs(40));
    let scene = Scene::of(vec![Err(failure)]);
    let (item, spent) = parked(scene.run().await);
    let due = item.due_ms - START_MS;
    assert!((40_010..=51_000).contains(&due), "{due}");
    assert_eq!((item.offset, item.counted, item.reason), (0, 1, FailureKind::ProviderError));
    assert_eq!((item.begun_ms, item.attempts.len(), spent.calls), (START_MS, 1, 1));
    assert!(scene.limiter.pauses().is_empty(), "it was said about one call, not about the lane");
}

#[tokio::test(start_paused = true)]
async fn a_parked_item_goes_on_where_it_was() {
    let scene = Setting {
        max_attempts: 3,
        policy: RetryPolicy { patience_under_lease: Duration::ZERO, ..RetryPolicy::default() },
        ..Setting::default()
    }
    .scene(|_, _| fails(FailureKind::EmptyReply));
    let mut input = item(0);
    for attempt in 1..3_u32 {
        // A wait of under a millisecond is no wait to park for.
        let (item, spent) = parked(scene.run_item(input.clone()).await);
        assert_eq!((item.counted, item.attempts.len()), (attempt, attempt as usize));
        assert_eq!((spent.calls, spent.tokens.total()), (1, 0), "only the new calls are paid for");
        assert_eq!(item.begun_ms, START_MS);
        input.parked = Some(item);
    }
    let (outcome, spent) = settled(scene.run_item(input).await);
    assert_eq!((outcome.attempts.len(), spent.calls, outcome.totals().calls), (3, 1, 3));
    let attempts: Vec<_> = scene.provider.seen().iter().map(|seen| seen.attempt).collect();
    assert_eq!(attempts, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn an_item_whose_lane_stays_in_trouble_is_given_up_after_a_day_or_when_its_batch_says() {
    let day = Duration::from_secs(24 * 60 * 60);
    for (give_up_after, when) in [(None, day), (Some(Duration::from_secs(600)), Duration::from_secs(600))] {
        let setting = Setting { give_up_after, ..Setting::default() };
        check_given_up(setting.scene(|_, _| fails(FailureKind::ConnectionFailed)), when).await;
    }
}

async fn check_given_up(scene: Scene, when: Duration) {
    let mut input = item(0);
    let end = loop {
        match scene.run_item(input.clone()).await {
            promptmill_pipeline::ItemEnd::Parked { item, .. } => {
                let due = Duration::from_millis(item.due_ms - START_MS);
                tokio::time::sleep_until(scene.provider.began() + due).await;
                input.parked = Some(item);
            }
            end => break end,
        }
    };
    let (kind, _, outcome) = failed(end);
    assert_eq!(kind, FailureKind::ConnectionFailed);
    let last = scene.provider.seen().last().map(|seen| seen.at).unwrap();
    assert!(last >= when && last < when + Duration::from_secs(180), "{last:?}");
    assert_eq!(outcome.flags.contains(&Flag::HistoryCut), when > Duration::from_secs(3_600));
    assert_eq!(outcome.totals().calls, scene.provider.calls() as u64, "what was cut still counts");
}
