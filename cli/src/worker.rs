//! `outbox worker`

use std::time::Duration;

#[cfg(feature = "http")]
use actix_outbox::actix_web::Probes;
use actix_outbox::{Builder, Drained, Outbox, Settings};
use anyhow::{Context, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};
use uuid::Uuid;

use super::arguments;

/// The exit code that a shell reports for a program ended by SIGINT.
pub(super) const INTERRUPTED: i32 = 130;

/// Deliver events to their backends until stopped.
///
/// Run as many workers as you like: they share the work, and take over the work of a worker that dies. While the database
/// or a backend is unavailable, a worker retries. On SIGTERM or SIGINT it finishes the deliveries in flight, releases its
/// shards and exits with 0; a second signal ends it immediately, which loses no events.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox worker
  outbox worker --until-empty
  timeout 5m outbox worker --limit 1000
  outbox worker --backends default,audit --name audit-1
  outbox worker --http 127.0.0.1:9750
  OUTBOX__PUBLISHERS__DEFAULT__URL=redis://localhost OUTBOX_LOG=debug outbox worker")]
pub(super) struct Args {
    /// Events sent to a backend in one batch, at most [default: `batch_size` under [worker], 500].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: Option<u32>,
    /// How often to poll for events whose writer does not wake workers [default: `poll_interval` under [worker], 100ms].
    #[arg(long, value_name = "TIME", value_parser = arguments::interval)]
    poll_interval: Option<Duration>,
    /// Exit with 0 when no due event is left; with 1, naming them, if the outcome of some cannot be recorded.
    #[arg(long)]
    until_empty: bool,
    /// Deliver N events at most, and exit with 0 after them or when no due event is left: for a cron job. An event counts when
    /// its outcome is recorded, also as a retry or a failure.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Serve these publishers only, by name [default: `backends` under [worker], all of them].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    backends: Option<Vec<String>>,
    /// The worker's name in `outbox status` and the console [default: `name` under [worker], else the host's name and the
    /// process id].
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// Serve the console, /healthz, /readyz and /metrics (Prometheus) over HTTP on this address. The console asks for a secret:
    /// `operator_secret_file` under [web]; without one, on loopback, it is drawn for the run and printed.
    #[cfg(feature = "http")]
    #[arg(long, value_name = "ADDR")]
    http: Option<std::net::SocketAddr>,
    /// Serve /healthz, /readyz and /metrics on this address instead of the one of --http: for example one that only the
    /// orchestrator and Prometheus can reach.
    #[cfg(feature = "http")]
    #[arg(long, value_name = "ADDR")]
    probe_addr: Option<std::net::SocketAddr>,
    /// With --http: without the console.
    #[cfg(feature = "http")]
    #[arg(long, requires = "http")]
    no_web: bool,
    /// With --http on loopback, without a secret in the settings: do not ask for one. Every user and program of this machine
    /// then has full access to the console.
    #[cfg(feature = "http")]
    #[arg(long, requires = "http")]
    insecure_no_secret: bool,
    /// For `outbox bench`: calls no handler, and finishes when its standard input ends, which also happens when the bench is
    /// killed.
    #[arg(long, hide = true)]
    measured: bool,
}

/// The HTTP server, if --http is given.
#[cfg(feature = "http")]
struct Site(Option<Open>);

#[cfg(feature = "http")]
struct Open {
    /// The address of the probes; the console is at the other one, or at the same.
    probes: std::net::SocketAddr,
    metrics: actix_outbox::metrics::Prometheus,
    console: Option<(std::net::SocketAddr, actix_outbox_console::Console)>,
    /// The console's path.
    path: String,
}

#[cfg(not(feature = "http"))]
struct Site;

/// Reports to the HTTP server that the system has started.
type ReadyReport = Box<dyn FnOnce(&Outbox)>;

impl Site {
    /// Installs the metrics' recorder, before the system starts and registers its metrics.
    #[cfg(feature = "http")]
    fn prepare(args: &Args, settings: &Settings, builder: &Builder) -> anyhow::Result<Self> {
        let Some(probes) = args.probe_addr.or(args.http) else { return Ok(Self(None)) };
        let console = |address| crate::http::console(builder, settings, address, args.insecure_no_secret);
        let console = args.http.filter(|_| !args.no_web).map(|address| anyhow::Ok((address, console(address)?)));
        let console = console.transpose()?;
        let metrics = actix_outbox::metrics::Prometheus::install()?;
        Ok(Self(Some(Open { probes, metrics, console, path: crate::http::path(settings).to_owned() })))
    }

    #[cfg(not(feature = "http"))]
    fn prepare(_: &Args, _: &Settings, _: &Builder) -> anyhow::Result<Self> {
        Ok(Self)
    }

