//! `promptmill template`: between files and the server.

use std::path::Path;

use serde_json::Value;

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
            let (name, version) = match template.rsplit_once('@') {
                Some((name, version)) => (name, Some(version)),
                None => (template.as_str(), None),
            };
            let path = match version {
                Some(version) => format!("/v1/templates/{}/versions/{}", escape(name), escape(version)),
                None => format!("/v1/templates/{}", escape(name)),
            };
            let stored = Client::new(&server)?.get(&path).await?;
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
        TemplateCommand::Delete { template, server } => {
            let path = format!("/v1/templates/{}", escape(&template));
            Client::new(&server)?.delete(&path, Some("*")).await?;
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
