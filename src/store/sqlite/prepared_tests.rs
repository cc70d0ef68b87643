//! A prepared event and `publish` write the same row.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Nullable, Text};
use uuid::Uuid;

use super::fixture::SqliteFixture;
use crate::publish::random_events::random_events;
use crate::publish::{Dialect, NewEvent, PreparedEvent};
use crate::store::conformance::Fixture;

#[derive(QueryableByName)]
struct Columns {
    #[diesel(sql_type = Text)]
    columns: String,
}

/// Every column with its type, except those in which two events differ.
pub(super) fn row(conn: &mut SqliteConnection, id: Uuid, column: &str) -> String {
    let columns = "spec_version, event_type, source, subject, data_content_type, data_schema, data, data_binary, status, \
                   retry_count, max_retries, last_error, publisher_backend, publisher_config, cloud_event_id, extensions, \
                   partition_key, event_time, published_at, retry_at, updated_at - created_at, typeof(id), typeof(scheduled_at)";
    let all: Vec<String> = format!("{columns}, {column}").split(", ").map(|name| format!("quote({name})")).collect();
    let sql = format!("SELECT {} AS columns FROM outbox_events WHERE hex(id) = ?", all.join(" || ' ' || "));
    let id = id.simple().to_string().to_uppercase();
    sql_query(sql).bind::<Text, _>(id).get_result::<Columns>(conn).unwrap().columns
}

fn execute(conn: &mut SqliteConnection, event: &PreparedEvent) -> QueryResult<usize> {
    let statement = sql_query(event.sql(Dialect::Sqlite)).into_boxed();
    let statement = event.params().iter().fold(statement, |statement, text| statement.bind::<Nullable<Text>, _>(text));
    statement.execute(conn)
}

#[tokio::test]
async fn each_door_writes_the_same_row() {
    let fixture = SqliteFixture::fresh().await;
    let mut conn = fixture.connection();
    for given in random_events(200) {
        let when = if given.scheduled_at.is_some() { "scheduled_at" } else { "scheduled_at - created_at" };
        let stored = crate::blocking::publish(&mut conn, given.event()).unwrap();
        let prepared = given.event().prepare().unwrap();
        assert_eq!(execute(&mut conn, &prepared), Ok(1));
        assert_eq!(row(&mut conn, prepared.id(), when), row(&mut conn, stored.id, when), "{given:?}");
    }
}

#[tokio::test]
async fn a_prepared_event_has_bytes_and_a_delay_and_fails_with_an_id_that_is_taken() {
    let fixture = SqliteFixture::fresh().await;
    let mut conn = fixture.connection();
    let event =
        || NewEvent::new("t", "s").binary([0, 255, 7]).scheduled_in(Duration::from_secs(60)).cloud_event_id("A-1");
    let prepared = event().prepare().unwrap();
    assert_eq!(execute(&mut conn, &prepared), Ok(1));
    assert!(execute(&mut conn, &prepared).is_err());
    let written = row(&mut conn, prepared.id(), "scheduled_at - created_at");
    assert!(written.contains("X'00FF07'") && written.ends_with(" 60000000"), "{written}");
    // To `publish` it is the same event.
    assert_eq!(crate::blocking::publish(&mut conn, event()).unwrap().id, prepared.id());
}
