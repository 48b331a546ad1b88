//! What is kept of the calls: usage and cost of every one, words within bounds.

use std::time::Duration;

use promptmill_domain::{Attempt, Call, FailureKind, Flag, Money, Tokens, Totals};
use promptmill_provider::CallFailure;

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn usage_and_cost_of_failed_and_invalid_calls_are_kept() {
    let mut failure = CallFailure::new(FailureKind::MalformedReply, "broke off").with_status(200);
    failure.usage = Some(Tokens { prompt: 7, completion: 1 });
    failure.cost = Some(Money::from_pico(50));
    failure.generation = Some("gen-1".into());
    let scene = Scene::of(vec![Err(failure), says("not JSON")]);
    let (outcome, spent) = settled(scene.run().await);
    let call = &outcome.attempts[0].calls[0];
    assert_eq!((call.status, call.generation.as_deref()), (Some(200), Some("gen-1")));
    assert_eq!((call.tokens.prompt, call.cost), (7, Some(Money::from_pico(50))));
    assert_eq!(call.problems, ["broke off"]);
    assert_eq!(call.started_ms, START_MS);
    assert_eq!(call.duration_ms, 10);
    let expected = Totals {
        calls: 3,
        tokens: Tokens { prompt: 27, completion: 11 },
        cost: Money::from_pico(2_050),
        cached: 0,
    };
    assert_eq!((spent, outcome.totals(), scene.gate.spent()), (expected, expected, expected));
    assert!(outcome.flags.is_empty(), "{:?}", outcome.flags);
}

#[tokio::test(start_paused = true)]
async fn a_reply_without_usage_is_flagged() {
    let scene = Scene::json(|_, _| {
        says(GOOD).map(|mut reply| {
            reply.usage = None;
            reply.cost = None;
            reply
        })
    });
    let (_, outcome) = succeeded(scene.run().await);
    assert_eq!(outcome.flags, [Flag::UsageUnknown]);
}

#[tokio::test(start_paused = true)]
async fn flags_of_the_reply_and_of_the_judge_reach_the_outcome_once() {
    let scene = Scene::json(|_, _| {
        says("Here you are: {\"word\":\"yes\"} - done").map(|mut reply| {
            reply.flags = vec![Flag::SurrogatesReplaced, Flag::Mended];
            reply
        })
    });
    let (_, outcome) = succeeded(scene.run().await);
    assert_eq!(outcome.flags, [Flag::Mended, Flag::SurrogatesReplaced]);
}

#[tokio::test(start_paused = true)]
async fn the_history_of_a_parked_item_is_bounded_and_its_totals_are_not_lost() {
    let mut failure = CallFailure::new(FailureKind::ProviderError, "w".repeat(500));
    failure.cost = Some(COST);
    failure.retry_after = Some(Duration::from_secs(60));
    let scene = Setting { max_attempts: 1_000, ..Setting::default() }.scene(move |_, _| Err(failure.clone()));
    let mut input = item(0);
    for run in 1..=300_u64 {
        let (item, spent) = parked(scene.run_item(input.clone()).await);
        let stored = serde_json::to_string(&item).unwrap().len();
        assert!(stored <= 20 * 1024, "{stored} bytes after {run} runs");
        let mut totals = item.cut;
        totals += Totals::of(&item.attempts);
        assert_eq!((totals.calls, totals.cost, spent.calls), (run, COST.times(run), 1));
        assert_eq!(item.attempts.last().unwrap().calls[0].problems.len(), 1, "the last words stay");
        input.parked = Some(item);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcomes_history_stays_within_four_mebibytes() {
    let call = Call {
        started_ms: START_MS,
        duration_ms: 1,
        failure: Some(FailureKind::ProviderError),
        problems: vec!["x".repeat(100_000)],
        cost: Some(COST),
        ..Call::default()
    };
    let mut input = item(0);
    input.parked = Some(promptmill_domain::ParkedItem {
        offset: 0,
        due_ms: START_MS,
        counted: 0,
        reason: FailureKind::ProviderError,
        begun_ms: START_MS,
        attempts: vec![Attempt { calls: vec![call] }; 100],
        cut: Totals::default(),
    });
    let (outcome, spent) = settled(Scene::of(vec![]).run_item(input).await);
    assert!(serde_json::to_string(&outcome).unwrap().len() <= 4 * 1024 * 1024);
    assert!(outcome.flags.contains(&Flag::HistoryCut));
    assert_eq!((outcome.totals().calls, outcome.totals().cost, spent.calls), (101, COST.times(101), 1));
}
