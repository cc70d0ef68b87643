//! The figures of MariaDB and MySQL: how fast a worker drains a backlog, also behind settled rows that cannot be purged, and its
//! latency by polling.

mod database;

use std::time::Duration;

use anyhow::Context;
use uuid::Uuid;

use self::database::{BenchDatabase, MysqlPlan};
use super::drain::SMALL;
use super::latency::{self, SPAN, WRITERS, Writer};
use super::limit::settle_all;
use super::publishing::event;
use super::report::BenchReport;
use super::worker::BenchWorker;
use super::{Args, Bench, alternate, require_whole_run, until_interrupted, with_removal};
use actix_outbox::Settings;
use actix_outbox::admin::OutboxAdmin;

/// Events a second of the latency.
const RATE: u32 = 200;

const CHECK_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy)]
enum MysqlRun {
    LimitOne,
    Drain,
    LimitAll,
    Pinned,
    Latency,
}

const RUNS: [MysqlRun; 5] =
    [MysqlRun::LimitOne, MysqlRun::Drain, MysqlRun::LimitAll, MysqlRun::Pinned, MysqlRun::Latency];

impl MysqlRun {
    fn title(self) -> &'static str {
        match self {
            Self::LimitOne | Self::LimitAll => "fetching and updating alone",
            Self::Drain => "draining",
            Self::Pinned => "draining while purge is held back",
            Self::Latency => "latency",
        }
    }
}

/// Whether the address is one of MariaDB or MySQL.
pub(super) fn is_address(url: &str) -> bool {
    ["mysql:", "mariadb:"].iter().any(|scheme| url.starts_with(scheme))
}

/// Creates a database, measures, and removes it, also after an error.
pub(super) async fn measure(args: &Args, settings: &Settings) -> anyhow::Result<BenchReport> {
    require_whole_run(args, "MariaDB or MySQL")?;
    let plan = MysqlPlan::new(settings)?;
    plan.require_redis().await?;
    plan.remove_abandoned().await?;
    let measured = until_interrupted(perform(args, &plan)).await;
    let removed = until_interrupted(plan.remove()).await.with_context(|| plan.removal_hint());
    with_removal(measured, removed)
}

async fn perform(args: &Args, plan: &MysqlPlan) -> anyhow::Result<BenchReport> {
    let steps = u64::from(args.rounds) * RUNS.len() as u64 + 1;
    let mut bench = Bench::new(args, plan.create().await?, steps);
    bench.step("warming up");
    let connections = connections_of_a_worker(&mut bench).await?;
    for round in 0..bench.rounds {
        for run in alternate(&RUNS, round) {
            bench.step(run.title());
            measure_once(&mut bench, run, connections).await?;
        }
        bench.samples.record("mysql.limit.connections", connections as f64);
    }
    let (database, redis) = bench.env.versions().await?;
    Ok(BenchReport::new(bench.events, bench.rounds, database, Some(redis), &bench.samples))
}

async fn measure_once(bench: &mut Bench<BenchDatabase>, run: MysqlRun, connections: usize) -> anyhow::Result<()> {
    let (env, samples, events) = (&mut bench.env, &mut bench.samples, bench.events);
    env.recreate().await?;
    match run {
        MysqlRun::LimitOne => samples.record("mysql.limit.one", fill_and_settle(env, events, 1).await?),
        MysqlRun::LimitAll => samples.record("mysql.limit.all", fill_and_settle(env, events, connections).await?),
        MysqlRun::Drain => {
            env.fill(events).await?;
            samples.record("mysql.drain", drain(env, events).await?);
        }
        MysqlRun::Pinned => samples.record("mysql.pinned", drain_pinned(env, events, connections).await?),
        MysqlRun::Latency => {
            for (name, value) in latency::quantiles(latencies(env, events).await?) {
                samples.record(format!("mysql.latency.polling.200.{name}"), value);
            }
        }
    }
    Ok(())
}

/// Events a second of the worker's statements alone.
async fn fill_and_settle(env: &mut BenchDatabase, events: u32, connections: usize) -> anyhow::Result<f64> {
    env.fill(events).await?;
    settle_all(env.url(), env.worker(), SMALL, connections, false).await
}

/// Events a second, from the worker's first heartbeat to the last event that it settles, by the database's clock.
async fn drain(env: &mut BenchDatabase, events: u32) -> anyhow::Result<f64> {
    env.stream.remove().await?;
    let mut worker = BenchWorker::start(env.variables()?, &["--until-empty"])?;
    let mut started = None;
    while worker.is_running()? && started.is_none() {
        started = env.worker_started().await?;
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
    worker.wait().await?;
    let started = started.context("the worker ended before its heartbeat was seen")?;
    let drained = env.drained(started).await?;
    anyhow::ensure!(drained.events == i64::from(events), "the worker delivered {} of {events} events", drained.events);
    Ok(f64::from(events) / drained.took.as_secs_f64())
}

/// The same behind 500,000 settled events, for 200,000, which an open snapshot keeps from being purged.
async fn drain_pinned(env: &mut BenchDatabase, events: u32, connections: usize) -> anyhow::Result<f64> {
    let pin = env.pin().await?;
    env.fill(events.saturating_mul(5) / 2).await?;
    settle_all(env.url(), env.worker(), SMALL, connections, false).await?;
    env.fill(events).await?;
    let rate = drain(env, events).await?;
    drop(pin);
    Ok(rate)
}

/// Drains a few events to warm up, and counts the connections on which a worker fetches and updates; the heartbeat has
/// another one.
async fn connections_of_a_worker(bench: &mut Bench<BenchDatabase>) -> anyhow::Result<usize> {
    let env = &mut bench.env;
    env.recreate().await?;
    env.fill(bench.events.min(50_000)).await?;
    let others = env.connections().await?;
    let mut worker = BenchWorker::start(env.variables()?, &["--until-empty"])?;
    let mut most = 0;
    while worker.is_running()? {
        most = most.max(env.connections().await? - others);
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
    worker.wait().await?;
    Ok(usize::try_from(most - 1).unwrap_or(0).max(1))
}

/// Publishes on connections of its own.
struct AdminWriter(OutboxAdmin);

impl Writer for AdminWriter {
    async fn write(&mut self) -> anyhow::Result<Uuid> {
        Ok(self.0.publish(event()).await?.id)
    }
}

/// From the answer to each commit until its entry was read.
async fn latencies(env: &mut BenchDatabase, events: u32) -> anyhow::Result<Vec<Duration>> {
    env.stream.remove().await?;
    let worker = BenchWorker::start(env.variables()?, &[])?;
    let mut stream = env.reader().await?;
    latency::wait_delivery(&mut AdminWriter(env.admin()?), &mut stream).await?;
    let writers = (0..WRITERS).map(|_| Ok(AdminWriter(env.admin()?))).collect::<anyhow::Result<_>>()?;
    let latencies = latency::write_and_read(stream, writers, RATE, events.min(RATE * SPAN)).await?;
    worker.stop().await?;
    Ok(latencies)
}
