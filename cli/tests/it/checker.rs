//! The checker: judges a run by what could be seen from outside, and by nothing the engine says about itself.
//!
//! Evidence is the client's [`journal`] (what it asked for, written down and synced before each request), the provider's ledger (every
//! call that was begun) and what the API or the results file gave out, at the end and now and then before it. [`judge`](judge::judge)
//! counts, and names the invariants that broke; [`table`] keeps and prints the counts. A module of these tests and not a crate: the
//! binary under test is only known here, and whoever wants the table runs these tests (`bench/faults.sh`).

pub(crate) mod history;
pub(crate) mod journal;
pub(crate) mod judge;
pub(crate) mod recurring;
pub(crate) mod table;

#[cfg(test)]
mod bad_histories;
