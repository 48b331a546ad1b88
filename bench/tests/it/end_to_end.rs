//! The whole table in small, against the binary that was built beside the tests.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The engine lies beside the bench's own binary when the tests of the workspace are built, as `./check` does.
pub(crate) fn engine() -> PathBuf {
    let engine = PathBuf::from(env!("CARGO_BIN_EXE_promptmill-bench")).with_file_name("promptmill");
    assert!(
        engine.is_file(),
        "there is no {}; build it with: cargo build -p promptmill-cli",
        engine.display()
    );
    engine
}

pub(crate) fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_promptmill-bench"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn check_succeeded(output: &Output) -> String {
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
    stdout
}

/// The judged lines of a quick run are about these, in this order, and every line has its figure.
#[track_caller]
pub(crate) fn check_table(stdout: &str, judged_measures: &[&str]) {
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let lines: Vec<_> = stdout.lines().filter(|line| line.starts_with("| ")).skip(1).map(cells).collect();
    let judged: Vec<_> = lines.iter().filter(|line| !line[2].is_empty()).collect();
    assert_eq!(judged.len(), judged_measures.len(), "{stdout}");
    for (line, words) in judged.iter().zip(judged_measures) {
        assert!(line[1].contains(words), "{words:?} is not in its place:\n{stdout}");
        assert!(["met", "missed", "FAILED"].contains(&line[5].as_str()), "{line:?}");
    }
    assert!(
        lines.iter().all(|line| line[4].starts_with(|first: char| first.is_ascii_digit() || first == '-')),
        "{stdout}"
    );
    assert!(stdout.contains("load average ") && stdout.contains("quick run"), "{stdout}");
}

#[test]
fn a_quick_run_fills_every_line_of_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let [engine, dir] =
        [engine(), folder.path().to_owned()].map(|path| path.into_os_string().into_string().unwrap());
    let stdout = check_succeeded(&bench(&["table", "--quick", "--binary", &engine, "--dir", &dir]));
    check_table(
        &stdout,
        &[
            "engine's CPU per item over the bare loop's",
            "0 ms, 64 at once: items/s over the bare loop's",
            "20ms, 64 at once: items/s over the bare loop's",
            "rows of 200 bytes accepted over HTTP",
            "cost per item of a batch of 1,500 over one of 500",
            "results read over HTTP as NDJSON",
            "p50, one client",
            "p50, 64 clients",
            "idle memory after the start",
            "idle memory after a batch",
            "start to ready, fresh folder",
            "start to ready, folder with 300 outcomes",
        ],
    );
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "a data folder was left behind");
}

#[test]
fn only_what_was_asked_for_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let [engine, dir] =
        [engine(), folder.path().to_owned()].map(|path| path.into_os_string().into_string().unwrap());
    let args = ["table", "--quick", "--only", "accept", "--binary", &engine, "--dir", &dir];
    let stdout = check_succeeded(&bench(&args));
    // Head, one judged line, three for comparison.
    assert_eq!(stdout.lines().filter(|line| line.starts_with("| ")).count(), 5, "{stdout}");
    assert!(stdout.contains("accepted over HTTP"));
}

#[test]
fn an_engine_that_does_not_start_is_an_error_with_its_words_and_no_figure() {
    let output = bench(&["table", "--quick", "--only", "accept", "--binary", "/bin/false"]);
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("error: the engine did not start"), "{stderr}");
    assert!(output.stdout.is_empty());
}
