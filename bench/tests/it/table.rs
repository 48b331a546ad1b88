//! Verdicts and the form of the table.

use promptmill_bench::figures::Runs;
use promptmill_bench::table::{Goal, Table, Verdict};

const COST: Goal = Goal::AtMost { target: 3.0, failure: 4.5 };
const RATE: Goal = Goal::AtLeast { target: 0.45, failure: 0.3 };

#[test]
fn a_figure_is_judged_by_its_goal_and_limits_themselves_are_reached() {
    for (goal, figure, verdict) in [
        (COST, 2.9, Verdict::Met),
        (COST, 3.0, Verdict::Met),
        (COST, 3.01, Verdict::Missed),
        (COST, 4.5, Verdict::Missed),
        (COST, 4.51, Verdict::Failed),
        (RATE, 0.5, Verdict::Met),
        (RATE, 0.45, Verdict::Met),
        (RATE, 0.44, Verdict::Missed),
        (RATE, 0.3, Verdict::Missed),
        (RATE, 0.29, Verdict::Failed),
        (RATE, f64::NAN, Verdict::Failed),
        (COST, f64::NAN, Verdict::Failed),
        (Goal::Told, 0.0, Verdict::Told),
    ] {
        assert_eq!(goal.judge(figure), verdict, "{goal:?} {figure}");
    }
}

#[test]
fn the_table_is_aligned_markdown() {
    let mut table = Table::default();
    table.push("CPU over bare", COST, "", [2.8, 3.2, 2.7].into_iter().collect());
    table.push(
        "rows",
        Goal::AtLeast { target: 300_000.0, failure: 100_000.0 },
        " rows/s",
        Runs::from_iter([250_000.0]),
    );
    table.push("- gzip", Goal::Told, " rows/s", Runs::from_iter([150_000.0]));
    assert!(!table.has_failures());
    assert_eq!(
        table.to_string(),
        "\
| measure       | target            | a failure        | figure           | verdict |
|---------------|-------------------|------------------|------------------|---------|
| CPU over bare | <= 3              | > 4.5            | 2.8 (2.7 to 3.2) | met     |
| rows          | >= 300,000 rows/s | < 100,000 rows/s | 250,000 rows/s   | missed  |
| - gzip        |                   |                  | 150,000 rows/s   |         |
"
    );
    table.push("slow", COST, "", Runs::from_iter([9.0]));
    assert!(table.has_failures());
    assert!(table.to_string().lines().last().unwrap().ends_with("| FAILED  |"), "{table}");
}
