//! Publishing by an application: on its own connections, with messages, with an id, with a time.

use std::process::Command;
use std::time::Duration;

use actix_outbox::{BackendError, NewEvent, Outbox, OutboxEvent, OutboxSystem, PublishError, Settings, Status};
use diesel::{Connection, SqliteConnection};
use diesel_async::pooled_connection::AsyncDieselConnectionManager;
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::actors::{QUICK_RETRIES, Reply, Scripted, event, row, wait_status};
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, postgres, redis};
use crate::test_outbox::TestOutbox;

async fn start(test: &TestOutbox, worker: &str) -> Outbox {
    let tables = format!("[publishers.default]\n{}[worker]\n{QUICK_RETRIES}{worker}\n", test.stream());
    OutboxSystem::builder(test.system_settings(&tables)).start().await.unwrap()
}

async fn diesel(test: &TestOutbox) -> AsyncPgConnection {
    AsyncPgConnection::establish(test.url()).await.unwrap()
}

#[actix::test]
async fn messages_sent_together_share_an_insert_and_each_returns_its_own_event() {
    const EVENTS: usize = 200;
    let test = TestOutbox::new().await;
    let outbox = start(&test, "").await;
    let system = outbox.addr().unwrap();
    // Never delivered, so that the rows stay as inserted.
    let later = |n: usize| event(&n.to_string()).scheduled_in(Duration::from_secs(3_600));
    let sent = (0..EVENTS).map(|n| system.send(if n == 70 { NewEvent::new("", "tests") } else { later(n) }));
    for (n, answer) in join_all(sent).await.into_iter().enumerate() {
        match answer.unwrap() {
            Ok(stored) => assert_eq!((stored.subject, stored.event_type.as_str()), (n.to_string(), "thing.happened")),
            Err(error) => assert!(n == 70 && error.is_invalid() && error.to_string().contains("type"), "{n}: {error}"),
        }
    }
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, EVENTS as i64 - 1);
    let transactions = test.number("SELECT count(DISTINCT xmin::text) FROM outbox_events").await;
    assert!(transactions <= EVENTS as i64 / 10, "{transactions} transactions");
}

#[actix::test]
async fn an_event_exists_if_and_only_if_its_transaction_commits() {
    let test = TestOutbox::new().await;
    let outbox = start(&test, "").await;
    let mut conn = diesel(&test).await;
    let rolled_back: Result<(), PublishError> = conn
        .transaction(async |conn| {
            actix_outbox::publish(conn, event("ghost")).await?;
            actix_outbox::publish_many(conn, [event("ghost"), event("ghost")]).await?;
            Err(diesel::result::Error::RollbackTransaction.into())
        })
        .await;
    assert!(rolled_back.is_err());
    let invalid = actix_outbox::publish_many(&mut conn, [event("ghost"), NewEvent::new("", "tests")]).await;
    assert!(matches!(invalid, Err(PublishError::InvalidInBatch { index: 2, .. })));

    let stored: Result<Vec<OutboxEvent>, PublishError> = conn
        .transaction(async |conn| {
            conn.batch_execute("CREATE TABLE mine (n int)").await?;
            actix_outbox::publish_many(conn, (0..10).map(|n| event(&n.to_string()).partition_key("key"))).await
        })
        .await;
    let stored = stored.unwrap();
    assert!(stored.iter().map(|event| event.subject.clone()).eq((0..10).map(|n| n.to_string())), "in order");
    test.wait_published().await;
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, 10);
    assert!(test.event_ids().await.into_iter().eq(stored.iter().map(|event| event.id.to_string())));
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn events_are_published_on_pooled_connections() {
    let test = TestOutbox::new().await;
    let _outbox = start(&test, "").await;
    let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new(test.url());
    let pool = Pool::builder(manager).max_size(2).build().unwrap();
    actix_outbox::publish(&mut pool.get().await.unwrap(), event("one")).await.unwrap();
    let mut conn = pool.get().await.unwrap();
    let many: Result<_, PublishError> =
        conn.transaction(async |conn| actix_outbox::publish_many(conn, [event("two"), event("three")]).await).await;
    assert_eq!(many.unwrap().len(), 2);
    test.wait_length(3).await;
    test.wait_published().await;
    test.assert_delivered().await;
}

