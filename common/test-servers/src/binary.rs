//! A program under test that works with these servers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use crate::{MongoDatabase, RedisServer};

/// A process that says on standard error how it stands, and is killed when this value is dropped.
#[derive(Debug)]
pub struct Binary {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Binary {
    /// Starts the program with these arguments and nothing in its environment but `env`.
    pub fn start(program: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(env.iter().copied());
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Self { child, said }
    }

    /// Waits for a line with these words, which must come before the process ends.
    pub fn says(&mut self, words: &str) -> String {
        let mut all = String::new();
        let mut line = String::new();
        while self.said.read_line(&mut line).unwrap() > 0 {
            if line.contains(words) {
                return line;
            }
            all.push_str(&std::mem::take(&mut line));
        }
        panic!("it ended without saying {words:?}:\n{all}");
    }

    /// Sends SIGTERM; see [`Binary::ended`].
    pub fn terminate(self) -> (Option<i32>, String) {
        let process = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &process]).status().unwrap().success());
        self.ended()
    }

    /// Waits for its end: the exit code, and what it said since it was asked last.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status and body that `http://ADDRESS/PATH` answers.
pub fn http_get(address: &str, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.unwrap(), body.unwrap())
}

/// A master key: any 32 bytes.
const MASTER_KEY: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// What holds for the binary of any role: with servers it says where it is, answers that it is ready, tells its metrics and stops in order.
/// `while_it_runs` is given the line that it said. `args` make it listen on any port.
pub fn check_role(program: &str, args: &[&str], while_it_runs: impl FnOnce(&str)) {
    let (mongo, redis) = (MongoDatabase::create(), RedisServer::start());
    let (mongo_url, redis_url) = (mongo.uri(), redis.url());
    let env = [
        ("PROMPTMILL_MONGO_URL", mongo_url.as_str()),
        ("PROMPTMILL_MONGO_DATABASE", mongo.name()),
        ("PROMPTMILL_REDIS_URL", &redis_url),
        ("PROMPTMILL_MASTER_KEY", MASTER_KEY),
    ];
    let mut role = Binary::start(program, args, &env);
    let said = role.says("metrics http://");
    let metrics = said.split("metrics http://").nth(1).unwrap().split('/').next().unwrap();
    assert_eq!(http_get(metrics, "/livez").0, 200);
    assert_eq!(http_get(metrics, "/readyz").0, 200);
    let (status, text) = http_get(metrics, "/metrics");
    assert_eq!(status, 200);
    assert!(text.contains("promptmill_build_info{version="), "{text}");
    while_it_runs(&said);
    let (code, rest) = role.terminate();
    assert_eq!(code, Some(0), "{rest}");
}

/// And what is told of a configuration that cannot be used: one sentence, and nothing of a password.
pub fn check_role_refuses(program: &str, args: &[&str]) {
    let (code, said) = Binary::start(program, &[], &[]).ended();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--mongo-url") && said.contains("--redis-url"), "{said}");

    let mut config = tempfile::NamedTempFile::new().unwrap();
    writeln!(config, "[mongo]\nurl = \"mongodb://me:s3cret@\"\ndatabse = \"x\"").unwrap();
    let path = config.path().to_str().unwrap();
    let (code, said) = Binary::start(program, &["--config", path], &[]).ended();
    assert_eq!(code, Some(2), "{said}");
    assert_eq!(
        said,
        format!("error: {path}:3: there is no setting mongo.databse; is mongo.database meant?\n")
    );

    let redis = RedisServer::start();
    let redis_url = redis.url();
    let env = [
        ("PROMPTMILL_MONGO_URL", "mongodb://me:s3cret@"),
        ("PROMPTMILL_REDIS_URL", redis_url.as_str()),
        ("PROMPTMILL_MASTER_KEY", MASTER_KEY),
    ];
    let (code, said) = Binary::start(program, args, &env).ended();
    assert_eq!(code, Some(1), "{said}");
    let sentence = "error: the MongoDB store cannot be used: the MongoDB URL cannot be used; it reads";
    assert!(said.contains(sentence), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
}

/// And of a role that needs the master key and has none.
pub fn check_role_wants_a_master_key(program: &str) {
    let env = [("PROMPTMILL_MONGO_URL", "mongodb://h/"), ("PROMPTMILL_REDIS_URL", "redis://h/")];
    let (code, said) = Binary::start(program, &[], &env).ended();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("PROMPTMILL_MASTER_KEY is not set"), "{said}");
}
