//! A Redis of one's own and hubs on it.

use std::io::{BufRead as _, BufReader};
use std::ops::Deref;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use promptmill_domain::{BatchId, ChunkId, LaneId};
use promptmill_hub_redis::{RedisHub, RedisHubOptions};
use promptmill_ports::{CallNeed, Denied, Limiter as _, Permit};
use promptmill_test_servers::RedisServer;

/// Long enough that it never passes in a test that is right.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A server with one hub, which it stands for.
pub(crate) struct Scene {
    hub: RedisHub,
    pub(crate) server: RedisServer,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let server = RedisServer::start();
        Self { hub: hub(&server.url()).await, server }
    }

    /// Another hub on the same server, as another process has it.
    pub(crate) async fn another(&self) -> RedisHub {
        hub(&self.server.url()).await
    }
}

impl Deref for Scene {
    type Target = RedisHub;

    fn deref(&self) -> &RedisHub {
        &self.hub
    }
}

pub(crate) async fn hub(url: &str) -> RedisHub {
    RedisHub::connect(&RedisHubOptions::new(url)).await.unwrap()
}

pub(crate) fn chunk(n: u32) -> ChunkId {
    ChunkId { batch: BatchId::from_bytes([1; 16]), n }
}

pub(crate) fn lane() -> &'static LaneId {
    static LANE: LazyLock<LaneId> = LazyLock::new(|| LaneId::new("test", "lane"));
    &LANE
}

/// A permit that must come.
pub(crate) async fn permit(hub: &RedisHub) -> Permit {
    tokio::time::timeout(LONG, hub.acquire(lane(), CallNeed::of(1), 0)).await.unwrap().unwrap()
}

/// Asks until the hub answers again.
pub(crate) async fn permit_after_failures(hub: &RedisHub) -> Permit {
    until("a permit", async || match hub.acquire(lane(), CallNeed::of(1), 0).await {
        Ok(permit) => Some(permit),
        Err(Denied::Unavailable(_)) => None,
        Err(denied @ Denied::Paused { .. }) => panic!("{denied}"),
    })
    .await
}

/// Asks until there is an answer.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Another process that runs only the named test, which does something else where [`told_by_parent`] answers. It has said so much when
/// this returns. It trusts the certificates of `trusted` instead of the system's.
pub(crate) fn process(test: &str, told: &str, trusted: Option<&Path>) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    if let Some(authority) = trusted {
        command.env("SSL_CERT_FILE", authority);
    }
    let mut child = command
        .args(["--exact", test, "--nocapture"])
        .env("PROMPTMILL_TEST_TOLD", told)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == READY), "the other process ended");
    // What it writes further must find a reader, or it ends of that.
    std::thread::spawn(move || lines.for_each(drop));
    Process(child)
}

/// Another process; it is killed with this value.
pub(crate) struct Process(Child);

impl Process {
    /// Whether it ends well.
    pub(crate) fn succeeds(&mut self) -> bool {
        self.0.wait().unwrap().success()
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) const READY: &str = "the other process is ready";

pub(crate) fn told_by_parent() -> Option<String> {
    std::env::var("PROMPTMILL_TEST_TOLD").ok()
}
