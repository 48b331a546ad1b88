//! What is counted, for Prometheus.

use prometheus::Registry;

/// The metrics of one process. Names begin with `promptmill_`; labels never hold what a client wrote.
pub struct Metrics {
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        Self { registry: Registry::new() }
    }

    /// Where they are gathered from.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}
