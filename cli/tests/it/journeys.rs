//! `promptmill run` as its user types it: results, summary, exit codes, and what it says when something is wrong.

use std::io::{BufRead as _, BufReader, Write as _};

use promptmill_doubles::{Config, Doubles, Fault, FaultPlan, Provider};
use serde_json::{Value, json};

use crate::support::{Desk, check_all_succeeded, check_complete};

#[test]
fn a_batch_goes_from_rows_to_validated_outcomes() {
    let desk = Desk::with_rows(300);
    let finished =
        desk.run("demo:any", &[]).check_code(0).check_says("300 of 300 rows have an outcome: 300 succeeded");
    assert!(finished.stdout.is_empty());
    let outcomes = desk.outcomes();
    check_all_succeeded(&outcomes, 300);
    let first = &outcomes[0];
    let keys: Vec<_> = first.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        ["index", "custom_id", "outcome", "output", "error", "attempts", "calls", "tokens", "cost", "flags"]
    );
    assert_eq!((&first["attempts"], &first["calls"], &first["error"]), (&json!(1), &json!(1), &Value::Null));
}

#[test]
fn the_same_rows_give_the_same_demo_outcomes() {
    let (one, two) = (Desk::with_rows(50), Desk::with_rows(50));
    one.run("demo:any", &["--concurrency", "1"]).check_code(0);
    two.run("demo:any", &["--concurrency", "40"]).check_code(0);
    assert_eq!(one.read("out.jsonl"), two.read("out.jsonl"));
}

#[test]
fn faults_are_retried_and_repaired_and_failures_are_told_by_reason() {
    let desk = Desk::with_rows(400);
    let finished =
        desk.run("demo:faulty", &["--concurrency", "64"]).check_code(3).check_says("content_refused");
    assert!(finished.stderr.contains("repaired"));
    let outcomes = desk.outcomes();
    check_complete(&outcomes, 400);
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome["outcome"] == "failed").collect();
    assert!(!failed.is_empty());
    for outcome in failed {
        assert_eq!(outcome["error"]["kind"], "content_refused", "{outcome}");
        assert_eq!(outcome["output"], Value::Null);
    }
    assert!(outcomes.iter().any(|outcome| outcome["attempts"].as_u64() > Some(1)));
    assert!(outcomes.iter().any(|outcome| outcome["calls"].as_u64() > outcome["attempts"].as_u64()));
}

#[test]
fn csv_rows_give_csv_outcomes_with_a_column_for_each_property() {
    let desk = Desk::new();
    desk.write("template.json", &crate::support::ticket_template().to_string());
    desk.write("rows.csv", "custom_id,n\nid-0,0\nid-1,1\n");
    desk.promptmill(&[
        "run",
        "template.json",
        "--rows",
        "rows.csv",
        "--model",
        "demo:any",
        "--out",
        "out.csv",
        "--include-input",
    ])
    .check_code(0);
    let csv = desk.read("out.csv");
    let mut lines = csv.lines();
    let header = lines.next().unwrap();
    assert!(
        header.starts_with("index,custom_id,outcome,output.category,output.urgent,output.score"),
        "{header}"
    );
    assert!(header.ends_with("flags,input.n"), "{header}");
    assert_eq!(lines.count(), 2);
}

#[test]
fn rows_may_come_from_standard_input_and_outcomes_go_to_standard_output() {
    let desk = Desk::with_rows(0);
    let args = [
        "run",
        "template.json",
        "--rows",
        "-",
        "--model",
        "demo:any",
        "--out",
        "-",
        "--state",
        "state",
        "--quiet",
    ];
    let finished = desk.promptmill_fed(&args, "{\"n\": 1}\n{\"n\": 2}\n").check_code(0);
    assert_eq!(finished.stdout.lines().count(), 2);
    assert_eq!(finished.stderr, "");
}

