//! A web application that publishes events in its own transactions: `POST /users` stores a user and its event, both or
//! neither. A handler actor gets the event afterwards; a consumer gets it as a line of JSON on standard output. Everything
//! is in one SQLite file, no server needed.
//!
//! Run it with `cargo run --example actix_web_app`; a file (`app.db`) and an address (`127.0.0.1:8080`) may follow `--`.
//! Then, from another terminal:
//!
//! ```sh
//! curl -i -H 'content-type: application/json' -d '{"name": "Ada"}' http://127.0.0.1:8080/users
//! ```
//!
//! The response is `201` with the event's id. A second request gets `409`: the name is taken, so the transaction is rolled
//! back, with the event that it published. Ctrl-C finishes the deliveries in flight.

use actix::prelude::*;
use actix_outbox::{
    HandleEvent, HandlerError, NewEvent, Outbox, OutboxEvent, OutboxSystem, Settings, Subscribe, TransactionError,
};
use actix_web::rt::signal::unix::{SignalKind, signal};
use actix_web::{App, HttpResponse, HttpServer, web};
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::Text;
use diesel::{ConnectionError, SqliteConnection};
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, RunQueryDsl, SimpleAsyncConnection};
use serde::Deserialize;

type Connection = SyncConnectionWrapper<SqliteConnection>;

#[derive(Deserialize)]
struct NewUser {
    name: String,
}

/// Writes the event first and the user second, to show that the order does not matter: the transaction decides.
async fn store_user(outbox: &Outbox, pool: &Pool<Connection>, user: NewUser) -> anyhow::Result<OutboxEvent> {
    let mut conn = pool.get().await?;
    let event = outbox
        .transaction(&mut conn, async |conn| {
            let event = NewEvent::new("user.created", "actix-web-app")
                .partition_key(&user.name)
                .data(serde_json::json!({ "name": user.name }));
            let event = actix_outbox::publish(conn, event).await?;
            diesel::sql_query("INSERT INTO users (name) VALUES (?)").bind::<Text, _>(&user.name).execute(conn).await?;
            Ok(event)
        })
        .await?;
    Ok(event)
}

async fn create_user(
    outbox: web::Data<Outbox>,
    pool: web::Data<Pool<Connection>>,
    user: web::Json<NewUser>,
) -> HttpResponse {
    // In its own task, so that a client that disconnects does not cancel the transaction.
    let stored = actix_web::rt::spawn(async move { store_user(&outbox, &pool, user.into_inner()).await });
    match stored.await {
        Ok(Ok(event)) => HttpResponse::Created().json(serde_json::json!({ "event_id": event.id })),
        Ok(Err(error)) if is_taken(&error) => HttpResponse::Conflict().body("this name is taken\n"),
        Ok(Err(error)) => failed(&error.to_string()),
        Err(error) => failed(&error.to_string()),
    }
}

fn is_taken(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<TransactionError>().and_then(|error| error.downcast_ref());
    matches!(error, Some(DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, _)))
}

fn failed(reason: &str) -> HttpResponse {
    eprintln!("error: {reason}");
    HttpResponse::InternalServerError().finish()
}

/// Handles the event after the user's transaction has committed.
struct Mailer;

impl Actor for Mailer {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Mailer {
    type Result = Result<(), HandlerError>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        let user: serde_json::Value = message.event.data_as()?;
        eprintln!("mailer: welcome, {}", user["name"].as_str().unwrap_or("user"));
        Ok(())
    }
}

/// Connections that wait for another writer instead of failing immediately: SQLite has one writer at a time.
fn pool(file: &str) -> anyhow::Result<Pool<Connection>> {
    let mut config = ManagerConfig::default();
    config.custom_setup = Box::new(|file| {
        Box::pin(async move {
            let mut conn = Connection::establish(file).await?;
            conn.batch_execute("PRAGMA busy_timeout = 5000")
                .await
                .map_err(ConnectionError::CouldntSetupConfiguration)?;
            Ok(conn)
        })
    });
    Ok(Pool::builder(AsyncDieselConnectionManager::new_with_config(file, config)).build()?)
}

/// Waits for Ctrl-C, or for a service manager's SIGTERM.
async fn stop_signal() {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    if let (Ok(mut interrupt), Ok(mut terminate)) = signals {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    }
}

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().unwrap_or_else(|| "app.db".to_owned());
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());

    let settings = Settings::from_toml(&format!(
        "[database]\nurl = \"sqlite://{file}\"\n\n[publishers.default]\nbackend = \"jsonl\"\n"
    ))?;
    let outbox = OutboxSystem::builder(settings)
        .migrate(true)
        .subscribe(Subscribe::new("mailer", "user.created", Mailer.start().recipient()))
        .start()
        .await?;
    let pool = pool(&file)?;
    pool.get().await?.batch_execute("CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY)").await?;

    let (app_outbox, app_pool) = (web::Data::new(outbox.clone()), web::Data::new(pool));
    let server = HttpServer::new(move || {
        App::new().app_data(app_outbox.clone()).app_data(app_pool.clone()).route("/users", web::post().to(create_user))
    })
    .shutdown_signal(stop_signal())
    .bind(&address)?;
    for address in server.addrs() {
        eprintln!("listening on http://{address}");
    }
    server.run().await?;

    // The server has stopped. Published events are delivered now, or stay in the outbox for the next start.
    outbox.shutdown().await?;
    Ok(())
}
