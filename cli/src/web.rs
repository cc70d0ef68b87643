//! `outbox web`: the console without a worker.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use actix_outbox::{Builder, Settings};
use actix_outbox_console::ConsoleProbes;
use actix_web::web::ServiceConfig;

/// Serve the console: due events, workers, and every event with the reason for its state, in a browser and as a JSON API; and
/// the probes /healthz and /readyz.
///
/// `outbox worker --http` serves it too. Users sign in with a secret: `operator_secret_file` under [web], or
/// OUTBOX__WEB__OPERATOR_SECRET. Without one, on loopback, a secret is drawn for the run and printed with a link.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox web
  OUTBOX__WEB__OPERATOR_SECRET=$(openssl rand -hex 32) outbox web --http 0.0.0.0:9750")]
pub(super) struct Args {
    /// The address to serve on.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9750")]
    http: SocketAddr,
    /// Serve /healthz and /readyz on this address instead of the one of --http: for example one that only the orchestrator reaches.
    #[arg(long, value_name = "ADDR")]
    probe_addr: Option<SocketAddr>,
    /// On loopback, without a secret in the settings: do not ask for one. Every user and program of this machine then has full
    /// access.
    #[arg(long)]
    insecure_no_secret: bool,
}

pub(super) fn run(args: &Args, settings: &Settings, builder: &Builder) -> anyhow::Result<()> {
    let console = crate::http::console(builder, settings, args.http, args.insecure_no_secret)?;
    let probes = ConsoleProbes::new(&console);
    actix_rt::System::new().block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let path = crate::http::path(settings).to_owned();
        let own_address = args.probe_addr.filter(|address| *address != args.http);
        if let Some(address) = own_address {
            let probes = probes.clone();
            serve(address, move |config| probes.configure(config))?;
        }
        serve(args.http, move |config| {
            if own_address.is_none() {
                probes.configure(config);
            }
            config.service(actix_outbox_console::scope(&path, &console));
        })?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}

fn serve(address: SocketAddr, routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static) -> anyhow::Result<()> {
    crate::http::serve(address, routes).with_context(|| format!("cannot serve HTTP on {address}"))
}
