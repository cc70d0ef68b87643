//! `outbox bench`: the throughput of this database and this Redis, and the share of it that the outbox reaches.
//!
//! Compared figures are measured alternately and in one run, so that their shares are reliable even if the times are not: a
//! busy machine slows both. One file for each group of figures.

mod backend;
mod backlog;
mod collector;
mod consuming;
mod cpu;
mod drain;
mod env;
mod figures;
mod idle;
mod latency;
mod limit;
#[cfg(feature = "mysql")]
mod mysql;
mod pace;
mod process_stat;
mod publishing;
mod report;
mod samples;
mod schema;
#[cfg(feature = "sqlite")]
mod sqlite;
mod system;
mod wakeups;
mod worker;

use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;

use self::env::{BenchEnv, BenchPlan};
use self::report::BenchReport;
use self::samples::Samples;
use super::arguments::Format;
use super::progress::Progress;
use super::worker::Signals;
#[cfg(any(feature = "sqlite", feature = "mysql"))]
use crate::exit::UsageError;
use actix_outbox::Settings;

/// Repeated measurements are split into this many short spans that alternate, because the machine's speed changes meanwhile.
const SLICES: u32 = 4;

const SHORTEST_SPAN: Duration = Duration::from_millis(20);
const LONGEST_SPAN: Duration = Duration::from_secs(10);

/// Measure the throughput of the database and Redis, and the share of it that the outbox reaches.
///
/// Works in its own schema and streams and removes them afterwards, also if it is interrupted; the application's tables and
/// streams are not touched. But it keeps both servers busy for minutes, and PostgreSQL's write-ahead log grows: do not run
/// it on servers in production.
///
/// The figures are explained in docs/bench.md.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox bench
  outbox bench --only drain,latency --rounds 5
  outbox bench --backlog 5 --pinned-horizon
  outbox bench --backend webhooks
  outbox bench --events 50000 --format json > figures.json")]
pub(super) struct Args {
    /// Events in each measurement; a twentieth of that for large events.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=50_000_000))]
    events: u32,
    /// Measure only these groups of figures.
    #[arg(long, value_name = "GROUPS", value_delimiter = ',', value_enum)]
    only: Vec<Group>,
    /// Measure how fast a worker drains a backlog of this many million events; writing them takes minutes for each million.
    #[arg(long, value_name = "MILLIONS", value_parser = millions)]
    backlog: Option<Millions>,
    /// Measure how fast a worker drains while an open transaction holds vacuum back.
    #[arg(long)]
    pinned_horizon: bool,
    /// Measure how fast a worker drains into this publisher's backend, next to its client alone. Events really go there: into a
    /// stream of the run's own with Redis and NATS, to the configured place with others.
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// How often to repeat each measurement; the figures are medians.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// A table, or JSON (one object).
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A group of figures that can be measured separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// How fast a worker drains a backlog, as a share of the database's own throughput.
    Drain,
    /// The cost of publishing, compared with a plain INSERT.
    Publish,
    /// How fast a consumer handles the entries of a stream, alone and with a note in an inbox for each.
    Consume,
    /// The time from a commit until the entry is in the stream.
    Latency,
    /// The cost of wake-ups for writers.
    Wakes,
    /// The resources that an idle worker uses.
    Idle,
}

/// One part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Group(Group),
    Backlog(u32),
    Pinned,
}

impl Args {
    /// The parts to measure. --backlog and --pinned-horizon replace the groups, unless --only names some.
    fn parts(&self) -> Vec<Part> {
        let backlog = self.backlog.map(|Millions(events)| Part::Backlog(events));
        let special: Vec<Part> = backlog.into_iter().chain(self.pinned_horizon.then_some(Part::Pinned)).collect();
        let wanted = |group: &Group| if self.only.is_empty() { special.is_empty() } else { self.only.contains(group) };
        let groups = Group::value_variants().iter().copied().filter(wanted).map(Part::Group);
        groups.chain(special.iter().copied()).collect()
    }
}

/// A number of events, given in millions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Millions(u32);

fn millions(text: &str) -> Result<Millions, String> {
    let number = text.parse::<f64>().ok().filter(|number| (1e-6..=1e3).contains(number));
    number
        .map(|number| Millions((number * 1e6).round() as u32))
        .ok_or("write how many millions, such as 5 or 0.5".to_owned())
}

impl Part {
    fn steps(self, rounds: u32) -> u64 {
        match self {
            Self::Group(Group::Drain) => drain::steps(rounds),
            Self::Group(Group::Publish) => publishing::steps(rounds),
            Self::Group(Group::Consume) => consuming::steps(rounds),
            Self::Group(Group::Latency) => latency::steps(rounds),
            Self::Group(Group::Wakes) => wakeups::steps(rounds),
            Self::Group(Group::Idle) => idle::steps(rounds),
            Self::Backlog(_) => backlog::backlog_steps(rounds),
            Self::Pinned => backlog::pinned_steps(rounds),
        }
    }

