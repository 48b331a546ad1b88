//! What is told of settings.

use promptmill_settings::{reference, shown, strange_variables, unset};

use crate::sources::{Desk, command};

fn worker() -> clap::Command {
    command().find_subcommand("worker").unwrap().clone()
}

#[test]
fn what_is_in_force_is_a_file_of_settings_that_hides_secrets_and_says_where_each_comes_from() {
    let desk = Desk::of("[worker]\nconcurrency = 7\n[mongo]\nurl = \"mongodb://u:very-secret@h\"\n[tenants]\nweights = { acme = 3 }")
        .set("PROMPTMILL_LOG", "a \"b\" \\c")
        .set("PROMPTMILL_WEBHOOK_SUBNETS", "10.0.0.0/8,fd00::/8");
    let text = shown(&desk.load(), &[worker()]);
    assert!(!text.contains("very-secret"), "{text}");
    let config = desk.path("p.toml");
    for line in [
        format!("concurrency = 7  # {config}:2"),
        format!("url = \"(hidden)\"  # {config}:4"),
        format!("weights = {{ acme = 3 }}  # {config}:6"),
        r#"log = "a \"b\" \\c"  # PROMPTMILL_LOG"#.to_owned(),
        r#"subnets = ["10.0.0.0/8", "fd00::/8"]  # PROMPTMILL_WEBHOOK_SUBNETS"#.to_owned(),
        "# listen is not set".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let again = Desk::of(&text).load();
    for env in
        ["PROMPTMILL_CONCURRENCY", "PROMPTMILL_LOG", "PROMPTMILL_WEIGHTS", "PROMPTMILL_WEBHOOK_SUBNETS"]
    {
        assert_eq!(again.get(env), desk.load().get(env), "{env}");
    }
    let defaults = shown(&Desk::of("").load(), &[worker()]);
    assert!(defaults.contains("\nconcurrency = 64  # default\n"), "{defaults}");
}

#[test]
fn what_a_role_needs_and_nobody_said_is_told() {
    assert_eq!(unset(&Desk::of("").load(), &worker()), ["worker needs mongo.url (PROMPTMILL_MONGO_URL)"]);
    assert!(unset(&Desk::of("mongo.url = \"m\"").load(), &worker()).is_empty());
}

#[test]
fn variables_that_look_like_ours_and_mean_nothing_are_told() {
    let names = ["PATH", "PROMPTMILL_CONFIG", "PROMPTMILL_MONGO_URL_FILE", "PROMPTMILL_CONCURRENCY"];
    assert!(strange_variables(names.map(str::to_owned)).is_empty());
    let names = ["PROMPTMILL_CONCURENCY", "PROMPTMILL_DATA_FILE", "PROMPTMILL_ZZZZZ"];
    assert_eq!(
        strange_variables(names.map(str::to_owned)),
        [
            "there is no variable PROMPTMILL_CONCURENCY; is PROMPTMILL_CONCURRENCY meant?",
            "there is no variable PROMPTMILL_DATA_FILE",
            "there is no variable PROMPTMILL_ZZZZZ",
        ]
    );
}

#[test]
fn the_reference_has_a_line_for_each_setting_with_what_the_role_says_of_it() {
    let page = reference(&[worker()]);
    assert!(
        page.contains(
            "| `worker.concurrency` | `PROMPTMILL_CONCURRENCY` | worker | `64` | Calls at the same time |"
        ),
        "{page}"
    );
    let secret =
        "| `mongo.url`, `url_file` | `PROMPTMILL_MONGO_URL`, `..._FILE` | worker | required | MongoDB |";
    assert!(page.contains(secret), "{page}");
    assert_eq!(page.lines().count(), promptmill_settings::SETTINGS.len() + 2);
}
