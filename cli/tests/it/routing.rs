//! `[[routes]]`: events that name no backend reach the publisher of their route, once and in order.

use std::collections::HashMap;
use std::path::PathBuf;

use actix_outbox::{NewEvent, OutboxSystem};
use serde_json::Value;
use uuid::Uuid;

use crate::support::process::{Running, Signal};
use crate::support::{PATIENCE, eventually, redis};
use crate::test_outbox::TestOutbox;

/// A default publisher, one for orders, and the routes to it.
fn tables(test: &TestOutbox) -> String {
    let (url, stream) = (test.redis_url(), test.stream_name());
    format!(
        "[publishers.default]\nurl = \"{url}\"\nstream_name = \"{stream}\"\nmax_len = 0\n\
         [publishers.orders]\nurl = \"{url}\"\nstream_name = \"{stream}:orders\"\nmax_len = 0\n\
         [[routes]]\ntype = \"order.audited\"\npublisher = \"default\"\n\
         [[routes]]\ntype = \"order.*\"\npublisher = \"orders\"\n\
         [[routes]]\nextensions = {{ tenant = \"acme*\" }}\npublisher = \"orders\"\n"
    )
}

fn settings(test: &TestOutbox) -> PathBuf {
    test.file(&format!("[database]\nurl = \"{}\"\n{}[worker]\nlease = \"1s\"\n", test.url(), tables(test)))
}

/// Writes events of two types, as other writers do.
async fn insert(test: &TestOutbox, count: i32) {
    let statement = "INSERT INTO outbox_events (id, event_type, source, data, partition_key)
        SELECT gen_random_uuid(), CASE WHEN n % 3 = 0 THEN 'user.made' ELSE 'order.paid' END, 'tests', 'null',
            CASE WHEN n % 5 = 0 THEN '' ELSE 'key-' || n % 17 END
        FROM generate_series(1, $1) n";
    test.sql().await.execute(statement, &[&count]).await.unwrap();
}

/// Asserts that a stream has the events that fit the condition, once each, and those of each key in order.
async fn assert_has(test: &TestOutbox, stream: &str, condition: &str) {
    let sent = redis::event_ids(test.redis_url(), stream).await;
    let places: HashMap<&str, usize> = sent.iter().map(String::as_str).zip(0..).collect();
    assert_eq!(places.len(), sent.len(), "an event is there twice");
    let statement =
        format!("SELECT id::text, partition_key FROM outbox_events WHERE {condition} ORDER BY scheduled_at, seq");
    let rows = test.sql().await.query(&statement, &[]).await.unwrap();
    assert_eq!(rows.len(), sent.len(), "{stream}");
    let mut latest: HashMap<String, usize> = HashMap::new();
    for row in rows {
        let (place, key): (usize, String) = (places[row.get::<_, &str>(0)], row.get(1));
        let earlier = (!key.is_empty()).then(|| latest.insert(key, place)).flatten();
        assert!(earlier.is_none_or(|earlier| earlier < place), "disordered: {row:?}");
    }
}

#[tokio::test]
async fn rows_of_other_writers_are_moved_and_sent_once_and_in_order_though_workers_are_killed() {
    let test = TestOutbox::new().await;
    let settings = settings(&test);
    insert(&test, 3_000).await;
    for round in 0..3 {
        let mut worker = test.worker(&settings, &format!("killed-{round}"));
        let _other = test.worker(&settings, &format!("other-{round}"));
        let before = test.published().await;
        eventually("something is published", PATIENCE, async || test.published().await > before).await;
        worker.signal(Signal::KILL);
        insert(&test, 1_000).await;
    }
    test.drain(&settings).await;
    eventually("all is published", PATIENCE, async || test.unpublished().await == 0).await;
    assert_has(&test, test.stream_name(), "event_type = 'user.made' AND publisher_backend = ''").await;
    let orders = format!("{}:orders", test.stream_name());
    assert_has(&test, &orders, "event_type = 'order.paid' AND publisher_backend = 'orders'").await;
    assert_eq!(test.number("SELECT max(retry_count)::bigint FROM outbox_events").await, 0);
}

