//! The store as its user holds it.

use mongodb::Client;
use mongodb::bson::doc;
use promptmill_ports::{StoreError, StoreResult};

use crate::batches::OpenBatches;
use crate::commands::Commands;
use crate::fault::Fault;
use crate::options::MongoOptions;
use crate::order::Logs;
use crate::record_bytes::RecordBytes;
use crate::{indexes, schema, templates};

/// A store in one MongoDB database, for any number of processes at once. Share it as `Arc<MongoStore>`.
#[derive(Debug)]
pub struct MongoStore {
    commands: Commands,
    open_batches: OpenBatches,
    logs: Logs,
    record_bytes: RecordBytes,
}

impl MongoStore {
    /// Connects, brings the schema forward, checks the indexes and finishes what a crash left half deleted.
    ///
    /// # Errors
    /// `Conflict` when the URL cannot be used, the server is no replica set, a newer promptmill wrote the database or a unique index
    /// cannot be had; `Unavailable` when there is no primary. No error holds anything of the URL.
    pub async fn connect(options: &MongoOptions) -> StoreResult<Self> {
        let client = Client::with_options(options.client().await?)
            .map_err(|error| StoreError::from(Fault::of(&error)))?;
        let commands = Commands::new(client.database(&options.database), options.command_time);
        check_server(&commands).await?;
        schema::migrate(&commands).await?;
        indexes::ensure(&commands).await?;
        templates::finish_deletions(&commands).await?;
        Ok(Self {
            commands,
            open_batches: OpenBatches::default(),
            logs: Logs::default(),
            record_bytes: RecordBytes::default(),
        })
    }

    /// The way into the database.
    pub(crate) const fn commands(&self) -> &Commands {
        &self.commands
    }

    /// The open batches as they were read last.
    pub(crate) const fn known_open_batches(&self) -> &OpenBatches {
        &self.open_batches
    }

    /// What is known of the order of settling.
    pub(crate) const fn logs(&self) -> &Logs {
        &self.logs
    }

    /// What is known of the bytes of records.
    pub(crate) const fn kept_bytes(&self) -> &RecordBytes {
        &self.record_bytes
    }
}

/// A server alone keeps no journal that a majority could wait for, and reads of one moment need a replica set.
async fn check_server(commands: &Commands) -> StoreResult<()> {
    let hello = commands.run(doc! { "hello": 1 }).await?;
    if hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
        return Ok(());
    }
    Err(StoreError::Conflict(
        "the MongoDB server is no member of a replica set; one of a single member will do".to_owned(),
    ))
}
