//! `outbox worker`: what production runs.

use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::arguments;
use crate::settings::Settings;
use crate::system::{Builder, Outbox};

/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Deliver events to their backends until told to stop.
///
/// Run as many as you like beside each other: they share the work among them and take over from one that dies. A
/// database or a backend that cannot be reached is waited for. SIGTERM and SIGINT finish what is in flight, hand the
/// worker's share over and exit with 0; a second signal ends it at once, which loses nothing either.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox worker
  outbox worker --until-empty
  outbox worker --backends default,audit --name audit-1
  outbox worker --http 127.0.0.1:9750
  OUTBOX__PUBLISHERS__DEFAULT__URL=redis://localhost OUTBOX_LOG=debug outbox worker")]
pub(super) struct Args {
    /// Events handed to a backend at once, at most [default: `batch_size` under [worker], 500].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: Option<u32>,
    /// How often to look for events that nobody announced [default: `poll_interval` under [worker], 100ms].
    #[arg(long, value_name = "TIME", value_parser = arguments::interval)]
    poll_interval: Option<Duration>,
    /// Exit with 0 when nothing that is due is left to deliver.
    #[arg(long)]
    until_empty: bool,
    /// Serve these publishers only, by name [default: `backends` under [worker], all of them].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    backends: Option<Vec<String>>,
    /// The worker's name for people [default: `name` under [worker], the host's name and the process id].
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// Serve the console, /healthz, /readyz and /metrics (Prometheus) over HTTP on this address. Any but a loopback
    /// address needs a secret for the console: `operator_secret_file` under [web].
    #[cfg(feature = "http")]
    #[arg(long, value_name = "ADDR")]
    http: Option<std::net::SocketAddr>,
    /// With --http: no console.
    #[cfg(feature = "http")]
    #[arg(long, requires = "http")]
    no_web: bool,
    /// For `outbox bench`, whose events are nobody's: calls no handler, and finishes when its standard input ends, which
    /// also happens when the program that measures it is killed.
    #[arg(long, hide = true)]
    measured: bool,
}

/// What is served over HTTP, where that is asked for.
#[cfg(feature = "http")]
struct Site(Option<Open>);

#[cfg(feature = "http")]
struct Open {
    address: std::net::SocketAddr,
    metrics: crate::http::Metrics,
    console: Option<crate::web::Console>,
}

#[cfg(not(feature = "http"))]
struct Site;

/// Tells the site that the system has started.
type ReadyReport = Box<dyn FnOnce(&Outbox)>;

impl Site {
    /// Before the system is started: it asks for its metrics then.
    #[cfg(feature = "http")]
    fn prepare(args: &Args, settings: &Settings) -> anyhow::Result<Self> {
        let Some(address) = args.http else { return Ok(Self(None)) };
        let console = if args.no_web { None } else { Some(crate::http::console(settings, address)?) };
        let metrics = crate::http::Metrics::install().context("cannot count what is to be shown at /metrics")?;
        Ok(Self(Some(Open { address, metrics, console })))
    }

    #[cfg(not(feature = "http"))]
    fn prepare(_: &Args, _: &Settings) -> anyhow::Result<Self> {
        Ok(Self)
    }

    /// From before the system has started until the process ends: an orchestrator wants to hear of both.
    #[cfg(feature = "http")]
    fn open(self) -> anyhow::Result<ReadyReport> {
        let Some(Open { address, metrics, console }) = self.0 else { return Ok(Box::new(|_| ())) };
        let started = crate::http::Started::default();
        metrics.keep_up();
        let probes = crate::http::probes(std::sync::Arc::clone(&started), metrics);
        let routes = move |config: &mut actix_web::web::ServiceConfig| {
            probes(config);
            if let Some(console) = &console {
                config.service(crate::web::scope("", console));
            }
        };
        crate::http::serve(address, routes).with_context(|| format!("cannot serve HTTP on {address}"))?;
        Ok(Box::new(move |outbox| drop(started.set(outbox.clone()))))
    }

    #[cfg(not(feature = "http"))]
    fn open(self) -> anyhow::Result<ReadyReport> {
        Ok(Box::new(|_| ()))
    }
}

pub(super) fn run(args: Args, mut settings: Settings, builder: Builder) -> anyhow::Result<()> {
    let (until_empty, measured) = (args.until_empty, args.measured);
    let site = Site::prepare(&args, &settings)?;
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
        // Nothing was begun, so nothing needs to be finished.
        _ = signals.next() => return Ok(()),
    };
    started(&outbox);
    tokio::select! {
        () = outbox.drained(), if until_empty => tracing::info!("nothing that is due is left to deliver"),
        () = input_ended(), if measured => {}
        name = signals.next() => tracing::info!(signal = name, "finishing what is in flight"),
    }
    shut_down(&outbox, &mut signals).await
}

async fn shut_down(outbox: &Outbox, signals: &mut Signals) -> anyhow::Result<()> {
    tokio::select! {
        result = outbox.shutdown() => Ok(result?),
        name = signals.next() => {
            tracing::warn!(signal = name, "ending at once; what was in flight stays in the outbox");
            std::process::exit(INTERRUPTED)
        }
    }
}

/// Reads on a thread of its own: a runtime would wait for a read that never ends.
async fn input_ended() {
    let (ended, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // An error is an end as well.
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
