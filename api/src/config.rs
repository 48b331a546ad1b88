//! What an operator may set about the service.

use std::time::Duration;

use clap::Args;
use ipnet::IpNet;
use promptmill_egress::UrlPolicy;
use promptmill_intake::Quotas;

use crate::proxies::Proxies;

/// What an operator says of the service when a process of it starts, whichever it is.
#[derive(Debug, Clone, Args)]
pub struct ApiConfigArgs {
    /// Requests a second that one API key may make of a process on the long run, twice as many at once.
    #[arg(
        long,
        value_name = "N",
        env = "PROMPTMILL_REQUESTS_PER_SECOND",
        default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    requests_per_second: u32,
    /// Subnets of load balancers before the service, for example 10.0.0.5/32: their connections are not counted by address, and X-Forwarded-For says whom
    /// their requests are from.
    #[arg(long, value_name = "CIDR", env = "PROMPTMILL_PROXIES", value_delimiter = ',')]
    proxies: Vec<IpNet>,
    /// Seconds that lie between two ticks of a schedule at least.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "PROMPTMILL_SCHEDULE_SECONDS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    schedule_seconds: u64,
}

impl ApiConfigArgs {
    /// The usual configuration but for what they say.
    pub fn config(&self) -> ApiConfig {
        ApiConfig {
            requests_per_second: self.requests_per_second,
            request_burst: self.requests_per_second.saturating_mul(2),
            proxies: Proxies::new(self.proxies.clone()),
            schedule_seconds: self.schedule_seconds,
            ..ApiConfig::default()
        }
    }
}

/// Sizes, rates and patience of the service. [`ApiConfig::default`] is what `promptmill serve` uses; `GET /v1/limits` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiConfig {
    /// Bytes of one row.
    pub row_bytes: usize,
    /// Bytes of a reply that are kept.
    pub reply_bytes: usize,
    /// Bytes of one item's history of calls.
    pub history_bytes: usize,
    /// Bytes of a JSON body that carries no rows.
    pub json_bytes: usize,
    /// Bytes of a JSON body with rows inline.
    pub inline_bytes: usize,
    /// Bytes of one part on the wire.
    pub part_bytes: u64,
    /// Rows of one batch.
    pub batch_rows: u64,
    /// The least distance of two ticks of a schedule, seconds.
    pub schedule_seconds: u64,
    /// Which servers may be asked for rows of schedules.
    pub sources: UrlPolicy,
    /// Requests a second of one key, on the long run.
    pub requests_per_second: u32,
    /// Requests of one key at once.
    pub request_burst: u32,
    /// Batches of one tenant that run at the same time; further ones wait in `queued`.
    pub running_batches: u32,
    /// Rows one tenant may submit on a day (UTC).
    pub rows_per_day: u64,
    /// Bytes one tenant may have stored, of rows, outcomes and all other records.
    pub stored_bytes: u64,
    /// Refused keys a second of one address, on the long run.
    pub refusals_per_second: u32,
    /// Refused keys of one address at once.
    pub refusal_burst: u32,
    /// Bytes of JSON bodies that are worked on at the same time; one tenant has half of them at most.
    pub body_bytes: usize,
    /// Results that one tenant reads at the same time.
    pub readings_per_tenant: usize,
    /// Results that are read at the same time. Whoever reads slowly holds a page, and what was made of its first outcomes.
    pub readings: usize,
    /// Streams of events that one tenant reads at the same time.
    pub streams_per_tenant: usize,
    /// Streams of events at the same time. Each keeps a connection, and others need some too.
    pub streams: usize,
    /// Immediate generations that run at the same time.
    pub generations: usize,
    /// Connections at the same time.
    pub connections: usize,
    /// Connections of one address at the same time, unless it is that of a load balancer.
    pub connections_per_address: usize,
    /// Load balancers before the service.
    pub proxies: Proxies,
    /// How long a client may take for the headers of a request.
    pub header_time: Duration,
    /// How long a client may take for a whole JSON body.
    pub body_time: Duration,
    /// How long an upload may send nothing.
    pub upload_idle: Duration,
    /// How long a client may take nothing of what is written to it.
    pub write_idle: Duration,
    /// How long a service that is to stop still serves while `/readyz` says that it leaves, and every answer ends its connection.
    pub leave_after: Duration,
    /// How long a stop waits for requests under way.
    pub drain: Duration,
}

impl ApiConfig {
    /// Sizes and quotas of what tenants bring in.
    pub const fn quotas(&self) -> Quotas {
        let Self { row_bytes, batch_rows, rows_per_day, stored_bytes, .. } = *self;
        Quotas { row_bytes, batch_rows, rows_per_day, stored_bytes }
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        let Quotas { row_bytes, batch_rows, rows_per_day, stored_bytes } = Quotas::default();
        Self {
            row_bytes,
            reply_bytes: 1 << 20,
            history_bytes: 4 << 20,
            json_bytes: 1 << 20,
            inline_bytes: 8 << 20,
            part_bytes: 2 << 30,
            batch_rows,
            schedule_seconds: 60,
            sources: UrlPolicy::default(),
            requests_per_second: 50,
            request_burst: 100,
            running_batches: 20,
            rows_per_day,
            stored_bytes,
            refusals_per_second: 10,
            refusal_burst: 100,
            body_bytes: 64 << 20,
            readings_per_tenant: 128,
            readings: 256,
            streams_per_tenant: 256,
            streams: 512,
            generations: 256,
            connections: 1024,
            connections_per_address: 256,
            proxies: Proxies::default(),
            header_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            upload_idle: Duration::from_secs(30),
            write_idle: Duration::from_secs(60),
            leave_after: Duration::ZERO,
            drain: Duration::from_secs(20),
        }
    }
}
