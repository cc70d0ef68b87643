use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::*;
use crate::fixtures;
use crate::store::{Blocker, Blockers, FetchedRow, Snapshot, TransactionId};
use crate::system::credit::{Credit, CreditPermit};
use crate::system::delivery::Delivery;

const SHARD: i16 = 3;
const KEY: &str = "k";
const END: Position = Position { scheduled_at: i64::MAX, seq: i64::MAX };

/// The time of all queries.
const CLOCK: i64 = 100;

/// What a query could see.
fn shown(before: u32) -> Snapshot {
    Snapshot { shows_before: TransactionId(before), at: CLOCK }
}

/// A row that a transaction wrote.
fn row(scheduled_at: i64, version: u32) -> FetchedRow {
    FetchedRow { version: Some(TransactionId(version)), ..fixtures::fetched(SHARD, scheduled_at, KEY) }
}

fn permit(_: &FetchedRow) -> CreditPermit {
    Credit::new(100, 100, Arc::new(Notify::new())).take(0)
}

/// Fetches of a lane with one open shard.
struct Lane {
    in_flight: Arc<InFlight>,
    now: BootInstant,
}

impl Lane {
    fn new() -> Self {
        let in_flight = InFlight::new(Arc::from("orders"));
        in_flight.open(SHARD, 1);
        Self { in_flight, now: BootInstant::now() }
    }

    /// Fetches rows; a query finds nothing, in a snapshot that shows transactions before `shows_before`. Returns the deliveries,
    /// and whether there was a query.
    fn fetch(&self, rows: &[&FetchedRow], shows_before: u32) -> (Vec<Delivery>, bool) {
        self.fetch_to(rows, Some(END), Blockers { found: HashMap::new(), snapshot: Some(shown(shows_before)) })
    }

    fn fetch_to(&self, rows: &[&FetchedRow], read_to: Option<Position>, answer: Blockers) -> (Vec<Delivery>, bool) {
        let mut fetch = self.in_flight.begin_fetch();
        fetch.note_read_to(read_to.map(|read_to| (SHARD, read_to)).into_iter().collect());
        let rows: Vec<FetchedRow> = rows.iter().map(|&row| row.clone()).collect();
        let asked = !fetch.questions(&rows, self.now, true).is_empty();
        if asked {
            fetch.note_answer(&answer, self.now);
        }
        (fetch.admit(rows, &answer, permit).deliveries, asked)
    }

    /// A lane in which the key is free, with the transactions before 10 visible, and an event of it in flight.
    fn with_free_key() -> (Self, Vec<Delivery>) {
        let lane = Self::new();
        let (deliveries, asked) = lane.fetch(&[&row(1, 5)], 10);
        assert!(asked && deliveries.len() == 1);
        (lane, deliveries)
    }
}

#[test]
fn the_next_event_of_a_free_key_needs_no_query_for_a_moment() {
    let (mut lane, _in_flight) = Lane::with_free_key();
    let (deliveries, asked) = lane.fetch(&[&row(2, 9), &row(3, 9)], 10);
    assert!(!asked && deliveries.len() == 2);
    lane.now = lane.now.after(Duration::from_secs(1));
    assert!(lane.fetch(&[&row(4, 9)], 20).1);
}

/// Another event could have been committed before it and be behind the cursor.
#[test]
fn an_event_that_the_query_did_not_see_needs_one_of_its_own() {
    let (lane, _in_flight) = Lane::with_free_key();
    assert!(lane.fetch(&[&row(2, 9), &row(3, 10)], 20).1, "one of them");
    let (lane, _in_flight) = Lane::with_free_key();
    let unknown = FetchedRow { version: None, ..row(2, 9) };
    assert!(lane.fetch(&[&unknown], 20).1);
    let (lane, _in_flight) = Lane::with_free_key();
    let retry = FetchedRow { in_range: false, retry: true, ..row(2, 9) };
    assert!(lane.fetch(&[&retry], 20).1);
}

/// Another event, scheduled before it, could have been committed meanwhile, and be behind the cursor.
#[test]
fn an_event_that_was_not_due_at_the_query_needs_one_of_its_own() {
    let (lane, _in_flight) = Lane::with_free_key();
    assert!(lane.fetch(&[&row(CLOCK + 1, 5)], 20).1);
    let (lane, _in_flight) = Lane::with_free_key();
    assert!(!lane.fetch(&[&row(CLOCK, 5)], 20).1);
}

#[test]
fn a_query_that_found_something_or_not_all_of_the_key_shows_nothing() {
    let first = row(5, 5);
    let blocker = Blocker { id: Uuid::nil(), position: row(9, 1).position, due: true };
    let found = Blockers { found: HashMap::from([(KEY.to_owned(), blocker)]), snapshot: Some(shown(10)) };
    let nothing = Blockers { found: HashMap::new(), snapshot: Some(shown(10)) };
    let untold = Blockers { found: HashMap::new(), snapshot: None };
    for (read_to, answer) in [(Some(END), found), (None, nothing), (Some(END), untold)] {
        let lane = Lane::new();
        let (deliveries, _) = lane.fetch_to(&[&first], read_to, answer);
        assert_eq!(deliveries.len(), 1, "what comes after it in the key's order does not block it");
        assert!(lane.fetch(&[&row(12, 9)], 20).1);
    }
}

