//! Receivers of webhooks, many of them on one thread of this process. Each has a port of its own, so that each is a host of its own to the engine. Some take
//! what they are sent and never answer; the others answer at once and write down when each event came.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use crate::fake::unix_us;
use crate::serving::{self, OnThread};

/// An event that came to a receiver which answers.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    /// When it came, microseconds of Unix time.
    pub at_us: u64,
    /// When it happened by its own word, the same.
    pub event_us: u64,
}

/// Running receivers; they end with this value.
#[derive(Debug)]
pub struct Receivers {
    /// Where each of them is, those that never answer last.
    pub urls: Vec<String>,
    log: Arc<Mutex<Vec<Arrived>>>,
    _servers: OnThread,
}

/// What is read of an event.
#[derive(Deserialize)]
struct Event<'a> {
    timestamp: &'a str,
}

impl Receivers {
    /// Starts so many that answer, and so many that never do.
    ///
    /// # Errors
    /// A port cannot be listened on.
    pub fn start(answering: usize, hanging: usize) -> anyhow::Result<Self> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let log_there = log.clone();
        let servers = OnThread::start(answering + hanging, move |n, listener| {
            let receiver =
                Rc::new(Receiver { hangs: n >= answering, log: log_there.clone(), ids: RefCell::default() });
            let answer = move |request| {
                let receiver = receiver.clone();
                async move { receiver.answer(request).await }
            };
            tokio::task::spawn_local(serving::accept(listener, answer));
        })?;
        let urls = servers.addresses.iter().map(|address| format!("http://{address}/hook")).collect();
        Ok(Self { urls, log, _servers: servers })
    }

    /// Events that came to those that answer, each once however often it came, in the order in which they did.
    pub fn arrived(&self) -> Vec<Arrived> {
        self.log().clone()
    }

    /// How many these are.
    pub fn count(&self) -> usize {
        self.log().len()
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Vec<Arrived>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Receiver {
    hangs: bool,
    log: Arc<Mutex<Vec<Arrived>>>,
    /// What came before.
    ids: RefCell<HashSet<String>>,
}

impl Receiver {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let at_us = unix_us();
        if self.hangs {
            std::future::pending::<()>().await;
        }
        let taken = self.take(at_us, request).await.is_some();
        let mut response = Response::new(Full::default());
        *response.status_mut() = if taken { StatusCode::NO_CONTENT } else { StatusCode::BAD_REQUEST };
        response
    }

    /// Writes down what came; nothing where it is no event.
    async fn take(&self, at_us: u64, request: Request<Incoming>) -> Option<()> {
        let id = request.headers().get("webhook-id")?.to_str().ok()?.to_owned();
        let mut incoming = request.into_body();
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            body.extend_from_slice(frame.ok()?.data_ref()?);
        }
        let event: Event<'_> = serde_json::from_slice(&body).ok()?;
        let happened: Timestamp = event.timestamp.parse().ok()?;
        let event_us = u64::try_from(happened.as_microsecond()).ok()?;
        if self.ids.borrow_mut().insert(id) {
            self.log.lock().unwrap_or_else(PoisonError::into_inner).push(Arrived { at_us, event_us });
        }
        Some(())
    }
}
