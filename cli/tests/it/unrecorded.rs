//! Events whose outcome cannot be recorded: refused or locked rows, and a standby that does not confirm.

use actix_outbox::{NewEvent, OutboxSystem};
use rustix::process::Signal;
use tokio_postgres::Client;

use crate::support::postgres::connect;
use crate::support::process::Running;
use crate::support::proxy::{Passage, Proxy};
use crate::support::{PATIENCE, eventually, postgres, redis};
use crate::test_outbox::TestOutbox;

const COUNT: i32 = 2_000;

/// A trigger that refuses updates of events with a subject.
const TRIGGER: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'this row is evidence'; END $$;
    CREATE TRIGGER refuse BEFORE UPDATE ON outbox_events FOR EACH ROW WHEN (OLD.subject <> '')
        EXECUTE FUNCTION refuse()";

async fn marked(test: &TestOutbox) -> Vec<String> {
    let statement = "SELECT id::text FROM outbox_events WHERE subject <> ''";
    let rows = test.sql().await.query(statement, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// An outbox with [`COUNT`] events, `few` of which have a subject.
async fn with_marked(few: i64) -> TestOutbox {
    let test = TestOutbox::new().await;
    test.insert(COUNT, 50).await;
    let mark = "UPDATE outbox_events SET subject = 'marked' WHERE id IN (SELECT id FROM outbox_events LIMIT $1)";
    test.sql().await.execute(mark, &[&few]).await.unwrap();
    test
}

async fn wait_all_but(test: &TestOutbox, few: i64) {
    eventually("the other events are recorded", PATIENCE, async || test.unpublished().await <= few).await;
}

#[tokio::test]
async fn rows_that_may_not_be_updated_hold_no_other_and_are_named() {
    let test = with_marked(2).await;
    test.sql().await.batch_execute(TRIGGER).await.unwrap();
    let settings = test.settings().worker("lease = \"1s\"").write();
    let worker = test.worker(&settings, "worker");
    wait_all_but(&test, 2).await;
    let ids = marked(&test).await;
    eventually("the log names the rows", PATIENCE, async || ids.iter().all(|id| worker.stderr().contains(id))).await;
    assert!(worker.stderr().contains("this row is evidence"));
    eventually("explain names the reason", PATIENCE, async || {
        let explained = test.outbox(&settings, &["events", "explain", &ids[0]]).output().unwrap();
        String::from_utf8_lossy(&explained.stdout).contains("this row is evidence")
    })
    .await;
    // Later events are delivered meanwhile, also those of the rows' keys.
    test.insert(COUNT, 50).await;
    wait_all_but(&test, 2).await;
    assert_eq!(test.length().await, usize::try_from(2 * COUNT).unwrap());
    test.sql().await.batch_execute("DROP TRIGGER refuse ON outbox_events").await.unwrap();
    test.wait_published().await;
    test.assert_delivered().await;
}

#[tokio::test]
async fn a_worker_until_empty_ends_beside_rows_that_cannot_be_recorded_and_names_them() {
    let test = with_marked(3).await;
    test.sql().await.batch_execute(TRIGGER).await.unwrap();
    let settings = test.settings().worker("lease = \"1s\"").write();
    let mut worker = Running::spawn(&mut test.outbox(&settings, &["worker", "--until-empty"]));
    assert_eq!(worker.wait_exit(PATIENCE).await.code(), Some(1), "{}", worker.stderr());
    assert_eq!(test.unpublished().await, 3);
    assert_eq!(test.length().await, usize::try_from(COUNT).unwrap());
    let said = worker.stderr();
    let message = said.lines().last().unwrap();
    assert!(marked(&test).await.iter().all(|id| message.contains(id)) && message.contains("3 of the events"), "{said}");
}

#[actix::test]
async fn a_trigger_that_warns_casts_no_doubt_on_what_was_written() {
    let test = TestOutbox::new().await;
    let warn =
        "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'seen'; RETURN NEW; END $$;
        CREATE TRIGGER warn BEFORE INSERT OR UPDATE ON outbox_events FOR EACH ROW EXECUTE FUNCTION warn()";
    test.sql().await.batch_execute(warn).await.unwrap();
    let worker = test.worker(&test.settings().write(), "worker");
    let outbox = OutboxSystem::builder(test.system_settings("")).publish_only(true).start().await.unwrap();
    outbox.send(NewEvent::new("thing.happened", "tests")).await.unwrap();
    test.insert(100, 5).await;
    test.wait_published().await;
    test.assert_delivered().await;
    assert!(!worker.stderr().contains("synchronous standby"), "{}", worker.stderr());
    outbox.shutdown().await.unwrap();
}

#[tokio::test]
async fn rows_that_cannot_be_recorded_delay_no_shutdown_and_are_not_resent() {
    let test = with_marked(2).await;
    test.sql().await.batch_execute(TRIGGER).await.unwrap();
    let settings = test.settings().worker("shutdown_timeout = \"20s\"").write();
    let mut worker = test.worker(&settings, "first");
    wait_all_but(&test, 2).await;
    eventually("the rows are set aside", PATIENCE, async || worker.stderr().contains("this row is evidence")).await;
    worker.signal(Signal::TERM);
    assert!(worker.wait_exit(PATIENCE).await.success(), "{}", worker.stderr());
    let next = test.worker(&settings, "second");
    eventually("the next worker finds them", PATIENCE, async || next.stderr().contains("this row is evidence")).await;
    test.insert(10, 5).await;
    wait_all_but(&test, 2).await;
    test.sql().await.batch_execute("DROP TRIGGER refuse ON outbox_events").await.unwrap();
    test.wait_published().await;
    test.assert_delivered().await;
}

#[tokio::test]
async fn rows_locked_by_a_transaction_block_no_other_row_and_no_hand_over() {
    let test = with_marked(500).await;
    let holder = test.sql().await;
    holder.batch_execute("BEGIN; SELECT FROM outbox_events WHERE subject <> '' FOR UPDATE").await.unwrap();
    let settings = test.settings().worker("lease = \"2s\"").write();
    let _first = test.worker(&settings, "first");
    wait_all_but(&test, 500).await;
    // All shards have such rows, and half of the shards move to a second worker.
    let _second = test.worker(&settings, "second");
    test.wait_owners(&["first", "second"]).await;
    test.insert(COUNT, 50).await;
    wait_all_but(&test, 500).await;
    holder.batch_execute("COMMIT").await.unwrap();
    test.wait_published().await;
    test.assert_delivered().await;
}

/// A settle that waits for a standby: its process and when it began.
pub(crate) type Waiting = (i32, String);

pub(crate) async fn settle_that_waits(test: &TestOutbox, after: Option<&Waiting>) -> Waiting {
    let statement = "SELECT pid, query_start::text FROM pg_stat_activity
        WHERE wait_event = 'SyncRep' AND (query LIKE '%UPDATE %outbox_events%' OR query LIKE '%DELETE %outbox_events%' OR query LIKE '%outbox_record_accepted%')";
    let sql = test.sql().await;
    let mut found = None;
    eventually("a settle waits for the standby", PATIENCE, async || {
        let rows = sql.query(statement, &[]).await.unwrap();
        found = rows.iter().map(|row| (row.get(0), row.get(1))).find(|waiting| Some(waiting) != after);
        found.is_some()
    })
    .await;
    found.unwrap()
}

pub(crate) async fn sent_entries(test: &TestOutbox) -> usize {
    let mut command = ::redis::cmd("HKEYS");
    command.arg(format!("{{{}}}:outbox", test.stream_name()));
    let fields: Vec<String> = command.query_async(&mut test.redis().await).await.unwrap();
    fields.iter().filter(|field| field.starts_with("sent/")).count()
}

/// Makes commits wait for a synchronous standby of this name, or for none.
async fn set_standby(sql: &Client, name: &str) {
    let setting = format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'");
    for statement in ["SET synchronous_commit = local", &setting, "SELECT pg_reload_conf()"] {
        sql.batch_execute(statement).await.unwrap();
    }
}

const INSERT: &str = "INSERT INTO outbox_events (id, event_type, source)
    SELECT gen_random_uuid(), 't', 's' FROM generate_series(1, 100)";

#[tokio::test]
async fn a_settle_with_a_cancelled_standby_wait_is_repeated_and_waits_again() {
    let server = postgres::Server::start();
    let test = TestOutbox::on(server.database().await, redis::url()).await;
    let _worker = test.worker(&test.settings().write(), "worker");
    test.wait_owners(&["worker"]).await;
    let sql = test.sql().await;
    set_standby(&sql, "missing").await;
    sql.batch_execute(INSERT).await.unwrap();
    let mut waiting = settle_that_waits(&test, None).await;
    for _ in 0..3 {
        assert_ne!(sent_entries(&test).await, 0, "events that no standby has are in the journal");
        // After this it is visible, and not durable.
        let cancelled = sql.query_one("SELECT pg_cancel_backend($1)", &[&waiting.0]).await.unwrap();
        assert!(cancelled.get::<_, bool>(0));
        waiting = settle_that_waits(&test, Some(&waiting)).await;
    }
    assert_ne!(sent_entries(&test).await, 0);
    set_standby(&sql, "").await;
    test.wait_published().await;
    eventually("the journal is empty", PATIENCE, async || sent_entries(&test).await == 0).await;
    test.assert_delivered().await;
}

/// The commit of a settle may wait for a standby forever, so no timeout detects that its reply is lost. The server does.
#[tokio::test]
async fn a_settle_whose_reply_is_lost_is_repeated_though_its_connection_lives() {
    let server = postgres::Server::start();
    let database = server.database().await;
    let (sql, proxy) = (connect(&database.url).await, Proxy::to(server.port()).await);
    let test = TestOutbox::on(database, redis::url()).await.through(proxy.port());
    let mut worker = test.worker(&test.settings().write(), "worker");
    test.wait_owners(&["worker"]).await;
    set_standby(&sql, "missing").await;
    sql.batch_execute(INSERT).await.unwrap();
    settle_that_waits(&test, None).await;
    // Longer than a statement may take: waiting alone is no reason to abandon a settle.
    eventually("the worker logs that it waits", PATIENCE, async || {
        worker.stderr().contains("the database has not answered for 10s")
    })
    .await;
    proxy.set(Passage::LoseReplies);
    set_standby(&sql, "").await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    eventually("the settle is committed", PATIENCE, async || {
        sql.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    proxy.set(Passage::Open);
    eventually("the journal is empty", PATIENCE, async || sent_entries(&test).await == 0).await;
    worker.signal(Signal::TERM);
    assert!(worker.wait_exit(PATIENCE).await.success(), "{}", worker.stderr());
    test.assert_delivered().await;
}
