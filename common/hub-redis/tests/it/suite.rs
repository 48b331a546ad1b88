//! The conformance suite of the hub ports.

use crate::scene::Scene;

promptmill_ports::hub_conformance!(Scene::new().await);
