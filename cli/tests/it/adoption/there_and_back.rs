//! An adoption keeps the application working, and can be reverted.

use super::same_entries::settings;
use super::{Adoption, schema};
use crate::test_outbox::TestOutbox;

const DOCUMENT: &str = include_str!("../../../../docs/from-django-broadcaster.md");

/// The table keeps its indexes.
#[tokio::test]
async fn an_adoption_does_not_rewrite_the_table_and_the_second_changes_nothing() {
    const FILE: &str = "SELECT pg_relation_filenode('outbox_events')::bigint";
    const THEIRS: &str = "SELECT count(*) FROM pg_indexes WHERE tablename = 'outbox_events' \
        AND indexname ~ '^outbox_even_|_[0-9a-f]{8}(_like)?$'";
    let adoption = Adoption::new().await;
    let test = &adoption.test;
    adoption.django.call("publish", &["0", "20"]);
    let before = (test.number(FILE).await, test.number(THEIRS).await);
    assert_eq!(before.1, 8);

    let planned = String::from_utf8(adoption.migrate(&["--dry-run"]).stdout).unwrap();
    assert!(planned.contains("ADD COLUMN seq bigint,") && planned.contains("-- Rows written: 20,"), "{planned}");
    assert!(planned.contains("CREATE INDEX CONCURRENTLY outbox_events_due"), "{planned}");
    assert_eq!(test.number("SELECT count(to_regclass('outbox_events_seq'))").await, 0, "a dry run changed something");

    let said = adoption.adopt();
    assert!(
        said.starts_with("adopted django-broadcaster's table: the outbox tables in schema public of postgres://"),
        "{said}"
    );
    assert_eq!((test.number(FILE).await, test.number(THEIRS).await), before);
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE seq IS NULL").await, 0);
    let (sql, outbox) = (test.sql().await, "SELECT id::text FROM outbox_meta");
    let (first, id): (_, String) = (schema(&sql).await, sql.query_one(outbox, &[]).await.unwrap().get(0));
    assert!(adoption.adopt().starts_with("already up to date"));
    assert_eq!(schema(&sql).await, first);
    assert_eq!(sql.query_one(outbox, &[]).await.unwrap().get::<_, String>(0), id);
}

#[tokio::test]
async fn a_table_in_another_schema_is_adopted_there_alone() {
    let adoption = Adoption::new().await;
    let test = &adoption.test;
    adoption.django.call("publish", &["0", "20"]);
    test.sql().await.batch_execute("CREATE SCHEMA shop; ALTER TABLE outbox_events SET SCHEMA shop").await.unwrap();
    test.run(&["migrate"]).await;
    let mut adopt = test.outbox(&test.settings().write(), &["migrate"]);
    let adopted = adopt.env("OUTBOX__DATABASE__SCHEMA", "shop").output().unwrap();
    let said = String::from_utf8_lossy(&adopted.stdout).into_owned();
    assert!(said.starts_with("adopted django-broadcaster's table: the outbox tables in schema shop of"), "{said}");
    assert_eq!(test.number("SELECT count(*) FROM shop.outbox_events WHERE seq IS NOT NULL").await, 20);
    assert_eq!(test.number("SELECT count(*) FROM public.outbox_events").await, 0);
    let tables = |schema: &str| format!("SELECT count(*) FROM pg_tables WHERE schemaname = '{schema}'");
    assert!(test.number(&tables("shop")).await > 8 && test.number(&tables("public")).await > 8);
}

#[tokio::test]
async fn the_documented_way_back_restores_the_table_and_its_worker_runs() {
    const TABLE: &str =
        "SELECT concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull, atthasdef, reloptions)
        FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
        WHERE relname = 'outbox_events' AND attnum > 0 AND NOT attisdropped
        UNION ALL SELECT relname FROM pg_class WHERE relname LIKE 'outbox%'
        UNION ALL SELECT proname FROM pg_proc WHERE proname LIKE 'outbox%'
        UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'outbox_events'::regclass";
    let adoption = Adoption::new().await;
    let sql = adoption.test.sql().await;
    let table = async || {
        let rows = sql.query(TABLE, &[]).await.unwrap();
        let mut lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        lines.sort();
        lines
    };
    let before = table().await;
    adoption.adopt();
    assert_ne!(table().await, before);

    let (_, section) = DOCUMENT.split_once("\n## Going back\n").unwrap();
    let (statements, _) = section.split_once("```sql\n").unwrap().1.split_once("```").unwrap();
    // One by one: an index cannot be dropped concurrently together with other statements.
    for statement in statements.split_inclusive(";").filter(|statement| statement.contains(';')) {
        sql.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    assert_eq!(table().await, before);
    adoption.django.call("publish", &["0", "10"]);
    adoption.django.call("work", &[]);
    assert_eq!(adoption.test.published().await, 10);
}

#[tokio::test]
async fn the_functions_publish_into_an_adopted_table() {
    let adoption = Adoption::new().await;
    adoption.adopt();
    let events = r#"SELECT outbox_publish('t', 's', '{"n": 1}', 'subject', 'key', scheduled_at => '2025-01-01');
        SELECT outbox_publish_cloudevent('{"specversion": "1.0", "id": "1", "type": "t", "source": "s", "data_base64": "AP8="}');
        SELECT outbox_publish_many('[{"specversion": "1.0", "id": "1", "type": "t", "source": "s", "data_base64": "AP8="}]')"#;
    adoption.test.sql().await.batch_execute(events).await.unwrap();
    adoption.test.drain(&settings(&adoption)).await;
    assert_eq!((adoption.test.published().await, adoption.test.length().await), (2, 2));
}

#[tokio::test]
async fn an_application_that_comes_to_the_tables_of_an_outbox_writes_into_them() {
    let adoption = Adoption::beside(TestOutbox::new().await);
    adoption.django.call("migrate_onto_what_is_there", &[]);
    adoption.django.call("publish", &["0", "10"]);
    adoption.test.drain(&settings(&adoption)).await;
    assert_eq!(adoption.test.published().await, 10);
}

#[tokio::test]
async fn a_published_event_set_back_to_pending_is_sent_again_only_if_replayed() {
    let adoption = Adoption::new().await;
    let test = &adoption.test;
    let settings = settings(&adoption);
    // An event published by the application's worker, and one by ours; both of the default backend.
    adoption.django.call("publish", &["0", "1"]);
    adoption.django.call("work", &[]);
    adoption.adopt();
    adoption.django.call("publish", &["3", "4"]);
    test.drain(&settings).await;
    assert_eq!((test.length().await, test.published().await), (2, 2));

    let sql = test.sql().await;
    sql.batch_execute("UPDATE outbox_events SET status = 'pending'").await.unwrap();
    test.drain(&settings).await;
    assert_eq!((test.length().await, test.published().await), (2, 2));

    for row in sql.query("SELECT id::text FROM outbox_events", &[]).await.unwrap() {
        let replayed = test.outbox(&settings, &["events", "replay", row.get(0)]).output().unwrap();
        assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    }
    test.drain(&settings).await;
    assert_eq!((test.length().await, test.published().await), (4, 2));
}
