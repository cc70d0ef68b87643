//! The inbox's table as the program makes it, and the consumer in Python of docs/inbox.md, as in the text.

use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::prelude::*;
use actix_outbox::inbox::{self, Handled};
use actix_outbox::{EventTypes, HandleEvent, HandlerError, NewEvent, OutboxSystem, Subscribe};
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};

use crate::actors::{QUICK_RETRIES, wait_status};
use crate::python::interpreter;
use crate::support::process::{Running, Signal};
use crate::support::proxy::{Passage, Proxy};
use crate::support::{PATIENCE, eventually, postgres, redis};
use crate::test_outbox::TestOutbox;

const CHAPTER: &str = include_str!("../../../docs/inbox.md");

const GROUP: &str = "mailer";

/// How long the consumer leaves an entry to the consumer that read it.
const LEFT_AFTER: &str = "60000";

/// Events that the consumer reads in one call.
const AT_ONCE: i64 = 100;

async fn without_outbox() -> TestOutbox {
    TestOutbox::unmigrated(postgres::database().await, redis::url())
}

fn run(test: &TestOutbox, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = test.outbox(&test.settings().write(), arguments);
    command.envs(environment.iter().copied()).output().unwrap()
}

/// What the program prints on success.
fn said(test: &TestOutbox, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let output = run(test, arguments, environment);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every relation outside of the system's schemas, with its schema.
async fn relations(test: &TestOutbox) -> Vec<String> {
    let find = "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1";
    test.sql().await.query(find, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn the_program_makes_the_inbox_alone_in_a_database_of_its_own() {
    let test = without_outbox().await;
    let planned = said(&test, &["migrate", "--inbox", "--dry-run"], &[]);
    assert!(planned.contains("CREATE TABLE IF NOT EXISTS outbox_inbox"), "{planned}");
    assert_eq!(relations(&test).await, [""; 0]);
    let first = said(&test, &["migrate", "--inbox"], &[]);
    assert!(first.starts_with("created the inbox in schema public of postgres"), "{first}");
    let made = ["public.outbox_inbox", "public.outbox_inbox_handled_at", "public.outbox_inbox_pkey"];
    assert_eq!(relations(&test).await, made);
    let second = said(&test, &["migrate", "--inbox"], &[]);
    assert!(second.starts_with("already there: the inbox in schema public"), "{second}");
    assert_eq!(said(&test, &["migrate", "--inbox", "--dry-run"], &[]), "");
    // The statements that are printed make the same table.
    let other = without_outbox().await;
    other.sql().await.batch_execute(&planned).await.unwrap();
    assert_eq!(relations(&other).await, made);
    assert!(said(&other, &["migrate", "--inbox"], &[]).starts_with("already there"));
}

#[tokio::test]
async fn the_inbox_is_made_in_the_schema_of_the_settings_and_next_to_an_outbox() {
    let test = TestOutbox::new().await;
    let schema = [("OUTBOX__DATABASE__SCHEMA", "Billing")];
    said(&test, &["migrate", "--inbox"], &schema);
    let found = relations(&test).await;
    assert!(found.contains(&"Billing.outbox_inbox".to_owned()), "{found:?}");
    assert!(!found.contains(&"public.outbox_inbox".to_owned()), "{found:?}");
    assert_eq!(found.iter().filter(|name| name.starts_with("Billing.")).count(), 3);
    said(&test, &["migrate", "--inbox"], &[]);
    for unconcerned in [&["migrate"][..], &["status"], &["health"], &["cleanup"]] {
        let output = run(&test, unconcerned, &[]);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success() && !text.contains("inbox"), "{unconcerned:?}: {text}");
    }
    test.insert(10, 2).await;
    test.drain(&test.settings().write()).await;
}

#[tokio::test]
async fn the_program_makes_the_inbox_in_a_file_of_sqlite() {
    let test = without_outbox().await;
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("consumer.db").display());
    let inbox = ["migrate", "--inbox", "--database-url", &url];
    assert_eq!(said(&test, &inbox, &[]), format!("created the inbox in {url}\n"));
    assert_eq!(said(&test, &inbox, &[]), format!("already there: the inbox in {url}\n"));
    assert_eq!(said(&test, &["cleanup", "--inbox", "--database-url", &url], &[]), "deleted 0 notes of the inbox\n");
    let outbox = said(&test, &["migrate", "--database-url", &url], &[]);
    assert!(outbox.starts_with("created the outbox tables"), "{outbox}");
    let conflict = run(&test, &["migrate", "--inbox", "--notify-trigger"], &[]);
    assert_eq!(conflict.status.code(), Some(2));
}

fn program() -> &'static str {
    let code = CHAPTER.split("```python\n").nth(1).unwrap();
    code.split("```").next().unwrap()
}

