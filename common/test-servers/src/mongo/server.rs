//! One `mongod` as a replica set of its own.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bson::{Document, doc};
use tempfile::TempDir;

use super::wire::{self, MongoConnection};
use crate::process::{Process, on_a_free_port, wait_for};
use crate::program::{program, servers_folder};

/// A replica set of one. It takes about 3 s to start and 120 MB.
#[derive(Debug)]
pub struct MongoServer {
    member: Member,
}

impl MongoServer {
    /// Starts one with test commands (`failCommand`) on, and waits until it can be written to.
    pub fn start() -> Self {
        Self::of(Member::start())
    }

    /// Starts one over a fresh folder in `folder` with the sizes of cache and oplog that MongoDB itself chooses, and without test
    /// commands: for measures, of which the disk under the folder is a part.
    pub fn start_as_shipped(folder: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("mongod-").tempdir_in(folder).unwrap();
        Self::of(Member::start_in(folder, shipped_args))
    }

    /// Starts one that is in no replica set.
    pub fn start_alone() -> Self {
        Self { member: Member::start_in(tempfile::tempdir().unwrap(), alone_args) }
    }

    /// Starts one that wants a user and a password. In the database `promptmill` `reader` may read, `writer` may read and write; the password of both is `secret`.
    pub fn start_guarded() -> Self {
        let mut server = Self::start();
        for (name, role) in [("reader", "read"), ("writer", "readWrite")] {
            let roles = [doc! { "role": role, "db": "promptmill" }];
            server.command("admin", doc! { "createUser": name, "pwd": "secret", "roles": roles });
        }
        // Its members would know each other by it; there is one.
        let key = server.member.folder.path().join("key");
        std::fs::write(&key, "c2VjcmV0IG9mIHRoZSBtZW1iZXJz").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        server.member.process.kill();
        let Member { folder, port, .. } = &server.member;
        let args = guarded_args(*port, &folder.path().join("data"));
        server.member.process = Process::start(&mongod(), &args, folder.path().join("log"));
        // It tells nobody who it is, and the port was its own.
        wait_for("mongod to be the primary again", || wire::is_primary(server.member.port));
        server
    }

    /// The connection string with a user.
    pub fn uri_of(&self, user: &str, password: &str) -> String {
        self.uri().replacen("//", &format!("//{user}:{password}@"), 1) + "&authSource=admin"
    }

    fn of(member: Member) -> Self {
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

    /// A connection to it that is kept.
    ///
    /// # Errors
    /// It does not take one.
    pub fn connect(&self) -> io::Result<MongoConnection> {
        MongoConnection::open(self.member.port)
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
    args: ArgsOf,
}

/// The arguments of a `mongod` on a port over a folder of data.
type ArgsOf = fn(u16, &Path) -> Vec<OsString>;

impl Member {
    /// Starts one that is in no set yet.
    pub(super) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), mongod_args)
    }

    fn start_in(folder: TempDir, args: ArgsOf) -> Self {
        let (process, port) = on_a_free_port(|port| Ok((start_process(port, folder.path(), args)?, port)));
        Self { process, port, folder, args }
    }

    pub(super) fn restart(&mut self) {
        self.process.kill();
        self.process = start_process(self.port, self.folder.path(), self.args).unwrap();
    }
}

pub(super) fn mongod() -> PathBuf {
    program("PROMPTMILL_TEST_MONGOD", servers_folder().join("mongod"))
}

pub(super) fn mongod_args(port: u16, data: &Path) -> Vec<OsString> {
    let mut args = shipped_args(port, data);
    let small_and_for_tests = [
        "--wiredTigerCacheSizeGB",
        "0.25",
        "--oplogSize",
        "64",
        "--setParameter",
        "ttlMonitorSleepSecs=1",
        "--setParameter",
        "enableTestCommands=1",
    ];
    args.extend(small_and_for_tests.map(OsString::from));
    args
}

fn guarded_args(port: u16, data: &Path) -> Vec<OsString> {
    let mut args = mongod_args(port, data);
    args.extend(["--auth".into(), "--keyFile".into(), data.with_file_name("key").into()]);
    args
}

fn alone_args(port: u16, data: &Path) -> Vec<OsString> {
    let mut args = mongod_args(port, data);
    let at = args.iter().position(|arg| arg == "--replSet").unwrap();
    args.drain(at..at + 2);
    // Only of a member of a set.
    let at = args.iter().position(|arg| arg == "--oplogSize").unwrap();
    args.drain(at..at + 2);
    args
}

fn shipped_args(port: u16, data: &Path) -> Vec<OsString> {
    let port = port.to_string();
    let mut args: Vec<OsString> = vec!["--dbpath".into(), data.into()];
    let fixed = [
        "--port",
        &port,
        "--bind_ip",
        "127.0.0.1",
        "--nounixsocket",
        "--replSet",
        "rs0",
        "--setParameter",
        "diagnosticDataCollectionEnabled=false",
    ];
    args.extend(fixed.map(OsString::from));
    args
}

fn start_process(port: u16, folder: &Path, args: ArgsOf) -> Result<Process, String> {
    let data = folder.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let mut process = Process::start(&mongod(), &args(port, &data), folder.join("log"));
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