#[test]
fn bad_rows_are_all_found_before_the_first_call() {
    let doubles = Doubles::start(Config::default()).unwrap();
    let mut desk = Desk::with_rows(0);
    desk.point_at(&doubles);
    let mut rows: String = (0..200).map(|n| format!("{{\"n\": \"{n}\"}}\n")).collect();
    rows.push_str("{\"n\": 1}\n{\"m\": 1}\nnonsense\n");
    desk.write("rows.jsonl", &rows);
    let finished = desk
        .run("openai:any", &[])
        .check_code(2)
        .check_says("202 of 203 rows in rows.jsonl cannot be used; nothing was called");
    assert_eq!(finished.stderr.matches("\n  line ").count(), 100);
    assert!(finished.stderr.contains("line 1: n: "), "{}", finished.stderr);
    assert_eq!(doubles.ledger().totals().calls, 0);
    // The mended file runs without further ado.
    desk.write_rows(3);
    desk.run("openai:any", &[]).check_code(0);
}

#[test]
fn mistakes_are_answered_with_a_sentence_that_says_what_to_do() {
    let desk = Desk::with_rows(3);
    let template = desk.read("template.json");
    desk.run("openrouter:a/b", &[]).check_code(2).check_says("OPENROUTER_API_KEY is not set");
    desk.run("nobody:x", &[]).check_code(2).check_says("there is no provider \"nobody\"");
    desk.run("demo", &[]).check_code(2).check_says("PROVIDER:NAME");
    desk.run("demo:any", &["--resume"]).check_code(2).check_says("no run to resume");
    desk.run("demo:any", &["--concurrency", "0"]).check_code(2);
    desk.promptmill(&["run", "none.json", "--rows", "rows.jsonl", "--out", "o.jsonl"])
        .check_code(2)
        .check_says("none.json");
    desk.promptmill(&["run", "template.json", "--rows", "rows.txt", "--model", "demo:a", "--out", "o.jsonl"])
        .check_code(2);
    desk.promptmill(&["run", "template.json", "--rows", "rows.jsonl", "--model", "demo:a", "--out", "-"])
        .check_code(2)
        .check_says("--state DIR");
    desk.promptmill(&["run", "template.json", "--rows", "rows.jsonl", "--out", "o.jsonl"])
        .check_code(2)
        .check_says("--model");
    desk.write("template.json", &template.replace("{{ n }}", "{{ nn }}"));
    desk.run("demo:any", &[]).check_code(2).check_says("nn");
    desk.write("template.json", "{");
    desk.run("demo:any", &[]).check_code(2).check_says("template.json");
}

#[test]
fn an_unreachable_server_is_told_before_any_work() {
    let mut desk = Desk::with_rows(3);
    // A port that was free a moment ago: nothing listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    desk.set("OLLAMA_HOST", &format!("127.0.0.1:{port}"));
    desk.run("ollama:llama3.2", &[]).check_code(1).check_says("ollama cannot be reached; is it running?");
    assert!(!desk.path("out.jsonl.promptmill").exists());
}

#[test]
fn a_doomed_batch_stops_early_unless_told_otherwise() {
    for (plan, kind, words, first_calls) in [
        (Fault::UnknownModel, "model_unavailable", "all failed alike", 20..30),
        // What holds for every call of the credential is found out once, by those that began at the same time.
        (Fault::Unauthorized, "credential_refused", "takes no calls", 1..5),
    ] {
        let doubles = Doubles::start(Config { plan: FaultPlan::always(plan), ..Config::default() }).unwrap();
        let mut desk = Desk::with_rows(500);
        desk.point_at(&doubles);
        desk.run("openrouter:a/b", &["--concurrency", "4"]).check_code(5).check_says(words).check_says(kind);
        let calls = doubles.ledger().totals().calls;
        assert!(first_calls.contains(&calls), "{calls} calls");
        desk.run("openrouter:a/b", &["--resume", "--no-guard"]).check_code(3).check_says(kind);
        check_complete(&desk.outcomes(), 500);
        let repeated = if kind == "credential_refused" { calls } else { 0 };
        assert_eq!(doubles.ledger().totals().calls, 500 + repeated);
    }
}

