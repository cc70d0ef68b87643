//! Events that come back unsent are not overtaken by later ones of their key.

use super::*;
use crate::event::{JsonText, OutboxEvent, Status};
use crate::system::ticket::{Credit, Ticket};

pub(in crate::system) fn row(shard: i16, key: &str, at: i64, seq: i64) -> Fetched {
    let time = chrono::DateTime::UNIX_EPOCH;
    let event = OutboxEvent {
        id: Uuid::from_u128(seq.unsigned_abs().into()),
        spec_version: "1.0".to_owned(),
        event_type: "t".to_owned(),
        source: "s".to_owned(),
        subject: String::new(),
        data_content_type: "application/json".to_owned(),
        data_schema: String::new(),
        data: None,
        data_binary: None,
        status: Status::Pending,
        created_at: time,
        updated_at: time,
        scheduled_at: time,
        published_at: None,
        retry_count: 0,
        max_retries: 3,
        last_error: String::new(),
        publisher_backend: String::new(),
        publisher_config: JsonText::new("{}".to_owned()),
        seq,
        retry_at: None,
        cloud_event_id: String::new(),
        extensions: JsonText::new("{}".to_owned()),
        partition_key: key.to_owned(),
        pending_handlers: None,
        errors: None,
    };
    Fetched {
        shard,
        position: Position { scheduled_at: at, seq },
        id: event.id,
        partition_key: key.to_owned(),
        retry: false,
        retry_count: 0,
        max_retries: 3,
        event: Ok(Arc::new(event)),
    }
}

fn admit(fetch: &Fetch, rows: Vec<Fetched>) -> Vec<Ticket> {
    let credit = Credit::new(100, 1 << 20, Arc::default());
    fetch.admit(rows, &HashMap::new(), |_| credit.take(0)).tickets
}

fn open_flight() -> Arc<Flight> {
    let flight = Flight::new(Lane::from(""));
    flight.open(0, 1);
    flight
}

#[test]
fn an_event_that_comes_back_unsent_is_not_overtaken_by_one_that_is_queued() {
    let flight = open_flight();
    let mut tickets = admit(&flight.begin_fetch(), vec![row(0, "k", 1, 1), row(0, "k", 2, 2)]);
    drop(tickets.remove(0));
    assert!(!tickets[0].is_current(), "the later event would be sent first");
}

#[test]
fn an_event_that_comes_back_unsent_is_not_overtaken_by_one_that_is_being_read() {
    let flight = open_flight();
    let first = admit(&flight.begin_fetch(), vec![row(0, "k", 1, 1)]);
    let fetch = flight.begin_fetch();
    let later = vec![row(0, "k", 2, 2)];
    assert!(flight.questions(&later)[0].except.contains(&first[0].id), "the database is not asked about it");
    drop(first);
    assert!(admit(&fetch, later).is_empty(), "the later event would be sent first");
    drop(fetch);
    assert_eq!(flight.take_rewinds()[&0].seq, 1, "both are read again");
}
