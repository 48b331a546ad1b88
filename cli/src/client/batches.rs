//! The short commands about batches: list, show, steer, retry, delete.

use serde_json::{Value, json};

use super::args::{BatchCommand, RetryArgs};
use super::{Client, ServerArgs, print_json, print_line, text, watch};
use crate::exit::{Exit, Failure};

pub(crate) async fn batch(command: BatchCommand) -> Result<Exit, Failure> {
    match command {
        BatchCommand::List { state, name, labels, limit, server } => {
            let labels: Vec<String> =
                labels.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
            let mut query: Vec<(&str, &str)> = Vec::new();
            query.extend(state.as_deref().map(|state| ("state", state)));
            query.extend(name.as_deref().map(|name| ("name", name)));
            query.extend(labels.iter().map(|label| ("label", label.as_str())));
            let batches = Client::new(&server)?.list("/v1/batches", &query, limit).await?;
            for batch in &batches {
                if server.json { print_json(batch)? } else { print_line(&line(batch))? }
            }
        }
        BatchCommand::Show { id, server } => {
            let batch = Client::new(&server)?.get(&format!("/v1/batches/{id}")).await?;
            if server.json { print_json(&batch)? } else { print_line(watch::summary(&batch).trim_end())? }
        }
        BatchCommand::Retry(args) => return retry(args).await,
        BatchCommand::Pause { id, server } => steer(&server, &id.to_string(), "pause").await?,
        BatchCommand::Resume { id, server } => steer(&server, &id.to_string(), "resume").await?,
        BatchCommand::Cancel { id, server } => steer(&server, &id.to_string(), "cancel").await?,
        BatchCommand::Delete { id, server } => {
            Client::new(&server)?.delete(&format!("/v1/batches/{id}"), None).await?;
        }
        BatchCommand::Submit(_) | BatchCommand::Watch { .. } | BatchCommand::Results(_) => {}
    }
    Ok(Exit::Success)
}

async fn steer(server: &ServerArgs, id: &str, step: &str) -> Result<(), Failure> {
    let batch = Client::new(server)?.post(&format!("/v1/batches/{id}/{step}"), None).await?;
    if server.json { print_json(&batch) } else { print_line(&format!("{id} is {}", text(&batch, "state"))) }
}

async fn retry(args: RetryArgs) -> Result<Exit, Failure> {
    let client = Client::new(&args.server)?;
    let mut body = json!({});
    if !args.outcomes.is_empty() {
        body["outcomes"] = json!(args.outcomes);
    }
    if !args.reasons.is_empty() {
        body["reasons"] = json!(args.reasons);
    }
    if let Some(model) = &args.model {
        body["model"] = model.to_string().into();
    }
    if let Some(version) = args.template_version {
        body["template_version"] = version.into();
    }
    let batch = client.post(&format!("/v1/batches/{}/retry", args.id), Some(&body)).await?;
    let id = text(&batch, "id");
    if args.server.json {
        print_json(&batch)?
    } else {
        print_line(id)?
    }
    if args.watch { watch::watch(&client, id, args.server.json).await } else { Ok(Exit::Success) }
}

fn line(batch: &Value) -> String {
    let counts = &batch["counts"];
    format!(
        "{}  {:10}  {:>9}/{:<9}  {:>7} failed  ${}  {}",
        text(batch, "id"),
        text(batch, "state"),
        counts["settled"].as_u64().unwrap_or(0),
        batch["rows"].as_u64().unwrap_or(0),
        counts["failed"].as_u64().unwrap_or(0),
        text(batch, "cost"),
        batch["name"].as_str().unwrap_or(""),
    )
}
