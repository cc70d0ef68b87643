//! The cost of wake-ups for writers.

use std::time::Duration;

use tokio::task::JoinSet;

use super::env::{BenchEnv, PUBLISHERS};
use super::latency::wait_ready;
use super::pace::Pace;
use super::publishing::{event, sum_rates};
use super::schema::RawConnection;
use super::system::System;
use super::worker::BenchWorker;
use super::{Bench, SLICES, alternate};
use actix_outbox::Outbox;
use actix_outbox::publish;

const WRITERS: usize = 32;

const RUNS: [(&str, bool); 2] = [("wakes.without", false), ("wakes.with", true)];

pub(super) fn steps(rounds: u32) -> u64 {
    u64::from(rounds * SLICES) * RUNS.len() as u64
}

pub(super) async fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let span = bench.span() / SLICES;
    for round in 0..bench.rounds * SLICES {
        for (name, wakes) in alternate(&RUNS, round) {
            bench.step("wake-ups");
            let rate = measure_once(&mut bench.env, wakes, span).await?;
            bench.samples.record(name, rate);
        }
    }
    Ok(())
}

/// Commits a second, while a worker in another process delivers the events.
async fn measure_once(env: &mut BenchEnv, wakes: bool, span: Duration) -> anyhow::Result<f64> {
    env.clear_streams().await?;
    env.schema.empty().await?;
    let system = System::publishing(env).await?;
    let worker = BenchWorker::start(env.variables(&PUBLISHERS[..1])?, &[])?;
    wait_ready(env, &mut env.reader(PUBLISHERS[0]).await?).await?;
    let mut connections = Vec::new();
    for _ in 0..WRITERS {
        connections.push(env.schema.connection().await?);
    }
    let writers: JoinSet<_> =
        connections.into_iter().map(|raw| write(raw, wakes.then(|| system.outbox.clone()), span)).collect();
    let rate = sum_rates(writers).await?;
    worker.stop().await?;
    Ok(rate)
}

async fn write(mut raw: RawConnection, outbox: Option<Outbox>, span: Duration) -> anyhow::Result<f64> {
    let mut pace = Pace::over(span);
    while pace.should_continue() {
        publish(&mut raw.0, event()).await?;
        if let Some(outbox) = &outbox {
            outbox.wake();
        }
    }
    Ok(pace.rate())
}