#[test]
fn the_cost_limit_stops_the_batch_and_a_higher_one_lets_it_go_on() {
    let doubles = Doubles::start(Config::default()).unwrap();
    let mut desk = Desk::with_rows(200);
    desk.point_at(&doubles);
    desk.run("openrouter:a/b", &["--concurrency", "1", "--limit", "2"]).check_code(0);
    let per_call = doubles.ledger().totals().cost_pico / 2;
    assert!(per_call > 0, "the double reports cost");
    let max = promptmill_domain::Money::from_pico(per_call * 50).to_string();
    desk.run("openrouter:a/b", &["--fresh", "--concurrency", "4", "--max-cost", &max])
        .check_code(4)
        .check_says("the limit is reached");
    let calls = doubles.ledger().totals().calls - 2;
    assert!((40..=70).contains(&calls), "{calls} calls for a limit of about 50");
    assert_eq!(desk.outcomes().len() as u64, calls);
    desk.run("openrouter:a/b", &["--resume"]).check_code(0);
    check_all_succeeded(&desk.outcomes(), 200);
    assert_eq!(doubles.ledger().totals().calls - 2, 200);
}

#[test]
fn a_cost_that_is_not_reported_is_the_one_of_the_tokens_and_says_so() {
    let doubles = Doubles::start(Config::default()).unwrap();
    let mut desk = Desk::with_rows(5);
    desk.point_at(&doubles);
    desk.set("PROMPTMILL_PRICES", "openai:*=1/1,openai:m=2/3");
    desk.run("openai:m", &[]).check_code(0);
    for outcome in desk.outcomes() {
        let tokens = |of: &str| outcome["tokens"][of].as_u64().unwrap();
        let cost = tokens("prompt") * 2_000_000 + tokens("completion") * 3_000_000;
        assert!(cost > 0, "{outcome}");
        assert_eq!(outcome["cost"], promptmill_domain::Money::from_pico(cost).to_string(), "{outcome}");
        assert_eq!(outcome["flags"], serde_json::json!(["cost_estimated"]), "{outcome}");
    }
    desk.run("openrouter:a/b", &["--fresh"]).check_code(0);
    assert!(desk.outcomes().iter().all(|outcome| outcome["flags"] == serde_json::json!([])));
    desk.set("PROMPTMILL_PRICES", "openai:m=cheap");
    desk.run("openai:m", &["--fresh"]).check_code(1).check_says("write PROVIDER:NAME=PROMPT/REPLY");
}

#[test]
fn an_estimate_bounds_what_the_run_then_takes_and_calls_nothing() {
    let doubles = Doubles::start(Config::default()).unwrap();
    let mut desk = Desk::with_rows(40);
    desk.point_at(&doubles);
    desk.set("PROMPTMILL_PRICES", "openai:m=2/3");
    let told = desk.run("openai:m", &["--estimate"]).check_code(0).stdout;
    assert!(told.starts_with("40 rows would run on openai:m:\n"), "{told}");
    assert!(!desk.path("out.jsonl").exists() && doubles.ledger().totals().calls == 0);
    let numbers = |name: &str| -> Vec<f64> {
        let line = told.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().map(|number| number.parse().unwrap()).collect()
    };
    let (least, most) = (numbers("at least"), numbers("at most"));
    desk.run("openai:m", &[]).check_code(0);
    let outcomes = desk.outcomes();
    let sum = |of: &dyn Fn(&serde_json::Value) -> f64| outcomes.iter().map(of).sum::<f64>();
    let taken = [
        sum(&|outcome| outcome["calls"].as_f64().unwrap()),
        sum(&|outcome| outcome["tokens"]["prompt"].as_f64().unwrap()),
        sum(&|outcome| outcome["tokens"]["completion"].as_f64().unwrap()),
        sum(&|outcome| outcome["cost"].as_str().unwrap().parse().unwrap()),
    ];
    for ((least, most), taken) in least.iter().zip(&most).zip(taken) {
        assert!(*least <= taken && taken <= *most, "{taken} is not within {least} and {most}");
    }
    let told = desk.run("openai:other", &["--estimate"]).check_code(0).stdout;
    assert!(told.contains("No price of openai:other is known; PROMPTMILL_PRICES takes one."), "{told}");
}

#[test]
fn a_further_model_answers_what_the_first_one_does_not_and_a_resume_keeps_the_chain() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut desk = Desk::with_rows(30);
    desk.set("OPENAI_BASE_URL", &format!("http://{nobody}/v1"));
    desk.run("openai:away", &["--model", "demo:any"]).check_code(0);
    let outcomes = desk.outcomes();
    check_all_succeeded(&outcomes, 30);
    assert!(outcomes.iter().all(|outcome| outcome["model"] == "demo:any"), "{}", outcomes[0]);
    desk.run("openai:away", &["--model", "demo:other", "--resume"])
        .check_code(2)
        .check_says("the model changed since the run began");
}

