//! `promptmill webhook`: a receiver for a laptop that shows and checks what comes, and deliveries that are tried again.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use promptmill_domain::EndpointId;
use promptmill_egress::{Checker, HeaderMap, signature};
use promptmill_runtime::shutdown_signals;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::args::{AddArgs, ListenArgs, ReplayArgs, WebhookCommand, headers};
use super::{Client, ServerArgs, print_json, print_line, text};
use crate::exit::{Exit, Failure};

/// The largest body that is read; events are far smaller.
const MAX_BODY: usize = 1024 * 1024;

/// How long a sender may take for the headers of a request, and for its body.
const HEADER_TIME: Duration = Duration::from_secs(10);
const BODY_TIME: Duration = Duration::from_secs(10);

/// Events that are remembered.
const REMEMBERED: usize = 100_000;

pub(crate) async fn webhook(command: WebhookCommand) -> Result<Exit, Failure> {
    match command {
        WebhookCommand::Listen(args) => listen(args).await,
        WebhookCommand::Replay(args) => replay(args).await,
        WebhookCommand::Add(args) => add(args).await,
        WebhookCommand::List { server } => {
            let list = Client::new(&server)?.get("/v1/endpoints").await?;
            for endpoint in list["data"].as_array().into_iter().flatten() {
                if server.json { print_json(endpoint)? } else { print_line(&line(endpoint))? }
            }
            Ok(Exit::Success)
        }
        WebhookCommand::Test { id, server } => test(id, &server).await,
        WebhookCommand::Rotate { id, grace, ed25519, server } => {
            let path = format!("/v1/endpoints/{id}/secret");
            let mut body = json!({ "grace": grace });
            if let Some(ed25519) = ed25519 {
                body["ed25519"] = ed25519.into();
            }
            let endpoint = Client::new(&server)?.post(&path, Some(&body)).await?;
            show_made(&endpoint, &server)?;
            Ok(Exit::Success)
        }
        WebhookCommand::Remove { id, server } => {
            Client::new(&server)?.delete(&format!("/v1/endpoints/{id}"), None).await?;
            Ok(Exit::Success)
        }
    }
}

async fn add(args: AddArgs) -> Result<Exit, Failure> {
    let mut body = json!({ "url": args.receiver });
    if !args.events.is_empty() {
        body["events"] = json!(args.events);
    }
    if let Some(description) = &args.description {
        body["description"] = description.as_str().into();
    }
    if let Some(secret) = &args.secret {
        body["secret"] = secret.as_str().into();
    }
    if args.ed25519 {
        body["ed25519"] = true.into();
    }
    if !args.headers.is_empty() {
        body["headers"] = headers("--header", &args.headers)?;
    }
    if let Some(email) = &args.email {
        body["email"] = email.as_str().into();
    }
    if let Some(rate) = args.max_per_second {
        body["max_per_second"] = rate.into();
    }
    if args.results {
        body["results"] = true.into();
    }
    let endpoint = Client::new(&args.server)?.post("/v1/endpoints", Some(&body)).await?;
    show_made(&endpoint, &args.server)?;
    Ok(Exit::Success)
}

/// Prints an endpoint's id, and its secret where it was made just now.
fn show_made(endpoint: &Value, server: &ServerArgs) -> Result<(), Failure> {
    if server.json {
        return print_json(endpoint);
    }
    if let Some(secret) = endpoint["secret"].as_str() {
        eprintln!("events are signed with {secret} (shown this once)");
    }
    if let Some(key) = endpoint["public_key"].as_str() {
        eprintln!("signatures v1a are checked by {key}");
    }
    print_line(text(endpoint, "id"))
}

