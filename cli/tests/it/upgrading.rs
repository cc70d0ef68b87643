//! Upgrading tables that are in use.

use crate::adoption::{fresh_schema, schema};
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

/// The tables as version 9 left them.
const BEFORE_VERSION_10: &str = "
    DROP INDEX outbox_events_published;
    CREATE INDEX outbox_events_created ON outbox_events (created_at);
    DELETE FROM outbox_migrations WHERE version = 10";

#[tokio::test]
async fn an_index_of_a_table_in_use_is_built_while_others_write() {
    let test = TestOutbox::new().await;
    let (writer, sql) = (test.sql().await, test.sql().await);
    sql.batch_execute(BEFORE_VERSION_10).await.unwrap();
    let insert = "INSERT INTO outbox_events (id, event_type, source) VALUES (gen_random_uuid(), 't', 's')";
    writer.batch_execute(&format!("BEGIN; {insert}")).await.unwrap();

    let settings = test.settings().write();
    let mut migrating = Running::spawn(&mut test.outbox(&settings, &["migrate"]));
    let builds = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%'
        AND datname = current_database() AND wait_event_type = 'Lock'";
    eventually("the index waits for the older transaction", PATIENCE, async || {
        sql.query_one(builds, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    sql.batch_execute(&format!("SET lock_timeout = '5s'; {insert}")).await.expect("a write waits for no index");
    writer.batch_execute("COMMIT").await.unwrap();

    assert!(migrating.wait_exit(PATIENCE).await.success(), "{}", migrating.stderr());
    assert_eq!(schema(&sql).await, fresh_schema().await);
}

#[tokio::test]
async fn the_plan_of_an_upgrade_names_the_index_and_what_it_costs() {
    let test = TestOutbox::new().await;
    test.sql().await.batch_execute(BEFORE_VERSION_10).await.unwrap();
    let settings = test.settings().write();
    let planned = test.outbox(&settings, &["migrate", "--dry-run"]).output().unwrap();
    let planned = String::from_utf8(planned.stdout).unwrap();
    let build = "CREATE INDEX CONCURRENTLY outbox_events_published ON ";
    let (index, rest) =
        (planned.find(build).unwrap(), planned.find("DROP INDEX IF EXISTS outbox_events_created").unwrap());
    assert!(index < rest && planned.contains("Writes continue."), "{planned}");
}
