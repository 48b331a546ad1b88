//! What is checked before a hub is used, and what errors tell.

use promptmill_hub_redis::{ConnectError, RedisHub, RedisHubOptions};
use promptmill_ports::Queue as _;
use promptmill_test_servers::RedisServer;

use crate::scene::hub;

#[tokio::test]
async fn a_server_that_evicts_any_key_is_refused_in_one_sentence() {
    for policy in ["allkeys-lru", "allkeys-random"] {
        let server = RedisServer::start_with(&["--maxmemory-policy", policy]);
        let error = RedisHub::connect(&RedisHubOptions::new(server.url())).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "redis evicts keys when its memory is full (maxmemory-policy {policy}); set maxmemory-policy to noeviction"
            )
        );
    }
}

#[tokio::test]
async fn a_server_that_evicts_only_keys_with_an_end_is_used() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "volatile-lru"]);
    let _ = hub(&server.url()).await;
}

#[tokio::test]
async fn a_full_server_is_an_error_of_the_push_and_no_more() {
    let server = RedisServer::start();
    let hub = hub(&server.url()).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(hub.push(&[(crate::scene::chunk(1), 0)]).await.is_err());
    assert_eq!(hub.depth().await.unwrap(), 0);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    hub.push(&[(crate::scene::chunk(1), 0)]).await.unwrap();
}

#[tokio::test]
async fn no_error_tells_the_password() {
    let server = RedisServer::start_with(&["--requirepass", "right-secret"]);
    let with = |password: &str| server.url().replace("redis://", &format!("redis://:{password}@"));
    hub(&with("right-secret")).await.push(&[]).await.unwrap();

    let mut told = Vec::new();
    let away = "redis://:wrong-secret@127.0.0.1:1/".to_owned();
    for url in [with("wrong-secret"), server.url(), away, "redis://:wrong-secret@[".to_owned()] {
        let options = RedisHubOptions::new(url);
        let error = RedisHub::connect(&options).await.unwrap_err();
        told.push(format!("{error} {error:?} {options:?} {:?}", std::error::Error::source(&error)));
        assert!(!matches!(error, ConnectError::EvictsKeys(_)));
    }
    for told in told {
        assert!(!told.contains("secret"), "{told}");
    }
}

#[tokio::test]
async fn fleets_with_different_prefixes_do_not_meet() {
    let server = RedisServer::start();
    let one = hub(&server.url()).await;
    let options = RedisHubOptions { prefix: "other".to_owned(), ..RedisHubOptions::new(server.url()) };
    let other = RedisHub::connect(&options).await.unwrap();
    one.push(&[(crate::scene::chunk(1), 0)]).await.unwrap();
    assert_eq!((one.depth().await.unwrap(), other.depth().await.unwrap()), (1, 0));
}