#[test]
fn rows_that_ask_the_same_make_one_call_where_they_may_share_it() {
    let doubles = Doubles::start(Config::default()).unwrap();
    let mut desk = Desk::with_rows(1);
    desk.point_at(&doubles);
    let row = |row: u32| json!({"custom_id": format!("id-{row}"), "variables": {"n": row % 7}});
    let rows: String = (0..300).map(|n| format!("{}\n", row(n))).collect();
    desk.write("rows.jsonl", &rows);
    desk.run("openai:m", &["--cache"]).check_code(0).check_says("7 calls, 293 replies of the cache, ");
    let outcomes = desk.outcomes();
    check_all_succeeded(&outcomes, 300);
    assert_eq!(doubles.ledger().totals().calls, 7);
    for (row, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome["output"], outcomes[row % 7]["output"]);
    }
    let calls: u64 = outcomes.iter().map(|outcome| outcome["calls"].as_u64().unwrap()).sum();
    assert_eq!(calls, 7);
}

#[test]
fn limit_and_sample_choose_rows_and_a_seed_chooses_the_same_ones() {
    let desk = Desk::with_rows(100);
    desk.run("demo:any", &["--limit", "7"]).check_code(0);
    assert_eq!(desk.outcomes().len(), 7);
    let mut chosen = Vec::new();
    for _ in 0..2 {
        desk.run("demo:any", &["--fresh", "--sample", "9", "--seed", "5"]).check_code(0);
        let ids: Vec<String> =
            desk.outcomes().iter().map(|outcome| outcome["custom_id"].to_string()).collect();
        assert_eq!(ids.len(), 9);
        chosen.push(ids);
    }
    assert_eq!(chosen[0], chosen[1]);
}

#[test]
fn a_dry_run_shows_the_first_prompt_and_leaves_nothing_behind() {
    let desk = Desk::with_rows(3);
    let finished = desk.run("openrouter:a/b", &["--dry-run"]).check_code(0);
    assert!(finished.stdout.contains("Classify ticket [[row:0]]"), "{}", finished.stdout);
    assert!(finished.stdout.contains("3 rows are good; 3 would run"), "{}", finished.stdout);
    assert!(!desk.path("out.jsonl.promptmill").exists());
}

#[test]
fn a_finished_run_is_resumed_without_a_call_and_refuses_other_rows() {
    let doubles = Doubles::start(Config::default()).unwrap();
    let mut desk = Desk::with_rows(40);
    desk.point_at(&doubles);
    desk.run("openai:m", &[]).check_code(0);
    let (written, calls) = (desk.read("out.jsonl"), doubles.ledger().totals().calls);
    desk.run("openai:m", &[]).check_code(2).check_says("holds an earlier run");
    std::fs::remove_file(desk.path("out.jsonl")).unwrap();
    desk.run("openai:m", &["--resume"]).check_code(0);
    assert_eq!(desk.read("out.jsonl"), written);
    assert_eq!(doubles.ledger().totals().calls, calls);
    desk.run("openai:other", &["--resume"]).check_code(2).check_says("the model changed");
    desk.write_rows(41);
    desk.run("openai:m", &["--resume"]).check_code(2).check_says("the rows changed");
    desk.write("template.json", &desk.read("template.json").replace("Classify", "Sort"));
    desk.run("openai:m", &["--resume"]).check_code(2).check_says("the template and the rows changed");
}

#[test]
fn a_state_folder_must_be_ours_and_may_be_half_made() {
    let desk = Desk::with_rows(2);
    let state = desk.path("out.jsonl.promptmill");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("notes.txt"), "mine").unwrap();
    desk.run("demo:any", &[]).check_code(2).check_says("holds other files");
    desk.run("demo:any", &["--fresh"]).check_code(2).check_says("holds other files");
    assert!(state.join("notes.txt").exists());
    std::fs::remove_file(state.join("notes.txt")).unwrap();
    // What a run leaves that was killed before its database was there.
    std::fs::write(state.join("promptmill.lock"), "").unwrap();
    desk.run("demo:any", &[]).check_code(0);
}

