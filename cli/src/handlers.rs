//! `outbox handlers`

use actix_outbox::admin::OutboxAdmin;

use super::arguments::Format;
use super::output;
use super::status::print_handlers;

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

pub(super) async fn run(command: Command, admin: &OutboxAdmin) -> anyhow::Result<()> {
    match command {
        Command::List(args) => list(&args, admin).await,
        Command::Drop(DropArgs { name }) => {
            let ended = admin.drop_handler(&name).await?;
            Ok(output::line(format!("dropped handler {name}; {ended} events no longer wait for it"))?)
        }
    }
}

async fn list(args: &ListArgs, admin: &OutboxAdmin) -> anyhow::Result<()> {
    let handlers = admin.handlers().await?;
    match args.format {
        Format::Json => output::json(&handlers),
        Format::Table => print_handlers(&handlers),
    }
}
