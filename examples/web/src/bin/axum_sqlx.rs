//! axum with sqlx: `POST /users` stores a user and an event in one transaction of sqlx. The service needs neither diesel nor
//! actix; the program `outbox` creates the outbox's tables and delivers the events.
//!
//! ```sh
//! export DATABASE_URL=postgres://localhost/app
//! export OUTBOX__PUBLISHERS__DEFAULT__BACKEND=jsonl     # the worker prints the events
//! outbox migrate
//! outbox worker &
//! cargo run --manifest-path examples/web/Cargo.toml --target-dir target --bin axum_sqlx
//! curl -i -H 'content-type: application/json' -d '{"name": "Ada"}' http://127.0.0.1:8080/users
//! ```

use actix_outbox::NewEvent;
use actix_outbox::sqlx_0_8::publish;
use anyhow::Context;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize)]
struct User {
    name: String,
}

/// Stores a user and its event, both or neither: an error drops the transaction, which rolls it back.
async fn create_user(State(pool): State<PgPool>, Json(user): Json<User>) -> Result<StatusCode, Failure> {
    let mut transaction = pool.begin().await?;
    sqlx::query("INSERT INTO users (name) VALUES ($1)").bind(&user.name).execute(&mut *transaction).await?;
    let event = NewEvent::new("user.created", "user-service").partition_key(&user.name).data(&user);
    publish(&mut transaction, event).await?;
    transaction.commit().await?;
    // Wakes the workers, which would find the event at their next poll. An error here is not one of the request.
    let _ = sqlx::query("SELECT outbox_wake()").execute(&pool).await;
    Ok(StatusCode::CREATED)
}

struct Failure(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let is_taken = |error: &sqlx::Error| error.as_database_error().is_some_and(|error| error.is_unique_violation());
        if self.0.downcast_ref().is_some_and(is_taken) {
            return (StatusCode::CONFLICT, "this name is taken\n").into_response();
        }
        eprintln!("request failed: {:#}", self.0);
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
    let pool = PgPool::connect(&url).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS users (name text PRIMARY KEY)").execute(&pool).await?;
    let app = Router::new().route("/users", post(create_user)).with_state(pool);
    let listener = tokio::net::TcpListener::bind(&address).await?;
    let stopped = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(axum::serve(listener, app).with_graceful_shutdown(stopped).await?)
}
