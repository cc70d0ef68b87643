//! Options, statements that are given up, and missing rights on the outbox's connections.

use crate::error::StoreError;
use crate::event::Status;
use crate::store::conformance::Fixture;
use crate::store::postgres::fixture::PostgresFixture;
use crate::store::postgres::{PostgresStore, Target};
use crate::store::{Action, AuditNote, SchemaStore};
use crate::test_support::{PATIENCE, eventually};

#[tokio::test]
async fn options_with_a_space_reach_the_server() {
    let fixture = PostgresFixture::fresh().await;
    let mut url = url::Url::parse(&fixture.database.url).unwrap();
    url.query_pairs_mut().append_pair("options", "-c work_mem=3MB -c search_path=a+b");
    let client = Target::from_url(url.as_str()).unwrap().in_schema("a").connect().await.unwrap();
    let row = client.query_one("SELECT current_setting('work_mem'), current_setting('search_path')", &[]).await;
    let row = row.unwrap();
    assert_eq!((row.get(0), row.get(1)), ("3MB", "a+b"));
}

#[tokio::test]
async fn a_statement_that_is_given_up_ends_in_the_server_and_changes_nothing() {
    let fixture = PostgresFixture::fresh().await;
    let store = fixture.store();
    let id = uuid::Uuid::now_v7();
    fixture.execute(&format!("INSERT INTO outbox_events (id, event_type, source) VALUES ('{id}', 't', 's')")).await;
    let mut other = fixture.begin().await;
    other.execute("SELECT FROM outbox_events FOR UPDATE").await;
    let fail = Action::Fail { reason: "given up".to_owned() };
    let late = store.change(&fail, &[id], &AuditNote::default()).await.unwrap_err();
    assert!(matches!(late, StoreError::Timeout { .. }), "{late}");
    // It no longer waits for the lock.
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("it is cancelled", PATIENCE, async || fixture.number(waiting).await == 0).await;
    other.commit().await;
    assert_eq!(store.find(id).await.unwrap().unwrap().status, Status::Pending);
}

#[tokio::test]
async fn waiting_does_not_mend_a_missing_privilege() {
    let fixture = PostgresFixture::fresh().await;
    let role = format!("outbox_nobody_{}", uuid::Uuid::new_v4().simple());
    fixture.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'")).await;
    let mut url = url::Url::parse(&fixture.database.url).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("secret")).unwrap();
    let store = PostgresStore::new(Target::from_url(url.as_str()).unwrap(), None).unwrap();
    fixture.execute("DROP TABLE outbox_migrations CASCADE").await;
    let refused = [store.outbox_id().await.unwrap_err(), store.migrate(&|_| ()).await.unwrap_err()];
    drop(store);
    fixture.execute(&format!("DROP ROLE {role}")).await;
    for error in refused {
        assert!(!error.is_transient(), "{error}");
    }
}