#[test]
fn a_key_with_an_event_that_is_released_or_rejected_is_not_free_any_more() {
    let (lane, in_flight) = Lane::with_free_key();
    drop(in_flight);
    lane.in_flight.open(SHARD, 2);
    assert!(lane.fetch(&[&row(2, 9)], 20).1, "released");
    let (lane, mut in_flight) = Lane::with_free_key();
    in_flight[0].reject();
    let (waiting, asked) = lane.fetch(&[&row(2, 9)], 20);
    assert!(asked && waiting.is_empty(), "rejected");
    let (lane, mut in_flight) = Lane::with_free_key();
    in_flight.remove(0).settled(true);
    assert!(lane.fetch(&[&row(2, 9)], 20).1, "recorded as a retry");
    let (lane, mut in_flight) = Lane::with_free_key();
    in_flight.remove(0).settled(false);
    assert!(!lane.fetch(&[&row(2, 9)], 20).1, "published");
}

#[test]
fn a_key_is_not_free_after_its_shard_was_closed_or_the_database_changed() {
    type Change = fn(&InFlight);
    let changes: [Change; 5] = [
        |in_flight| in_flight.close(SHARD),
        InFlight::close_all,
        InFlight::forget_cleared,
        |in_flight| in_flight.forget_unwritable(SHARD),
        |in_flight| in_flight.read_from(SHARD, Position::START),
    ];
    for change in changes {
        let (lane, _in_flight) = Lane::with_free_key();
        change(&lane.in_flight);
        lane.in_flight.open(SHARD, 1);
        assert!(lane.fetch(&[&row(2, 9)], 20).1);
    }
}

/// The answer to a query says that the key is free, and meanwhile an event that it left out as in flight was released.
#[test]
fn an_answer_does_not_count_if_an_event_was_released_meanwhile() {
    let lane = Lane::new();
    let (deliveries, _) = lane.fetch_to(&[&row(1, 5)], None, Blockers::default());
    let mut fetch = lane.in_flight.begin_fetch();
    fetch.note_read_to(HashMap::from([(SHARD, END)]));
    let rows = vec![row(2, 9)];
    assert!(!fetch.questions(&rows, lane.now, true).is_empty());
    drop(deliveries);
    fetch.note_answer(&Blockers { found: HashMap::new(), snapshot: Some(shown(10)) }, lane.now);
    drop(fetch);
    lane.in_flight.open(SHARD, 2);
    assert!(lane.fetch(&[&row(2, 9)], 20).1);
}

#[test]
fn numbers_of_transactions_wrap_around() {
    assert!(TransactionId(5).is_before(TransactionId(10)) && !TransactionId(10).is_before(TransactionId(10)));
    assert!(TransactionId(u32::MAX - 5).is_before(TransactionId(10)) && !TransactionId(10).is_before(TransactionId(5)));
}

/// The second of two writers that take turns on a key is committed after the first, whose event is behind the cursor.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn an_event_behind_the_cursor_is_found_by_the_one_that_was_written_after_it() {
    use crate::settings::{DatabaseSettings, Secret};
    use crate::store::{FetchRequest, Range};
    use crate::system::predecessors::find_blockers;
    use crate::test_support::postgres::{Server, connect};

    // Of its own: transactions of other databases hold back what a snapshot is known to show.
    let server = Server::start();
    let database = server.database().await;
    let url = Secret::from(database.url.clone());
    let store = crate::store::connect(&DatabaseSettings { url, ..DatabaseSettings::default() }).unwrap();
    store.migrate(&|_| ()).await.unwrap();
    let (sql, lane) = (connect(&database.url).await, LaneName::from("orders"));
    let insert = async |seconds: i32| {
        let statement = format!(
            "INSERT INTO outbox_events (id, event_type, source, publisher_backend, partition_key, scheduled_at) \
             VALUES (gen_random_uuid(), 't', 's', 'orders', 'k', now() + interval '{seconds} seconds')"
        );
        sql.batch_execute(&statement).await.unwrap();
    };
    let in_flight = InFlight::new(lane.clone());
    (0..store.shards()).for_each(|shard| in_flight.open(shard, 1));
    let mut from = Position::START;
    let mut fetch_one = async || {
        let all = |shard| Range { shard, from, to: None, limit: 1 };
        let request = FetchRequest::of_ranges(lane.clone(), (0..store.shards()).map(all).collect());
        let mut fetch = in_flight.begin_fetch();
        let rows = store.fetch(&request).await.unwrap().rows;
        from = rows[0].position;
        fetch.note_read_to(HashMap::from([(rows[0].shard, from)]));
        let blockers = find_blockers(&*store, &in_flight, &mut fetch, &rows, false, false).await.unwrap();
        let asked = !fetch.asked.is_empty();
        (fetch.admit(rows, &blockers, permit).deliveries, asked)
    };
    for seconds in [-60, -40, -20] {
        insert(seconds).await;
    }
    let (first, asked) = fetch_one().await;
    assert!(asked && first.len() == 1);
    let (second, asked) = fetch_one().await;
    assert!(!asked && second.len() == 1, "it was there when the key was found free");
    insert(-50).await;
    insert(-30).await;
    let (waiting, asked) = fetch_one().await;
    assert!(asked && waiting.is_empty(), "the event from 50 seconds ago comes first");

    // Fetches do not return these in their order: one could be passed by, in front of the cursor.
    let shows = async |holds: bool| store.blockers(&lane, holds, &[]).await.unwrap().snapshot.is_some();
    assert!(shows(false).await && shows(true).await);
    sql.batch_execute("UPDATE outbox_events SET status = 'retry', retry_at = now() + interval '1 hour'").await.unwrap();
    assert!(!shows(false).await, "retries");
    sql.batch_execute("UPDATE outbox_events SET status = 'failed', retry_at = NULL").await.unwrap();
    assert!(shows(false).await && !shows(true).await, "events that hold their key");
}
