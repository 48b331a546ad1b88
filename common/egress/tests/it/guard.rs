//! No connection is opened to an address that is not allowed, however a URL leads there.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use promptmill_egress::{Resolver, SendError, SystemResolver, UrlPolicy, UrlRefused};

use crate::support::{Receiver, Scripted, client, client_with, local_client, post, post_within};

const REFUSED: SendError = SendError::Refused(UrlRefused::Address);

fn open_web() -> UrlPolicy {
    UrlPolicy { allow_http: true, ports: vec![], allowed_subnets: vec![] }
}

#[tokio::test]
async fn an_address_in_the_url_is_refused_before_any_connection() {
    let canary = Receiver::canary("127.0.0.1").await;
    let client = client_with(open_web(), Scripted::of(&[&["127.0.0.1"]]));
    let port = canary.address.port();
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[::1]", "localhost", "0"] {
        let url = format!("http://{host}:{port}/");
        assert_eq!(post(&client, &url).await, Err(REFUSED), "{url}");
    }
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn a_name_is_refused_when_any_of_its_addresses_is() {
    let canary = Receiver::canary("127.0.0.1").await;
    for answers in [
        &["127.0.0.1"][..],
        &["93.184.216.34", "127.0.0.1"],
        &["127.0.0.1", "93.184.216.34"],
        &["::ffff:127.0.0.1"],
        &["2606:4700::1", "::1"],
        &["169.254.169.254"],
        &["64:ff9b::7f00:1"],
    ] {
        let client = client_with(open_web(), Scripted::of(&[answers]));
        assert_eq!(post(&client, &canary.url_at("receiver.test")).await, Err(REFUSED), "{answers:?}");
    }
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_the_second_time_is_looked_up_once_for_a_connection_and_refused_then() {
    let receiver =
        Receiver::answering("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    let inside = Receiver::canary("127.0.0.2").await;
    let resolver = Scripted::of(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let client = client(resolver.clone());
    let url = receiver.url_at("rebinding.test");
    assert_eq!(post(&client, &url).await.unwrap().status, 200);
    assert_eq!(resolver.asked.load(Ordering::SeqCst), 1);
    assert_eq!(post(&client, &url).await, Err(REFUSED));
    assert_eq!((receiver.connections(), inside.connections()), (1, 0));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let canary = Receiver::canary("127.0.0.1").await;
    for status in [301, 302, 303, 307, 308] {
        let location = canary.url();
        let answer = format!("HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let receiver = Receiver::answering(answer).await;
        assert_eq!(post(&local_client(), &receiver.url()).await.unwrap().status, status);
    }
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn a_url_that_was_stored_under_a_laxer_policy_is_refused_at_the_call() {
    let canary = Receiver::canary("127.0.0.1").await;
    let client = client_with(UrlPolicy::default(), Arc::new(SystemResolver::default()));
    assert_eq!(post(&client, &canary.url()).await, Err(SendError::Refused(UrlRefused::Scheme)));
    let port = canary.address.port();
    let with_port = format!("https://example.com:{port}/");
    assert_eq!(post(&client, &with_port).await, Err(SendError::Refused(UrlRefused::Port)));
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn the_system_knows_this_machine() {
    let addresses = SystemResolver::default().resolve("localhost").await.unwrap();
    assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
}

struct Silent;

#[async_trait]
impl Resolver for Silent {
    async fn resolve(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_name_nobody_knows_and_one_nobody_answers_for_are_told_apart() {
    let unknown = client(Scripted::of(&[]));
    assert_eq!(post(&unknown, "http://unknown.test/").await, Err(SendError::Dns));
    let empty = client(Scripted::of(&[&[]]));
    assert_eq!(post(&empty, "http://empty.test/").await, Err(SendError::Dns));
    let silent = client(Arc::new(Silent));
    let answer = post_within(&silent, "http://silent.test/", Duration::from_millis(50)).await;
    assert_eq!(answer, Err(SendError::Timeout));
}

#[test]
fn an_error_names_no_address_and_no_host() {
    for error in
        [REFUSED, SendError::Dns, SendError::Connect, SendError::Timeout, SendError::Tls, SendError::Protocol]
    {
        let words = error.to_string();
        assert!(!words.contains(|c: char| c.is_ascii_digit()), "{words}");
    }
}
