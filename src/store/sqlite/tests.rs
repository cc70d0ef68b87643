//! Tests of SQLite only: one file, one writer, and the creation of the file.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use uuid::Uuid;

use super::SqliteStore;
use super::connection::{Connection, Location};
use super::fixture::SqliteFixture;
use crate::error::StoreError;
use crate::store::conformance::Fixture;
use crate::store::{Care, DispatchStore, Heartbeat, SchemaStore, UnrecordedEvents};

fn heartbeat() -> Heartbeat {
    Heartbeat {
        worker: Uuid::now_v7(),
        name: "test".to_owned(),
        backends: "{}".to_owned(),
        handlers: "[]".to_owned(),
        lanes: Vec::new(),
        held: Vec::new(),
        extends: true,
        lease: Duration::from_secs(5),
    }
}

#[tokio::test]
async fn a_heartbeat_that_meets_another_writer_says_so_soon_and_passes_later() {
    let fixture = SqliteFixture::fresh().await;
    let mut leases = fixture.store().leases();
    let writer = fixture.begin().await;
    let error = leases.beat(&heartbeat()).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    writer.commit().await;
    leases.beat(&heartbeat()).await.unwrap();
}

#[tokio::test]
async fn reading_goes_on_while_another_writes() {
    let fixture = SqliteFixture::fresh().await;
    let mut writer = fixture.begin().await;
    writer.execute("INSERT INTO outbox_events (id, event_type, source) VALUES (randomblob(16), 't', 's')").await;
    assert!(!fixture.store().has_due(&["".into()], &[], &UnrecordedEvents::default()).await.unwrap());
    writer.commit().await;
    assert!(fixture.store().has_due(&["".into()], &[], &UnrecordedEvents::default()).await.unwrap());
}

#[tokio::test]
async fn only_migrating_makes_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("outbox.db");
    let store = SqliteStore::connect(&format!("sqlite://{}", file.display())).unwrap();
    let error = store.settle_published(&[], Care::Usual).await.unwrap_err();
    assert!(matches!(error, StoreError::NotMigrated { state: "missing", .. }), "{error:?}");
    store.plan_migration().await.unwrap();
    assert!(!file.exists());
    store.migrate(&|_| ()).await.unwrap();
    assert!(file.exists());
}

#[tokio::test]
async fn a_file_that_cannot_be_a_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (file, reason) in
        [(folder.path().join("none").join("outbox.db"), "No such file"), (folder.path().to_owned(), "is a directory")]
    {
        let store = SqliteStore::connect(&format!("sqlite://{}", file.display())).unwrap();
        let error = store.migrate(&|_| ()).await.unwrap_err();
        assert!(matches!(&error, StoreError::NoAccess { .. }) && error.to_string().contains(reason), "{error:?}");
    }
}

#[tokio::test]
async fn cancelled_work_completes_and_a_panic_leaves_the_connection_usable() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::parse(&format!("sqlite:{}", folder.path().join("a.db").display())).unwrap();
    let connection = Connection::new(&location, Duration::from_secs(1));
    let (started, has_started) = tokio::sync::oneshot::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel();
    let create = connection.run_in_any_file("create", move |connection| {
        started.send(()).unwrap();
        may_go_on.recv().unwrap();
        connection.batch_execute("CREATE TABLE t (a)").unwrap();
        Ok::<_, StoreError>(())
    });
    tokio::select! {
        biased;
        _ = create => panic!("it is still at work"),
        _ = has_started => {}
    }
    go_on.send(()).unwrap();
    let panicked = connection.run("panic", |connection| -> diesel::QueryResult<()> {
        connection.batch_execute("BEGIN IMMEDIATE")?;
        panic!("on purpose")
    });
    assert!(!panicked.await.unwrap_err().is_transient());
    connection.run("insert", |connection| connection.batch_execute("INSERT INTO t VALUES (1)")).await.unwrap();
}

#[tokio::test]
async fn ids_and_times_that_no_worker_could_read_are_refused_when_written() {
    let fixture = SqliteFixture::fresh().await;
    for columns in ["(id, scheduled_at) VALUES ('text', 1", "(id, scheduled_at) VALUES (randomblob(16), '2025-01-01'"] {
        let statement = columns.replacen(')', ", event_type, source)", 1) + ", 't', 's')";
        let refused = fixture.connection().batch_execute(&format!("INSERT INTO outbox_events {statement}"));
        assert!(refused.unwrap_err().to_string().contains("CHECK"));
    }
}

#[tokio::test]
async fn an_event_that_a_trigger_refuses_is_identified_without_writing_any() {
    let fixture = SqliteFixture::fresh().await;
    fixture
        .execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON outbox_events WHEN NEW.subject = 'bad' \
             BEGIN SELECT RAISE(ABORT, 'not on a Sunday'); END",
        )
        .await;
    let event = |subject: &str| crate::publish::NewEvent::new("t", "s").subject(subject);
    let store = fixture.store();
    let refusal = store.refusal(vec![event("good"), event("bad")]).await.unwrap();
    assert!(!refusal.is_transient() && refusal.to_string().contains("not on a Sunday"), "{refusal}");
    assert!(store.refusal(vec![event("good")]).await.is_none());
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events").await, 0);
}

#[cfg(unix)]
#[tokio::test]
async fn a_new_file_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let store = SqliteStore::connect(&format!("sqlite://{}", path.display())).unwrap();
    store.migrate(&|_| ()).await.unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "{:?}", file.file_name());
    }
}
