//! A worker on a SQLite file.

use std::collections::HashSet;
use std::time::Duration;

use actix_outbox::{BackendError, Outbox, OutboxEvent, OutboxSystem, Settings};
use diesel::connection::SimpleConnection;
use diesel::sql_types::{BigInt, Integer, Text};
use diesel::{Connection, QueryableByName, RunQueryDsl, SqliteConnection, sql_query};
use futures_util::future::join_all;
use tempfile::TempDir;

use crate::actors::{Log, Reply, Scripted, event};
use crate::support::{PATIENCE, eventually};

struct File {
    folder: TempDir,
}

/// An event's row.
#[derive(Debug, QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    status: String,
    #[diesel(sql_type = Integer)]
    retry_count: i32,
    #[diesel(sql_type = Text)]
    last_error: String,
    /// From the last write until the retry.
    #[diesel(sql_type = BigInt)]
    wait_micros: i64,
}

impl File {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> String {
        self.folder.path().join("app.db").display().to_string()
    }

    /// A system on this file, whose only publisher has the test's own backend.
    async fn start(&self, backend: Scripted, worker: &str) -> Outbox {
        let tables = format!(
            "[database]\nurl = \"sqlite://{}\"\n[publishers.mine]\nbackend = \"scripted\"\n[worker]\n{worker}\n",
            self.path()
        );
        let builder = OutboxSystem::builder(Settings::from_toml(&tables).unwrap()).migrate(true);
        builder.backend("scripted", move |_| Ok(backend.clone())).start().await.unwrap()
    }

    fn connection(&self) -> SqliteConnection {
        let mut connection = SqliteConnection::establish(&self.path()).unwrap();
        connection.batch_execute("PRAGMA busy_timeout = 5000").unwrap();
        connection
    }

    fn row(&self, subject: &str) -> Row {
        let query = "SELECT status, retry_count, last_error, coalesce(retry_at, 0) - updated_at AS wait_micros
            FROM outbox_events WHERE subject = ?";
        sql_query(query).bind::<Text, _>(subject).get_result(&mut self.connection()).unwrap()
    }

    async fn wait_status(&self, subject: &str, status: &str) -> Row {
        eventually(&format!("{subject} is {status}"), PATIENCE, async || self.row(subject).status == status).await;
        self.row(subject)
    }
}

#[actix::test]
async fn messages_sent_together_share_an_insert() {
    let file = File::new();
    let outbox = file.start(Scripted::new(|_| Reply::Accept), "").await;
    let system = outbox.addr().unwrap();
    let later = |n: usize| event(&n.to_string()).scheduled_in(Duration::from_secs(3_600));
    let answers = join_all((0..200).map(|n| system.send(later(n)))).await;
    let stored: Vec<OutboxEvent> = answers.into_iter().map(|answer| answer.unwrap().unwrap()).collect();
    assert!(stored.iter().map(|event| event.subject.clone()).eq((0..200).map(|n| n.to_string())));
    // A statement reads the clock once.
    let moments: HashSet<_> = stored.iter().map(|event| event.created_at).collect();
    assert!(moments.len() <= 20, "{} statements", moments.len());
}

#[actix::test]
async fn retries_are_due_when_the_backoff_says_and_not_before() {
    let (file, tries) = (File::new(), Log::default());
    let refusing = {
        let tries = tries.clone();
        Scripted::new(move |event| {
            tries.add(&event.subject);
            Reply::Refuse(BackendError::Rejected("no".to_owned()))
        })
    };
    let backoff = "retry_backoff = { base = \"1m\", factor = 3, max = \"10m\", jitter = 0.5 }";
    let outbox = file.start(refusing, &format!("max_retries = 5\n{backoff}")).await;
    outbox.send(event("1")).await.unwrap();
    for (retries, longest) in [(1, 180), (2, 540), (3, 600), (4, 600)] {
        eventually("it was rejected", PATIENCE, async || file.row("1").retry_count == retries).await;
        let wait = file.row("1").wait_micros;
        let longest = longest * 1_000_000;
        assert!((longest / 2..=longest).contains(&wait), "retry {retries} is in {wait} µs");
        assert_eq!(tries.lines().len(), usize::try_from(retries).unwrap());
        let due = "UPDATE outbox_events SET retry_at = updated_at WHERE status = 'retry'";
        file.connection().batch_execute(due).unwrap();
    }
    assert_eq!(file.wait_status("1", "failed").await.retry_count, 5);
}

#[actix::test]
async fn rows_that_are_not_valid_events_fail_with_the_reason_and_others_go_on() {
    let (file, log) = (File::new(), Log::default());
    let accepting = {
        let log = log.clone();
        Scripted::new(move |event| {
            log.add(&event.subject);
            Reply::Accept
        })
    };
    let outbox = file.start(accepting, "max_event_bytes = 10000").await;
    let columns = "(id, event_type, source, subject, partition_key, data, publisher_config, retry_count)";
    for (subject, key, rest) in [
        ("good 1", "", "'{}', '{}', 0"),
        ("no JSON", "", "'oops', '{}', 0"),
        ("config array", "key", "'{}', '[1]', 0"),
        ("no count", "", "'{}', '{}', 'many'"),
        ("too large", "key", "'\"' || hex(zeroblob(10000)) || '\"', '{}', 0"),
        ("good 2", "key", "'{}', '{\"tenant\": \"a\"}', 0"),
        ("empty array", "", "'{}', '[]', 0"),
    ] {
        let insert = format!(
            "INSERT INTO outbox_events {columns} VALUES (randomblob(16), 't', 's', '{subject}', '{key}', {rest})"
        );
        file.connection().batch_execute(&insert).unwrap();
    }
    for (subject, reason) in [
        ("no JSON", "data is not valid JSON"),
        ("config array", "publisher_config"),
        ("no count", "retry_count"),
        ("too large", "10000"),
    ] {
        let row = file.wait_status(subject, "failed").await;
        assert!(row.last_error.contains(reason), "{subject}: {row:?}");
    }
    for subject in ["good 1", "good 2", "empty array"] {
        file.wait_status(subject, "published").await;
    }
    outbox.drained().await;
    let mut published = log.lines();
    published.sort_unstable();
    assert_eq!(published, ["empty array", "good 1", "good 2"]);
}
