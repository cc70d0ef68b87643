//! The resources that an idle worker uses.

use std::time::{Duration, Instant};

use super::Bench;
use super::env::{BenchEnv, PUBLISHERS};
use super::latency::wait_ready;
use super::worker::BenchWorker;

/// How much longer this measurement is than the others, because connections report their commits once a second.
const LONGER: u32 = 3;

pub(super) fn steps(rounds: u32) -> u64 {
    rounds.into()
}

pub(super) async fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let span = bench.span() * LONGER;
    for _ in 0..bench.rounds {
        bench.step("an idle worker");
        let (statements, core) = measure_once(&mut bench.env, span).await?;
        bench.samples.record("idle.statements", statements);
        core.into_iter().for_each(|core| bench.samples.record("idle.cpu", core));
    }
    Ok(())
}

/// Statements a second, each of which is a transaction of its own, and the percentage of one processor.
async fn measure_once(env: &mut BenchEnv, span: Duration) -> anyhow::Result<(f64, Option<f64>)> {
    env.clear_streams().await?;
    env.schema.empty().await?;
    let worker = BenchWorker::start(env.variables(&PUBLISHERS[..1])?, &[])?;
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
