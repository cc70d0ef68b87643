//! actix-web with sqlx: `POST /users` stores a user and an event in one transaction of sqlx, and a worker in the same process
//! delivers it, so no other program is needed.
//!
//! ```sh
//! export DATABASE_URL=postgres://localhost/app
//! export OUTBOX__PUBLISHERS__DEFAULT__BACKEND=jsonl     # events on standard output
//! cargo run --manifest-path examples/web/Cargo.toml --target-dir target --bin actix_web_sqlx
//! curl -i -H 'content-type: application/json' -d '{"name": "Ada"}' http://127.0.0.1:8080/users
//! ```

use std::fmt;

use actix_outbox::actix_web::Probes;
use actix_outbox::sqlx_0_8::publish;
use actix_outbox::{LoadOptions, NewEvent, Outbox, OutboxSystem, Settings};
use actix_web::http::StatusCode;
use actix_web::{App, HttpResponse, HttpServer, ResponseError, web};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize)]
struct User {
    name: String,
}

/// Stores a user and its event, both or neither: an error drops the transaction, which rolls it back.
async fn create_user(outbox: Outbox, pool: web::Data<PgPool>, user: web::Json<User>) -> Result<HttpResponse, Failure> {
    let mut transaction = pool.begin().await?;
    sqlx::query("INSERT INTO users (name) VALUES ($1)").bind(&user.name).execute(&mut *transaction).await?;
    let event = NewEvent::new("user.created", "user-service").partition_key(&user.name).data(&user.0);
    publish(&mut transaction, event).await?;
    transaction.commit().await?;
    outbox.wake(); // the worker would find the event at its next poll
    Ok(HttpResponse::Created().finish())
}

#[derive(Debug)]
struct Failure(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.status_code() == StatusCode::CONFLICT {
            "this name is taken\n"
        } else {
            "internal error\n"
        })
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        let is_taken = |error: &sqlx::Error| error.as_database_error().is_some_and(|error| error.is_unique_violation());
        if self.0.downcast_ref().is_some_and(is_taken) {
            StatusCode::CONFLICT
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
    let pool = PgPool::connect(&url).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS users (name text PRIMARY KEY)").execute(&pool).await?;
    let settings = Settings::load(&LoadOptions::from_process())?; // outbox.toml, and the environment over it
    let outbox = OutboxSystem::builder(settings).migrate(true).start().await?;

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
