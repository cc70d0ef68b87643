//! The program on MariaDB or MySQL.

use std::path::{Path, PathBuf};
use std::process::Command;

use actix_outbox::{NewEvent, OutboxSystem, Settings};
use diesel_async::{AsyncConnection, AsyncMysqlConnection};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tempfile::TempDir;
use url::Url;
use uuid::Uuid;

use crate::support::mysql::{self, Database};
use crate::support::process::Running;
use crate::support::proxy::{Passage, Proxy};
use crate::support::{PATIENCE, eventually, redis, unique};
use crate::test_outbox::{DRAIN, Written, assert_once_in_order};

const KEYS: usize = 50;

/// An outbox in a database of its own, which publishes into a stream of its own.
pub(crate) struct MysqlOutbox {
    pub(crate) database: Database,
    /// The address in the settings.
    url: String,
    pub(crate) stream: String,
    folder: TempDir,
}

impl MysqlOutbox {
    /// Without tables.
    pub(crate) async fn unmigrated() -> Self {
        let database = mysql::database().await;
        let url = database.url.clone();
        Self { database, url, stream: redis::stream(), folder: tempfile::tempdir().unwrap() }
    }

    async fn new() -> Self {
        let test = Self::unmigrated().await;
        let migrated = test.outbox(&test.settings(""), &["migrate"]).output().unwrap();
        assert!(migrated.status.success(), "outbox migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        test
    }

    /// The program and systems reach the database over a proxy after this call.
    async fn proxied(&mut self) -> Proxy {
        let mut url = Url::parse(&self.database.url).unwrap();
        let proxy = Proxy::to(url.port().unwrap_or(3306)).await;
        url.set_port(Some(proxy.port())).unwrap();
        self.url = url.into();
        proxy
    }

    fn tables(&self, worker: &str) -> String {
        format!(
            "[database]\nurl = \"{}\"\n[publishers.default]\nbackend = \"redis_stream\"\nurl = \"{}\"\n\
             stream_name = \"{}\"\nmax_len = 0\n[worker]\npoll_interval = \"10ms\"\nlease = \"2s\"\n{worker}\n",
            self.url,
            redis::url(),
            self.stream
        )
    }

    /// A settings file with these lines of `[worker]`.
    pub(crate) fn settings(&self, worker: &str) -> PathBuf {
        let path = self.folder.path().join(unique("settings")).with_extension("toml");
        std::fs::write(&path, self.tables(worker)).unwrap();
        path
    }

    pub(crate) fn outbox(&self, settings: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox"));
        for (name, _) in std::env::vars_os() {
            if name == "DATABASE_URL" || name.to_string_lossy().starts_with("OUTBOX_") {
                command.env_remove(name);
            }
        }
        command.current_dir(self.folder.path()).args(arguments).arg("--config").arg(settings);
        command
    }

    fn worker(&self, name: &str) -> Running {
        Running::spawn(&mut self.outbox(&self.settings(""), &["worker", "--name", name]))
    }

    pub(crate) async fn sql(&self) -> Conn {
        self.database.connect().await
    }

    async fn number(&self, query: &str) -> i64 {
        self.sql().await.query_first(query).await.unwrap().unwrap()
    }

    /// Writes events in one statement, as an application in another language does.
    async fn insert(&self, count: usize) {
        let statement = format!(
            "INSERT INTO outbox_events (id, event_type, source, data, partition_key) \
             WITH RECURSIVE numbers AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}) \
             SELECT REPLACE(UUID(), '-', ''), 'thing.happened', 'tests', JSON_OBJECT('n', n), CONCAT('key-', n % {KEYS}) \
             FROM numbers"
        );
        self.sql().await.query_drop(statement).await.unwrap();
    }

    pub(crate) async fn unpublished(&self) -> i64 {
        self.number("SELECT count(*) FROM outbox_events WHERE status <> 'published'").await
    }

    pub(crate) async fn wait_published(&self) {
        eventually("every event is published", DRAIN, async || self.unpublished().await == 0).await;
    }

    pub(crate) async fn wait_owners(&self, names: &[&str]) {
        let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
        let query = format!(
            "SELECT count(DISTINCT w.name) FROM outbox_running_leases l JOIN outbox_workers w ON w.id = l.owner \
             WHERE w.name IN ({})",
            quoted.join(", ")
        );
        eventually(&format!("{names:?} own shards"), PATIENCE, async || {
            self.number(&query).await == names.len() as i64
        })
        .await;
    }

    pub(crate) async fn length(&self) -> usize {
        redis::length(&mut redis::connect(&redis::url()).await, &self.stream).await
    }

    async fn assert_delivered(&self, count: usize) {
        let query = "SELECT CAST(id AS char), partition_key, seq FROM outbox_events ORDER BY scheduled_at, seq";
        let mut events: Vec<Written> = self.sql().await.query(query).await.unwrap();
        // Those that are not of the type uuid have no hyphens.
        events.iter_mut().for_each(|(id, ..)| *id = Uuid::parse_str(id).unwrap().to_string());
        assert_eq!(events.len(), count);
        assert_once_in_order(&events, &redis::event_ids(&redis::url(), &self.stream).await);
    }
}

#[tokio::test]
async fn events_of_any_writer_are_delivered_once_and_in_order() {
    let test = MysqlOutbox::new().await;
    test.insert(1_000).await;
    let mut conn = AsyncMysqlConnection::establish(&test.database.url).await.unwrap();
    for n in 0..1_000 {
        let event = NewEvent::new("thing.happened", "tests").partition_key(format!("key-{}", n % KEYS));
        actix_outbox::publish(&mut conn, event).await.unwrap();
    }
    let mut worker = Running::spawn(&mut test.outbox(&test.settings(""), &["worker", "--until-empty"]));
    let status = worker.wait_exit(DRAIN).await;
    assert!(status.success(), "{status}: {}", worker.stderr());
    assert_eq!(test.unpublished().await, 0);
    test.assert_delivered(2_000).await;
}

#[actix::test]
async fn a_system_inside_an_application_delivers() {
    let test = MysqlOutbox::new().await;
    let outbox = OutboxSystem::builder(Settings::from_toml(&test.tables("")).unwrap()).start().await.unwrap();
    for n in 0..100 {
        let event = NewEvent::new("thing.happened", "tests").partition_key(format!("key-{}", n % KEYS));
        outbox.send(event).await.unwrap();
    }
    test.wait_published().await;
    outbox.shutdown().await.unwrap();
    test.assert_delivered(100).await;
}

#[tokio::test]
async fn a_worker_that_is_killed_again_and_again_sends_nothing_twice() {
    let test = MysqlOutbox::new().await;
    for round in 0..4 {
        let mut worker = test.worker(&format!("worker-{round}"));
        test.insert(500).await;
        let before = test.length().await;
        let what = "some events are sent";
        eventually(what, DRAIN, async || test.length().await > before + 20).await;
        if round < 3 {
            worker.kill();
        } else {
            test.wait_published().await;
        }
    }
    test.assert_delivered(2_000).await;
}

/// Each answer that is lost cuts its connection: of a fetch, a settle, a heartbeat, or a commit.
#[actix::test]
async fn answers_that_are_lost_lose_and_double_nothing() {
    const ROUNDS: usize = 20;
    let mut test = MysqlOutbox::new().await;
    let proxy = test.proxied().await;
    let settings = Settings::from_toml(&test.tables("")).unwrap();
    let outbox = OutboxSystem::builder(settings).publish_only(true).start().await.unwrap();
    let _worker = test.worker("worker");
    test.wait_owners(&["worker"]).await;
    for round in 0..ROUNDS {
        test.insert(200).await;
        let before = proxy.connections();
        proxy.set(if round == 0 { Passage::LoseReplies } else { Passage::CutAtReply });
        let event = NewEvent::new("thing.happened", "tests").id(Uuid::now_v7()).partition_key("key-1");
        let first = outbox.send(event.clone()).await;
        assert!(first.is_err_and(|error| error.is_transient()));
        eventually("the worker connects again", PATIENCE, async || proxy.connections() > before + 1).await;
        proxy.set(Passage::Open);
        outbox.send(event).await.unwrap();
    }
    test.wait_published().await;
    test.assert_delivered(ROUNDS * 201).await;
    outbox.shutdown().await.unwrap();
}

#[tokio::test]
async fn two_workers_share_the_shards() {
    let test = MysqlOutbox::new().await;
    let mut one = test.worker("one");
    let _other = test.worker("other");
    test.wait_owners(&["one", "other"]).await;
    test.insert(1_000).await;
    let before = test.length().await;
    eventually("some events are sent", DRAIN, async || test.length().await > before + 20).await;
    one.kill();
    test.insert(1_000).await;
    test.wait_published().await;
    test.assert_delivered(2_000).await;
}

#[tokio::test]
async fn rows_that_another_transaction_holds_keep_no_others() {
    let test = MysqlOutbox::new().await;
    test.insert(2_000).await;
    let mut holder = test.sql().await;
    holder.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.unwrap();
    holder.query_drop("START TRANSACTION").await.unwrap();
    holder.query_drop("UPDATE outbox_events SET subject = 'held' WHERE partition_key = 'key-1'").await.unwrap();
    let _worker = test.worker("worker");
    let held = 2_000 / KEYS as i64;
    eventually("the others are published", DRAIN, async || test.unpublished().await == held).await;
    holder.query_drop("ROLLBACK").await.unwrap();
    test.wait_published().await;
    test.assert_delivered(2_000).await;
}

#[tokio::test]
async fn an_operator_changes_events_beside_a_worker() {
    let test = MysqlOutbox::new().await;
    let worker = test.worker("first");
    test.insert(500).await;
    test.wait_published().await;
    test.wait_owners(&["first"]).await;
    let settings = test.settings("");
    let said = async |arguments: &[&str]| {
        let mut command = Running::spawn(&mut test.outbox(&settings, arguments));
        let status = command.wait_exit(DRAIN).await;
        assert!(status.success(), "{arguments:?}: {status}: {}", command.stderr());
    };
    let length = test.length().await;
    said(&["events", "replay", "--since", "1h", "--key", "key-7", "--yes"]).await;
    test.wait_published().await;
    assert_eq!(test.length().await, length + 10, "those of one key, again");
    said(&["events", "list", "--status", "published"]).await;
    said(&["events", "delete", "--key", "key-8", "--yes"]).await;
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, 490);
    assert_eq!(test.number("SELECT CAST(sum(events) AS signed) FROM outbox_audit").await, 20);
    said(&["status"]).await;
    drop(worker);
}