    /// Serves from before the system starts until the process ends, because orchestrators probe in both phases.
    #[cfg(feature = "http")]
    fn open(self) -> anyhow::Result<ReadyReport> {
        let Some(Open { probes: address, metrics, console, path }) = self.0 else { return Ok(Box::new(|_| ())) };
        let started: std::sync::Arc<std::sync::OnceLock<Outbox>> = std::sync::Arc::default();
        let probes = Probes::starting(std::sync::Arc::clone(&started)).metrics(move || metrics.render());
        let serve = |address, probes: Option<Probes>, console: Option<actix_outbox_console::Console>| {
            let path = path.clone();
            let routes = move |config: &mut actix_web::web::ServiceConfig| {
                probes.iter().for_each(|probes| probes.configure(config));
                if let Some(console) = &console {
                    config.service(actix_outbox_console::scope(&path, console));
                }
            };
            crate::http::serve(address, routes).with_context(|| format!("cannot serve HTTP on {address}"))
        };
        match console {
            Some((other, console)) if other != address => {
                serve(other, None, Some(console))?;
                serve(address, Some(probes), None)?;
            }
            console => serve(address, Some(probes), console.map(|(_, console)| console))?,
        }
        Ok(Box::new(move |outbox| drop(started.set(outbox.clone()))))
    }

    #[cfg(not(feature = "http"))]
    fn open(self) -> anyhow::Result<ReadyReport> {
        Ok(Box::new(|_| ()))
    }
}

pub(super) fn run(args: Args, mut settings: Settings, builder: Builder) -> anyhow::Result<()> {
    let (until_empty, measured) = (args.until_empty || args.limit.is_some(), args.measured);
    let site = Site::prepare(&args, &settings, &builder)?;
    let builder = match args.limit {
        Some(most) => builder.limit(usize::try_from(most)?),
        None => builder,
    };
    args.apply(&mut settings)?;
    let builder = if measured { builder.without_handlers() } else { builder };
    let builder = builder.settings(settings);
    actix_rt::System::new().block_on(work(builder, until_empty, measured, site))
}

impl Args {
    fn apply(self, settings: &mut Settings) -> anyhow::Result<()> {
        let worker = &mut settings.worker;
        if let Some(size) = self.batch_size {
            worker.batch_size = usize::try_from(size)?;
        }
        if let Some(interval) = self.poll_interval {
            worker.poll_interval = interval;
        }
        if self.name.is_some() {
            worker.name = self.name;
        }
        if self.backends.is_some() {
            worker.backends = self.backends;
            settings.check_backends("--backends")?;
        }
        Ok(())
    }
}

async fn work(builder: Builder, until_empty: bool, measured: bool, site: Site) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let started = site.open()?;
    let outbox = tokio::select! {
        outbox = builder.start() => outbox?,
        // Nothing has started, so nothing needs to finish.
        _ = signals.next() => return Ok(()),
    };
    started(&outbox);
    let left = tokio::select! {
        left = outbox.drained(), if until_empty => {
            tracing::info!("nothing is left to deliver; shutting down");
            for (backend, due) in &left.elsewhere {
                tracing::warn!(%backend, due, "its due events are left: this worker does not serve the backend, or it is paused");
            }
            left
        }
        () = input_ended(), if measured => Drained::default(),
        name = signals.next() => {
            tracing::info!(signal = name, "shutting down; finishing deliveries in flight");
            Drained::default()
        }
    };
    shut_down(&outbox, &mut signals).await?;
    match left.unrecorded.is_empty() {
        true => Ok(()),
        false => Err(unrecorded(&left.unrecorded)),
    }
}

/// The most ids in a message.
const MOST_NAMED: usize = 10;

fn unrecorded(ids: &[Uuid]) -> anyhow::Error {
    let named: Vec<String> = ids.iter().take(MOST_NAMED).map(Uuid::to_string).collect();
    let more = if ids.len() > MOST_NAMED { ", and others" } else { "" };
    anyhow!(
        "the outcome of {} of the events could not be recorded: {}{more}. `outbox events explain ID` names the reason",
        ids.len(),
        named.join(", ")
    )
}

async fn shut_down(outbox: &Outbox, signals: &mut Signals) -> anyhow::Result<()> {
    tokio::select! {
        result = outbox.shutdown() => Ok(result?),
        name = signals.next() => {
            tracing::warn!(signal = name, "ending immediately after a second signal; events in flight stay in the outbox");
            std::process::exit(INTERRUPTED)
        }
    }
}

/// Waits for the end of standard input. Reads on its own thread, because a runtime would wait for a read that never ends.
async fn input_ended() {
    let (ended, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // An error counts as the end.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    });
    let _ = told.await;
}

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
