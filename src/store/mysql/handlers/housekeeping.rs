//! Janitor work: ends deliveries to dropped handlers and of deleted events, and finds events that owe nothing more.
//!
//! Events and deliveries are read a few at a time, in rounds, so that the deliveries of an absent handler cost no more.

use std::sync::{Mutex, PoisonError};

use diesel::sql_types::{BigInt, Bool, Text};
use uuid::Uuid;

use super::answers::{end, record_handled};
use crate::store::mysql::MysqlStore;
use crate::store::mysql::clock::{limited, micros_or_first, time};
use crate::store::mysql::error::Failure;
use crate::store::mysql::session::{Session, on_session};
use crate::store::mysql::statement::{Statement, Value, is_of_event};
use crate::store::{Care, HandledDelivery, Result, Settled};

/// The number of rows of each kind that one call reads.
const BATCH: i64 = 1_000;

/// The progress of the rounds.
#[derive(Default)]
pub(in crate::store::mysql) struct Rounds(Mutex<(Option<Events>, Option<Deliveries>)>);

/// `created_at` and id. `None`: from the start.
type Events = (i64, Uuid);
type Deliveries = (Uuid, i64, String);

impl Rounds {
    fn places(&self) -> std::sync::MutexGuard<'_, (Option<Events>, Option<Deliveries>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(in crate::store::mysql) async fn finish_settled(store: &MysqlStore) -> Result<usize> {
    let (events, deliveries) = store.rounds.places().clone();
    let mut ended = end_dropped(store).await?;
    let (over, places) = find_over(store, events, deliveries).await?;
    if !over.is_empty() {
        let outcomes = record_handled(store, &over, Care::Usual).await?;
        ended += outcomes.iter().filter(|outcome| **outcome != Settled::Locked).count();
    }
    *store.rounds.places() = places;
    Ok(ended)
}

/// Ends deliveries of settles that had read the announcement before it was dropped.
async fn end_dropped(store: &MysqlStore) -> Result<usize> {
    let mut ended = 0;
    for (handler, generation) in read_dropped(store).await? {
        ended += end(store, &handler, (generation, generation), BATCH).await?;
    }
    Ok(ended)
}

async fn read_dropped(store: &MysqlStore) -> Result<Vec<(String, i64)>> {
    on_session!(store.pool, "find deliveries to dropped handlers", |session| dropped(session))
}

/// Steps from one handler's generation to the next.
async fn dropped(session: &mut Session<'_>) -> Result<Vec<(String, i64)>, Failure> {
    const NEXT: &str = "SELECT d.handler, d.generation, EXISTS (SELECT 1 FROM outbox_handlers h \
            WHERE h.name = d.handler AND h.generation = d.generation) \
        FROM outbox_handler_deliveries d FORCE INDEX (outbox_handler_deliveries_due) \
        WHERE d.handler >= ? AND (d.handler > ? OR d.generation > ?) ORDER BY d.handler, d.generation LIMIT 1";
    let mut dropped = Vec::new();
    let (mut handler, mut generation) = (String::new(), -1);
    loop {
        let values: [Value; 3] = [handler.as_str().into(), handler.as_str().into(), generation.into()];
        let rows: Vec<(String, i64, bool)> = session.load(Statement::<(Text, BigInt, Bool)>::new(NEXT, values)).await?;
        let Some((next_handler, next_generation, is_current)) = rows.into_iter().next() else { return Ok(dropped) };
        (handler, generation) = (next_handler, next_generation);
        if generation != 0 && !is_current {
            dropped.push((handler.clone(), generation));
        }
    }
}

type Over = Vec<HandledDelivery>;
type Places = (Option<Events>, Option<Deliveries>);

async fn find_over(
    store: &MysqlStore,
    events: Option<Events>,
    deliveries: Option<Deliveries>,
) -> Result<(Over, Places)> {
    on_session!(store.pool, "find deliveries and events that are over", |session| read_over(
        session,
        events,
        deliveries.as_ref()
    ))
}

