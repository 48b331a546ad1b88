//! What stands at a URL is read as far as the caller wants it, and within the policy.

use std::sync::Arc;
use std::time::Duration;

use promptmill_egress::{
    Fetched, GuardedClient, HeaderMap, Patience, SendError, SystemResolver, UrlPolicy, UrlRefused,
};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use crate::support::{Receiver, Scripted, client, client_with, local_client, read_request};

const LONG: Patience = Patience { idle: Duration::from_secs(20), total: Duration::from_secs(20) };

async fn get(client: &GuardedClient, url: &str, patience: Patience) -> Result<Fetched, SendError> {
    client.get(url, HeaderMap::new(), patience).await
}

/// All of the body.
async fn whole(mut fetched: Fetched) -> Result<Vec<u8>, SendError> {
    let mut body = Vec::new();
    while let Some(piece) = fetched.piece().await? {
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

#[tokio::test]
async fn a_body_is_handed_on_as_it_came_with_its_status_and_headers() {
    let (sent, mut requests) = mpsc::unbounded_channel();
    let receiver = Receiver::on("127.0.0.1", move |mut stream| {
        let sent = sent.clone();
        async move {
            let request = read_request(&mut stream).await?;
            let head = "HTTP/1.1 200 OK\r\netag: \"a\"\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            for chunk in ["3\r\nabc\r\n", "4\r\ndefg\r\n", "0\r\n\r\n"] {
                stream.write_all(chunk.as_bytes()).await?;
            }
            let _ = sent.send(request);
            Ok(())
        }
    })
    .await;
    let fetched = get(&local_client(), &receiver.url(), LONG).await.unwrap();
    assert_eq!((fetched.status(), &fetched.headers()["etag"]), (200, &"\"a\"".parse().unwrap()));
    // It is not unpacked here.
    assert_eq!(whole(fetched).await.unwrap(), b"abcdefg");
    let request = requests.recv().await.unwrap().to_ascii_lowercase();
    assert!(request.starts_with("get /hook http/1.1\r\n"), "{request}");
    assert!(request.contains("accept-encoding: gzip, zstd\r\n"), "{request}");
}

#[tokio::test]
async fn a_body_that_breaks_off_or_stands_still_is_told() {
    let broken = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\nabc";
    let receiver = Receiver::on("127.0.0.1", move |mut stream| async move {
        read_request(&mut stream).await?;
        stream.write_all(broken.as_bytes()).await
    })
    .await;
    let fetched = get(&local_client(), &receiver.url(), LONG).await.unwrap();
    assert_eq!(whole(fetched).await, Err(SendError::Protocol));
    let still = Receiver::answering("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await;
    let short = Patience { idle: Duration::from_millis(100), ..LONG };
    let fetched = get(&local_client(), &still.url(), short).await.unwrap();
    assert_eq!(whole(fetched).await, Err(SendError::Timeout));
    // One that goes on for ever ends with all of the patience.
    let endless = Receiver::on("127.0.0.1", |mut stream| async move {
        read_request(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        loop {
            stream.write_all(b"abc").await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let short = Patience { total: Duration::from_millis(300), ..LONG };
    let fetched = get(&local_client(), &endless.url(), short).await.unwrap();
    assert_eq!(whole(fetched).await, Err(SendError::Timeout));
    // So does one that never pauses for long, and sends too little: 3 bytes in 5 ms.
    let short = Patience { idle: Duration::from_millis(300), ..LONG };
    let fetched = get(&local_client(), &endless.url(), short).await.unwrap();
    assert_eq!(whole(fetched).await, Err(SendError::Timeout));
}

#[tokio::test]
async fn what_may_not_be_called_is_not_read_and_a_redirect_is_not_followed() {
    let canary = Receiver::canary("127.0.0.1").await;
    let strict = client_with(UrlPolicy::default(), Arc::new(SystemResolver::default()));
    let refused = get(&strict, &canary.url(), LONG).await.map(|fetched| fetched.status());
    assert_eq!(refused, Err(SendError::Refused(UrlRefused::Scheme)));
    // A name that leads inside beside a public address.
    let names = client(Scripted::of(&[&["93.184.216.34", "10.0.0.1"]]));
    let refused = get(&names, "http://rows.test/", LONG).await.map(|fetched| fetched.status());
    assert_eq!(refused, Err(SendError::Refused(UrlRefused::Address)));
    let answer = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", canary.url());
    let redirects = Receiver::answering(answer).await;
    assert_eq!(get(&local_client(), &redirects.url(), LONG).await.unwrap().status(), 302);
    assert_eq!(canary.connections(), 0);
}
