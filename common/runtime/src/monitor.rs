//! The listener for those who watch a process: `/metrics`, `/livez` and `/readyz`.
//!
//! It is for the operator's own network, and still waits for nobody: connections, headers and the life of a connection are bounded.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;

/// Connections at the same time.
const CONNECTIONS: usize = 64;
/// How long a client may take for the headers of a request.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// How long a connection lives; a scraper comes back on a new one.
const CONNECTION_TIME: Duration = Duration::from_secs(300);
/// How long to wait when no connection can be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is told about a process.
pub struct Monitor {
    engine: Engine,
    tells_store: bool,
    ready: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Monitor {
    /// Tells the metrics of the engine, and that the process is ready when `ready` says so.
    pub fn new(engine: Engine, ready: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { engine, tells_store: false, ready: Box::new(ready) }
    }

    /// Tells the gauges of what the store and the hub know as well; they are the same wherever they are asked for.
    #[must_use]
    pub fn with_store(self) -> Self {
        Self { tells_store: true, ..self }
    }

    /// Answers until `stop` is cancelled.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let monitor = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
        loop {
            let accepted = async {
                let place = places.clone().acquire_owned().await;
                (place, listener.accept().await)
            };
            let (place, stream) = match stop.run_until_cancelled(accepted).await {
                None => return,
                Some((Ok(place), Ok((stream, _)))) => (place, stream),
                Some(_) => {
                    // The process has no file descriptors left, for example.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let monitor = monitor.clone();
            let service = service_fn(move |request| {
                let monitor = monitor.clone();
                async move { Ok::<_, Infallible>(monitor.answer(&request).await) }
            });
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let stop = stop.clone();
            tokio::spawn(async move {
                // A client that went away or broke the protocol is its own business.
                let _ = stop.run_until_cancelled(tokio::time::timeout(CONNECTION_TIME, connection)).await;
                drop(place);
            });
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
        }
        match request.uri().path() {
            "/metrics" => {
                if self.tells_store {
                    self.engine.metrics.refresh(&self.engine).await;
                }
                self.engine.metrics.tell_lanes(&self.engine.limiter.lanes());
                let mut answer = text(StatusCode::OK, self.engine.metrics.gather_text());
                let version = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                answer.headers_mut().insert(CONTENT_TYPE, version);
                answer
            }
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" if (self.ready)() => text(StatusCode::OK, "ok\n"),
            "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            _ => text(StatusCode::NOT_FOUND, "there is /metrics, /livez and /readyz\n"),
        }
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("tells_store", &self.tells_store).finish_non_exhaustive()
    }
}
