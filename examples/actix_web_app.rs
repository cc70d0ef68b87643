//! The service of `docs/getting-started.md`, word for word: it publishes events in its own transactions on PostgreSQL. `POST
//! /users` stores a user and its event, and a handler actor receives the event afterwards.
//!
//! ```sh
//! export DATABASE_URL=postgres://app@localhost/app    # with ?sslmode=verify-full the pool's connections verify the server, too
//! export OUTBOX__PUBLISHERS__DEFAULT__BACKEND=jsonl   # events on standard output
//! cargo run --example actix_web_app
//! curl -i -H 'content-type: application/json' -d '{"name": "Ada"}' http://127.0.0.1:8080/users
//! ```
//!
//! The response is `201` with the event. A second request gets `409`: the name is taken, so the transaction is rolled
//! back, with its event. Ctrl-C finishes the deliveries in flight.

#![expect(missing_docs, reason = "diesel's macro writes none")]

use actix::prelude::*;
use actix_outbox::actix_web::Probes;
use actix_outbox::{
    HandleTyped, HandlerError, LoadOptions, NewEvent, Outbox, OutboxSystem, Settings, Subscribe, TransactionError,
    TypedEvent,
};
use actix_web::{App, HttpResponse, HttpServer, web};
use diesel::ExpressionMethods;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};

diesel::table! {
    users (name) { name -> Text, }
}

#[derive(Serialize, Deserialize)]
struct UserCreated {
    name: String,
}

impl TypedEvent for UserCreated {
    const TYPE: &'static str = "user.created";
}

/// Stores a user and its event, both or neither.
async fn create_user(
    outbox: Outbox,
    pool: web::Data<Pool<AsyncPgConnection>>,
    user: web::Json<UserCreated>,
) -> Result<HttpResponse, TransactionError> {
    let mut conn = pool.get().await?;
    let stored = outbox
        .transaction(&mut conn, async |conn| {
            diesel::insert_into(users::table).values(users::name.eq(&user.name)).execute(conn).await?;
            let event = NewEvent::typed("user-service", &user.0).partition_key(&user.name);
            Ok(actix_outbox::publish(conn, event).await?)
        })
        .await;
    match stored {
        Ok(event) => Ok(HttpResponse::Created().json(event)),
        Err(error) if is_taken(&error) => Ok(HttpResponse::Conflict().body("this name is taken\n")),
        Err(error) => Err(error),
    }
}

fn is_taken(error: &TransactionError) -> bool {
    matches!(error.downcast_ref(), Some(DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, _)))
}

/// Receives the event after the transaction has committed.
struct Mailer;

impl Actor for Mailer {
    type Context = Context<Self>;
}

impl Handler<HandleTyped<UserCreated>> for Mailer {
    type Result = Result<(), HandlerError>;

    fn handle(&mut self, message: HandleTyped<UserCreated>, _: &mut Self::Context) -> Self::Result {
        eprintln!("mailer: welcome, {}", message.data.name);
        Ok(())
    }
}

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let settings = Settings::load(&LoadOptions::from_process())?; // outbox.toml, and the environment over it
    let outbox = OutboxSystem::builder(settings)
        .migrate(true) // creates the outbox's tables, or upgrades them
        .subscribe(Subscribe::typed::<UserCreated>("mailer", Mailer.start().recipient()))
        .start()
        .await?;
    let pool = outbox.pool::<AsyncPgConnection>(16)?;
    let users = diesel::sql_query("CREATE TABLE IF NOT EXISTS users (name text PRIMARY KEY)");
    users.execute(&mut pool.get().await?).await?;

    let probes = Probes::new(&outbox);
    let (app_outbox, app_pool) = (web::Data::new(outbox.clone()), web::Data::new(pool));
    HttpServer::new(move || {
        App::new()
            .app_data(app_outbox.clone())
            .app_data(app_pool.clone())
            .configure(|config| probes.configure(config))
            .route("/users", web::post().to(create_user))
    })
    .bind(address)?
    .run()
    .await?;
    outbox.shutdown().await?; // delivers what is in flight; the rest stays for the next start
    Ok(())
}
