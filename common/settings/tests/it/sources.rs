//! Where values come from, what goes before what, and what is said of mistakes.

use std::collections::HashMap;
use std::path::Path;

use clap::{Arg, Command, value_parser};
use promptmill_settings::{Settings, config_argument, config_of};
use tempfile::TempDir;

/// A folder with a file of settings, and an environment.
pub(crate) struct Desk {
    folder: TempDir,
    environment: HashMap<String, String>,
}

impl Desk {
    pub(crate) fn of(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.toml"), config).unwrap();
        Self { folder, environment: HashMap::new() }
    }

    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.path(name), text).unwrap();
        self
    }

    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn load(&self) -> Settings {
        self.try_load().unwrap_or_else(|complaints| panic!("{complaints:?}"))
    }

    /// The settings, or what is wrong with the folder's name cut off.
    fn try_load(&self) -> Result<Settings, Vec<String>> {
        let config = self.path("p.toml");
        let read = |name: &str| self.environment.get(name).cloned();
        let loaded = Settings::load(Some(Path::new(&config)), read, &command());
        loaded.map_err(|error| self.without_folder(&error.to_string()))
    }

    fn without_folder(&self, text: &str) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        text.replace(&folder, "").lines().map(str::to_owned).collect()
    }
}

/// A few of the arguments that roles have.
pub(crate) fn command() -> Command {
    let number = |name: &'static str, env: &'static str| {
        Arg::new(name).long(name).env(env).value_parser(value_parser!(u32).range(1..=10_000))
    };
    Command::new("promptmill").arg(config_argument()).subcommand(
        Command::new("worker")
            .arg(
                number("concurrency", "PROMPTMILL_CONCURRENCY")
                    .default_value("64")
                    .help("Calls at the same time."),
            )
            .arg(
                Arg::new("mongo-url")
                    .long("mongo-url")
                    .env("PROMPTMILL_MONGO_URL")
                    .required(true)
                    .help("MongoDB."),
            )
            .arg(
                number("weights", "PROMPTMILL_WEIGHTS")
                    .value_parser(value_parser!(String))
                    .value_delimiter(','),
            ),
    )
}

fn concurrency(settings: &Settings, arguments: &[&str]) -> u32 {
    let matches = settings.onto(command()).try_get_matches_from(arguments).unwrap();
    *matches.subcommand().unwrap().1.get_one("concurrency").unwrap()
}

#[test]
fn an_argument_goes_before_the_environment_that_before_the_file_and_that_before_the_default() {
    let nothing = Desk::of("mongo.url = \"m\"").load();
    assert_eq!(concurrency(&nothing, &["p", "worker"]), 64);
    let desk = Desk::of("mongo.url = \"m\"\n[worker]\nconcurrency = 7");
    assert_eq!(concurrency(&desk.load(), &["p", "worker"]), 7);
    assert_eq!(concurrency(&desk.load(), &["p", "worker", "--concurrency", "9"]), 9);
    let desk = desk.set("PROMPTMILL_CONCURRENCY", "8");
    assert_eq!(desk.load().get("PROMPTMILL_CONCURRENCY").as_deref(), Some("8"));
    // The variable itself is clap's to read, which takes it before any default.
    assert_eq!(concurrency(&desk.load(), &["p", "worker", "--concurrency", "9"]), 9);
    let empty = Desk::of("worker.concurrency = 7\nmongo.url = \"m\"").set("PROMPTMILL_CONCURRENCY", "");
    assert_eq!(concurrency(&empty.load(), &["p", "worker"]), 7, "what is empty is not set");
}

#[test]
fn what_is_required_may_stand_in_the_file_and_lists_and_shares_are_taken_apart() {
    let desk = Desk::of("mongo.url = \"mongodb://h\"\ntenants.weights = { b = 2, acme = 3 }");
    let matches = desk.load().onto(command()).try_get_matches_from(["p", "worker"]).unwrap();
    let worker = matches.subcommand().unwrap().1;
    assert_eq!(worker.get_one::<String>("mongo-url").unwrap(), "mongodb://h");
    let mut weights: Vec<_> = worker.get_many::<String>("weights").unwrap().cloned().collect();
    weights.sort();
    assert_eq!(weights, ["acme=3", "b=2"]);
    let desk = Desk::of("webhooks.subnets = [\"10.0.0.0/8\", \"fd00::/8\"]\nlog_json = true");
    assert_eq!(desk.load().get("PROMPTMILL_WEBHOOK_SUBNETS").as_deref(), Some("10.0.0.0/8,fd00::/8"));
    assert!(desk.load().is_on("PROMPTMILL_LOG_JSON"));
    let nothing = Desk::of("webhooks.subnets = []\ntenants.weights = {}").load();
    assert!(nothing.value("PROMPTMILL_WEBHOOK_SUBNETS").or(nothing.value("PROMPTMILL_WEIGHTS")).is_none());
}

