use std::time::Duration;

use tokio::sync::Notify;

use super::*;
use crate::fixtures;
use crate::store::{Blocker, Blockers, FetchedRow, PredecessorQuery};
use crate::system::credit::{Credit, CreditPermit};

const SHARD: i16 = 3;
const QUICK: Duration = Duration::from_millis(1);
const SLOW: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(10);

fn place(scheduled_at: i64) -> Position {
    Position { scheduled_at, seq: 0 }
}

fn permit(_: &FetchedRow) -> CreditPermit {
    Credit::new(100, 100, Arc::new(Notify::new())).take(0)
}

/// A worker that queries a database whose results and times the test sets.
struct Asking {
    in_flight: Arc<InFlight>,
    now: BootInstant,
}

impl Asking {
    fn new() -> Self {
        let in_flight = InFlight::new(Arc::from("orders"));
        in_flight.open(SHARD, 1);
        Self { in_flight, now: BootInstant::now() }
    }

    /// Queries for rows; the result, if there is one, comes after this time.
    fn ask(
        &mut self,
        rows: &[FetchedRow],
        took: Duration,
        answer: Option<&HashMap<String, Blocker>>,
    ) -> (Fetch, Vec<PredecessorQuery>) {
        let mut fetch = self.in_flight.begin_fetch();
        let questions = fetch.questions(rows, self.now, true);
        self.now = self.now.after(took);
        match answer {
            Some(blockers) => {
                let answer = Blockers { found: blockers.clone(), snapshot: None };
                fetch.note_answer(&answer, self.now);
            }
            None => fetch.note_no_answer(self.now),
        }
        (fetch, questions)
    }

    /// Queries for one row of a key and finds nothing; returns where the query started.
    fn asks_from(&mut self, row: &FetchedRow, took: Duration) -> Position {
        let (_, questions) = self.ask(std::slice::from_ref(row), took, Some(&HashMap::new()));
        assert_eq!(questions.len(), 1);
        questions[0].from
    }
}

fn row(scheduled_at: i64) -> FetchedRow {
    fixtures::fetched(SHARD, scheduled_at, "k")
}

#[test]
fn a_key_is_asked_about_from_its_start_while_that_is_quick() {
    let mut asking = Asking::new();
    for n in 1..10 {
        assert_eq!(asking.asks_from(&row(n), QUICK), Position::START);
    }
}

#[test]
fn a_key_slow_twice_in_a_row_is_queried_from_where_it_is_known_clear() {
    let mut asking = Asking::new();
    let rows = [row(10), row(20), row(30), row(40)];
    assert_eq!(asking.asks_from(&rows[0], SLOW), Position::START);
    assert_eq!(asking.asks_from(&rows[1], SLOW), Position::START, "it may have been the server");
    assert_eq!(asking.asks_from(&rows[2], QUICK), rows[1].position);
    assert_eq!(asking.asks_from(&rows[3], QUICK), rows[2].position);

    asking.in_flight.reread_key("k");
    assert_eq!(asking.in_flight.take_keys_to_reread(1)[0].from, rows[3].position, "the key is read from there, too");
}

#[test]
fn a_slow_key_is_queried_from_its_start_for_a_twentieth_of_the_time() {
    let mut asking = Asking::new();
    let (mut whole, began) = (Duration::ZERO, asking.now);
    for n in 0..10_000 {
        let walks = asking.in_flight.lock().cleared.range("k", place(n), asking.now).0 == Position::START;
        let took = if walks { SLOW } else { QUICK };
        asking.asks_from(&row(n), took);
        whole += if walks { SLOW } else { Duration::ZERO };
    }
    let share = whole.as_secs_f64() / asking.now.since(began).as_secs_f64();
    assert!((0.03..0.07).contains(&share), "{share}");
}

#[test]
fn a_key_that_is_quick_again_is_asked_about_from_its_start() {
    let mut asking = Asking::new();
    asking.asks_from(&row(10), SLOW);
    asking.asks_from(&row(20), SLOW);
    asking.now = asking.now.after(20 * SLOW);
    assert_eq!(asking.asks_from(&row(30), QUICK), Position::START);
    assert_eq!(asking.asks_from(&row(40), QUICK), Position::START);
}