#[test]
fn the_chapters_consumer_has_forty_lines_at_most() {
    assert!(program().lines().count() <= 40);
}

/// A stream with events that a worker delivered, and a database of the consumer's own.
struct Mail {
    test: TestOutbox,
    database: postgres::Database,
}

impl Mail {
    async fn delivered(events: i32) -> Self {
        let test = TestOutbox::new().await;
        test.insert(events, 20).await;
        test.drain(&test.settings().write()).await;
        let database = postgres::database().await;
        said(&test, &["migrate", "--inbox", "--database-url", &database.url], &[]);
        database.connect().await.batch_execute("CREATE TABLE mails (event_id text)").await.unwrap();
        Self { test, database }
    }

    fn consumer(&self, name: &str, redis_url: &str) -> Running {
        let mut command = Command::new(interpreter("inbox", &["redis==8.1.0", "psycopg[binary]==3.3.9"]));
        command.arg("-c").arg(program()).args([self.test.stream_name(), GROUP, name]);
        Running::spawn(command.env("REDIS_URL", redis_url).env("DATABASE_URL", &self.database.url))
    }

    async fn number(&self, query: &str) -> i64 {
        self.database.connect().await.query_one(query, &[]).await.unwrap().get(0)
    }

    /// The number of entries that were read and not acknowledged.
    async fn unacknowledged(&self) -> i64 {
        let mut redis = self.test.redis().await;
        let mut ask = ::redis::cmd("XPENDING");
        ask.arg(self.test.stream_name()).arg(GROUP);
        let (count, ..): (i64, Option<String>, Option<String>, ::redis::Value) =
            ask.query_async(&mut redis).await.unwrap();
        count
    }

    /// Waits until other consumers may claim what this one has read.
    async fn let_time_pass(&self, name: &str) {
        let mut redis = self.test.redis().await;
        let mut ask = ::redis::cmd("XPENDING");
        ask.arg(self.test.stream_name()).arg(GROUP).arg("-").arg("+").arg(1_000).arg(name);
        let taken: Vec<(String, String, i64, i64)> = ask.query_async(&mut redis).await.unwrap();
        let entries: Vec<&String> = taken.iter().map(|(entry, ..)| entry).collect();
        let mut claim = ::redis::cmd("XCLAIM");
        claim.arg(self.test.stream_name()).arg(GROUP).arg(name).arg(0).arg(entries);
        let _: Vec<String> = claim.arg("IDLE").arg(LEFT_AFTER).arg("JUSTID").query_async(&mut redis).await.unwrap();
    }

    /// Waits until all events are acknowledged; each had its effect once.
    async fn assert_handled_once(&self, consumer: &mut Running, events: i64) {
        eventually("every event is handled and acknowledged", PATIENCE, async || {
            assert!(consumer.is_running(), "{}", consumer.stderr());
            self.number("SELECT count(*) FROM mails").await >= events && self.unacknowledged().await == 0
        })
        .await;
        let all = self.number("SELECT count(*) FROM mails").await;
        assert_eq!(all, events);
        assert_eq!(self.number("SELECT count(DISTINCT event_id) FROM mails").await, events);
        assert_eq!(self.number("SELECT count(*) FROM outbox_inbox").await, events);
    }
}

