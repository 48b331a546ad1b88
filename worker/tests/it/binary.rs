//! The binary of this role alone, over real servers.

use promptmill_test_servers::{Binary, MongoDatabase, RedisServer, http_get};

const PROGRAM: &str = env!("CARGO_BIN_EXE_promptmill-worker");

#[test]
fn it_says_where_it_is_answers_that_it_is_ready_and_stops_in_order() {
    let (mongo, redis) = (MongoDatabase::create(), RedisServer::start());
    let (mongo_url, redis_url) = (mongo.uri(), redis.url());
    let env = [
        ("PROMPTMILL_MONGO_URL", mongo_url.as_str()),
        ("PROMPTMILL_MONGO_DATABASE", mongo.name()),
        ("PROMPTMILL_REDIS_URL", &redis_url),
    ];
    let mut worker = Binary::start(PROGRAM, &["--metrics-listen", "127.0.0.1:0"], &env);
    let said = worker.says("metrics http://");
    let metrics = said.split("metrics http://").nth(1).unwrap().split('/').next().unwrap();
    assert_eq!(http_get(metrics, "/livez").0, 200);
    assert_eq!(http_get(metrics, "/readyz").0, 200);
    let (status, text) = http_get(metrics, "/metrics");
    assert_eq!(status, 200);
    assert!(text.contains("promptmill_build_info{version="), "{text}");
    let (code, rest) = worker.terminate();
    assert_eq!(code, Some(0), "{rest}");
}

#[test]
fn without_servers_it_names_what_is_missing() {
    let (code, said) = Binary::start(PROGRAM, &[], &[]).ended();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--mongo-url") && said.contains("--redis-url"), "{said}");
}

#[test]
fn a_url_that_cannot_be_used_is_told_in_one_sentence_without_its_password() {
    let redis = RedisServer::start();
    let redis_url = redis.url();
    let env =
        [("PROMPTMILL_MONGO_URL", "mongodb://me:s3cret@"), ("PROMPTMILL_REDIS_URL", redis_url.as_str())];
    let (code, said) = Binary::start(PROGRAM, &["--metrics-listen", "127.0.0.1:0"], &env).ended();
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("error: the MongoDB store cannot be used: the MongoDB URL cannot be used; it reads"),
        "{said}"
    );
    assert!(!said.contains("s3cret"), "{said}");
}
