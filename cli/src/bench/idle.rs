//! The resources that an idle worker uses, with one publisher and with many.

use std::time::{Duration, Instant};

use super::Bench;
use super::env::{BenchEnv, MOST_PUBLISHERS, PUBLISHERS};
use super::latency::wait_ready;
use super::worker::BenchWorker;

/// How much longer this measurement is than the others, because connections report their commits once a second.
const LONGER: u32 = 3;

/// The publishers of a worker, and the names of its figures.
const WORKERS: [(usize, &str, &str); 2] =
    [(1, "idle.statements", "idle.cpu"), (MOST_PUBLISHERS, "idle.many.statements", "idle.many.cpu")];

/// The leases of a lane.
const SHARDS: i64 = 32;

/// How long a worker may take to acquire its leases.
const STARTING: Duration = Duration::from_secs(60);

/// Connections report their commits once a second.
const REPORTING: Duration = Duration::from_millis(1_100);

/// The commits in that time of an idle worker with few lanes.
const FEW: i64 = 50;

const LOOK_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn steps(rounds: u32) -> u64 {
    u64::from(rounds) * WORKERS.len() as u64
}

pub(super) async fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let span = bench.span() * LONGER;
    for _ in 0..bench.rounds {
        for (publishers, statements_name, cpu_name) in WORKERS {
            bench.step("an idle worker");
            let (statements, core) = measure_once(&mut bench.env, publishers, span).await?;
            bench.samples.record(statements_name, statements);
            core.into_iter().for_each(|core| bench.samples.record(cpu_name, core));
        }
    }
    Ok(())
}

/// Statements a second, each of which is a transaction of its own, and the percentage of one processor.
async fn measure_once(env: &mut BenchEnv, publishers: usize, span: Duration) -> anyhow::Result<(f64, Option<f64>)> {
    env.clear_streams().await?;
    env.schema.empty().await?;
    let worker = BenchWorker::start(env.variables_for(publishers)?, &[])?;
    // The default publisher has a second lane, of events that name none.
    let lanes = i64::try_from(publishers + 1)?;
    wait_leases(env, lanes).await?;
    wait_calm(env, lanes).await?;
    wait_ready(env, &mut env.reader(PUBLISHERS[0]).await?).await?;
    // Both the first and the last commits are reported late.
    tokio::time::sleep(span / LONGER).await;
    let (started, commits, cpu) = (Instant::now(), env.schema.commits().await?, worker.usage().cpu);
    tokio::time::sleep(span).await;
    let (commits, after) = (env.schema.commits().await? - commits, worker.usage().cpu);
    let seconds = started.elapsed().as_secs_f64();
    worker.stop().await?;
    let busy = after.zip(cpu).map(|(after, before)| after.saturating_sub(before));
    Ok((commits as f64 / seconds, busy.map(|busy| busy.as_secs_f64() * 100.0 / seconds)))
}

/// Waits until the worker has all its leases.
async fn wait_leases(env: &BenchEnv, lanes: i64) -> anyhow::Result<()> {
    let began = Instant::now();
    while env.schema.running_leases().await? < lanes * SHARDS {
        anyhow::ensure!(began.elapsed() < STARTING, "the worker has not acquired its leases within {STARTING:?}");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// Waits until the worker has read its lanes: until it sends less than a statement a second for each, or for a while.
async fn wait_calm(env: &BenchEnv, lanes: i64) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut before = env.schema.commits().await?;
    while began.elapsed() < STARTING {
        tokio::time::sleep(REPORTING).await;
        let commits = env.schema.commits().await?;
        if commits - before < lanes.max(FEW) {
            break;
        }
        before = commits;
    }
    Ok(())
}
