//! Two thousand rows against a fault-making double of each provider: every row succeeds, and what was called is accounted for.

use std::time::Duration;

use promptmill_doubles::{Config, Doubles, Fault, FaultPlan, RetryAfter};
use serde_json::Value;

use crate::support::{Desk, check_all_succeeded};

const ROWS: usize = 2_000;

/// Seconds of the pauses the provider asks for.
const PAUSE: u32 = 5;

/// A 429 is read a while after it was sent, on a busy machine seconds later, and what was called for meanwhile is no breach of the pause.
/// An engine that did not obey would go on calling in the rest of it.
const EARLY_GRACE: Duration = Duration::from_millis(2_500);

/// The standard plan with fewer and longer pauses: as much of the run is pause, and each tells more.
fn plan() -> FaultPlan {
    let mut plan = FaultPlan::standard();
    for weighted in &mut plan.faults {
        weighted.fault = match weighted.fault {
            Fault::RateLimited(RetryAfter::Seconds(_)) => Fault::RateLimited(RetryAfter::Seconds(PAUSE)),
            Fault::RateLimited(RetryAfter::Date(_)) => Fault::RateLimited(RetryAfter::Date(PAUSE)),
            _ => continue,
        };
        weighted.probability /= 5.0;
    }
    // The first one comes when almost every row is still to be called for: an engine that did not obey would make a thousand calls in it.
    plan.script("20", [Fault::RateLimited(RetryAfter::Seconds(PAUSE))])
}

fn journey(model: &str, seed: u64) {
    let hang = Duration::from_secs(1);
    let config = Config { plan: plan(), seed, hang, early_grace: EARLY_GRACE, ..Config::default() };
    let doubles = Doubles::start(config).unwrap();
    let mut desk = Desk::with_rows(ROWS);
    desk.point_at(&doubles);
    desk.run(model, &["--concurrency", "64"]).check_code(0).check_says("2000 succeeded");
    let outcomes = desk.outcomes();
    check_all_succeeded(&outcomes, ROWS);

    let seen = doubles.ledger().snapshot();
    assert_eq!(seen.totals.refused, 0, "requests the provider would have refused: {:?}", seen.refusals);
    assert_eq!(seen.totals.early_calls, 0, "calls inside a pause");
    let pauses = |kind| seen.totals.faults.get(kind).copied().unwrap_or(0);
    assert!(pauses("rate_limited_seconds") + pauses("rate_limited_date") > 0, "{:?}", seen.totals.faults);
    assert_eq!(seen.totals.calls_after_valid, 0, "calls for a row that had its valid reply");
    assert!(seen.totals.max_concurrent <= 64, "{} calls at once", seen.totals.max_concurrent);
    assert!(seen.totals.faults.len() >= 15, "{:?}", seen.totals.faults);
    for (outcome, n) in outcomes.iter().zip(0..) {
        let row = &seen.markers[&n.to_string()];
        assert_eq!(outcome["calls"].as_u64(), Some(row.calls + row.repair_calls), "row {n}: {outcome}");
    }
    let sum = |key: &str| {
        outcomes.iter().filter_map(|outcome: &Value| outcome["tokens"][key].as_u64()).sum::<u64>()
    };
    assert_eq!(sum("prompt"), seen.totals.prompt_tokens);
    assert_eq!(sum("completion"), seen.totals.completion_tokens);
    let cost: promptmill_domain::Money = outcomes
        .iter()
        .filter_map(|outcome| outcome["cost"].as_str())
        .map(|cost| cost.parse::<promptmill_domain::Money>().unwrap())
        .sum();
    assert_eq!(cost.pico(), seen.totals.cost_pico);
}

#[test]
fn openrouter_with_every_fault_of_its_page() {
    journey("openrouter:acme/model-a", 11);
}

#[test]
fn ollama_with_every_fault_of_its_page() {
    journey("ollama:acme:8b", 12);
}

#[test]
fn an_openai_compatible_server_with_every_fault() {
    journey("openai:model-a", 13);
}
