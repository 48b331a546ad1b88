//! One `mongod` as a replica set of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bson::{Document, doc};
use tempfile::TempDir;

use super::wire;
use crate::process::{Process, on_a_free_port, wait_for};
use crate::program::{program, servers_folder};

/// A replica set of one, with test commands (`failCommand`) on. It takes about 3 s to start and 120 MB.
#[derive(Debug)]
pub struct MongoServer {
    member: Member,
}

impl MongoServer {
    /// Starts one and waits until it can be written to.
    #[expect(clippy::new_without_default, reason = "starting a process is nothing to do by default")]
    pub fn start() -> Self {
        let member = Member::start();
        initiate(&[member.port]);
        Self { member }
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.member.port
    }

    /// The connection string.
    pub fn uri(&self) -> String {
        uri(&[self.member.port])
    }

    /// Its process, for signals.
    pub fn process_id(&self) -> u32 {
        self.member.process.id()
    }

    /// Kills it as `kill -9` does; its files stay.
    pub fn kill(&mut self) {
        self.member.process.kill();
    }

    /// Kills it, if it lives, starts it again on its port and files, and waits until it can be written to.
    pub fn restart(&mut self) {
        self.member.restart();
        wait_for("mongod to be the primary again", || wire::is_primary(self.member.port));
    }

    /// Runs one command on a connection of its own. An answer that is not `ok` fails the test.
    pub fn command(&self, database: &str, command: Document) -> Document {
        run(self.member.port, database, command)
    }
}

#[track_caller]
pub(super) fn run(port: u16, database: &str, command: Document) -> Document {
    match wire::command(port, database, command) {
        Ok(answer) => answer,
        Err(error) => panic!("{error}"),
    }
}

/// A `mongod` that is a member of a replica set, or will be.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) process: Process,
    pub(super) port: u16,
    folder: TempDir,
}

impl Member {
    /// Starts one that is in no set yet.
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (process, port) = on_a_free_port(|port| Ok((start_process(port, folder.path())?, port)));
        Self { process, port, folder }
    }

    pub(super) fn restart(&mut self) {
        self.process.kill();
        self.process = start_process(self.port, self.folder.path()).unwrap();
    }
}

pub(super) fn mongod() -> PathBuf {
    program("PROMPTMILL_TEST_MONGOD", servers_folder().join("mongod"))
}

pub(super) fn mongod_args(port: u16, data: &Path) -> Vec<OsString> {
    let port = port.to_string();
    let mut args: Vec<OsString> = vec!["--dbpath".into(), data.into()];
    let fixed = [
        "--port",
        &port,
        "--bind_ip",
        "127.0.0.1",
        "--nounixsocket",
        "--wiredTigerCacheSizeGB",
        "0.25",
        "--replSet",
        "rs0",
        "--oplogSize",
        "64",
        "--setParameter",
        "diagnosticDataCollectionEnabled=false",
        "--setParameter",
        "ttlMonitorSleepSecs=1",
        "--setParameter",
        "enableTestCommands=1",
    ];
    args.extend(fixed.map(OsString::from));
    args
}

fn start_process(port: u16, folder: &Path) -> Result<Process, String> {
    let data = folder.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let mut process = Process::start(&mongod(), &mongod_args(port, &data), folder.join("log"));
    let id = process.id();
    process.wait_until("mongod to answer", || wire::is_process(port, id))?;
    Ok(process)
}

/// Makes a set of these members, and returns the port of the one that can be written to.
pub(super) fn initiate(ports: &[u16]) -> u16 {
    let members: Vec<Document> = (0i32..)
        .zip(ports)
        .map(|(id, port)| doc! { "_id": id, "host": format!("127.0.0.1:{port}") })
        .collect();
    let config = doc! {
        "_id": "rs0",
        "members": members,
        // Ten seconds until an election is more than a test wants to wait for.
        "settings": { "electionTimeoutMillis": 2_000, "heartbeatIntervalMillis": 500 },
    };
    run(ports[0], "admin", doc! { "replSetInitiate": config });
    primary_of(ports)
}

/// Waits until one of them can be written to.
pub(super) fn primary_of(ports: &[u16]) -> u16 {
    let mut primary = None;
    wait_for("a primary", || {
        primary = ports.iter().copied().find(|&port| wire::is_primary(port));
        primary.is_some()
    });
    primary.unwrap()
}

pub(super) fn uri(ports: &[u16]) -> String {
    let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("mongodb://{}/?replicaSet=rs0", hosts.join(","))
}
