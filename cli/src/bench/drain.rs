//! A worker's throughput and cost when it drains a backlog, and the throughput of the database and Redis alone.

use std::time::{Duration, Instant};

use super::collector::Collector;
use super::cpu::{self, ServerCpu};
use super::env::{BenchEnv, PUBLISHERS};
use super::limit::{fetch_and_delete, fetch_and_update};
use super::schema::Workload;
use super::worker::{BenchWorker, ResourceUsage};
use super::{Bench, alternate};
use actix_outbox::bench_api::BenchStore;

pub(super) const SMALL: u32 = 60;
const LARGE: u32 = 16 << 10;
const KEYS: u32 = 1_000;

/// One in this many traces is sampled.
const SAMPLED: u32 = 100;

/// Large events are this many times fewer.
const LARGE_PART: u32 = 20;

/// Entries in one pipeline, and in one batch of a worker by default.
const PIPELINE: usize = 500;

const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// A measurement of each round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DrainRun {
    LimitOne,
    LimitAll,
    LimitDeleting,
    Xadd,
    Drain,
    Deleting,
    Keys,
    KeysDeleting,
    Backends,
    NoJournal,
    Observed,
    Unobserved,
    LimitLarge,
    DrainLarge,
}

impl DrainRun {
    fn all() -> Vec<Self> {
        let runs = [
            Self::LimitOne,
            Self::Drain,
            Self::Deleting,
            Self::NoJournal,
            Self::Observed,
            Self::Unobserved,
            Self::Keys,
            Self::KeysDeleting,
            Self::Backends,
            Self::LimitAll,
            Self::LimitDeleting,
            Self::Xadd,
            Self::LimitLarge,
            Self::DrainLarge,
        ];
        // Only some builds can switch the journal off or serve metrics.
        let journal = |run: &Self| cfg!(feature = "fault-injection") || !matches!(run, Self::NoJournal);
        let shown = |run: &Self| cfg!(feature = "http") || !matches!(run, Self::Observed | Self::Unobserved);
        runs.into_iter().filter(journal).filter(shown).collect()
    }

    fn title(self) -> &'static str {
        match self {
            Self::LimitOne | Self::LimitAll => "fetching and updating alone",
            Self::LimitDeleting => "fetching and deleting alone",
            Self::Xadd => "XADD alone",
            Self::Drain => "draining",
            Self::Deleting => "draining and deleting",
            Self::Keys => "draining, with keys",
            Self::KeysDeleting => "draining and deleting, with keys",
            Self::Backends => "draining, three backends",
            Self::NoJournal => "draining, without the journal",
            Self::Observed => "draining, observed",
            Self::Unobserved => "draining, not observed",
            Self::LimitLarge => "fetching and updating large events alone",
            Self::DrainLarge => "draining large events",
        }
    }

    fn workload(self, events: u32) -> Workload {
        let small = Workload { events, data: SMALL, keys: 0, lanes: &[""], sampled: 0 };
        match self {
            Self::Keys | Self::KeysDeleting => Workload { keys: KEYS, ..small },
            Self::Observed | Self::Unobserved => Workload { sampled: SAMPLED, ..small },
            Self::Backends => Workload { lanes: &PUBLISHERS, ..small },
            Self::LimitLarge | Self::DrainLarge => {
                Workload { events: (events / LARGE_PART).max(1), data: LARGE, ..small }
            }
            _ => small,
        }
    }
}

pub(super) fn steps(rounds: u32) -> u64 {
    u64::from(rounds) * u64::try_from(DrainRun::all().len()).unwrap_or(0) + 1
}

pub(super) async fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    bench.step("warming up");
    let connections = connections_of_a_worker(bench).await?;
    for round in 0..bench.rounds {
        for run in alternate(&DrainRun::all(), round) {
            bench.step(run.title());
            measure_once(bench, run, connections).await?;
        }
        bench.samples.record("limit.connections", connections as f64);
    }
    Ok(())
}

async fn measure_once(bench: &mut Bench, run: DrainRun, connections: usize) -> anyhow::Result<()> {
    let workload = run.workload(bench.events);
    prepare(&mut bench.env, workload).await?;
    let (env, samples) = (&mut bench.env, &mut bench.samples);
    match run {
        DrainRun::LimitOne => samples.record("limit.one", fetch_and_update(env, workload.data, 1).await?),
        DrainRun::LimitAll => samples.record("limit.all", fetch_and_update(env, workload.data, connections).await?),
        DrainRun::LimitLarge => samples.record("limit.large", fetch_and_update(env, workload.data, 1).await?),
        DrainRun::LimitDeleting => {
            samples.record("limit.deleting", fetch_and_delete(env, workload.data, connections).await?);
        }
        DrainRun::KeysDeleting => {
            samples.record("drain.keys.deleting", drain_and_delete(env, workload.events).await?.rate)
        }
        DrainRun::Deleting => {
            let drain = drain_and_delete(env, workload.events).await?;
            samples.record("drain.deleting", drain.rate);
            samples.record("drain.deleting.wal", drain.wal);
            cpu::record(samples, "drain.deleting.cpu", &drain);
        }
        DrainRun::Xadd => samples.record("xadd", add_to_stream(env, workload.events).await?),
        DrainRun::Keys => samples.record("drain.keys", drain(env, workload.events, &PUBLISHERS[..1], None).await?.rate),
        DrainRun::Backends => {
            samples.record("drain.backends", drain(env, workload.events, &PUBLISHERS, None).await?.rate)
        }
        DrainRun::NoJournal => {
            samples
                .record("drain.no_journal", drain(env, workload.events, &PUBLISHERS[..1], Some("journal")).await?.rate);
        }
        DrainRun::Unobserved => {
            let drain = drain(env, workload.events, &PUBLISHERS[..1], None).await?;
            samples.record("drain.unobserved", drain.rate);
        }
        DrainRun::Observed => samples.record("drain.observed", drain_observed(env, workload.events).await?.rate),
        DrainRun::DrainLarge => {
            let drain = drain(env, workload.events, &PUBLISHERS[..1], None).await?;
            samples.record("drain.large", drain.rate);
            drain.usage.peak_mebibytes.into_iter().for_each(|peak| samples.record("drain.large.memory", peak));
        }
        DrainRun::Drain => {
            let drain = drain(env, workload.events, &PUBLISHERS[..1], None).await?;
            samples.record("drain", drain.rate);
            samples.record("drain.wal", drain.wal);
            samples.record("drain.commits", drain.commits);
            samples.record("drain.dead", drain.dead);
            cpu::record(samples, "drain.cpu", &drain);
            drain.usage.peak_mebibytes.into_iter().for_each(|peak| samples.record("drain.memory", peak));
        }
    }
    Ok(())
}