async fn read_over(
    session: &mut Session<'_>,
    events: Option<Events>,
    deliveries: Option<&Deliveries>,
) -> Result<(Over, Places), Failure> {
    let (mut over, events) = events_without_deliveries(session, events).await?;
    let (gone, deliveries) = deliveries_without_events(session, deliveries).await?;
    over.extend(gone);
    Ok((over, (events, deliveries)))
}

/// Events without deliveries, named as answers of no handler: the event's row decides once it is locked.
async fn events_without_deliveries(
    session: &mut Session<'_>,
    after: Option<Events>,
) -> Result<(Over, Option<Events>), Failure> {
    const READ: &str = concat!(
        "SELECT ",
        micros_or_first!("e.created_at"),
        ", CAST(e.id AS char), e.seq, e.published_at IS NOT NULL AND NOT EXISTS (SELECT 1 \
           FROM outbox_handler_deliveries d FORCE INDEX (PRIMARY) WHERE ",
        is_of_event!(),
        " AND d.seq = e.seq) \
         FROM outbox_events e FORCE INDEX (outbox_events_listed) \
         WHERE e.listed_status = 'processing' AND e.created_at >= ",
        time!(),
        " AND (e.created_at > ",
        time!(),
        " OR e.id > ?) ORDER BY e.created_at, e.id LIMIT ?"
    );
    let (created_at, id) = after.unwrap_or((i64::MIN, Uuid::nil()));
    let created_at = limited(created_at);
    let values: [Value; 4] = [created_at.into(), created_at.into(), id.into(), BATCH.into()];
    let rows: Vec<(i64, String, i64, bool)> =
        session.load(Statement::<(BigInt, Text, BigInt, Bool)>::new(READ, values)).await?;
    let is_full = is_full(rows.len());
    let (mut over, mut last) = (Vec::new(), None);
    for (created_at, id, seq, is_over) in rows {
        let id = Uuid::try_parse(&id).map_err(Failure::client)?;
        over.extend(is_over.then(|| HandledDelivery::kept("", id, seq)));
        last = Some((created_at, id));
    }
    Ok((over, last.filter(|_| is_full)))
}

async fn deliveries_without_events(
    session: &mut Session<'_>,
    after: Option<&Deliveries>,
) -> Result<(Over, Option<Deliveries>), Failure> {
    // By `seq`: a `char(32)` is not found by a `uuid`.
    const READ: &str = concat!(
        "SELECT CAST(d.event_id AS char), d.seq, d.handler, EXISTS (SELECT 1 \
            FROM outbox_events e FORCE INDEX (outbox_events_seq) WHERE e.seq = d.seq AND ",
        is_of_event!(),
        ") FROM outbox_handler_deliveries d FORCE INDEX (PRIMARY) \
        WHERE d.event_id >= ? AND (d.event_id > ? OR d.seq > ? OR d.seq = ? AND d.handler > ?) \
        ORDER BY d.event_id, d.seq, d.handler LIMIT ?"
    );
    let start = (Uuid::nil(), i64::MIN, String::new());
    let (id, seq, handler) = after.unwrap_or(&start);
    let values: [Value; 6] =
        [(*id).into(), (*id).into(), (*seq).into(), (*seq).into(), handler.as_str().into(), BATCH.into()];
    let rows: Vec<(String, i64, String, bool)> =
        session.load(Statement::<(Text, BigInt, Text, Bool)>::new(READ, values)).await?;
    let is_full = is_full(rows.len());
    let (mut over, mut last) = (Vec::new(), None);
    for (id, seq, handler, exists) in rows {
        let id = Uuid::try_parse(&id).map_err(Failure::client)?;
        over.extend((!exists).then(|| HandledDelivery::kept(&handler, id, seq)));
        last = Some((id, seq, handler));
    }
    Ok((over, last.filter(|_| is_full)))
}

fn is_full(rows: usize) -> bool {
    i64::try_from(rows).is_ok_and(|rows| rows >= BATCH)
}
