//! outbox-core with outbox-postgres: an outbox whose transport is the application's.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use outbox_core::prelude::*;
use outbox_postgres::{PostgresOutbox, PostgresWriter};
use sqlx_0_8::postgres::{PgConnection, PgPool};
use sqlx_0_8::{Connection, Executor};

use crate::event;
use crate::stream::Stream;
use crate::tool::Tool;

type Service = OutboxService<PostgresWriter, NoIdempotency, event::Event>;

pub(crate) struct OutboxCore {
    service: Service,
    connection: PgConnection,
}

/// Rows whose worker was killed are free after a minute, the shortest lock.
fn config() -> Arc<OutboxConfig<event::Event>> {
    let mut config = OutboxConfig::default();
    config.batch_size = 1_000;
    config.poll_interval_secs = 1;
    config.lock_timeout_mins = 1;
    Arc::new(config)
}

#[async_trait]
impl Transport<event::Event> for Stream {
    async fn publish(&self, event: Event<event::Event>) -> Result<(), OutboxError> {
        let added = self.clone().add(event.payload.as_value()).await;
        added.map_err(|error| OutboxError::InfrastructureError(error.to_string()))
    }
}

impl Tool for OutboxCore {
    /// The package contains its migration as a file, which `OUTBOX_POSTGRES_MIGRATION` names.
    async fn prepare(database: &str) -> anyhow::Result<()> {
        let file = std::env::var("OUTBOX_POSTGRES_MIGRATION").context("OUTBOX_POSTGRES_MIGRATION")?;
        let migration = std::fs::read_to_string(file)?;
        PgConnection::connect(database).await?.execute(migration.as_str()).await?;
        Ok(())
    }

    async fn fill(database: &str, batches: impl Iterator<Item = Vec<event::Event>>) -> anyhow::Result<()> {
        let Self { service, mut connection } = Self::connect(database).await?;
        for batch in batches {
            let mut transaction = connection.begin().await?;
            for event in batch {
                service.add_event("order.placed", event, None, &mut transaction).await?;
            }
            transaction.commit().await?;
        }
        Ok(())
    }

    async fn connect(database: &str) -> anyhow::Result<Self> {
        let service = OutboxService::new(Arc::new(PostgresWriter), config());
        Ok(Self { service, connection: PgConnection::connect(database).await? })
    }

    async fn publish(&mut self, event: event::Event) -> anyhow::Result<()> {
        let mut transaction = self.connection.begin().await?;
        self.service.add_event("order.placed", event, None, &mut transaction).await?;
        Ok(transaction.commit().await?)
    }

    async fn work(database: &str, stream: Stream) -> anyhow::Result<()> {
        let (_running, shutdown) = tokio::sync::watch::channel(false);
        let storage = PostgresOutbox::new(PgPool::connect(database).await?, config());
        let manager = OutboxManagerBuilder::new()
            .storage(Arc::new(storage))
            .publisher(Arc::new(stream))
            .config(config())
            .shutdown_rx(shutdown)
            .build()?;
        Ok(manager.run().await?)
    }
}
