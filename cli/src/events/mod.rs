//! `outbox events`

mod changing;
mod delete;
mod explain;
mod fail;
mod list;
mod moving;
mod replay;
mod retry;
mod show;

use actix_outbox::admin::OutboxAdmin;
use clap::Subcommand;

/// List, show, explain, retry, fail, replay, move and delete events.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    List(list::Args),
    Show(show::Args),
    Explain(explain::Args),
    Retry(retry::Args),
    Fail(fail::Args),
    Replay(replay::Args),
    Move(moving::Args),
    Delete(delete::Args),
}

pub(super) async fn run(command: Command, admin: &OutboxAdmin) -> anyhow::Result<()> {
    match command {
        Command::List(args) => list::run(args, admin).await,
        Command::Show(args) => show::run(&args, admin).await,
        Command::Explain(args) => explain::run(&args, admin).await,
        Command::Retry(args) => retry::run(args, admin).await,
        Command::Fail(args) => fail::run(args, admin).await,
        Command::Replay(args) => replay::run(args, admin).await,
        Command::Move(args) => moving::run(args, admin).await,
        Command::Delete(args) => delete::run(args, admin).await,
    }
}
