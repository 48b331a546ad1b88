//! A provider that answers with exactly the bytes a case says, which a well-behaved double cannot.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What stands around the name of a case in a prompt.
const MARKS: (&str, &str) = ("[[case:", "]]");

/// Answers each call with what is kept under the name in its prompt.
pub(crate) struct Provider {
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    answers: Answers,
}

type Answers = Arc<Mutex<HashMap<String, Arc<Vec<u8>>>>>;

impl Provider {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers = Answers::default();
        let known = answers.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let known = known.clone();
                std::thread::spawn(move || answer(&stream, &known));
            }
        });
        Self { url, answers }
    }

    /// Answers a prompt of this case with these bytes, and closes the connection.
    pub(crate) fn answers(&self, case: &str, bytes: Vec<u8>) {
        self.answers.lock().unwrap().insert(case.to_owned(), Arc::new(bytes));
    }
}

/// The prompt that asks for the answer to a case.
pub(crate) fn prompt(case: &str) -> String {
    format!("{}{case}{}", MARKS.0, MARKS.1)
}

/// A response with this body.
pub(crate) fn response(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The body of a reply whose content is this JSON text.
pub(crate) fn chat(content: &str) -> Vec<u8> {
    format!(
        r#"{{"id":"gen-1","choices":[{{"index":0,"message":{{"role":"assistant","content":{content}}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":1,"completion_tokens":1}}}}"#
    )
    .into_bytes()
}

fn answer(stream: &TcpStream, known: &Answers) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut length, mut line) = (0, String::new());
    while reader.read_line(&mut line).ok()? > 0 && !line.trim().is_empty() {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8_lossy(&body);
    let name =
        body.split_once(MARKS.0).and_then(|(_, behind)| behind.split_once(MARKS.1)).map(|(name, _)| name);
    let kept = name.and_then(|name| known.lock().unwrap().get(name).cloned());
    // Anything else, such as a question for the models, is not what this server is for.
    let bytes = kept.unwrap_or_else(|| {
        Arc::new(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec())
    });
    // The client may have refused and closed before all was written.
    let mut writer = stream;
    let _ = writer.write_all(&bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = std::io::copy(&mut reader.take(1 << 20), &mut std::io::sink());
    Some(())
}
