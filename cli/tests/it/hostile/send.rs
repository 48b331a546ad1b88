//! How a case of each kind is sent, and what of its answer is compared.

use std::collections::HashMap;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::case::Case;
use super::provider;
use super::stand::{Answer, Stand, check_canary};

async fn ask(request: reqwest::RequestBuilder, failures: &mut Vec<String>) -> Answer {
    let answer = async {
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok::<_, reqwest::Error>(Answer { status, text: response.text().await? })
    };
    let answer =
        answer.await.unwrap_or_else(|error| Answer { status: 0, text: format!("no answer: {error:?}") });
    check_canary(&answer.text, failures);
    answer
}

async fn post(stand: &Stand, path: &str, body: Vec<u8>, failures: &mut Vec<String>) -> Answer {
    let request =
        stand.http.request(Method::POST, path).header("content-type", "application/json").body(body);
    ask(request, failures).await
}

fn object(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut text = Vec::from(b"{");
    for (n, (key, value)) in members.iter().enumerate() {
        text.extend_from_slice(if n > 0 { b"," } else { b"" });
        text.extend_from_slice(format!("\"{key}\":").as_bytes());
        text.extend_from_slice(value);
    }
    text.push(b'}');
    text
}

/// Renders a template with a row.
pub(crate) async fn template(stand: &Stand, case: &Case, failures: &mut Vec<String>) {
    let template = match (case.get("content"), case.get("template")) {
        (Some(content), _) => {
            let content = serde_json::to_vec(&stand.tokens.text(content)).unwrap();
            let message = object(&[("role", b"\"user\""), ("content", &content)]);
            object(&[("name", b"\"t\""), ("messages", &[b"[", &message[..], b"]"].concat())])
        }
        (None, Some(template)) => stand.tokens.json(template),
        (None, None) => panic!("{}: neither content nor template", case.name),
    };
    let row = case.get("row").map_or(b"{}".to_vec(), |row| stand.tokens.json(row));
    let answer =
        post(stand, "/v1/render", object(&[("template", &template), ("variables", &row)]), failures).await;
    answer.compare(case, failures);
    case.compare("renders", &answer.json()["messages"][0]["content"], failures);
    if let Some(bytes) = case.expected("renders_bytes") {
        let rendered = answer.json()["messages"][0]["content"].as_str().map(str::len);
        if json!(rendered) != *bytes {
            failures.push(format!("renders_bytes: expected {bytes}, got {rendered:?}"));
        }
    }
}

/// Compiles a schema; where the case brings a reply as well, judges it.
pub(crate) async fn schema(stand: &Stand, case: &Case, failures: &mut Vec<String>) {
    let schema = stand.tokens.json(case.get("schema").unwrap());
    let output = object(&[("format", b"\"json\""), ("schema", &schema)]);
    if case.get("reply").is_some() {
        return reply_with(stand, case, &output, failures).await;
    }
    let message = serde_json::to_vec(&json!([{"role": "user", "content": "x"}])).unwrap();
    let template = object(&[("name", b"\"s\""), ("messages", &message), ("output", &output)]);
    let answer =
        post(stand, "/v1/render", object(&[("template", &template), ("variables", b"{}")]), failures).await;
    answer.compare(case, failures);
}

/// The drafts that take the rows of cases, by template.
pub(crate) type Drafts = HashMap<Vec<u8>, String>;

/// Sends rows as a part of a draft.
pub(crate) async fn rows(stand: &Stand, case: &Case, drafts: &mut Drafts, failures: &mut Vec<String>) {
    let open = json!({"name": "open", "messages": [{"role": "user", "content": "{{ text }}"}]});
    let draft = match case.get("template") {
        // Without a template every row brings messages.
        Some(Value::Null) => object(&[("model", b"\"demo:any\"")]),
        template => {
            object(&[("model", b"\"demo:any\""), ("template", &stand.tokens.json(template.unwrap_or(&open)))])
        }
    };
    if !drafts.contains_key(&draft) {
        let made = post(stand, "/v1/batches", draft.clone(), failures).await;
        assert_eq!(made.status, 201, "{}: {}", case.name, made.text);
        drafts.insert(draft.clone(), made.json()["id"].as_str().unwrap().to_owned());
    }
    let path = format!("/v1/batches/{}/rows/0", drafts[&draft]);
    let mut request = stand.http.request(Method::PUT, &path);
    request = request.header("content-type", case.word("type").unwrap_or("application/x-ndjson"));
    if let Some(encoding) = case.word("encoding") {
        request = request.header("content-encoding", encoding);
    }
    let answer = ask(request.body(stand.tokens.bytes(case.get("rows").unwrap())), failures).await;
    answer.compare(case, failures);
    case.compare("rows", &answer.json()["rows"], failures);
    case.compare("line", &answer.json()["errors"][0]["line"], failures);
}

/// Has a call answered as the case says and looks at the item's outcome.
pub(crate) async fn reply(stand: &Stand, case: &Case, failures: &mut Vec<String>) {
    let output = case.get("output").cloned().unwrap_or_else(|| json!({"format": "json"}));
    reply_with(stand, case, &stand.tokens.json(&output), failures).await;
}

