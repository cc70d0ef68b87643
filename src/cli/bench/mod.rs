//! `outbox bench`: what this database and this Redis can do, and how much of it the outbox makes use of.
//!
//! What is compared is measured in turns and in one run, so that the shares hold where the times do not: a busy machine
//! slows both. One file for each group of figures.

mod backlog;
mod collector;
mod drain;
mod env;
mod figures;
mod idle;
mod latency;
mod limit;
mod pace;
mod publishing;
mod report;
mod samples;
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
use crate::settings::Settings;

/// What is repeated for some time goes on for short times in turns: the machine changes its pace meanwhile.
const SLICES: u32 = 4;

const SHORTEST_SPAN: Duration = Duration::from_millis(20);
const LONGEST_SPAN: Duration = Duration::from_secs(10);

/// Measure what the database and Redis can do, and how much of it the outbox makes use of.
///
/// Works in a schema and in streams of its own, which it removes afterwards, also when it is interrupted; the
/// application's tables and streams are not touched. Both servers are kept busy for minutes, though, and the server's
/// log of writes grows: better not where others depend on them.
///
/// The figures are explained in docs/bench.md.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox bench
  outbox bench --only drain,latency --rounds 5
  outbox bench --backlog 5 --pinned-horizon
  outbox bench --events 50000 --format json > figures.json")]
pub(super) struct Args {
    /// Events in each measurement; a twentieth of them where they are large.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=50_000_000))]
    events: u32,
    /// These groups of figures alone.
    #[arg(long, value_name = "GROUPS", value_delimiter = ',', value_enum)]
    only: Vec<Group>,
    /// How fast a worker drains before a backlog of so many million events; takes minutes for each million to be written.
    #[arg(long, value_name = "MILLIONS", value_parser = millions)]
    backlog: Option<Millions>,
    /// How fast a worker drains while a transaction is open that holds vacuum back.
    #[arg(long)]
    pinned_horizon: bool,
    /// How often each measurement is taken; the figures are medians.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// A table for people, or JSON (one object) for programs.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// How fast a worker empties a backlog, as a share of what the database alone takes.
    Drain,
    /// What publishing costs beside the INSERT that it comes down to.
    Publish,
    /// How long it takes from a commit until the entry stands in the stream.
    Latency,
    /// What wake-ups cost those who write.
    Wakes,
    /// What a worker takes while there is nothing to do.
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
    /// What takes long and was asked for is measured alone, unless groups were named.
    fn parts(&self) -> Vec<Part> {
        let backlog = self.backlog.map(|Millions(events)| Part::Backlog(events));
        let special: Vec<Part> = backlog.into_iter().chain(self.pinned_horizon.then_some(Part::Pinned)).collect();
        let wanted = |group: &Group| if self.only.is_empty() { special.is_empty() } else { self.only.contains(group) };
        let groups = Group::value_variants().iter().copied().filter(wanted).map(Part::Group);
        groups.chain(special.iter().copied()).collect()
    }
}

/// So many millions, as a number of events.
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
        .context("cannot start the threads that measure")?;
    let report = runtime.block_on(async {
        #[cfg(feature = "sqlite")]
        if settings.database.url.expose().starts_with("sqlite:") {
            return sqlite::measure(args, settings).await;
        }
        measure(args, settings).await
    })?;
    match args.format {
        Format::Json => super::output::json(&report),
        Format::Table => report.print(),
    }
}

/// Measures between raising the stage and striking it, whatever happens in between.
async fn measure(args: &Args, settings: &Settings) -> anyhow::Result<BenchReport> {
    let plan = BenchPlan::new(settings)?;
    plan.require_redis().await?;
    plan.remove_abandoned().await?;
    let measured = until_interrupted(perform(args, &plan)).await;
    let removed = until_interrupted(plan.remove()).await.with_context(|| plan.what_is_left());
    match (measured, removed) {
        (Err(error), Err(left)) => Err(error.context(format!("{left:#}"))),
        (measured, removed) => removed.and(measured),
    }
}

/// Lets go of the work when SIGINT or SIGTERM comes.
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

/// A run under way, in a place of its own.
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

    /// Says what is measured next.
    fn step(&mut self, what: &str) {
        self.progress.show(what, self.done, self.steps);
        self.done += 1;
    }

    /// How long what is repeated goes on: 2 s by default.
    fn span(&self) -> Duration {
        (Duration::from_micros(10) * self.events).clamp(SHORTEST_SPAN, LONGEST_SPAN)
    }
}

/// In every second round the other way round, so that what the machine does meanwhile falls on both sides alike.
fn alternate<T: Copy>(all: &[T], round: u32) -> Vec<T> {
    let mut order = all.to_vec();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}
