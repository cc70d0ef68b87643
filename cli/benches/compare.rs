//! This build's `outbox bench` compared with that of another program, by turns on the same servers: each figure's ratio
//! within a pair, its median, and its quartiles. `scripts/compare-builds.sh` runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement has no better answer to an error than to fail"
)]

#[allow(dead_code, reason = "each bench uses its own part")]
mod drain;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};

use drain::{Outbox, Servers};
use serde_json::Value;

const LEAST_RATIO: f64 = 0.97;
const OWN: &str = env!("CARGO_BIN_EXE_outbox");

/// A figure's values, the other program's and this one's, by pair.
#[derive(Default)]
struct Figure {
    unit: String,
    pairs: Vec<(f64, f64)>,
}

fn main() -> ExitCode {
    // cargo adds an argument of its own.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let usage = "arguments: the other program, the number of pairs, and the arguments for `outbox bench`";
    let other = arguments.next().expect(usage);
    let pairs: usize = arguments.next().expect(usage).parse().expect(usage);
    let rest: Vec<String> = arguments.collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let figures = runtime.block_on(measure(&other, pairs, &rest));
    report(&figures)
}

async fn measure(other: &str, pairs: usize, rest: &[String]) -> BTreeMap<String, Figure> {
    let servers = Servers::start(&[]);
    let outbox = servers.outbox().await;
    let mut figures: BTreeMap<String, Figure> = BTreeMap::new();
    for pair in 0..pairs {
        // They take turns in running first, too.
        let (theirs, ours) = if pair % 2 == 0 {
            let theirs = bench(&outbox, other, rest);
            (theirs, bench(&outbox, OWN, rest))
        } else {
            let ours = bench(&outbox, OWN, rest);
            (bench(&outbox, other, rest), ours)
        };
        for (name, (unit, ours)) in ours {
            let Some((_, theirs)) = theirs.get(&name) else { continue };
            let figure = figures.entry(name).or_insert_with(|| Figure { unit, pairs: Vec::new() });
            figure.pairs.push((*theirs, ours));
        }
        eprintln!("pair {} of {pairs}", pair + 1);
    }
    figures
}

/// Unit and value of each figure.
fn bench(outbox: &Outbox, program: &str, rest: &[String]) -> BTreeMap<String, (String, f64)> {
    let mut command: Command = outbox.command_of(program);
    let output = command.args(["bench", "--format", "json"]).args(rest).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{program} bench: {}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figures = report["figures"].as_object().unwrap().iter();
    figures
        .map(|(name, figure)| {
            let unit = figure["unit"].as_str().unwrap_or_default().to_owned();
            (name.clone(), (unit, figure["value"].as_f64().unwrap()))
        })
        .collect()
}

impl Figure {
    /// The factor by which this build is better in each pair, in rising order: 1 is equal.
    fn ratios(&self) -> Vec<f64> {
        let more_is_better = matches!(self.unit.as_str(), "events/s" | "commits/s");
        let ratio = |(theirs, ours): &(f64, f64)| if more_is_better { ours / theirs } else { theirs / ours };
        let mut ratios: Vec<f64> = self.pairs.iter().map(ratio).filter(|ratio| ratio.is_finite()).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    at(&values, 0.5)
}

fn report(figures: &BTreeMap<String, Figure>) -> ExitCode {
    println!("{:<28} {:>12} {:>12} {:<14} {:>6} {:>15}", "figure", "other", "this", "unit", "ratio", "quartiles");
    let mut missed = false;
    for (name, figure) in figures {
        let ratios = figure.ratios();
        if ratios.is_empty() {
            continue;
        }
        let (low, middle, high) = (at(&ratios, 0.25), at(&ratios, 0.5), at(&ratios, 0.75));
        // The servers' own limits are not figures of either program.
        let is_the_servers = name.starts_with("limit.") || name == "xadd";
        // Beyond the variation between the pairs.
        let misses = !is_the_servers && high < LEAST_RATIO;
        missed |= misses;
        println!(
            "{name:<28} {:>12.2} {:>12.2} {:<14} {middle:>6.3} {:>15}{}",
            median(figure.pairs.iter().map(|pair| pair.0).collect()),
            median(figure.pairs.iter().map(|pair| pair.1).collect()),
            figure.unit,
            format!("{low:.3}..{high:.3}"),
            if misses { "  below the limit" } else { "" },
        );
    }
    if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
