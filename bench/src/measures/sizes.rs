//! How much of everything is measured.

use std::time::Duration;

/// How much of everything is measured.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Runs of each measure.
    pub runs: u8,
    /// Items of a run without latency.
    pub throughput_items: u32,
    /// Items of a run with latency.
    pub latency_items: u32,
    /// Calls in flight in it.
    pub latency_concurrency: u32,
    /// The latency.
    pub latency: Duration,
    /// Rows that are accepted in a run.
    pub accepted_rows: u32,
    /// Items of the large batch.
    pub large_batch: u32,
    /// Items of the small one.
    pub small_batch: u32,
    /// How often the small one is run for each large one.
    pub small_batches: u32,
    /// Items whose results are read.
    pub result_items: u32,
    /// Generations of one client in a run.
    pub generations_of_one: u32,
    /// Generations of 64 clients together in a run.
    pub generations_of_many: u32,
    /// The provider's latency beneath them.
    pub generation_latency: Duration,
    /// Items of the batch after which memory is read.
    pub idle_items: u32,
    /// How long nothing is done before memory is read.
    pub idle_for: Duration,
}

impl Sizes {
    /// What the table is made of.
    pub const fn full(runs: u8) -> Self {
        Self {
            runs,
            throughput_items: 200_000,
            latency_items: 50_000,
            latency_concurrency: 512,
            latency: Duration::from_millis(200),
            accepted_rows: 1_000_000,
            large_batch: 1_000_000,
            small_batch: 10_000,
            small_batches: 20,
            result_items: 500_000,
            generations_of_one: 100,
            generations_of_many: 3_200,
            generation_latency: Duration::from_millis(50),
            idle_items: 200_000,
            idle_for: Duration::from_secs(10),
        }
    }

    /// So little that every part is through in seconds.
    pub const fn quick() -> Self {
        Self {
            runs: 1,
            throughput_items: 2_000,
            latency_items: 300,
            latency_concurrency: 64,
            latency: Duration::from_millis(20),
            accepted_rows: 2_000,
            large_batch: 1_500,
            small_batch: 500,
            small_batches: 2,
            result_items: 600,
            generations_of_one: 3,
            generations_of_many: 128,
            generation_latency: Duration::from_millis(5),
            idle_items: 300,
            idle_for: Duration::from_millis(10),
        }
    }
}
