//! The table of a fleet in small, over real servers and against the binary that was built beside the tests.

use crate::end_to_end::{bench, check_succeeded, check_table, engine};

#[test]
fn a_quick_run_fills_every_line_of_the_fleets_table() {
    let folder = tempfile::tempdir().unwrap();
    let [engine, dir] =
        [engine(), folder.path().to_owned()].map(|path| path.into_os_string().into_string().unwrap());
    let stdout = check_succeeded(&bench(&["fleet", "--quick", "--binary", &engine, "--dir", &dir]));
    check_table(
        &stdout,
        &[
            "2,000 items, 0 ms, 64 at once: items/s of the fleet over the embedded engine's",
            "Redis commands per 50 items",
            "MongoDB commands per item",
            "a single-row job from POST to stored outcome over the provider's 5ms: p50, one client",
            "single-row jobs, 64 waiting clients",
            "MongoDB commands per job",
            "2,000 rows of 200 bytes accepted",
            "times as fast as insert_many of a document for each",
            "counts of a batch of 6,000, exact: p50",
            "counts of a batch of 6,000, cached: p50",
            "600 items, 20ms, 64 slots each: items/s of two workers over one's",
            "10 rows beside 20,000 of another tenant, 200ms, 64 slots: from POST to call of a row, p95 over that alone",
        ],
    );
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "a data folder was left behind");
}

#[test]
fn a_fleet_that_does_not_start_is_an_error_and_no_figure() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let output = bench(&["fleet", "--quick", "--only", "accept", "--binary", "/bin/false", "--dir", dir]);
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("error: the key was not made"), "{stderr}");
    assert!(output.stdout.is_empty());
}