    async fn measure(self, bench: &mut Bench, plan: &BenchPlan) -> anyhow::Result<()> {
        match self {
            Self::Group(Group::Drain) => drain::measure(bench).await,
            Self::Group(Group::Publish) => publishing::measure(bench).await,
            Self::Group(Group::Consume) => consuming::measure(bench).await,
            Self::Group(Group::Latency) => latency::measure(bench).await,
            Self::Group(Group::Wakes) => wakeups::measure(bench).await,
            Self::Group(Group::Idle) => idle::measure(bench).await,
            Self::Backlog(events) => backlog::measure_backlog(bench, plan, events).await,
            Self::Pinned => backlog::measure_pinned(bench).await,
        }
    }
}

pub(super) fn run(args: &Args, settings: &Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads of the bench")?;
    let settings = &env::with_secrets_read(settings)?;
    let report = runtime.block_on(async {
        if let Some(name) = &args.backend {
            return backend::measure(args, settings, name).await;
        }
        #[cfg(feature = "sqlite")]
        if settings.database.url.read()?.starts_with("sqlite:") {
            return sqlite::measure(args, settings).await;
        }
        #[cfg(feature = "mysql")]
        if mysql::is_address(&settings.database.url.read()?) {
            return mysql::measure(args, settings).await;
        }
        measure(args, settings).await
    })?;
    match args.format {
        Format::Json => super::output::json(&report),
        Format::Table => report.print(),
    }
}

/// Creates the environment, measures, and removes the environment, also after an error.
async fn measure(args: &Args, settings: &Settings) -> anyhow::Result<BenchReport> {
    let plan = BenchPlan::new(settings)?;
    plan.require_redis().await?;
    plan.remove_abandoned().await?;
    let measured = until_interrupted(perform(args, &plan)).await;
    let removed = until_interrupted(plan.remove()).await.with_context(|| plan.removal_hint());
    with_removal(measured, removed)
}

/// The error of the measurement, of the removal after it, or of both.
fn with_removal(measured: anyhow::Result<BenchReport>, removed: anyhow::Result<()>) -> anyhow::Result<BenchReport> {
    match (measured, removed) {
        (Err(error), Err(left)) => Err(error.context(format!("{left:#}"))),
        (measured, removed) => removed.and(measured),
    }
}

/// Refuses what is measured on PostgreSQL alone.
#[cfg(any(feature = "sqlite", feature = "mysql"))]
fn require_whole_run(args: &Args, database: &str) -> anyhow::Result<()> {
    if args.only.is_empty() && args.backlog.is_none() && !args.pinned_horizon {
        return Ok(());
    }
    let problem = format!("--only, --backlog and --pinned-horizon are for PostgreSQL, and the database is {database}");
    Err(UsageError(problem).into())
}

/// Drops the work on SIGINT or SIGTERM.
async fn until_interrupted<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut signals = Signals::new()?;
    tokio::select! {
        done = work => done,
        signal = signals.next() => Err(anyhow::anyhow!("interrupted by {signal}")),
    }
}

async fn perform(args: &Args, plan: &BenchPlan) -> anyhow::Result<BenchReport> {
    let steps = args.parts().into_iter().map(|part| part.steps(args.rounds));
    let mut bench = Bench::new(args, plan.create().await?, steps.sum());
    for part in args.parts() {
        part.measure(&mut bench, plan).await?;
    }
    let (database, redis) = bench.env.versions().await?;
    Ok(BenchReport::new(bench.events, bench.rounds, database, Some(redis), &bench.samples))
}

/// A run in its own environment.
struct Bench<S = BenchEnv> {
    env: S,
    events: u32,
    rounds: u32,
    samples: Samples,
    progress: Progress,
    done: u64,
    steps: u64,
}

impl<S> Bench<S> {
    fn new(args: &Args, env: S, steps: u64) -> Self {
        let (samples, progress) = (Samples::default(), Progress::steps());
        Self { env, events: args.events, rounds: args.rounds, samples, progress, done: 0, steps }
    }

    /// Shows what is measured next.
    fn step(&mut self, what: &str) {
        self.progress.show(what, self.done, self.steps);
        self.done += 1;
    }

    /// The duration of a repeated measurement: 2 s by default.
    fn span(&self) -> Duration {
        (Duration::from_micros(10) * self.events).clamp(SHORTEST_SPAN, LONGEST_SPAN)
    }
}

/// The order of a round, reversed in every second one, so that changes of the machine's speed affect all alike.
fn alternate<T: Copy>(all: &[T], round: u32) -> Vec<T> {
    let mut order = all.to_vec();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}
