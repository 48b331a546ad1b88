//! `promptmill batch submit`: a draft, its rows, the submit.

use std::path::Path;

use reqwest::{Body, Method, header};
use serde_json::{Map, Value, json};
use tokio::fs::File;
use tokio_util::io::ReaderStream;

use super::args::{BatchArgs, SubmitArgs, labels};
use super::{Client, json as json_of, print_json, print_line, refused, text, watch};
use crate::exit::{Exit, Failure};

/// How often the upload of a file is begun anew when its connection breaks.
const UPLOADS: u32 = 4;

pub(crate) async fn submit(args: SubmitArgs) -> Result<Exit, Failure> {
    let client = Client::new(&args.server)?;
    let rows = RowsFile::of(&args.rows)?;
    let mut body = request(&args.batch)?;
    if let Some(deadline) = &args.deadline {
        body.insert("deadline".to_owned(), deadline.as_str().into());
    }
    let draft = client.post("/v1/batches", Some(&Value::Object(body))).await?;
    let id = text(&draft, "id").to_owned();
    if let Some(secret) = draft["webhook_secret"].as_str() {
        eprintln!("events are signed with {secret} (shown this once)");
    }
    let submitted = async {
        rows.upload(&client, &format!("/v1/batches/{id}/rows/0")).await?;
        client.post(&format!("/v1/batches/{id}/submit"), None).await
    };
    let batch = match submitted.await {
        Ok(batch) => batch,
        Err(failure) => {
            // Nothing of it can run; what remains would only be in the way.
            let _ = client.delete(&format!("/v1/batches/{id}"), None).await;
            return Err(failure);
        }
    };
    if args.server.json {
        print_json(&batch)?;
    } else {
        print_line(&id)?;
    }
    if args.watch { watch::watch(&client, &id, args.server.json).await } else { Ok(Exit::Success) }
}

/// What asks for such a batch.
pub(super) fn request(args: &BatchArgs) -> Result<Map<String, Value>, Failure> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("template", args.template.as_deref().map(template).transpose()?);
    put(
        "model",
        match args.models.as_slice() {
            [] => None,
            [model] => Some(model.to_string().into()),
            models => Some(models.iter().map(ToString::to_string).collect()),
        },
    );
    put("name", args.name.clone().map(Value::from));
    put("labels", (!args.labels.is_empty()).then(|| json!(labels(&args.labels))));
    put("metadata", args.metadata.as_deref().map(metadata).transpose()?);
    put("priority", args.priority.map(Value::from));
    put("max_concurrency", args.max_concurrency.map(Value::from));
    put("max_cost", args.max_cost.map(|cost| cost.to_string().into()));
    put("retention", args.retention.map(Value::from));
    put("store_replies", args.store_replies.clone().map(Value::from));
    put("cache", args.cache.clone().map(Value::from));
    put("webhook_url", args.webhook_url.clone().map(Value::from));
    put("progress_at", (!args.progress_at.is_empty()).then(|| Value::from(args.progress_at.clone())));
    put("webhook_secret", args.webhook_secret.clone().map(Value::from));
    put("webhook_results", args.webhook_results.then_some(Value::Bool(true)));
    put("guard", args.no_guard.then_some(Value::Bool(false)));
    Ok(body)
}

/// A file's content, or the name of a stored template.
fn template(text: &str) -> Result<Value, Failure> {
    let path = Path::new(text);
    if !path.is_file() && !text.ends_with(".json") {
        return Ok(text.into());
    }
    let content = std::fs::read_to_string(path)
        .map_err(|error| Failure::input(format!("the template {text} cannot be read: {error}")))?;
    serde_json::from_str(&content)
        .map_err(|error| Failure::input(format!("the template {text} is not JSON: {error}")))
}

fn metadata(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::input(format!("--metadata is not JSON: {error}")))
}

/// Where the rows are and what they are.
pub(super) struct RowsFile<'a> {
    path: Option<&'a Path>,
    content_type: &'static str,
    content_encoding: Option<&'static str>,
}

impl<'a> RowsFile<'a> {
    /// Those of a file whose name says what they are, or of standard input.
    pub(super) fn of(path: &'a Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self { path: None, content_type: "application/x-ndjson", content_encoding: None });
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
        let (name, content_encoding) = match (name.strip_suffix(".gz"), name.strip_suffix(".zst")) {
            (Some(name), _) => (name, Some("gzip")),
            (_, Some(name)) => (name, Some("zstd")),
            _ => (name.as_str(), None),
        };
        let content_type = match name.rsplit_once('.') {
            Some((_, "jsonl" | "ndjson")) => "application/x-ndjson",
            Some((_, "csv")) => "text/csv",
            _ => {
                return Err(Failure::input(format!(
                    "--rows {}: rows are a .jsonl or .csv file, also with .gz or .zst behind",
                    path.display()
                )));
            }
        };
        if !path.is_file() {
            return Err(Failure::input(format!("--rows {}: there is no such file", path.display())));
        }
        Ok(Self { path: Some(path), content_type, content_encoding })
    }

    /// Sends the rows to that place, anew when the connection breaks on the way. Answers what the server says of them.
    pub(super) async fn upload(&self, client: &Client, to: &str) -> Result<Value, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let body = match self.path {
                Some(path) => {
                    let file = File::open(path).await;
                    let file = file.map_err(|error| {
                        Failure::input(format!("the rows {} cannot be read: {error}", path.display()))
                    })?;
                    Body::wrap_stream(ReaderStream::with_capacity(file, 256 * 1024))
                }
                None => Body::wrap_stream(ReaderStream::new(tokio::io::stdin())),
            };
            let mut request =
                client.request(Method::PUT, to).header(header::CONTENT_TYPE, self.content_type).body(body);
            if let Some(encoding) = self.content_encoding {
                request = request.header(header::CONTENT_ENCODING, encoding);
            }
            match request.send().await {
                Ok(response) if response.status().is_success() => return json_of(response).await,
                Ok(response) => return Err(refused(response).await),
                // What was read from standard input is gone.
                Err(error) if self.path.is_none() || tries == UPLOADS => {
                    return Err(client.unreachable(error));
                }
                Err(_) => tokio::time::sleep(std::time::Duration::from_secs(u64::from(tries))).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_says_format_and_compression() {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            RowsFile::of(&path).map(|rows| (rows.content_type, rows.content_encoding)).ok()
        };
        assert_eq!(of("a.jsonl"), Some(("application/x-ndjson", None)));
        assert_eq!(of("a.csv.gz"), Some(("text/csv", Some("gzip"))));
        assert_eq!(of("a.NDJSON.zst"), Some(("application/x-ndjson", Some("zstd"))));
        assert_eq!(of("a.txt"), None);
        assert!(RowsFile::of(&folder.path().join("absent.csv")).is_err());
    }
}
