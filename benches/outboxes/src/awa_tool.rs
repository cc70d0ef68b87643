//! awa: a job queue. Settings as in its documents on configuration, and its own benchmark of throughput.

use std::time::Duration;

use awa::{Client, InsertOpts, JobArgs, JobError, JobResult, QueueConfig, insert_many_copy, insert_with, migrations};
use sqlx_0_8::Connection;
use sqlx_0_8::postgres::{PgConnection, PgPool, PgPoolOptions};

use crate::event::Event;
use crate::stream::Stream;
use crate::tool::Tool;

const QUEUE: &str = "events";

impl JobArgs for Event {
    fn kind() -> &'static str {
        "event"
    }
}

pub(crate) struct Awa(PgConnection);

fn options(event: &Event) -> InsertOpts {
    InsertOpts {
        queue: QUEUE.to_owned(),
        ordering_key: event.key().map(|key| key.as_bytes().to_vec()),
        ..InsertOpts::default()
    }
}

/// A claim whose worker was killed is rescued after 5 s in place of 90 s.
async fn start(pool: PgPool, stream: Option<Stream>) -> anyhow::Result<Client> {
    let queue = QueueConfig { max_workers: 100, ..QueueConfig::default() };
    let client = Client::builder(pool)
        .queue(QUEUE, queue)
        .heartbeat_interval(Duration::from_secs(1))
        .heartbeat_staleness(Duration::from_secs(5))
        .heartbeat_rescue_interval(Duration::from_secs(1))
        .leader_election_interval(Duration::from_secs(1))
        .register::<Event, _, _>(move |event, _| {
            let stream = stream.clone();
            async move {
                let Some(stream) = stream else { return Ok(JobResult::RetryAfter(Duration::ZERO)) };
                stream.add(&event).await.map_err(|error| JobError::retryable_msg(error.to_string()))?;
                Ok(JobResult::Completed)
            }
        })
        .build()?;
    client.start().await?;
    Ok(client)
}

impl Tool for Awa {
    async fn prepare(database: &str) -> anyhow::Result<()> {
        let pool = PgPool::connect(database).await?;
        migrations::run(&pool).await?;
        // The first client of a new database turns on the storage of this version.
        start(pool, None).await?.shutdown(Duration::from_secs(5)).await;
        Ok(())
    }

    async fn fill(database: &str, batches: impl Iterator<Item = Vec<Event>>) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(database).await?;
        for batch in batches {
            let prepare = |event: &Event| awa::model::insert::params_with(event, options(event));
            let jobs = batch.iter().map(prepare).collect::<Result<Vec<_>, _>>()?;
            let mut transaction = connection.begin().await?;
            insert_many_copy(&mut transaction, &jobs).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    async fn connect(database: &str) -> anyhow::Result<Self> {
        Ok(Self(PgConnection::connect(database).await?))
    }

    async fn publish(&mut self, event: Event) -> anyhow::Result<()> {
        let mut transaction = self.0.begin().await?;
        insert_with(&mut *transaction, &event, options(&event)).await?;
        Ok(transaction.commit().await?)
    }

    async fn work(database: &str, stream: Stream) -> anyhow::Result<()> {
        let pool = PgPoolOptions::new().max_connections(20).connect(database).await?;
        let _client = start(pool, Some(stream)).await?;
        std::future::pending().await
    }
}