#[actix::test]
async fn events_are_published_on_a_plain_sqlite_connection() {
    let folder = tempfile::tempdir().unwrap();
    let (file, lines) = (folder.path().join("app.db"), folder.path().join("lines"));
    let tables = format!(
        "[database]\nurl = \"sqlite://{}\"\n[publishers.default]\nbackend = \"jsonl\"\npath = \"{}\"",
        file.display(),
        lines.display()
    );
    let outbox = OutboxSystem::builder(Settings::from_toml(&tables).unwrap()).migrate(true).start().await.unwrap();
    let mut conn = SqliteConnection::establish(file.to_str().unwrap()).unwrap();
    diesel::RunQueryDsl::execute(diesel::sql_query("PRAGMA busy_timeout = 5000"), &mut conn).unwrap();
    let rolled_back: Result<(), PublishError> = conn.immediate_transaction(|conn| {
        actix_outbox::blocking::publish(conn, event("ghost"))?;
        Err(diesel::result::Error::RollbackTransaction.into())
    });
    assert!(rolled_back.is_err());
    conn.immediate_transaction(|conn| {
        actix_outbox::blocking::publish(conn, event("0").partition_key("key"))?;
        actix_outbox::blocking::publish_many(conn, [1, 2].map(|n| event(&n.to_string()).partition_key("key")))
    })
    .unwrap();
    let subjects = || -> Vec<String> {
        let text = std::fs::read_to_string(&lines).unwrap_or_default();
        let subject = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["subject"].clone();
        text.lines().map(|line| subject(line).as_str().unwrap().to_owned()).collect()
    };
    eventually("three lines are written", PATIENCE, async || subjects().len() >= 3).await;
    outbox.drained().await;
    assert_eq!(subjects(), ["0", "1", "2"]);
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn the_worker_is_woken_by_a_transaction_a_message_and_a_word() {
    // Long before the next poll.
    const AT_ONCE: Duration = Duration::from_secs(10);
    let test = TestOutbox::new().await;
    let outbox = start(&test, "poll_interval = \"60s\"").await;
    let mut conn = diesel(&test).await;
    let mut stream = redis::connect(test.redis_url()).await;
    let mut arrived = async |count: usize| {
        let what = format!("{count} events arrived");
        eventually(&what, AT_ONCE, async || redis::length(&mut stream, test.stream_name()).await == count).await;
    };
    outbox.send(event("message")).await.unwrap();
    arrived(1).await;
    let done =
        outbox.transaction(&mut conn, async |conn| Ok(actix_outbox::publish(conn, event("transaction")).await?)).await;
    done.unwrap();
    arrived(2).await;
    actix_outbox::publish(&mut conn, event("word")).await.unwrap();
    outbox.wake();
    arrived(3).await;
    test.wait_published().await;
}

#[actix::test]
async fn a_transaction_that_failed_leaves_nothing_behind() {
    let test = TestOutbox::new().await;
    let outbox = start(&test, "").await;
    let mut conn = diesel(&test).await;
    let failed = outbox
        .transaction(&mut conn, async |conn| {
            actix_outbox::publish(conn, event("ghost")).await?;
            Ok(actix_outbox::publish(conn, NewEvent::new("thing.happened", "")).await?)
        })
        .await
        .unwrap_err();
    assert!(failed.downcast_ref().is_some_and(PublishError::is_invalid), "{failed}");
    let failed = outbox
        .transaction(&mut conn, async |conn| {
            let ghost = actix_outbox::publish(conn, event("ghost")).await?;
            if !ghost.subject.is_empty() {
                Err("a text rolls back")?
            }
            Ok(())
        })
        .await;
    assert_eq!(failed.unwrap_err().to_string(), "a text rolls back");
    actix_outbox::publish(&mut conn, event("next")).await.unwrap();
    test.wait_length(1).await;
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, 1);
}

