//! This project. The worker is the program `outbox`.

use actix_outbox::{NewEvent, Outbox, OutboxSystem, Settings, publish, publish_many};
use anyhow::bail;
use diesel_async::{AsyncConnection, AsyncPgConnection};

use crate::event::Event;
use crate::stream::Stream;
use crate::tool::Tool;

pub(crate) struct ActixOutbox {
    outbox: Outbox,
    connection: AsyncPgConnection,
}

fn new_event(event: &Event) -> anyhow::Result<NewEvent> {
    let new = NewEvent::new("order.placed", "/shop/orders").data(serde_json::to_value(event)?);
    Ok(match event.key() {
        Some(key) => new.partition_key(key),
        None => new,
    })
}

/// A system that publishes only, as in an application whose worker runs elsewhere.
async fn start(database: &str, migrate: bool) -> anyhow::Result<Outbox> {
    let settings = Settings::from_toml(&format!("database.url = '{database}'"))?;
    Ok(OutboxSystem::builder(settings).publish_only(true).migrate(migrate).start().await?)
}

impl Tool for ActixOutbox {
    async fn prepare(database: &str) -> anyhow::Result<()> {
        start(database, true).await?;
        Ok(())
    }

    async fn fill(database: &str, batches: impl Iterator<Item = Vec<Event>>) -> anyhow::Result<()> {
        let mut connection = AsyncPgConnection::establish(database).await?;
        for batch in batches {
            let events = batch.iter().map(new_event).collect::<anyhow::Result<Vec<_>>>()?;
            publish_many(&mut connection, events).await?;
        }
        Ok(())
    }

    async fn connect(database: &str) -> anyhow::Result<Self> {
        let outbox = start(database, false).await?;
        let connection = outbox.connection().await?;
        Ok(Self { outbox, connection })
    }

    async fn publish(&mut self, event: Event) -> anyhow::Result<()> {
        let event = new_event(&event)?;
        self.outbox.transaction(&mut self.connection, async |connection| Ok(publish(connection, event).await?)).await?;
        Ok(())
    }

    async fn work(_: &str, _: Stream) -> anyhow::Result<()> {
        bail!("the worker is the program outbox")
    }
}
