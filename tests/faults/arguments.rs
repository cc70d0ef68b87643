//! What `scripts/faults.sh` was told.

use std::fmt;

use clap::Parser;

use crate::kinds::Kind;

/// The variable in which the script hands its arguments on.
const VARIABLE: &str = "OUTBOX_FAULTS";

/// Breaks workers, PostgreSQL, Redis and the network between them, and compares what was committed with the stream.
#[derive(Debug, Parser)]
#[command(name = "scripts/faults.sh")]
pub(crate) struct Arguments {
    /// Faults of each kind, kind after kind; of long ones a quarter
    #[arg(long, default_value_t = 20)]
    pub(crate) rounds: u32,
    /// How long all kinds then go on together, several at a time, and once more under a mixed load, and on SQLite; 0: not at all
    #[arg(long, default_value_t = 600)]
    pub(crate) seconds: u64,
    /// Draws the same faults, pauses and writes again; the order in which they meet is the machine's
    #[arg(long, default_value_t = rand::random_range(0..1_000_000))]
    pub(crate) seed: u64,
    /// These kinds alone
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Kind>,
}

impl Arguments {
    /// Ends the process where they are wrong, or ask for help.
    pub(crate) fn from_environment() -> Self {
        let arguments = std::env::var(VARIABLE).unwrap_or_default();
        Self::parse_from(std::iter::once("faults.sh").chain(arguments.split_whitespace()))
    }
}

impl fmt::Display for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--rounds {} --seconds {}", self.rounds, self.seconds)?;
        let kinds: Vec<String> = self.only.iter().map(ToString::to_string).collect();
        if kinds.is_empty() { Ok(()) } else { write!(f, " --only {}", kinds.join(",")) }
    }
}
