//! Moving an outbox to another server, as docs/postgres.md says.

use crate::support::postgres::{self, Server};
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, redis};
use crate::test_outbox::{DRAIN, TestOutbox};

const DOCUMENT: &str = include_str!("../../../docs/postgres.md");

/// The statements of the chapter: for the publication, the subscription, the copying, the sequences, and the end.
fn documented() -> [&'static str; 5] {
    let chapter = DOCUMENT.split("\n## Moving to another server").nth(1).unwrap().split("\n## ").next().unwrap();
    let blocks = chapter.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.collect::<Vec<_>>().try_into().unwrap()
}

/// The worker and the commands work in the schema `outbox`, which the connections of the tests find, too.
async fn prepare(test: &TestOutbox) {
    let path = "ALTER ROLE current_user SET search_path = outbox";
    test.sql().await.batch_execute(path).await.unwrap();
    let mut migrate = test.outbox(&test.settings().write(), &["migrate"]);
    let migrated = migrate.env("OUTBOX__DATABASE__SCHEMA", "outbox").output().unwrap();
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
}

#[tokio::test]
async fn an_outbox_moved_by_logical_replication_loses_nothing_and_repeats_nothing() {
    if postgres::major_version() < 15 {
        return;
    }
    let [publish, subscribe, uncopied, sequences, end] = documented();
    let logical = || Server::start_with(&[("wal_level", "logical")]);
    let (old, new) = (logical(), logical());
    let test = TestOutbox::unmigrated(old.database().await, redis::url());
    prepare(&test).await;
    test.insert(2_000, 50).await;
    let old_sql = test.sql().await;
    old_sql.batch_execute(publish).await.unwrap();
    let mut worker = test.worker(&test.settings().worker("batch_size = 20").write(), "old");

    let name = test.database().name.clone();
    postgres::connect(&new.url("postgres")).await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let moved = test.through(new.port());
    prepare(&moved).await;
    let new_sql = moved.sql().await;
    let source = format!("host=127.0.0.1 port={} dbname={name} user=outbox", old.port());
    for statement in subscribe.replace("host=old dbname=app", &source).split_inclusive(";\n") {
        new_sql.batch_execute(statement).await.unwrap();
    }
    eventually("the tables are copied", DRAIN, async || moved.number(uncopied).await == 0).await;

    // Killed amid its work: some events are sent and not recorded.
    moved.wait_length(200).await;
    worker.kill();
    let row = old_sql.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap();
    let reached =
        format!("SELECT count(*) FROM pg_stat_subscription WHERE latest_end_lsn >= '{}'", row.get::<_, String>(0));
    eventually("the new database has caught up", PATIENCE, async || moved.number(&reached).await > 0).await;
    for row in old_sql.query(sequences, &[]).await.unwrap() {
        new_sql.batch_execute(row.get(0)).await.unwrap();
    }
    new_sql.batch_execute(end).await.unwrap();

    let later = "SELECT (nextval('outbox_events_seq') > max(seq))::int::bigint FROM outbox_events";
    assert_eq!(moved.number(later).await, 1);
    let health = moved.outbox(&moved.settings().write(), &["health"]).output().unwrap();
    assert!(health.status.success(), "{}", String::from_utf8_lossy(&health.stdout));
    let _worker: Running = moved.worker(&moved.settings().write(), "new");
    moved.insert(100, 50).await;
    moved.wait_published().await;
    moved.assert_delivered().await;
}

#[tokio::test]
async fn every_table_has_a_key_for_replication() {
    let test = TestOutbox::new().await;
    let keyless = "SELECT coalesce(string_agg(c.relname, ', '), '') FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
        WHERE s.nspname = current_schema() AND c.relkind IN ('r', 'p') AND NOT EXISTS (
            SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND c.relreplident = 'd' OR i.indisreplident)";
    let keyless: String = test.sql().await.query_one(keyless, &[]).await.unwrap().get(0);
    assert_eq!(keyless, "");
}
