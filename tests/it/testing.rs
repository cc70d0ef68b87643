//! What applications have for their tests; `testing_page` has the code of the book's page.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use actix::prelude::*;
use actix_outbox::testing::{Expected, Published, TestOutbox, advance, make_due, run_handler};
use actix_outbox::{NewEvent, OutboxSystem, Status, Subscribe, assert_published};
use diesel::sql_types::BigInt;
use diesel::{Connection, SqliteConnection};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use serde_json::json;

use crate::support::{PATIENCE, eventually, postgres};
use crate::testing_page::{Mailer, UserCreated};

thread_local! {
    /// The database of the test on this thread, until it ends.
    static DATABASE: RefCell<Option<postgres::Database>> = const { RefCell::new(None) };
}

/// A connection to a database of the tests, with the outbox's tables.
pub(crate) async fn connection() -> AsyncPgConnection {
    let database = postgres::database().await;
    let settings = actix_outbox::Settings::from_toml(&format!("[database]\nurl = \"{}\"", database.url)).unwrap();
    actix_outbox::OutboxAdmin::new(&settings).unwrap().migrate(|_| ()).await.unwrap();
    let conn = AsyncPgConnection::establish(&database.url).await.unwrap();
    DATABASE.set(Some(database));
    conn
}

#[test]
fn the_code_of_the_page_is_what_runs() {
    let read = |file: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let (page, code) = (read("docs/testing.md"), read("tests/it/testing_page.rs"));
    let blocks: Vec<&str> = page.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 5);
    for block in blocks {
        assert!(code.contains(block), "not in tests/it/testing_page.rs:\n{block}");
    }
}

/// The message of a panic.
fn message_of(assertion: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let panic = std::panic::catch_unwind(assertion).unwrap_err();
    *panic.downcast::<String>().unwrap()
}

#[actix::test]
async fn a_failed_assertion_lists_what_there_is_and_what_each_event_misses() {
    let test = TestOutbox::sqlite().await.unwrap();
    let mut conn = test.connection::<SyncConnectionWrapper<SqliteConnection>>().await.unwrap();
    for name in ["Ada", "Grace"] {
        let event = NewEvent::new("user.created", "users").partition_key(name).data(json!({"name": name}));
        actix_outbox::publish(&mut conn, event).await.unwrap();
    }
    actix_outbox::publish(&mut conn, NewEvent::new("mail.sent", "mailer").binary(vec![0; 7])).await.unwrap();
    assert_published!(&mut conn, "mail.sent", Expected::new("user.created").key("Ada"));
    let published = test.published().await.unwrap();
    let address = test.settings().database.url.read().unwrap().into_owned();
    let mut plain = SqliteConnection::establish(address.strip_prefix("sqlite://").unwrap()).unwrap();
    assert_eq!(Published::read_blocking(&mut plain).unwrap().events(), published.events());

    let mut all = published.clone();
    let message = message_of(move || {
        all.expect_one(Expected::new("user.created").key("Alan"));
    });
    let expected = "expected 1 published with type = \"user.created\", key = \"Alan\"; found 0
  user.created from users, pending, key \"Ada\", data {\"name\":\"Ada\"}
    does not have: key = \"Alan\"
  user.created from users, pending, key \"Grace\", data {\"name\":\"Grace\"}
    does not have: key = \"Alan\"
  mail.sent from mailer, pending, data 7 bytes
    does not have: type = \"user.created\", key = \"Alan\"
";
    assert_eq!(message, expected);
    let mut all = published.clone();
    let message = message_of(move || {
        all.expect_one("user.created");
    });
    assert!(
        message.starts_with("expected 1 published with type = \"user.created\"; found 2\n  user.created"),
        "{message}"
    );
    let mut all = published.of_source("users");
    let message = message_of(move || {
        all.expect_one(Expected::new("user.created").data("named Ada", |data| data["name"] == "Ada"));
        all.expect_no_more();
    });
    assert!(message.starts_with("expected no more events; found 1\n") && message.contains("Grace"), "{message}");
    test.close().await.unwrap();
}

