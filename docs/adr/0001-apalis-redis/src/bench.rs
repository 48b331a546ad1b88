//! The bench: one Redis, one queue, a worker that does nothing, and what Redis says about itself.
//!
//! Only the public API of apalis-redis is used for pushing and working, with its defaults but for a shorter heartbeat.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apalis::prelude::{BoxDynError, Data, TaskBuilder, TaskSink, WorkerBuilder};
use apalis_redis::{Config, ConnectionManager, RedisStorage};

const QUEUE: &str = "measured";
/// Below the limit that [`crate::due`] shows, so that the other measurements do not meet it.
const SLICE: usize = 2_000;

/// How a worker ended.
#[derive(Debug)]
pub enum End {
    /// All tasks asked for are done.
    Done,
    /// The worker returned an error.
    Failed(String),
    /// The worker returned without an error, and tasks are left.
    Stopped,
    /// The time is over.
    TimedOut,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("all done"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::Stopped => f.write_str("stopped without an error"),
            Self::TimedOut => f.write_str("did not finish in time"),
        }
    }
}

/// A builder as it came: no options.
pub fn plain(builder: TaskBuilder<u64>) -> TaskBuilder<u64> {
    builder
}

/// One Redis that was empty, and the queue on it.
pub struct Bench {
    redis: ConnectionManager,
    workers: usize,
    order: Arc<Mutex<Vec<u64>>>,
}

impl Bench {
    /// Connects, and refuses a Redis that holds anything.
    pub async fn connect(url: &str) -> Result<Self> {
        let redis = apalis_redis::connect(url).await.context("no Redis there")?;
        let mut bench = Self { redis, workers: 0, order: Arc::default() };
        if bench.keys().await? > 0 {
            bail!("this Redis is not empty; the measurements would delete what it holds");
        }
        Ok(bench)
    }

    pub async fn flush(&mut self) -> Result<()> {
        self.order.lock().expect("no handler panics").clear();
        Ok(redis::cmd("FLUSHALL").query_async(&mut self.redis).await?)
    }

    /// Pushes `count` tasks, in one go.
    pub async fn push(
        &mut self,
        count: usize,
        options: fn(TaskBuilder<u64>) -> TaskBuilder<u64>,
    ) -> Result<()> {
        self.push_from(0, count, options).await
    }

    pub async fn push_from(
        &mut self,
        first: u64,
        count: usize,
        options: fn(TaskBuilder<u64>) -> TaskBuilder<u64>,
    ) -> Result<()> {
        let mut storage = self.storage();
        let all: Vec<u64> = (first..first + count as u64).collect();
        for slice in all.chunks(SLICE) {
            for &task in slice {
                let task = options(TaskBuilder::new(task)).build();
                storage.push_task(task).await.map_err(|error| anyhow::anyhow!("push: {error}"))?;
            }
        }
        Ok(())
    }

    /// Pushes `count` tasks and promotes them to the ready list in slices, as the library's script would if it could.
    pub async fn push_ready(&mut self, count: usize) -> Result<()> {
        self.push(count, plain).await?;
        let config = config();
        loop {
            let ids: Vec<String> = redis::cmd("ZRANGE")
                .arg(config.scheduled_jobs_set())
                .arg(0)
                .arg(SLICE - 1)
                .query_async(&mut self.redis)
                .await?;
            if ids.is_empty() {
                return Ok(());
            }
            redis::pipe()
                .cmd("RPUSH")
                .arg(config.active_jobs_list())
                .arg(&ids)
                .ignore()
                .cmd("ZREM")
                .arg(config.scheduled_jobs_set())
                .arg(&ids)
                .ignore()
                .query_async::<()>(&mut self.redis)
                .await?;
        }
    }

