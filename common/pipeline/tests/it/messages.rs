//! Rows that bring their own messages, replies that are kept, and replies that are told as they come.

use std::sync::{Arc, Mutex};

use promptmill_domain::{Attempt, FailureKind, Flag, Message, Role, StoreReplies};
use promptmill_pipeline::{ItemContent, ItemInput};
use promptmill_provider::{Delta, DeltaSink};

use crate::support::*;

const BAD: &str = r#"{"wrong":1}"#;

fn kept(attempts: &[Attempt]) -> Vec<Option<String>> {
    attempts.iter().flat_map(|attempt| &attempt.calls).map(|call| call.reply.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_row_are_sent_as_they_are_and_the_reply_is_judged_all_the_same() {
    let scene = Scene::of(vec![says(BAD)]);
    let messages = vec![
        Message { role: Role::System, content: "{{ not a template }}".to_owned() },
        Message { role: Role::User, content: "hello".to_owned() },
    ];
    let (repaired, _) = succeeded(
        scene.run_item(ItemInput { content: ItemContent::Messages(messages.clone()), ..item(0) }).await,
    );
    assert!(repaired);
    let seen = scene.provider.seen();
    assert_eq!(seen[0].messages, messages);
    assert_eq!(seen[1].messages[..2], messages);
    assert_eq!(roles(&seen[1].messages[2..]), [Role::Assistant, Role::User]);
}

#[tokio::test(start_paused = true)]
async fn raw_replies_are_kept_as_far_as_the_batch_asks() {
    for (store_replies, expected) in [
        (StoreReplies::None, [None, None, None]),
        (StoreReplies::Failed, [Some(BAD), None, None]),
        (StoreReplies::All, [Some(BAD), None, Some(GOOD)]),
    ] {
        let answers = vec![says(BAD), fails(FailureKind::EmptyReply)];
        let scene = Setting { store_replies, ..Setting::default() }.scene(in_turn(answers));
        let (_, outcome) = succeeded(scene.run().await);
        assert_eq!(
            kept(&outcome.attempts),
            expected.map(|reply| reply.map(str::to_owned)),
            "{store_replies:?}"
        );
        assert!(outcome.flags.is_empty(), "{:?}", outcome.flags);
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_reply_is_cut_at_a_mebibyte_and_at_a_character() {
    let long = "é".repeat(700_000);
    let scene =
        Setting { store_replies: StoreReplies::All, ..Setting::text() }.scene(move |_, _| says(&long));
    let (outcome, _) = settled(scene.run().await);
    assert_eq!(kept(&outcome.attempts)[0].as_ref().unwrap().len(), 1024 * 1024);
}

#[tokio::test(start_paused = true)]
async fn kept_replies_stay_within_the_bound_of_the_history_and_the_last_ones_win() {
    let setting = Setting { store_replies: StoreReplies::Failed, max_repairs: 6, ..Setting::default() };
    let scene = setting.scene(|call, _| says(&format!("{call}{}", "x".repeat(1_000_000))));
    let (kind, _, outcome) = failed(scene.run().await);
    assert_eq!((kind, outcome.flags.as_slice()), (FailureKind::InvalidOutput, &[Flag::HistoryCut][..]));
    let kept: Vec<_> = kept(&outcome.attempts).into_iter().map(|reply| reply.is_some()).collect();
    assert_eq!(kept, [false, false, false, true, true, true, true]);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_did_not_fit_beside_a_parked_item_is_missed_openly() {
    let setting = Setting { store_replies: StoreReplies::Failed, ..Setting::default() };
    let long = format!("no JSON {}", "x".repeat(100_000));
    let mut slow = promptmill_provider::CallFailure::new(FailureKind::RateLimited, "slow down");
    slow.retry_after = Some(std::time::Duration::from_secs(60));
    let scene = setting.scene(in_turn(vec![says(&long), Err(slow)]));
    let (parked, _) = parked(scene.run().await);
    assert_eq!((kept(&parked.attempts), parked.attempts[0].calls[0].problems.len()), (vec![None, None], 1));
    let (_, outcome) = succeeded(scene.run_item(ItemInput { parked: Some(parked), ..item(0) }).await);
    assert_eq!(outcome.flags, [Flag::HistoryCut]);
}

#[tokio::test(start_paused = true)]
async fn every_call_of_an_item_begins_its_deltas_anew() {
    let told = Arc::new(Mutex::new(String::new()));
    let sink = DeltaSink::new({
        let told = told.clone();
        move |delta| {
            let mut told = told.lock().unwrap();
            match delta {
                Delta::Begin => told.push('|'),
                Delta::Text(text) => told.push_str(text),
            }
        }
    });
    let scene = Scene::json(|call, request| {
        request.deltas.as_ref().unwrap().send(Delta::Text(if call == 0 { "bad" } else { "good" }));
        says(if call == 0 { BAD } else { GOOD })
    });
    succeeded(scene.run_item(ItemInput { deltas: Some(sink), ..item(0) }).await);
    assert_eq!(*told.lock().unwrap(), "|bad|good");
}
