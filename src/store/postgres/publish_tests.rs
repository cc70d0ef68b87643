//! The SQL functions that publish: the same rules and the same row as `publish`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel_async::{AsyncConnection, AsyncPgConnection};
use serde_json::json;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::fixture::PostgresFixture;
use crate::cloud_event::derived_id;
use crate::error::{InvalidEvent, PublishError};
use crate::publish::random_events::{Given, random_events};
use crate::publish::{Dialect, NewEvent};
use crate::store::conformance::Fixture;

impl Given {
    async fn publish(&self, client: &Client) -> Result<Uuid, Error> {
        let [subject, key, backend, content_type] = &self.texts;
        let time = |time: Option<DateTime<Utc>>| time.map(|time| time.to_rfc3339());
        let sql = "SELECT outbox_publish($1, $2, $3::text::jsonb, $4, $5, $6, $7::text::timestamptz, $8, $9::text::jsonb, \
                   $10::text::jsonb, data_content_type => $11, event_time => $12::text::timestamptz)";
        let row = client
            .query_one(
                sql,
                &[
                    &self.event_type,
                    &self.source,
                    &self.data,
                    subject,
                    key,
                    backend,
                    &time(self.scheduled_at),
                    &self.max_retries,
                    &self.config.to_string(),
                    &self.extensions.to_string(),
                    content_type,
                    &time(self.event_time),
                ],
            )
            .await?;
        row.try_get(0)
    }
}

async fn connect(fixture: &PostgresFixture) -> (Client, AsyncPgConnection) {
    (fixture.database.connect().await, AsyncPgConnection::establish(&fixture.database.url).await.unwrap())
}

/// The row, without what differs between two events that are published one after the other.
async fn row(client: &Client, id: Uuid, without: &[&str]) -> String {
    let sql = "SELECT (to_jsonb(e) - $2::text[])::text || e.data::text FROM outbox_events e WHERE id = $1";
    let all = "SELECT (to_jsonb(e) - $2::text[])::text FROM outbox_events e WHERE id = $1";
    let sql = if without.is_empty() { sql } else { all };
    client.query_one(sql, &[&id, &without]).await.unwrap().get(0)
}

const OWN: [&str; 5] = ["id", "seq", "created_at", "updated_at", "scheduled_at"];

#[tokio::test]
async fn each_door_writes_the_same_row() {
    let fixture = PostgresFixture::fresh().await;
    let (client, mut conn) = connect(&fixture).await;
    for (n, given) in random_events(200).into_iter().enumerate() {
        let without = if given.scheduled_at.is_some() { &OWN[..4] } else { &OWN };
        let stored =
            crate::publish(&mut conn, given.event()).await.unwrap_or_else(|error| panic!("{error}: {given:?}"));
        let id = given.publish(&client).await.unwrap_or_else(|error| panic!("{error:?}: {given:?}"));
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(row(&client, id, without).await, row(&client, stored.id, without).await, "{given:?}");
        let prepared = given.event().prepare().unwrap();
        let params: Vec<_> = prepared.params().iter().map(|text| text as &(dyn ToSql + Sync)).collect();
        assert_eq!(client.execute(prepared.sql(Dialect::Postgres), &params).await.unwrap(), 1);
        assert_eq!(row(&client, prepared.id(), without).await, row(&client, stored.id, without).await, "{given:?}");
        let text = given.cloud_event(&format!("No. {n}"));
        let event = NewEvent::from_cloud_event_json(&text).unwrap().backend(&given.texts[2]);
        let stored = crate::publish(&mut conn, event).await.unwrap();
        let rust = row(&client, stored.id, &OWN[1..]).await;
        client.execute("DELETE FROM outbox_events WHERE id = $1", &[&stored.id]).await.unwrap();
        let sql = "SELECT outbox_publish_cloudevent($1::text::jsonb, $2)";
        let id: Uuid = client.query_one(sql, &[&text, &given.texts[2]]).await.unwrap().get(0);
        assert_eq!((id, row(&client, id, &OWN[1..]).await), (stored.id, rust), "{text}");
    }
}

#[tokio::test]
async fn ids_are_derived_as_in_rust() {
    let fixture = PostgresFixture::fresh().await;
    let client = fixture.database.connect().await;
    // Around the ends of blocks of 64 bytes, of which the name has 17.
    for length in (0..140).chain([255]) {
        let (source, id) = ("é".repeat(length / 2 + 1), "x".repeat(length));
        let derived: Uuid = client.query_one("SELECT outbox_derived_id($1, $2)", &[&source, &id]).await.unwrap().get(0);
        assert_eq!(derived, derived_id(&source, &id), "{length}");
    }
}

/// The server's message and SQLSTATE.
fn refusal(error: &Error) -> (String, SqlState) {
    let error = error.as_db_error().unwrap();
    (error.message().to_owned(), error.code().clone())
}