#[actix::test]
async fn the_same_id_and_content_twice_is_one_event_and_the_stored_is_returned() {
    let test = TestOutbox::new().await;
    let outbox = start(&test, "").await;
    let same = event("first").id(Uuid::now_v7()).data_json("{\"n\": 1.0}");
    let first = outbox.send(same.clone()).await.unwrap();
    let mut conn = diesel(&test).await;
    let again = [
        outbox.send(same.clone().data_json("{\"n\":1}")).await.unwrap(),
        outbox.addr().unwrap().send(same.clone()).await.unwrap().unwrap(),
        actix_outbox::publish(&mut conn, same.clone()).await.unwrap(),
        actix_outbox::publish_many(&mut conn, [event("new"), same.clone()]).await.unwrap().remove(1),
    ];
    for stored in again {
        assert_eq!((stored.id, stored.subject.as_str(), stored.seq), (first.id, "first", first.seq));
    }
    test.wait_published().await;
    test.assert_delivered().await;
    assert_eq!(test.length().await, 2);
}

#[actix::test]
async fn an_id_with_other_content_is_an_error_everywhere_and_fails_no_other() {
    let test = TestOutbox::new().await;
    let outbox = start(&test, "").await;
    let id = Uuid::now_v7();
    outbox.send(event("first").id(id)).await.unwrap();
    let other = || event("secret").id(id);
    let (refused, neighbour) = tokio::join!(outbox.send(other()), outbox.send(event("neighbour")));
    assert_eq!(neighbour.unwrap().subject, "neighbour");
    let mut conn = diesel(&test).await;
    let many: Result<Vec<OutboxEvent>, PublishError> =
        conn.transaction(async |conn| actix_outbox::publish_many(conn, [event("ghost"), other()]).await).await;
    let alone = actix_outbox::publish_many(&mut conn, [event("ghost"), other()]).await;
    let published = actix_outbox::publish(&mut conn, other()).await;
    for error in [refused.unwrap_err(), many.unwrap_err(), alone.unwrap_err(), published.unwrap_err()] {
        assert!(error.is_conflict() && !error.is_invalid(), "{error}");
        let text = error.to_string();
        assert!(text.contains("`subject`") && text.contains(&id.to_string()) && !text.contains("secret"), "{text}");
    }
    // An error that its caller ignores does not affect the rest of the transaction.
    let swallowed: Result<(), PublishError> = conn
        .transaction(async |conn| {
            actix_outbox::publish(conn, event("before")).await?;
            assert!(actix_outbox::publish_many(conn, [event("ghost"), other()]).await.unwrap_err().is_conflict());
            Ok(())
        })
        .await;
    swallowed.unwrap();
    test.wait_published().await;
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE subject IN ('ghost', 'secret')").await, 0);
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, 3);
    test.assert_delivered().await;
}

#[actix::test]
async fn an_event_is_not_delivered_before_its_time() {
    let test = TestOutbox::new().await;
    let outbox = start(&test, "").await;
    let later = outbox.send(event("later").scheduled_in(Duration::from_secs(1))).await.unwrap();
    assert_eq!(later.scheduled_at - later.created_at, chrono::TimeDelta::seconds(1), "by the database's clock");
    let at = chrono::Utc::now() + Duration::from_millis(500);
    outbox.send(event("at").scheduled_at(at)).await.unwrap();
    outbox.send(event("now")).await.unwrap();
    test.wait_length(3).await;
    test.wait_published().await;
    let early = "SELECT count(*) FROM outbox_events WHERE published_at < scheduled_at";
    assert_eq!(test.number(early).await, 0);
    let order = "SELECT string_agg(subject, ' ' ORDER BY published_at) FROM outbox_events";
    let order: String = test.sql().await.query_one(order, &[]).await.unwrap().get(0);
    assert_eq!(order, "now at later");
    test.assert_delivered().await;
}

