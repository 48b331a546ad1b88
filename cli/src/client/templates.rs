//! `promptmill template`: between files and the server.

use std::path::Path;

use serde_json::{Value, json};

use super::args::TemplateCommand;
use super::{Client, print_json, print_line, text};
use crate::exit::{Exit, Failure};

pub(crate) async fn template(command: TemplateCommand) -> Result<Exit, Failure> {
    match command {
        TemplateCommand::Push { file, server } => {
            let client = Client::new(&server)?;
            let source = std::fs::read_to_string(&file)
                .map_err(|error| Failure::input(format!("{} cannot be read: {error}", file.display())))?;
            let source: Value = serde_json::from_str(&source)
                .map_err(|error| Failure::input(format!("{} is not JSON: {error}", file.display())))?;
            let stored = push(&client, &source).await?;
            if server.json {
                print_json(&stored)?;
            } else {
                print_line(&format!(
                    "{}@{}  {}",
                    text(&stored, "name"),
                    stored["version"],
                    text(&stored, "id")
                ))?;
            }
        }
        TemplateCommand::Pull { template, out, server } => {
            let stored = pull(&Client::new(&server)?, &template).await?;
            let source = serde_json::to_string_pretty(&stored["template"])
                .map_err(|error| Failure::work("the template cannot be written", error))?;
            if out == Path::new("-") {
                print_line(&source)?;
            } else {
                std::fs::write(&out, source + "\n")
                    .map_err(|error| Failure::work(format!("{} cannot be written", out.display()), error))?;
            }
        }
        TemplateCommand::List { server } => {
            for stored in Client::new(&server)?.list("/v1/templates", &[], usize::MAX).await? {
                if server.json {
                    print_json(&stored)?;
                } else {
                    print_line(&format!(
                        "{}@{}  {}",
                        text(&stored, "name"),
                        stored["version"],
                        text(&stored, "id")
                    ))?;
                }
            }
        }
        TemplateCommand::Label { template, label, version, remove, server } => {
            let client = Client::new(&server)?;
            let path = format!("{}/labels/{}", path_of(&template), escape(&label));
            if remove {
                client.delete(&path, None).await?;
            } else {
                let version = match version {
                    Some(version) => json!(version),
                    None => client.get(&path_of(&template)).await?["version"].take(),
                };
                let put = client.put(&path, &json!({"version": version})).await?;
                if server.json { print_json(&put)? } else { print_line(&label_line(&template, &put))? }
            }
        }
        TemplateCommand::Labels { template, server } => {
            for label in labels(&Client::new(&server)?, &template).await? {
                if server.json { print_json(&label)? } else { print_line(&label_line(&template, &label))? }
            }
        }
        TemplateCommand::Delete { template, server } => {
            Client::new(&server)?.delete(&path_of(&template), Some("*")).await?;
        }
    }
    Ok(Exit::Success)
}

/// Stores it as a new template, or as the next version where its name is taken.
async fn push(client: &Client, source: &Value) -> Result<Value, Failure> {
    let Some(name) = source["name"].as_str() else {
        return client.post("/v1/templates", Some(source)).await;
    };
    let known = client.list("/v1/templates", &[], usize::MAX).await?;
    if known.iter().any(|stored| text(stored, "name") == name) {
        return client.post(&format!("/v1/templates/{}/versions", escape(name)), Some(source)).await;
    }
    client.post("/v1/templates", Some(source)).await
}

/// The template as `NAME`, `NAME@VERSION` or `NAME@LABEL` names it.
async fn pull(client: &Client, template: &str) -> Result<Value, Failure> {
    let Some((name, which)) = template.rsplit_once('@') else {
        return client.get(&path_of(template)).await;
    };
    let version = if which.starts_with(|first: char| first.is_ascii_digit()) {
        escape(which)
    } else {
        let labels = labels(client, name).await?;
        let found = labels.iter().find(|label| text(label, "label") == which);
        let none = || Failure::input(format!("the template {name} has no label {which:?}"));
        found.ok_or_else(none)?["version"].to_string()
    };
    client.get(&format!("{}/versions/{version}", path_of(name))).await
}

/// The labels of a template.
async fn labels(client: &Client, template: &str) -> Result<Vec<Value>, Failure> {
    match client.get(&format!("{}/labels", path_of(template))).await?["data"].take() {
        Value::Array(labels) => Ok(labels),
        _ => Ok(Vec::new()),
    }
}

fn label_line(template: &str, label: &Value) -> String {
    format!(
        "{template}@{}  version {}  {}",
        text(label, "label"),
        label["version"],
        text(label, "changed_at")
    )
}

/// The path of a template.
fn path_of(template: &str) -> String {
    format!("/v1/templates/{}", escape(template))
}

/// A segment of a path.
fn escape(segment: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    segment.bytes().fold(String::new(), |mut path, byte| {
        if plain(byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
        path
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(super::escape("a b/../c@ä"), "a%20b%2F..%2Fc%40%C3%A4");
    }
}
