//! Either of the two that some measures are taken of.

use std::time::Duration;

use crate::client::Client;
use crate::engine::Engine;
use crate::fleet::{CpuTimes, Fleet};

/// What is measured.
pub(super) enum Engines {
    /// `promptmill serve`.
    Serve(Engine),
    /// An api, workers and a scheduler over MongoDB and Redis.
    Fleet(Box<Fleet>),
}

impl Engines {
    /// A client with the key of its first tenant.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        match self {
            Self::Serve(engine) => engine.client(),
            Self::Fleet(fleet) => fleet.client(),
        }
    }

    /// CPU it has used so far, that of the servers beneath included.
    pub(super) fn cpu_times(&self) -> anyhow::Result<CpuTimes> {
        match self {
            Self::Serve(engine) => {
                Ok(CpuTimes { ours: engine.cpu_time()?, mongo: Duration::ZERO, redis: Duration::ZERO })
            }
            Self::Fleet(fleet) => fleet.cpu_times(),
        }
    }

    /// Asks every process to stop and waits until it has.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Serve(engine) => engine.stop(),
            Self::Fleet(fleet) => fleet.stop(),
        }
    }
}
