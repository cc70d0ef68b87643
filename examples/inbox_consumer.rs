//! A service that handles each event once in effect, as in docs/inbox.md: the note that an event is handled and the
//! service's own change are one transaction of the service's database.
//!
//! An `outbox.toml` in the working directory, for the worker and for this service:
//!
//! ```toml
//! [publishers.default]
//! url = "redis://localhost"
//!
//! [consumers.effects]
//! source = "default"
//! ```
//!
//! The outbox's database is `app`, this service's `effects`; both must exist:
//!
//! ```sh
//! createdb app && createdb effects
//! export DATABASE_URL=postgres://localhost/app EFFECTS_URL=postgres://localhost/effects
//! outbox migrate
//! outbox migrate --inbox --database-url "$EFFECTS_URL"
//! psql "$EFFECTS_URL" -c 'CREATE TABLE effects (position bigserial PRIMARY KEY, process int, event_id uuid, key text,
//!     at timestamptz DEFAULT clock_timestamp())'
//! outbox worker &
//! cargo run --example inbox_consumer &
//! outbox publish thing.happened --source demo --key k-1
//! psql "$EFFECTS_URL" -c 'TABLE effects'
//! ```
//!
//! With `WITHOUT_INBOX` set it handles each event at least once.

use std::sync::Arc;

use actix::prelude::*;
use actix_outbox::{
    DatabaseSettings, EventTypes, HandleEvent, HandlerError, LoadOptions, OutboxConsumer, OutboxEvent, Settings,
    Subscribe, inbox,
};
use diesel::sql_types::{Integer, Text};
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use tokio::signal::unix::{SignalKind, signal};

/// Records the effect of each event.
struct Recorder(Arc<Effects>);

impl Actor for Recorder {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Recorder {
    type Result = ResponseFuture<Result<(), HandlerError>>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        let effects = Arc::clone(&self.0);
        Box::pin(async move { effects.record(&message).await })
    }
}

/// The service's database.
struct Effects {
    pool: Pool<AsyncPgConnection>,
    has_inbox: bool,
}

impl Effects {
    /// An error rolls the note back as well, and the event is delivered again.
    async fn record(&self, message: &HandleEvent) -> Result<(), HandlerError> {
        let mut conn = self.pool.get().await?;
        conn.transaction(async |conn| {
            if self.has_inbox {
                let _ = inbox::handle(conn, message, async |conn| insert(conn, &message.event).await).await?;
                return Ok(());
            }
            insert(conn, &message.event).await
        })
        .await
    }
}

async fn insert(conn: &mut AsyncPgConnection, event: &OutboxEvent) -> Result<(), HandlerError> {
    diesel::sql_query("INSERT INTO effects (process, event_id, key) VALUES ($1, $2::uuid, $3)")
        .bind::<Integer, _>(std::process::id().cast_signed())
        .bind::<Text, _>(event.id.to_string())
        .bind::<Text, _>(&event.partition_key)
        .execute(conn)
        .await?;
    Ok(())
}

#[actix::main]
pub(crate) async fn main() -> anyhow::Result<()> {
    // Before anything that the signal could interrupt.
    let mut terminated = signal(SignalKind::terminate())?;
    let mut database = DatabaseSettings::default();
    database.url = std::env::var("EFFECTS_URL")?.into();
    let pool = database.pool::<AsyncPgConnection>(16)?; // as many as `concurrency`
    let effects = Effects { pool, has_inbox: std::env::var_os("WITHOUT_INBOX").is_none() };
    let recorder = Recorder(Arc::new(effects)).start();
    let settings = Settings::load(&LoadOptions::from_process())?;
    let consumer = OutboxConsumer::builder(settings, "effects")
        .subscribe(Subscribe::new("recorder", EventTypes::All, recorder.recipient()))
        .start()
        .await?;
    terminated.recv().await;
    Ok(consumer.shutdown().await?)
}
