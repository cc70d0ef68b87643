//! `outbox health`

use std::collections::BTreeMap;

use actix_outbox::admin::{OutboxAdmin, Reachability};
use serde::Serialize;

use super::arguments::Format;
use super::output;

const OK: &str = "ok";

/// Check from this machine that the database and every backend can be reached; exit with 1 if one cannot.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox health
  outbox health --format json | jq -r .database")]
pub(super) struct Args {
    /// A table, or JSON (one object).
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Serialize)]
struct Health {
    database: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<String>,
    backends: BTreeMap<String, String>,
}

pub(super) async fn run(args: &Args, admin: &OutboxAdmin) -> anyhow::Result<()> {
    let health = Health::from(admin.reachability().await?);
    match args.format {
        Format::Json => output::json(&health)?,
        Format::Table => health.print()?,
    }
    health.verdict()
}

impl From<Reachability> for Health {
    fn from(reached: Reachability) -> Self {
        let text = |part: Result<(), String>| part.err().unwrap_or_else(|| OK.to_owned());
        Self {
            database: text(reached.database),
            schema: reached.schema,
            backends: reached.backends.into_iter().map(|(name, part)| (name, text(part))).collect(),
        }
    }
}

impl Health {
    fn parts(&self) -> impl Iterator<Item = (String, &String)> {
        let backends = self.backends.iter().map(|(name, health)| (format!("backend {name}"), health));
        std::iter::once(("database".to_owned(), &self.database)).chain(backends)
    }

    fn print(&self) -> std::io::Result<()> {
        let rows = self.parts().map(|(part, health)| vec![output::printable(&part), output::printable(health)]);
        let schema = self.schema.iter().map(|schema| vec!["schema".to_owned(), output::printable(schema)]);
        let rows = rows.chain(schema);
        output::table(&["PART", "HEALTH"], rows)
    }

    fn verdict(&self) -> anyhow::Result<()> {
        let unhealthy: Vec<String> = self.parts().filter(|(_, health)| *health != OK).map(|(part, _)| part).collect();
        if unhealthy.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("unhealthy: {}", unhealthy.join(", "))) }
    }
}