async fn prepare(env: &mut BenchEnv, workload: Workload) -> anyhow::Result<()> {
    env.clear_streams().await?;
    env.schema.refill(workload).await
}

/// The result of draining a backlog; all except the rate are per event.
pub(super) struct Drain {
    pub(super) rate: f64,
    wal: f64,
    commits: f64,
    dead: f64,
    pub(super) events: f64,
    usage: ResourceUsage,
    pub(super) servers: ServerCpu,
}

impl Drain {
    pub(super) fn worker_cpu(&self) -> Option<Duration> {
        self.usage.cpu
    }
}

pub(super) async fn drain(
    env: &mut BenchEnv,
    count: u32,
    publishers: &[&str],
    rule_off: Option<&str>,
) -> anyhow::Result<Drain> {
    let mut settings = env.variables(publishers)?;
    settings.extend(rule_off.map(|rule_off| ("OUTBOX_RULE_OFF", rule_off.to_owned())));
    drain_by(env, count, settings, &[], false).await
}

async fn drain_and_delete(env: &mut BenchEnv, count: u32) -> anyhow::Result<Drain> {
    let mut settings = env.variables(&PUBLISHERS[..1])?;
    settings.push(("OUTBOX__RETENTION__PUBLISHED_RETENTION_DAYS", "0".to_owned()));
    drain_by(env, count, settings, &[], true).await
}

/// Drains with a worker that serves metrics, logs as JSON and, if it was built for that, exports traces.
async fn drain_observed(env: &mut BenchEnv, count: u32) -> anyhow::Result<Drain> {
    let collector = Collector::start().await?;
    let mut settings = env.variables(&PUBLISHERS[..1])?;
    settings.push(("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.clone()));
    settings.push(("OUTBOX_LOG", "info".to_owned()));
    drain_by(env, count, settings, &["--http", "127.0.0.1:0", "--log-format", "json"], false).await
}

async fn drain_by(
    env: &mut BenchEnv,
    count: u32,
    settings: Vec<(&str, String)>,
    arguments: &[&str],
    deletes: bool,
) -> anyhow::Result<Drain> {
    let before = env.schema.counters().await?;
    let servers = ServerCpu::read(env).await?;
    let usage = BenchWorker::start(settings, &[&["--until-empty"], arguments].concat())?.wait().await?;
    let after = env.schema.counters().await?;
    let servers = ServerCpu::read(env).await?.since(servers);
    let drained = match deletes {
        true => env.schema.drained_by_deleting(count).await?,
        false => env.schema.drained().await?,
    };
    let expected = i64::from(count);
    anyhow::ensure!(drained.events == expected, "the worker delivered {} of {expected} events", drained.events);
    let events = f64::from(count);
    Ok(Drain {
        rate: events / drained.seconds,
        wal: (after.wal - before.wal) as f64 / events,
        commits: (after.commits - before.commits) as f64 / events,
        dead: (after.dead - before.dead) as f64 / events,
        events,
        usage,
        servers,
    })
}

/// Drains a few events to warm up, and counts the connections on which a worker fetches and updates; the heartbeat has
/// another one.
async fn connections_of_a_worker(bench: &mut Bench) -> anyhow::Result<usize> {
    let workload = DrainRun::Drain.workload(bench.events.min(50_000));
    prepare(&mut bench.env, workload).await?;
    let mut worker = BenchWorker::start(bench.env.variables(&PUBLISHERS[..1])?, &["--until-empty"])?;
    let mut most = 0;
    while worker.is_running()? {
        most = most.max(bench.env.schema.connections().await?);
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
    worker.wait().await?;
    Ok(usize::try_from(most - 1).unwrap_or(0).max(1))
}

/// Adds as many entries as there are events. Returns entries a second.
async fn add_to_stream(env: &mut BenchEnv, events: u32) -> anyhow::Result<f64> {
    let sample = BenchStore::connect(env.schema.url()).await?.first(PIPELINE).await?;
    let Some(stream) = env.streams.get_mut(PUBLISHERS[0]) else { anyhow::bail!("there is no stream") };
    let mut left = usize::try_from(events)?;
    let started = Instant::now();
    while left > 0 && !sample.is_empty() {
        let count = left.min(sample.len());
        stream.stream.add(&sample[..count]).await?;
        left -= count;
    }
    Ok(f64::from(events) / started.elapsed().as_secs_f64())
}
