//! The arguments of `scripts/faults.sh`.

use std::fmt;

use clap::{Parser, ValueEnum};

use crate::kinds::Kind;

/// The environment variable with the script's arguments.
const VARIABLE: &str = "OUTBOX_FAULTS";

/// Breaks workers, PostgreSQL, Redis and the network between them, and compares the committed events with the stream.
#[derive(Debug, Parser)]
#[command(name = "scripts/faults.sh")]
pub(crate) struct Arguments {
    /// Faults of each kind, one kind after the other; a quarter of that for long ones
    #[arg(long, default_value_t = 20)]
    pub(crate) rounds: u32,
    /// How long all kinds then run together, several at a time, then again under a mixed load, and on SQLite; 0: never
    #[arg(long, default_value_t = 600)]
    pub(crate) seconds: u64,
    /// Repeats the same faults, pauses and writes; their interleaving depends on the machine
    #[arg(long, default_value_t = rand::random_range(0..1_000_000))]
    pub(crate) seed: u64,
    /// Only these kinds
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Kind>,
    /// Only these phases
    #[arg(long, value_delimiter = ',')]
    pub(crate) phases: Vec<PhaseName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PhaseName {
    /// One kind of fault after the other
    Alone,
    /// All kinds at the same time
    Together,
    /// With events that are deleted once they are done: each kind alone, then all
    Deleting,
    /// All kinds at the same time, under a mixed load
    Mixed,
    /// On a SQLite file
    Sqlite,
    /// On MariaDB: each kind alone, then all
    Mysql,
    /// With JetStream in Redis' place: each kind alone, then all
    Nats,
    /// With consumers that record effects: each kind alone, then all, then without an inbox
    Consumers,
}

impl Arguments {
    /// Ends the process if they are invalid, or ask for help.
    pub(crate) fn from_environment() -> Self {
        let arguments = std::env::var(VARIABLE).unwrap_or_default();
        Self::parse_from(std::iter::once("faults.sh").chain(arguments.split_whitespace()))
    }

    pub(crate) fn runs(&self, phase: PhaseName) -> bool {
        let has_time = match phase {
            PhaseName::Alone => self.rounds > 0,
            PhaseName::Deleting | PhaseName::Mysql | PhaseName::Nats | PhaseName::Consumers => {
                self.rounds > 0 || self.seconds > 0
            }
            PhaseName::Together | PhaseName::Mixed | PhaseName::Sqlite => self.seconds > 0,
        };
        has_time && (self.phases.is_empty() || self.phases.contains(&phase))
    }
}

impl fmt::Display for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--rounds {} --seconds {}", self.rounds, self.seconds)?;
        let kinds = self.only.iter().map(ToString::to_string).collect();
        let phases = self.phases.iter().filter_map(PhaseName::to_possible_value);
        write_list(f, "only", kinds)?;
        write_list(f, "phases", phases.map(|phase| phase.get_name().to_owned()).collect())
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, option: &str, names: Vec<String>) -> fmt::Result {
    if names.is_empty() { Ok(()) } else { write!(f, " --{option} {}", names.join(",")) }
}
