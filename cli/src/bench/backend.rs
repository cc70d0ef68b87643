//! `--backend NAME`: how fast a worker drains into one backend, next to the database alone and the backend's client alone.

use std::time::{Duration, Instant};

use actix_outbox::bench_api::{BackendAlone, BenchStore};
use actix_outbox::{PublisherSettings, Settings};
use uuid::Uuid;

use super::drain::SMALL;
use super::env::BenchEnv;
use super::limit::fetch_and_update;
use super::report::BenchReport;
use super::schema::{BenchSchema, Workload};
use super::system::System;
use super::{Args, Bench, alternate, until_interrupted};
use crate::exit::UsageError;

const CHECK_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
enum Run {
    Limit,
    Client,
    Drain,
}

const RUNS: [Run; 3] = [Run::Limit, Run::Client, Run::Drain];

pub(super) async fn measure(args: &Args, settings: &Settings, name: &str) -> anyhow::Result<BenchReport> {
    let usage = |problem: String| anyhow::Error::from(UsageError(problem));
    if !args.only.is_empty() || args.backlog.is_some() || args.pinned_horizon {
        return Err(usage(
            "--backend measures one backend alone: leave out --only, --backlog and --pinned-horizon".to_owned(),
        ));
    }
    let publisher = settings.publishers.get(name).ok_or_else(|| usage(format!("no publisher is named `{name}`")))?;
    if !settings.database.url.read()?.starts_with("postgres") {
        return Err(usage("--backend needs a postgres:// database".to_owned()));
    }
    let suffix = Uuid::new_v4().simple().to_string()[..12].to_owned();
    let publisher = elsewhere(publisher, &suffix);
    let mut client = BackendAlone::connect(&publisher).await?;
    let measured = until_interrupted(async {
        let schema = BenchSchema::create(&settings.database.url, &suffix).await?;
        let env = BenchEnv::without_streams(schema, settings.worker.clone());
        let mut bench = Bench::new(args, env, u64::from(args.rounds) * RUNS.len() as u64);
        perform(&mut bench, &publisher, &mut client).await?;
        let database = format!("PostgreSQL {}", bench.env.schema.version().await?);
        let target = format!("{} ({name})", publisher.backend);
        Ok(BenchReport::new(bench.events, bench.rounds, format!("{database}, {target}"), None, &bench.samples))
    })
    .await;
    let removed = async {
        client.remove(&publisher).await?;
        BenchSchema::remove(&settings.database.url, &suffix).await
    };
    let removed = until_interrupted(removed).await;
    measured.and_then(|report| removed.map(|()| report))
}

/// The same publisher with a stream of the run's own, where it has one.
fn elsewhere(publisher: &PublisherSettings, suffix: &str) -> PublisherSettings {
    let name = format!("outbox_bench_{suffix}");
    let mut publisher = publisher.clone();
    publisher.rate_limit = None;
    match publisher.backend.as_str() {
        "nats" => (publisher.subject, publisher.stream, publisher.create) = (format!("{name}.{{type}}"), name, true),
        backend if backend.starts_with("redis") => publisher.stream_name = name,
        _ => {}
    }
    publisher
}

async fn perform(bench: &mut Bench, publisher: &PublisherSettings, client: &mut BackendAlone) -> anyhow::Result<()> {
    let workload = Workload { events: bench.events, data: SMALL, keys: 0, lanes: &[""], sampled: 0 };
    for round in 0..bench.rounds {
        for run in alternate(&RUNS, round) {
            bench.step("the backend");
            bench.env.schema.refill(workload).await?;
            let (figure, rate) = match run {
                Run::Limit => ("limit.one", fetch_and_update(&bench.env, SMALL, 1).await?),
                Run::Client => ("backend.client", send_alone(&bench.env, client, bench.events).await?),
                Run::Drain => ("backend.drain", drain(&bench.env, publisher, bench.events).await?),
            };
            bench.samples.record(figure, rate);
        }
    }
    Ok(())
}

/// Sends as many events as there are, without an outbox, in batches as large as a worker's. Returns events a second.
async fn send_alone(env: &BenchEnv, client: &mut BackendAlone, events: u32) -> anyhow::Result<f64> {
    let sample = BenchStore::connect(env.schema.url()).await?.first(env.worker.batch_size.min(1_000)).await?;
    anyhow::ensure!(!sample.is_empty(), "there are no events");
    let mut left = usize::try_from(events)?;
    let started = Instant::now();
    while left > 0 {
        let count = left.min(sample.len());
        client.send(&sample[..count]).await?;
        left -= count;
    }
    Ok(f64::from(events) / started.elapsed().as_secs_f64())
}

/// Drains with a worker in this process, as an application has it.
async fn drain(env: &BenchEnv, publisher: &PublisherSettings, events: u32) -> anyhow::Result<f64> {
    let mut settings = env.settings(&[]);
    settings.publishers.insert("default".to_owned(), publisher.clone());
    let system = System::start(settings, false).await?;
    loop {
        let drained = env.schema.drained().await?;
        if drained.events >= i64::from(events) {
            drop(system);
            return Ok(f64::from(events) / drained.seconds);
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}
