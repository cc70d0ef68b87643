//! The report at the end of a run.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use crate::fault_phase::Outcome;

pub(crate) struct Report {
    seed: u64,
    command: String,
    outcomes: Vec<Outcome>,
}

impl Report {
    pub(crate) fn new(seed: u64, arguments: &str) -> Self {
        let command = format!("scripts/faults.sh {arguments} --seed {seed}");
        println!("seed {seed}; again: {command}");
        Self { seed, command, outcomes: Vec::new() }
    }

    pub(crate) fn add(&mut self, outcome: Outcome) {
        println!("{}: {}", outcome.name, if outcome.is_good() { "good" } else { "BAD" });
        outcome.problems().for_each(|problem| println!("{}: {problem}", outcome.name));
        self.outcomes.push(outcome);
    }

    /// Prints the table, and fails if it contains a problem.
    pub(crate) fn judge(&self) {
        println!("{}", self.table());
        let bad: Vec<&str> = self.outcomes.iter().filter(|outcome| !outcome.is_good()).map(|o| &*o.name).collect();
        assert!(bad.is_empty(), "{}; seed {}; again: {}", bad.join(", "), self.seed, self.command);
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header([
            "faults",
            "number",
            "committed",
            "in the stream",
            "lost",
            "duplicated",
            "out of order",
            "not committed",
            "explained",
            "stuck",
            "retries spent",
            "workers that died",
            "secrets logged",
            "longest take-over",
            "connections",
            "memory",
            "ownership rows/min",
            "rows/event",
            "oldest due",
        ]);
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        self.outcomes.iter().for_each(|outcome| {
            table.add_row(row(outcome));
        });
        // The number of faults of each kind that ran together.
        for outcome in self.outcomes.iter().filter(|outcome| outcome.faults.len() > 1) {
            for (kind, count) in &outcome.faults {
                table.add_row([format!("· {kind}"), count.to_string()]);
            }
        }
        table
    }
}

fn row(outcome: &Outcome) -> Vec<String> {
    let reconciliation = &outcome.reconciliation;
    let faults: u32 = outcome.faults.values().sum();
    let takeover = outcome.takeovers.iter().max();
    let figures = &outcome.figures;
    vec![
        outcome.name.clone(),
        faults.to_string(),
        reconciliation.committed.to_string(),
        reconciliation.in_stream.to_string(),
        reconciliation.lost.to_string(),
        reconciliation.duplicated.to_string(),
        reconciliation.disordered.to_string(),
        reconciliation.uncommitted.to_string(),
        reconciliation.explained.to_string(),
        outcome.stuck.to_string(),
        outcome.retries.to_string(),
        outcome.deaths.len().to_string(),
        outcome.told.len().to_string(),
        takeover.map_or_else(String::new, |takeover| format!("{:.2} s", Duration::as_secs_f64(takeover))),
        figures.connections.to_string(),
        format!("{} MiB", figures.memory >> 20),
        format!("{:.0}", figures.ownership_per_minute()),
        format!("{:.2}", figures.versions_per_event(reconciliation.committed)),
        format!("{:.1} s", figures.oldest_due.as_secs_f64()),
    ]
}
