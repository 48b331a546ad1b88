//! A Redis server of one's own, and the few commands a test gives it from outside.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{Process, on_a_free_port};
use crate::program::{program, servers_folder};

/// One `redis-server` that keeps nothing on disk.
#[derive(Debug)]
pub struct RedisServer {
    process: Process,
    port: u16,
    args: Vec<String>,
    folder: TempDir,
}

impl RedisServer {
    /// Starts one.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with these arguments as well, such as `["--maxmemory-policy", "allkeys-lru"]`.
    pub fn start_with(args: &[&str]) -> Self {
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        let folder = tempfile::tempdir().unwrap();
        let (process, port) = on_a_free_port(|port| Ok((start_process(port, &args, &folder)?, port)));
        Self { process, port, args, folder }
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:PORT/`, without the password it may want.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// `rediss://127.0.0.1:PORT/`, where it listens as well when it was started with `--tls-cert-file` and `--tls-key-file`.
    pub fn tls_url(&self) -> String {
        format!("rediss://127.0.0.1:{}/", self.port + 1)
    }

    /// Its process, for signals.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Kills it; what it held is lost.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it, if it lives, and starts it again on the same port and empty.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = start_process(self.port, &self.args, &self.folder).unwrap();
    }

    /// Empties it.
    pub fn flush(&self) {
        self.command(&["FLUSHALL"]);
    }

    /// Sends one command on a connection of its own and returns the answer: the parts of a list on lines of their own, nothing as the
    /// empty text. An error fails the test.
    pub fn command(&self, words: &[&str]) -> String {
        match ask(self.port, password(&self.args), words) {
            Ok(answer) => answer,
            Err(error) => panic!("{words:?}: {error}"),
        }
    }
}

/// A Sentinel that watches one master by the name `main` and makes its replica the master soon after it is gone.
#[derive(Debug)]
pub struct RedisSentinel {
    port: u16,
    _process: Process,
    _folder: TempDir,
}

impl RedisSentinel {
    /// Starts one.
    pub fn start(master: &RedisServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let watch = format!(
            "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n",
            master.port()
        );
        let (process, port) = on_a_free_port(|port| {
            let file = folder.path().join("sentinel.conf");
            std::fs::write(&file, format!("port {port}\nbind 127.0.0.1\n{watch}")).unwrap();
            let args = [file.into(), "--sentinel".into()];
            Ok((start_with_args(port, &args, None, &folder)?, port))
        });
        Self { port, _process: process, _folder: folder }
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it knows that this server follows the master, and has what the master has.
    pub fn has_replica(&self, server: &RedisServer) -> bool {
        let replicas = self.command(&["SENTINEL", "REPLICAS", "main"]);
        replicas.contains(&server.port.to_string()) && replicas.contains("master-link-status\nok")
    }

    /// Whether this server is the master, and was told so.
    pub fn has_master(&self, server: &RedisServer) -> bool {
        let address = self.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]);
        address.lines().nth(1) == Some(&server.port.to_string())
    }

    /// As [`RedisServer::command`].
    pub fn command(&self, words: &[&str]) -> String {
        match ask(self.port, None, words) {
            Ok(answer) => answer,
            Err(error) => panic!("{words:?}: {error}"),
        }
    }
}

fn start_process(port: u16, args: &[String], folder: &TempDir) -> Result<Process, String> {
    let mut all: Vec<OsString> = Vec::new();
    let port_text = port.to_string();
    for arg in ["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"] {
        all.push(arg.into());
    }
    all.push(folder.path().into());
    all.extend(args.iter().map(OsString::from));
    if args.iter().any(|arg| arg == "--tls-cert-file") {
        let tls_port = (port + 1).to_string();
        all.extend(["--tls-port", &tls_port, "--tls-auth-clients", "no"].map(OsString::from));
    }
    start_with_args(port, &all, password(args), folder)
}

fn start_with_args(
    port: u16,
    args: &[OsString],
    password: Option<&str>,
    folder: &TempDir,
) -> Result<Process, String> {
    let server = program("PROMPTMILL_TEST_REDIS_SERVER", servers_folder().join("redis-server"));
    let mut process = Process::start(&server, args, folder.path().join("log"));
    // Somebody else's server may answer on the port while ours finds it taken and ends.
    let ours = format!("process_id:{}\r", process.id());
    process.wait_until("redis-server to answer", || {
        ask(port, password, &["INFO", "server"]).is_ok_and(|answer| answer.contains(&ours))
    })?;
    Ok(process)
}

fn password(args: &[String]) -> Option<&str> {
    let at = args.iter().position(|arg| arg == "--requirepass")?;
    args.get(at + 1).map(String::as_str)
}

fn ask(port: u16, password: Option<&str>, words: &[&str]) -> io::Result<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut answers = BufReader::new(socket.try_clone()?);
    if let Some(password) = password {
        send(&mut socket, &["AUTH", password])?;
        receive(&mut answers)?;
    }
    send(&mut socket, words)?;
    receive(&mut answers)
}

fn send(socket: &mut TcpStream, words: &[&str]) -> io::Result<()> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    socket.write_all(request.as_bytes())
}

fn receive(answers: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    answers.read_line(&mut line)?;
    let (kind, rest) = line.trim_end().split_at_checked(1).ok_or(io::ErrorKind::UnexpectedEof)?;
    let number = || rest.parse::<i64>().map_err(io::Error::other);
    match kind {
        "+" | ":" => Ok(rest.to_owned()),
        "$" if number()? < 0 => Ok(String::new()),
        "$" => {
            let mut text = vec![0; usize::try_from(number()?).map_err(io::Error::other)? + 2];
            answers.read_exact(&mut text)?;
            text.truncate(text.len() - 2);
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        "*" => {
            let parts: io::Result<Vec<_>> = (0..number()?).map(|_| receive(answers)).collect();
            Ok(parts?.join("\n"))
        }
        _ => Err(io::Error::other(rest.to_owned())),
    }
}
