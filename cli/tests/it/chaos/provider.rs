//! A provider that drips, swells, packs, resets, babbles and never answers: every row ends, with a class of failure or well, and the
//! memory of the engine stays where it is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use promptmill_doubles::{Config, Fault, FaultPlan, Script, Step};
use serde_json::{Value, json};

use super::scene::{Scene, check_log, rows, template, wait_until};
use crate::checker::history::Allowed;
use crate::checker::journal::Answer;
use crate::checker::table;

/// What the rows do that never meet anything else: they end well, or as one of these.
const FAULTS: &[(Fault, &[&str])] = &[
    (Fault::Drip, &[]),
    (Fault::Dribble, &[]),
    (Fault::SameId, &[]),
    (Fault::SurrogateInReply, &[]),
    (Fault::Huge, &["reply_too_large"]),
    (Fault::GzipBomb, &["malformed_reply"]),
    (Fault::NotANumber, &["malformed_reply"]),
    (Fault::Html, &["malformed_reply"]),
    (Fault::NotJson, &["malformed_reply"]),
    (Fault::WrongContentType, &["malformed_reply"]),
    (Fault::NoChoices, &["malformed_reply", "empty_reply"]),
    (Fault::EmptyContent, &["empty_reply"]),
    (Fault::NullContent, &["malformed_reply", "empty_reply"]),
    (Fault::Cut, &["malformed_reply"]),
    (Fault::ResetMidBody, &["malformed_reply", "connection_failed"]),
    (Fault::ResetBeforeReply, &["connection_failed"]),
];

const MODELS: [&str; 3] = ["openai:m", "ollama:acme:8b", "openrouter:acme/model-a"];

/// Rows that meet the fault once or always, and rows that meet none.
fn markers_of(model: &str) -> Vec<String> {
    let provider = model.split(':').next().unwrap();
    let mut markers: Vec<_> = (0..150).map(|n| format!("{provider}.good.{n}")).collect();
    for (fault, _) in FAULTS {
        // A row over which every connection breaks, when nothing else is called, is the lane's trouble: it waits for up to a day.
        let kinds: &[&str] = match fault {
            Fault::ResetBeforeReply => &["once-1", "once-2"],
            _ => &["once-1", "once-2", "always"],
        };
        for kind in kinds {
            markers.push(format!("{provider}.{}.{kind}", fault.name()));
        }
    }
    markers
}

fn plan() -> FaultPlan {
    let mut plan = FaultPlan::none();
    for model in MODELS {
        for (marker, fault) in faulty(&markers_of(model)) {
            plan = if marker.ends_with("always") {
                plan.always_for(marker, fault)
            } else {
                plan.script(marker, [fault])
            };
        }
    }
    plan.scripts.extend(
        (0..6).map(|n| (format!("silent.{n}"), Script { steps: Vec::new(), then: Step::Fault(Fault::Hang) })),
    );
    plan
}

fn faulty(markers: &[String]) -> Vec<(String, Fault)> {
    let fault = |marker: &String| {
        let name = marker.split('.').nth(1)?;
        FAULTS.iter().find(|(fault, _)| fault.name() == name).map(|(fault, _)| (marker.clone(), *fault))
    };
    markers.iter().filter_map(fault).collect()
}

/// RFC 3339, so many seconds from now.
fn seconds_from_now(seconds: u64) -> String {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(seconds);
    let output = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{}", at.as_secs()), "+%Y-%m-%dT%H:%M:%SZ"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_provider_sends_each_row_ends_and_memory_stays_bounded() {
    let seed = 1;
    // Longer than the deadline below: what a call that is still under way then comes to is nobody's any more.
    let hang = Duration::from_secs(10);
    let config = Config { seed, plan: plan(), hang, latency: "0..5".parse().unwrap(), ..Config::default() };
    let mut scene = Scene::new(config);
    let server = scene.first_server();
    let client = server.client();
    // A provider that never answers at all holds its rows until the batch's deadline.
    let silent: Vec<_> = (0..6).map(|n| format!("silent.{n}")).collect();
    let mut sent = BTreeMap::from([("silent".to_owned(), silent)]);
    sent.extend(MODELS.map(|model| (model.to_owned(), markers_of(model))));
    for (name, markers) in &sent {
        let model = if name == "silent" { "openai:m" } else { name };
        let mut batch =
            json!({"template": template(), "model": model, "rows": rows(markers), "max_attempts": 3});
        if name == "silent" {
            batch["deadline"] = Value::from(seconds_from_now(4));
        }
        let attempt = scene.journal.sends(name, markers);
        let (status, view) = client.post("/v1/batches", &batch).await;
        assert_eq!(status, 201, "{view}");
        scene.journal.answered(attempt, Answer::Acked);
    }
    let last_fault = Instant::now();
    scene.drain(&client, last_fault).await;
    wait_until("silent calls to be given up", || scene.doubles.ledger().totals().in_flight == 0);
    scene.history.peak_kib = server.peak_kib();
    let lines: BTreeMap<&str, Value> = scene
        .history
        .export
        .iter()
        .map(|found| (found.marker.as_str(), serde_json::from_str(&found.whole).unwrap()))
        .collect();
    for (marker, line) in &lines {
        let (outcome, kind) = (line["outcome"].as_str().unwrap(), line["error"]["kind"].as_str());
        let name = marker.split('.').nth(1).unwrap();
        let fault = FAULTS.iter().find(|(fault, _)| fault.name() == name);
        match fault {
            // What is too large is so again: it is not asked for twice.
            Some((fault, kinds)) if marker.ends_with("always") || *fault == Fault::Huge => {
                assert!(
                    if kinds.is_empty() { outcome == "succeeded" } else { kinds.contains(&kind.unwrap()) },
                    "{line}"
                );
            }
            _ if marker.starts_with("silent") => assert_eq!(outcome, "expired", "{line}"),
            _ => assert_eq!(outcome, "succeeded", "{line}"),
        }
    }
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    check_log(&log);
    // What expired had its call under way. Sixteen calls at once may each read a reply up to its limit of 8 MiB.
    let allowed = Allowed { deaths: 1, slots: 6, peak_kib: 320 * 1024, ..Allowed::NOTHING };
    table::conclude("provider: 17 kinds of bad replies", seed, &scene.history, &allowed);
}
