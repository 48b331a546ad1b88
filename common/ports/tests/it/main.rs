//! The in-memory hub passes the hub's conformance suite; so does the faulty one while its faults are off.

mod memory {
    promptmill_ports::hub_conformance!(std::sync::Arc::new(promptmill_ports::MemoryHub::new()));
}

mod faulty {
    use promptmill_ports::hub::{Faults, FaultyHub};

    const NONE: Faults = Faults { drop: 0.0, repeat: 0.0, delay: 0.0, forget: 0.0, fail: 0.0 };

    promptmill_ports::hub_conformance!(std::sync::Arc::new(FaultyHub::new(1, NONE)));
}
