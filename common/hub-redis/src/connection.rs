//! One connection, to a node or to a cluster.

use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, RedisResult, Value};

/// Clones share the connection; it is closed with the last of them.
#[derive(Clone)]
pub(crate) enum Connection {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Sends a command and waits for its answer. An answer that is an error is one.
    pub(crate) async fn request(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Node(connection) => connection.req_packed_command(command).await,
            Self::Cluster(connection) => connection.req_packed_command(command).await,
        }?
        .extract_error()
    }
}
