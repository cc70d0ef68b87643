//! Events in the application's own transactions, with diesel-async and with plain diesel; a rollback also removes the
//! events. Publishing needs no running system: any worker delivers committed events.
//!
//! Everything is in one SQLite file, no server needed; with Postgres only the connection's type differs. Ends by itself.
//!
//! Run it with `cargo run --example transactional`.

use actix::prelude::*;
use actix_outbox::{EventTypes, HandleEvent, HandlerError, NewEvent, OutboxSystem, PublishError, Settings, Subscribe};
use diesel::connection::SimpleConnection;
use diesel::sql_types::BigInt;
use diesel::{Connection, SqliteConnection};
use diesel_async::AsyncConnection;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;

/// Prints each delivered event.
struct Printer;

impl Actor for Printer {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Printer {
    type Result = Result<(), HandlerError>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        println!("delivered: {} {}", message.event.event_type, message.event.partition_key);
        Ok(())
    }
}

/// With plain diesel: updates the order and publishes its event.
fn settle(conn: &mut SqliteConnection, order: i64, amount: i64) -> anyhow::Result<()> {
    conn.transaction(|conn| {
        let event = NewEvent::new("order.settled", "shop").partition_key(format!("order-{order}")).data(amount);
        actix_outbox::blocking::publish(conn, event)?;
        let pay = diesel::sql_query("UPDATE orders SET paid = paid + ? WHERE id = ? AND paid + ? <= due")
            .bind::<BigInt, _>(amount)
            .bind::<BigInt, _>(order)
            .bind::<BigInt, _>(amount);
        // The event was published above, but is rolled back: the transaction decides, not the order of its statements.
        anyhow::ensure!(
            diesel::RunQueryDsl::execute(pay, conn)? == 1,
            "{amount} is more than order {order} has to pay"
        );
        Ok(())
    })
}

/// With diesel-async: publishes several events in one statement, in the given order.
async fn open(conn: &mut SyncConnectionWrapper<SqliteConnection>, orders: &[i64]) -> Result<(), PublishError> {
    conn.transaction(async |conn| {
        for order in orders {
            let insert = diesel::sql_query("INSERT INTO orders (id, due) VALUES (?, 100)").bind::<BigInt, _>(order);
            diesel_async::RunQueryDsl::execute(insert, conn).await?;
        }
        let opened = |order| NewEvent::new("order.opened", "shop").partition_key(format!("order-{order}"));
        actix_outbox::publish_many(conn, orders.iter().map(opened)).await?;
        Ok(())
    })
    .await
}

#[actix::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("app.db").display().to_string();
    let settings =
        Settings::from_toml(&format!("database.url = 'sqlite://{file}'\npublishers.default.backend = 'local'"))?;
    let outbox = OutboxSystem::builder(settings)
        .migrate(true)
        .subscribe(Subscribe::new("printer", EventTypes::All, Printer.start().recipient()))
        .start()
        .await?;

    let mut blocking = SqliteConnection::establish(&file)?;
    blocking.batch_execute(
        "PRAGMA busy_timeout = 5000;
         CREATE TABLE orders (id INTEGER PRIMARY KEY, due INTEGER NOT NULL, paid INTEGER NOT NULL DEFAULT 0)",
    )?;
    let mut conn = SyncConnectionWrapper::<SqliteConnection>::establish(&file).await?;
    diesel_async::SimpleAsyncConnection::batch_execute(&mut conn, "PRAGMA busy_timeout = 5000").await?;

    open(&mut conn, &[1, 2]).await?;
    settle(&mut blocking, 1, 100)?;
    if let Err(refused) = settle(&mut blocking, 2, 101) {
        println!("rolled back, with its event: {refused}");
    }
    if let Err(refused) = open(&mut conn, &[3, 3]).await {
        println!("rolled back, with its events: {refused}");
    }

    // A worker also finds events by polling; this call wakes it.
    outbox.wake();
    outbox.drained().await;
    outbox.shutdown().await?;
    Ok(())
}