#[tokio::test]
async fn workers_that_disagree_about_a_route_send_each_event_once() {
    let test = TestOutbox::new().await;
    let with_routes = settings(&test);
    let without = test.file(&format!(
        "[database]\nurl = \"{}\"\n{}[worker]\nlease = \"1s\"\nbatch_size = 20\n",
        test.url(),
        tables(&test).split("[[routes]]").next().unwrap(),
    ));
    insert(&test, 4_000).await;
    let mut stopped = test.worker(&without, "without routes");
    eventually("it publishes", PATIENCE, async || test.published().await > 100).await;
    stopped.signal(Signal::STOP);
    let _other = test.worker(&with_routes, "with routes");
    let before = test.published().await;
    eventually("the other takes over", PATIENCE, async || test.published().await > before + 500).await;
    stopped.signal(Signal::CONT);
    insert(&test, 4_000).await;
    eventually("all is published", PATIENCE, async || test.unpublished().await == 0).await;
    let moved = test.number("SELECT count(*) FROM outbox_events WHERE publisher_backend = 'orders'").await;
    assert!(moved > 0);
    assert_has(&test, test.stream_name(), "publisher_backend = ''").await;
    assert_has(&test, &format!("{}:orders", test.stream_name()), "publisher_backend = 'orders'").await;
}

#[actix::test]
async fn writers_that_know_the_settings_write_the_routed_name_and_an_own_choice_wins() {
    let test = TestOutbox::new().await;
    let outbox = OutboxSystem::builder(test.system_settings(&tables(&test))).publish_only(true).start().await.unwrap();
    let backend = async |event: NewEvent| outbox.send(event).await.unwrap().publisher_backend;
    assert_eq!(backend(NewEvent::new("order.paid", "s")).await, "orders");
    assert_eq!(backend(NewEvent::new("order.audited", "s")).await, "", "with the default publisher it keeps its lane");
    assert_eq!(backend(NewEvent::new("user.made", "s").extension("tenant", "acme-1")).await, "orders");
    assert_eq!(backend(NewEvent::new("user.made", "s").extension("tenant", "other")).await, "");
    assert_eq!(backend(NewEvent::new("order.paid", "s").backend("default")).await, "default");
    outbox.shutdown().await.unwrap();

    let settings = settings(&test);
    for (arguments, expected) in
        [(&["order.paid"][..], "orders"), (&["order.paid", "--backend", "default"][..], "default")]
    {
        let arguments = [&["publish", "--source", "s"], arguments].concat();
        let mut program = Running::spawn(&mut test.outbox(&settings, &arguments));
        assert!(program.wait_exit(PATIENCE).await.success());
        let id: Uuid = program.stdout().trim().parse().unwrap();
        let stored =
            test.sql().await.query_one("SELECT publisher_backend FROM outbox_events WHERE id = $1", &[&id]).await;
        assert_eq!(stored.unwrap().get::<_, &str>(0), expected);
    }
    let batch = r#"{"specversion": "1.0", "id": "a-1", "type": "order.paid", "source": "s"}"#;
    let path = test.file(batch);
    let mut program = Running::spawn(&mut test.outbox(&settings, &["publish", "--batch", path.to_str().unwrap()]));
    assert!(program.wait_exit(PATIENCE).await.success(), "{}", program.stderr());
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE publisher_backend = 'orders'").await, 4);
}

