//! MongoDB servers: the shared one, one of one's own, and a replica set of three.

mod server;
mod set;
mod shared;
mod wire;

pub use server::MongoServer;
pub use set::MongoReplicaSet;
pub use shared::MongoDatabase;
pub use wire::MongoConnection;
