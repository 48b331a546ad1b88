//! Watches a batch of a server, with the bar of `run`.

use std::time::Duration;

use serde_json::Value;

use super::{Client, print_json, text};
use crate::exit::{Exit, Failure};
use crate::progress::{Shown, View};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks until the batch ends or stands still, and answers as `run` does.
pub(crate) async fn watch(client: &Client, id: &str, as_json: bool) -> Result<Exit, Failure> {
    let view = View::new(as_json);
    let path = format!("/v1/batches/{id}");
    let last = loop {
        let batch = client.get(&path).await?;
        if as_json {
            print_json(&batch)?;
        }
        view.show(&shown(&batch));
        match text(&batch, "state") {
            "completed" | "cancelled" | "expired" | "paused" => break batch,
            "draft" => {
                view.finish();
                return Err(Failure::input(format!(
                    "{id} is a draft; nothing of it runs before it is submitted"
                )));
            }
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    };
    view.finish();
    if !as_json {
        eprint!("{}", summary(&last));
    }
    Ok(exit_of(&last))
}

fn shown(batch: &Value) -> Shown {
    let counts = &batch["counts"];
    let number = |member: &str| counts[member].as_u64().unwrap_or(0);
    let tokens = &batch["tokens"];
    Shown {
        settled: number("settled"),
        total: batch["rows"].as_u64().unwrap_or(0),
        failed: number("failed"),
        parked: number("parked"),
        tokens: tokens["prompt"].as_u64().unwrap_or(0) + tokens["completion"].as_u64().unwrap_or(0),
        cost: batch["cost"].as_str().and_then(|cost| cost.parse().ok()).unwrap_or_default(),
        calls: None,
    }
}

fn exit_of(batch: &Value) -> Exit {
    let counts = &batch["counts"];
    match (text(batch, "state"), text(&batch["pause"], "reason")) {
        ("paused", "budget" | "tenant_budget") => Exit::Budget,
        ("paused", "suspect") => Exit::Suspect,
        ("completed", _) if counts["failed"].as_u64() == Some(0) => Exit::Success,
        ("completed" | "cancelled" | "expired", _) => Exit::SomeFailed,
        _ => Exit::CouldNotWork,
    }
}

/// What a batch came to so far, in a few lines.
pub(crate) fn summary(batch: &Value) -> String {
    let counts = &batch["counts"];
    let number = |member: &str| counts[member].as_u64().unwrap_or(0);
    let mut lines = format!(
        "{} is {}: {} of {} rows have an outcome, {} succeeded ({} repaired), {} failed, {} cancelled, {} expired\n",
        text(batch, "id"),
        text(batch, "state"),
        number("settled"),
        batch["rows"].as_u64().unwrap_or(0),
        number("succeeded"),
        number("repaired"),
        number("failed"),
        number("cancelled"),
        number("expired"),
    );
    for (reason, items) in counts["failed_by_reason"].as_object().into_iter().flatten() {
        lines.push_str(&format!("  failed: {items} {reason}\n"));
    }
    let pause = &batch["pause"];
    match text(pause, "reason") {
        "budget" => lines.push_str("it stands still because max_cost is spent; raise it and resume\n"),
        "suspect" => lines.push_str(&format!(
            "it stands still because the first items all failed with {}: {}\n",
            text(pause, "kind"),
            text(pause, "message")
        )),
        "requested" => lines.push_str("it was paused; resume it to go on\n"),
        _ => {}
    }
    for reason in batch["limited_by"].as_array().into_iter().flatten() {
        let lane = reason["lane"].as_str().map_or_else(String::new, |lane| format!(" ({lane})"));
        lines.push_str(&format!("  not faster because: {}{lane}\n", text(reason, "reason")));
    }
    let cached = match batch["cached"].as_u64() {
        None | Some(0) => String::new(),
        Some(cached) => format!("{cached} replies of the cache, "),
    };
    lines.push_str(&format!(
        "{} calls, {cached}{} + {} tokens, ${}\n",
        batch["calls"].as_u64().unwrap_or(0),
        batch["tokens"]["prompt"].as_u64().unwrap_or(0),
        batch["tokens"]["completion"].as_u64().unwrap_or(0),
        text(batch, "cost"),
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_exit_code_is_that_of_run() {
        let of = |state: &str, failed: u64, pause: Value| {
            exit_of(&json!({"state": state, "counts": {"failed": failed}, "pause": pause}))
        };
        assert_eq!(of("completed", 0, Value::Null), Exit::Success);
        assert_eq!(of("completed", 2, Value::Null), Exit::SomeFailed);
        assert_eq!(of("cancelled", 0, Value::Null), Exit::SomeFailed);
        assert_eq!(of("paused", 0, json!({"reason": "budget"})), Exit::Budget);
        assert_eq!(of("paused", 0, json!({"reason": "suspect"})), Exit::Suspect);
        assert_eq!(of("paused", 0, json!({"reason": "requested"})), Exit::CouldNotWork);
    }
}