/// An endpoint in one line.
fn line(endpoint: &Value) -> String {
    let events: Vec<_> =
        endpoint["events"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let events = if events.is_empty() { "all events".to_owned() } else { events.join(",") };
    let state = match endpoint["disabled_because"].as_str() {
        Some(why) => format!("off: {why}"),
        None if endpoint["failing_since"].is_string() => "failing".to_owned(),
        None => "on".to_owned(),
    };
    let description = text(endpoint, "description");
    let (id, url) = (text(endpoint, "id"), text(endpoint, "url"));
    format!("{id}  {state:15} {url}  {events}  {description}").trim_end().to_owned()
}

async fn test(id: EndpointId, server: &ServerArgs) -> Result<Exit, Failure> {
    let tried = Client::new(server)?.post(&format!("/v1/endpoints/{id}/test"), None).await?;
    let taken = tried["taken"] == true;
    if server.json {
        print_json(&tried)?;
    } else {
        let came = match (tried["status"].as_u64(), tried["error"].as_str()) {
            (Some(status), _) => format!("answered {status}"),
            (None, error) => error.unwrap_or("no answer").to_owned(),
        };
        let word = if taken { "taken" } else { "not taken" };
        print_line(&format!("{word}: {came} after {} ms", tried["duration_ms"].as_u64().unwrap_or(0)))?;
    }
    if taken { Ok(Exit::Success) } else { Ok(Exit::CouldNotWork) }
}

async fn replay(args: ReplayArgs) -> Result<Exit, Failure> {
    let client = Client::new(&args.server)?;
    let answer = match (&args.delivery, &args.since) {
        (Some(id), _) => client.post(&format!("/v1/deliveries/{id}/replay"), None).await?,
        (None, since) => client.post("/v1/deliveries/replay", Some(&json!({ "since": since }))).await?,
    };
    let replayed = answer["replayed"].as_u64().unwrap_or(0);
    if args.server.json {
        print_json(&answer)?;
    } else {
        print_line(&format!("{replayed} deliveries are tried again now"))?;
    }
    Ok(Exit::Success)
}

/// What a listener knows.
struct Listener {
    checker: Option<Checker>,
    json: bool,
    /// Events that came already: each may come more than once.
    seen: Mutex<HashSet<String>>,
}

async fn listen(args: ListenArgs) -> Result<Exit, Failure> {
    let checker = args.secret.as_deref().map(Checker::parse).transpose();
    let checker = checker.map_err(|refused| Failure::input(format!("--secret: {refused}")))?;
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| Failure::work(format!("nothing can listen at {}", args.listen), error))?;
    let address: SocketAddr =
        listener.local_addr().map_err(|error| Failure::work("the listener has no address", error))?;
    let (clean, _) = shutdown_signals().map_err(|error| Failure::work("signals cannot be handled", error))?;
    eprintln!("listening for webhooks at http://{address}; Ctrl-C ends it");
    if checker.is_none() {
        eprintln!("without --secret nothing is checked");
    }
    let listener_of = Arc::new(Listener { checker, json: args.json, seen: Mutex::default() });
    loop {
        let accepted = tokio::select! {
            () = clean.cancelled() => return Ok(Exit::Success),
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // No file descriptors are left, for example.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let told = listener_of.clone();
        let service = service_fn(move |request| {
            let told = told.clone();
            async move { Ok::<_, Infallible>(told.answer(request).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // A sender that went away or broke the protocol is its own business.
            let _ = connection.await;
        });
    }
}

impl Listener {
    async fn answer(&self, request: Request<Incoming>) -> Response<Empty<Bytes>> {
        if request.method() != Method::POST {
            return status(StatusCode::METHOD_NOT_ALLOWED);
        }
        let (head, body) = request.into_parts();
        let body = match timeout(BODY_TIME, Limited::new(body, MAX_BODY).collect()).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => return status(StatusCode::PAYLOAD_TOO_LARGE),
            Err(_) => return status(StatusCode::REQUEST_TIMEOUT),
        };
        let refused = self.show(&head.headers, &body.to_bytes());
        status(if refused { StatusCode::BAD_REQUEST } else { StatusCode::NO_CONTENT })
    }

    fn is_new(&self, id: &str) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= REMEMBERED {
            seen.clear();
        }
        seen.insert(id.to_owned())
    }

    /// Prints what came; answers whether it is refused.
    fn show(&self, headers: &HeaderMap, body: &Bytes) -> bool {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let verified = self.checker.as_ref().map(|checker| signature::verify(headers, body, checker, now_s));
        let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        let event: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let problem = match &verified {
            Some(Err(wrong)) => Some(wrong.to_string()),
            None | Some(Ok(_)) if event.is_null() => Some("it is not JSON".to_owned()),
            None | Some(Ok(_)) => None,
        };
        // What is refused says nothing of an event.
        let is_again = problem.is_none() && !self.is_new(id);
        let is_verified = matches!(verified, Some(Ok(_)));
        // Who reads the output may have gone; there is nobody left to tell.
        let _ = if self.json {
            print_json(&json!({
                "id": id, "verified": is_verified, "again": is_again, "problem": problem, "event": event,
            }))
        } else {
            let checked = match (&problem, is_verified) {
                (Some(problem), _) => format!("REFUSED: {problem}"),
                (None, true) => "verified".to_owned(),
                (None, false) => "not checked".to_owned(),
            };
            let again = if is_again { ", again" } else { "" };
            let data = &event["data"];
            let counts = &data["counts"];
            let items = match (counts["settled"].as_u64(), data["rows"].as_u64()) {
                (Some(settled), Some(rows)) => format!(" {settled}/{rows}"),
                _ => String::new(),
            };
            let line = format!(
                "{} {} {}{items} {id} ({checked}{again})",
                text(&event, "timestamp"),
                text(&event, "type"),
                text(data, "batch_id"),
            );
            // Who may have sent it is not known before it is checked, and it goes to a terminal.
            print_line(&line.replace(|character: char| character.is_control(), "\u{fffd}"))
        };
        problem.is_some()
    }
}

fn status(status: StatusCode) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    response
}
