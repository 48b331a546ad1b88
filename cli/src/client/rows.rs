//! `promptmill rows`: row sets, which are stored once and run again and again.

use serde_json::Value;

use super::args::RowsCommand;
use super::submit::RowsFile;
use super::{Client, print_json, print_line, text};
use crate::exit::{Exit, Failure};

pub(crate) async fn rows(command: RowsCommand) -> Result<Exit, Failure> {
    match command {
        RowsCommand::Push { name, file, server } => {
            let client = Client::new(&server)?;
            let set = RowsFile::of(&file)?.upload(&client, &format!("/v1/row-sets/{name}")).await?;
            if server.json { print_json(&set)? } else { print_line(&line(&set))? }
        }
        RowsCommand::List { limit, server } => {
            for set in &Client::new(&server)?.list("/v1/row-sets", &[], limit).await? {
                if server.json { print_json(set)? } else { print_line(&line(set))? }
            }
        }
        RowsCommand::Show { name, server } => {
            let set = Client::new(&server)?.get(&format!("/v1/row-sets/{name}")).await?;
            if server.json {
                print_json(&set)?;
            } else {
                for version in set["versions"].as_array().into_iter().flatten() {
                    print_line(&version_line(&name, version))?;
                }
            }
        }
        RowsCommand::Delete { name, version, server } => {
            let version = version.map(|version| format!("/versions/{version}")).unwrap_or_default();
            Client::new(&server)?.delete(&format!("/v1/row-sets/{name}{version}"), None).await?;
        }
    }
    Ok(Exit::Success)
}

/// A row set by its newest version.
fn line(set: &Value) -> String {
    version_line(text(set, "name"), &set["versions"][0])
}

fn version_line(name: &str, version: &Value) -> String {
    let number = |member: &str| version[member].as_u64().unwrap_or(0);
    let (at, rows) = (text(version, "created_at"), number("rows"));
    format!("{name}@{}  {rows} rows  {} bytes  {at}", number("version"), number("bytes"))
}
