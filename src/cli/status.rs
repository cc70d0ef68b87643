//! `outbox status`

mod history;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use self::history::History;
use super::arguments::Format;
use super::journals::{self, Journal, Left, Served};
use super::output;
use super::row::time;
use crate::settings::Settings;
use crate::store::{Overview, Store};
use crate::system::Backends;

/// Show how many events there are, what is due, who works, and what was left behind beside the streams.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox status
  outbox status --history
  outbox status --format json | jq '.backends[] | select(.due > 1000)'")]
pub(super) struct Args {
    /// Tables for people, or JSON (one object) for programs.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Show what became of events, too: by minute and by hour.
    #[arg(long)]
    history: bool,
}

pub(super) async fn run(
    args: &Args,
    settings: &Settings,
    backends: &Backends,
    store: Arc<dyn Store>,
) -> anyhow::Result<()> {
    let overview = store.overview().await?;
    let served = Served::new(store.outbox_id().await?, settings, &overview);
    let mut status = Status::new(&overview, settings);
    for (name, publisher) in journals::kept(settings) {
        match Journal::read(name, publisher, backends, served.outbox()).await {
            Ok(journal) => status.note_left(name, journal.left(&served)),
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
    if args.history {
        status.history = Some(History::read(&*store).await?);
    }
    match args.format {
        Format::Json => output::json(&status),
        Format::Table => status.print(),
    }
}

#[derive(Debug, PartialEq, Serialize)]
struct Status {
    counts: BTreeMap<String, i64>,
    backends: Vec<Backend>,
    workers: Vec<Worker>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<History>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Backend {
    name: String,
    due: i64,
    oldest_due_seconds: Option<f64>,
    /// `"ok"`, or why no worker delivers.
    health: String,
    /// What stands beside its stream and is nobody's; none where that could not be read.
    left_behind: Option<Vec<Left>>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Worker {
    name: String,
    heartbeat_at: String,
    shards: BTreeMap<String, i64>,
}

impl Status {
    fn new(overview: &Overview, settings: &Settings) -> Self {
        let publisher = |lane: &str| match settings.default_publisher() {
            Ok(default) if lane.is_empty() => default.to_owned(),
            _ => lane.to_owned(),
        };
        let mut seen: BTreeMap<String, Seen> =
            settings.publishers.keys().map(|name| (name.clone(), Seen::default())).collect();
        for due in &overview.due {
            let backend = seen.entry(publisher(&due.lane)).or_default();
            backend.due += due.events;
            backend.oldest = backend.oldest.max(Some(due.oldest));
        }
        for worker in overview.workers.iter().filter(|worker| worker.is_alive(settings.worker.lease)) {
            for (lane, report) in worker.reports() {
                let backend = seen.entry(publisher(&lane)).or_default();
                if backend.health.as_deref() != Some("ok") {
                    backend.health = Some(report.health);
                }
            }
        }
        let workers = overview.workers.iter().map(|worker| {
            let mut shards = BTreeMap::new();
            for (lane, count) in &worker.shards {
                *shards.entry(publisher(lane)).or_insert(0) += count;
            }
            Worker { name: worker.name.clone(), heartbeat_at: time(worker.heartbeat_at), shards }
        });
        Self {
            counts: overview.counts.iter().cloned().collect(),
            backends: seen.into_iter().map(|(name, seen)| seen.named(name)).collect(),
            workers: workers.collect(),
            history: None,
        }
    }

    fn note_left(&mut self, backend: &str, left: Vec<Left>) {
        if let Some(backend) = self.backends.iter_mut().find(|other| other.name == backend) {
            backend.left_behind = Some(left);
        }
    }

    fn print(&self) -> anyhow::Result<()> {
        let counts = self.counts.iter().map(|(status, count)| vec![output::printable(status), count.to_string()]);
        output::table(&["STATUS", "EVENTS"], counts)?;
        output::line("")?;
        let backends = self.backends.iter().map(|backend| {
            let oldest = backend.oldest_due_seconds.map_or_else(String::new, |seconds| format!("{seconds:.1} s"));
            let name = if backend.name.is_empty() { "(default)" } else { &backend.name };
            vec![output::printable(name), backend.due.to_string(), oldest, output::printable(&backend.health)]
        });
        output::table(&["BACKEND", "DUE", "OLDEST DUE", "HEALTH"], backends)?;
        output::line("")?;
        let workers = self.workers.iter().map(|worker| {
            let shards: Vec<String> = worker.shards.iter().map(|(lane, count)| format!("{lane}: {count}")).collect();
            vec![output::printable(&worker.name), worker.heartbeat_at.clone(), output::printable(&shards.join(", "))]
        });
        output::table(&["WORKER", "HEARTBEAT", "SHARDS"], workers)?;
        if let Some(history) = &self.history {
            history.print()?;
        }
        self.print_left()
    }

    fn print_left(&self) -> anyhow::Result<()> {
        let left: Vec<Vec<String>> = self.backends.iter().flat_map(Backend::left_rows).collect();
        if left.is_empty() {
            return Ok(());
        }
        output::line("\nLeft behind beside the streams (see `outbox cleanup --help`):")?;
        Ok(output::table(&["BACKEND", "OUTBOX", "PUBLISHER_BACKEND", "EVENTS", "BYTES"], left)?)
    }
}

impl Backend {
    fn left_rows(&self) -> impl Iterator<Item = Vec<String>> {
        self.left_behind.iter().flatten().map(|left| {
            let lane = if left.publisher_backend.is_empty() { "(default)" } else { &left.publisher_backend };
            let counts = [left.events, left.bytes].map(|count| count.to_string());
            let names = [&self.name, &left.outbox.to_string(), lane].map(output::printable);
            names.into_iter().chain(counts).collect()
        })
    }
}

/// What the rows say of one backend.
#[derive(Debug, Default)]
struct Seen {
    due: i64,
    oldest: Option<Duration>,
    health: Option<String>,
}

impl Seen {
    fn named(self, name: String) -> Backend {
        Backend {
            name,
            due: self.due,
            oldest_due_seconds: self.oldest.map(|oldest| oldest.as_secs_f64()),
            health: self.health.unwrap_or_else(|| "no live worker serves it".to_owned()),
            left_behind: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::store::{Due, WorkerRow};

    fn worker(name: &str, silent: u64, backends: &str) -> WorkerRow {
        WorkerRow {
            id: Uuid::nil(),
            name: name.to_owned(),
            heartbeat_at: DateTime::UNIX_EPOCH,
            silent_for: Duration::from_secs(silent),
            backends: backends.to_owned(),
            shards: if silent < 60 { vec![(Arc::from(""), 16), (Arc::from("orders"), 16)] } else { Vec::new() },
        }
    }

    fn status(workers: Vec<WorkerRow>) -> Status {
        let due =
            |lane: &str, events, seconds| Due { lane: Arc::from(lane), events, oldest: Duration::from_secs(seconds) };
        let overview = Overview { counts: Vec::new(), due: vec![due("", 2, 9), due("orders", 3, 5)], workers };
        Status::new(&overview, &Settings::from_toml("publishers.orders.backend = 'local'").unwrap())
    }

    #[test]
    fn events_that_name_no_backend_belong_to_the_default_one() {
        let status = status(vec![worker("a", 1, r#"{"": "ok", "orders": "ok"}"#)]);
        let expected = Backend {
            name: "orders".to_owned(),
            due: 5,
            oldest_due_seconds: Some(9.0),
            health: "ok".to_owned(),
            left_behind: None,
        };
        assert_eq!(status.backends, [expected]);
        assert_eq!(status.workers[0].shards, BTreeMap::from([("orders".to_owned(), 32)]));
    }

    #[test]
    fn a_backend_is_well_where_one_live_worker_reaches_it() {
        let health = |workers| status(workers).backends[0].health.clone();
        let (down, up) = (r#"{"orders": "connection refused"}"#, r#"{"orders": "ok"}"#);
        assert_eq!(health(vec![worker("a", 1, down), worker("b", 1, up)]), "ok");
        assert_eq!(health(vec![worker("a", 1, up), worker("b", 1, down)]), "ok");
        assert_eq!(health(vec![worker("a", 1, down), worker("b", 60, up)]), "connection refused");
        assert_eq!(health(vec![worker("b", 60, up)]), "no live worker serves it");
    }
}
