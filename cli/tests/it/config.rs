//! Settings from a file: what is said of them, and that every command goes by them.

use std::path::Path;

use promptmill_doubles::{Config, Doubles, Provider};

use crate::server::Server;
use crate::support::Desk;

#[test]
fn health_asks_the_process_that_the_settings_describe() {
    let desk = Desk::new();
    let mut said = desk.promptmill(&["health", "--metrics-listen", "127.0.0.1:1"]).check_code(1).stderr;
    assert!(said.contains("http://127.0.0.1:1/livez gives no answer"), "{said}");
    let server = Server::first(&desk);
    let address = server.metrics_url.strip_prefix("http://").unwrap();
    desk.write(
        "promptmill.toml",
        &format!("metrics_listen = \"{}\"\n", address.replacen("127.0.0.1", "0.0.0.0", 1)),
    );
    desk.promptmill(&["health"]).check_code(0);
    desk.promptmill(&["health", "--ready"]).check_code(0);
    server.kill();
    said = desk.promptmill(&["health"]).check_code(1).stderr;
    assert!(said.contains("/livez gives no answer"), "{said}");
}

/// The page with the reference, and the marks around what the program says.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
const MARKS: [&str; 2] = ["<!-- settings -->\n", "<!-- end of settings -->\n"];

#[test]
fn the_reference_page_has_every_setting_as_the_program_tells_it() {
    let page = std::fs::read_to_string(Path::new(PAGE)).unwrap();
    let (_, behind) = page.split_once(MARKS[0]).unwrap();
    let (table, _) = behind.split_once(MARKS[1]).unwrap();
    let told = Desk::new().promptmill(&["config", "reference"]).check_code(0).stdout;
    assert_eq!(table, told, "put the output of `promptmill config reference` between the marks of {PAGE}");
}

#[test]
fn the_example_of_an_environment_has_every_setting() {
    let example = include_str!("../../../.env.example");
    for setting in promptmill_settings::SETTINGS {
        assert!(example.contains(&format!("# {}=", setting.env)), "{} is not in .env.example", setting.env);
    }
}

#[test]
fn mistakes_in_the_file_keep_every_command_from_beginning_and_are_all_told_with_their_lines() {
    let desk = Desk::with_rows(1);
    desk.write(
        "promptmill.toml",
        "[worker]\nconcurrency = 0\n[tenants]\nweights = { acme = 3, \"no tenant\" = 2 }\n[mongodb]\nurl = \"x\"\n",
    );
    let told = [
        "error: promptmill.toml:2: worker.concurrency cannot be \"0\": 0 is not in 1..=10000",
        "error: promptmill.toml:4: tenants.weights cannot be \"acme=3,no tenant=2\": ",
        "error: promptmill.toml:5: there is no setting mongodb; is mongo meant?",
    ];
    for args in [
        &["config", "check"][..],
        &["serve"],
        &["worker"],
        &["run", "template.json", "--rows", "rows.jsonl", "--out", "o"],
    ] {
        let finished = desk.promptmill(args).check_code(2);
        let lines: Vec<_> = finished.stderr.lines().collect();
        assert_eq!(lines.len(), told.len(), "{}", finished.stderr);
        for (line, told) in lines.iter().zip(told) {
            assert!(line.starts_with(told), "{line}");
        }
    }
    desk.promptmill(&["serve", "--help"]).check_code(0);
    desk.promptmill(&["--config", "/no/such.toml", "config", "check"])
        .check_code(2)
        .check_says("/no/such.toml cannot be read");
}

#[test]
fn check_says_what_no_start_would_say_and_what_a_role_still_needs() {
    let mut desk = Desk::new();
    desk.write("p.toml", "master_key = \"nonsense-of-mine\"\n[providers.ollama]\nhost = \"what is this\"\n");
    desk.set("PROMPTMILL_CONFIG", "p.toml");
    desk.set("PROMPTMILL_CONCURENCY", "3");
    let said = desk.promptmill(&["config", "check", "worker", "api"]).check_code(2).stderr;
    for sentence in [
        "error: there is no variable PROMPTMILL_CONCURENCY; is PROMPTMILL_CONCURRENCY meant?\n",
        "error: p.toml:3: providers.ollama.host is wrong: ",
        "error: p.toml:1: master_key cannot be used: ",
        "error: worker needs mongo.url (PROMPTMILL_MONGO_URL)\n",
        "error: api needs redis.url (PROMPTMILL_REDIS_URL)\n",
    ] {
        assert!(said.contains(sentence), "{sentence} is not in\n{said}");
    }
    assert!(!said.contains("nonsense-of-mine"), "{said}");
    desk.write("p.toml", "[worker]\nconcurrency = 3\n");
    let mut desk = desk;
    desk.set("PROMPTMILL_CONCURENCY", "");
    let said = desk.promptmill(&["config", "check", "serve"]).check_code(2).stderr;
    assert!(said.contains("PROMPTMILL_CONCURENCY"), "what is set to nothing is a mistake as well: {said}");
}

#[test]
fn show_prints_what_is_in_force_with_its_source_and_hides_secrets() {
    let mut desk = Desk::new();
    desk.write("promptmill.toml", "[worker]\nconcurrency = 3\n[mongo]\nurl_file = \"url\"\n");
    desk.write("url", "mongodb://u:very-secret@h\n");
    desk.set("PROMPTMILL_RUNNING_BATCHES", "7");
    desk.set("OPENROUTER_API_KEY", "very-secret-too");
    let shown = desk.promptmill(&["config", "show"]).check_code(0).stdout;
    for line in [
        "concurrency = 3  # promptmill.toml:2",
        "url = \"(hidden)\"  # promptmill.toml:4: url",
        "running_batches = 7  # PROMPTMILL_RUNNING_BATCHES",
        "api_key = \"(hidden)\"  # OPENROUTER_API_KEY",
        "listen = \"127.0.0.1:8080\"  # default",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    assert!(!shown.contains("very-secret"), "{shown}");
}

#[test]
fn a_run_and_a_service_take_their_settings_from_the_file_and_their_arguments_go_before_it() {
    let doubles = Doubles::start(Config { openai_keys: vec!["good".into()], ..Config::default() }).unwrap();
    let desk = Desk::with_rows(2);
    let url = doubles.base_url(Provider::OpenAi);
    desk.write("key", "good\n");
    desk.write(
        "promptmill.toml",
        &format!("listen = \"127.0.0.1:0\"\nmetrics_listen = \"127.0.0.1:0\"\ndata = \"elsewhere\"\n[providers.openai]\nbase_url = {url:?}\napi_key_file = \"key\"\n"),
    );
    desk.run("openai:m", &[]).check_code(0);
    let server = Server::start_as_configured(&desk, &[]);
    assert!(desk.path("elsewhere").is_dir());
    drop(server);
    let server = Server::start_as_configured(&desk, &["--data", "there"]);
    assert!(desk.path("there").is_dir());
    drop(server);
}
