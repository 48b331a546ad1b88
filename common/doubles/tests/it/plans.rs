//! What a plan promises: the same seed tells the same story, and the standard plan lets every marker through.

use std::collections::BTreeSet;
use std::time::Duration;

use promptmill_doubles::{Config, Doubles, Fault, FaultPlan, Latency, Preset, Provider, Script, Step};
use serde_json::json;

use crate::client::{ask, ask_json, chat, content, get, repair, send, send_chat, start, streamed};

const ALL: [Provider; 3] = [Provider::OpenRouter, Provider::Ollama, Provider::OpenAi];

fn with_seed(plan: FaultPlan, seed: u64) -> Doubles {
    let short = Duration::from_millis(1);
    let latency = Latency::range(Duration::ZERO, short);
    Doubles::start(Config { plan, seed, latency, hang: short, slow_first_byte: short, ..Config::default() })
        .unwrap()
}

/// Calls until a valid reply is there, as a client that repairs and retries would; the faults met on the way.
fn drive(doubles: &Doubles, provider: Provider, marker: &str) -> Vec<Option<String>> {
    let body = ask_json(provider, marker);
    let body = if provider == Provider::Ollama { streamed(body) } else { body };
    let mut repairing = false;
    for _ in 0..10 {
        let body = if repairing { repair(body.clone()) } else { body.clone() };
        let _ = send_chat(doubles, provider, &body).read();
        let record = doubles.ledger().marker(marker);
        if record.valid_replies > 0 {
            return record.history.into_iter().map(|call| call.fault).collect();
        }
        repairing = record.history.last().is_some_and(|call| call.fault.as_deref() == Some("invalid_reply"));
    }
    panic!("marker {marker} never got a valid reply");
}

#[test]
fn every_marker_succeeds_within_four_calls_under_the_standard_plan() {
    let mut met = BTreeSet::new();
    for provider in ALL {
        let doubles = with_seed(FaultPlan::standard(), 7);
        for n in 0..400 {
            let story = drive(&doubles, provider, &format!("{provider:?}-{n}"));
            assert!(story.len() <= 4, "{story:?}");
            met.extend(story.into_iter().flatten());
        }
        let totals = doubles.ledger().totals();
        let faulty = totals.faults.values().sum::<u64>() as f64 / (totals.calls + totals.repair_calls) as f64;
        assert!((0.18..0.32).contains(&faulty), "{provider:?}: {faulty}");
    }
    let plan = FaultPlan::standard();
    let missing: Vec<_> =
        plan.faults.iter().map(|known| known.fault.name()).filter(|name| !met.contains(*name)).collect();
    assert!(missing.is_empty(), "never seen: {missing:?}");
}

#[test]
fn the_same_seed_tells_the_same_story_and_another_seed_another() {
    let story = |seed| {
        let doubles = with_seed(FaultPlan::standard(), seed);
        (0..60).map(|n| drive(&doubles, Provider::OpenRouter, &n.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(story(3), story(3));
    assert_ne!(story(3), story(4));
}

#[test]
fn the_order_in_which_markers_call_changes_nothing_for_them() {
    let forward = with_seed(FaultPlan::standard(), 5);
    let backward = with_seed(FaultPlan::standard(), 5);
    let story = |doubles: &Doubles, n: u32| drive(doubles, Provider::OpenAi, &n.to_string());
    let one: Vec<_> = (0..40).map(|n| story(&forward, n)).collect();
    let mut other: Vec<_> = (0..40).rev().map(|n| story(&backward, n)).collect();
    other.reverse();
    assert_eq!(one, other);
}

#[test]
fn a_reply_depends_on_the_body_and_the_seed_alone() {
    for provider in ALL {
        let say = |doubles: &Doubles, marker| content(provider, &chat(doubles, provider, &ask(marker)));
        let (one, same, other) = (
            with_seed(FaultPlan::none(), 1),
            with_seed(FaultPlan::none(), 1),
            with_seed(FaultPlan::none(), 2),
        );
        assert_eq!(say(&one, "1"), say(&same, "1"));
        assert_eq!(say(&one, "1"), say(&one, "1"));
        assert_ne!(say(&one, "1"), say(&one, "2"));
        assert_ne!(say(&one, "1"), say(&other, "1"));
    }
}

#[test]
fn a_script_is_followed_call_by_call_and_its_end_repeated() {
    let plan = FaultPlan::standard()
        .script("a", [Step::Fault(Fault::BadGateway), Step::Clean, Step::Fault(Fault::ServerError)])
        .always_for("b", Fault::PaymentRequired)
        .script_every([Fault::GatewayTimeout]);
    let doubles = start(plan);
    let statuses = |marker: &str| {
        (0..4).map(|_| chat(&doubles, Provider::OpenAi, &ask(marker)).status).collect::<Vec<_>>()
    };
    assert_eq!(statuses("a"), [502, 200, 500, 200]);
    assert_eq!(statuses("b"), [402; 4]);
    assert_eq!(statuses("c"), [504, 200, 200, 200]);
}

#[test]
fn presets_refuse_every_call_or_slow_half_of_them_down() {
    for (preset, status) in [(Preset::UnknownModel, 404), (Preset::RefusedKey, 401)] {
        for provider in ALL {
            let doubles = start(preset.into());
            for marker in ["1", "1", "1", "1", "1", "2"] {
                assert_eq!(chat(&doubles, provider, &ask(marker)).status, status);
            }
        }
    }
    let doubles = start(Preset::Storm.into());
    for n in 0..200 {
        chat(&doubles, Provider::OpenRouter, &ask(&n.to_string()));
    }
    let faults = doubles.ledger().totals().faults;
    let limited: u64 =
        faults.iter().filter(|(name, _)| name.starts_with("rate_limited")).map(|(_, n)| n).sum();
    assert!((50..130).contains(&limited), "{faults:?}");
}

#[test]
fn a_call_without_a_marker_meets_faults_by_its_body() {
    let doubles = start(FaultPlan::none().with(Fault::ServerError, 1.0));
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let statuses: Vec<_> = (0..5).map(|_| chat(&doubles, Provider::OpenAi, &body).status).collect();
    assert_eq!(statuses, [500, 500, 500, 200, 500]);
}

#[test]
fn a_plan_is_replaced_while_the_double_runs() {
    let doubles = start(FaultPlan::always(Fault::ServerError));
    assert_eq!(chat(&doubles, Provider::Ollama, &ask("1")).status, 500);
    let plan = json!({"every_marker": {"then": {"fault": "bad_gateway"}}, "faults": [{"fault": {"rate_limited": {"seconds": 2}}, "probability": 0.5}]});
    let put = send(doubles.addr(), "PUT", "/_plan", &[], plan.to_string().as_bytes()).read().unwrap();
    assert_eq!(put.status, 200);
    assert_eq!(chat(&doubles, Provider::Ollama, &ask("1")).status, 502);
    let read: FaultPlan = serde_json::from_value(get(&doubles, "/_plan").json()).unwrap();
    assert_eq!(read.every_marker, Some(Script { steps: Vec::new(), then: Step::Fault(Fault::BadGateway) }));
    assert_eq!(send(doubles.addr(), "PUT", "/_plan", &[], b"{\"fault\": 1}").read().unwrap().status, 400);
    doubles.set_plan(FaultPlan::none());
    assert_eq!(chat(&doubles, Provider::Ollama, &ask("1")).status, 200);
}
