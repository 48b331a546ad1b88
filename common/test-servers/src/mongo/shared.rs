//! One `mongod` for all test processes: the first starts it, and it ends by itself some seconds after the last.
//!
//! Every test runs in a process of its own and may be killed, so nobody counts users: each holds a shared lock on a file, and the
//! server's guard (`guard.sh`) ends it when nobody does.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use bson::{Document, doc};

use super::server::{initiate, mongod, mongod_args, run, uri};
use super::wire;
use crate::process::{on_a_free_port, told_process_id, wait_for};
use crate::program::servers_folder;

/// A database of one's own on the server that all tests share; it is dropped with this value.
///
/// The server is a replica set of one. Whatever concerns the server as a whole (fail points, restarts, profiling) needs a
/// [`MongoServer`](super::MongoServer) of one's own.
#[derive(Debug)]
pub struct MongoDatabase {
    port: u16,
    name: String,
}

impl MongoDatabase {
    /// A new database, empty.
    pub fn create() -> Self {
        let name = format!("test_{:016x}", rand::random::<u64>());
        Self { port: shared().port, name }
    }

    /// The connection string of the server, without the database.
    pub fn uri(&self) -> String {
        uri(&[self.port])
    }

    /// Which database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs one command on it, over a connection of its own. An answer that is not `ok` fails the test.
    pub fn command(&self, command: Document) -> Document {
        run(self.port, &self.name, command)
    }
}

impl Drop for MongoDatabase {
    fn drop(&mut self) {
        // Nothing but the server's disk gains from it, so a failure is no reason to fail a test.
        let _ = wire::command(self.port, &self.name, doc! { "dropDatabase": 1 });
    }
}

/// This process's use of the server: it lasts as long as the process.
#[derive(Debug)]
struct Shared {
    port: u16,
    _use: File,
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| join(&servers_folder().join("shared-mongod")).unwrap())
}

fn join(folder: &Path) -> io::Result<Shared> {
    fs::create_dir_all(folder)?;
    let lock_file = |name: &str| File::options().create(true).append(true).open(folder.join(name));
    // From here on the server does not end. Where it is just ending, this waits for it.
    let users = lock_file("users")?;
    users.lock_shared()?;
    let starting = lock_file("start")?;
    starting.lock()?;
    let port_file = folder.join("port");
    if let Some(port) = fs::read_to_string(&port_file).ok().and_then(|text| text.parse().ok())
        && wire::is_primary(port)
    {
        return Ok(Shared { port, _use: users });
    }
    let port = on_a_free_port(|port| start(folder, port).map(|()| port));
    initiate(&[port]);
    fs::write(port_file, port.to_string())?;
    Ok(Shared { port, _use: users })
}

/// Starts the guard, which starts the server; the error is the log of a server that ended at once.
fn start(folder: &Path, port: u16) -> Result<(), String> {
    let data = folder.join(format!("data-{:016x}", rand::random::<u64>()));
    fs::create_dir(&data).unwrap();
    let log = folder.join("log");
    let _ = fs::remove_file(&log);
    let mut guard = Command::new("sh")
        .args(["-c", include_str!("guard.sh"), "guard"])
        .args([folder, &data])
        .arg(mongod())
        .args(mongod_args(port, &data))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // It outlives this process, and what stops the group of this process shall not stop it.
        .process_group(0)
        .spawn()
        .unwrap();
    let server = told_process_id(&mut guard);
    let mut ended = false;
    wait_for("the shared mongod to answer", || {
        ended = guard.try_wait().unwrap().is_some();
        ended || wire::is_process(port, server)
    });
    if ended { Err(read_log(log)) } else { Ok(()) }
}

fn read_log(log: PathBuf) -> String {
    fs::read_to_string(log).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    const FOLDER: &str = "PROMPTMILL_TEST_SHARED_FOLDER";

    /// Another process that uses the server of the folder until it is killed, and the port it was given.
    fn other_user(folder: &Path) -> (Child, u16) {
        let mut user = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "mongo::shared::tests::the_server_lasts_as_long_as_somebody_uses_it",
                "--nocapture",
            ])
            .env(FOLDER, folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(user.stdout.take().unwrap()).lines();
        let told = lines.map(Result::unwrap).find_map(|line| Some(line.strip_prefix("using ")?.to_owned()));
        (user, told.unwrap().parse().unwrap())
    }

    #[test]
    fn the_server_lasts_as_long_as_somebody_uses_it() {
        if let Some(folder) = std::env::var_os(FOLDER) {
            let shared = join(Path::new(&folder)).unwrap();
            println!("\nusing {}", shared.port);
            loop {
                std::thread::park();
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let (mut first, port) = other_user(folder.path());
        let shared = join(folder.path()).unwrap();
        assert_eq!(shared.port, port);

        // The one that started it dies, as a test that hangs does.
        first.kill().unwrap();
        first.wait().unwrap();
        let (mut third, same) = other_user(folder.path());
        assert_eq!(same, port);
        assert!(wire::is_primary(port));

        third.kill().unwrap();
        third.wait().unwrap();
        drop(shared);
        wait_for("the guard to end the server", || !folder.path().join("port").exists());
        wait_for("the server to be gone", || wire::command(port, "admin", doc! { "hello": 1 }).is_err());
        let (mut fourth, _) = other_user(folder.path());
        fourth.kill().unwrap();
        fourth.wait().unwrap();
        let guard = fs::read_to_string(folder.path().join("guard")).unwrap();
        Command::new("kill").arg(guard.trim()).status().unwrap();
        wait_for("the guard to end", || !folder.path().join("guard").exists());
    }
}
