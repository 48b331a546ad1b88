//! Models that are asked when the first one does not do.

use std::time::Duration;

use promptmill_domain::{FailureKind, Fallback, FallbackOn, Flag, MaxPrice, Outcome};
use promptmill_ports::{CallNeed, Limiter as _};
use promptmill_provider::CallFailure;

use crate::support::*;

fn on(cases: &[FallbackOn]) -> Fallback {
    Fallback { on: cases.to_vec(), ..Fallback::default() }
}

fn always() -> Fallback {
    on(&FallbackOn::ALL)
}

/// The second model answered, and the outcome says so.
#[track_caller]
fn check_by_the_other(outcome: &Outcome) {
    let model = outcome.fallback_model().map(ToString::to_string);
    assert_eq!(model.as_deref(), Some("scripted:other"));
    assert_eq!(outcome.flags, [Flag::Fallback]);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_away_or_not_there_is_followed_by_the_next_at_once() {
    for kind in [
        FailureKind::ConnectionFailed,
        FailureKind::ProviderError,
        FailureKind::Timeout,
        FailureKind::ModelUnavailable,
        FailureKind::ProviderOverloaded,
        FailureKind::RateLimited,
    ] {
        let (scene, other) = Scene::json(move |_, _| fails(kind)).followed_by(always(), |_, _| says(GOOD));
        let (_, outcome) = succeeded(scene.run().await);
        check_by_the_other(&outcome);
        assert_eq!((scene.provider.calls(), other.calls()), (1, 1), "{kind:?}");
        let gap = other.seen()[0].at - scene.provider.seen()[0].at;
        assert!(gap < Duration::from_millis(20), "{kind:?}: {gap:?}");
        assert_eq!(outcome.attempts[0].calls[0].model, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_stays_invalid_is_asked_of_the_next_model_and_not_of_the_first_again() {
    let scene = Scene::json(|_, _| says("no json"));
    let (scene, other) = scene.followed_by(always(), in_turn(vec![fails(FailureKind::ConnectionFailed)]));
    let (repaired, outcome) = succeeded(scene.run().await);
    check_by_the_other(&outcome);
    assert!(!repaired);
    // Its call and two repairs; the other was away once and is waited for.
    assert_eq!((scene.provider.calls(), other.calls()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn only_the_cases_that_are_told_lead_to_the_next_model() {
    let answers = vec![fails(FailureKind::ConnectionFailed)];
    let (scene, other) = Scene::of(answers).followed_by(on(&[FallbackOn::Invalid]), |_, _| says(GOOD));
    let (_, outcome) = succeeded(scene.run().await);
    assert_eq!((scene.provider.calls(), other.calls(), outcome.fallback_model()), (2, 0, None));
    let (scene, other) =
        Scene::json(|_, _| says("no json")).followed_by(on(&[FallbackOn::Unavailable]), |_, _| says(GOOD));
    assert_eq!(failed(scene.run().await).0, FailureKind::InvalidOutput);
    assert_eq!(other.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn when_none_does_all_are_asked_again_from_the_first_after_a_wait() {
    let away = || fails(FailureKind::ProviderError);
    let (scene, other) = Scene::of(vec![away(), away()]).followed_by(always(), move |_, _| away());
    let (_, outcome) = succeeded(scene.run().await);
    assert_eq!((scene.provider.calls(), other.calls()), (3, 2));
    assert_eq!((outcome.fallback_model(), outcome.flags.as_slice()), (None, [].as_slice()));
    assert_eq!(outcome.attempts.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_stands_still_is_passed_over() {
    let (scene, other) = Scene::of(vec![]).followed_by(always(), |_, _| says(GOOD));
    scene.limiter.pause(&scene.lane(), START_MS + 60_000).await.unwrap();
    let (_, outcome) = succeeded(scene.run().await);
    check_by_the_other(&outcome);
    assert_eq!((scene.provider.calls(), other.calls()), (0, 1));
    // Where that is no case for another model it is waited for.
    let (scene, other) = Scene::of(vec![]).followed_by(on(&[FallbackOn::Invalid]), |_, _| says(GOOD));
    scene.limiter.pause(&scene.lane(), START_MS + 1_000).await.unwrap();
    succeeded(scene.run().await);
    assert_eq!((scene.provider.calls(), other.calls()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_full_is_waited_for_a_second_and_then_passed_over() {
    let (scene, other) = Scene::of(vec![]).followed_by(always(), |_, _| says(GOOD));
    scene.limiter.set_concurrency(&scene.lane(), Some(1)).await.unwrap();
    let _full = scene.limiter.acquire(&scene.lane(), CallNeed::of(1), START_MS).await.unwrap();
    let (_, outcome) = succeeded(scene.run().await);
    check_by_the_other(&outcome);
    let at = other.seen()[0].at;
    assert!((Duration::from_secs(1)..Duration::from_secs(2)).contains(&at), "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_credential_leads_to_the_next_model_and_pauses_nothing_but_its_lane() {
    let refused = || {
        let mut failure = CallFailure::new(FailureKind::CredentialRefused, "no such key").with_status(401);
        failure.lane_wide = true;
        Err(failure)
    };
    let (scene, other) = Scene::json(move |_, _| refused()).followed_by(always(), |_, _| says(GOOD));
    scene.gate.pause_for_refusals();
    let (_, outcome) = succeeded(scene.run().await);
    check_by_the_other(&outcome);
    assert_eq!((other.calls(), scene.gate.refusals().len(), scene.limiter.pauses().len()), (1, 0, 1));
    // Nobody else is left to ask: the batch is told.
    let (scene, _) = Scene::json(move |_, _| refused()).followed_by(always(), move |_, _| refused());
    scene.gate.pause_for_refusals();
    parked(scene.run().await);
    assert_eq!(scene.gate.refusals().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn models_that_cost_too_much_are_passed_over() {
    let most = MaxPrice { prompt: "2".parse().unwrap(), completion: "3".parse().unwrap() };
    let within = Fallback { max_price: Some(most), ..always() };
    let (scene, other) = Scene::of(vec![]).followed_by(within, |_, _| says(GOOD));
    succeeded(scene.run().await);
    assert_eq!((scene.provider.calls(), other.calls()), (1, 0), "no price is known of it");
    scene.gate.set_price("scripted:any", "2/3.01");
    let (_, outcome) = succeeded(scene.run().await);
    check_by_the_other(&outcome);
    scene.gate.set_price("scripted:other", "2.5/1");
    let (kind, message, _) = failed(scene.run().await);
    assert_eq!(
        (kind, message.as_str()),
        (FailureKind::ModelUnavailable, "every model costs more than max_price")
    );
    assert_eq!((scene.provider.calls(), other.calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_model_whose_reply_was_no_good_is_not_asked_again_after_the_item_was_parked() {
    let scene = Scene::json(|_, _| says("no json"));
    let (scene, other) = scene.followed_by(always(), in_turn(vec![slow_down(Duration::from_secs(60))]));
    let (item_left, _) = parked(scene.run().await);
    assert_eq!((scene.provider.calls(), other.calls()), (3, 1));
    tokio::time::sleep(Duration::from_secs(90)).await;
    let mut input = item(0);
    input.parked = Some(item_left);
    let (_, outcome) = succeeded(scene.run_item(input).await);
    assert_eq!(outcome.fallback_model().map(ToString::to_string).as_deref(), Some("scripted:other"));
    assert_eq!((scene.provider.calls(), other.calls()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_refused_of_one_model_stops_nothing_while_another_is_only_busy() {
    let refused = || {
        let mut failure = CallFailure::new(FailureKind::CredentialRefused, "no such key").with_status(401);
        failure.lane_wide = true;
        Err(failure)
    };
    let (scene, other) = Scene::of(vec![]).followed_by(always(), move |_, _| refused());
    scene.gate.pause_for_refusals();
    scene.limiter.set_concurrency(&scene.lane(), Some(1)).await.unwrap();
    let full = scene.limiter.acquire(&scene.lane(), CallNeed::of(1), START_MS).await.unwrap();
    let running = scene.spawn(item(0));
    while other.calls() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(full);
    let (_, outcome) = succeeded(running.await.unwrap());
    assert_eq!((outcome.fallback_model(), scene.gate.refusals().len()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_taken_for_gone_is_passed_over_at_once_and_still_asked_now_and_then() {
    let (scene, other) = Scene::json(|_, _| fails(FailureKind::ConnectionFailed))
        .followed_by(on(&[FallbackOn::Unavailable]), |_, _| says(GOOD));
    scene.limiter.set_rules(&scene.lane(), Default::default(), Default::default());
    for _ in 0..10 {
        succeeded(scene.run().await);
    }
    let (asked, began) = (scene.provider.calls(), tokio::time::Instant::now());
    for _ in 0..20 {
        let (_, outcome) = succeeded(scene.run().await);
        check_by_the_other(&outcome);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(scene.provider.calls() - asked <= 3, "{asked} calls, then {}", scene.provider.calls());
    tokio::time::sleep(Duration::from_secs(30)).await;
    let asked = scene.provider.calls();
    succeeded(scene.run().await);
    assert_eq!((scene.provider.calls() - asked, other.calls()), (1, 31), "it is asked whether it is back");
}

#[tokio::test(start_paused = true)]
async fn every_model_is_asked_before_attempts_are_counted_out() {
    let setting = Setting { max_attempts: 1, ..Setting::default() };
    let (scene, other) =
        setting.scene(|_, _| fails(FailureKind::ProviderError)).followed_by(always(), |_, _| says(GOOD));
    succeeded(scene.run().await);
    assert_eq!((scene.provider.calls(), other.calls()), (1, 1));
}
