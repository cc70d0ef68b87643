//! Several outboxes in the schemas of one database, and the schema that a search path names.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use actix_outbox::{NewEvent, OutboxSystem};

use crate::support::pooler::Pooler;
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, postgres, redis};
use crate::test_outbox::{DRAIN, TestOutbox};

const SCHEMA: &str = "OUTBOX__DATABASE__SCHEMA";

/// Three outboxes, and one more that the search path of every connection names.
const TENANTS: [&str; 3] = ["public", "tenant_a", "Tenant \"B\""];
const DECOY: &str = "decoy";

async fn unmigrated() -> TestOutbox {
    TestOutbox::unmigrated(postgres::database().await, redis::url())
}

fn quoted(schema: &str) -> String {
    format!("\"{}\"", schema.replace('"', "\"\""))
}

/// The program in a schema.
fn outbox(test: &TestOutbox, schema: &str, arguments: &[&str]) -> Command {
    let mut command = test.outbox(&test.settings().write(), arguments);
    command.env(SCHEMA, schema);
    command
}

fn text(output: &Output) -> String {
    [&*output.stdout, &output.stderr].map(String::from_utf8_lossy).concat()
}

fn migrate(test: &TestOutbox, schema: &str) -> String {
    let migrated = outbox(test, schema, &["migrate"]).output().unwrap();
    assert!(migrated.status.success(), "{}", text(&migrated));
    text(&migrated)
}

/// A database in which each tenant has an outbox of its own, and all connections would find the decoy.
async fn tenants() -> TestOutbox {
    let test = unmigrated().await;
    let path = format!("CREATE SCHEMA {DECOY}; ALTER DATABASE {} SET search_path = {DECOY}", test.database().name);
    test.sql().await.batch_execute(&path).await.unwrap();
    test.run(&["migrate"]).await;
    for schema in TENANTS {
        let said = migrate(&test, schema);
        assert!(said.contains("created the outbox tables in schema") && said.contains(schema), "{said}");
    }
    test
}

/// Writes events as an application does, as SQL does and as the command line does.
async fn write(test: &TestOutbox, schema: &str) {
    let literal = toml(schema);
    let settings = format!("[database]\nurl = \"{}\"\nschema = {literal}", test.url());
    let settings = actix_outbox::Settings::from_toml(&settings).unwrap();
    let writer = OutboxSystem::builder(settings).publish_only(true).start().await.unwrap();
    for n in 0..50 {
        writer.send(NewEvent::new("thing.happened", "tests").partition_key(format!("key-{}", n % 5))).await.unwrap();
    }
    writer.shutdown().await.unwrap();
    let insert = format!(
        "INSERT INTO {}.outbox_events (id, event_type, source, partition_key)
            SELECT gen_random_uuid(), 'thing.happened', 'tests', 'key-' || n % 5 FROM generate_series(1, 50) n",
        quoted(schema)
    );
    test.sql().await.batch_execute(&insert).await.unwrap();
    let publish = ["publish", "thing.happened", "--source", "tests"];
    let mut publish = Running::spawn(&mut outbox(test, schema, &publish));
    assert!(publish.wait_exit(PATIENCE).await.success(), "{}", publish.stderr());
}

fn toml(schema: &str) -> String {
    format!("'{schema}'")
}

async fn ids(test: &TestOutbox, schema: &str) -> Vec<String> {
    let query = format!("SELECT id::text FROM {}.outbox_events", quoted(schema));
    test.sql().await.query(&query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// All tenants' workers publish into one stream, so that their journals are next to each other.
async fn assert_delivered_apart(test: &TestOutbox) {
    let mut expected = BTreeSet::new();
    for schema in TENANTS {
        let rest = format!("SELECT count(*) FROM {}.outbox_events WHERE status <> 'published'", quoted(schema));
        eventually("the tenant's events are published", DRAIN, async || test.number(&rest).await == 0).await;
        let found = ids(test, schema).await;
        assert_eq!(found.len(), 101, "{schema}");
        expected.extend(found);
    }
    let stream = test.event_ids().await;
    assert_eq!(stream.len(), expected.len());
    assert_eq!(stream.into_iter().collect::<BTreeSet<_>>(), expected);
    assert_eq!(ids(test, DECOY).await, [""; 0]);
    assert_eq!(test.number(&format!("SELECT count(*) FROM {DECOY}.outbox_workers")).await, 0);
}

async fn wait_worker(test: &TestOutbox, schema: &str) {
    let workers = format!("SELECT count(*) FROM {}.outbox_workers", quoted(schema));
    eventually("the tenant has its worker", PATIENCE, async || test.number(&workers).await == 1).await;
}

#[actix::test]
async fn three_outboxes_in_one_database_are_three_outboxes() {
    let test = tenants().await;
    let trigger = outbox(&test, TENANTS[1], &["migrate", "--notify-trigger"]).output().unwrap();
    assert!(trigger.status.success(), "{}", text(&trigger));
    let tables = "SELECT count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        JOIN pg_namespace s ON s.oid = c.relnamespace WHERE t.tgname = 'outbox_events_notify' AND s.nspname = 'tenant_a'
            AND encode(t.tgargs, 'escape') LIKE 'outbox_' || (SELECT replace(id::text, '-', '') FROM tenant_a.outbox_meta) || '%'";
    assert_eq!(test.number(tables).await, 1);
    let mut workers: Vec<Running> =
        TENANTS.iter().map(|schema| Running::spawn(&mut outbox(&test, schema, &["worker"]))).collect();
    for schema in TENANTS {
        wait_worker(&test, schema).await;
        write(&test, schema).await;
    }
    assert_delivered_apart(&test).await;
    let channels = "SELECT count(DISTINCT substring(query, 'LISTEN (outbox_[0-9a-f]*)')) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    eventually("each worker listens to its own outbox", PATIENCE, async || test.number(channels).await == 3).await;
    for worker in &mut workers {
        assert!(worker.is_running(), "{}", worker.stderr());
    }
    let status = outbox(&test, TENANTS[1], &["status", "--format", "json"]).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["schema"], &status["counts"]["published"]), (&"tenant_a".into(), &101.into()));
    let health = outbox(&test, TENANTS[2], &["health"]).output().unwrap();
    assert!(health.status.success() && text(&health).contains(TENANTS[2]), "{}", text(&health));
}