#[test]
fn a_key_is_asked_about_from_its_start_while_every_answer_is_slow() {
    let mut asking = Asking::new();
    let rows = [row(10), row(20), row(30), row(40), row(50), row(60)];
    let asked_from = rows.each_ref().map(|row| asking.asks_from(row, SLOW));
    assert_eq!(asked_from[2..4], [rows[1].position, rows[2].position]);
    assert_eq!(asked_from[4..], [Position::START; 2], "it is not the walk that is slow");
}

#[test]
fn a_key_is_clear_no_further_than_what_blocks_it_and_what_is_in_flight() {
    let mut asking = Asking::new();
    let (flying, next) = (row(10), row(20));
    let rows = vec![flying.clone()];
    let (fetch, _) = asking.ask(&rows, SLOW, Some(&HashMap::new()));
    let deliveries = fetch.admit(rows, &HashMap::new(), permit).deliveries;
    assert_eq!(deliveries.len(), 1);
    drop(fetch);
    assert_eq!(asking.asks_from(&next, SLOW), Position::START);
    assert_eq!(asking.asks_from(&next, QUICK), flying.position, "it may be refused yet");
    drop(deliveries);
    asking.in_flight.open(SHARD, 1);

    let blocker = Blocker { id: flying.id, position: flying.position, due: false };
    asking.ask(&[row(30)], QUICK, Some(&HashMap::from([("k".to_owned(), blocker)])));
    let fourth = row(40);
    assert_eq!(asking.asks_from(&fourth, QUICK), flying.position);
    assert_eq!(asking.asks_from(&row(50), QUICK), fourth.position, "what blocked it is gone");
}

#[test]
fn an_event_that_was_committed_late_moves_the_place_back() {
    let mut asking = Asking::new();
    asking.asks_from(&row(100), SLOW);
    asking.asks_from(&row(200), SLOW);
    let late = row(50);
    asking.asks_from(&late, QUICK);
    assert_eq!(asking.asks_from(&row(300), QUICK), late.position);
}

#[test]
fn what_cannot_be_answered_in_time_is_asked_in_parts_and_goes_in_the_end() {
    const HOUR: i64 = 3_600 * 1_000_000;
    let mut asking = Asking::new();
    let waiting = fixtures::fetched(SHARD, 1_000 * HOUR, "k");
    let dead = 24 * HOUR;
    let (mut answered, mut late) = (0, 0);
    loop {
        let rows = vec![waiting.clone()];
        let (from, to) = asking.in_flight.lock().cleared.range("k", waiting.position, asking.now);
        let begin = from.scheduled_at.max(waiting.position.scheduled_at - dead);
        let walked = (to.scheduled_at - begin).max(0);
        // Two hours of dead rows take ten seconds.
        if walked > 2 * HOUR {
            asking.ask(&rows, LATE, None);
            late += 1;
        } else {
            let took = LATE.mul_f64(walked as f64 / (2 * HOUR) as f64);
            let (fetch, _) = asking.ask(&rows, took, Some(&HashMap::new()));
            answered += 1;
            if !fetch.admit(rows, &HashMap::new(), permit).deliveries.is_empty() {
                break;
            }
            assert_eq!(asking.in_flight.take_rewinds().get(&SHARD), Some(&waiting.position), "it is read again");
        }
        assert!(late < 20 && answered < 100, "{late} late, {answered} answered");
    }
    // The next query has nothing to scan.
    let (from, to) = asking.in_flight.lock().cleared.range("k", place(1_001 * HOUR), asking.now);
    assert_eq!((from, to), (waiting.position, place(1_001 * HOUR)));
}

#[test]
fn another_look_that_is_late_costs_one_statement() {
    let mut asking = Asking::new();
    asking.asks_from(&row(10), SLOW);
    asking.asks_from(&row(20), SLOW);
    asking.now = asking.now.after(20 * SLOW);
    let (_, questions) = asking.ask(&[row(30)], LATE, None);
    assert_eq!(questions[0].from, Position::START);
    assert!(asking.asks_from(&row(30), QUICK) > Position::START, "the events go on");
}

