//! Old events are deleted by a running worker.

use crate::support::{PATIENCE, eventually, postgres, redis};
use crate::test_outbox::TestOutbox;

/// Rows that have been in this status for 40 days.
async fn insert_old(test: &TestOutbox, status: &str, key: &str, count: i32) {
    let statement = "INSERT INTO outbox_events
            (id, event_type, source, partition_key, status, created_at, updated_at, scheduled_at, published_at)
        SELECT gen_random_uuid(), 'old.' || $1::text, 'tests', $2, $1, t, t, t, CASE WHEN $1 = 'published' THEN t END
        FROM generate_series(1, $3), (SELECT now() - interval '40 days') AS s(t)";
    test.sql().await.execute(statement, &[&status, &key, &count]).await.unwrap();
}

#[tokio::test]
async fn a_delivering_worker_deletes_old_events_except_those_that_block_a_key() {
    let test = TestOutbox::new().await;
    for (status, key, count) in [("published", "", 2_500), ("failed", "", 3), ("failed", "held", 1)] {
        insert_old(&test, status, key, count).await;
    }
    let settings = test.settings().publisher("on_failed = \"hold\"").write();
    let _worker = test.worker(&settings, "worker");
    test.insert(500, 50).await;
    eventually("the old rows are deleted", PATIENCE, async || {
        test.number("SELECT count(*) FROM outbox_events WHERE event_type LIKE 'old.%'").await == 1
    })
    .await;
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE partition_key = 'held'").await, 1);
    eventually("the new ones are delivered", PATIENCE, async || test.length().await == 500).await;
}

#[tokio::test]
async fn published_events_stay_where_the_settings_say_so() {
    let test = TestOutbox::new().await;
    insert_old(&test, "published", "", 10).await;
    insert_old(&test, "failed", "", 10).await;
    let settings = test.settings().worker("[retention]\ncleanup_published = false").write();
    let _worker = test.worker(&settings, "worker");
    eventually("the failed ones are deleted", PATIENCE, async || {
        test.number("SELECT count(*) FROM outbox_events WHERE status = 'failed'").await == 0
    })
    .await;
    assert_eq!(test.published().await, 10);
}

#[tokio::test]
async fn recorded_changes_are_deleted_by_workers_and_by_cleanup() {
    let test = TestOutbox::new().await;
    let settings = test.settings().write();
    let insert = "INSERT INTO outbox_audit (at, who, from_where, action, events, ids, reason)
        SELECT now() - days * interval '1 day', 'ann', '', 'retry', 1, '{}', '' FROM unnest(ARRAY[31, 29]) AS days";
    let recorded = "SELECT count(*) FROM outbox_audit";
    test.sql().await.batch_execute(insert).await.unwrap();
    test.run(&["cleanup"]).await;
    assert_eq!(test.number(recorded).await, 1);
    test.sql().await.batch_execute(insert).await.unwrap();
    let _worker = test.worker(&settings, "worker");
    eventually("the old row is deleted", PATIENCE, async || test.number(recorded).await == 2).await;
}

#[tokio::test]
async fn old_notes_of_the_inbox_are_deleted_by_workers_and_in_another_database_by_cleanup() {
    let insert = "INSERT INTO outbox_inbox (consumer, source, event_id, seq, handled_at)
        SELECT 'mailer', 'tests', days || '-' || n, 0, now() - days * interval '1 day'
        FROM unnest(ARRAY[31, 29]) AS days, generate_series(1, 1100) AS n";
    let noted = "SELECT count(*) FROM outbox_inbox";
    let test = TestOutbox::new().await;
    test.run(&["migrate", "--inbox"]).await;
    test.sql().await.batch_execute(insert).await.unwrap();
    let _worker = test.worker(&test.settings().write(), "worker");
    eventually("the old notes are deleted", PATIENCE, async || test.number(noted).await == 1_100).await;

    let other = TestOutbox::unmigrated(postgres::database().await, redis::url());
    let settings = other.settings().write();
    let without = other.outbox(&settings, &["cleanup", "--inbox"]).output().unwrap();
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(!without.status.success() && said.contains("run `outbox migrate --inbox`"), "{said}");
    other.run(&["migrate", "--inbox"]).await;
    other.sql().await.batch_execute(insert).await.unwrap();
    let cleaned = other.outbox(&settings, &["cleanup", "--inbox"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&cleaned.stdout), "deleted 1100 notes of the inbox\n");
    let shorter = other.settings().worker("[retention]\ninbox_retention_days = 28").write();
    assert!(other.outbox(&shorter, &["cleanup", "--inbox"]).status().unwrap().success());
    assert_eq!(other.number(noted).await, 0);
}
