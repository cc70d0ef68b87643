//! The cost of two idle workers for PostgreSQL: row versions a minute and statements a second, together, each with its
//! limit. More than that fails the run. `scripts/idle.sh` runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement has no better answer to an error than to fail"
)]

#[allow(dead_code, reason = "each bench uses its own part")]
mod drain;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use drain::support::process::Running;
use drain::support::{PATIENCE, eventually};
use drain::{Outbox, Servers};

const SPAN: Duration = Duration::from_secs(60);

/// Starting is over by then.
const SETTLING: Duration = Duration::from_secs(15);

const MOST_VERSIONS: f64 = 150.0;
const MOST_STATEMENTS: f64 = 34.0;

/// Row versions written so far, by table.
const VERSIONS: &str = "SELECT relname::text, (n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_stat_user_tables
    WHERE relname LIKE 'outbox\\_%'";

const OWNERS: &str = "SELECT count(DISTINCT owner) FROM outbox_running_leases";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure())
}

async fn measure() -> ExitCode {
    let servers = Servers::start(&[("log_statement", "all")]);
    let outbox = servers.outbox().await;
    let _workers = ["one", "other"].map(|name| Running::spawn(outbox.command().args(["worker", "--name", name])));
    eventually("both have a share", PATIENCE, async || outbox.number(OWNERS).await == 2).await;
    tokio::time::sleep(SETTLING).await;

    let (versions, logged) = (versions(&outbox).await, servers.postgres_log().len());
    tokio::time::sleep(SPAN).await;
    let log = servers.postgres_log();
    let after = self::versions(&outbox).await;
    assert_eq!(outbox.number(OWNERS).await, 2, "both still have a share");

    let statements = statements(&log[logged..]);
    println!("two idle workers for {SPAN:?}");
    for (table, count) in &after {
        println!("  {:>6} row versions in {table}", count - versions.get(table).copied().unwrap_or(0));
    }
    for (statement, count) in &statements {
        println!("  {count:>6} × {statement}");
    }
    let minutes = SPAN.as_secs_f64() / 60.0;
    let written = (after.values().sum::<i64>() - versions.values().sum::<i64>()) as f64 / minutes;
    let sent = statements.values().sum::<usize>() as f64 / SPAN.as_secs_f64();
    println!("| | measured | limit |\n|---|---|---|");
    println!("| row versions a minute | {written:.0} | {MOST_VERSIONS:.0} |");
    println!("| statements a second | {sent:.1} | {MOST_STATEMENTS:.0} |");
    if written <= MOST_VERSIONS && sent <= MOST_STATEMENTS { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn versions(outbox: &Outbox) -> BTreeMap<String, i64> {
    let rows = outbox.database.connect().await.query(VERSIONS, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The number of executions of each statement, by its beginning without the parts that vary.
fn statements(log: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in log.lines() {
        let Some(text) = line.split_once("statement: ").or_else(|| execution(line)).map(|(_, text)| text) else {
            continue;
        };
        *counts.entry(text.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()).or_default() += 1;
    }
    counts
}

/// `LOG:  execute NAME: SQL`
fn execution(line: &str) -> Option<(&str, &str)> {
    line.split_once("LOG:  execute ")?.1.split_once(": ")
}
