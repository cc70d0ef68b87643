//! `outbox events`

mod changing;
mod explain;
mod fail;
mod list;
mod replay;
mod retry;
mod show;

use std::sync::Arc;

use clap::Subcommand;

use crate::settings::Settings;
use crate::store::Store;

/// List, show, explain, retry, fail and replay events.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    List(list::Args),
    Show(show::Args),
    Explain(explain::Args),
    Retry(retry::Args),
    Fail(fail::Args),
    Replay(replay::Args),
}

pub(super) async fn run(command: Command, settings: &Settings, store: Arc<dyn Store>) -> anyhow::Result<()> {
    match command {
        Command::List(args) => list::run(args, store).await,
        Command::Show(args) => show::run(&args, store).await,
        Command::Explain(args) => explain::run(&args, settings, store).await,
        Command::Retry(args) => retry::run(args, store).await,
        Command::Fail(args) => fail::run(args, store).await,
        Command::Replay(args) => replay::run(args, store).await,
    }
}
