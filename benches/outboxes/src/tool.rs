//! What the comparison needs of a tool.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::try_join_all;
use tokio::time::{Instant, interval_at};

use crate::event::Event;
use crate::stream::Stream;

/// A package that moves events from PostgreSQL into a stream, used as its own documents say.
pub(crate) trait Tool: Sized {
    /// Creates its tables.
    async fn prepare(database: &str) -> anyhow::Result<()>;

    /// Writes events in batches.
    async fn fill(database: &str, batches: impl Iterator<Item = Vec<Event>>) -> anyhow::Result<()>;

    /// A connection that publishes.
    async fn connect(database: &str) -> anyhow::Result<Self>;

    /// Writes one event in a transaction of its own. Returns when the commit was answered; a worker that needs to be
    /// woken is woken.
    async fn publish(&mut self, event: Event) -> anyhow::Result<()>;

    /// Moves events until the process is killed.
    async fn work(database: &str, stream: Stream) -> anyhow::Result<()>;
}

/// Writes events one by one on one connection.
pub(crate) async fn publish<T: Tool>(database: &str, events: u64) -> anyhow::Result<()> {
    let mut tool = T::connect(database).await?;
    for place in 0..events {
        tool.publish(Event::without_key(place)).await?;
    }
    Ok(())
}

/// Writes events at a rate a second on several connections.
pub(crate) async fn pace<T: Tool>(database: &str, events: u64, rate: u32) -> anyhow::Result<()> {
    const WRITERS: u32 = 4;
    let mut tools = Vec::new();
    for _ in 0..WRITERS {
        tools.push(T::connect(database).await?);
    }
    let (first, period) = (Instant::now() + Duration::from_millis(100), Duration::from_secs(1) / rate);
    let write = async |writer: u32, mut tool: T| {
        let mut ticks = interval_at(first + period * writer, period * WRITERS);
        let mut committed = Vec::new();
        for place in (u64::from(writer)..events).step_by(WRITERS as usize) {
            ticks.tick().await;
            let event = Event::without_key(place);
            let n = event.n;
            tool.publish(event).await?;
            committed.push((n, SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos()));
        }
        anyhow::Ok(committed)
    };
    let committed = try_join_all((0..WRITERS).zip(tools).map(|(writer, tool)| write(writer, tool))).await?;
    let mut output = std::io::stdout().lock();
    for (n, at) in committed.iter().flatten() {
        writeln!(output, "{n} {at}")?;
    }
    Ok(())
}
