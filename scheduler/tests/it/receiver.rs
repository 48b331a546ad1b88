//! A receiver of webhooks on loopback: it answers as the test says, and keeps what it got.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::eventually;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Got {
    /// The event, which is as the schema of its type says.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        let event: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        let kind = event["type"].as_str().unwrap();
        let file = format!("{}/../docs/events/{kind}.schema.json", env!("CARGO_MANIFEST_DIR"));
        let schema = serde_json::from_str(&std::fs::read_to_string(&file).expect(&file)).unwrap();
        let options = jsonschema::options().should_validate_formats(true);
        let wrong: Vec<_> =
            options.build(&schema).unwrap().iter_errors(&event).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{event}: {wrong:?}");
        event
    }

    pub(crate) fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    /// Checks the signature as a receiver does that knows nothing of ours.
    #[track_caller]
    pub(crate) fn check_signed_with(&self, secret: &str) {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("{}.{}.{}", self.id(), self.headers["webhook-timestamp"], self.body).as_bytes());
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        assert_eq!(self.headers["webhook-signature"], expected);
        assert_eq!(self.headers["content-type"], "application/json");
    }
}

/// What a receiver does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Answers with this status line and these header lines.
    Head(String),
    /// The same, with this body.
    Body(String, Vec<u8>),
    /// Never answers.
    Hang,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::Head(format!("{status} As-Told"))
    }
}

pub(crate) struct Receiver {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    work: JoinHandle<()>,
}

impl Receiver {
    /// `reply` gets the number of the request, from 0.
    pub(crate) async fn new(reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (got, reply) = (Arc::new(Mutex::new(Vec::new())), Arc::new(reply));
        let kept = got.clone();
        let work = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, reply) = (kept.clone(), reply.clone());
                tokio::spawn(async move { handle(stream, &kept, &*reply).await });
            }
        });
        Self { address, got, work }
    }

    pub(crate) async fn taking() -> Self {
        Self::new(|_| Reply::status(200)).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Waits until so many requests came.
    pub(crate) async fn gets(&self, requests: usize) -> Vec<Got> {
        eventually("the receiver gets so many requests", async || self.got().len() >= requests).await;
        self.got()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.work.abort();
    }
}

async fn handle(
    mut stream: TcpStream,
    kept: &Mutex<Vec<Got>>,
    reply: &(dyn Fn(usize) -> Reply + Send + Sync),
) -> Option<()> {
    loop {
        let got = read(&mut stream).await?;
        let number = {
            let mut kept = kept.lock().unwrap();
            kept.push(got);
            kept.len() - 1
        };
        match reply(number) {
            Reply::Head(head) => {
                let answer = format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.ok()?;
            }
            Reply::Body(head, body) => {
                let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all(&[answer.as_bytes(), &body].concat()).await.ok()?;
            }
            Reply::Hang => {
                stream.read_u8().await.ok()?;
            }
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Got> {
    let mut read = Vec::new();
    loop {
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8(read.clone()).ok()?;
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let headers: HashMap<String, String> = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length = headers.get("content-length").map_or(Some(0), |length| length.parse().ok())?;
        if body.len() == length {
            return Some(Got { headers, body: body.to_owned() });
        }
    }
}