#[actix::test]
async fn retries_are_due_when_the_backoff_says() {
    let test = TestOutbox::new().await;
    let refusing = Scripted::new(|_| Reply::Refuse(BackendError::Rejected("no".to_owned())));
    let settings = test.system_settings(
        "[publishers.mine]\nbackend = \"scripted\"\n[worker]\nmax_retries = 5\n\
         retry_backoff = { base = \"1m\", factor = 3, max = \"10m\", jitter = 0.5 }",
    );
    let backend = move |_: &_| Ok(refusing.clone());
    let outbox = OutboxSystem::builder(settings).backend("scripted", backend).start().await.unwrap();
    outbox.send(event("1")).await.unwrap();
    let sql = test.sql().await;
    for (retries, longest) in [(1, 180), (2, 540), (3, 600), (4, 600)] {
        eventually("it was rejected", PATIENCE, async || row(&sql, "1").await.retry_count == retries).await;
        let wait = "SELECT extract(epoch FROM retry_at - updated_at)::float8 FROM outbox_events WHERE status = 'retry'";
        let wait: f64 = sql.query_one(wait, &[]).await.unwrap().get(0);
        let longest = f64::from(longest);
        assert!((longest / 2.0 - 0.001..=longest + 0.001).contains(&wait), "retry {retries} is in {wait} s");
        sql.execute("UPDATE outbox_events SET retry_at = clock_timestamp()", &[]).await.unwrap();
    }
    let row = wait_status(&sql, "1", "failed").await;
    assert_eq!((row.retry_count, row.errors), (5, 5));
}

#[actix::test]
async fn events_without_a_backend_reach_the_publisher_of_the_default_backend() {
    let test = TestOutbox::new().await;
    let tables = format!("[publishers.main]\n{}", test.stream());
    let outbox = OutboxSystem::builder(test.system_settings(&tables)).start().await.unwrap();
    for n in 0..10 {
        let backend = if n % 2 == 0 { "" } else { "main" };
        outbox.send(event(&n.to_string()).backend(backend).partition_key(backend)).await.unwrap();
    }
    outbox.send(event("unserved").backend("other")).await.unwrap();
    test.wait_length(10).await;
    outbox.drained().await;
    assert_eq!(test.event_ids().await.len(), 10);
    assert_eq!(row(&test.sql().await, "unserved").await.status, "pending");
}

#[actix::test]
async fn rows_that_are_not_valid_events_fail_with_the_reason_and_others_go_on() {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    let insert =
        "INSERT INTO outbox_events (id, event_type, source, subject, partition_key, data, publisher_config, created_at)
        SELECT gen_random_uuid(), 'thing.happened', 'tests', subject, key, data::jsonb, config::jsonb, at::timestamptz
        FROM (VALUES
            ('good 1', '', '{}', '{}', 'now'),
            ('timeless', '', '{}', '{}', 'infinity'),
            ('config array', '', '{}', '[1]', 'now'),
            ('config boolean', '', '{}', '{\"urgent\": true}', 'now'),
            ('too large', 'key', '\"' || repeat('x', 20000) || '\"', '{}', 'now'),
            ('good 2', 'key', '{}', '{\"tenant\": \"a\", \"n\": 1}', 'now'),
            ('empty array', '', '{}', '[]', 'now'),
            ('good 3', '', '{}', '{}', 'now')) v(subject, key, data, config, at)";
    sql.execute(insert, &[]).await.unwrap();
    let outbox = start(&test, "max_event_bytes = 10000").await;
    for (subject, reason) in [
        ("timeless", "created_at"),
        ("config array", "publisher_config"),
        ("config boolean", "urgent"),
        ("too large", "10000"),
    ] {
        let row = wait_status(&sql, subject, "failed").await;
        assert!(row.last_error.contains(reason), "{subject}: {row:?}");
        assert_eq!(row.errors, 1, "{subject}");
        assert!(!row.is_with_the_backend, "{subject}");
    }
    for subject in ["good 1", "good 2", "empty array", "good 3"] {
        wait_status(&sql, subject, "published").await;
    }
    outbox.drained().await;
    assert_eq!(test.length().await, 4);
    let refused = outbox.send(event("larger").data("x".repeat(20_000))).await.unwrap_err();
    assert!(refused.is_invalid() && refused.to_string().contains("10000"), "{refused}");
}

