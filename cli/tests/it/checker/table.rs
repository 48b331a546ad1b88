//! The table: each judged run appends its line where `PROMPTMILL_FAULT_TABLE` says, and `bench/faults.sh` prints them.

use std::fs::File;
use std::io::Write as _;

use super::history::{Allowed, History};
use super::judge::{Verdict, judge};

/// The columns, in order.
pub(crate) const COLUMNS: &str = "fault | seed | acked | recovered | lost | unexpected | duplicated | changed | partial | \
     extra calls | late calls | recovery s | peak MiB";

/// Judges a run, writes its line, and fails the test unless everything held.
#[track_caller]
pub(crate) fn conclude(fault: &str, seed: u64, history: &History, allowed: &Allowed) {
    let verdict = judge(history, allowed);
    record(fault, seed, history, &verdict);
    verdict.check(&format!("{fault}, seed {seed}"));
}

fn record(fault: &str, seed: u64, history: &History, verdict: &Verdict) {
    let line = line(fault, seed, history, verdict);
    println!("{line}");
    if let Ok(path) = std::env::var("PROMPTMILL_FAULT_TABLE") {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        // One write a line: tests in several processes append to the same file.
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

fn line(fault: &str, seed: u64, history: &History, verdict: &Verdict) -> String {
    let c = &verdict.counts;
    let peak = if history.peak_kib == 0 { "-".to_owned() } else { (history.peak_kib / 1024).to_string() };
    format!(
        "| {fault} | {seed} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {peak} |",
        c.acked,
        c.recovered,
        c.lost,
        c.unexpected,
        c.duplicated,
        c.changed,
        c.partial,
        c.extra_calls,
        c.late_calls,
        history.recovery.as_secs_f64(),
    )
}

#[test]
fn a_line_has_a_cell_for_every_column_of_the_documentation() {
    let history = History::default();
    let line = line("nothing", 1, &history, &judge(&history, &Allowed::NOTHING));
    assert_eq!(line.matches('|').count(), COLUMNS.matches('|').count() + 2);
    assert!(include_str!("../../../../docs/faults.md").contains(COLUMNS));
}
