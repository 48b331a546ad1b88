//! Lua scripts: called by their hash, and sent whole to a server that has not seen them or forgot them.

use promptmill_ports::HubError;
use redis::{Cmd, ErrorKind, FromRedisValue, ServerErrorKind};

use crate::link::Link;

/// One script. Every key of one call lies in one slot of a cluster.
pub(crate) struct Script {
    code: &'static str,
    hash: String,
}

impl Script {
    pub(crate) fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }

    pub(crate) async fn call<T: FromRedisValue>(
        &self,
        link: &Link,
        keys: &[&str],
        args: &[Vec<u8>],
    ) -> Result<T, HubError> {
        let by_hash = command("EVALSHA", &self.hash, keys, args);
        let answer = match link.request(&by_hash).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                link.request(&command("EVAL", self.code, keys, args)).await
            }
            answer => answer,
        };
        link.read(answer.map_err(|error| link.unavailable(&error))?)
    }
}

fn command(name: &str, script: &str, keys: &[&str], args: &[Vec<u8>]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(script).arg(keys.len()).arg(keys).arg(args);
    command
}
