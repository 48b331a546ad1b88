//! The store in MongoDB, for a fleet: any number of processes over one replica set.
//!
//! Nothing rests on transactions. A step is one write of one document, acknowledged by the majority's journals (`commands`); what it needs beside
//! is written before it and invisible until then, or follows from it and is repeated by whoever comes next. Start at [`MongoStore`]; the contracts
//! are those of `promptmill_ports`.

mod accounts;
mod claims;
mod codec;
mod collections;
mod commands;
mod deliveries;
mod fault;
mod forget;
mod generations;
mod indexes;
mod options;
mod record_bytes;
mod schema;
mod store;
mod templates;
mod usage;
mod versions;

pub use options::MongoOptions;
pub use store::MongoStore;
