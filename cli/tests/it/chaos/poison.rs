//! A few rows that are bombs among very many good ones: only they fail, each with its class, and the others never notice.
//!
//! `PROMPTMILL_POISON_ROWS` says how many good rows; `bench/faults.sh --million` runs it with a million.

use std::io::Write as _;
use std::time::Instant;

use promptmill_doubles::{Config, Doubles, Fault, FaultPlan, Step};
use serde_json::{Value, json};

use crate::support::{Desk, peak_kib, run_args, wait_for};

/// Good rows unless the environment says otherwise.
const ROWS: usize = 20_000;

/// The variable that says otherwise.
const ROWS_WANTED: &str = "PROMPTMILL_POISON_ROWS";

/// The most memory with all bombs under way at once.
const MOST_MIB: u64 = 256;

/// The template, which a row can make expensive, and whose schema a reply can make expensive.
fn template() -> Value {
    json!({
        "name": "poison",
        "messages": [{"role": "user", "content":
            "Tags for [[row:{{ m }}]], please.{% for a in range(times) %}{% for b in range(times) %} more{% endfor %}{% endfor %}"}],
        "variables": {"m": {"type": "string"}, "times": {"type": "integer", "default": 1}},
        "output": {"format": "json", "schema": {
            "type": "object", "required": ["row"], "additionalProperties": {"$ref": "#/$defs/tree"},
            "properties": {"row": {"type": "string", "pattern": "^(a+)+$|^[a-z0-9.]+$"},
                           "tags": {"type": "array", "uniqueItems": true}},
            "$defs": {"tree": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/tree"}}]}}
        }},
        "max_repairs": 0
    })
}

/// Replies that are bombs, and how their rows end.
fn bombs() -> Vec<(&'static str, Step, &'static [&'static str])> {
    let say = |text: String| Step::Say(text);
    let objects = (0..60_000).map(|n| format!("{{\"a\":{n}}}")).collect::<Vec<_>>().join(",");
    vec![
        (
            "bomb.deep",
            say(format!("{{\"row\":\"x\",\"more\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000))),
            &["invalid_output"],
        ),
        ("bomb.open", say("[{".repeat(300_000)), &["invalid_output"]),
        ("bomb.pattern", say(format!("{{\"row\":\"{}!\"}}", "a".repeat(900_000))), &["invalid_output"]),
        (
            "bomb.unique",
            say(format!("{{\"row\":\"x\",\"tags\":[{objects},{{\"a\":1}}]}}")),
            &["invalid_output"],
        ),
        ("bomb.prose", say("{".repeat(1_000_000)), &["invalid_output"]),
        ("bomb.huge", Step::Fault(Fault::Huge), &["reply_too_large"]),
        ("bomb.packed", Step::Fault(Fault::GzipBomb), &["malformed_reply"]),
    ]
}

fn rows_wanted() -> usize {
    std::env::var(ROWS_WANTED).map_or(ROWS, |rows| rows.parse().unwrap())
}

/// Writes so many rows, the bombs spread among them, and answers how many there are.
fn write_rows(desk: &Desk, good: usize, bombs: &[&str]) -> usize {
    let mut file = std::io::BufWriter::new(std::fs::File::create(desk.path("rows.jsonl")).unwrap());
    let every = good / (bombs.len() + 1) + 1;
    for n in 0..good {
        writeln!(file, r#"{{"custom_id":"good.{n}","variables":{{"m":"good.{n}"}}}}"#).unwrap();
        if n % every == every - 1
            && let Some(bomb) = bombs.get(n / every)
        {
            writeln!(file, r#"{{"custom_id":"{bomb}","variables":{{"m":"{bomb}"}}}}"#).unwrap();
        }
    }
    file.flush().unwrap();
    good + bombs.len()
}

/// Seconds, and the most memory in MiB, of a run of these rows.
fn run(desk: &Desk, code: i32) -> (f64, u64) {
    let begun = Instant::now();
    let mut child = desk.start(&run_args("openai:m", &["--concurrency", "64", "--quiet", "--fresh"]));
    let mut peak = 0;
    let id = child.id();
    let ended = loop {
        peak = peak.max(peak_kib(id));
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    assert_eq!(ended.code(), Some(code));
    (begun.elapsed().as_secs_f64(), peak / 1024)
}

#[test]
fn rows_that_are_bombs_fail_alone_among_very_many() {
    let good = rows_wanted();
    let bombs = bombs();
    let plan = bombs
        .iter()
        .fold(FaultPlan::none(), |plan, (marker, step, _)| plan.always_for(*marker, step.clone()));
    let doubles = Doubles::start(Config { plan, ..Config::default() }).unwrap();
    let mut desk = Desk::new();
    desk.point_at(&doubles);
    desk.write("template.json", &template().to_string());

    // What the bombs cost the others is measured on demand: it takes as long again.
    if std::env::var_os(ROWS_WANTED).is_some() {
        write_rows(&desk, good, &[]);
        let (seconds, mib) = run(&desk, 0);
        println!("poison: none among {good} rows, {seconds:.1} s, {mib} MiB");
        doubles.ledger().reset();
    }
    let names: Vec<_> = bombs.iter().map(|(marker, ..)| *marker).collect();
    let rows = write_rows(&desk, good, &names);
    let (seconds, mib) = run(&desk, 3);
    println!("poison: {} among {good} rows, {seconds:.1} s, {mib} MiB", bombs.len());

    let file = std::io::BufReader::new(std::fs::File::open(desk.path("out.jsonl")).unwrap());
    let mut count = 0;
    for line in std::io::BufRead::lines(file) {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let id = line["custom_id"].as_str().unwrap();
        count += 1;
        match bombs.iter().find(|(marker, ..)| *marker == id) {
            Some((_, _, kinds)) => {
                assert!(kinds.contains(&line["error"]["kind"].as_str().unwrap()), "{line}")
            }
            None => assert_eq!(line["outcome"], "succeeded", "{line}"),
        }
    }
    assert_eq!(count, rows);
    // A repeated call would be one of a bomb that was taken for something that passes.
    let totals = doubles.ledger().totals();
    assert_eq!(totals.calls_after_valid, 0);
    assert!(mib <= MOST_MIB, "{mib} MiB");
}

/// A row that makes the template itself a bomb is found before anything is called, by name and line, and nothing else is.
#[test]
fn a_row_that_makes_its_template_a_bomb_is_named_before_anything_is_called() {
    let doubles = Doubles::start(Config::default()).unwrap();
    let mut desk = Desk::new();
    desk.point_at(&doubles);
    desk.write("template.json", &template().to_string());
    write_rows(&desk, 2_000, &[]);
    let mut rows = desk.read("rows.jsonl");
    rows.push_str("{\"custom_id\":\"bomb\",\"variables\":{\"m\":\"bomb\",\"times\":100000}}\n");
    desk.write("rows.jsonl", &rows);
    let said = desk.run("openai:m", &[]).check_code(2).stderr;
    assert!(said.contains("2001") && !said.contains("line 2000"), "{said}");
    wait_for("nothing", || doubles.ledger().totals().calls == 0);
}
