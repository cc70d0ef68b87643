//! `outbox bench`: what this database and this Redis can do, and how much of it the outbox makes use of.
//!
//! What is compared is measured in turns and in one run, so that the shares hold where the times do not: a busy machine
//! slows both. One file for each group of figures.

mod drain;
mod figures;
mod limit;
mod report;
mod samples;
mod stage;
mod worker;

use std::collections::BTreeSet;

use anyhow::Context;
use clap::ValueEnum;

use self::report::Report;
use self::samples::Samples;
use self::stage::Stage;
use super::arguments::Format;
use super::progress::Progress;
use super::worker::Signals;
use crate::settings::Settings;

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
  outbox bench --only drain --rounds 5
  outbox bench --events 50000 --format json > figures.json")]
pub(super) struct Args {
    /// Events in each measurement; a tenth of them where they are large.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=50_000_000))]
    events: u32,
    /// These groups of figures alone.
    #[arg(long, value_name = "GROUPS", value_delimiter = ',', value_enum)]
    only: Vec<Group>,
    /// How often each measurement is taken; the figures are medians.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// A table for people, or JSON (one object) for programs.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Group {
    /// How fast a worker empties a backlog, as a share of what the database alone takes.
    Drain,
}

impl Args {
    fn groups(&self) -> BTreeSet<Group> {
        let all = Group::value_variants().iter().copied();
        all.filter(|group| self.only.is_empty() || self.only.contains(group)).collect()
    }
}

pub(super) fn run(args: &Args, settings: &Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads that measure")?;
    let report = runtime.block_on(measure(args, settings))?;
    match args.format {
        Format::Json => super::output::json(&report),
        Format::Table => report.print(),
    }
}

/// Measures between raising the stage and striking it, whatever happens in between.
async fn measure(args: &Args, settings: &Settings) -> anyhow::Result<Report> {
    let mut signals = Signals::new()?;
    let plan = stage::Plan::new(settings)?;
    plan.remove_abandoned().await?;
    let measured = tokio::select! {
        measured = perform(args, &plan) => measured,
        signal = signals.next() => Err(anyhow::anyhow!("interrupted by {signal}")),
    };
    tokio::select! {
        removed = plan.remove() => removed?,
        _ = signals.next() => anyhow::bail!("interrupted twice; {}", plan.what_is_left()),
    }
    measured
}

async fn perform(args: &Args, plan: &stage::Plan) -> anyhow::Result<Report> {
    let mut bench = Bench::new(args, plan).await?;
    for group in args.groups() {
        match group {
            Group::Drain => drain::measure(&mut bench).await?,
        }
    }
    bench.into_report().await
}

/// A run under way.
struct Bench {
    stage: Stage,
    events: u32,
    rounds: u32,
    samples: Samples,
    progress: Progress,
    done: u64,
    steps: u64,
}

impl Bench {
    async fn new(args: &Args, plan: &stage::Plan) -> anyhow::Result<Self> {
        let steps = args.groups().into_iter().map(|group| match group {
            Group::Drain => drain::steps(args.rounds),
        });
        Ok(Self {
            stage: plan.raise().await?,
            events: args.events,
            rounds: args.rounds,
            samples: Samples::default(),
            progress: Progress::steps(),
            done: 0,
            steps: steps.sum(),
        })
    }

    /// Says what is measured next.
    fn step(&mut self, what: &str) {
        self.progress.show(what, self.done, self.steps);
        self.done += 1;
    }

    async fn into_report(mut self) -> anyhow::Result<Report> {
        let (database, redis) = self.stage.versions().await?;
        Ok(Report::new(self.events, self.rounds, database, redis, &self.samples))
    }
}

/// In every second round the other way round, so that what the machine does meanwhile falls on both sides alike.
fn in_turns<T: Copy>(all: &[T], round: u32) -> Vec<T> {
    let mut order = all.to_vec();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}
