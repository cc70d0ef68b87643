//! The fault suite: writers, three workers and their own servers, under every kind of fault.
//!
//! `scripts/faults.sh` runs the long form. `docs/RELIABILITY.md` describes the possible findings.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test has no better answer to an error than to fail")]

#[path = "../../../tests/support/mod.rs"]
mod support;

mod arguments;
mod deployment;
mod fault_phase;
mod figures;
mod kinds;
mod limits;
mod mixed;
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
use deployment::Pace;
use fault_phase::FaultPhase;
use kinds::Kind;
use report::Report;

/// Every kind of fault, some at the same time: with plain events, with a mixed load, on a SQLite file, and with JetStream.
const SHORT: [Duration; 4] =
    [Duration::from_secs(24), Duration::from_secs(12), Duration::from_secs(6), Duration::from_secs(15)];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_minute_of_all_faults_together_loses_duplicates_and_reorders_nothing() {
    let seed = rand::random_range(0..1_000_000);
    let mut report = Report::new(seed, "--rounds 0 --seconds 60");
    let [plain, mixed, file, nats] = SHORT;
    report.add(FaultPhase::together(&Kind::ALL, plain, Pace::Short).run(seed).await);
    report.add(FaultPhase::mixed(&Kind::ALL, mixed, Pace::Short).run_mixed(seed).await);
    report.add(sqlite::run(seed, file, Pace::Short).await);
    report.add(nats::run(seed, &nats::KINDS, nats::Until::Elapsed(nats)).await);
    report.judge();
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
    if arguments.runs(PhaseName::Mixed) {
        report.add(FaultPhase::mixed(kinds, span, Pace::Long).run_mixed(seed).await);
    }
    if arguments.runs(PhaseName::Sqlite) {
        report.add(sqlite::run(seed, span, Pace::Long).await);
    }
    if arguments.runs(PhaseName::Nats) {
        let chosen: Vec<Kind> =
            nats::KINDS.into_iter().filter(|kind| arguments.only.is_empty() || kinds.contains(kind)).collect();
        for kind in &chosen {
            report.add(nats::run(seed, &[*kind], nats::Until::Rounds(rounds)).await);
        }
        report.add(nats::run(seed, &chosen, nats::Until::Elapsed(span)).await);
    }
    report.judge();
}
