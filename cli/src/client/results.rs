//! `promptmill batch results`: the outcomes of a batch, to a file or to standard output.

use std::io::Write;
use std::path::Path;

use reqwest::{Method, Response};
use serde_json::Value;

use super::args::ResultsArgs;
use super::{Client, print_line};
use crate::exit::{Exit, Failure};

/// How long the server may hold a request for what settles next.
const WAIT_SECONDS: &str = "30";

/// The longest line that is taken; an outcome is bounded to less.
const MAX_LINE: usize = 16 * 1024 * 1024;

pub(crate) async fn results(args: ResultsArgs) -> Result<Exit, Failure> {
    let client = Client::new(&args.server)?;
    let to_stdout = args.out == Path::new("-");
    let csv =
        !to_stdout && args.out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    if csv && args.follow {
        return Err(Failure::input("--follow writes JSON lines; give --out a .jsonl file"));
    }
    let mut sink: Box<dyn Write + Send> = if to_stdout {
        Box::new(std::io::stdout())
    } else {
        let file = std::fs::File::create(aside(&args.out)).map_err(|error| unwritable(&args.out, error))?;
        Box::new(std::io::BufWriter::new(file))
    };
    let fetched = if args.follow {
        follow(&client, &args, &mut sink).await
    } else {
        fetch(&client, &args, csv, &mut sink).await
    };
    if let Err(failure) = fetched {
        if !to_stdout {
            let _ = std::fs::remove_file(aside(&args.out));
        }
        return Err(failure);
    }
    sink.flush().map_err(|error| unwritable(&args.out, error))?;
    drop(sink);
    if !to_stdout {
        std::fs::rename(aside(&args.out), &args.out).map_err(|error| unwritable(&args.out, error))?;
    }
    Ok(Exit::Success)
}

fn aside(out: &Path) -> std::path::PathBuf {
    let mut name = out.to_owned().into_os_string();
    name.push(".part");
    name.into()
}

fn unwritable(out: &Path, error: std::io::Error) -> Failure {
    Failure::work(format!("{} cannot be written", out.display()), error)
}

fn request(client: &Client, args: &ResultsArgs, extra: &[(&str, &str)]) -> reqwest::RequestBuilder {
    let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
    let outcomes = args.outcomes.iter().map(|name| ("outcome", word(serde_json::json!(name))));
    let reasons = args.reasons.iter().map(|kind| ("reason", word(serde_json::json!(kind))));
    let filters: Vec<(&str, String)> = outcomes.chain(reasons).collect();
    client.request(Method::GET, &format!("/v1/batches/{}/results", args.id)).query(&filters).query(extra)
}

/// Everything that is settled now, in the order of the rows.
async fn fetch(
    client: &Client,
    args: &ResultsArgs,
    csv: bool,
    sink: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let merged = if args.merged { "true" } else { "false" };
    let mut extra = vec![("order", "index"), ("merged", merged)];
    extra.push(if csv { ("format", "csv") } else { ("end", "true") });
    let mut response = client.send(|| request(client, args, &extra)).await?;
    if csv {
        while let Some(piece) = response.chunk().await.map_err(broken)? {
            sink.write_all(&piece).map_err(|error| unwritable(&args.out, error))?;
        }
        return Ok(());
    }
    copy_lines(response, args, sink).await.map(drop)
}

/// What settles, as it settles, until the batch has ended.
async fn follow(client: &Client, args: &ResultsArgs, sink: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let mut after: Option<String> = None;
    loop {
        let mut extra = vec![("order", "settled"), ("wait", WAIT_SECONDS), ("end", "true")];
        extra.extend(after.as_deref().map(|cursor| ("after", cursor)));
        let response = client.send(|| request(client, args, &extra)).await?;
        let end = copy_lines(response, args, sink).await?;
        sink.flush().map_err(|error| unwritable(&args.out, error))?;
        if end["complete"] == Value::Bool(true) {
            return Ok(());
        }
        after = end["cursor"].as_str().map(str::to_owned).or(after);
    }
}

/// Copies lines up to the closing one, which it answers; without one the results are not all there.
async fn copy_lines(
    mut response: Response,
    args: &ResultsArgs,
    sink: &mut (dyn Write + Send),
) -> Result<Value, Failure> {
    let mut held: Vec<u8> = Vec::new();
    let mut end = Value::Null;
    while let Some(piece) = response.chunk().await.map_err(broken)? {
        held.extend_from_slice(&piece);
        let Some(last) = held.iter().rposition(|byte| *byte == b'\n') else {
            if held.len() > MAX_LINE {
                return Err(Failure::Work("the server sent a line without an end".to_owned(), None));
            }
            continue;
        };
        let rest = held.split_off(last + 1);
        let lines = std::mem::replace(&mut held, rest);
        let closing = lines[..last].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let keep = if lines[closing..].starts_with(b"{\"_end\"") {
            end = serde_json::from_slice(&lines[closing..])
                .map_err(|error| Failure::work("the closing line is not JSON", error))?;
            closing
        } else {
            lines.len()
        };
        sink.write_all(&lines[..keep]).map_err(|error| unwritable(&args.out, error))?;
    }
    if end.is_null() {
        return Err(Failure::Work("the results broke off; fetch them again".to_owned(), None));
    }
    if args.server.json && args.out != Path::new("-") {
        print_line(&end.to_string())?;
    }
    Ok(end)
}

fn broken(error: reqwest::Error) -> Failure {
    Failure::work("the results broke off; fetch them again", error.without_url())
}
