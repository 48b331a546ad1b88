//! One cell of the table of limits with real processes: a minute against a server that limits and counts.

use crate::end_to_end::{bench, check_succeeded, engine};

#[test]
fn a_minute_of_a_told_limit_is_used_and_loses_no_row() {
    let engine = engine();
    // What the figures must be stands in the table; a machine that runs other tests beside may miss them, but not fail.
    let table =
        check_succeeded(&bench(&["limits", "--only", "minute", "--binary", engine.to_str().unwrap()]));
    let lines: Vec<_> = table.lines().filter(|line| line.starts_with("| ")).collect();
    assert!(lines[1].contains("600 rpm, headers, 600 rows, serve: used"), "{table}");
    assert!(lines[2].contains("refused") && lines.len() == 3, "{table}");
}
