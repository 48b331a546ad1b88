//! The conformance suites of the store ports and of the transfer port.

use crate::TemporaryStore;

promptmill_ports::store_conformance!(TemporaryStore::new().await);
promptmill_ports::transfer_conformance!(TemporaryStore::new().await);
