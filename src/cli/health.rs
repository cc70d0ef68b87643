//! `outbox health`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use uuid::Uuid;

use super::arguments::Format;
use super::output;
use crate::settings::{PublisherSettings, Settings};
use crate::store::Store;
use crate::system::Backends;

/// The limit of a check, even if configured timeouts are longer.
const LIMIT: Duration = Duration::from_secs(15);

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
    backends: BTreeMap<String, String>,
}

pub(super) async fn run(
    args: &Args,
    settings: &Settings,
    backends: &Backends,
    store: Arc<dyn Store>,
) -> anyhow::Result<()> {
    let checks = settings.served_publishers().map(|(name, publisher)| check(name, publisher, backends));
    let (database, backends) = tokio::join!(store.outbox_id(), join_all(checks));
    let backends = backends.into_iter().collect::<Result<_, _>>()?;
    let health = Health { database: database.map_or_else(|error| error.to_string(), |_| OK.to_owned()), backends };
    match args.format {
        Format::Json => output::json(&health)?,
        Format::Table => health.print()?,
    }
    health.verdict()
}

async fn check(name: &str, publisher: &PublisherSettings, backends: &Backends) -> anyhow::Result<(String, String)> {
    let mut session = backends.session(name, publisher, Uuid::nil())?();
    let health = match tokio::time::timeout(LIMIT, session.health_check()).await {
        Ok(Ok(())) => OK.to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {LIMIT:?}"),
    };
    Ok((name.to_owned(), health))
}

impl Health {
    fn parts(&self) -> impl Iterator<Item = (String, &String)> {
        let backends = self.backends.iter().map(|(name, health)| (format!("backend {name}"), health));
        std::iter::once(("database".to_owned(), &self.database)).chain(backends)
    }

    fn print(&self) -> std::io::Result<()> {
        let rows = self.parts().map(|(part, health)| vec![output::printable(&part), output::printable(health)]);
        output::table(&["PART", "HEALTH"], rows)
    }

    fn verdict(&self) -> anyhow::Result<()> {
        let unhealthy: Vec<String> = self.parts().filter(|(_, health)| *health != OK).map(|(part, _)| part).collect();
        if unhealthy.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("unhealthy: {}", unhealthy.join(", "))) }
    }
}
