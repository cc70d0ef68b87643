//! The time from the answer to a commit until the entry is in the stream.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::env::{BenchEnv, PUBLISHERS};
use super::publishing::event;
use super::schema::RawConnection;
use super::system::System;
use super::worker::BenchWorker;
use super::{Bench, alternate};
use actix_outbox::Outbox;
use actix_outbox::bench_api::RawStream;
use actix_outbox::publish;

/// Who wakes the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// The worker's own process.
    Same,
    /// Another process.
    Other,
    /// No process: the worker polls every `poll_interval`.
    Polling,
}

/// Events a second.
const RATES: [u32; 2] = [200, 2_000];

/// Connections that the events are written on.
pub(super) const WRITERS: u32 = 8;

/// How many seconds events are written.
pub(super) const SPAN: u32 = 4;

/// How long a worker may take until it delivers: one that is not optimised reads the shards of 21 lanes first.
const STARTING: Duration = Duration::from_secs(120);

/// How long to wait for an entry before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);

fn runs() -> Vec<(Wake, u32)> {
    let wakes = [Wake::Same, Wake::Other, Wake::Polling];
    wakes.into_iter().flat_map(|wake| RATES.map(|rate| (wake, rate))).collect()
}

pub(super) fn steps(rounds: u32) -> u64 {
    u64::from(rounds) * runs().len() as u64
}

pub(super) async fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    for round in 0..bench.rounds {
        for (wake, rate) in alternate(&runs(), round) {
            bench.step("latency");
            let latencies = measure_once(&mut bench.env, wake, rate, bench.events).await?;
            for (name, value) in quantiles(latencies) {
                bench.samples.record(format!("latency.{}.{rate}.{name}", wake.name()), value);
            }
        }
    }
    Ok(())
}

impl Wake {
    fn name(self) -> &'static str {
        match self {
            Self::Same => "same_process",
            Self::Other => "other_process",
            Self::Polling => "polling",
        }
    }
}

async fn measure_once(env: &mut BenchEnv, wake: Wake, rate: u32, events: u32) -> anyhow::Result<Vec<Duration>> {
    env.clear_streams().await?;
    env.schema.empty().await?;
    let system = match wake {
        Wake::Same => Some(System::working(env).await?),
        Wake::Other => Some(System::publishing(env).await?),
        Wake::Polling => None,
    };
    let worker = match wake {
        Wake::Same => None,
        Wake::Other | Wake::Polling => Some(BenchWorker::start(env.variables(&PUBLISHERS[..1])?, &[])?),
    };
    let mut stream = env.reader(PUBLISHERS[0]).await?;
    wait_ready(env, &mut stream).await?;
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let outbox = system.as_ref().map(|system| system.outbox.clone());
        writers.push(RawWriter { raw: env.schema.connection().await?, outbox });
    }
    let latencies = write_and_read(stream, writers, rate, events.min(rate * SPAN)).await?;
    if let Some(worker) = worker {
        worker.stop().await?;
    }
    Ok(latencies)
}

/// Commits events one after the other.
pub(super) trait Writer: Send + 'static {
    /// Publishes an event in its own transaction. Returns its id once the commit is answered.
    fn write(&mut self) -> impl Future<Output = anyhow::Result<Uuid>> + Send;

    /// Wakes the workers after the commit.
    fn wake(&self) {}
}

/// Publishes on a connection of its own, and wakes the workers of a system.
struct RawWriter {
    raw: RawConnection,
    outbox: Option<Outbox>,
}

impl Writer for RawWriter {
    async fn write(&mut self) -> anyhow::Result<Uuid> {
        Ok(publish(&mut self.raw.0, event()).await?.id)
    }

    fn wake(&self) {
        self.outbox.iter().for_each(Outbox::wake);
    }
}

/// Publishes one event and waits until the worker has delivered it.
pub(super) async fn wait_ready(env: &BenchEnv, stream: &mut RawStream) -> anyhow::Result<()> {
    let raw = env.schema.connection().await?;
    wait_delivery(&mut RawWriter { raw, outbox: None }, stream).await
}

/// As [`wait_ready`], with any writer.
pub(super) async fn wait_delivery(writer: &mut impl Writer, stream: &mut RawStream) -> anyhow::Result<()> {
    let first = writer.write().await?;
    let came = async {
        while !stream.next_ids().await?.contains(&first) {}
        anyhow::Ok(())
    };
    tokio::time::timeout(STARTING, came)
        .await
        .with_context(|| format!("the worker delivered no event within {STARTING:?}"))?
}

/// Writes `events` at this rate, in turns, and reads their entries. Returns the time from the answer to each commit until its
/// entry was read.
pub(super) async fn write_and_read(
    stream: RawStream,
    writers: Vec<impl Writer>,
    rate: u32,
    events: u32,
) -> anyhow::Result<Vec<Duration>> {
    let count = u32::try_from(writers.len())?;
    let each = events.div_ceil(count);
    let period = Duration::from_secs(1) * count / rate;
    let reading = tokio::spawn(read(stream, usize::try_from(each * count)?));
    let mut writing = JoinSet::new();
    for (number, writer) in (0..).zip(writers) {
        let first = tokio::time::Instant::now() + period * number / count;
        writing.spawn(write(writer, tokio::time::interval_at(first, period), each));
    }
    let mut committed = Vec::new();
    while let Some(written) = writing.join_next().await {
        committed.extend(written.context("a measurement's task failed")??);
    }
    let seen = tokio::time::timeout(PATIENCE, reading).await.context("entries are missing in the stream")???;
    // If the entry was read before the answer to the commit arrived, its latency is zero.
    let latency = |(id, at): &(Uuid, Instant)| seen.get(id).map(|seen| seen.saturating_duration_since(*at));
    committed.iter().map(latency).collect::<Option<_>>().context("entries are missing in the stream")
}

/// Publishes this many events, one in each interval, and returns when each was committed.
async fn write(
    mut writer: impl Writer,
    mut interval: tokio::time::Interval,
    events: u32,
) -> anyhow::Result<Vec<(Uuid, Instant)>> {
    let mut committed = Vec::new();
    for _ in 0..events {
        interval.tick().await;
        let id = writer.write().await?;
        committed.push((id, Instant::now()));
        writer.wake();
    }
    Ok(committed)
}

/// Reads this many entries, and returns when each was read.
async fn read(mut stream: RawStream, entries: usize) -> anyhow::Result<HashMap<Uuid, Instant>> {
    let mut seen = HashMap::new();
    while seen.len() < entries {
        let ids = stream.next_ids().await?;
        let now = Instant::now();
        seen.extend(ids.into_iter().map(|id| (id, now)));
    }
    Ok(seen)
}

/// Quantiles in milliseconds.
pub(super) fn quantiles(mut latencies: Vec<Duration>) -> Vec<(&'static str, f64)> {
    latencies.sort_unstable();
    let last = latencies.len().saturating_sub(1);
    let at = |share: f64| latencies.get((last as f64 * share).round() as usize).map(|it| it.as_secs_f64() * 1e3);
    let wanted = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)];
    wanted.into_iter().filter_map(|(name, share)| Some((name, at(share)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_taken_from_what_was_measured() {
        let latencies = (0..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(quantiles(latencies), [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("max", 100.0)]);
        assert_eq!(quantiles(Vec::new()), []);
    }
}
