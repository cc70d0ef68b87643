//! `outbox backends`

use std::time::Duration;

use actix_outbox::Settings;
use actix_outbox::admin::{BackendStatus, CountMode, OutboxAdmin};
use tokio::time::Instant;

use super::arguments::Format;
use super::{author, output};

/// List the backends, and pause and resume them.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    List(ListArgs),
    Pause(PauseArgs),
    Resume(ResumeArgs),
}

/// List the backends with their due events, their health, and whether they are paused.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// A table, or JSON (one array).
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Pause a backend on all workers, until it is resumed.
///
/// Returns once no worker sends to it; for a host, workers stop with their next heartbeat, within a third of the lease time.
/// Its events wait, and no retry is spent. `outbox status` shows the pause, and `outbox
/// events explain` names it; the health checks do not fail because of it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox backends pause orders --reason 'the consumers are being moved'
  outbox backends pause webhooks --host hooks.example.com
  outbox backends resume orders")]
pub(super) struct PauseArgs {
    /// The publisher's name.
    name: String,
    /// Only this host of webhooks, by its name without a port; the events for other hosts continue.
    #[arg(long, value_name = "HOST", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    host: Option<String>,
    /// Why, for other operators.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// Resume a paused backend, with its hosts. Workers begin to send to it with their next heartbeat; events that have waited for
/// a host come at their next try, which `outbox status` and `outbox events explain` show.
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    /// The publisher's name.
    name: String,
    /// Only this host of webhooks, such as one that answered 410.
    #[arg(long, value_name = "HOST", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    host: Option<String>,
}

/// How much longer than two lease times to wait until workers have stopped sending.
const PATIENCE: Duration = Duration::from_secs(5);

const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub(super) async fn run(command: Command, admin: &OutboxAdmin, settings: &Settings) -> anyhow::Result<()> {
    match command {
        Command::List(args) => list(&args, admin).await,
        Command::Pause(args) => pause(&args, admin, settings.worker.lease).await,
        Command::Resume(args) => resume(&args, admin).await,
    }
}

async fn list(args: &ListArgs, admin: &OutboxAdmin) -> anyhow::Result<()> {
    let backends = admin.status(CountMode::Roughly).await?.backends;
    match args.format {
        Format::Json => output::json(&backends),
        Format::Table => print(backends.iter()),
    }
}

async fn resume(ResumeArgs { name, host }: &ResumeArgs, admin: &OutboxAdmin) -> anyhow::Result<()> {
    let (by, from) = (author::actor(), author::host());
    let (resumed, what) = match host {
        None => (admin.resume_backend(name, &by, &from).await?, name.clone()),
        Some(host) => (admin.resume_host(name, host, &by, &from).await?, format!("{host} of {name}")),
    };
    Ok(output::line(format_args!("{} {what}", if resumed { "resumed" } else { "was not paused:" }))?)
}

async fn pause(args: &PauseArgs, admin: &OutboxAdmin, lease: Duration) -> anyhow::Result<()> {
    let PauseArgs { name, host, reason } = args;
    if let Some(host) = host {
        let paused = admin.pause_host(name, host, &author::actor(), &author::host(), reason).await?;
        let outcome = if paused { "paused" } else { "was paused before:" };
        return Ok(output::line(format_args!("{outcome} {host} of {name}"))?);
    }
    let paused = admin.pause_backend(name, &author::actor(), &author::host(), reason).await?;
    let deadline = Instant::now() + 2 * lease + PATIENCE;
    loop {
        let senders = admin.senders(name).await?;
        if senders.is_empty() {
            return Ok(output::line(format_args!("{} {name}", if paused { "paused" } else { "was paused before:" }))?);
        }
        if Instant::now() > deadline {
            let workers = senders.join(", ");
            anyhow::bail!(
                "{name} is paused, but still in use by {workers}: restart them if they are of an older version"
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A table of backends.
pub(super) fn print<'a>(backends: impl Iterator<Item = &'a BackendStatus>) -> anyhow::Result<()> {
    let rows = backends.map(|backend| {
        let oldest = backend.oldest_due_seconds.map_or_else(String::new, |seconds| format!("{seconds:.1} s"));
        let name = if backend.name.is_empty() { "(default)" } else { &backend.name };
        vec![output::printable(name), backend.due.to_string(), oldest, output::printable(&health(backend))]
    });
    Ok(output::table(&["BACKEND", "DUE", "OLDEST DUE", "HEALTH"], rows)?)
}

/// Whether it is paused, and its health.
fn health(backend: &BackendStatus) -> String {
    if !backend.paused && backend.paused_hosts.is_empty() {
        return backend.health.clone();
    }
    if !backend.paused {
        return format!("{}; paused hosts: {}", backend.health, backend.paused_hosts.join(", "));
    }
    let since = backend.paused_since.map(|since| format!(" since {}", output::time(since))).unwrap_or_default();
    let by = backend.paused_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let reason = backend.pause_reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("paused{since}{by}{reason}; {}", backend.health)
}
