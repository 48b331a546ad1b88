//! What every backend must pass, as functions over the ports and a macro that makes a test of each.

pub mod hub;
pub mod records;
pub mod store;
pub mod transfer;
