//! A raw TCP server that plays prepared bytes: one script for each connection, in the order they are accepted.
//!
//! It knows no HTTP beyond finding the end of a request, so it can answer what no HTTP library would write.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What a connection does with each request, one after the other; after the last it is closed.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Writes these bytes and goes on to the next request.
    Bytes(Vec<u8>),
    /// Writes the pieces apart, each flushed.
    Pieces(Vec<Vec<u8>>),
    /// Writes these bytes and then keeps silent with the connection open.
    Hang(Vec<u8>),
    /// Writes this head and then zeros without end.
    Endless(Vec<u8>),
}

/// One request as it came: head and body.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Server {
    pub(crate) url: String,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Server {
    /// Serves one connection after the other by these scripts.
    pub(crate) async fn start(scripts: Vec<Vec<Answer>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback has a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound listener has an address"));
        let (tx, seen) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for script in scripts {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                tokio::spawn(play(stream, script, tx.clone()));
            }
        });
        Self { url, seen }
    }

    /// The next request any connection took.
    pub(crate) async fn seen(&mut self) -> Seen {
        self.seen.recv().await.expect("the server takes a request")
    }
}

async fn play(mut stream: TcpStream, script: Vec<Answer>, tx: mpsc::UnboundedSender<Seen>) {
    for answer in script {
        let Some(seen) = take_request(&mut stream).await else {
            return;
        };
        let _ = tx.send(seen);
        let written = match answer {
            Answer::Bytes(bytes) => stream.write_all(&bytes).await,
            Answer::Pieces(pieces) => {
                for piece in pieces {
                    if stream.write_all(&piece).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
            Answer::Hang(bytes) => {
                let _ = stream.write_all(&bytes).await;
                // Until the client goes away.
                let _ = stream.read(&mut [0; 1]).await;
                return;
            }
            Answer::Endless(head) => {
                let _ = stream.write_all(&head).await;
                while stream.write_all(&[b' '; 64 * 1024]).await.is_ok() {}
                return;
            }
        };
        if written.is_err() {
            return;
        }
    }
    // Closed in order, so that the client reads everything before the end.
    let _ = stream.shutdown().await;
}

async fn take_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let whole = end + 4 + length.unwrap_or(0);
            while bytes.len() < whole {
                read_more(stream, &mut bytes).await?;
            }
            return Some(Seen { head, body: bytes[end + 4..whole].to_vec() });
        }
        read_more(stream, &mut bytes).await?;
    }
}

async fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let read = stream.read_buf(bytes).await.ok()?;
    (read > 0).then_some(())
}

/// A response with a length.
pub(crate) fn response(status: u16, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()).into_bytes()
}

/// A chunked response of these pieces, without its end.
pub(crate) fn chunked_open(pieces: &[&str]) -> Vec<u8> {
    let mut bytes =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec();
    for piece in pieces {
        bytes.extend_from_slice(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes());
    }
    bytes
}

/// A whole chunked response.
pub(crate) fn chunked(pieces: &[&str]) -> Vec<u8> {
    let mut bytes = chunked_open(pieces);
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}
