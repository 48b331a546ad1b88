//! How much of everything is measured of a fleet.

use std::time::Duration;

/// How much of everything is measured of a fleet.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Runs of each measure.
    pub runs: u8,
    /// Threads of the async runtime of each process of ours, embedded or not; `None` for as many as the machine has cores.
    pub threads: Option<u32>,
    /// Items of a run without latency.
    pub throughput_items: u32,
    /// Jobs of a lone client in a run.
    pub lone_jobs: u32,
    /// The provider's latency beneath them.
    pub lone_latency: Duration,
    /// Jobs of all waiting clients in a run.
    pub waiting_jobs: u32,
    /// Rows that are accepted in a run.
    pub accepted_rows: u32,
    /// Items of the batch that is counted.
    pub counted_items: u32,
    /// Calls that are made for it before it is paused.
    pub counted_after: u32,
    /// The provider's latency until then.
    pub counted_latency: Duration,
    /// Looks of each kind in a run.
    pub looks: u32,
    /// Items that one worker and two work on.
    pub workers_items: u32,
    /// The provider's latency for them.
    pub workers_latency: Duration,
    /// Calls of a worker at the same time.
    pub workers_slots: u32,
    /// Rows of the large tenant; the worker makes as many calls as one above.
    pub neighbour_rows: u32,
    /// Small batches beside them in a run, and as many alone.
    pub neighbour_batches: u32,
    /// The provider's latency for both.
    pub neighbour_latency: Duration,
    /// Items whose bytes are measured.
    pub space_items: u32,
    /// Slots of a small and of a large worker.
    pub space_slots: (u32, u32),
    /// Calls of each slot.
    pub space_calls: u32,
    /// The provider's latency for them.
    pub space_latency: Duration,
}

impl Sizes {
    /// What the table is made of.
    pub const fn full(runs: u8, threads: Option<u32>) -> Self {
        Self {
            runs,
            threads,
            throughput_items: 200_000,
            lone_jobs: 100,
            lone_latency: Duration::from_millis(50),
            waiting_jobs: 6_400,
            accepted_rows: 1_000_000,
            counted_items: 1_000_000,
            counted_after: 100_000,
            counted_latency: Duration::from_millis(5),
            looks: 10,
            workers_items: 40_960,
            workers_latency: Duration::from_millis(200),
            workers_slots: 256,
            neighbour_rows: 1_000_000,
            neighbour_batches: 50,
            neighbour_latency: Duration::from_millis(200),
            space_items: 200_000,
            space_slots: (64, 2_048),
            space_calls: 16,
            space_latency: Duration::from_secs(1),
        }
    }

    /// So little that every part is through in seconds.
    pub const fn quick(threads: Option<u32>) -> Self {
        Self {
            runs: 1,
            threads,
            throughput_items: 2_000,
            lone_jobs: 3,
            lone_latency: Duration::from_millis(5),
            waiting_jobs: 64,
            accepted_rows: 2_000,
            counted_items: 6_000,
            counted_after: 100,
            // The batch must not be over before its pause is known everywhere, on the slowest machine.
            counted_latency: Duration::from_millis(50),
            looks: 2,
            workers_items: 600,
            workers_latency: Duration::from_millis(20),
            workers_slots: 64,
            neighbour_rows: 20_000,
            neighbour_batches: 2,
            // All slots are in use on the slowest machine too.
            neighbour_latency: Duration::from_millis(200),
            space_items: 4_000,
            space_slots: (8, 64),
            space_calls: 16,
            space_latency: Duration::from_millis(200),
        }
    }
}
