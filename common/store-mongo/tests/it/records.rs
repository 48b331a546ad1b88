//! The conformance suite of the record ports.

use crate::TemporaryStore;

promptmill_ports::records_conformance!(TemporaryStore::new().await);