#[tokio::test]
async fn an_event_that_was_sent_is_never_moved_and_a_repetition_of_a_moved_one_is_known() {
    let test = TestOutbox::new().await;
    let id = Uuid::now_v7();
    let publish = "SELECT outbox_publish('order.paid', 'tests', id => $1)";
    test.sql().await.execute(publish, &[&id]).await.unwrap();
    insert(&test, 30).await;
    // Without routes.
    test.drain(&test.settings().write()).await;
    assert_eq!(test.published().await, 31);
    insert(&test, 3).await;
    let settings = settings(&test);
    test.drain(&settings).await;
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE publisher_backend = 'orders'").await, 2);
    assert_has(&test, test.stream_name(), "publisher_backend = ''").await;

    let id = Uuid::now_v7();
    test.sql().await.execute(publish, &[&id]).await.unwrap();
    test.drain(&settings).await;
    test.sql().await.execute(publish, &[&id]).await.unwrap();
    let other = "SELECT outbox_publish('order.paid', 'tests', id => $1, backend => 'default')";
    assert!(test.sql().await.execute(other, &[&id]).await.is_err(), "it names another backend");
}

#[tokio::test]
async fn a_row_that_another_transaction_holds_keeps_its_key_and_no_other() {
    let test = TestOutbox::new().await;
    let mut sql = test.sql().await;
    let written = "INSERT INTO outbox_events (id, event_type, source, data, partition_key)
        SELECT gen_random_uuid(), 'order.paid', 'tests', 'null', key FROM unnest(ARRAY['a', 'a', 'b', '']) key
        RETURNING id, partition_key";
    let rows = sql.query(written, &[]).await.unwrap();
    let first: Uuid = rows[0].get(0);
    let holder = sql.transaction().await.unwrap();
    holder.execute("SELECT FROM outbox_events WHERE id = $1 FOR UPDATE", &[&first]).await.unwrap();
    let settings = settings(&test);
    let _worker = test.worker(&settings, "worker");
    eventually("the others are published", PATIENCE, async || test.published().await == 2).await;
    let still = "SELECT count(*) FROM outbox_events WHERE partition_key = 'a' AND publisher_backend = ''";
    assert_eq!(test.number(still).await, 2);
    holder.rollback().await.unwrap();
    eventually("all are published", PATIENCE, async || test.published().await == 4).await;
    assert_has(&test, &format!("{}:orders", test.stream_name()), "true").await;
}

#[tokio::test]
async fn a_row_that_the_database_refuses_to_move_keeps_its_key_and_no_other() {
    let test = TestOutbox::new().await;
    insert(&test, 200).await;
    let sql = test.sql().await;
    let statement = "SELECT partition_key FROM outbox_events WHERE event_type = 'order.paid' AND partition_key <> ''
        ORDER BY seq LIMIT 1";
    let key: String = sql.query_one(statement, &[]).await.unwrap().get(0);
    let first =
        format!("(SELECT min(seq) FROM outbox_events WHERE partition_key = '{key}' AND event_type = 'order.paid')");
    sql.batch_execute(&format!(
        "CREATE TABLE refused AS SELECT id FROM outbox_events WHERE seq = {first};
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF EXISTS (SELECT FROM refused WHERE id = NEW.id) THEN RAISE 'not this one'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON outbox_events FOR EACH ROW EXECUTE FUNCTION refuse()"
    ))
    .await
    .unwrap();
    let settings = settings(&test);
    let worker = test.worker(&settings, "worker");
    let others = format!("SELECT count(*) FROM outbox_events WHERE partition_key <> '{key}' AND status <> 'published'");
    eventually("the others are published", PATIENCE, async || test.number(&others).await == 0).await;
    let held = format!(
        "SELECT count(*) FROM outbox_events WHERE partition_key = '{key}' AND event_type = 'order.paid' AND publisher_backend <> ''"
    );
    assert_eq!(test.number(&held).await, 0);
    assert!(worker.stderr().contains("not routed"), "{}", worker.stderr());
    sql.batch_execute("TRUNCATE refused").await.unwrap();
    eventually("all are published", PATIENCE, async || test.unpublished().await == 0).await;
    assert_has(&test, &format!("{}:orders", test.stream_name()), "event_type = 'order.paid'").await;
}

