//! The sockets: many connections, a clean stop, metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use promptmill_api::ApiConfig;
use promptmill_runtime::Monitor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::support::{Options, Service, send, wait_for};

/// A connection that stays open behind its first answer.
async fn kept(service: &Service) -> TcpStream {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    stream
}

#[tokio::test]
async fn a_connection_that_has_no_place_is_told_so_whether_its_address_or_the_process_has_too_many() {
    for (of_all, of_address) in [(1_000, 3), (3, 1_000)] {
        let config = ApiConfig {
            connections: of_all,
            connections_per_address: of_address,
            ..Options::default().config
        };
        let service = Service::start_with(Options { config, ..Options::default() }).await;
        let all = [kept(&service).await, kept(&service).await, kept(&service).await];
        let refused = service.get("/v1/me").await;
        refused.problem(429, "too_many_requests");
        assert_eq!((refused.header("retry-after"), refused.header("connection")), ("1", "close"));
        drop(all);
        wait_for("a place is free again", async || (service.get("/livez").await.status == 200).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn a_connection_that_begins_as_http_2_is_closed() {
    let service = Service::start().await;
    for (begun, answered) in
        [(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], ""), (b"PRI * HTTP/2.0", "HTTP/1.1 400 Bad Request")]
    {
        let mut stream = TcpStream::connect(service.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer.lines().next().unwrap_or_default(), answered);
        service.is_alive().await;
    }
}

#[tokio::test]
async fn a_stop_ends_idle_connections_and_takes_no_new_ones() {
    let service = Service::start().await;
    service.get("/v1/me").await.expect(200);
    let mut idle = TcpStream::connect(service.address).await.unwrap();
    idle.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    let address = service.address;
    service.stop().await;
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest).await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_service_that_leaves_serves_on_and_says_so_until_the_time_is_over() {
    let leaving_for = async |leave_after| {
        let config = ApiConfig { leave_after, ..Options::default().config };
        Service::start_with(Options { config, ..Options::default() }).await
    };
    let service = leaving_for(Duration::from_secs(3_600)).await;
    assert_eq!(service.get("/readyz").await.header("connection"), "");
    service.leave();
    wait_for("it to say so", async || (service.get("/readyz").await.status == 503).then_some(())).await;
    for _ in 0..3 {
        for (path, status) in [("/readyz", 503), ("/v1/me", 200), ("/v1/none", 404)] {
            let answer = service.get(path).await;
            assert_eq!((answer.status.as_u16(), answer.header("connection")), (status, "close"), "{path}");
        }
        service.is_alive().await;
    }
    let service = leaving_for(Duration::from_millis(200)).await;
    let address = service.address;
    service.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn metrics_are_served_by_their_own_listener_and_count_routes_by_their_pattern() {
    let service = Service::start().await;
    service.get("/v1/templates/some-name").await.problem(404, "not_found");
    service.get("/some/invented/path").await.problem(404, "not_found");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let is_ready = Arc::new(AtomicBool::new(true));
    let monitor = Monitor::new(service.engine.clone(), {
        let is_ready = is_ready.clone();
        move || is_ready.load(Ordering::Relaxed)
    });
    let server = tokio::spawn(monitor.with_store().serve(listener, stop.clone()));
    let metrics = send(service.client().get(format!("http://{address}/metrics"))).await;
    metrics.expect(200);
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    let count =
        "promptmill_http_requests_total{method=\"GET\",route=\"/v1/templates/{template}\",status=\"404\"} 1";
    assert!(metrics.text.contains(count), "{}", metrics.text);
    assert!(!metrics.text.contains("some-name") && !metrics.text.contains("invented"));
    let status = async |path: &str| {
        send(service.client().get(format!("http://{address}{path}"))).await.status.as_u16()
    };
    assert_eq!((status("/livez").await, status("/readyz").await, status("/").await), (200, 200, 404));
    is_ready.store(false, Ordering::Relaxed);
    assert_eq!((status("/livez").await, status("/readyz").await), (200, 503));
    stop.cancel();
    server.await.unwrap();
}
