//! `promptmill export` and `promptmill import`: an installation in one file, for a move and for a backup.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use promptmill_archive::{ArchiveError, ArchiveReader, ArchiveWriter, Scope, Summary, export, import};
use promptmill_domain::TenantId;
use promptmill_ports::{Clock as _, Installation};
use promptmill_runtime::fleet::{connect_store, connect_store_to_read, store_of};
use promptmill_runtime::{Settings, SystemClock, install_tls, shutdown_signals};
use promptmill_store_sqlite::{SqliteOptions, SqliteStore};
use promptmill_vault::Vault;
use secrecy::SecretString;

use crate::exit::{Exit, Failure};

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Everything.
    #[arg(long, required_unless_present = "tenants", conflicts_with = "tenants")]
    all: bool,
    /// What belongs to this tenant. May be repeated.
    #[arg(long = "tenant", value_name = "TENANT")]
    tenants: Vec<TenantId>,
    /// Where the archive goes, or - for standard output. It is there when it is whole, readable by its owner only.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The archive, or - for standard input.
    archive: PathBuf,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// The data folder of a `serve`.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A fleet's store, that of PROMPTMILL_MONGO_URL and PROMPTMILL_MONGO_DATABASE.
    #[arg(long)]
    fleet: bool,
}

pub(crate) async fn export_all(args: ExportArgs, settings: &Settings) -> Result<Exit, Failure> {
    let store: Arc<dyn Installation> = match &args.place.data {
        Some(data) => {
            let opened = SqliteStore::open_to_read(data, SqliteOptions::default());
            Arc::new(opened.map_err(|error| Failure::work("--data: the store cannot be read", error))?)
        }
        None => {
            let (url, database) = fleet(settings)?;
            connect_store_to_read(&url, &database).await?
        }
    };
    let scope = if args.all { Scope::All } else { Scope::Tenants(args.tenants) };
    let (stop, _) = shutdown_signals().map_err(|error| Failure::work("signals cannot be handled", error))?;
    let export = async {
        if is_standard(&args.out) {
            write(&*store, &scope, io::stdout().lock()).await.map(|(summary, _)| summary)
        } else {
            to_file(&*store, &scope, &args.out).await
        }
    };
    tokio::select! {
        summary = export => {
            eprintln!("exported {}", summary?);
            Ok(Exit::Success)
        }
        // What was written aside goes with the export.
        () = stop.cancelled() => Ok(Exit::Interrupted),
    }
}

pub(crate) async fn import_all(args: ImportArgs, settings: &Settings) -> Result<Exit, Failure> {
    let from: Box<dyn Read> = if is_standard(&args.archive) {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(&args.archive);
        Box::new(opened.map_err(|error| {
            Failure::input(format!("{}: cannot be read: {error}", args.archive.display()))
        })?)
    };
    let mut archive = ArchiveReader::new(from).map_err(failure)?;
    let store: Arc<dyn Installation> = match &args.place.data {
        Some(data) => {
            let opened = SqliteStore::open(data, SqliteOptions::default());
            Arc::new(opened.map_err(|error| Failure::work("--data: the store cannot be filled", error))?)
        }
        None => {
            let (url, database) = fleet(settings)?;
            connect_store(&url, &database).await?
        }
    };
    let summary = import(&*store, &mut archive, SystemClock.now_ms()).await.map_err(failure)?;
    eprintln!("imported {summary}, which is what the store now holds");
    tell_of_keys(&summary, &args.place, settings);
    Ok(Exit::Success)
}

fn fleet(settings: &Settings) -> Result<(SecretString, String), Failure> {
    install_tls();
    store_of(settings).ok_or_else(|| Failure::input("--fleet: PROMPTMILL_MONGO_URL is not set"))
}

fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

async fn write<W: Write>(store: &dyn Installation, scope: &Scope, out: W) -> Result<(Summary, W), Failure> {
    let begun = ArchiveWriter::new(out, env!("CARGO_PKG_VERSION"), SystemClock.now_ms());
    let mut writer = begun.map_err(failure)?;
    export(store, scope, &mut writer).await.map_err(failure)?;
    writer.finish().map_err(failure)
}

/// Puts the archive in place once it is whole and durable. It is written beside, under a name that nobody else has.
async fn to_file(store: &dyn Installation, scope: &Scope, path: &Path) -> Result<Summary, Failure> {
    let unwritable =
        |error: io::Error| Failure::work(format!("{}: cannot be written", path.display()), error);
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{:08x}.partial", rand::random::<u32>()));
    let aside = Aside(PathBuf::from(aside));
    let file =
        OpenOptions::new().create_new(true).write(true).mode(0o600).open(&aside.0).map_err(unwritable)?;
    let (summary, file) = write(store, scope, file).await?;
    file.sync_all().map_err(unwritable)?;
    std::fs::rename(&aside.0, path).map_err(unwritable)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(unwritable)?;
    Ok(summary)
}

/// A file that goes unless it was put in place.
struct Aside(PathBuf);

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Says which master keys are missing without which webhooks of the archive cannot be signed, and answers not be repeated.
fn tell_of_keys(summary: &Summary, place: &Place, settings: &Settings) {
    let given = settings.get("PROMPTMILL_MASTER_KEY");
    let vault = match &place.data {
        // `serve` makes one in its folder where none is given.
        Some(data) if given.is_none() && data.join("master.key").exists() => Vault::open_or_create(data),
        _ => Vault::shared(given.as_deref()),
    };
    let vault = vault.ok();
    let is_missing = |id: &&String| !vault.as_ref().is_some_and(|vault| vault.knows(id));
    let missing: Vec<_> = summary.master_keys.iter().filter(is_missing).map(String::as_str).collect();
    if !missing.is_empty() {
        let place = match &place.data {
            Some(_) => "put them into master.key of the folder",
            None => "put them into PROMPTMILL_MASTER_KEY",
        };
        eprintln!(
            "webhook secrets and kept answers are sealed under master keys that are not here ({}); {place} before it starts",
            missing.join(", ")
        );
    }
}

fn failure(error: ArchiveError) -> Failure {
    match error {
        ArchiveError::Io(cause) => Failure::work("the archive cannot be read or written", cause),
        ArchiveError::Store(cause) => Failure::work("the store cannot be used", cause),
        error => Failure::input(error.to_string()),
    }
}
