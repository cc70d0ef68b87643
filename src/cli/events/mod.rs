//! `outbox events`

mod list;
mod show;

use std::sync::Arc;

use clap::Subcommand;

use crate::store::Store;

/// Look at the events in the outbox.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    List(list::Args),
    Show(show::Args),
}

pub(super) async fn run(command: Command, store: Arc<dyn Store>) -> anyhow::Result<()> {
    match command {
        Command::List(args) => list::run(args, store).await,
        Command::Show(args) => show::run(&args, store).await,
    }
}
