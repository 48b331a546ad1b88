//! The store in MongoDB, for a fleet: any number of processes over one replica set.
//!
//! Nothing rests on transactions. A step is one write of one document, acknowledged by the majority's journals (`commands`); what it needs beside
//! is written before it and invisible until then, or follows from it and is repeated by whoever comes next. Start at [`MongoStore`]; the contracts
//! are those of `promptmill_ports`.

mod accept;
mod accounts;
mod admission;
mod assignments;
mod batches;
mod bodies;
mod budgets;
mod bundles;
mod claims;
mod close;
mod close_small;
mod codec;
mod collections;
mod commands;
mod control;
mod counts;
mod delete;
mod deliveries;
mod endpoints;
mod examine;
mod fault;
mod fences;
mod forget;
mod generations;
mod heads;
mod indexes;
mod intake;
mod kept_usage;
mod lanes;
mod leases;
mod lists;
mod open_batches;
mod options;
mod order;
mod outbox;
mod parts;
mod read;
mod record_bytes;
mod replies;
mod retention;
mod row_sets;
mod rows;
mod schedules;
mod schema;
mod sessions;
mod slices;
mod store;
mod template_labels;
mod templates;
mod together;
mod transfer;
mod unwritten;
mod uploads;
mod usage;
mod versions;
mod work;

pub use examine::examine;
pub use options::MongoOptions;
pub use store::MongoStore;