async fn reply_with(stand: &Stand, case: &Case, output: &[u8], failures: &mut Vec<String>) {
    let tokens = &stand.tokens;
    let bytes = if let Some(reply) = case.get("reply") {
        provider::response(&provider::chat(&serde_json::to_string(&tokens.text(reply)).unwrap()))
    } else if let Some(content) = case.get("content_json") {
        provider::response(
            &[
                br#"{"choices":[{"message":{"role":"assistant","content":"#,
                &tokens.bytes(content)[..],
                br#"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
            ]
            .concat(),
        )
    } else if let Some(body) = case.get("body") {
        provider::response(&tokens.bytes(body))
    } else {
        tokens.bytes(case.get("raw").unwrap())
    };
    stand.provider.answers(&case.name, bytes);
    let message =
        serde_json::to_vec(&json!([{"role": "user", "content": provider::prompt(&case.name)}])).unwrap();
    let rules = case.get("rules").map_or(b"[]".to_vec(), |rules| tokens.json(rules));
    let template = object(&[
        ("name", b"\"r\""),
        ("messages", &message),
        ("output", output),
        ("rules", &rules),
        ("max_repairs", b"0"),
    ]);
    if case.expected("once").is_some() {
        return settled(stand, case, &template, failures).await;
    }
    let asked = object(&[("model", b"\"openai:m\""), ("template", &template)]);
    let wait = case.expected("status").map_or(60, |_| 1);
    let request =
        stand.http.request(Method::POST, "/v1/generations").header("prefer", format!("wait={wait}"));
    let answer = ask(request.header("content-type", "application/json").body(asked), failures).await;
    let view = answer.json();
    case.compare("status", &answer.status.into(), failures);
    case.compare("outcome", &view["state"], failures);
    case.compare("kind", &view["reason"], failures);
    compare_outcome(case, &view, &view["message"], &answer.text, failures);
}

/// A failure that may pass is tried again; as an item of a batch it can be told to have one attempt.
async fn settled(stand: &Stand, case: &Case, template: &[u8], failures: &mut Vec<String>) {
    let batch = object(&[
        ("model", b"\"openai:m\""),
        ("template", template),
        ("rows", br#"[{"variables":{}}]"#),
        ("max_attempts", b"1"),
        ("guard", b"false"),
    ]);
    let made = post(stand, "/v1/batches", batch, failures).await;
    if made.status != 201 {
        failures.push(format!("the batch is not taken: {} {}", made.status, made.text));
        return;
    }
    let id = made.json()["id"].as_str().unwrap().to_owned();
    stand.http.wait_for_state(&id, &["completed"]).await;
    let results = ask(stand.http.request(Method::GET, &format!("/v1/batches/{id}/results")), failures).await;
    let line: Value =
        serde_json::from_str(results.text.lines().next().unwrap_or_default()).unwrap_or_default();
    case.compare("outcome", &line["outcome"], failures);
    case.compare("kind", &line["error"]["kind"], failures);
    compare_outcome(case, &line, &line["error"]["message"], &results.text, failures);
}

fn compare_outcome(case: &Case, view: &Value, message: &Value, text: &str, failures: &mut Vec<String>) {
    case.compare("output", &view["output"], failures);
    case.compare("flags", &view["flags"], failures);
    case.compare_words(text, failures);
    let shown = message.as_str().unwrap_or_default();
    if shown.len() > 4 << 10 {
        failures.push(format!("an error of {} bytes", shown.len()));
    }
}

/// Names a receiver of events.
pub(crate) async fn url(stand: &Stand, case: &Case, failures: &mut Vec<String>) {
    let url = serde_json::to_vec(&stand.tokens.text(case.get("url").unwrap())).unwrap();
    let answer =
        post(stand, "/v1/batches", object(&[("model", b"\"demo:any\""), ("webhook_url", &url)]), failures)
            .await;
    answer.compare(case, failures);
    case.compare("kept", &answer.json()["webhook_url"], failures);
}

/// Writes bytes and reads to the end; a case that expects none may get none.
pub(crate) async fn http(stand: &Stand, case: &Case, failures: &mut Vec<String>) {
    let mut stream = TcpStream::connect(stand.address()).await.unwrap();
    // The server may have refused and closed before all was written.
    let _ = stream.write_all(&stand.tokens.bytes(case.get("raw").unwrap())).await;
    if case.get("half").is_some() {
        let _ = stream.shutdown().await;
    }
    read_answer(stream, case, failures).await;
}

/// Begins a request that is never completed; it is read by [`read_answer`] once the others have run.
pub(crate) async fn held(stand: &Stand, case: &Case) -> TcpStream {
    let mut stream = TcpStream::connect(stand.address()).await.unwrap();
    stream.write_all(&stand.tokens.bytes(case.get("raw").unwrap())).await.unwrap();
    stream
}

pub(crate) async fn read_answer(mut stream: TcpStream, case: &Case, failures: &mut Vec<String>) {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    check_canary(&text, failures);
    let status =
        text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let begin = body.find('{').unwrap_or(0);
    let end = body.rfind('}').map_or(begin, |at| at + 1);
    let answer = Answer { status: status.unwrap_or(0), text: body[begin..end].to_owned() };
    answer.compare(case, failures);
}
