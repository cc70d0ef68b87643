//! A projection: the table `catalogue_1` is what the events of articles add up to. It is kept in order per article, by as many
//! of these processes as you like, and can be built again at any time.
//!
//! ```sh
//! export DATABASE_URL=postgres://localhost/app OUTBOX__PUBLISHERS__DEFAULT__URL=redis://localhost
//! export OUTBOX_CONFIG=examples/projection/outbox.toml
//! outbox migrate
//! cargo build --example projection
//! outbox worker &
//! cargo run --example projection -- catalogue_1 &
//! outbox publish article.listed --source shop --key A-1 --data '{"name": "lamp", "cents": 900}'
//! outbox publish article.repriced --source shop --key A-1 --data '{"cents": 800}'
//! psql "$DATABASE_URL" -c 'TABLE catalogue_1'
//! ```
//!
//! To build it again, for another shape or after a fault in this code, start `projection catalogue_2`: its group reads the
//! stream from the first entry on and fills a table of its own, while `catalogue_1` is still in use. When `outbox status` shows
//! nothing unread, let readers use the new table, for example by a view, stop the old projection, and drop its table and its
//! group. Entries that are no longer in the stream are published again by `outbox events replay`, to all groups, as long as
//! their rows exist.

use actix::prelude::*;
use actix_outbox::{HandleEvent, HandlerError, LoadOptions, OutboxConsumer, OutboxEvent, Settings, Subscribe, inbox};
use anyhow::Context as _;
use diesel::sql_types::{BigInt, Text};
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Deserialize)]
struct Listed {
    name: String,
    cents: i64,
}

#[derive(Deserialize)]
struct Repriced {
    cents: i64,
}

#[derive(Clone)]
struct Catalogue {
    table: String,
    pool: Pool<AsyncPgConnection>,
}

impl Actor for Catalogue {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Catalogue {
    type Result = ResponseFuture<Result<(), HandlerError>>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        let catalogue = self.clone();
        Box::pin(async move {
            let mut conn = catalogue.pool.get().await?;
            // The note in the inbox is under the handler's name, which is the table's: each table has every event.
            conn.transaction(async |conn| {
                let _ = inbox::handle(conn, &message, async |conn| catalogue.apply(conn, &message.event).await).await?;
                Ok(())
            })
            .await
        })
    }
}

impl Catalogue {
    /// One change. Each can be applied to what an earlier time left, so a replay leads to the same table.
    async fn apply(&self, conn: &mut AsyncPgConnection, event: &OutboxEvent) -> Result<(), HandlerError> {
        let (table, article) = (&self.table, &event.partition_key);
        match event.event_type.as_str() {
            "article.listed" => {
                let Listed { name, cents } = event.data_as()?;
                let upsert = "ON CONFLICT (article) DO UPDATE SET name = excluded.name, cents = excluded.cents";
                let insert = diesel::sql_query(format!("INSERT INTO {table} VALUES ($1, $2, $3) {upsert}"));
                insert.bind::<Text, _>(article).bind::<Text, _>(name).bind::<BigInt, _>(cents).execute(conn).await?
            }
            "article.repriced" => {
                let Repriced { cents } = event.data_as()?;
                let update = diesel::sql_query(format!("UPDATE {table} SET cents = $2 WHERE article = $1"));
                update.bind::<Text, _>(article).bind::<BigInt, _>(cents).execute(conn).await?
            }
            "article.delisted" => {
                let delete = diesel::sql_query(format!("DELETE FROM {table} WHERE article = $1"));
                delete.bind::<Text, _>(article).execute(conn).await?
            }
            // A kind that this program does not know yet; one that does builds the table again.
            _ => 0,
        };
        Ok(())
    }
}

#[actix::main]
async fn main() -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let name = std::env::args().nth(1).context("usage: projection CONSUMER")?;
    let settings = Settings::load(&LoadOptions::from_process())?;
    anyhow::ensure!(settings.consumers.contains_key(&name), "[consumers.{name}] is missing");
    let pool = settings.database.pool::<AsyncPgConnection>(16)?;
    let mut conn = pool.get().await?;
    inbox::migrate(&mut conn).await?;
    let table = format!(
        "CREATE TABLE IF NOT EXISTS {name} (article text PRIMARY KEY, name text NOT NULL, cents bigint NOT NULL)"
    );
    diesel::sql_query(table).execute(&mut conn).await?;
    drop(conn);

    let catalogue = Catalogue { table: name.clone(), pool }.start();
    let consumer = OutboxConsumer::builder(settings, &name)
        .subscribe(Subscribe::new(&name, "article.*", catalogue.recipient()))
        .start()
        .await?;
    tokio::select! {
        _ = terminated.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(consumer.shutdown().await?)
}
