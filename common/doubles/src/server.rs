//! The listener: one thread of its own with every surface on it, so that a test's runtime, its clock and its load
//! never touch the double. Start at [`Doubles::start`].

mod chat;
mod control;
mod listing;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::config::{Config, Provider};
use crate::dialect;
use crate::dice::hash;
use crate::ledger::Ledger;
use crate::plan::FaultPlan;
use crate::request::Refusal;
use crate::socket::{Line, Socket};
use crate::wire::{Answer, ReplyBody};

/// As many connections as a load test opens at once may wait to be accepted.
const BACKLOG: u32 = 4_096;
/// Different schemas kept in their parsed form.
const SCHEMAS_KEPT: usize = 256;

/// A running double of all three providers; dropping it closes its port and every connection.
#[derive(Debug)]
pub struct Doubles {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    config: Config,
    plan: RwLock<Arc<FaultPlan>>,
    ledger: Ledger,
    schemas: Mutex<HashMap<u64, Arc<Value>>>,
}

/// The connection is to be reset instead of answered.
#[derive(Debug)]
struct ResetAsked;

impl std::fmt::Display for ResetAsked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("reset on purpose")
    }
}

impl std::error::Error for ResetAsked {}

impl Doubles {
    /// Binds and begins to serve; on return the port accepts connections. Needs no async runtime.
    ///
    /// # Errors
    /// When the address cannot be bound or no thread can be started.
    pub fn start(config: Config) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = listen(&runtime, config.listen)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            plan: RwLock::new(Arc::new(config.plan.clone())),
            ledger: Ledger::new(config.early_grace),
            schemas: Mutex::default(),
            config,
        });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("doubles".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { addr, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL to configure for `provider`, without a slash at the end.
    pub fn base_url(&self, provider: Provider) -> String {
        format!("http://{}{}", self.addr, provider.base_path())
    }

    /// What it has seen so far.
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// Replaces the plan for every call that arrives from now on; positions in scripts and runs go on counting.
    pub fn set_plan(&self, plan: FaultPlan) {
        self.shared.set_plan(plan);
    }
}

impl Drop for Doubles {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has already been printed; the calls it broke fail the test that made them.
            let _ = thread.join();
        }
    }
}

fn listen(runtime: &Runtime, addr: SocketAddr) -> io::Result<TcpListener> {
    let _context = runtime.enter();
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream, Arc::clone(&shared)))),
            // Out of file descriptors, mostly: those in use must be given the time to end.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Without it replies in pieces would wait for acknowledgements.
    let _ = stream.set_nodelay(true);
    let line = Arc::new(Line::default());
    let socket = TokioIo::new(Socket::new(stream, Arc::clone(&line)));
    let service = service_fn(move |request| route(request, Arc::clone(&shared), Arc::clone(&line)));
    // A connection that ends with an error was broken by a fault or by its caller; the ledger knows which.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(socket, service).await;
}

async fn route(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    line: Arc<Line>,
) -> Result<Response<ReplyBody>, ResetAsked> {
    let path = request.uri().path();
    for provider in [Provider::OpenRouter, Provider::Ollama, Provider::OpenAi] {
        let Some(below) = path.strip_prefix(provider.base_path()) else {
            continue;
        };
        let chat = if provider == Provider::Ollama { "/api/chat" } else { "/chat/completions" };
        if below == chat && request.method() == Method::POST {
            return chat::chat(provider, request, shared, line).await;
        }
        let answer = if below == chat {
            wrong_method(provider)
        } else {
            let below = below.to_owned();
            listing::listing(provider, &below, request, &shared).await
        };
        return Ok(answer.respond(line, None));
    }
    let answer = control::control(request, &shared).await;
    Ok(answer.respond(line, None))
}

fn wrong_method(provider: Provider) -> Answer {
    dialect::refusal(provider, &Refusal::new(405, "method not allowed"))
}

impl Shared {
    fn plan(&self) -> Arc<FaultPlan> {
        Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_plan(&self, plan: FaultPlan) {
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(plan);
    }

    /// The parsed form of a schema; a batch sends the same one with every call.
    fn read_schema(&self, text: &str) -> Option<Arc<Value>> {
        let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        let key = hash(0, text.as_bytes());
        if let Some(schema) = schemas.get(&key) {
            return Some(Arc::clone(schema));
        }
        let schema: Arc<Value> = Arc::new(serde_json::from_str(text).ok()?);
        if schemas.len() >= SCHEMAS_KEPT {
            schemas.clear();
        }
        schemas.insert(key, Arc::clone(&schema));
        Some(schema)
    }
}
