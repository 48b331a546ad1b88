//! What the doctor says of set-ups that are broken, each in its own way, on real servers.

use std::net::TcpListener;

use bson::doc;
use promptmill_doubles::{Config, Doubles, Provider};
use promptmill_test_servers::{MongoServer, RedisServer, free_port};

use crate::support::{Desk, Finished};

/// A desk with everything that a fleet needs.
struct Clinic {
    mongo: MongoServer,
    redis: RedisServer,
}

impl Clinic {
    fn open() -> Self {
        Self { mongo: MongoServer::start(), redis: RedisServer::start() }
    }

    /// The settings of a healthy fleet.
    fn desk(&self) -> Desk {
        let mut desk = Desk::new();
        desk.set("PROMPTMILL_MONGO_URL", &self.mongo.uri());
        desk.set("PROMPTMILL_REDIS_URL", &self.redis.url());
        desk.set("PROMPTMILL_MASTER_KEY", &format!("k1:{}=", "A".repeat(43)));
        desk
    }

    /// The same with one setting that is another.
    fn desk_with(&self, variable: &str, value: &str) -> Desk {
        let mut desk = self.desk();
        desk.set(variable, value);
        desk
    }
}

/// What was found wrong, but for the machine that the tests run on: how full its disk is, is its own affair.
fn wrong(finished: &Finished) -> Vec<&str> {
    let wrong = finished.stdout.lines().filter(|line| line.starts_with("wrong  "));
    wrong.filter(|line| !line.starts_with("wrong  the disk of MongoDB is ")).collect()
}

/// Nothing is wrong.
#[track_caller]
fn check_healthy(finished: &Finished) {
    assert!(wrong(finished).is_empty(), "{finished:?}");
    let disk_is_full = finished.stdout.contains("wrong  the disk of MongoDB is ");
    assert_eq!(finished.code, Some(i32::from(disk_is_full)), "{finished:?}");
}

/// Exactly this is wrong, and it is said in one sentence that holds both: what is wrong, and what mends it.
#[track_caller]
fn check_wrong(finished: &Finished, what: &str, mend: &str) {
    let wrong = wrong(finished);
    assert_eq!((finished.code, wrong.len()), (Some(1), 1), "{finished:?}");
    assert!(wrong[0].contains(what) && wrong[0].contains(mend), "{}", wrong[0]);
    assert!(!finished.stdout.contains("s3cret"), "{finished:?}");
}

#[test]
fn a_healthy_fleet_is_told_to_be_one_and_nothing_of_the_look_stays_behind() {
    let clinic = Clinic::open();
    let doubles = Doubles::start(Config::default()).unwrap();
    let mut desk = clinic.desk();
    desk.set("OPENAI_BASE_URL", &doubles.base_url(Provider::OpenAi));
    let finished = desk.promptmill(&["doctor"]);
    check_healthy(&finished);
    for sentence in [
        "good   the master key can be used\n",
        "good   MongoDB is 6.0.5 (tested with 6.0.5)\n",
        "note   the replica set rs0 has one member",
        "good   the clock of MongoDB and this machine's agree\n",
        "good   a write to promptmill is in the journals of a majority after ",
        "the disk of MongoDB is ",
        "good   Redis is 7.",
        "good   Redis keeps every key (maxmemory-policy noeviction)\n",
        "good   the clock of Redis and this machine's agree\n",
        "good   Redis lets us do all that a hub does\n",
        "good   openai answers and has ",
    ] {
        assert!(finished.stdout.contains(sentence), "{sentence} is not in\n{}", finished.stdout);
    }
    let left = clinic.mongo.command("promptmill", doc! { "count": "meta" });
    assert_eq!(left.get_i32("n").unwrap(), 0, "{left}");
    let json = desk.promptmill(&["doctor", "--json"]).stdout;
    assert_eq!(json.lines().count(), finished.stdout.lines().count());
    for line in json.lines() {
        let finding: serde_json::Value = serde_json::from_str(line).unwrap();
        let sentence = finding["sentence"].as_str().unwrap();
        let is_wrong = finding["verdict"] == "wrong";
        assert!(!is_wrong || sentence.starts_with("the disk of MongoDB is "), "{line}");
    }
}

#[test]
fn a_redis_that_is_away_locked_forgetful_a_replica_or_strict_is_told_with_what_mends_it() {
    let clinic = Clinic::open();
    let redis = |url: &str| clinic.desk_with("PROMPTMILL_REDIS_URL", url).promptmill(&["doctor"]);
    check_wrong(
        &redis(&format!("redis://127.0.0.1:{}", free_port())),
        "Redis does not answer",
        "start it, or mend redis.url",
    );
    check_wrong(&redis("http://somewhere"), "the URL of Redis must begin with redis://", "mend redis.url");

    let url = clinic.redis.url();
    clinic.redis.command(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]);
    check_wrong(&redis(&url), "Redis drops keys", "set maxmemory-policy to noeviction");
    clinic.redis.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);

    let replica = RedisServer::start();
    replica.command(&["REPLICAOF", "127.0.0.1", &clinic.redis.port().to_string()]);
    check_wrong(&redis(&replica.url()), "Redis is a replica", "name the master in redis.url");

    clinic.redis.command(&[
        "ACL",
        "SETUSER",
        "hub",
        "on",
        ">s3cret",
        "~*",
        "&*",
        "+@all",
        "-publish",
        "-bzpopmin",
        "-subscribe",
        "-evalsha",
    ]);
    let as_user = |user: &str, password: &str| url.replacen("//", &format!("//{user}:{password}@"), 1);
    check_wrong(
        &redis(&as_user("hub", "s3cret")),
        "may not call EVALSHA, BZPOPMIN, PUBLISH, SUBSCRIBE",
        "allow it",
    );
    check_wrong(&redis(&as_user("hub", "wrong")), "Redis refuses the user or the password", "mend them");
    clinic.redis.command(&["ACL", "SETUSER", "default", "resetpass", ">s3cret"]);
    check_wrong(&redis(&url), "Redis wants a password", "redis://:PASSWORD@HOST:PORT");
}

