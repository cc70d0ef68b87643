//! The same work through different packages: `outboxes TOOL COMMAND`. `scripts/compare.sh` runs it.
//!
//! - `prepare` creates the tool's tables.
//! - `fill EVENTS KEYS` writes events of this many keys, or without, in batches.
//! - `publish EVENTS` writes events one by one, each in its own transaction.
//! - `pace EVENTS RATE` does so at a rate a second, and prints each event's number and when its commit was answered, in
//!   nanoseconds since 1970.
//! - `work` moves events into the stream until it is killed.
//!
//! The database is `DATABASE_URL`, Redis `REDIS_URL`, and the stream `STREAM`.

mod actix_outbox_tool;
mod awa_tool;
mod event;
mod graphile_tool;
mod outbox_core_tool;
mod stream;
mod tool;

use anyhow::{Context, bail};

use tool::Tool;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (tool, command) = arguments.split_first().context("the name of a tool is missing")?;
    match tool.as_str() {
        // It runs actors.
        "actix-outbox" => actix_rt::System::new().block_on(run::<actix_outbox_tool::ActixOutbox>(command)),
        "awa" => tokio_runtime()?.block_on(run::<awa_tool::Awa>(command)),
        "graphile_worker" => tokio_runtime()?.block_on(run::<graphile_tool::Graphile>(command)),
        "outbox-core" => tokio_runtime()?.block_on(run::<outbox_core_tool::OutboxCore>(command)),
        _ => bail!("not a tool: {tool}"),
    }
}

fn tokio_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

async fn run<T: Tool>(command: &[String]) -> anyhow::Result<()> {
    let database = std::env::var("DATABASE_URL").context("DATABASE_URL")?;
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    match command[..] {
        ["prepare"] => T::prepare(&database).await,
        ["fill", events, keys] => T::fill(&database, event::numbered(events.parse()?, keys.parse()?)).await,
        ["publish", events] => tool::publish::<T>(&database, events.parse()?).await,
        ["pace", events, rate] => tool::pace::<T>(&database, events.parse()?, rate.parse()?).await,
        ["work"] => T::work(&database, stream::Stream::from_environment().await?).await,
        _ => bail!("not a command: {command:?}"),
    }
}
