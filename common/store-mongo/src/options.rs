//! How the store is reached.

use std::time::Duration;

use mongodb::options::{ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern};
use promptmill_ports::{StoreError, StoreResult};
use secrecy::{ExposeSecret as _, SecretString};

/// How long the driver looks for a primary; an election takes about as long.
const FIND_PRIMARY: Duration = Duration::from_secs(10);
/// How often each server is looked at. A server that an error made us give up is had again no earlier.
const LOOK: Duration = Duration::from_secs(1);
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// How a [`MongoStore`](crate::MongoStore) is set up.
#[derive(Debug, Clone)]
pub struct MongoOptions {
    /// `mongodb://...`, with the password when there is one; it reaches neither an error nor a log.
    pub url: SecretString,
    /// Name of the database.
    pub database: String,
    /// The most connections to a server.
    pub connections: u32,
    /// How long the server may work on one command, and a write may wait for the majority.
    pub command_time: Duration,
}

impl MongoOptions {
    /// This database at this URL, with 64 connections and 5 s a command.
    pub fn new(url: SecretString, database: impl Into<String>) -> Self {
        Self { url, database: database.into(), connections: 64, command_time: Duration::from_secs(5) }
    }

    /// The driver's options. What the URL says of concerns and preferences does not count: the store's promises rest on ours.
    pub(crate) async fn client(&self) -> StoreResult<ClientOptions> {
        let mut client = ClientOptions::parse(self.url.expose_secret()).await.map_err(|_| self.bad_url())?;
        client.app_name = Some("promptmill".to_owned());
        client.connect_timeout = Some(CONNECT);
        client.server_selection_timeout = Some(FIND_PRIMARY);
        client.heartbeat_freq = Some(LOOK);
        client.max_pool_size = Some(self.connections.max(1));
        client.max_connecting = Some(8);
        client.write_concern = Some(
            WriteConcern::builder()
                .w(mongodb::options::Acknowledgment::Majority)
                .journal(true)
                .w_timeout(self.command_time)
                .build(),
        );
        client.read_concern = Some(ReadConcern::majority());
        client.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        Ok(client)
    }

    /// The driver's own words may hold parts of the URL.
    fn bad_url(&self) -> StoreError {
        let words = if self.url.expose_secret().starts_with("mongodb+srv:") {
            "a mongodb+srv URL needs DNS look-ups that this program does not make; name the hosts in a mongodb:// URL"
        } else {
            "the MongoDB URL cannot be used; it reads mongodb://USER:PASSWORD@HOST:PORT,HOST:PORT/?replicaSet=NAME"
        };
        StoreError::Conflict(words.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_that_cannot_be_used_is_refused_without_its_password() {
        for url in [
            "mongodb://me:s3cret@",
            "mongodb+srv://me:s3cret@host/",
            "s3cret",
            "mongodb://s3cret:p@ss@h/?x=y",
        ] {
            let options = MongoOptions::new(url.into(), "promptmill");
            let error = options.client().await.unwrap_err();
            assert!(matches!(error, StoreError::Conflict(_)), "{error:?}");
            assert!(!format!("{error:?} {error} {options:?}").contains("s3cret"));
        }
    }

    #[tokio::test]
    async fn concerns_of_the_url_do_not_weaken_ours() {
        let url = "mongodb://h/?w=0&readConcernLevel=available&readPreference=secondary";
        let client = MongoOptions::new(url.into(), "promptmill").client().await.unwrap();
        let write = client.write_concern.unwrap();
        assert_eq!((write.w, write.journal), (Some(mongodb::options::Acknowledgment::Majority), Some(true)));
        assert_eq!(client.read_concern, Some(ReadConcern::majority()));
        assert!(matches!(
            client.selection_criteria,
            Some(SelectionCriteria::ReadPreference(ReadPreference::Primary))
        ));
    }
}
