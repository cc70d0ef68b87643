use std::sync::Arc;

use uuid::Uuid;

use crate::store::conformance::Fixture;
use crate::store::postgres::fixture::PostgresFixture;
use crate::store::postgres::{PostgresStore, SHARDS, Target};
use crate::store::{DispatchStore, FetchRequest, FetchedRow, KeyStart, Position, Range, SchemaStore};

const MAX_EVENT_BYTES: usize = 1 << 20;

fn everything() -> FetchRequest {
    let range = |shard| Range { shard, from: Position::START, to: None, limit: 1000 };
    FetchRequest {
        retry_shards: (0..SHARDS).collect(),
        retry_limit: 1000,
        keys: vec![KeyStart::whole("k")],
        key_limit: 10,
        max_events: 2000,
        max_bytes: 4 << 20,
        max_event_bytes: MAX_EVENT_BYTES,
        ..FetchRequest::of_ranges(Arc::from(""), (0..SHARDS).map(range).collect())
    }
}

/// An event as another writer inserts it, with these columns.
fn insert(columns: &str, values: &str) -> (Uuid, String) {
    let id = Uuid::now_v7();
    let statement =
        format!("INSERT INTO outbox_events (id, event_type, source, {columns}) VALUES ('{id}', 't', 's', {values})");
    (id, statement)
}

fn reason(rows: &[FetchedRow], id: Uuid) -> Option<String> {
    rows.iter().find(|row| row.id == id).unwrap().event.as_ref().err().cloned()
}

#[tokio::test]
async fn a_few_bytes_of_json_that_are_a_long_text_are_measured_by_the_server() {
    let fixture = PostgresFixture::fresh().await;
    let numbers = "(SELECT jsonb_agg(1e131071::numeric) FROM generate_series(1, 40))";
    let (long, statement) = insert("data", numbers);
    fixture.execute(&statement).await;
    let (short, statement) = insert("data", "'{}'");
    fixture.execute(&statement).await;
    let rows = fixture.store().fetch(&everything()).await.unwrap().rows;
    let reason_of_the_long = reason(&rows, long).unwrap();
    assert!(reason_of_the_long.contains("52429"), "{reason_of_the_long}");
    assert_eq!(reason(&rows, short), None);
}

#[tokio::test]
async fn earlier_errors_of_an_event_are_not_read_however_long_they_are() {
    let fixture = PostgresFixture::fresh().await;
    let (id, statement) = insert("last_error, errors", "repeat('x', 60000000), to_jsonb(repeat('x', 60000000))");
    fixture.execute(&statement).await;
    let rows = fixture.store().fetch(&everything()).await.unwrap().rows;
    let event = rows.iter().find(|row| row.id == id).unwrap().event.as_ref().unwrap();
    assert_eq!((&*event.last_error, event.errors.as_ref()), ("", None));
}

/// A database in which every byte is a character, as one whose tables were made by a version that accepted it.
async fn without_encoding() -> (PostgresFixture, PostgresStore) {
    let fixture = PostgresFixture::empty().await;
    let name = format!("{}_ascii", fixture.database.name);
    let create = format!("CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
    fixture.execute(&create).await;
    let url = fixture.database.url.replace(&fixture.database.name, &name);
    let store = || PostgresStore::new(Target::from_url(&url).unwrap(), None).unwrap();
    let encoding = |code: &str| format!("UPDATE pg_database SET encoding = {code} WHERE datname = '{name}'");
    fixture.execute(&encoding("pg_char_to_encoding('UTF8')")).await;
    store().migrate(&|_| ()).await.unwrap();
    fixture.execute(&encoding("pg_char_to_encoding('SQL_ASCII')")).await;
    (fixture, store())
}

#[tokio::test]
async fn a_byte_that_is_not_valid_fails_its_own_row_and_the_others_are_read() {
    let (_fixture, store) = without_encoding().await;
    let client = store.target.connect().await.unwrap();
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for n in 0..200 {
        let (id, statement) = match n {
            70 => insert("subject", r"E'\xff'"),
            71 => insert("partition_key", r"E'k\xff'"),
            _ => insert("partition_key", "'k'"),
        };
        client.batch_execute(&statement).await.unwrap();
        if [70, 71].contains(&n) { bad.push(id) } else { good.push(id) }
    }
    let answer = store.fetch(&everything()).await.unwrap();
    assert!(!answer.cut_short);
    for id in bad {
        let reason = reason(&answer.rows, id).unwrap();
        assert!(reason.contains("cannot be read") && reason.contains("0xff"), "{reason}");
    }
    for id in good {
        assert_eq!(reason(&answer.rows, id), None);
    }
    // A keyed event is read both in its range and by its key, and the range comes first.
    assert!(answer.rows[..200].iter().all(|row| row.in_range));
}

#[tokio::test]
async fn rows_that_are_left_for_the_next_fetch_because_of_their_bytes_are_not_passed_over() {
    let (_fixture, store) = without_encoding().await;
    let client = store.target.connect().await.unwrap();
    client.batch_execute(&insert("subject", r"E'\xff'").1).await.unwrap();
    for n in 0..20 {
        client.batch_execute(&insert("partition_key", &format!("'key-{n}'")).1).await.unwrap();
    }
    let mut request = FetchRequest { max_bytes: 1, ..everything() };
    let mut found = Vec::new();
    loop {
        let answer = store.fetch(&request).await.unwrap();
        found.extend(answer.rows.iter().map(FetchedRow::excepted));
        if !answer.cut_short {
            break;
        }
        request.except.clone_from(&found);
    }
    assert_eq!(found.len(), 21);
}
