//! What an idle worker sends to PostgreSQL, as the server logs it.

use std::time::Duration;

use actix::{Actor, Context, Handler};

use crate::settings::{PublisherSettings, Settings};
use crate::system::{Outbox, OutboxSystem};
use crate::test_support::postgres::{Database, Server};
use crate::test_support::{PATIENCE, eventually};
use crate::{HandleEvent, HandlerError, NewEvent, Subscribe};

/// Publishers of one worker.
const MANY: usize = 40;

/// Its handlers; each has a lane, too.
const HANDLERS: usize = 12;

/// The most statements a second: ten questions, one for the handlers, the heartbeat and the janitor.
const FEW: usize = 30;

fn logging_server() -> Server {
    Server::start_with(&[("log_statement", "all")])
}

async fn worker(database: &Database, publishers: usize, times: Option<Duration>) -> Outbox {
    let mut settings = Settings::default();
    settings.database.url = database.url.as_str().into();
    let local = PublisherSettings { backend: "local".to_owned(), ..PublisherSettings::default() };
    settings.publishers.insert("default".to_owned(), local.clone());
    settings.publishers.extend((1..publishers).map(|number| (format!("p{number}"), local.clone())));
    if let Some(times) = times {
        (settings.worker.poll_interval, settings.worker.lease) = (times, times * 3);
    }
    let mut builder = OutboxSystem::builder(settings).migrate(true);
    for number in 1..=HANDLERS {
        builder = builder.subscribe(Subscribe::new(format!("h{number}"), "absent", Mailer.start().recipient()));
    }
    builder.start().await.unwrap()
}

struct Mailer;

impl Actor for Mailer {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Mailer {
    type Result = Result<(), HandlerError>;

    fn handle(&mut self, _: HandleEvent, _: &mut Self::Context) -> Self::Result {
        Ok(())
    }
}

async fn statements_in(server: &Server, span: Duration) -> Vec<String> {
    let before = server.log().len();
    tokio::time::sleep(span).await;
    let log = server.log();
    let sent = log[before..].lines().filter(|line| line.contains("statement: ") || line.contains("LOG:  execute "));
    sent.map(str::to_owned).collect()
}

async fn wait_published(database: &Database, count: i64) {
    let client = database.connect().await;
    eventually("they are published", PATIENCE, async || {
        let query = "SELECT count(*) FROM outbox_events WHERE status = 'published'";
        client.query_one(query, &[]).await.unwrap().get::<_, i64>(0) == count
    })
    .await;
}

#[actix::test]
async fn one_question_replaces_the_polls_of_all_lanes_and_finds_what_no_one_announces() {
    let server = logging_server();
    let database = server.database().await;
    let worker = worker(&database, MANY, None).await;
    eventually("few statements", PATIENCE * 2, async || {
        let sent = statements_in(&server, Duration::from_secs(1)).await;
        sent.iter().any(|line| line.contains("AS l(lane, shards)")) && sent.len() < FEW
    })
    .await;
    // A plain INSERT, a retry of another writer, and one behind the cursor of its lane.
    let insert = |lane: &str, columns: &str, values: &str| {
        format!(
            "INSERT INTO outbox_events (id, event_type, source, publisher_backend, partition_key{columns}) \
             VALUES (gen_random_uuid(), 't', 's', '{lane}', 'k'{values})"
        )
    };
    let client = database.connect().await;
    client.batch_execute(&insert("p1", "", "")).await.unwrap();
    wait_published(&database, 1).await;
    client.batch_execute(&insert("p2", ", status", ", 'retry'")).await.unwrap();
    wait_published(&database, 2).await;
    client.batch_execute(&insert("p1", ", scheduled_at", ", now() - interval '1 minute'")).await.unwrap();
    wait_published(&database, 3).await;
    eventually("few statements again", PATIENCE, async || {
        statements_in(&server, Duration::from_secs(1)).await.len() < FEW
    })
    .await;
    worker.shutdown().await.unwrap();
}

#[actix::test]
async fn with_long_times_an_idle_worker_lets_the_database_sleep_and_is_woken_all_the_same() {
    let server = logging_server();
    let database = server.database().await;
    let worker = worker(&database, 2, Some(Duration::from_secs(3600))).await;
    // Longer than what is repeated every five seconds.
    eventually("nothing is sent", PATIENCE * 4, async || {
        statements_in(&server, Duration::from_secs(8)).await.is_empty()
    })
    .await;
    worker.send(NewEvent::new("t", "s")).await.unwrap();
    wait_published(&database, 1).await;
    worker.shutdown().await.unwrap();
}
