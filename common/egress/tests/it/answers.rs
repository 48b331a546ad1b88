//! Whatever a receiver sends, or does not send, a call ends, and holds little memory until then.

use std::time::Duration;

use promptmill_egress::{MAX_ANSWER_BYTES, SendError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::{Receiver, local_client, post, post_within, read_request};

/// A deadline that is meant to pass.
const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn the_request_is_what_was_asked_for_and_asks_for_no_compression() {
    let (sent, mut requests) = mpsc::unbounded_channel();
    let receiver = Receiver::on("127.0.0.1", move |mut stream| {
        let sent = sent.clone();
        async move {
            let request = read_request(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
            let _ = sent.send(request);
            Ok(())
        }
    })
    .await;
    assert_eq!(post(&local_client(), &receiver.url()).await.unwrap().status, 204);
    let request = requests.recv().await.unwrap().to_ascii_lowercase();
    assert!(request.starts_with("post /hook http/1.1\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"a\":1}"), "{request}");
    assert!(request.contains("accept-encoding: identity\r\n"), "{request}");
    assert!(request.contains("content-length: 7\r\n"), "{request}");
}

#[tokio::test]
async fn every_status_is_an_answer_with_its_beginning_and_its_wish_to_wait() {
    for (head, status, wait) in [
        ("200 OK", 200, None),
        ("410 Gone", 410, None),
        ("429 Too Many Requests\r\nretry-after: 120", 429, Some(120)),
        ("503 Unavailable\r\nRetry-After: 99999999999999999999", 503, Some(7 * 24 * 3600)),
        ("503 Unavailable\r\nretry-after: -5", 503, None),
    ] {
        let answer = format!("HTTP/1.1 {head}\r\ncontent-length: 5\r\n\r\nhello");
        let receiver = Receiver::answering(answer).await;
        let answer = post(&local_client(), &receiver.url()).await.unwrap();
        assert_eq!((answer.status, &answer.first_bytes[..]), (status, &b"hello"[..]));
        assert_eq!(answer.retry_after, wait.map(Duration::from_secs), "{head}");
    }
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_call_when_an_answer_was_short() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let client = local_client();
    for _ in 0..3 {
        assert_eq!(post(&client, &receiver.url()).await.unwrap().status, 200);
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn of_an_endless_body_the_beginning_is_read_and_the_connection_closed() {
    let (sent, mut closed) = mpsc::unbounded_channel();
    let receiver = Receiver::on("127.0.0.1", move |mut stream| {
        let sent = sent.clone();
        async move {
            read_request(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n").await?;
            while stream.write_all(&[b'x'; 8192]).await.is_ok() {}
            let _ = sent.send(());
            Ok(())
        }
    })
    .await;
    let answer = post(&local_client(), &receiver.url()).await.unwrap();
    assert_eq!((answer.status, answer.first_bytes.len()), (200, MAX_ANSWER_BYTES));
    closed.recv().await.unwrap();
}

#[tokio::test]
async fn a_body_that_trickles_or_breaks_does_not_undo_the_status() {
    let trickling = Receiver::on("127.0.0.1", |mut stream| async move {
        read_request(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\na").await?;
        // Until the client has had enough.
        stream.read_u8().await?;
        Ok(())
    })
    .await;
    let answer = post_within(&local_client(), &trickling.url(), SHORT).await.unwrap();
    assert_eq!((answer.status, &answer.first_bytes[..]), (200, &b"a"[..]));

    let breaking = Receiver::on("127.0.0.1", |mut stream| async move {
        read_request(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 500 Oops\r\ncontent-length: 1000\r\n\r\nabc").await?;
        Ok(())
    })
    .await;
    assert_eq!(post(&local_client(), &breaking.url()).await.unwrap().status, 500);
}

#[tokio::test]
async fn a_compressed_answer_is_not_unpacked() {
    let bomb = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xff];
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bomb.len())
            .into_bytes();
    answer.extend_from_slice(&bomb);
    let receiver = Receiver::answering(answer).await;
    assert_eq!(post(&local_client(), &receiver.url()).await.unwrap().first_bytes[..], bomb);
}

#[tokio::test]
async fn a_receiver_that_never_answers_costs_the_deadline_and_no_more() {
    let hanging = Receiver::on("127.0.0.1", |mut stream| async move {
        read_request(&mut stream).await?;
        stream.read_u8().await?;
        Ok(())
    })
    .await;
    assert_eq!(post_within(&local_client(), &hanging.url(), SHORT).await, Err(SendError::Timeout));

    let promising = Receiver::on("127.0.0.1", |mut stream| async move {
        read_request(&mut stream).await?;
        while stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_ok() {
            tokio::task::yield_now().await;
        }
        Ok(())
    })
    .await;
    assert_eq!(post_within(&local_client(), &promising.url(), SHORT).await, Err(SendError::Timeout));
}

#[tokio::test]
async fn what_is_not_http_is_a_broken_answer() {
    let mut flood = b"HTTP/1.1 200 OK\r\n".to_vec();
    for n in 0..20_000 {
        flood.extend_from_slice(format!("x-{n}: {}\r\n", "a".repeat(40)).as_bytes());
    }
    flood.extend_from_slice(b"content-length: 0\r\n\r\n");
    for garbage in [&b"<html>hello</html>\r\n\r\n"[..], b"\0\0\0\0", b"HTTP/9.9 200 OK\r\n\r\n", &flood] {
        let garbage = garbage.to_vec();
        let receiver = Receiver::on("127.0.0.1", move |mut stream| {
            let garbage = garbage.clone();
            async move {
                read_request(&mut stream).await?;
                stream.write_all(&garbage).await
            }
        })
        .await;
        assert_eq!(post(&local_client(), &receiver.url()).await, Err(SendError::Protocol));
    }
    let closing = Receiver::on("127.0.0.1", |mut stream| async move {
        read_request(&mut stream).await?;
        stream.set_zero_linger()
    })
    .await;
    assert_eq!(post(&local_client(), &closing.url()).await, Err(SendError::Protocol));
}

#[tokio::test]
async fn no_listener_and_no_tls_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(post(&local_client(), &format!("http://{address}/")).await, Err(SendError::Connect));

    let plain = Receiver::on("127.0.0.1", |mut stream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await?;
        stream.read_u8().await?;
        Ok(())
    })
    .await;
    let url = plain.url().replace("http://", "https://");
    assert_eq!(post(&local_client(), &url).await, Err(SendError::Tls));
}
