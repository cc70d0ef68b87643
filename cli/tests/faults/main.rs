//! The fault suite: writers, three workers and their own servers, under every kind of fault.
//!
//! `scripts/faults.sh` runs the long form. `docs/RELIABILITY.md` describes the possible findings.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test has no better answer to an error than to fail")]

#[path = "../../../tests/support/mod.rs"]
mod support;

mod arguments;
mod consumers;
mod deployment;
mod fault_phase;
mod figures;
mod kinds;
mod limits;
mod mixed;
mod mysql;
mod nats;
mod reconcile;
mod report;
mod rules;
mod sqlite;
mod steps;
mod takeover;
mod worker_slots;
mod writers;

use std::time::Duration;

use arguments::{Arguments, PhaseName};
use consumers::Guarantee;
use deployment::Pace;
use fault_phase::FaultPhase;
use kinds::Kind;
use report::Report;

/// Every kind of fault, some at the same time: with plain events, with events that are deleted, with a mixed load, on a SQLite
/// file, and with JetStream.
const SHORT: [Duration; 5] = [
    Duration::from_secs(16),
    Duration::from_secs(12),
    Duration::from_secs(12),
    Duration::from_secs(6),
    Duration::from_secs(15),
];

/// The same with consumers, with an inbox and without one.
const SHORT_OF_CONSUMERS: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(5)];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_minute_of_all_faults_together_loses_duplicates_and_reorders_nothing() {
    let seed = rand::random_range(0..1_000_000);
    let mut report = Report::new(seed, "--rounds 0 --seconds 60");
    let [plain, deleting, mixed, file, nats] = SHORT;
    report.add(FaultPhase::together(&Kind::ALL, plain, Pace::Short).run(seed).await);
    report.add(deleting_together(&Kind::ALL, deleting, Pace::Short).run_deleting(seed).await);
    report.add(FaultPhase::mixed(&Kind::ALL, mixed, Pace::Short).run_mixed(seed).await);
    report.add(sqlite::run(seed, file, Pace::Short).await);
    report.add(nats::run(seed, &nats::KINDS, nats::Until::Elapsed(nats)).await);
    report.judge();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn half_a_minute_of_faults_of_consumers_has_each_effect_once_and_in_order() {
    let seed = rand::random_range(0..1_000_000);
    let mut report = Report::new(seed, "--rounds 0 --seconds 30 --phases consumers");
    let [once, at_least_once] = SHORT_OF_CONSUMERS;
    report.add(consumers_together(&consumers::KINDS, once, Pace::Short).run_consumed(seed, Guarantee::Once).await);
    let without = consumers_together(&consumers::KINDS, at_least_once, Pace::Short).named("consumers, no inbox");
    report.add(without.run_consumed(seed, Guarantee::AtLeastOnce).await);
    report.judge();
}

fn deleting_together(kinds: &[Kind], span: Duration, pace: Pace) -> FaultPhase {
    FaultPhase::together(kinds, span, pace).named("deleting, all together")
}

fn consumers_together(kinds: &[Kind], span: Duration, pace: Pace) -> FaultPhase {
    FaultPhase::together(kinds, span, pace).named("consumers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes as long as one likes: scripts/faults.sh"]
async fn each_kind_of_fault_alone_and_then_all_together() {
    let arguments = Arguments::from_environment();
    let Arguments { rounds, seed, .. } = arguments;
    let span = Duration::from_secs(arguments.seconds);
    let mut report = Report::new(seed, &arguments.to_string());
    let kinds = if arguments.only.is_empty() { &Kind::ALL[..] } else { &arguments.only };
    for kind in kinds.iter().filter(|_| arguments.runs(PhaseName::Alone)) {
        if let Some(why) = kind.is_missing() {
            println!("{kind}: skipped: {why}");
            continue;
        }
        report.add(FaultPhase::alone(*kind, rounds).run(seed).await);
    }
    if arguments.runs(PhaseName::Together) {
        report.add(FaultPhase::together(kinds, span, Pace::Long).run(seed).await);
    }
    if arguments.runs(PhaseName::Deleting) {
        run_deleting(&arguments, kinds, &mut report).await;
    }
    if arguments.runs(PhaseName::Mixed) {
        report.add(FaultPhase::mixed(kinds, span, Pace::Long).run_mixed(seed).await);
    }
    if arguments.runs(PhaseName::Sqlite) {
        report.add(sqlite::run(seed, span, Pace::Long).await);
    }
    if arguments.runs(PhaseName::Mysql) {
        run_mysql(&arguments, kinds, span, &mut report).await;
    }
    if arguments.runs(PhaseName::Nats) {
        let chosen: Vec<Kind> =
            nats::KINDS.into_iter().filter(|kind| arguments.only.is_empty() || kinds.contains(kind)).collect();
        for kind in &chosen {
            report.add(nats::run(seed, &[*kind], nats::Until::Rounds(rounds)).await);
        }
        report.add(nats::run(seed, &chosen, nats::Until::Elapsed(span)).await);
    }
    if arguments.runs(PhaseName::Consumers) {
        run_consumers(&arguments, seed, span, &mut report).await;
    }
    report.judge();
}

async fn run_deleting(arguments: &Arguments, kinds: &[Kind], report: &mut Report) {
    let Arguments { rounds, seed, seconds, .. } = *arguments;
    for kind in kinds.iter().filter(|kind| rounds > 0 && kind.is_missing().is_none()) {
        report.add(FaultPhase::alone(*kind, rounds).named(format!("deleting, {kind}")).run_deleting(seed).await);
    }
    if seconds > 0 {
        let together = deleting_together(kinds, Duration::from_secs(seconds), Pace::Long);
        report.add(together.run_deleting(seed).await);
    }
}

async fn run_mysql(arguments: &Arguments, kinds: &[Kind], span: Duration, report: &mut Report) {
    let Arguments { rounds, seed, .. } = *arguments;
    let chosen: Vec<Kind> = mysql::KINDS.into_iter().filter(|kind| kinds.contains(kind)).collect();
    for kind in chosen.iter().filter(|_| rounds > 0) {
        report.add(mysql::run(seed, &[*kind], nats::Until::Rounds(rounds)).await);
    }
    if !span.is_zero() {
        report.add(mysql::run(seed, &chosen, nats::Until::Elapsed(span)).await);
    }
}

async fn run_consumers(arguments: &Arguments, seed: u64, span: Duration, report: &mut Report) {
    let chosen: Vec<Kind> = consumers::KINDS
        .into_iter()
        .filter(|kind| arguments.only.is_empty() || arguments.only.contains(kind))
        .collect();
    for kind in chosen.iter().filter(|_| arguments.rounds > 0) {
        let phase = FaultPhase::alone(*kind, arguments.rounds).named(format!("consumers, {kind}"));
        report.add(phase.run_consumed(seed, Guarantee::Once).await);
    }
    if arguments.seconds > 0 {
        report.add(consumers_together(&chosen, span, Pace::Long).run_consumed(seed, Guarantee::Once).await);
        let without = consumers_together(&chosen, span, Pace::Long).named("consumers, no inbox");
        report.add(without.run_consumed(seed, Guarantee::AtLeastOnce).await);
    }
}
