//! `outbox status`

#[cfg(feature = "consumer")]
mod consumers;
mod history;

use std::collections::BTreeMap;
use std::time::Duration;

use actix_outbox::Settings;
use actix_outbox::admin::{
    BackendStatus, CountMode, HandlerStatus, OrphanedFields, OutboxAdmin, OutboxStatus, WorkerStatus,
};
use serde::Serialize;

use self::history::History;
use super::arguments::Format;
use super::backends;
use super::output::{self, time};

/// How long a backend may take to list its streams.
const LIMIT: Duration = Duration::from_secs(15);

/// Show the number of events, due events, workers, handlers, orphaned fields next to the streams, and what consumers have not
/// handled.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox status
  outbox status --history
  outbox status --consumers    # of a service with a database of its own
  outbox status --format json | jq '.backends[] | select(.due > 1000)'")]
pub(super) struct Args {
    /// Tables, or JSON (one object).
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Also show published, rejected and failed events, by minute and by hour.
    #[arg(long)]
    history: bool,
    /// Show only what the consumers of the settings have not handled. This needs no database.
    #[cfg(feature = "consumer")]
    #[arg(long, conflicts_with = "history")]
    pub(super) consumers: bool,
}

/// What the consumers have not handled, without a database.
#[cfg(feature = "consumer")]
pub(super) async fn run_consumers(args: &Args, settings: &Settings) -> anyhow::Result<()> {
    let most = settings.consumers.len();
    anyhow::ensure!(most > 0, "the settings have no consumer: add [consumers.NAME]");
    let consumers = consumers::read(settings).await;
    let count = consumers.len();
    match args.format {
        Format::Json => output::json(&serde_json::json!({ "consumers": consumers }))?,
        Format::Table => consumers::print(&consumers)?,
    }
    anyhow::ensure!(
        count == most,
        "the servers of {} of {most} consumers did not answer; the log has the reasons",
        most - count
    );
    Ok(())
}