#[tokio::test]
async fn explain_says_which_route() {
    let test = TestOutbox::new().await;
    let settings = settings(&test);
    let sql = test.sql().await;
    let mut ids = Vec::new();
    for (event_type, backend) in [
        ("order.paid", ""),
        ("order.paid", "orders"),
        ("order.paid", "default"),
        ("order.audited", ""),
        ("user.made", ""),
    ] {
        let statement = "SELECT outbox_publish($1, 'tests', backend => $2)";
        ids.push(sql.query_one(statement, &[&event_type, &backend]).await.unwrap().get::<_, Uuid>(0).to_string());
    }
    let explain = async |id: &str| -> Value {
        let mut program = Running::spawn(&mut test.outbox(&settings, &["events", "explain", id, "--format", "json"]));
        program.wait_exit(PATIENCE).await;
        serde_json::from_str(&program.stdout()).unwrap_or_else(|_| panic!("{}", program.stderr()))
    };
    for (id, route, words) in [
        (0, Value::from(2), "Route 2 leads it to publisher \"orders\""),
        (1, Value::from(2), "Route 2 leads such events to publisher \"orders\"."),
        (2, Value::Null, "No worker"),
        (3, Value::from(1), "Route 1 leads such events to publisher \"default\"."),
        (4, Value::Null, "No worker"),
    ] {
        let explanation = explain(&ids[id]).await;
        assert_eq!(explanation["route"], route, "{explanation}");
        let sentence = explanation["sentence"].as_str().unwrap();
        assert!(sentence.to_lowercase().contains(&words.to_lowercase()), "{sentence}");
        assert_eq!(sentence.contains("oute "), !route.is_null(), "{sentence}");
    }
}

#[actix::test]
async fn a_limited_worker_counts_an_event_once_and_sqlite_routes_alike() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let test = TestOutbox::new().await;
    let settings = test.file(&format!("[database]\nurl = \"sqlite://{}\"\n{}", path.display(), tables(&test)));
    let run = async |arguments: &[&str]| {
        let mut program = Running::spawn(&mut test.outbox(&settings, arguments));
        assert!(program.wait_exit(PATIENCE).await.success(), "{arguments:?}: {}", program.stderr());
    };
    run(&["migrate"]).await;
    let written = insert_into_sqlite(&path, 200);
    assert_eq!(written, 200);
    run(&["worker", "--limit", "50"]).await;
    let orders = format!("{}:orders", test.stream_name());
    let sent = async || {
        let mut connection = redis::connect(test.redis_url()).await;
        redis::length(&mut connection, &orders).await + redis::length(&mut connection, test.stream_name()).await
    };
    assert_eq!(sent().await, 50);
    run(&["worker", "--until-empty"]).await;
    assert_eq!(sent().await, 200);
    let numbers: Vec<i64> = redis::entries(test.redis_url(), &orders)
        .await
        .into_iter()
        .map(|entry| serde_json::from_str::<Value>(&entry["cloud_event"]).unwrap()["data"].as_i64().unwrap())
        .collect();
    assert_eq!(numbers.len(), 100);
    assert!(numbers.is_sorted(), "one key, in order: {numbers:?}");
}

/// Writes events of one key through the view, as other languages do; returns how many there are.
fn insert_into_sqlite(path: &std::path::Path, count: usize) -> usize {
    let mut script = String::from("BEGIN;\n");
    for n in 0..count {
        let event_type = if n % 2 == 0 { "order.paid" } else { "user.made" };
        script += &format!(
            "INSERT INTO outbox_publish (event_type, source, data, partition_key) VALUES ('{event_type}', 's', '{n}', 'k');\n"
        );
    }
    script += "COMMIT;\n";
    let program = format!(
        "import sqlite3\nc = sqlite3.connect({:?})\nc.executescript('''{script}''')\nprint(c.execute('SELECT count(*) FROM outbox_events').fetchone()[0])",
        path.to_str().unwrap()
    );
    let output = std::process::Command::new("python3").arg("-c").arg(program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}
