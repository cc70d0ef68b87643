//! The mailer: a consumer that writes one mail for each order, once, whatever is killed or restarted. Its note in the inbox and
//! the mail are one transaction of its own database; a mail server would take the mails from the table `mails`.
//!
//! `mailer ADDRESS` serves `/healthz` and `/readyz` for an orchestrator.
//!
//! `examples/orders/run.sh` starts it with the other processes; src/bin/orders.rs has the commands.

use actix::prelude::*;
use actix_outbox::actix_web::ConsumerProbes;
use actix_outbox::inbox::{self, Handled};
use actix_outbox::{HandleTyped, HandlerError, LoadOptions, OutboxConsumer, Settings, Subscribe, TypedEvent};
use actix_web::dev::Server;
use actix_web::{App, HttpServer};
use diesel::sql_types::{BigInt, Text};
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS mails (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, recipient text NOT NULL, order_id bigint NOT NULL, text text NOT NULL)";

/// What this service needs of the event.
#[derive(Deserialize)]
struct OrderPlaced {
    order: i64,
    customer: String,
    item: String,
}

impl TypedEvent for OrderPlaced {
    const TYPE: &'static str = "order.placed";
}

struct Mailer(Pool<AsyncPgConnection>);

impl Actor for Mailer {
    type Context = Context<Self>;
}

impl Handler<HandleTyped<OrderPlaced>> for Mailer {
    type Result = ResponseFuture<Result<(), HandlerError>>;

    fn handle(&mut self, message: HandleTyped<OrderPlaced>, _: &mut Self::Context) -> Self::Result {
        let pool = self.0.clone();
        Box::pin(async move {
            let mut conn = pool.get().await?;
            // An error rolls the note in the inbox back as well, and the event is delivered again.
            let handled = conn
                .transaction::<_, HandlerError, _>(async |conn| {
                    inbox::handle(conn, &message, async |conn| write_mail(conn, &message.data).await).await
                })
                .await?;
            match handled {
                Handled::Done(()) => println!("order {}: a mail to {}", message.data.order, message.data.customer),
                Handled::Skipped => println!("order {}: the mail was written before", message.data.order),
            }
            Ok(())
        })
    }
}

async fn write_mail(conn: &mut AsyncPgConnection, placed: &OrderPlaced) -> Result<(), HandlerError> {
    diesel::sql_query("INSERT INTO mails (recipient, order_id, text) VALUES ($1, $2, $3)")
        .bind::<Text, _>(&placed.customer)
        .bind::<BigInt, _>(placed.order)
        .bind::<Text, _>(format!("Thank you for ordering: {}", placed.item))
        .execute(conn)
        .await?;
    Ok(())
}

fn serve(consumer: &OutboxConsumer, address: &str) -> std::io::Result<Server> {
    let probes = ConsumerProbes::new(consumer);
    let server = HttpServer::new(move || App::new().configure(|config| probes.configure(config)));
    Ok(server.workers(1).disable_signals().bind(address)?.run())
}

#[actix::main]
async fn main() -> anyhow::Result<()> {
    // Before anything that the signal could interrupt.
    let mut terminated = signal(SignalKind::terminate())?;
    let settings = Settings::load(&LoadOptions::from_process())?;
    // The mailer's own database, with the TLS and the secrets of the settings; here it may be that of the orders.
    let pool = settings.database.pool::<AsyncPgConnection>(16)?;
    let mut conn = pool.get().await?;
    inbox::migrate(&mut conn).await?; // creates the inbox's table
    diesel::sql_query(TABLE).execute(&mut conn).await?;
    drop(conn);

    let consumer = OutboxConsumer::builder(settings, "mailer")
        .subscribe(Subscribe::typed::<OrderPlaced>("mailer", Mailer(pool).start().recipient()))
        .start()
        .await?;
    if let Some(address) = std::env::args().nth(1) {
        actix_web::rt::spawn(serve(&consumer, &address)?);
    }
    tokio::select! {
        _ = terminated.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(consumer.shutdown().await?)
}
