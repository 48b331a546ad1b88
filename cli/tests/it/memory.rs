//! Memory does not grow with the number of rows.

use promptmill_doubles::{Config, Doubles};

use crate::support::{self, Desk, run_args};

/// Peak resident memory in KiB of a run of `rows` rows, read while the process lives.
fn peak_kib(rows: usize) -> u64 {
    let doubles = Doubles::start(Config::default()).unwrap();
    let mut desk = Desk::with_rows(rows);
    desk.point_at(&doubles);
    let mut child = desk.start(&run_args("openai:m", &["--concurrency", "32", "--quiet"]));
    let mut peak = 0;
    wait_for_long(|| {
        peak = peak.max(support::peak_kib(child.id()));
        child.try_wait().unwrap().is_some()
    });
    assert!(child.wait().unwrap().success());
    assert_eq!(desk.read("out.jsonl").lines().count(), rows);
    peak
}

fn wait_for_long(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
}

#[test]
fn fifty_thousand_rows_need_hardly_more_memory_than_fifty() {
    let (few, many) = (peak_kib(50), peak_kib(50_000));
    assert!(many <= few + 64 * 1024, "{few} KiB for 50 rows, {many} KiB for 50,000");
}