#[test]
fn a_mongodb_that_is_away_alone_locked_read_only_or_newer_is_told_with_what_mends_it() {
    let mut clinic = Clinic::open();
    let mongo =
        |clinic: &Clinic, url: &str| clinic.desk_with("PROMPTMILL_MONGO_URL", url).promptmill(&["doctor"]);
    let away = format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", free_port());
    check_wrong(
        &mongo(&clinic, &away),
        "no MongoDB server answers at 127.0.0.1:",
        "start it, or mend mongo.url",
    );
    check_wrong(
        &mongo(&clinic, "mongodb://me:s3cret@"),
        "the MongoDB URL cannot be used",
        "it reads mongodb://",
    );

    let uri = clinic.mongo.uri();
    clinic.mongo.command(
        "promptmill",
        doc! { "insert": "meta", "documents": [{ "_id": "schema", "version": 99_i64 }] },
    );
    check_wrong(&mongo(&clinic, &uri), "is of a newer promptmill (schema 99", "use a newer promptmill");

    let alone = MongoServer::start_alone();
    for more in ["", "?replicaSet=rs0"] {
        let url = format!("mongodb://127.0.0.1:{}/{more}", alone.port());
        check_wrong(&mongo(&clinic, &url), "no member of a replica set", "start it with --replSet");
    }
    let misnamed = uri.replace("rs0", "rs1");
    check_wrong(&mongo(&clinic, &misnamed), "is rs0, and not rs1", "mend replicaSet= in mongo.url");
    drop(alone);

    clinic.mongo = MongoServer::start_guarded();
    let [reader, writer, wrong] = [("reader", "secret"), ("writer", "secret"), ("writer", "s3cret")]
        .map(|(user, password)| clinic.mongo.uri_of(user, password));
    check_healthy(&mongo(&clinic, &writer));
    check_wrong(&mongo(&clinic, &reader), "may not write to the database promptmill", "the role readWrite");
    check_wrong(&mongo(&clinic, &wrong), "MongoDB refuses the user or the password", "mend them");
    check_wrong(&mongo(&clinic, &clinic.mongo.uri()), "MongoDB wants a user", "put it into mongo.url");
}

#[test]
fn a_machine_with_few_files_a_folder_that_cannot_be_written_and_mistakes_in_settings_are_told() {
    let desk = Desk::new();
    let few = desk.shell(&format!("ulimit -n 512; exec {} doctor", env!("CARGO_BIN_EXE_promptmill")));
    check_wrong(&few, "a process may have 512 files open", "raise it");
    for (variable, value, what, mend) in [
        (
            "PROMPTMILL_DATA",
            "/proc/promptmill",
            "nothing can be written to /proc/promptmill",
            "let this user own the folder",
        ),
        (
            "PROMPTMILL_CONCURENCY",
            "3",
            "there is no variable PROMPTMILL_CONCURENCY",
            "is PROMPTMILL_CONCURRENCY meant?",
        ),
        (
            "PROMPTMILL_MASTER_KEY",
            "s3cret",
            "PROMPTMILL_MASTER_KEY: cannot be used",
            "openssl rand -base64 32",
        ),
    ] {
        let mut desk = Desk::new();
        desk.set(variable, value);
        check_wrong(&desk.promptmill(&["doctor"]), what, mend);
    }
    let finished = Desk::new().promptmill(&["doctor", "fleet"]).check_code(1);
    for key in ["master_key", "mongo.url", "redis.url"] {
        assert!(finished.stdout.contains(&format!("wrong  {key} is not set")), "{finished:?}");
    }
}

#[test]
fn a_provider_that_refuses_the_key_or_is_away_is_told_with_what_mends_it() {
    let doubles = Doubles::start(Config { openai_keys: vec!["good".into()], ..Config::default() }).unwrap();
    let mut desk = Desk::new();
    desk.point_at(&doubles);
    desk.write("promptmill.toml", "[providers.openai]\napi_key = \"s3cret\"\n");
    check_wrong(
        &desk.promptmill(&["doctor"]),
        "openai refuses the key",
        "mend promptmill.toml:2: providers.openai.api_key",
    );
    desk.write("promptmill.toml", "[providers.openai]\napi_key = \"good\"\n");
    desk.promptmill(&["doctor"]).check_code(0);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    desk.set("OLLAMA_HOST", &format!("http://{nobody}"));
    check_wrong(&desk.promptmill(&["doctor"]), "ollama cannot be reached", "start it, or mend OLLAMA_HOST");
}