#[test]
fn the_memory_for_slow_keys_has_an_end() {
    let mut asking = Asking::new();
    for n in 0..25 {
        let rows: Vec<FetchedRow> = (0..1_000).map(|key| fixtures::fetched(SHARD, n, &format!("{n}-{key}"))).collect();
        for _ in 0..2 {
            asking.ask(&rows, SLOW, Some(&HashMap::new()));
        }
        let cleared = &asking.in_flight.lock().cleared;
        assert!(cleared.len() <= 10_000);
        assert_eq!(cleared.place(&format!("{n}-0")), rows[0].position, "there is room for the latest");
    }
}

/// Dead rows of one key, under a snapshot that keeps them.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_key_that_cannot_be_walked_over_in_the_time_of_a_statement_goes_on() {
    use std::time::Instant;

    use crate::store::conformance::Fixture;
    use crate::store::postgres::fixture::PostgresFixture;
    use crate::store::postgres::{PostgresStore, Target};
    use crate::store::{DispatchStore, FetchRequest, Range};
    use crate::system::predecessors::find_blockers;

    let fixture = PostgresFixture::fresh().await;
    fixture
        .execute(
            "INSERT INTO outbox_events (id, event_type, source, partition_key, scheduled_at) \
             SELECT gen_random_uuid(), 't', 's', 'k', now() - interval '2 hours' + n * interval '72 milliseconds' \
             FROM generate_series(1, 100000) n",
        )
        .await;
    let reader = fixture.database.connect().await;
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM outbox_events LIMIT 1").await.unwrap();
    fixture.execute("UPDATE outbox_events SET status = 'published', published_at = now()").await;
    let shard = i16::try_from(fixture.number("SELECT outbox_shard('k', gen_random_uuid())::bigint").await).unwrap();
    let clock = fixture.number("SELECT (extract(epoch FROM now()) * 1000000)::bigint").await;

    let before = Position { scheduled_at: i64::MAX, seq: i64::MAX };
    let whole = [PredecessorQuery { key: "k".to_owned(), from: Position::START, before, except: Vec::new() }];
    let mut walk = Duration::MAX;
    for _ in 0..3 {
        let began = Instant::now();
        assert!(fixture.store().blockers("", false, &whole).await.unwrap().is_empty());
        walk = walk.min(began.elapsed());
    }
    let mut url = url::Url::parse(&fixture.database.url).unwrap();
    url.query_pairs_mut().append_pair("options", &format!("-c statement_timeout={}", walk.as_millis() / 4));
    let store = PostgresStore::new(Target::from_url(url.as_str()).unwrap(), None).unwrap();
    assert!(store.blockers("", false, &whole).await.is_err(), "all of it takes too long: {walk:?}");

    let in_flight = InFlight::new(Arc::from(""));
    in_flight.open(shard, 1);
    // A cursor behind the dead rows.
    let epoch_of_postgres = 946_684_800_000_000;
    let from = Position { scheduled_at: clock - epoch_of_postgres - 1, seq: 0 };
    let request = FetchRequest {
        max_events: 10,
        ..FetchRequest::of_ranges(Arc::from(""), vec![Range { shard, from, to: None, limit: 10 }])
    };
    let mut fetches = Vec::new();
    for _ in 0..3 {
        let id = Uuid::now_v7();
        fixture
            .execute(&format!(
                "INSERT INTO outbox_events (id, event_type, source, partition_key) VALUES ('{id}', 't', 's', 'k')"
            ))
            .await;
        let mut count = 0;
        let delivery = loop {
            count += 1;
            assert!(count < 100, "it never goes");
            let mut fetch = in_flight.begin_fetch();
            // On a busy machine any statement can take longer than the limit.
            let fetched = store.fetch(&FetchRequest { except: in_flight.excepted(), ..request.clone() }).await;
            let Ok(rows) = fetched.map(|result| result.rows) else { continue };
            assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [id]);
            let Ok(blockers) = find_blockers(&store, &in_flight, &mut fetch, &rows, false, false).await else {
                continue;
            };
            if let Some(delivery) = fetch.admit(rows, &blockers, permit).deliveries.pop() {
                break delivery;
            }
        };
        fixture
            .execute(&format!("UPDATE outbox_events SET status = 'published', published_at = now() WHERE id = '{id}'"))
            .await;
        delivery.settled(false);
        fetches.push(count);
    }
    assert!(fetches[1..].iter().all(|count| *count < fetches[0]), "{fetches:?}");
    drop(reader);
}
