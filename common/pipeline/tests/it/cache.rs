//! Replies that are given again instead of a call.

use std::time::Duration;

use promptmill_domain::{
    BatchSpec, CacheScope, FailureKind, Fallback, FallbackOn, Flag, Money, Outcome, StoreReplies, Totals,
};
use promptmill_pipeline::{ItemContent, ItemEnd, ItemInput, RetryPolicy, Stage};

use crate::support::*;

fn sharing(scope: CacheScope) -> Setting {
    Setting { cache: Some(scope), ..Setting::default() }
}

fn of_batch() -> Setting {
    sharing(CacheScope::Batch)
}

fn word(index: u32, word: &str) -> ItemInput {
    ItemInput { content: ItemContent::Variables(format!(r#"{{"word":"{word}"}}"#)), ..item(index) }
}

/// The ends of items that run at the same time.
async fn at_once(scene: &Scene, items: impl IntoIterator<Item = ItemInput>) -> Vec<ItemEnd> {
    let running: Vec<_> = items.into_iter().map(|item| scene.spawn(item)).collect();
    let mut ends = Vec::new();
    for end in running {
        ends.push(end.await.unwrap());
    }
    ends
}

fn outcomes(ends: Vec<ItemEnd>) -> Vec<Outcome> {
    ends.into_iter().map(|end| succeeded(end).1).collect()
}

fn cached(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.flags.contains(&Flag::Cached)).count()
}

/// Once what was called is with the store.
async fn kept() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test(start_paused = true)]
async fn rows_that_ask_the_same_at_once_make_one_call_and_each_has_its_outcome() {
    let scene = of_batch().scene(|_, _| says(GOOD));
    let ends =
        at_once(&scene, (0..40).map(|index| word(index, if index % 2 == 0 { "a" } else { "b" }))).await;
    let mut spent = Totals::default();
    for end in &ends {
        let ItemEnd::Settled { spent: one, .. } = end else { panic!("{end:?}") };
        spent += *one;
    }
    let outcomes = outcomes(ends);
    assert_eq!((scene.provider.calls(), cached(&outcomes)), (2, 38));
    let of_two = Money::from_pico(2 * COST.pico());
    assert_eq!((spent.calls, spent.cached, spent.cost), (2, 38, of_two));
    assert_eq!(scene.gate.spent(), spent);
    for (index, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.custom_id.as_deref(), Some(format!("row-{index}").as_str()));
        assert_eq!(outcome.ending, outcomes[0].ending);
        let is_cached = outcome.flags == [Flag::Cached];
        let totals = Totals { cached: 1, ..Totals::default() };
        assert_eq!(outcome.totals() == totals, is_cached, "{outcome:?}");
        assert_eq!(outcome.attempts.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_that_asks_the_same_later_has_the_kept_reply_and_takes_no_leave() {
    let scene = of_batch().scene(|_, _| says(GOOD));
    succeeded(scene.run().await);
    kept().await;
    assert_eq!((scene.replies.kept(), scene.provider.calls()), (1, 1));
    // Nobody may call now, and the reply is given all the same.
    let lane = scene.lane();
    promptmill_ports::Limiter::pause(scene.limiter.as_ref(), &lane, START_MS + 3_600_000).await.unwrap();
    let (_, outcome) = succeeded(scene.run_item(item(1)).await);
    assert_eq!(outcome.flags, [Flag::Cached]);
    let call = &outcome.attempts[0].calls[0];
    assert!(call.is_cached && call.reply.is_none() && call.cost.is_none());
    assert_eq!(scene.provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_differs_is_called() {
    let scene = sharing(CacheScope::Tenant).scene(|_, _| says(GOOD));
    succeeded(scene.run().await);
    kept().await;
    let same = |_: &mut BatchSpec| {};
    assert_eq!(cached(&[succeeded(scene.another("default", same).run().await).1]), 1);
    assert_eq!(scene.provider.calls(), 1);
    let mut calls = 1;
    let mut differs = async |scene: Scene, input: ItemInput| {
        calls += 1;
        assert_eq!(cached(&[succeeded(scene.run_item(input).await).1]), 0);
        assert_eq!(scene.provider.calls(), calls);
    };
    differs(scene.clone(), word(0, "no")).await;
    differs(scene.another("acme", same), item(0)).await;
    differs(scene.another("default", |spec| spec.settings.temperature = Some(0.5)), item(0)).await;
    differs(scene.another("default", |spec| spec.settings.max_tokens = Some(9)), item(0)).await;
    differs(scene.another("default", |spec| spec.model = "scripted:newer".parse().unwrap()), item(0)).await;
    differs(scene.another("default", |spec| spec.settings.top_p = Some(0.5)), item(0)).await;
    differs(scene.another("default", |spec| spec.settings.seed = Some(1)), item(0)).await;
    differs(scene.another("default", |spec| spec.settings.stop = vec!["x".to_owned()]), item(0)).await;
    differs(
        scene.another("default", |spec| drop(spec.settings.extra.insert("k".to_owned(), 1.into()))),
        item(0),
    )
    .await;
    let moved = |spec: &mut BatchSpec| {
        spec.template = spec.template.replace("Be brief.", "Be brie").replace("Say {{", "f.Say {{");
    };
    differs(scene.another("default", moved), item(0)).await;
    let schema = |spec: &mut BatchSpec| {
        spec.template = spec.template.replace("required", "description\":\"x\",\"required")
    };
    differs(scene.another("default", schema), item(0)).await;
    let roles = |spec: &mut BatchSpec| spec.template = spec.template.replacen("\"system\"", "\"user\"", 1);
    differs(scene.another("default", roles), item(0)).await;
    differs(scene.another("default", |spec| spec.cache = Some(CacheScope::Batch)), item(0)).await;
    differs(scene.another("default", |spec| spec.cache = None), item(0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_not_with_the_store_yet_is_there_for_other_batches() {
    let scene = sharing(CacheScope::Tenant).scene(|_, _| says(GOOD));
    succeeded(scene.run().await);
    assert_eq!(scene.replies.kept(), 0);
    assert_eq!(cached(&[succeeded(scene.another("default", |_| {}).run().await).1]), 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_shares_with_itself_alone_unless_it_says_tenant() {
    let scene = of_batch().scene(|_, _| says(GOOD));
    succeeded(scene.run().await);
    kept().await;
    succeeded(scene.another("default", |_| {}).run().await);
    assert_eq!(scene.provider.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn when_a_call_fails_for_a_while_one_of_those_who_wait_makes_the_next() {
    let answers = vec![fails(FailureKind::ProviderError), fails(FailureKind::Timeout)];
    let scene = of_batch().scene(in_turn(answers));
    let outcomes = outcomes(at_once(&scene, (0..20).map(item)).await);
    assert_eq!((scene.provider.calls(), scene.provider.most()), (3, 1));
    assert_eq!(cached(&outcomes), 19);
}

#[tokio::test(start_paused = true)]
async fn when_no_reply_is_accepted_those_who_wait_call_for_themselves() {
    let scene = Setting { max_repairs: 0, ..of_batch() }.scene(|_, _| says("no json"));
    let ends = at_once(&scene, (0..4).map(item)).await;
    assert!(ends.into_iter().all(|end| failed(end).0 == FailureKind::InvalidOutput));
    assert_eq!((scene.provider.calls(), scene.provider.most()), (4, 3));
    kept().await;
    assert_eq!(scene.replies.kept(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_mended_and_repaired_is_given_again_as_such() {
    let setting = Setting { store_replies: StoreReplies::All, ..of_batch() };
    let scene = setting.scene(in_turn(vec![says("no json"), says("Here: {\"word\":\"yes\"}")]));
    let (repaired, first) = succeeded(scene.run().await);
    assert!(repaired && first.flags == [Flag::Mended]);
    kept().await;
    let (repaired, again) = succeeded(scene.run_item(item(1)).await);
    assert!(repaired && again.flags == [Flag::Mended, Flag::Cached]);
    assert_eq!((again.ending, scene.provider.calls()), (first.ending, 2));
    assert_eq!(again.attempts[0].calls[0].reply.as_deref(), Some(GOOD));
}

#[tokio::test(start_paused = true)]
async fn rows_share_only_what_the_same_rules_accepted() {
    let scene = sharing(CacheScope::Tenant).scene(in_turn(vec![says(r#"{"word":"no"}"#)]));
    succeeded(scene.run().await);
    kept().await;
    let rules =
        r#""rules":[{"expression":"output.word != 'no'","message":"must not say no","verdict":"reject"}]"#;
    let strict = |spec: &mut BatchSpec| spec.template = spec.template.replace(r#""rules":[]"#, rules);
    for calls in [1, 2, 2] {
        assert_eq!(scene.provider.calls(), calls);
        succeeded(scene.another("default", strict).run().await);
        kept().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_reply_that_is_judged_by_more_than_was_asked_is_not_given_to_a_row_that_refuses_it() {
    let rules = r#""rules":[{"expression":"variables.tag != 'strict' or output.word == 'yes'","message":"must say yes","verdict":"reject"}]"#;
    let scene = of_batch().scene(in_turn(vec![says(r#"{"word":"no"}"#)]));
    let scene = scene.another("default", |spec| {
        let declared = spec.template.replace(r#""variables":{"#, r#""variables":{"tag":{"type":"string"},"#);
        spec.template = declared.replace(r#""rules":[]"#, rules);
    });
    let tagged = |tag: &str| ItemInput {
        content: ItemContent::Variables(format!(r#"{{"word":"yes","tag":"{tag}"}}"#)),
        ..item(0)
    };
    for (tag, calls, is_cached) in
        [("any", 1, false), ("any", 1, true), ("strict", 2, false), ("strict", 3, false), ("any", 3, true)]
    {
        let (_, outcome) = succeeded(scene.run_item(tagged(tag)).await);
        assert_eq!((scene.provider.calls(), cached(&[outcome]) == 1), (calls, is_cached), "{tag}");
        kept().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_costs_calls_and_no_item() {
    let scene = of_batch().scene(|_, _| says(GOOD));
    scene.replies.fail();
    for index in 0..3 {
        let (_, outcome) = succeeded(scene.run_item(item(index)).await);
        assert_eq!(outcome.flags, []);
        kept().await;
    }
    assert_eq!((scene.provider.calls(), scene.replies.kept()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stands_still_costs_a_second_and_a_call() {
    let scene = of_batch().scene(|_, _| says(GOOD));
    scene.replies.stand_still();
    for index in 0..3 {
        succeeded(scene.run_item(item(index)).await);
    }
    // The first reply never comes to the store, and is given from here.
    assert_eq!(scene.provider.calls(), 1);
    let ends = at_once(&scene, (0..100).map(|index| word(index, &index.to_string()))).await;
    assert_eq!(outcomes(ends).len(), 100);
    assert_eq!(scene.provider.calls(), 101);
    assert!(scene.provider.began().elapsed() < Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_for_each_row_hangs_for_many_rows_at_once() {
    let policy = RetryPolicy { give_up_after: Duration::from_secs(1), ..RetryPolicy::default() };
    let setting =
        Setting { takes: Duration::from_secs(100), max_attempts: 1, concurrency: 50, policy, ..of_batch() };
    let scene = setting.scene(|_, _| fails(FailureKind::Timeout));
    let ends = at_once(&scene, (0..40).map(item)).await;
    assert!(ends.into_iter().all(|end| failed(end).0 == FailureKind::Timeout));
    assert!(
        scene.provider.began().elapsed() < Duration::from_secs(500),
        "{:?}",
        scene.provider.began().elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn rows_follow_the_one_that_calls_to_the_next_model_and_share_its_reply_there() {
    let on = || Fallback { on: FallbackOn::ALL.to_vec(), ..Fallback::default() };
    for kind in [FailureKind::Timeout, FailureKind::ModelUnavailable, FailureKind::InvalidOutput] {
        let setting = Setting { takes: Duration::from_secs(60), max_repairs: 0, ..of_batch() };
        let scene = setting.scene(move |_, _| match kind {
            FailureKind::InvalidOutput => says("no json"),
            kind => fails(kind),
        });
        let (scene, other) = scene.followed_by(on(), |_, _| says(GOOD));
        let outcomes = outcomes(at_once(&scene, (0..20).map(item)).await);
        assert_eq!((scene.provider.calls(), other.calls(), cached(&outcomes)), (1, 1, 19), "{kind:?}");
        assert!(scene.provider.began().elapsed() < Duration::from_secs(130));
    }
    // A lane that stands still is waited for by one, and the others go where that one goes.
    let scene = of_batch().scene(|_, _| says(GOOD));
    let (scene, other) = scene.followed_by(on(), |_, _| says(GOOD));
    let lane = scene.lane();
    promptmill_ports::Limiter::pause(scene.limiter.as_ref(), &lane, START_MS + 3_600_000).await.unwrap();
    let outcomes = outcomes(at_once(&scene, (0..20).map(item)).await);
    assert_eq!((scene.provider.calls(), other.calls(), cached(&outcomes)), (0, 1, 19));
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_closes_ends_the_wait_for_a_look_up_and_for_another_row() {
    let scene = of_batch().scene(|_, _| says(GOOD));
    scene.replies.stand_still();
    let running = [scene.spawn(item(0)), scene.spawn(item(1))];
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.plan.standing().at(Stage::Reply), 2);
    scene.gate.close();
    for end in running {
        let end = end.await.unwrap();
        assert!(matches!(end, ItemEnd::Untouched { lane_paused_until_ms: None }), "{end:?}");
    }
    assert_eq!(scene.provider.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn look_ups_and_replies_of_many_rows_go_to_the_store_together() {
    let scene = of_batch().scene(|_, _| says(GOOD));
    at_once(&scene, (0..4).map(|index| word(index, &index.to_string()))).await;
    kept().await;
    let steps = scene.replies.steps();
    let keys = |name| steps.iter().filter(|step| step.0 == name).map(|step| step.1).sum::<usize>();
    assert_eq!((keys("look"), keys("keep")), (4, 4));
    assert!(steps.len() <= 4, "{steps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_of_a_further_model_is_given_again_with_its_name() {
    let on = Fallback { on: FallbackOn::ALL.to_vec(), ..Fallback::default() };
    let scene = of_batch().scene(|_, _| fails(FailureKind::ModelUnavailable));
    let (scene, other) = scene.followed_by(on, |_, _| says(GOOD));
    succeeded(scene.run().await);
    kept().await;
    let (_, outcome) = succeeded(scene.run_item(item(1)).await);
    assert_eq!((scene.provider.calls(), other.calls()), (2, 1));
    assert_eq!(outcome.fallback_model().map(ToString::to_string).as_deref(), Some("scripted:other"));
    assert_eq!(outcome.flags, [Flag::Fallback, Flag::Cached]);
}