/// A server whose commits can be made to wait for a standby that does not exist.
struct Stalling {
    test: TestOutbox,
    _server: postgres::Server,
}

impl Stalling {
    async fn new() -> Self {
        let server = postgres::Server::start();
        let test = TestOutbox::on(server.database().await, redis::url()).await;
        Self { test, _server: server }
    }

    async fn stall(&self) {
        self.set("ALTER SYSTEM SET synchronous_standby_names = '*'", "*").await;
        // It affects commits only after another process of the server has read it.
        let mut probe = self.commit().await;
        eventually("commits wait", PATIENCE, async || {
            if probe.is_finished() {
                probe = self.commit().await;
            }
            self.waiting("query LIKE '%probe%'").await > 0
        })
        .await;
    }

    async fn commit(&self) -> JoinHandle<()> {
        let sql = self.test.sql().await;
        let write = "SELECT pg_logical_emit_message(true, 'probe', '')";
        actix::spawn(async move { sql.batch_execute(write).await.unwrap() })
    }

    async fn waiting(&self, condition: &str) -> i64 {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_type = 'client backend'";
        self.test.number(&format!("{waiting} AND {condition}")).await
    }

    async fn recover(&self) {
        self.set("ALTER SYSTEM RESET synchronous_standby_names", "").await;
    }

    async fn set(&self, statement: &str, value: &str) {
        let sql = self.test.sql().await;
        sql.batch_execute(statement).await.unwrap();
        sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        eventually("the setting takes effect", PATIENCE, async || {
            let row = sql.query_one("SHOW synchronous_standby_names", &[]).await.unwrap();
            row.get::<_, String>(0) == value
        })
        .await;
    }

    async fn wait_until_a_commit_waits<T>(&self, repeating: &JoinHandle<T>) {
        eventually("a commit waits for the standby", PATIENCE, async || {
            assert!(!repeating.is_finished(), "acknowledged without the standby");
            self.waiting("query NOT LIKE '%probe%'").await > 0
        })
        .await;
    }
}