#[test]
fn a_secret_may_stand_in_a_file_of_its_own_without_its_last_line_end() {
    let desk = Desk::of("[mongo]\nurl_file = \"secrets-url\"").file("secrets-url", "mongodb://u:p@h/\n");
    assert_eq!(desk.load().get("PROMPTMILL_MONGO_URL").as_deref(), Some("mongodb://u:p@h/"));
    // Who takes the name of the file for the secret does not find it in an error, and the environment goes before a file that is not there.
    let mistaken = Desk::of("mongo.url_file = \"mongodb://u:very-secret@h\"");
    assert!(!format!("{:?}", mistaken.try_load().unwrap_err()).contains("very-secret"));
    let mistaken = mistaken.set("PROMPTMILL_MONGO_URL_FILE", "mongodb://u:very-secret@h");
    assert!(!format!("{:?}", mistaken.try_load().unwrap_err()).contains("very-secret"));
    let gone = Desk::of("mongo.url_file = \"gone\"").set("PROMPTMILL_MONGO_URL", "mongodb://h");
    assert_eq!(gone.load().get("PROMPTMILL_MONGO_URL").as_deref(), Some("mongodb://h"));
    let desk = desk.file("other", "mongodb://other");
    let other = desk.path("other");
    let desk = desk.set("PROMPTMILL_MONGO_URL_FILE", &other);
    assert_eq!(desk.load().get("PROMPTMILL_MONGO_URL").as_deref(), Some("mongodb://other"));
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_line() {
    let desk = Desk::of(
        "listen = \"127.0.0.1:1\"\n\
         metrics_listen = \"127.0.0.1:1\"\n\
         wurst = 1\n\
         [worker]\n\
         concurency = 3\n\
         concurrency = \"3\"\n\
         [mongo]\n\
         url = \"mongodb://u:very-secret@h\"\n\
         url_file = \"nowhere\"\n\
         database = [1]\n\
         [redis]\n\
         url_file = \"nowhere\"\n\
         [tenants]\n\
         weights = 3\n\
         [mongodb]\n\
         [providers.openrouter]\n\
         api_key_file = \"empty\"\n",
    )
    .file("empty", "\n")
    .set("OPENAI_API_KEY", "one")
    .set("OPENAI_API_KEY_FILE", "two");
    assert_eq!(
        desk.try_load().unwrap_err(),
        [
            "p.toml:2: metrics_listen must be another address than listen, which is 127.0.0.1:1 too",
            "p.toml:3: there is no setting wurst",
            "p.toml:5: there is no setting worker.concurency; is worker.concurrency meant?",
            "p.toml:6: worker.concurrency must be a whole number without quotes",
            "p.toml:9: mongo.url_file says again what line 8 says in another way; leave one of them out",
            "p.toml:10: mongo.database must be a text in quotes",
            "p.toml:12: the file of redis.url_file cannot be read: No such file or directory (os error 2)",
            "p.toml:14: tenants.weights must be a table of whole numbers, for example { acme = 3 }",
            "p.toml:15: there is no setting mongodb; is mongo meant?",
            "p.toml:17: the file of providers.openrouter.api_key_file is empty",
            "OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set; leave one of them out",
        ]
    );
}

#[test]
fn a_value_that_its_argument_does_not_take_is_told_with_its_line_and_no_secret_is_shown() {
    let desk = Desk::of("# calls\n\nworker.concurrency = 0");
    let why = "0 is not in 1..=10000";
    assert_eq!(
        desk.try_load().unwrap_err(),
        [format!("p.toml:3: worker.concurrency cannot be \"0\": {why}")]
    );
    let desk = Desk::of("").set("PROMPTMILL_CONCURRENCY", "many");
    let why = "invalid digit found in string";
    assert_eq!(desk.try_load().unwrap_err(), [format!("PROMPTMILL_CONCURRENCY: cannot be \"many\": {why}")]);
    for config in
        ["mongo.url = \"very-secret", "mongo.url = very-secret", "[mongo]\nurl = 'very-secret'\nurl = 'x'"]
    {
        let complaints = Desk::of(config).try_load().unwrap_err();
        assert!(complaints.len() == 1 && complaints[0].starts_with("p.toml:"), "{complaints:?}");
        assert!(!complaints[0].contains("very-secret"), "{complaints:?}");
    }
    let settings = Desk::of("mongo.url = \"very-secret\"").load();
    assert!(!format!("{settings:?}").contains("very-secret"));
}

#[test]
fn files_that_are_missing_too_large_or_no_text_are_refused_with_their_name() {
    let missing =
        Settings::load(Some(Path::new("/no/such.toml")), |_| None, &command()).unwrap_err().to_string();
    assert_eq!(
        missing,
        "the settings file /no/such.toml cannot be read: No such file or directory (os error 2)"
    );
    let desk = Desk::of("mongo.url_file = \"large\"").file("large", &"x".repeat(65_537));
    assert_eq!(
        desk.try_load().unwrap_err(),
        ["p.toml:1: the file of mongo.url_file is larger than 65536 bytes"]
    );
    let desk = Desk::of("mongo.url_file = \"bytes\"");
    std::fs::write(desk.path("bytes"), [0xff, 0xfe]).unwrap();
    assert_eq!(desk.try_load().unwrap_err(), ["p.toml:1: the file of mongo.url_file is not UTF-8"]);
    let endless = Settings::load(Some(Path::new("/dev/zero")), |_| None, &command()).unwrap_err().to_string();
    assert!(endless.contains("is larger than"), "{endless}");
}

#[test]
fn the_file_is_found_in_the_arguments_whatever_else_is_wrong_with_them() {
    let found = |arguments: &[&str]| config_of(arguments.iter().map(Into::into));
    assert_eq!(found(&["p", "worker", "--config", "a.toml"]).unwrap(), Path::new("a.toml"));
    assert_eq!(found(&["p", "--config=a.toml", "worker"]).unwrap(), Path::new("a.toml"));
    assert_eq!(
        found(&["p", "worker", "--concurrency", "none", "--config", "a.toml"]).unwrap(),
        Path::new("a.toml")
    );
    assert_eq!(found(&["p", "worker"]), None);
    assert_eq!(found(&["p", "worker", "--", "--config", "a.toml"]), None);
    let desk = Desk::of("worker.concurrency = 5");
    let path = desk.path("p.toml");
    let named =
        Settings::load(None, |name| (name == "PROMPTMILL_CONFIG").then(|| path.clone()), &command()).unwrap();
    assert_eq!(named.get("PROMPTMILL_CONCURRENCY").as_deref(), Some("5"));
}
