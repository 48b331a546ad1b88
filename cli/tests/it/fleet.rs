//! A fleet: any number of `promptmill api`, `worker` and `scheduler` as processes of their own, on a real MongoDB and a real Redis.
//!
//! Each process is a [`Program`], which can be killed, stopped and started again; [`Servers`] are what they share. A test that fails
//! shows the last words of each.

mod journeys;
mod program;
mod servers;

pub(crate) use program::Program;
pub(crate) use servers::Servers;

use crate::server::Http;
use crate::support::Desk;

/// How many processes of each role, and what a worker does at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) apis: usize,
    pub(crate) workers: usize,
    pub(crate) schedulers: usize,
    /// Calls at once of every worker.
    pub(crate) concurrency: u32,
}

impl Size {
    /// One process of each role.
    pub(crate) const ONE: Self = Self { apis: 1, workers: 1, schedulers: 1, concurrency: 16 };
    /// Two processes of each role.
    pub(crate) const TWO: Self = Self { apis: 2, workers: 2, schedulers: 2, concurrency: 16 };
}

/// Everything that runs.
pub(crate) struct Fleet {
    pub(crate) apis: Vec<Program>,
    pub(crate) workers: Vec<Program>,
    pub(crate) schedulers: Vec<Program>,
    pub(crate) servers: Servers,
    /// The owner's key of the tenant `default`.
    pub(crate) key: String,
}

impl Fleet {
    /// A fleet on a database and a Redis of its own.
    pub(crate) fn new(desk: &mut Desk, size: Size) -> Self {
        Self::on(desk, Servers::start(), size)
    }

    /// A fleet on these servers.
    pub(crate) fn on(desk: &mut Desk, servers: Servers, size: Size) -> Self {
        servers.point_at(desk);
        let key = Self::new_key(desk, "default");
        Self::with_key(desk, servers, size, &key)
    }

    /// A fleet on these servers, at which the desk points already, whose store knows the key.
    pub(crate) fn with_key(desk: &Desk, servers: Servers, size: Size, key: &str) -> Self {
        let start = |role, count, more: &[&str]| -> Vec<_> {
            (0..count).map(|n| Program::start(desk, role, n, more)).collect()
        };
        let concurrency = size.concurrency.to_string();
        let receivers = ["--webhook-subnets", "127.0.0.0/8", "--source-subnets", "127.0.0.0/8"];
        Self {
            apis: start("api", size.apis, &[&receivers[..], &["--requests-per-second", "100000"]].concat()),
            workers: start("worker", size.workers, &["--concurrency", &concurrency]),
            schedulers: start("scheduler", size.schedulers, &receivers),
            servers,
            key: key.to_owned(),
        }
    }

    /// A new owner's key of the tenant, which is made when missing. No process of a fleet needs to run.
    pub(crate) fn new_key(desk: &Desk, tenant: &str) -> String {
        let made = desk
            .promptmill(&["key", "create", "owner", "--role", "owner", "--fleet", "--tenant", tenant])
            .check_code(0);
        made.stdout.trim().to_owned()
    }

    /// A client of the first api.
    pub(crate) fn client(&self) -> Http {
        self.client_of(0)
    }

    /// A client of that api.
    pub(crate) fn client_of(&self, api: usize) -> Http {
        Http::new(&self.apis[api].url, &self.key)
    }

    /// Every process.
    pub(crate) fn programs(&mut self) -> impl Iterator<Item = &mut Program> {
        self.apis.iter_mut().chain(&mut self.workers).chain(&mut self.schedulers)
    }

    /// Stops every process in order, those that let work in first, and answers all they logged.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> String {
        let mut log = String::new();
        for program in self.programs() {
            let (code, said) = program.stop();
            assert_eq!(code, Some(0), "{} ended so:\n{said}", program.name());
            log.push_str(&said);
        }
        log
    }

    /// The most memory that any process which runs had resident so far, KiB.
    pub(crate) fn peak_kib(&mut self) -> u64 {
        self.programs().map(|program| program.peak_kib()).max().unwrap_or(0)
    }
}
