//! What becomes of a reply: accepted, asked again, rejected, cut.

use promptmill_domain::{Ending, FailureKind, Flag, Output, Role};
use promptmill_pipeline::ItemContent;
use promptmill_provider::Finish;

use crate::support::*;

const BAD: &str = r#"{"wrong":1}"#;

#[tokio::test(start_paused = true)]
async fn an_accepted_reply_settles_with_one_call() {
    let scene = Scene::of(vec![]);
    let (outcome, spent) = settled(scene.run().await);
    assert!(
        matches!(&outcome.ending, Ending::Succeeded { output: Output::Json(json), repaired: false } if json.get() == GOOD)
    );
    assert_eq!(outcome.custom_id.as_deref(), Some("row-0"));
    assert_eq!((scene.provider.calls(), spent.calls, spent.cost), (1, 1, COST));
    assert_eq!(outcome.totals(), spent);
    assert_eq!(scene.gate.spent(), spent);
    assert_eq!(scene.calls_in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_invalid_reply_is_asked_again_with_the_reasons_and_only_the_last_exchange_is_kept() {
    let scene = Scene::of(vec![says("no JSON here"), says(BAD)]);
    let (repaired, outcome) = succeeded(scene.run().await);
    assert!(repaired);
    let seen = scene.provider.seen();
    assert_eq!(roles(&seen[0].messages), [Role::System, Role::User]);
    for asked_again in &seen[1..] {
        assert_eq!(roles(&asked_again.messages), [Role::System, Role::User, Role::Assistant, Role::User]);
        assert_eq!(asked_again.messages[..2], seen[0].messages);
        assert_eq!(asked_again.attempt, 0);
    }
    assert_eq!(seen[1].messages[2].content, "no JSON here");
    assert_eq!(seen[2].messages[2].content, BAD);
    assert!(seen[2].messages[3].content.contains("word"), "{}", seen[2].messages[3].content);
    // One attempt, three calls; the invalid ones say why.
    let calls = &outcome.attempts[0].calls;
    assert_eq!((outcome.attempts.len(), calls.len()), (1, 3));
    assert_eq!(calls[1].failure, Some(FailureKind::InvalidOutput));
    assert!(!calls[1].problems.is_empty());
    assert_eq!((calls[2].failure, calls[2].problems.len()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn there_are_at_most_max_repairs_repairs() {
    for max_repairs in [0, 1, 3] {
        let scene = Setting { max_repairs, ..Setting::default() }.scene(|_, _| says(BAD));
        let (kind, message, outcome) = failed(scene.run().await);
        assert_eq!(kind, FailureKind::InvalidOutput);
        assert!(message.contains("word"), "{message}");
        assert_eq!(scene.provider.calls(), max_repairs as usize + 1);
        assert_eq!(outcome.attempts.len(), 1, "an invalid reply is no reason for a further attempt");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_during_a_repair_begins_a_further_attempt_from_the_start() {
    let scene = Scene::of(vec![says(BAD), fails(FailureKind::EmptyReply)]);
    let (repaired, outcome) = succeeded(scene.run().await);
    assert!(!repaired);
    let seen = scene.provider.seen();
    assert_eq!(roles(&seen[2].messages), [Role::System, Role::User]);
    assert_eq!((seen[1].attempt, seen[2].attempt), (0, 1));
    assert_eq!(outcome.attempts.iter().map(|attempt| attempt.calls.len()).collect::<Vec<_>>(), [2, 1]);
}

const REJECTS: &str =
    r#"[{"expression":"output.word != 'no'","message":"must not say no","verdict":"reject"}]"#;

#[tokio::test(start_paused = true)]
async fn a_rule_that_rejects_is_final() {
    let scene = Setting { rules: REJECTS, ..Setting::default() }.scene(|_, _| says(r#"{"word":"no"}"#));
    let (kind, message, outcome) = failed(scene.run().await);
    assert_eq!((kind, scene.provider.calls()), (FailureKind::RejectedOutput, 1));
    assert_eq!(message, "must not say no");
    assert_eq!(outcome.attempts[0].calls[0].failure, Some(FailureKind::RejectedOutput));
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_asks_for_a_repair_is_told_to_the_model() {
    let rules = r#"[{"expression":"output.word == variables.word","message":"must repeat the word"}]"#;
    let scene = Setting { rules, ..Setting::default() }.scene(in_turn(vec![says(r#"{"word":"no"}"#)]));
    let (repaired, _) = succeeded(scene.run().await);
    assert!(repaired);
    assert!(scene.provider.seen()[1].messages[3].content.contains("must repeat the word"));
}

#[tokio::test(start_paused = true)]
async fn text_that_was_cut_is_called_again_and_fails_as_truncated() {
    let scene =
        Setting { max_attempts: 3, ..Setting::text() }.scene(|_, _| ends("half a sen", Finish::Length));
    let (kind, message, outcome) = failed(scene.run().await);
    assert_eq!((kind, scene.provider.calls()), (FailureKind::TruncatedReply, 3));
    assert!(message.contains("max_tokens"), "{message}");
    assert_eq!(outcome.attempts.len(), 3);
    assert_eq!(outcome.totals().cost, COST.times(3));
}

#[tokio::test(start_paused = true)]
async fn json_that_is_complete_is_accepted_although_the_reply_was_cut() {
    let scene = Scene::json(|_, _| ends(GOOD, Finish::Length));
    assert!(!succeeded(scene.run().await).0);
    assert_eq!(scene.provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn json_that_was_cut_is_called_again_and_not_repaired() {
    let scene = Scene::of(vec![ends(r#"{"word":"ye"#, Finish::Length)]);
    let (repaired, outcome) = succeeded(scene.run().await);
    assert!(!repaired);
    assert_eq!(outcome.attempts[0].calls[0].failure, Some(FailureKind::TruncatedReply));
    assert_eq!(scene.provider.seen()[1].messages.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rule_has_no_say_about_half_a_text() {
    let rules = r#"[{"expression":"'end' in output","message":"must come to an end","verdict":"reject"}]"#;
    let scene = Setting { rules, ..Setting::text() }
        .scene(|call, _| if call == 0 { ends("to the e", Finish::Length) } else { says("to the end") });
    assert!(!succeeded(scene.run().await).0);
}

#[tokio::test(start_paused = true)]
async fn what_the_content_filter_cut_fails_at_once_unless_it_is_whole() {
    let scene = Setting::text().scene(|_, _| ends("I will not", Finish::ContentFilter));
    assert_eq!(failed(scene.run().await).0, FailureKind::ContentRefused);
    assert_eq!(scene.provider.calls(), 1);
    let scene = Scene::json(|_, _| ends(r#"{"wo"#, Finish::ContentFilter));
    assert_eq!(failed(scene.run().await).0, FailureKind::ContentRefused);
}

#[tokio::test(start_paused = true)]
async fn a_tool_call_instead_of_a_reply_is_called_again() {
    let scene = Scene::of(vec![ends("calling", Finish::ToolCalls), ends("?", Finish::Other("odd".into()))]);
    let (_, outcome) = succeeded(scene.run().await);
    let failures: Vec<_> = outcome.attempts.iter().map(|attempt| attempt.calls[0].failure).collect();
    assert_eq!(failures, [Some(FailureKind::MalformedReply), Some(FailureKind::MalformedReply), None]);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_cannot_be_rendered_fails_without_a_call() {
    let scene = Scene::of(vec![]);
    let mut input = item(3);
    input.content = ItemContent::Variables("{}".to_owned());
    let (kind, message, outcome) = failed(scene.run_item(input).await);
    assert_eq!((kind, scene.provider.calls()), (FailureKind::RenderFailed, 0));
    assert!(message.contains("/messages/1/content"), "{message}");
    assert_eq!((outcome.attempts.len(), outcome.custom_id.as_deref()), (0, Some("row-3")));
}

#[tokio::test(start_paused = true)]
async fn a_stored_row_that_is_no_object_is_our_own_fault() {
    let scene = Scene::of(vec![]);
    let mut input = item(0);
    input.content = ItemContent::Variables("[1]".to_owned());
    assert_eq!(failed(scene.run_item(input).await).0, FailureKind::Internal);
}

#[tokio::test(start_paused = true)]
async fn json_whose_end_was_not_kept_fails_at_once_and_a_text_is_kept_with_a_flag() {
    let cut = |content: &str| {
        ends(content, Finish::Stop).map(|mut reply| {
            reply.flags.push(Flag::ReplyCut);
            reply
        })
    };
    let scene = Scene::of(vec![cut("{\"word\":\"begun")]);
    let (kind, _, outcome) = failed(scene.run().await);
    assert_eq!((kind, scene.provider.calls()), (FailureKind::ReplyTooLarge, 1));
    assert_eq!(outcome.attempts[0].calls[0].failure, Some(FailureKind::ReplyTooLarge));

    let scene = Setting::text().scene(in_turn(vec![cut("a long text")]));
    let (_, outcome) = succeeded(scene.run().await);
    assert!(outcome.flags.contains(&Flag::ReplyCut), "{:?}", outcome.flags);
}