    /// Runs a worker until `count` tasks are recorded as done, it ends, or `limit` is over.
    pub async fn work_until_done(&mut self, count: usize, limit: Duration) -> Result<End> {
        async fn run(task: u64, order: Data<Arc<Mutex<Vec<u64>>>>) -> Result<(), BoxDynError> {
            order.lock().expect("no handler panics").push(task);
            Ok(())
        }
        let name = self.worker_name();
        let worker =
            WorkerBuilder::new(name).backend(self.storage()).data(Arc::clone(&self.order)).build(run);
        let mut watcher = Self { redis: self.redis.clone(), workers: 0, order: Arc::default() };
        let watch = async {
            while watcher.done().await? < count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        Ok(tokio::select! {
            ended = worker.run() => match ended {
                Ok(()) => End::Stopped,
                Err(error) => End::Failed(error.to_string()),
            },
            seen = watch => seen.map(|()| End::Done)?,
            () = tokio::time::sleep(limit) => End::TimedOut,
        })
    }

    /// Runs a worker whose task always fails for `period`; how often it ran.
    pub async fn count_failing_runs(&mut self, period: Duration) -> Result<usize> {
        async fn fail(_: u64, runs: Data<Arc<AtomicUsize>>) -> Result<(), BoxDynError> {
            runs.fetch_add(1, Ordering::Relaxed);
            Err("this task always fails".into())
        }
        let runs = Arc::new(AtomicUsize::new(0));
        let name = self.worker_name();
        let worker = WorkerBuilder::new(name).backend(self.storage()).data(Arc::clone(&runs)).build(fail);
        tokio::select! {
            ended = worker.run() => bail!("the worker ended: {ended:?}"),
            () = tokio::time::sleep(period) => {}
        }
        Ok(runs.load(Ordering::Relaxed))
    }

    /// The tasks in the order they were run in since the last flush.
    pub fn order(&self) -> Vec<u64> {
        self.order.lock().expect("no handler panics").clone()
    }

    /// Tasks recorded as done.
    pub async fn done(&mut self) -> Result<usize> {
        Ok(redis::cmd("SCARD").arg(config().done_jobs_set()).query_async(&mut self.redis).await?)
    }

    pub async fn keys(&mut self) -> Result<usize> {
        Ok(redis::cmd("DBSIZE").query_async(&mut self.redis).await?)
    }

    pub async fn expiring_keys(&mut self) -> Result<usize> {
        let keyspace = self.info("keyspace").await?;
        let field = keyspace.split_once("expires=").and_then(|(_, rest)| rest.split([',', '\r']).next());
        Ok(field.context("INFO keyspace has no expires")?.parse()?)
    }

    pub async fn used_memory(&mut self) -> Result<i64> {
        Ok(field(&self.info("memory").await?, "used_memory:")?.parse()?)
    }

    /// CPU seconds of the Redis process so far.
    pub async fn cpu(&mut self) -> Result<f64> {
        let info = self.info("cpu").await?;
        Ok(field(&info, "used_cpu_sys:")?.parse::<f64>()? + field(&info, "used_cpu_user:")?.parse::<f64>()?)
    }

    /// Mean time of one command since the last reset, in microseconds; 0 when it was never called.
    pub async fn usec_per_call(&mut self, command: &str) -> Result<f64> {
        let info = self.info("commandstats").await?;
        let Ok(line) = field(&info, &format!("cmdstat_{command}:")) else { return Ok(0.0) };
        let part = line.split(',').find_map(|part| part.strip_prefix("usec_per_call="));
        Ok(part.context("INFO commandstats has no usec_per_call")?.parse()?)
    }

    pub async fn reset_statistics(&mut self) -> Result<()> {
        Ok(redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut self.redis).await?)
    }

    pub async fn server_version(&mut self) -> Result<String> {
        Ok(field(&self.info("server").await?, "redis_version:")?.to_owned())
    }

    async fn info(&mut self, section: &str) -> Result<String> {
        Ok(redis::cmd("INFO").arg(section).query_async(&mut self.redis).await?)
    }

    fn storage(&self) -> RedisStorage<u64> {
        RedisStorage::new(self.redis.clone()).with_config(config())
    }

    /// A name of its own for each worker: the library refuses one that it still knows.
    fn worker_name(&mut self) -> &'static str {
        self.workers += 1;
        format!("worker-{}", self.workers).leak()
    }
}

fn config() -> Config {
    // A worker that found nothing looks again at its heartbeat. (`poll_with_interval` was no way out: with 50 ms its worker stopped
    // looking after a few rounds, although a task was due.)
    Config::default().queue(QUEUE).heartbeat_interval(Duration::from_millis(200))
}

fn field<'a>(info: &'a str, name: &str) -> Result<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
        .with_context(|| format!("INFO has no {name}"))
}
