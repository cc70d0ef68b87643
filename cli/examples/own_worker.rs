//! A worker with an application's own handlers and backends: your own program with the same commands as the program
//! `outbox`.
//!
//! ```sh
//! export DATABASE_URL=sqlite://app.db OUTBOX__PUBLISHERS__DEFAULT__BACKEND=stderr
//! cargo run -p actix-outbox-cli --example own_worker -- migrate
//! cargo run -p actix-outbox-cli --example own_worker -- publish user.created --source shell --data '{"name": "Ada"}'
//! cargo run -p actix-outbox-cli --example own_worker -- worker --until-empty
//! cargo run -p actix-outbox-cli --example own_worker -- status
//! ```

use std::process::ExitCode;

use actix::prelude::*;
use actix_outbox::{
    BackendError, HandleEvent, HandlerError, OutboxEvent, OutboxSystem, PublisherBackend, Settings, Subscribe,
};

/// Runs in the worker, in addition to the delivery to the backend.
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

/// The backend for `backend = "stderr"` in the settings.
struct Stderr;

#[async_trait::async_trait]
impl PublisherBackend for Stderr {
    async fn publish(&self, event: &OutboxEvent) -> Result<(), BackendError> {
        eprintln!("backend: {} {}", event.id, event.event_type);
        Ok(())
    }

    async fn health_check(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

fn main() -> ExitCode {
    // The command line loads the settings; those given here are only the defaults.
    let builder = OutboxSystem::builder(Settings::default())
        .backend("stderr", |_settings| Ok(Stderr))
        .subscribe_with(|_| Subscribe::new("mailer", "user.created", Mailer.start().recipient()));
    actix_outbox_cli::run(builder)
}