async fn is_empty(client: &Client) -> bool {
    client.query_one("SELECT NOT EXISTS (SELECT FROM outbox_events)", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn what_rust_refuses_is_refused_in_the_same_words() {
    let fixture = PostgresFixture::fresh().await;
    let (client, mut conn) = connect(&fixture).await;
    let mut refused = Vec::new();
    for text in
        ["", "a\nb", "a\u{85}", "a\u{7f}", "a\u{FFFE}b", "a\u{1FFFF}", "a\u{10FFFE}", "\u{FDD0}", &"é".repeat(256)]
    {
        let text = text.to_owned();
        refused.push(Given { event_type: text.clone(), ..Given::new() });
        refused.push(Given { source: text.clone(), ..Given::new() });
        for at in (0..4).filter(|_| !text.is_empty()) {
            let mut given = Given::new();
            given.texts[at] = text.clone();
            refused.push(given);
        }
        for extensions in [json!({ "x": text }), json!({ text: 1 })] {
            if extensions != json!({ "x": "" }) && !extensions.to_string().contains(&"é".repeat(256)) {
                refused.push(Given { extensions, ..Given::new() });
            }
        }
    }
    for backend in ["Redis", "a b", "a/b", "é"] {
        let mut given = Given::new();
        given.texts[2] = backend.to_owned();
        refused.push(given);
    }
    for name in ["Trace", "a_b", "é\"'\\\t", "data", "id", "partitionkey", "time", "data_base64", &"A".repeat(50)] {
        refused.push(Given { extensions: json!({ name: "v" }), ..Given::new() });
    }
    for value in
        [json!(null), json!(1.5), json!(i64::from(i32::MAX) + 1), json!(i64::MIN), json!([]), json!({}), json!("\n")]
    {
        refused.push(Given { extensions: json!({ "x": value }), ..Given::new() });
    }
    for value in [json!(null), json!(true), json!([1]), json!({})] {
        refused.push(Given { config: json!({ "name": value }), ..Given::new() });
    }
    for name in ["", "seq"] {
        refused.push(Given { config: json!({ name: 1 }), ..Given::new() });
    }
    let pairs: serde_json::Map<_, _> = (0..101).map(|n| (format!("f{n}"), json!(n))).collect();
    refused.push(Given { config: pairs.into(), ..Given::new() });
    refused.push(Given { max_retries: -1, ..Given::new() });
    for data in [format!("{}{}", "[".repeat(101), "]".repeat(101)), "x".repeat(0), "7".repeat(4001)] {
        refused.extend((!data.is_empty()).then(|| Given { data: Some(data), ..Given::new() }));
    }
    refused.push(Given { data: Some(json!("x".repeat(1 << 20)).to_string()), ..Given::new() });
    for given in refused {
        let error = given.publish(&client).await.expect_err("the event breaks a rule");
        let Err(PublishError::Invalid(expected)) = crate::publish(&mut conn, given.event()).await else {
            panic!("{given:?} is accepted in Rust")
        };
        assert_eq!(refusal(&error), (expected.to_string(), SqlState::INVALID_PARAMETER_VALUE));
    }
    assert!(is_empty(&client).await);
}

#[tokio::test]
async fn schemas_are_absolute_uris_as_in_rust() {
    let fixture = PostgresFixture::fresh().await;
    let client = fixture.database.connect().await;
    let long = format!("https://a.b/{}", "x".repeat(189));
    for uri in [
        "https://example.com/s.json#part",
        "urn:example:schema",
        "http:example.com",
        "https://u:p@h:8080/x",
        "http://[::1]/x",
        "a:",
        "https://h?q",
        "HTTPS://H",
        "https://é.example/x",
        "schema.json",
        "//host/path",
        "https://a b/",
        "https://",
        "http://h:99999/",
        "http://[::1",
        "1a:b",
        "http://:80/",
        "https://h\u{a0}",
        "a:b\u{3000}",
        "a:\n",
        "https://<x>/",
        &long,
        "ws:///",
        "file:///x",
    ] {
        let accepted = client.query_one("SELECT outbox_publish('t', 's', data_schema => $1)", &[&uri]).await;
        let expected = NewEvent::new("t", "s").data_schema(uri).check();
        assert_eq!(
            accepted.as_ref().err().map(|error| refusal(error).0),
            expected.err().map(|error: InvalidEvent| error.to_string()),
            "{uri}"
        );
    }
}

#[tokio::test]
async fn cloud_events_are_read_as_in_rust() {
    let fixture = PostgresFixture::fresh().await;
    let (client, mut conn) = connect(&fixture).await;
    let with = |attributes: &str| format!(r#"{{"specversion":"1.0","type":"t","source":"s","id":"A-1"{attributes}}}"#);
    let mut texts: Vec<String> = [
        "[1]",
        "\"secret\"",
        "{}",
        r#"{"specversion":"0.3"}"#,
        r#"{"specversion":1.0}"#,
        r#"{"specversion":"1.0","source":"s","id":"1"}"#,
        r#"{"specversion":"1.0","type":"t","id":"1"}"#,
        r#"{"specversion":"1.0","type":"t","source":"s"}"#,
        r#"{"specversion":"1.0","type":"t","source":"s","id":null}"#,
        r#"{"specversion":"1.0","type":"t","source":"s","id":""}"#,
        r#"{"specversion":"1.0.2","type":"t","source":"s","id":"0197A3B2-AAAA-7000-8000-000000000001"}"#,
        r#"{"specversion":"1.0","type":"t","source":"s","id":"0197a3b2-aaaa-7000-8000-000000000001"}"#,
        r#"{"specversion":"1.0","type":"t","source":"s","id":"0197a3b2aaaa70008000000000000001"}"#,
        r#"{"specversion":"1.0","type":["secret"],"source":"s","id":"1"}"#,
    ]
    .map(str::to_owned)
    .to_vec();
    texts.extend(
        [
            r#","subject":1"#,
            r#","subject":"""#,
            r#","subject":null"#,
            r#","data":null,"none":null"#,
            r#","data":"null""#,
            r#","data_base64":"secret!""#,
            r#","data_base64":"AP8=""#,
            r#","data_base64":"AP9=""#,
            r#","data_base64":"AP8""#,
            r#","data_base64":"""#,
            r#","data_base64":"","datacontenttype":"image/png""#,
            r#","data_base64":"AP\n8=""#,
            r#","partitionkey":7"#,
            r#","Trace":"1""#,
            r#","n":1.5"#,
            r#","o":{"a":1}"#,
            r#","data":1,"data_base64":"AA==""#,
        ]
        .map(with),
    );
    let days = [
        "2024-02-29",
        "2025-02-29",
        "1900-02-29",
        "2000-02-29",
        "2025-04-31",
        "2025-13-01",
        "2025-00-01",
        "2025-01-00",
        "0001-01-01",
        "9999-12-31",
        "25-01-01",
    ];
    let clocks = [
        "T00:00:00Z",
        "T23:59:59.9999999z",
        "t12:30:00.5+05:30",
        "T23:59:60Z",
        "T24:00:00Z",
        "T12:60:00Z",
        "T12:00:00",
        "T12:00Z",
        "T00:00:00.000001-23:59",
        "T12:00:00+24:00",
        "T12:00:00.Z",
    ];
    texts.extend(days.iter().flat_map(|day| clocks.map(|clock| with(&format!(r#","time":"{day}{clock}""#)))));
    for text in texts {
        let accepted = client.query_one("SELECT outbox_publish_cloudevent($1::text::jsonb)", &[&text]).await;
        let rust = async {
            let stored = crate::publish(&mut conn, NewEvent::from_cloud_event_json(&text)?).await?;
            Ok::<_, PublishError>(stored.id)
        };
        // In Rust it is a repetition, which compares every column.
        match (accepted, rust.await) {
            (Ok(sql), Ok(rust)) => assert_eq!(sql.get::<_, Uuid>(0), rust, "{text}"),
            (Err(sql), Err(rust)) => {
                assert_eq!(refusal(&sql), (rust.to_string(), SqlState::INVALID_PARAMETER_VALUE), "{text}");
            }
            (sql, rust) => panic!("{text}: {sql:?} {rust:?}"),
        }
        client.execute("DELETE FROM outbox_events", &[]).await.unwrap();
    }
}

#[tokio::test]
async fn a_prepared_event_has_bytes_and_a_delay_and_fails_with_an_id_that_is_taken() {
    let fixture = PostgresFixture::fresh().await;
    let (client, mut conn) = connect(&fixture).await;
    let event =
        || NewEvent::new("t", "s").binary([0, 255, 7]).scheduled_in(Duration::from_secs(60)).cloud_event_id("A-1");
    let stored = crate::publish(&mut conn, event()).await.unwrap();
    let prepared = event().prepare().unwrap();
    let params: Vec<_> = prepared.params().iter().map(|text| text as &(dyn ToSql + Sync)).collect();
    let repeated = client.execute(prepared.sql(Dialect::Postgres), &params).await.unwrap_err();
    assert_eq!(repeated.code(), Some(&SqlState::UNIQUE_VIOLATION));
    let expected = row(&client, stored.id, &OWN).await;
    client.execute("DELETE FROM outbox_events", &[]).await.unwrap();
    client.execute(prepared.sql(Dialect::Postgres), &params).await.unwrap();
    assert_eq!((prepared.id(), row(&client, stored.id, &OWN).await), (stored.id, expected));
    let delay = "SELECT scheduled_at - created_at = interval '60 s' FROM outbox_events";
    assert!(client.query_one(delay, &[]).await.unwrap().get::<_, bool>(0));
    assert!(NewEvent::new("", "s").prepare().is_err());
    assert!(!format!("{prepared:?}").contains("A-1"));
}
