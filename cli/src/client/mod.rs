//! The commands that talk to a server, and the HTTP client they share.
//!
//! Requests that may be repeated are: every POST carries an Idempotency-Key, so a connection that breaks costs a second and no
//! second batch. Answers are taken as JSON values and shown; the server alone knows what is right.

pub(crate) mod args;
mod batches;
mod results;
mod rows;
mod schedules;
mod submit;
mod templates;
mod top;
mod watch;
mod webhook;

use std::io::Write;
use std::time::Duration;

use clap::Args;
use reqwest::{Method, Response, StatusCode, header};
use serde_json::Value;

use crate::exit::{Exit, Failure};
use args::{BatchCommand, TemplateCommand};

/// How often a request is tried that the server did not answer, or asked to send later.
const TRIES: u32 = 6;

/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The largest JSON answer that is read.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The server.
    #[arg(long, value_name = "URL", env = "PROMPTMILL_URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// The API key.
    #[arg(long, value_name = "KEY", env = "PROMPTMILL_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Print JSON, one object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) async fn batch(command: BatchCommand) -> Result<Exit, Failure> {
    match command {
        BatchCommand::Submit(args) => submit::submit(*args).await,
        BatchCommand::Results(args) => results::results(args).await,
        BatchCommand::Watch { id, server } => {
            watch::watch(&Client::new(&server)?, &id.to_string(), server.json).await
        }
        other => batches::batch(other).await,
    }
}

pub(crate) async fn template(command: TemplateCommand) -> Result<Exit, Failure> {
    templates::template(command).await
}

pub(crate) use rows::rows;
pub(crate) use schedules::schedule;
pub(crate) use top::top;
pub(crate) use webhook::webhook;

/// A server and the key it is asked with.
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    authorization: header::HeaderValue,
}

impl Client {
    pub(crate) fn new(args: &ServerArgs) -> Result<Self, Failure> {
        let Some(key) = args.api_key.as_deref().map(str::trim).filter(|key| !key.is_empty()) else {
            return Err(Failure::input(
                "no API key; set PROMPTMILL_API_KEY to the key `promptmill serve` printed at its first start, or to one of `promptmill key create`",
            ));
        };
        let mut authorization = header::HeaderValue::from_str(&format!("Bearer {key}"))
            .map_err(|_| Failure::input("the API key holds characters that no key has"))?;
        authorization.set_sensitive(true);
        let url = args.url.trim_end_matches('/').to_owned();
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            return Err(Failure::input(format!(
                "--url {url:?} is not an address such as http://127.0.0.1:8080"
            )));
        }
        promptmill_runtime::install_tls();
        let http = reqwest::Client::builder()
            .user_agent(concat!("promptmill/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            .build()
            .map_err(|error| Failure::work("the HTTP client cannot be made", error))?;
        Ok(Self { http, url, authorization })
    }

    /// A request with the key.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .header(header::AUTHORIZATION, self.authorization.clone())
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        json(self.send(|| self.request(Method::GET, path)).await?).await
    }

    pub(crate) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let key = format!("\"{:032x}\"", rand::random::<u128>());
        let build = || {
            let request = self.request(Method::POST, path).header("idempotency-key", &key);
            match body {
                Some(body) => request.header(header::CONTENT_TYPE, "application/json").body(body.to_string()),
                None => request,
            }
        };
        json(self.send(build).await?).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let build = || {
            let request = self.request(Method::PUT, path);
            request.header(header::CONTENT_TYPE, "application/json").body(body.to_string())
        };
        json(self.send(build).await?).await
    }

    pub(crate) async fn delete(&self, path: &str, if_match: Option<&str>) -> Result<(), Failure> {
        let build = || {
            let request = self.request(Method::DELETE, path);
            match if_match {
                Some(tag) => request.header(header::IF_MATCH, tag),
                None => request,
            }
        };
        self.send(build).await.map(drop)
    }

    /// Every record of a list, at most `most`.
    pub(crate) async fn list(
        &self,
        path: &str,
        query: &[(&str, &str)],
        most: usize,
    ) -> Result<Vec<Value>, Failure> {
        let mut records = Vec::new();
        let mut cursor: Option<String> = None;
        while records.len() < most {
            let limit = (most - records.len()).min(500).to_string();
            let build = || {
                let request = self.request(Method::GET, path).query(query).query(&[("limit", &limit)]);
                match &cursor {
                    Some(cursor) => request.query(&[("cursor", cursor)]),
                    None => request,
                }
            };
            let mut page = json(self.send(build).await?).await?;
            if let Value::Array(data) = page["data"].take() {
                records.extend(data);
            }
            cursor = page["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        records.truncate(most);
        Ok(records)
    }

    /// Sends until there is an answer, as often as is reasonable. The answer is a success.
    pub(crate) async fn send(
        &self,
        build: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<Response, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let wait = match build().send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let later = matches!(
                        response.status(),
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
                    );
                    if !later || tries == TRIES {
                        return Err(refused(response).await);
                    }
                    retry_after(&response)
                }
                Err(error) if tries < TRIES && (error.is_connect() || error.is_request()) => None,
                Err(error) => return Err(self.unreachable(error)),
            };
            let wait = wait.unwrap_or(Duration::from_millis(100) * 2_u32.pow(tries));
            tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
        }
    }

    pub(crate) fn unreachable(&self, error: reqwest::Error) -> Failure {
        Failure::work(format!("{} gives no answer", self.url), error.without_url())
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The JSON of an answer; an empty one is null.
pub(crate) async fn json(mut response: Response) -> Result<Value, Failure> {
    let broken = |error: reqwest::Error| Failure::work("the answer broke off", error.without_url());
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(broken)? {
        if body.len() + piece.len() > MAX_ANSWER {
            return Err(Failure::Work("the answer is too large".to_owned(), None));
        }
        body.extend_from_slice(&piece);
    }
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&body).map_err(|error| Failure::work("the answer is not JSON", error))
}

/// The words of a problem (RFC 9457), each place on a line of its own.
pub(crate) async fn refused(response: Response) -> Failure {
    let status = response.status();
    let problem = json(response).await.unwrap_or_default();
    let title = problem["title"].as_str().unwrap_or("the server refused");
    let mut message = match problem["detail"].as_str() {
        Some(detail) => detail.to_owned(),
        None => format!("{title} ({status})"),
    };
    let errors = problem["errors"].as_array().map_or(&[][..], Vec::as_slice);
    // A single one stands in the detail already.
    let told = errors.len() == 1 && errors[0]["detail"].as_str().is_some_and(|words| message.contains(words));
    for error in errors.iter().filter(|_| !told) {
        message.push_str("\n  ");
        if let Some(part) = error["part"].as_u64() {
            message.push_str(&format!("part {part}, "));
        }
        if let Some(line) = error["line"].as_u64() {
            message.push_str(&format!("line {line}: "));
        }
        if let Some(pointer) = error["pointer"].as_str().filter(|pointer| !pointer.is_empty()) {
            message.push_str(&format!("{pointer}: "));
        }
        message.push_str(error["detail"].as_str().unwrap_or(""));
    }
    if status.is_client_error() { Failure::Input(message) } else { Failure::Work(message, None) }
}

/// Prints a value as one line on standard output.
pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    print_line(&value.to_string())
}

/// Prints a line; a reader that had enough is no failure.
pub(crate) fn print_line(line: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::work("standard output cannot be written", error))
        }
        _ => Ok(()),
    }
}

/// A member that is a text; a dash where it is not there.
pub(crate) fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or("-")
}