/// Behind a pooler a session's options do not reach the server, and its search path is another client's.
#[actix::test]
async fn a_schema_holds_through_a_pooler_that_ignores_a_connections_options() {
    let test = tenants().await;
    let server = url::Url::parse(test.url()).unwrap().port().unwrap();
    let pooler = Pooler::without_options(server).await;
    let test = test.through(pooler.port());
    let _workers: Vec<Running> =
        TENANTS.iter().map(|schema| Running::spawn(&mut outbox(&test, schema, &["worker"]))).collect();
    for schema in TENANTS {
        write(&test, schema).await;
    }
    assert_delivered_apart(&test).await;
}

#[tokio::test]
async fn a_tenant_whose_schema_comes_first_gets_an_outbox_of_its_own() {
    let test = unmigrated().await;
    test.run(&["migrate"]).await;
    let tenant =
        format!("CREATE SCHEMA tenant; ALTER DATABASE {} SET search_path = tenant, public", test.database().name);
    test.sql().await.batch_execute(&tenant).await.unwrap();

    let settings = test.settings().write();
    for command in [&["health"][..], &["status"], &["worker"]] {
        let refused = test.outbox(&settings, command).output().unwrap();
        let said = text(&refused);
        assert!(refused.status.code() == Some(1), "{command:?}: {said}");
        assert!(said.contains("schema `tenant` of postgres://") && said.contains("are missing"), "{said}");
        assert!(said.contains("schema `public` of the search path has an outbox"), "{said}");
    }
    let migrated = test.outbox(&settings, &["migrate"]).output().unwrap();
    assert!(text(&migrated).starts_with("created the outbox tables in schema tenant of"), "{}", text(&migrated));
    test.insert(10, 2).await;
    test.drain(&settings).await;
    assert_eq!(test.number("SELECT count(*) FROM tenant.outbox_events WHERE status = 'published'").await, 10);
    assert_eq!(test.number("SELECT count(*) FROM public.outbox_events").await, 0);
}

#[tokio::test]
async fn a_schema_that_is_missing_is_named_and_created_by_migrate_alone() {
    let test = unmigrated().await;
    let missing = outbox(&test, "new", &["health"]).output().unwrap();
    assert!(missing.status.code() == Some(1) && text(&missing).contains("schema `new` of"), "{}", text(&missing));
    let planned = outbox(&test, "new", &["migrate", "--dry-run"]).output().unwrap();
    assert!(text(&planned).starts_with("CREATE SCHEMA \"new\";\n"), "{}", text(&planned));
    assert_eq!(test.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'new'").await, 0);
    migrate(&test, "new");
    assert!(migrate(&test, "new").starts_with("already up to date"), "it is migrated");

    test.sql().await.batch_execute("DROP SCHEMA new CASCADE").await.unwrap();
    test.sql().await.batch_execute(&text(&planned)).await.unwrap();
    assert_eq!(test.number("SELECT count(*) FROM new.outbox_meta").await, 1);
}

#[tokio::test]
async fn a_search_path_without_a_schema_is_named() {
    let test = unmigrated().await;
    let path = format!("ALTER DATABASE {} SET search_path = nowhere", test.database().name);
    test.sql().await.batch_execute(&path).await.unwrap();
    for command in ["migrate", "health", "worker"] {
        let refused = test.outbox(&test.settings().write(), &[command]).output().unwrap();
        let said = text(&refused);
        assert!(refused.status.code() == Some(1) && said.contains("set `database.schema`"), "{command}: {said}");
    }
}

#[tokio::test]
async fn a_schema_that_was_renamed_is_out_of_date_until_it_is_migrated() {
    let test = unmigrated().await;
    migrate(&test, "before");
    let rename =
        format!("ALTER SCHEMA before RENAME TO after; ALTER DATABASE {} SET search_path = after", test.database().name);
    test.sql().await.batch_execute(&rename).await.unwrap();
    let worker = outbox(&test, "after", &["worker"]).output().unwrap();
    assert!(worker.status.code() == Some(1) && text(&worker).contains("are out of date"), "{}", text(&worker));
    assert!(migrate(&test, "after").starts_with("upgraded"), "the functions are placed");
    assert!(migrate(&test, "after").starts_with("already up to date"), "once");
    test.sql()
        .await
        .batch_execute(
            "SELECT outbox_publish('t', 's', backend => 'nowhere'); SELECT outbox_wake(); \
        DELETE FROM outbox_events",
        )
        .await
        .unwrap();
    let seq = "SELECT outbox_publish('t', 's', publisher_config => '{\"seq\": 1}')";
    let refused = test.sql().await.batch_execute(seq).await.unwrap_err();
    assert!(
        refused.as_db_error().unwrap().message().contains("publisher_config.seq"),
        "the latest functions: {refused}"
    );
    test.insert(10, 2).await;
    test.run(&["events", "fail", &ids(&test, "after").await[0], "--reason", "no"]).await;
    test.drain(&test.settings().write()).await;
    assert_eq!(test.published().await, 9);
}
