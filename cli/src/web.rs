//! `outbox web`: the console without a worker.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use actix_outbox::{Builder, Settings};

/// Serve the console: due events, workers, and every event with the reason for its state, in a browser and as a JSON API.
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
    /// On loopback, without a secret in the settings: do not ask for one. Every user and program of this machine then has full
    /// access.
    #[arg(long)]
    insecure_no_secret: bool,
}

pub(super) fn run(args: &Args, settings: &Settings, builder: &Builder) -> anyhow::Result<()> {
    let console = crate::http::console(builder, settings, args.http, args.insecure_no_secret)?;
    actix_rt::System::new().block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let path = crate::http::path(settings).to_owned();
        let routes = move |config: &mut actix_web::web::ServiceConfig| {
            config.service(actix_outbox_console::scope(&path, &console));
        };
        crate::http::serve(args.http, routes).with_context(|| format!("cannot serve HTTP on {}", args.http))?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
