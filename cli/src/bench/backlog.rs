//! A worker's throughput with a long backlog, and while vacuum is held back.

use std::time::Duration;

use super::drain::{SMALL, drain};
use super::env::{BenchEnv, BenchPlan, PUBLISHERS};
use super::schema::Workload;
use super::worker::{BenchWorker, ResourceUsage};
use super::{Bench, alternate};

/// Events of the short backlog; of the long one, the same number is drained.
const SHORT: u32 = 100_000;

const CHECK_INTERVAL: Duration = Duration::from_millis(20);

fn workload(events: u32) -> Workload {
    Workload { events, data: SMALL, keys: 0, lanes: &[""], sampled: 0 }
}

#[derive(Debug, Clone, Copy)]
enum BacklogRun {
    Short,
    Long,
}

pub(super) fn backlog_steps(rounds: u32) -> u64 {
    u64::from(rounds) * 2 + 1
}

/// Drains the first events of a long backlog, compared with a short one.
pub(super) async fn measure_backlog(bench: &mut Bench, plan: &BenchPlan, events: u32) -> anyhow::Result<()> {
    bench.step("writing a long backlog");
    let mut long = plan.create_second().await?;
    long.schema.refill(workload(events)).await?;
    let first = bench.events.min(SHORT).min(events);
    for round in 0..bench.rounds {
        for run in alternate(&[BacklogRun::Short, BacklogRun::Long], round) {
            bench.step("draining before a backlog");
            match run {
                BacklogRun::Short => {
                    bench.env.schema.refill(workload(first)).await?;
                    let (rate, _) = drain_first(&mut bench.env, first).await?;
                    bench.samples.record("backlog.short", rate);
                }
                BacklogRun::Long => {
                    let (rate, usage) = drain_first(&mut long, first).await?;
                    bench.samples.record("backlog.long", rate);
                    bench.samples.record("backlog.events", f64::from(events));
                    usage.peak_mebibytes.into_iter().for_each(|peak| bench.samples.record("backlog.memory", peak));
                }
            }
        }
    }
    Ok(())
}

/// Runs a worker until it has published this many events. Returns events a second.
async fn drain_first(env: &mut BenchEnv, events: u32) -> anyhow::Result<(f64, ResourceUsage)> {
    env.clear_streams().await?;
    env.schema.wait_quiet().await?;
    let before = env.schema.updates().await?;
    let mut worker = BenchWorker::start(env.variables(&PUBLISHERS[..1])?, &["--until-empty"])?;
    while worker.is_running()? && env.schema.updates().await? - before < i64::from(events) {
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
    let usage = worker.stop().await?;
    match env.schema.seconds_for(events).await? {
        Some(seconds) => Ok((f64::from(events) / seconds, usage)),
        None => {
            anyhow::bail!("the worker published fewer than {events} events: the backlog is too short for the rounds")
        }
    }
}

/// Keys of the events that are drained with many dead rows for each key.
const BUSY_KEYS: u32 = 10;

/// Each run: whether vacuum is held back, the number of keys, and the figure.
const PINNED_RUNS: [(bool, u32, &str); 4] = [
    (false, 0, "pinned.without"),
    (true, 0, "pinned"),
    (false, BUSY_KEYS, "pinned.keys.without"),
    (true, BUSY_KEYS, "pinned.keys"),
];

pub(super) fn pinned_steps(rounds: u32) -> u64 {
    u64::from(rounds) * 4
}

/// Drains with an open transaction that keeps 500,000 dead rows, for 200,000 events, compared with none.
pub(super) async fn measure_pinned(bench: &mut Bench) -> anyhow::Result<()> {
    let events = bench.events;
    let dead = events.saturating_mul(5) / 2;
    for round in 0..bench.rounds {
        for (pinned, keys, figure) in alternate(&PINNED_RUNS, round) {
            bench.step("draining while vacuum is held back");
            let env = &mut bench.env;
            env.clear_streams().await?;
            env.schema.empty().await?;
            let pin = if pinned { Some(env.schema.pin().await?) } else { None };
            if pinned {
                env.schema.fill(Workload { keys, ..workload(dead) }).await?;
                env.schema.publish_all().await?;
            }
            env.schema.fill(Workload { keys, ..workload(events) }).await?;
            let drained = drain(env, events, &PUBLISHERS[..1], None).await?;
            drop(pin);
            bench.samples.record(figure, drained.rate);
        }
    }
    Ok(())
}