#[cfg_attr(not(feature = "consumer"), expect(unused_variables, reason = "consumers are a feature"))]
pub(super) async fn run(args: &Args, admin: &OutboxAdmin, settings: &Settings) -> anyhow::Result<()> {
    let (counted, handlers) = tokio::try_join!(admin.status(CountMode::Exactly), admin.handlers())?;
    let mut status = StatusOutput::new(counted, handlers);
    status.schema = admin.schema();
    for (name, orphans) in admin.orphans().await? {
        match orphans {
            Ok(orphans) => status.set_orphans(&name, orphans),
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
    for (name, streams) in admin.streams(LIMIT).await {
        match streams {
            Ok(streams) => status.set_streams(&name, streams),
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
    #[cfg(feature = "consumer")]
    {
        status.consumers = consumers::read(settings).await;
    }
    if args.history {
        status.history = Some(History::read(admin).await?);
    }
    match args.format {
        Format::Json => output::json(&status),
        Format::Table => status.print(),
    }
}

#[derive(Debug, PartialEq, Serialize)]
struct StatusOutput {
    /// The schema of the tables in PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<String>,
    counts: BTreeMap<String, i64>,
    backends: Vec<Backend>,
    workers: Vec<WorkerStatus>,
    handlers: Vec<HandlerStatus>,
    /// The consumers of the settings, as far as their servers answer.
    #[cfg(feature = "consumer")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    consumers: Vec<actix_outbox::ConsumerStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<History>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Backend {
    #[serde(flatten)]
    status: BackendStatus,
    /// Orphaned fields next to its stream; none if they could not be read.
    left_behind: Option<Vec<OrphanedFields>>,
    /// The streams that its events went to, or its partitions, if it has several and they could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    streams: Option<Vec<String>>,
}

impl StatusOutput {
    fn new(status: OutboxStatus, handlers: Vec<HandlerStatus>) -> Self {
        let OutboxStatus { counts, backends, workers, .. } = status;
        let backends = backends.into_iter().map(|status| Backend { status, left_behind: None, streams: None });
        Self {
            schema: None,
            counts,
            backends: backends.collect(),
            workers,
            handlers,
            #[cfg(feature = "consumer")]
            consumers: Vec::new(),
            history: None,
        }
    }

    fn set_orphans(&mut self, backend: &str, left: Vec<OrphanedFields>) {
        if let Some(backend) = self.backends.iter_mut().find(|other| other.status.name == backend) {
            backend.left_behind = Some(left);
        }
    }

    fn set_streams(&mut self, backend: &str, streams: Vec<String>) {
        if let Some(backend) = self.backends.iter_mut().find(|other| other.status.name == backend) {
            backend.streams = Some(streams);
        }
    }

    fn print(&self) -> anyhow::Result<()> {
        if let Some(schema) = &self.schema {
            output::line(format_args!("SCHEMA  {}\n", output::printable(schema)))?;
        }
        let counts = self.counts.iter().map(|(status, count)| vec![output::printable(status), count.to_string()]);
        output::table(&["STATUS", "EVENTS"], counts)?;
        output::line("")?;
        backends::print(self.backends.iter().map(|backend| &backend.status))?;
        self.print_streams()?;
        output::line("")?;
        let workers = self.workers.iter().map(|worker| {
            let shards: Vec<String> = worker.shards.iter().map(|(lane, count)| format!("{lane}: {count}")).collect();
            vec![output::printable(&worker.name), time(worker.heartbeat_at), output::printable(&shards.join(", "))]
        });
        output::table(&["WORKER", "HEARTBEAT", "SHARDS"], workers)?;
        if !self.handlers.is_empty() {
            output::line("")?;
            print_handlers(&self.handlers)?;
        }
        #[cfg(feature = "consumer")]
        if !self.consumers.is_empty() {
            output::line("")?;
            consumers::print(&self.consumers)?;
        }
        if let Some(history) = &self.history {
            history.print()?;
        }
        self.print_orphans()
    }

    fn print_streams(&self) -> anyhow::Result<()> {
        let with_several = self.backends.iter().filter_map(|backend| Some((backend, backend.streams.as_ref()?)));
        let rows = with_several.flat_map(|(backend, streams)| {
            streams.iter().map(|stream| [&*backend.status.name, stream].map(output::printable).to_vec())
        });
        let rows: Vec<Vec<String>> = rows.collect();
        if rows.is_empty() {
            return Ok(());
        }
        output::line("")?;
        Ok(output::table(&["BACKEND", "STREAM"], rows)?)
    }

    fn print_orphans(&self) -> anyhow::Result<()> {
        let left: Vec<Vec<String>> = self.backends.iter().flat_map(Backend::orphan_rows).collect();
        if left.is_empty() {
            return Ok(());
        }
        output::line("\nOrphaned fields next to the streams (see `outbox cleanup --help`):")?;
        Ok(output::table(&["BACKEND", "OUTBOX", "PUBLISHER_BACKEND", "EVENTS", "BYTES"], left)?)
    }
}

pub(super) fn print_handlers(handlers: &[HandlerStatus]) -> anyhow::Result<()> {
    let rows = handlers.iter().map(|handler| {
        let oldest = handler.oldest_owed_seconds.map_or_else(String::new, |seconds| format!("{seconds:.1} s"));
        let alive = match (handler.alive, handler.expired) {
            (true, _) => "yes",
            (false, false) => "no",
            (false, true) => "no; new events are not owed",
        };
        let counts = [handler.owed, handler.types_no_longer_handled].map(|count| count.to_string());
        [output::printable(&handler.name)].into_iter().chain(counts).chain([oldest, alive.to_owned()]).collect()
    });
    Ok(output::table(&["HANDLER", "OWED", "TYPE NO LONGER HANDLED", "OLDEST OWED", "ALIVE"], rows)?)
}

impl Backend {
    fn orphan_rows(&self) -> impl Iterator<Item = Vec<String>> {
        self.left_behind.iter().flatten().map(|left| {
            let lane = if left.publisher_backend.is_empty() { "(default)" } else { &left.publisher_backend };
            let counts = [left.events, left.bytes].map(|count| count.to_string());
            let names = [&self.status.name, &left.outbox.to_string(), lane].map(output::printable);
            names.into_iter().chain(counts).collect()
        })
    }
}
