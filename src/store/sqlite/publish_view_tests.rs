//! An INSERT into the view `outbox_publish` is checked, and writes the row that `publish` writes.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, Text};
use uuid::Uuid;

use super::fixture::SqliteFixture;
use super::prepared_tests::row;
use crate::publish::NewEvent;
use crate::publish::random_events::{Given, random_events};
use crate::store::conformance::Fixture;

fn insert(conn: &mut SqliteConnection, id: Uuid, given: &Given) -> QueryResult<usize> {
    let micros = |time: Option<chrono::DateTime<chrono::Utc>>| time.map(|time| time.timestamp_micros());
    let [subject, key, backend, content_type] = &given.texts;
    sql_query(
        "INSERT INTO outbox_publish (id, event_type, source, data, subject, partition_key, backend, data_content_type, \
         scheduled_at, event_time, max_retries, publisher_config, extensions) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind::<Binary, _>(id.as_bytes().as_slice())
    .bind::<Text, _>(&given.event_type)
    .bind::<Text, _>(&given.source)
    .bind::<Nullable<Text>, _>(&given.data)
    .bind::<Text, _>(subject)
    .bind::<Text, _>(key)
    .bind::<Text, _>(backend)
    .bind::<Text, _>(content_type)
    .bind::<Nullable<BigInt>, _>(micros(given.scheduled_at))
    .bind::<Nullable<BigInt>, _>(micros(given.event_time))
    .bind::<Integer, _>(given.max_retries)
    .bind::<Text, _>(given.config.to_string())
    .bind::<Text, _>(given.extensions.to_string())
    .execute(conn)
}

#[tokio::test]
async fn it_writes_the_row_that_publish_writes() {
    let fixture = SqliteFixture::fresh().await;
    let mut conn = fixture.connection();
    for given in random_events(200) {
        let when = if given.scheduled_at.is_some() { "scheduled_at" } else { "scheduled_at - created_at" };
        let stored = crate::blocking::publish(&mut conn, given.event()).unwrap();
        let id = Uuid::now_v7();
        insert(&mut conn, id, &given).unwrap();
        assert_eq!(row(&mut conn, id, when), row(&mut conn, stored.id, when), "{given:?}");
    }
}

#[tokio::test]
async fn what_is_left_out_has_the_defaults_of_publish() {
    let fixture = SqliteFixture::fresh().await;
    let mut conn = fixture.connection();
    let id = |n: u8| Uuid::from_bytes([n; 16]);
    let sql = "INSERT INTO outbox_publish (id, event_type, source) VALUES (x'01010101010101010101010101010101', 't', 's'); \
               INSERT INTO outbox_publish (id, event_type, source, data_binary) \
               VALUES (x'02020202020202020202020202020202', 't', 's', x'00ff'); \
               INSERT INTO outbox_publish (event_type, source, data) VALUES ('t', 's', ' null ')";
    conn.batch_execute(sql).unwrap();
    for (written, event) in [(id(1), NewEvent::new("t", "s")), (id(2), NewEvent::new("t", "s").binary([0, 255]))] {
        let stored = crate::blocking::publish(&mut conn, event).unwrap();
        let when = "scheduled_at - created_at";
        assert_eq!(row(&mut conn, written, when), row(&mut conn, stored.id, when));
    }
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events WHERE data IS NULL AND length(id) = 16").await, 5);
}

#[tokio::test]
async fn an_event_that_breaks_a_rule_is_refused_by_the_name_of_its_field() {
    let fixture = SqliteFixture::fresh().await;
    let mut conn = fixture.connection();
    let long = format!("printf('%0{}d', 0)", 1_048_576);
    for (column, value, field) in [
        ("event_type", "''", "event_type"),
        ("event_type", "NULL", "event_type"),
        ("event_type", "7", "event_type"),
        ("event_type", "printf('%0256d', 0)", "event_type"),
        ("source", "x'61'", "source"),
        ("source", "'a' || char(0) || 'b'", "source"),
        ("subject", "char(159)", "subject"),
        ("subject", "'a' || char(65535)", "subject"),
        ("subject", "char(1114110)", "subject"),
        ("partition_key", "'a' || char(10)", "partition_key"),
        ("backend", "'Orders'", "publisher_backend"),
        ("data_content_type", "printf('%0101d', 0)", "data_content_type"),
        ("data_schema", "'schema.json'", "data_schema"),
        ("data", "'{'", "data"),
        ("data", "x'31'", "data"),
        ("data", long.as_str(), "data"),
        ("data, data_binary", "'1', x'00'", "data"),
        ("data_binary", "'text'", "data_binary"),
        ("publisher_config", "'[]'", "publisher_config"),
        ("publisher_config", "'{\"a\": null}'", "publisher_config"),
        ("publisher_config", "'{'", "publisher_config"),
        ("publisher_config", "'{\"a\": 1, \"seq\": 1}'", "publisher_config.seq"),
        ("extensions", "'[]'", "extensions"),
        ("extensions", "'{\"A\": 1}'", "extensions"),
        ("extensions", "'{\"partitionkey\": \"k\"}'", "extensions"),
        ("extensions", "'{\"a\": 1.5}'", "extensions"),
        ("extensions", "'{\"a\": 2147483648}'", "extensions"),
        ("scheduled_at", "'tomorrow'", "scheduled_at"),
        ("scheduled_at", "253402300800000000", "scheduled_at"),
        ("event_time", "1.5", "time"),
        ("max_retries", "-1", "max_retries"),
        ("id", "'00000000-0000-0000-0000-000000000000'", "id"),
    ] {
        let others = [("event_type", "'t'"), ("source", "'s'")].into_iter().filter(|(name, _)| *name != column);
        let (names, values): (Vec<_>, Vec<_>) = others.chain([(column, value)]).unzip();
        let sql = format!("INSERT INTO outbox_publish ({}) VALUES ({})", names.join(", "), values.join(", "));
        let refused = conn.batch_execute(&sql).map_err(|error| error.to_string()).unwrap_err();
        assert!(refused.starts_with(&format!("event field `{field}` ")), "{column} = {value}: {refused}");
    }
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events").await, 0);
}

#[tokio::test]
async fn the_same_id_again_is_the_same_event_or_refused() {
    let fixture = SqliteFixture::fresh().await;
    let mut conn = fixture.connection();
    let id = Uuid::now_v7();
    let given = Given { data: Some(r#"{"n": 1}"#.to_owned()), ..Given::new() };
    for data in [r#"{"n": 1}"#, r#"{"n":1}"#] {
        insert(&mut conn, id, &Given { data: Some(data.to_owned()), ..given.clone() }).unwrap();
    }
    // To `publish` it is the same event, and the other way round.
    assert_eq!(crate::blocking::publish(&mut conn, given.event().id(id)).unwrap().id, id);
    for other in [
        Given { data: Some("2".to_owned()), ..given.clone() },
        Given { data: None, ..given.clone() },
        Given { source: "x".to_owned(), ..given.clone() },
        Given { max_retries: 4, ..given.clone() },
        Given { extensions: serde_json::json!({"x": 1}), ..given.clone() },
        Given { config: serde_json::json!({"x": 1}), ..given.clone() },
        Given { event_time: Some(chrono::DateTime::UNIX_EPOCH), ..given.clone() },
        Given { scheduled_at: Some(chrono::DateTime::UNIX_EPOCH), ..given.clone() },
    ] {
        let refused = insert(&mut conn, id, &other).unwrap_err().to_string();
        assert!(refused.starts_with("another event with different content"), "{refused}");
    }
    // A route may give it a backend later.
    fixture.execute("UPDATE outbox_events SET publisher_backend = 'b'").await;
    let mut with = |backend: &str| {
        let texts = ["", "", backend, "application/json"].map(str::to_owned);
        insert(&mut conn, id, &Given { texts, ..given.clone() })
    };
    assert!(with("").is_ok() && with("b").is_ok() && with("c").is_err());
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events").await, 1);
}

#[tokio::test]
async fn an_application_s_trigger_publishes_with_it() {
    let fixture = SqliteFixture::fresh().await;
    fixture
        .execute(
            "CREATE TABLE users (name TEXT NOT NULL); \
             CREATE TRIGGER announce AFTER INSERT ON users BEGIN \
             INSERT INTO outbox_publish (event_type, source, data, partition_key) \
             VALUES ('user.created', 'users', json_object('name', NEW.name), NEW.name); END; \
             INSERT INTO users VALUES ('ann'), ('bob')",
        )
        .await;
    let events = "SELECT count(*) FROM outbox_events WHERE data ->> 'name' = partition_key AND seq IS NOT NULL";
    assert_eq!(fixture.number(events).await, 2);
}
