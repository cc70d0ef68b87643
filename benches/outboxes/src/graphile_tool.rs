//! graphile_worker: a job queue. Settings as in its guide for many small jobs, and its own benchmark of throughput.

use std::time::Duration;

use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, WorkerContext, WorkerOptions,
    WorkerUtils,
};
use sqlx_0_9::Connection;
use sqlx_0_9::postgres::{PgConnection, PgPool, PgPoolOptions};

use crate::event::Event;
use crate::stream::Stream;
use crate::tool::Tool;

const SCHEMA: &str = "graphile_worker";

impl TaskHandler for Event {
    const IDENTIFIER: &'static str = "event";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        let stream = context.get_ext::<Stream>().ok_or("no stream")?.clone();
        stream.add(&self).await.map_err(|error| error.to_string())
    }
}

pub(crate) struct Graphile {
    utils: WorkerUtils,
    connection: PgConnection,
}

/// Jobs of a named queue run one after the other.
fn job(event: &Event) -> anyhow::Result<RawJobSpec> {
    Ok(RawJobSpec {
        identifier: Event::IDENTIFIER.to_owned(),
        payload: serde_json::to_value(event)?,
        spec: JobSpec { queue_name: event.key().map(str::to_owned), ..JobSpec::default() },
    })
}

async fn utils(database: &str) -> anyhow::Result<WorkerUtils> {
    Ok(WorkerUtils::new(PgPool::connect(database).await?, SCHEMA))
}

impl Tool for Graphile {
    async fn prepare(database: &str) -> anyhow::Result<()> {
        Ok(utils(database).await?.migrate().await?)
    }

    async fn fill(database: &str, batches: impl Iterator<Item = Vec<Event>>) -> anyhow::Result<()> {
        let utils = utils(database).await?;
        for batch in batches {
            utils.add_raw_jobs(&batch.iter().map(job).collect::<anyhow::Result<Vec<_>>>()?).await?;
        }
        Ok(())
    }

    async fn connect(database: &str) -> anyhow::Result<Self> {
        Ok(Self { utils: utils(database).await?, connection: PgConnection::connect(database).await? })
    }

    async fn publish(&mut self, event: Event) -> anyhow::Result<()> {
        let mut transaction = self.connection.begin().await?;
        self.utils.clone().with_executor(&mut transaction).add_job(event, JobSpec::default()).await?;
        Ok(transaction.commit().await?)
    }

    /// Jobs of a worker that was killed are recovered after 5 s in place of 5 minutes.
    async fn work(database: &str, stream: Stream) -> anyhow::Result<()> {
        let pool = PgPoolOptions::new().max_connections(20).connect(database).await?;
        let worker = WorkerOptions::default()
            .schema(SCHEMA)
            .pg_pool(pool)
            .concurrency(500)
            .local_queue(LocalQueueConfig::default().with_size(5_000))
            .complete_job_batch_delay(Duration::from_millis(5))
            .heartbeat_interval(Duration::from_secs(1))
            .sweep_interval(Duration::from_secs(1))
            .sweep_threshold(Duration::from_secs(5))
            .recovery_delay(Duration::ZERO)
            .add_extension(stream)
            .define_job::<Event>()
            .init()
            .await?;
        Ok(worker.run().await?)
    }
}
