//! `outbox health`

use std::collections::BTreeMap;

use actix_outbox::admin::{OutboxAdmin, Reachability};
use serde::Serialize;

use super::arguments::Format;
use super::output;

const OK: &str = "ok";
const OWED_NOTHING_NEW: &str = "new events are not owed: no live process has had it for handlers_owed";

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
    /// Those that miss new events. Their service may be another one, so they make this process no less healthy.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    handlers: BTreeMap<String, &'static str>,
}

pub(super) async fn run(args: &Args, admin: &OutboxAdmin) -> anyhow::Result<()> {
    let mut health = Health::from(admin.reachability().await?);
    if health.database == OK {
        let handlers = admin.handlers().await?;
        let missing = handlers.into_iter().filter(|handler| handler.expired && !handler.alive);
        health.handlers = missing.map(|handler| (handler.name, OWED_NOTHING_NEW)).collect();
    }
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
            handlers: BTreeMap::new(),
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
        let handlers = self
            .handlers
            .iter()
            .map(|(name, problem)| vec![output::printable(&format!("handler {name}")), (*problem).to_owned()]);
        let rows = rows.chain(schema).chain(handlers);
        output::table(&["PART", "HEALTH"], rows)
    }

    fn verdict(&self) -> anyhow::Result<()> {
        let unhealthy: Vec<String> = self.parts().filter(|(_, health)| *health != OK).map(|(part, _)| part).collect();
        if unhealthy.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("unhealthy: {}", unhealthy.join(", "))) }
    }
}