#[test]
fn two_runs_cannot_share_a_state_folder() {
    let doubles =
        Doubles::start(Config { plan: FaultPlan::always(Fault::Hang), ..Config::default() }).unwrap();
    let mut desk = Desk::with_rows(2);
    desk.point_at(&doubles);
    let mut first = desk.start(&crate::support::run_args("openai:m", &[]));
    crate::support::wait_for("the first run calls", || doubles.ledger().totals().calls > 0);
    for more in [&["--resume"][..], &["--fresh"]] {
        desk.run("openai:m", more).check_code(1).check_says("cannot be opened");
    }
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn an_interrupt_stops_cleanly_and_a_resume_repeats_nothing() {
    let latency = "20..40".parse().unwrap();
    let doubles = Doubles::start(Config { latency, ..Config::default() }).unwrap();
    let mut desk = Desk::with_rows(400);
    desk.point_at(&doubles);
    let child = desk.start(&crate::support::run_args("openai:m", &["--concurrency", "8"]));
    crate::support::wait_for("some calls", || doubles.ledger().totals().calls > 60);
    crate::support::signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("--resume"), "{stderr}");
    assert!(!desk.path("out.jsonl").exists());
    desk.run("openai:m", &["--resume", "--concurrency", "32"]).check_code(0);
    check_all_succeeded(&desk.outcomes(), 400);
    assert_eq!(doubles.ledger().totals().calls, 400);
}

#[test]
fn init_writes_files_that_run_and_never_overwrites() {
    let desk = Desk::new();
    desk.promptmill(&["init", "start"]).check_code(0);
    desk.promptmill(&["init", "start"]).check_code(2).check_says("nothing was written");
    let run = [
        "run",
        "start/template.json",
        "--rows",
        "start/rows.csv",
        "--model",
        "demo:any",
        "--out",
        "results.csv",
    ];
    desk.promptmill(&run).check_code(0);
    let env = desk.read("start/.env");
    for variable in ["OPENROUTER_API_KEY", "OLLAMA_HOST", "OPENAI_BASE_URL", "PROMPTMILL_LOG"] {
        assert!(env.contains(variable), "{variable} is not documented in .env");
    }
}

#[test]
fn a_dotenv_file_is_read_and_the_environment_wins_over_it() {
    let doubles = Doubles::start(Config { openai_keys: vec!["good".into()], ..Config::default() }).unwrap();
    let mut desk = Desk::with_rows(2);
    desk.point_at(&doubles);
    desk.write(".env", "OPENAI_API_KEY=good\n");
    desk.run("openai:m", &[]).check_code(0);
    desk.set("OPENAI_API_KEY", "bad");
    desk.run("openai:m", &["--fresh"]).check_code(2).check_says("openai refuses the key");
}

#[test]
fn a_proxy_is_asked_for_a_tunnel_to_a_provider_behind_https() {
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut desk = Desk::new();
    desk.set("OPENAI_BASE_URL", "https://models.invalid/v1");
    desk.set("HTTPS_PROXY", &format!("http://ada:secret@{}", proxy.local_addr().unwrap()));
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = proxy.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
        let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
        stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").unwrap();
        head.join("\n").to_ascii_lowercase()
    });
    let finished = desk
        .promptmill(&["models", "openai"])
        .check_code(1)
        .check_says("the provider cannot be connected to");
    let head = asked.join().unwrap();
    assert!(head.starts_with("connect models.invalid:443 http/1.1\n"), "{head}");
    assert!(head.contains("\nuser-agent: promptmill/"), "{head}");
    // RFC 7617: ada:secret
    assert!(head.contains("\nproxy-authorization: basic ywrhonnly3jlda=="), "{head}");
    assert!(!finished.stderr.contains("secret"), "{}", finished.stderr);
}

