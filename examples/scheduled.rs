//! Scheduled events and retries: an event with a time before which it is not sent, retries with growing pauses, and an
//! event that fails after its last retry. Everything is in one SQLite file, no server needed. Ends by itself.
//!
//! Run it with `cargo run --example scheduled`.

use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_outbox::{HandleEvent, HandlerError, NewEvent, OutboxSystem, Settings, Subscribe};

/// Sends reminders. The mail server refuses one address always, and another twice.
struct Reminders {
    started: Instant,
    refusals: u32,
}

impl Actor for Reminders {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Reminders {
    type Result = Result<(), HandlerError>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        let (to, seconds) = (&message.event.subject, self.started.elapsed().as_secs_f32());
        let refused = match to.as_str() {
            "unknown@example.com" => true,
            "busy@example.com" if self.refusals < 2 => {
                self.refusals += 1;
                true
            }
            _ => false,
        };
        println!("{seconds:.1} s: {to} {}", if refused { "was refused" } else { "is reminded" });
        if refused { Err(HandlerError::retry("the mail server refused the address")) } else { Ok(()) }
    }
}

#[actix::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = Settings::from_toml(&format!(
        r#"
        [database]
        url = "sqlite://{}"
        [publishers.default]
        backend = "local"                # only for handlers
        [worker]
        # After the n-th failure: base × factor^n, here 0.2 s, 0.4 s, 0.8 s; in production minutes, and a jitter.
        retry_backoff = {{ base = "100ms", factor = 2, max = "1h", jitter = 0 }}
        "#,
        folder.path().join("app.db").display()
    ))?;
    let reminders = Reminders { started: Instant::now(), refusals: 0 }.start();
    let outbox = OutboxSystem::builder(settings)
        .migrate(true)
        .subscribe(Subscribe::new("reminders", "reminder.due", reminders.recipient()))
        .start()
        .await?;

    let reminder = |to: &str| NewEvent::new("reminder.due", "calendar").subject(to);
    outbox.send(reminder("later@example.com").scheduled_in(Duration::from_secs(1))).await?;
    outbox.send(reminder("now@example.com")).await?;
    outbox.send(reminder("busy@example.com").max_retries(5)).await?;
    outbox.send(reminder("unknown@example.com").max_retries(2)).await?;

    actix_rt::time::sleep(Duration::from_millis(1_500)).await;
    outbox.drained().await;
    outbox.shutdown().await?;
    Ok(())
}
