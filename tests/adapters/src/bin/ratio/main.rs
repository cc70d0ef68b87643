//! The cost of each adapter on PostgreSQL: `publish` in its own transaction, and `publish_many` of 1,000 events, as a share of
//! a raw INSERT of the same rows by the same driver, prepared, with arrays for many.
//!
//! `scripts/adapters.sh` builds and runs it.

#![allow(clippy::unwrap_used, reason = "a measurement that fails has no result")]

mod drivers;

use std::time::{Duration, Instant};

use actix_outbox::NewEvent;
use adapters::database::TestDatabase;

use self::drivers::{Driver, SeaOrm1, SeaOrm2, Sqlx8, Sqlx9, TokioPostgres};

/// Events in one statement.
const MANY: usize = 1_000;

/// How long one measurement takes.
const SPAN: Duration = Duration::from_secs(1);

const ROUNDS: usize = 9;

#[tokio::main]
async fn main() {
    let database = TestDatabase::durable().await;
    println!("driver             publish /s    share   publish_many events/s    share   (medians of {ROUNDS} pairs)");
    measure::<TokioPostgres>(&database, "tokio-postgres").await;
    measure::<Sqlx8>(&database, "sqlx 0.8").await;
    measure::<Sqlx9>(&database, "sqlx 0.9").await;
    measure::<SeaOrm1>(&database, "SeaORM 1").await;
    measure::<SeaOrm2>(&database, "SeaORM 2").await;
}

async fn measure<D: Driver>(database: &TestDatabase, name: &str) {
    let mut driver = D::connect(database.url()).await;
    let (mut one, mut many) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // In turns, and the other first in every second round, so that changes of the machine's speed affect both.
        let is_first = round % 2 == 0;
        let mut pair = [0.0; 2];
        for publishes in [is_first, !is_first] {
            pair[usize::from(!publishes)] = rate(database, 1, async || match publishes {
                true => driver.publish(event()).await,
                false => driver.insert(Rows::new(1)).await,
            })
            .await;
        }
        one.push(pair);
        for publishes in [is_first, !is_first] {
            pair[usize::from(!publishes)] = rate(database, MANY, async || match publishes {
                true => driver.publish_many((0..MANY).map(|_| event()).collect()).await,
                false => driver.insert_many(Rows::new(MANY)).await,
            })
            .await;
        }
        many.push(pair);
    }
    let ((one, one_share), (many, many_share)) = (medians(&one), medians(&many));
    println!("{name:<16}   {one:>10.0}   {one_share:>6.2}   {many:>21.0}   {many_share:>6.2}");
}

/// Events a second, with an empty table at the start.
async fn rate(database: &TestDatabase, events: usize, mut write: impl AsyncFnMut()) -> f64 {
    database.execute("TRUNCATE outbox_events").await;
    let started = Instant::now();
    let mut written = 0;
    while started.elapsed() < SPAN {
        write().await;
        written += events;
    }
    written as f64 / started.elapsed().as_secs_f64()
}

/// The median rate of publishing, and of its share of the INSERT's.
fn medians(pairs: &[[f64; 2]]) -> (f64, f64) {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let rate = median(pairs.iter().map(|[publish, _]| *publish).collect());
    (rate, median(pairs.iter().map(|[publish, insert]| publish / insert).collect()))
}

fn data() -> String {
    format!("{{\"n\": 1234567, \"note\": \"{}\"}}", "x".repeat(34))
}

fn event() -> NewEvent {
    NewEvent::new("order.placed", "/shop/orders").data_json(data())
}

/// The columns of [`INSERT`] as texts, one vector for each.
struct Rows([Vec<String>; COLUMNS]);

const COLUMNS: usize = 13;

impl Rows {
    fn new(rows: usize) -> Self {
        let same = |text: &str| vec![text.to_owned(); rows];
        let ids = (0..rows).map(|_| uuid::Uuid::now_v7().to_string()).collect();
        Self([
            ids,
            same("order.placed"),
            same("/shop/orders"),
            same(""),
            same("application/json"),
            same(""),
            (0..rows).map(|_| data()).collect(),
            same("3"),
            same(""),
            same("{}"),
            same(""),
            same("{}"),
            same(""),
        ])
    }

    /// The values of the only row.
    fn only(self) -> impl Iterator<Item = String> {
        self.0.into_iter().flatten()
    }
}

macro_rules! columns {
    () => {
        "INSERT INTO outbox_events (id, event_type, source, subject, data_content_type, data_schema, data, max_retries, \
        publisher_backend, publisher_config, cloud_event_id, extensions, partition_key) "
    };
}

const INSERT: &str = concat!(
    columns!(),
    "VALUES ($1::text::uuid, $2::text, $3::text, $4::text, $5::text, $6::text, $7::text::jsonb, $8::text::integer, $9::text, \
    $10::text::jsonb, $11::text, $12::text::jsonb, $13::text)"
);

const INSERT_MANY: &str = concat!(
    columns!(),
    "SELECT id::uuid, event_type, source, subject, content_type, schema, data::jsonb, max_retries::integer, backend, \
    config::jsonb, cloud_event_id, extensions::jsonb, partition_key \
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], \
    $10::text[], $11::text[], $12::text[], $13::text[]) AS n(id, event_type, source, subject, content_type, schema, data, \
    max_retries, backend, config, cloud_event_id, extensions, partition_key)"
);