#[test]
fn a_provider_behind_a_proxy_is_called_through_it_and_one_on_this_machine_is_not() {
    let doubles = Doubles::start(Config::default()).unwrap();
    let here = doubles.base_url(Provider::OpenAi);
    let (proxy, path) = here.split_at("http://".len() + here["http://".len()..].find('/').unwrap());
    let mut desk = Desk::with_rows(20);
    // Nobody answers for this name but the proxy.
    desk.set("OPENAI_BASE_URL", &format!("http://models.invalid{path}"));
    desk.set("HTTP_PROXY", proxy);
    desk.run("openai:m", &[]).check_code(0).check_says("20 succeeded");
    check_all_succeeded(&desk.outcomes(), 20);

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    desk.set("HTTP_PROXY", &format!("http://{nobody}"));
    desk.set("OPENAI_BASE_URL", &here);
    desk.promptmill(&["models", "openai"]).check_code(0);
    desk.set("OPENAI_BASE_URL", &format!("http://models.invalid{path}"));
    desk.set("NO_PROXY", "models.invalid");
    desk.promptmill(&["models", "openai"]).check_code(1).check_says("host name cannot be resolved");
}

#[test]
fn models_are_listed_with_prices_and_context() {
    let doubles = Doubles::start(Config::default()).unwrap();
    let mut desk = Desk::new();
    desk.point_at(&doubles);
    let finished = desk.promptmill(&["models", "openrouter", "--json"]).check_code(0);
    let first: Value = serde_json::from_str(finished.stdout.lines().next().unwrap()).unwrap();
    assert!(
        first["id"].is_string() && first["context_length"].is_u64() && first["prompt_price"].is_string(),
        "{first}"
    );
    desk.promptmill(&["models", "ollama"]).check_code(0);
    desk.promptmill(&["models", "nobody"]).check_code(2).check_says("there is no provider");
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let finished = Desk::new().promptmill(&["completions", shell]).check_code(0);
        assert!(finished.stdout.contains("promptmill"));
    }
}

#[test]
fn keys_prompts_and_replies_never_reach_the_log() {
    let doubles = Doubles::start(Config { plan: FaultPlan::standard(), ..Config::default() }).unwrap();
    let mut desk = Desk::with_rows(50);
    desk.point_at(&doubles);
    desk.set("OPENROUTER_API_KEY", "sk-or-canary-1234567890");
    desk.set("PROMPTMILL_LOG", "trace");
    let finished = desk.run("openrouter:a/b", &[]).check_code(0);
    let outcomes = desk.outcomes();
    for secret in ["canary", "Classify ticket", outcomes[0]["output"]["summary"].as_str().unwrap()] {
        assert!(!finished.stderr.contains(secret), "{secret:?} is in the log");
    }
}

#[test]
fn the_examples_of_the_repository_run_and_the_one_of_the_readme_succeeds() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../templates");
    for (name, rows, all_succeed) in [
        ("product-descriptions", "rows.csv", true),
        ("ticket-classification", "rows.jsonl", false),
        ("translate-russian", "rows.jsonl", false),
    ] {
        let desk = Desk::new();
        let (template, rows) =
            (format!("{examples}/{name}/template.json"), format!("{examples}/{name}/{rows}"));
        let finished = desk.promptmill(&[
            "run",
            &template,
            "--rows",
            &rows,
            "--model",
            "demo:any",
            "--out",
            "out.jsonl",
        ]);
        let outcomes = desk.outcomes();
        assert!(outcomes.len() >= 15, "{name}: {}", outcomes.len());
        let succeeded = outcomes.iter().filter(|outcome| outcome["outcome"] == "succeeded").count();
        // The demo knows the schema and not the rules, so a rule may stay broken after every repair.
        assert!(succeeded * 2 > outcomes.len(), "{name}: {succeeded} of {}", outcomes.len());
        let expected = if succeeded == outcomes.len() { 0 } else { 3 };
        let finished = finished.check_code(expected);
        assert!(!all_succeed || expected == 0, "{name}: {}", finished.stderr);
    }
}

#[test]
fn a_batch_of_one_row_and_a_batch_whose_every_item_fails_end_as_such() {
    let desk = Desk::with_rows(1);
    desk.run("demo:any", &[]).check_code(0).check_says("1 of 1 rows");
    let doubles =
        Doubles::start(Config { plan: FaultPlan::always(Fault::StubbornReply), ..Config::default() })
            .unwrap();
    let mut desk = Desk::with_rows(30);
    desk.point_at(&doubles);
    desk.run("openai:m", &[]).check_code(3).check_says("30 invalid_output");
    for outcome in desk.outcomes() {
        assert_eq!(
            (&outcome["calls"], &outcome["attempts"]),
            (&json!(3), &json!(1)),
            "two repairs, then no more"
        );
    }
}