#[actix::test]
async fn a_repeat_is_acknowledged_only_when_the_sync_standby_has_the_event() {
    let stalling = Stalling::new().await;
    let settings = stalling.test.system_settings("");
    let outbox = OutboxSystem::builder(settings).publish_only(true).start().await.unwrap();
    let same = event("same").id(Uuid::now_v7());
    let first = outbox.send(same.clone()).await.unwrap();
    let mut conn = diesel(&stalling.test).await;
    stalling.stall().await;

    let sending = {
        let (outbox, same) = (outbox.clone(), same.clone());
        actix::spawn(async move { outbox.send(same).await })
    };
    stalling.wait_until_a_commit_waits(&sending).await;
    stalling.recover().await;
    assert_eq!(sending.await.unwrap().unwrap().seq, first.seq);

    stalling.stall().await;
    let publishing =
        actix::spawn(async move { conn.transaction(async |conn| actix_outbox::publish(conn, same).await).await });
    stalling.wait_until_a_commit_waits(&publishing).await;
    stalling.recover().await;
    assert_eq!(publishing.await.unwrap().unwrap().seq, first.seq);
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_repeat_from_sql_waits_for_the_standby_with_and_without_the_right_to_write_wal() {
    let stalling = Stalling::new().await;
    let sql = stalling.test.sql().await;
    let publish = "SELECT outbox_publish('t', 's', id => '0192f0c1-0000-7000-8000-000000000001')";
    sql.batch_execute(publish).await.unwrap();
    // The functions run as the owner of the table.
    let without =
        "CREATE ROLE owner; GRANT USAGE, CREATE ON SCHEMA public TO owner; ALTER TABLE outbox_events OWNER TO owner;
        ALTER TABLE outbox_meta OWNER TO owner; DELETE FROM outbox_migrations WHERE version >= 7;
        REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC";
    for prepare in ["", without] {
        sql.batch_execute(prepare).await.unwrap();
        stalling.test.run(&["migrate"]).await;
        stalling.stall().await;
        let again = stalling.test.sql().await;
        let repeating = actix::spawn(async move { again.batch_execute(publish).await });
        stalling.wait_until_a_commit_waits(&repeating).await;
        stalling.recover().await;
        repeating.await.unwrap().unwrap();
    }
    assert_eq!(stalling.test.number("SELECT count(*) FROM outbox_events").await, 1);
}

#[actix::test]
async fn a_repeat_waits_for_the_standby_even_without_the_right_to_write_wal() {
    let stalling = Stalling::new().await;
    let sql = stalling.test.sql().await;
    let prepare = "CREATE ROLE writer LOGIN; GRANT SELECT, INSERT, UPDATE ON outbox_events TO writer;
        GRANT USAGE ON SEQUENCE outbox_events_seq TO writer;
        REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC";
    sql.batch_execute(prepare).await.unwrap();
    let mut url = url::Url::parse(stalling.test.url()).unwrap();
    url.set_username("writer").unwrap();
    let mut conn = AsyncPgConnection::establish(url.as_str()).await.unwrap();
    let same = event("same").id(Uuid::now_v7());
    let first = actix_outbox::publish(&mut conn, same.clone()).await.unwrap();
    stalling.stall().await;
    let publishing = actix::spawn(async move { actix_outbox::publish(&mut conn, same).await });
    stalling.wait_until_a_commit_waits(&publishing).await;
    stalling.recover().await;
    assert_eq!(publishing.await.unwrap().unwrap().seq, first.seq);
}

/// It was stored before, so publishing it again succeeds.
#[actix::test]
async fn an_event_deleted_while_it_is_published_again_is_not_written_twice() {
    let stalling = Stalling::new().await;
    let mut conn = diesel(&stalling.test).await;
    let same = event("same").id(Uuid::now_v7());
    actix_outbox::publish(&mut conn, same.clone()).await.unwrap();
    stalling.stall().await;
    let publishing = actix::spawn(async move { actix_outbox::publish(&mut conn, same).await });
    // Its insert has found the row, and it has not read it yet.
    stalling.wait_until_a_commit_waits(&publishing).await;
    let sql = stalling.test.sql().await;
    sql.batch_execute("SET synchronous_commit = off; DELETE FROM outbox_events").await.unwrap();
    stalling.recover().await;
    let stored = publishing.await.unwrap().unwrap();
    assert_eq!((stored.subject.as_str(), stored.status, stored.seq), ("same", Status::Published, 0));
    assert_eq!(stalling.test.number("SELECT count(*) FROM outbox_events").await, 0);
}

/// Run by the next test in a separate process, to get its log.
#[actix::test]
#[ignore = "waits to be killed"]
async fn events_are_sent_to_backends_that_nobody_serves() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let test = TestOutbox::new().await;
    let outbox = start(&test, "").await;
    for n in 0..20 {
        outbox.send(event(&n.to_string()).backend("unserved")).await.unwrap();
        outbox.send(event(&n.to_string())).await.unwrap();
    }
    outbox.send(event("last").backend("last")).await.unwrap();
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, 41, "all of them are stored");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn an_unserved_backend_is_warned_of_once_and_not_for_each_event() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "publishing::events_are_sent_to_backends_that_nobody_serves";
    let sender = Running::spawn(command.args(["--ignored", "--nocapture", "--exact", name]));
    let warnings = |backend: &str| {
        let says = |line: &&str| line.contains("no live worker serves") && line.contains(&format!("backend={backend}"));
        sender.stderr().lines().filter(says).count()
    };
    eventually("the last event causes a warning", PATIENCE, async || warnings("last") == 1).await;
    assert_eq!(warnings("unserved"), 1, "{}", sender.stderr());
    assert_eq!(sender.stderr().matches("no live worker serves").count(), 2, "{}", sender.stderr());
}