/// What was scheduled, in the order in which it became due.
async fn due_in_order<C>(conn: &mut C, test: &TestOutbox)
where
    C: AsyncConnection,
    C::Backend: actix_outbox::OutboxDatabase,
{
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    for (subject, delay) in [("third", 3), ("second", 2), ("first", 1), ("tomorrow", 24)] {
        let event = NewEvent::new("report.due", "tests").subject(subject).partition_key("k").scheduled_in(hours(delay));
        actix_outbox::publish(conn, event).await.unwrap();
    }
    advance(conn, hours(3) + Duration::from_secs(1)).await.unwrap();
    let mut events = test.published().await.unwrap().events().to_vec();
    events.sort_by_key(|event| event.scheduled_at);
    let now = events[2].scheduled_at;
    let subjects: Vec<&str> = events.iter().map(|event| event.subject.as_str()).collect();
    assert_eq!(subjects, ["first", "second", "third", "tomorrow"]);
    let left = events[3].scheduled_at - now;
    assert!((20..=21).contains(&left.num_hours()), "{left}");

    let outbox = OutboxSystem::builder(test.settings().clone()).start().await.unwrap();
    make_due(conn).await.unwrap();
    outbox.drained().await;
    let published = test.published().await.unwrap();
    assert!(published.events().iter().all(|event| event.status == Status::Published), "{published:?}");
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn time_passes_on_sqlite() {
    let test = TestOutbox::sqlite().await.unwrap();
    let mut conn = test.connection::<SyncConnectionWrapper<SqliteConnection>>().await.unwrap();
    due_in_order(&mut conn, &test).await;
}

#[actix::test]
async fn time_passes_on_postgres_and_tests_side_by_side_have_a_schema_each() {
    let database = postgres::database().await;
    let (one, other) = (TestOutbox::postgres(&database.url), TestOutbox::postgres(&database.url));
    let (one, other) = (one.await.unwrap(), other.await.unwrap());
    let mut conn = one.connection::<AsyncPgConnection>().await.unwrap();
    due_in_order(&mut conn, &one).await;
    assert_eq!(one.published().await.unwrap().events().len(), 4);
    other.published().await.unwrap().expect_no_more();
    drop(conn);
    for test in [one, other] {
        test.close().await.unwrap();
    }
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'outbox\\_test\\_%'";
    assert_eq!(database.connect().await.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[actix::test]
async fn time_passes_for_what_a_handler_of_another_process_is_owed() {
    let test = TestOutbox::sqlite().await.unwrap();
    let mailer = Subscribe::typed::<UserCreated>("mailer", Mailer.start().recipient());
    let builder = || OutboxSystem::builder(test.settings().clone());
    let application = builder().publish_only(true).subscribe(mailer).start().await.unwrap();
    let service = builder().start().await.unwrap();
    let user = UserCreated { name: "busy".to_owned() };
    let event = service.send(NewEvent::typed("tests", &user).max_retries(2)).await.unwrap();
    let mut conn = test.connection::<SyncConnectionWrapper<SqliteConnection>>().await.unwrap();
    let rejected = "SELECT count(*) FROM outbox_handler_deliveries WHERE attempts = 1";
    eventually("the rejection is recorded", PATIENCE, async || {
        diesel::dsl::sql::<BigInt>(rejected).get_result::<i64>(&mut conn).await.unwrap() == 1
    })
    .await;
    test.advance(Duration::from_secs(3_600)).await.unwrap();
    test.wait_until(event.id, |event| event.status == Status::Failed).await;
    for outbox in [application, service] {
        outbox.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn what_a_handler_refuses_for_good_fails_at_its_first_try_on_sqlite_here_and_elsewhere() {
    for in_another_process in [false, true] {
        let test = TestOutbox::sqlite().await.unwrap();
        let mailer = || Subscribe::typed::<UserCreated>("mailer", Mailer.start().recipient());
        let builder = || OutboxSystem::builder(test.settings().clone());
        let (application, service) = match in_another_process {
            true => (builder().publish_only(true).subscribe(mailer()), builder()),
            false => (builder().publish_only(true), builder().subscribe(mailer())),
        };
        let (application, service) = (application.start().await.unwrap(), service.start().await.unwrap());
        for data in [json!({"name": ""}), json!({"name": 7})] {
            let event = NewEvent::new("user.created", "tests").data(data).max_retries(5);
            let event = application.send(event).await.unwrap();
            let failed = test.wait_until(event.id, |event| event.status == Status::Failed).await;
            let reasons = ["a user without a name", "event field `data.name` does not fit: expected a string"];
            assert!(reasons.iter().any(|reason| failed.last_error.contains(reason)), "{}", failed.last_error);
        }
        for outbox in [application, service] {
            outbox.shutdown().await.unwrap();
        }
    }
}

#[actix::test]
async fn a_handler_is_not_asked_about_events_of_other_types_and_its_stop_is_an_error() {
    let mailer = Subscribe::typed::<UserCreated>("mailer", Mailer.start().recipient());
    let other = NewEvent::new("user.deleted", "tests").preview().unwrap();
    let error = run_handler(&mailer, other).await.unwrap_err();
    assert!(error.is_permanent() && error.reason() == "handler `mailer` is not subscribed to user.deleted", "{error}");
    let broken = NewEvent::new("user.created", "tests").data(json!({"name": 7})).preview().unwrap();
    let error = run_handler(&mailer, broken).await.unwrap_err();
    assert_eq!(error.reason(), "event field `data.name` does not fit: expected a string");
    assert!(NewEvent::new("", "tests").preview().is_err());
}
