//! The quick start, no server needed: events written in transactions of a SQLite file reach a backend (here: lines of JSON
//! on standard output) and two handler actors. Ends by itself.
//!
//! Run it with `cargo run -p quickstart`.

use std::collections::HashSet;
use std::time::Duration;

use actix::prelude::*;
use actix_outbox::{EventTypes, HandleEvent, HandlerError, NewEvent, OutboxSystem, Settings, Subscribe};
use diesel::sqlite::SqliteConnection;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, SimpleAsyncConnection};

/// Greets new users. Fails for the first event, which it then gets again.
#[derive(Default)]
struct Greeter {
    seen: HashSet<String>,
}

impl Actor for Greeter {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Greeter {
    type Result = Result<(), HandlerError>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        let user: serde_json::Value = message.event.data_as()?;
        let name = user["name"].as_str().unwrap_or("user");
        if self.seen.insert(name.to_owned()) {
            eprintln!("greeter: the mail server is unavailable, {name} has to wait");
            return Err(HandlerError::retry("the mail server is unavailable"));
        }
        eprintln!("greeter: welcome, {name}");
        Ok(())
    }
}

/// Handles every event.
struct Auditor;

impl Actor for Auditor {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Auditor {
    type Result = Result<(), HandlerError>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        eprintln!("auditor: {} happened", message.event.event_type);
        Ok(())
    }
}

#[actix::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("app.db");
    let settings = Settings::from_toml(&format!(
        r#"
        [database]
        url = "sqlite://{}"
        [publishers.default]
        backend = "jsonl"               # one CloudEvent a line on standard output
        [worker]
        retry_backoff = {{ base = "200ms", factor = 1, jitter = 0 }}
        "#,
        file.display()
    ))?;

    // The handlers are registered before the first event is fetched.
    let outbox = OutboxSystem::builder(settings)
        .migrate(true)
        .subscribe(Subscribe::new("greeter", "user.created", Greeter::default().start().recipient()))
        .subscribe(Subscribe::new("auditor", EventTypes::All, Auditor.start().recipient()))
        .start()
        .await?;

    // An event is part of the application's own transaction …
    let mut conn = SyncConnectionWrapper::<SqliteConnection>::establish(&file.display().to_string()).await?;
    conn.batch_execute("PRAGMA busy_timeout = 5000").await?;
    outbox
        .transaction(&mut conn, async |conn| {
            let ada = NewEvent::new("user.created", "quickstart").data(serde_json::json!({ "name": "Ada" }));
            Ok(actix_outbox::publish(conn, ada).await?)
        })
        .await?;

    // … so it is never delivered if that is rolled back …
    let rolled_back = outbox
        .transaction(&mut conn, async |conn| {
            let ghost = NewEvent::new("user.created", "quickstart").data(serde_json::json!({ "name": "Ghost" }));
            actix_outbox::publish(conn, ghost).await?;
            Err::<(), _>("this user may not be created".into())
        })
        .await;
    assert!(rolled_back.is_err());

    // … or it has its own transaction, here with a time before which it is not sent.
    let later = NewEvent::new("report.due", "quickstart").scheduled_in(Duration::from_secs(1));
    outbox.send(later).await?;

    // Waits until both events are delivered and handled.
    actix_rt::time::sleep(Duration::from_millis(1_200)).await;
    outbox.drained().await;
    outbox.shutdown().await?;
    Ok(())
}
