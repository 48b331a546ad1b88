//! What the installation does at the moment: its lanes, and the batches that are open.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Client, ServerArgs, print_json, print_line, text};
use crate::exit::{Exit, Failure};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The states of batches that are shown.
const STATES: [&str; 3] = ["running", "paused", "queued"];

/// At most so many batches of each state.
const BATCHES: usize = 20;

/// Shows it again and again, or once.
pub(crate) async fn top(server: &ServerArgs, once: bool) -> Result<Exit, Failure> {
    let client = Client::new(server)?;
    loop {
        let lanes = client.get("/v1/lanes").await?;
        let mut batches = Vec::new();
        for state in STATES {
            batches.extend(client.list("/v1/batches", &[("state", state)], BATCHES).await?);
        }
        if server.json {
            print_json(&json!({"lanes": lanes["data"], "batches": batches}))?;
        } else {
            // A terminal is cleared, so that the same lines change; a file gets one look after the other.
            let clear = if !once && std::io::stdout().is_terminal() { "\x1b[2J\x1b[H" } else { "" };
            print_line(&format!("{clear}{}", screen(&lanes["data"], &batches)))?;
        }
        if once {
            return Ok(Exit::Success);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn screen(lanes: &Value, batches: &[Value]) -> String {
    let mut screen = format!(
        "{:<24} {:>9} {:>9} {:>7} {:>9} {:>8} {:>8}  STANDS STILL\n",
        "LANE", "ALLOWED/S", "USED/S", "WINDOW", "BEGUN", "REFUSED", "LATENCY"
    );
    for lane in lanes.as_array().map(Vec::as_slice).unwrap_or_default() {
        let number = |member: &str| lane[member].as_f64();
        let or_free = |value: Option<String>| value.unwrap_or_else(|| "free".to_owned());
        let still = match (lane["breaker_open"] == true, number("stands_still_ms").unwrap_or(0.0)) {
            (true, ms) => format!("gone, asked in {:.1} s", ms / 1_000.0),
            (false, ms) if ms > 0.0 => format!("{:.1} s", ms / 1_000.0),
            (false, _) => "no".to_owned(),
        };
        let _ = writeln!(
            screen,
            "{:<24} {:>9} {:>9.1} {:>7} {:>9} {:>8} {:>8}  {still}",
            text(lane, "lane"),
            or_free(number("allowed_per_second").map(|rate| format!("{rate:.1}"))),
            number("used_per_second").unwrap_or(0.0),
            or_free(lane["window"].as_u64().map(|window| window.to_string())),
            lane["begun"].to_string(),
            lane["refused"].to_string(),
            lane["latency_ms"].as_u64().map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")),
        );
    }
    let _ = writeln!(screen, "\n{:<38} {:<9} {:>21} {:>8}  HELD BY", "BATCH", "STATE", "SETTLED", "ITEMS/S");
    for batch in batches {
        let counts = &batch["counts"];
        let settled = format!("{} of {}", counts["settled"], batch["rows"]);
        let reasons = batch["limited_by"].as_array().map(Vec::as_slice).unwrap_or_default();
        let reasons: Vec<&str> = reasons.iter().map(|reason| text(reason, "reason")).collect();
        let _ = writeln!(
            screen,
            "{:<38} {:<9} {settled:>21} {:>8.1}  {}",
            text(batch, "id"),
            text(batch, "state"),
            batch["rate"].as_f64().unwrap_or(0.0),
            reasons.join(", "),
        );
    }
    screen.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_tells_lanes_and_batches() {
        let lanes = json!([
            {"lane": "openai/default", "allowed_per_second": 10.0, "used_per_second": 9.87, "window": 16, "begun": 120,
             "refused": 3, "stands_still_ms": 0, "breaker_open": false, "latency_ms": 160},
            {"lane": "ollama/none", "used_per_second": 0.0, "begun": 5, "refused": 0, "stands_still_ms": 3900,
             "breaker_open": true},
        ]);
        let batches = [
            json!({"id": "batch_01", "state": "running", "counts": {"settled": 17}, "rows": 600, "rate": 9.9,
            "limited_by": [{"reason": "lane_limit", "lane": "openai/default"}]}),
        ];
        let screen = screen(&lanes, &batches);
        let lines: Vec<Vec<&str>> = screen.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["openai/default", "10.0", "9.9", "16", "120", "3", "160", "ms", "no"]);
        assert_eq!(
            lines[2],
            ["ollama/none", "free", "0.0", "free", "5", "0", "-", "gone,", "asked", "in", "3.9", "s"]
        );
        assert_eq!(lines[5], ["batch_01", "running", "17", "of", "600", "9.9", "lane_limit"]);
    }
}