#[tokio::test]
async fn the_chapters_consumer_handles_once_what_was_not_acknowledged() {
    let mail = Mail::delivered(200).await;
    let mut url = url::Url::parse(mail.test.redis_url()).unwrap();
    let proxy = Proxy::to(url.port().unwrap()).await;
    url.set_port(Some(proxy.port())).unwrap();
    // It reads entries, and waits with its first note until its acknowledgements do not arrive.
    let mut holder = mail.database.connect().await;
    let lock = holder.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE outbox_inbox").await.unwrap();
    let mut killed = mail.consumer("killed", url.as_str());
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("it has read and waits", PATIENCE, async || {
        assert!(killed.is_running(), "{}", killed.stderr());
        mail.number(waits).await == 1
    })
    .await;
    proxy.set(Passage::HoldRequests);
    lock.commit().await.unwrap();
    eventually("it acknowledges", PATIENCE, async || proxy.held() > 0).await;
    killed.signal(Signal::KILL);
    killed.wait_exit(PATIENCE).await;
    drop(proxy);
    assert_eq!(mail.number("SELECT count(*) FROM mails").await, 1, "it had committed one event");
    assert_eq!(mail.unacknowledged().await, AT_ONCE);
    mail.let_time_pass("killed").await;
    let mut successor = mail.consumer("successor", mail.test.redis_url());
    mail.assert_handled_once(&mut successor, 200).await;
}

/// A handler whose answer is an error although its transaction has committed, the first time.
struct Forgetful {
    url: String,
    calls: Arc<AtomicUsize>,
}

impl Actor for Forgetful {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Forgetful {
    type Result = ResponseFuture<Result<(), HandlerError>>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        let (url, calls) = (self.url.clone(), Arc::clone(&self.calls));
        Box::pin(async move {
            let mut conn = AsyncPgConnection::establish(&url).await?;
            let handled = conn
                .transaction::<_, HandlerError, _>(async |conn| {
                    inbox::handle(conn, &message, async |conn| {
                        let insert = format!("INSERT INTO mails VALUES ('{}')", message.event.id);
                        Ok(conn.batch_execute(&insert).await?)
                    })
                    .await
                })
                .await?;
            calls.fetch_add(1, Ordering::SeqCst);
            match handled {
                Handled::Done(()) => Err("the answer is lost".into()),
                Handled::Skipped => Ok(()),
            }
        })
    }
}

#[actix::test]
async fn each_handler_of_an_event_has_its_effect_once_and_a_replay_again() {
    let test = TestOutbox::new().await;
    let database = postgres::database().await;
    said(&test, &["migrate", "--inbox", "--database-url", &database.url], &[]);
    let sql = database.connect().await;
    sql.batch_execute("CREATE TABLE mails (event_id text)").await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let tables = format!("[publishers.default]\n{}[worker]\n{QUICK_RETRIES}\n", test.stream());
    let mut builder = OutboxSystem::builder(test.system_settings(&tables));
    for name in ["mailer", "biller"] {
        let handler = Forgetful { url: database.url.clone(), calls: Arc::clone(&calls) }.start();
        builder = builder.subscribe(Subscribe::new(name, EventTypes::All, handler.recipient()));
    }
    let outbox = builder.start().await.unwrap();
    let event = NewEvent::new("thing.happened", "tests").subject("a").cloud_event_id("A-1");
    let stored = outbox.send(event).await.unwrap();
    wait_status(&test.sql().await, "a", "published").await;
    assert_eq!(calls.load(Ordering::SeqCst), 4, "each handler received it twice");
    let noted =
        "SELECT string_agg(concat_ws(' ', consumer, source, event_id), ', ' ORDER BY consumer) FROM outbox_inbox";
    let text: String = sql.query_one(noted, &[]).await.unwrap().get(0);
    assert_eq!(text, "biller tests A-1, mailer tests A-1");
    let mails = async || sql.query_one("SELECT count(*) FROM mails", &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(mails().await, 2);
    said(&test, &["events", "replay", &stored.id.to_string()], &[]);
    eventually("the replay has its effect", PATIENCE, async || mails().await == 4).await;
    wait_status(&test.sql().await, "a", "published").await;
    assert_eq!((mails().await, calls.load(Ordering::SeqCst)), (4, 8));
    outbox.shutdown().await.unwrap();
}
