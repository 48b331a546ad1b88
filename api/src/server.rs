//! The service behind sockets: an own loop over hyper, because `axum::serve` waits for ever for a client that sends its headers slowly.
//!
//! Bounded: connections, connections of one address, time for headers, size of headers, and how long a client may take nothing of what is
//! written to it. Connections beyond that are told so, 256 at a time. Bodies are bounded where they are read ([`crate::extract`] and the uploads).
//!
//! It speaks HTTP/1.1 alone: there, a client that takes nothing stops its connection, which is seen and cut, while a stream of HTTP/2 that
//! stands still keeps its whole answer in memory for as long as the client likes.

mod patience;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use crate::config::ApiConfig;
use crate::frame::Peer;
use crate::generations;
use crate::headers::MAX_HEADER_BYTES;
use crate::state::App;
use patience::Patience;
use promptmill_runtime::places::Places;

/// hyper refuses larger heads without a body; smaller ones that are still too large get a problem.
const MAX_HEAD_BYTES: usize = 2 * MAX_HEADER_BYTES;
/// Connections that have no place and are told so at the same time; what comes beyond these is closed without a word.
const TURNED_AWAY: usize = 256;
/// How long one of them may take for its request and the answer to it.
const TURNED_AWAY_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait when no connection can be taken, as when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the API until `stop` is cancelled, and as long after it as [`ApiConfig::leave_after`] says; then takes no new requests, tells long answers
/// to end, and waits for the others as long as [`ApiConfig::drain`] says.
///
/// # Errors
/// None for now: a failed accept is waited out.
pub async fn serve(listener: TcpListener, app: App, stop: CancellationToken) -> std::io::Result<()> {
    let (leaving, stopping) = (app.leaving().clone(), app.stopping().clone());
    let config = app.config().clone();
    let (router, no_place) = (crate::router(app.clone()), crate::no_place(app.clone()));
    let leave_after = config.leave_after;
    let ended = async move {
        stop.cancelled().await;
        leaving.cancel();
        tokio::time::sleep(leave_after).await;
        stopping.cancel();
    };
    tokio::join!(run(listener, router, no_place, &config, ended), generations::wind_down(&app));
    Ok(())
}

async fn run(
    listener: TcpListener,
    router: Router,
    no_place: Router,
    config: &ApiConfig,
    ended: impl Future<Output = ()>,
) {
    let places = Places::within(config.connections_per_address, config.connections);
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
    let builder = Arc::new(builder(config));
    let graceful = GracefulShutdown::new();
    tokio::pin!(ended);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut ended => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Small answers must not wait for the acknowledgement of earlier ones.
        let _ = stream.set_nodelay(true);
        let entered = if config.proxies.contain(peer.ip()) {
            places.enter_within(usize::MAX, address_of(peer))
        } else {
            places.enter(address_of(peer))
        };
        let Some(place) = entered else {
            if let Ok(place) = turned_away.clone().try_acquire_owned() {
                tokio::spawn(turn_away(stream, no_place.clone(), place));
            }
            continue;
        };
        let (router, proxies) = (router.clone(), config.proxies.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let client = proxies.client(peer.ip(), request.headers());
            request.extensions_mut().insert(Peer(client));
            router.clone().call(request)
        });
        let io = TokioIo::new(Patience::new(stream, config.write_idle));
        let connection = builder.serve_connection(io, service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that went away or broke the protocol is its own business.
            if let Err(error) = connection.await {
                tracing::debug!(error = crate::problem::chain(&error), "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(config.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were cut because they did not end in time");
    }
}

/// Answers the first request of a connection, and no further one.
async fn turn_away(stream: TcpStream, no_place: Router, _place: OwnedSemaphorePermit) {
    let service = service_fn(move |request: Request<Incoming>| no_place.clone().call(request));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).keep_alive(false).max_buf_size(MAX_HEAD_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    // Whether it was heard is the client's business.
    let _ = tokio::time::timeout(TURNED_AWAY_WITHIN, connection).await;
}

/// An IPv4 client counts as itself also on a socket that speaks IPv6; of IPv6 the network counts, since one client has all of it.
fn address_of(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

fn builder(config: &ApiConfig) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(config.header_time).max_buf_size(MAX_HEAD_BYTES);
    builder
}
