//! `outbox handlers`

use std::sync::Arc;

use anyhow::bail;

use super::arguments::Format;
use super::output;
use super::status::print_handlers;
use crate::outbox_status::HandlerGlance;
use crate::settings::Settings;
use crate::store::Store;

/// List the handlers with the number of events that wait for each, and drop those whose service no longer exists.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    List(ListArgs),
    Drop(DropArgs),
}

/// List the registered handlers, with the number of events that wait for each.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// A table, or JSON (one array).
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Drop a handler whose service will not come back: no event waits for it any more, and events that waited only for it are
/// done.
///
/// If a service later starts with a handler of that name, the handler gets only events committed after that.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox handlers list
  outbox handlers drop old-mailer")]
pub(super) struct DropArgs {
    /// The handler's name.
    name: String,
}

pub(super) async fn run(command: Command, settings: &Settings, store: Arc<dyn Store>) -> anyhow::Result<()> {
    match command {
        Command::List(args) => list(&args, settings, &*store).await,
        Command::Drop(args) => drop_handler(&args.name, settings, &*store).await,
    }
}

async fn all(settings: &Settings, store: &dyn Store) -> anyhow::Result<Vec<HandlerGlance>> {
    let (owed, workers) = tokio::try_join!(store.owed(), store.workers())?;
    Ok(HandlerGlance::list(owed, &workers, settings.worker.lease))
}

async fn list(args: &ListArgs, settings: &Settings, store: &dyn Store) -> anyhow::Result<()> {
    let handlers = all(settings, store).await?;
    match args.format {
        Format::Json => output::json(&handlers),
        Format::Table => print_handlers(&handlers),
    }
}

async fn drop_handler(name: &str, settings: &Settings, store: &dyn Store) -> anyhow::Result<()> {
    let handlers = all(settings, store).await?;
    let Some(handler) = handlers.iter().find(|handler| handler.name == name) else {
        bail!("handler {name:?} does not exist; `outbox handlers list` shows all handlers");
    };
    if handler.alive {
        bail!("handler {name:?} is alive and would register itself again; stop its service first");
    }
    let ended = store.drop_handler(name).await?;
    Ok(output::line(format!("dropped handler {name}; {ended} events no longer wait for it"))?)
}
