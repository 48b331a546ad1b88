//! What the servers of the measures have in common: connections of HTTP/1.1, each answered on the thread of its listener.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// Answers for ever; to be awaited on a [`LocalSet`](tokio::task::LocalSet).
pub(crate) async fn accept<A, F>(listener: TcpListener, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + 'static,
    F: Future<Output = Response<Full<Bytes>>> + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::task::spawn_local(serve(stream, answer.clone()))),
            // Out of file descriptors, mostly: those in use must be given the time to end.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve<A, F>(stream: TcpStream, answer: A)
where
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Full<Bytes>>>,
{
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // A connection ends with an error when its caller goes away, which is up to the caller.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Servers on one thread of this process; they end with this value.
#[derive(Debug)]
pub(crate) struct OnThread {
    /// Where each listens.
    pub(crate) addresses: Vec<SocketAddr>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl OnThread {
    /// Listens on so many free ports of this machine; `serve` begins to serve each of them, by its number, in a task of the thread.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn start(
        ports: usize,
        serve: impl Fn(usize, TcpListener) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (told, addresses) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                for n in 0..ports {
                    match TcpListener::bind("127.0.0.1:0").await {
                        Ok(listener) => {
                            let _ = told.send(listener.local_addr());
                            serve(n, listener);
                        }
                        Err(error) => return drop(told.send(Err(error))),
                    }
                }
                let _ = stopped.await;
            });
        });
        let addresses = (0..ports).map(|_| Ok(addresses.recv().context("a server did not start")??));
        let addresses = addresses.collect::<anyhow::Result<_>>()?;
        Ok(Self { addresses, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for OnThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
