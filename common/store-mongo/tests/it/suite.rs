//! The conformance suite of the store ports.

use crate::TemporaryStore;

promptmill_ports::store_conformance!(TemporaryStore::new().await);
