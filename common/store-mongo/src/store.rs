//! The store as its user holds it.

use std::sync::Arc;

use mongodb::Client;
use mongodb::bson::{RawDocumentBuf, doc};
use promptmill_ports::{Accepted, StoreError, StoreResult};

use crate::close_small::Closed;
use crate::commands::{Commands, Update};
use crate::fault::Fault;
use crate::leases::Leases;
use crate::open_batches::OpenBatches;
use crate::options::MongoOptions;
use crate::order::Logs;
use crate::record_bytes::RecordBytes;
use crate::retention::Disk;
use crate::sessions::{Beats, Strays};
use crate::together::Together;
use crate::{accept, close_small, fences, indexes, schema, templates, transfer};

/// A store in one MongoDB database, for any number of processes at once. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MongoStore(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    commands: Commands,
    open_batches: OpenBatches,
    logs: Logs,
    leases: Leases,
    strays: Strays,
    beats: Beats,
    record_bytes: RecordBytes,
    groups: Groups,
    disk: Disk,
    epoch: u16,
}

/// Steps whose calls are done together.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Of `Intake::accept`.
    pub(crate) accepts: Arc<Together<accept::Call, Accepted>>,
    /// Of `Claims::claim`.
    pub(crate) claims: Arc<Together<RawDocumentBuf, bool>>,
    /// Of `Claims::answer`.
    pub(crate) answers: Arc<Together<Update, bool>>,
    /// Of `Close::close`.
    pub(crate) closes: Arc<Together<close_small::Call, Closed>>,
}

impl MongoStore {
    /// Connects, brings the schema forward, checks the indexes and finishes what a crash left half deleted.
    ///
    /// # Errors
    /// `Conflict` when the URL cannot be used, the server is no replica set, a newer promptmill wrote the database or a unique index
    /// cannot be had; `Unavailable` when there is no primary. No error holds anything of the URL.
    pub async fn connect(options: &MongoOptions) -> StoreResult<Self> {
        let commands = reach(options).await?;
        schema::migrate(&commands).await?;
        transfer::check_import(&commands).await?;
        indexes::ensure(&commands).await?;
        fences::ensure(&commands).await?;
        templates::finish_deletions(&commands).await?;
        Self::over(commands).await
    }

    /// Connects to a store that there is, and changes nothing of it.
    ///
    /// # Errors
    /// `Conflict` when there is none, or this program would have to bring its schema forward; others as for [`connect`](Self::connect).
    pub async fn connect_to_read(options: &MongoOptions) -> StoreResult<Self> {
        let commands = reach(options).await?;
        schema::check_current(&commands, &options.database).await?;
        transfer::check_import(&commands).await?;
        Self::over(commands).await
    }

    async fn over(commands: Commands) -> StoreResult<Self> {
        let epoch = transfer::epoch(&commands).await?;
        Ok(Self(Arc::new(Parts {
            commands,
            open_batches: OpenBatches::default(),
            logs: Logs::default(),
            leases: Leases::default(),
            strays: Strays::default(),
            beats: Beats::default(),
            record_bytes: RecordBytes::default(),
            groups: Groups::default(),
            disk: Disk::default(),
            epoch,
        })))
    }

    /// How many commands this store has sent: those that were repeated each time, those not that fetch more of an answer.
    pub fn commands_sent(&self) -> u64 {
        self.commands().sent()
    }

    /// The way into the database.
    pub(crate) fn commands(&self) -> &Commands {
        &self.0.commands
    }

    /// The open batches as they were read last.
    pub(crate) fn known_open_batches(&self) -> &OpenBatches {
        &self.0.open_batches
    }

    /// What is known of the order of settling.
    pub(crate) fn logs(&self) -> &Logs {
        &self.0.logs
    }

    /// The heads of the chunks that were claimed here.
    pub(crate) fn leases(&self) -> &Leases {
        &self.0.leases
    }

    /// When sessions of this process beat.
    pub(crate) fn beats(&self) -> &Beats {
        &self.0.beats
    }

    /// When chunks of sessions that are no more were looked for.
    pub(crate) fn strays(&self) -> &Strays {
        &self.0.strays
    }

    /// The calls that are done together.
    pub(crate) fn together(&self) -> &Groups {
        &self.0.groups
    }

    /// What is known of the server's disk.
    pub(crate) fn disk(&self) -> &Disk {
        &self.0.disk
    }

    /// Which order of settling the store has.
    pub(crate) fn epoch(&self) -> u16 {
        self.0.epoch
    }

    /// What is known of the bytes of records.
    pub(crate) fn kept_bytes(&self) -> &RecordBytes {
        &self.0.record_bytes
    }
}

async fn reach(options: &MongoOptions) -> StoreResult<Commands> {
    let client =
        Client::with_options(options.client().await?).map_err(|error| StoreError::from(Fault::of(&error)))?;
    let commands = Commands::new(client.database(&options.database), options.command_time);
    check_server(&commands).await?;
    Ok(commands)
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
