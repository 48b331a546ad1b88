//! The store in one SQLite file, for a process that runs every role itself.
//!
//! One writer thread commits in groups (`engine`), a few readers answer from snapshots (`readers`); every change of a
//! head is one `Head::apply` (`heads`). The folder is locked while the store lives, so that at [`SqliteStore::open`]
//! every session of before is known to be dead. Start at [`SqliteStore`]; the contracts are those of `promptmill_ports`.

mod accounts;
mod admission;
mod batches;
mod budgets;
mod claims;
mod close;
mod control;
mod counts;
mod delete;
mod deliveries;
mod endpoints;
mod engine;
mod fault;
mod generations;
mod heads;
mod intake;
mod lanes;
mod lists;
mod order;
mod outbox;
mod read;
mod readers;
mod replies;
mod retention;
mod row_sets;
mod rows;
mod schedules;
mod schema;
mod sessions;
mod store;
mod template_labels;
mod templates;
mod transfer;
mod uploads;
mod usage;
mod work;

#[cfg(test)]
mod tests;

pub use store::{SqliteOptions, SqliteStore};
