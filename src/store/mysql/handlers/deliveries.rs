//! Fetches the deliveries that are owed to a handler, from one snapshot.
//!
//! First the due deliveries are read, which are small, by the index on their times, and those that the handler may not get
//! yet are left out; then their events. A delivery that waits for another of its key would be read again with each fetch, so
//! if there are many, it is postponed until the one that it waits for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use diesel::sql_types::{BigInt, Bool, Integer, SmallInt, Text};
use uuid::Uuid;

use super::answers;
use super::ends::{Ends, ReadDeliveries};
use crate::event::OutboxEvent;
use crate::store::mysql::clock::{micros, time};
use crate::store::mysql::error::Failure;
use crate::store::mysql::fetch::{Placed, PlacedRow, refuse_oversize, to_fetched};
use crate::store::mysql::row::COLUMNS;
use crate::store::mysql::session::{Session, in_transaction, on_session};
use crate::store::mysql::statement::{Statement, Value, list};
use crate::store::mysql::{MysqlStore, SHARDS};
use crate::store::{Care, DeliveryRequest, FetchedDelivery, HandledDelivery, Position, Result};

/// The number of extra deliveries of each shard that are read to find some that need not wait.
const SPARE: usize = 100;

/// In microseconds: deliveries behind one that waits for an operator are checked again this often.
const LONGEST_PUT_OFF: i64 = 10_000_000;

/// Deliveries whose keys are asked about together, and events that are read together.
const STEP: usize = 100;

#[derive(Debug, Clone)]
pub(super) struct Due {
    pub(super) id: Uuid,
    pub(super) position: Position,
    pub(super) lane: String,
    pub(super) key: String,
    shard: i16,
    attempts: i32,
    max_attempts: i32,
    pub(super) next_at: i64,
}

/// The result of a fetch.
#[derive(Default)]
struct Found {
    deliveries: Vec<FetchedDelivery>,
    /// Deliveries whose event was deleted.
    gone: Vec<HandledDelivery>,
    /// Deliveries (id, seq) that have to wait, by the time until which.
    waiting: BTreeMap<i64, Vec<(Uuid, i64)>>,
}

pub(super) async fn fetch(store: &MysqlStore, request: &DeliveryRequest) -> Result<Vec<FetchedDelivery>> {
    let found = read_found(store, request).await?;
    if !found.waiting.is_empty() {
        postpone_all(store, &request.handler, &found.waiting).await?;
    }
    if !found.gone.is_empty() {
        answers::record_handled(store, &found.gone, Care::Usual).await?;
    }
    Ok(found.deliveries)
}

async fn read_found(store: &MysqlStore, request: &DeliveryRequest) -> Result<Found> {
    on_session!(store.pool, "fetch deliveries to a handler", |session| read_in_snapshot(session, request))
}

async fn read_in_snapshot(session: &mut Session<'_>, request: &DeliveryRequest) -> Result<Found, Failure> {
    session.begin_snapshot().await?;
    let found = read(session, request).await?;
    session.commit().await?;
    // As events do, deliveries follow the earlier ones of their keys only if the end of those cannot be lost.
    session.confirm_read(!found.deliveries.is_empty()).await?;
    Ok(found)
}

async fn read(session: &mut Session<'_>, request: &DeliveryRequest) -> Result<Found, Failure> {
    let (generations, now) = read_generations(session, &request.handler).await?;
    let in_flight = count_in_flight(session, request).await?;
    let (due, crowded) = read_due(session, request, &generations, &in_flight).await?;
    let all = ReadDeliveries::new(&due);
    let (mut ends, mut found, mut ready) = (Ends::default(), Found::default(), Vec::new());
    for part in due.chunks(STEP) {
        ends.find(session, &request.handler, &generations, part, &all).await?;
        for due in part {
            match ends.put_off_to(due).map(|time| time.min(now.saturating_add(LONGEST_PUT_OFF))) {
                None if ready.len() < request.max_events => ready.push(due),
                Some(time) if time > due.next_at && crowded.contains(&due.shard) => {
                    found.waiting.entry(time).or_default().push((due.id, due.position.seq));
                }
                _ => {}
            }
        }
        if ready.len() >= request.max_events {
            break;
        }
    }
    found.add_events(session, request, &ready).await?;
    Ok(found)
}

/// The generations of current deliveries, and the time of the snapshot.
async fn read_generations(session: &mut Session<'_>, handler: &str) -> Result<(Vec<i64>, i64), Failure> {
    const READ: &str = concat!(
        "SELECT 0, ",
        micros!("UTC_TIMESTAMP(6)"),
        " UNION ALL SELECT generation, 0 FROM outbox_handlers WHERE name = ?"
    );
    let rows: Vec<(i64, i64)> = session.load(Statement::<(BigInt, BigInt)>::new(READ, [handler.into()])).await?;
    let now = rows.iter().map(|(_, now)| *now).max().unwrap_or_default();
    Ok((rows.into_iter().map(|(generation, _)| generation).collect(), now))
}

/// The deliveries in flight by shard, which the limit of each shard leaves room for.
async fn count_in_flight(session: &mut Session<'_>, request: &DeliveryRequest) -> Result<HashMap<i16, usize>, Failure> {
    let mut counts: HashMap<i16, usize> = HashMap::new();
    for part in request.except.chunks(5 * STEP) {
        let sql = format!(
            "SELECT d.shard, COUNT(*) FROM outbox_handler_deliveries d FORCE INDEX (PRIMARY) \
             WHERE d.event_id IN {} AND d.handler = ? GROUP BY d.shard",
            list(part.len())
        );
        let ids = part.iter().map(|(id, _)| Value::from(*id));
        let values: Vec<Value> = ids.chain([request.handler.as_str().into()]).collect();
        for (shard, count) in session.load::<_, (i16, i64)>(Statement::<(SmallInt, BigInt)>::built(sql, values)).await?
        {
            *counts.entry(shard).or_default() += usize::try_from(count).unwrap_or_default();
        }
    }
    Ok(counts)
}

type DueTypes = (Text, BigInt, BigInt, Text, Text, SmallInt, Integer, Integer, BigInt);
type DueRow = (String, i64, i64, String, String, i16, i32, i32, i64);

/// Due deliveries in the order of their events, and the shards of which not all were read.
async fn read_due(
    session: &mut Session<'_>,
    request: &DeliveryRequest,
    generations: &[i64],
    in_flight: &HashMap<i16, usize>,
) -> Result<(Vec<Due>, HashSet<i16>), Failure> {
    let most = request.max_events / request.shards.len().max(1) + SPARE;
    let (mut parts, mut values) = (Vec::new(), Vec::new());
    for shard in &request.shards {
        for generation in generations {
            parts.push(format!(
                "(SELECT CAST(d.event_id AS char), {}, d.seq, d.lane, d.partition_key, d.shard, d.attempts, \
                 d.max_attempts, {} FROM outbox_handler_deliveries d FORCE INDEX (outbox_handler_deliveries_due) \
                 WHERE d.handler = ? AND d.generation = {generation} AND d.shard = {shard} \
                 AND d.next_at <= UTC_TIMESTAMP(6) ORDER BY d.next_at, d.scheduled_at, d.seq LIMIT {})",
                micros!("d.scheduled_at"),
                micros!("d.next_at"),
                most + in_flight.get(shard).copied().unwrap_or_default()
            ));
            values.push(Value::from(request.handler.as_str()));
        }
    }
    if parts.is_empty() {
        return Ok((Vec::new(), HashSet::new()));
    }
    let except: HashSet<&(Uuid, i64)> = request.except.iter().collect();
    let mut due = Vec::new();
    let mut counts: HashMap<i16, usize> = HashMap::new();
    let query = Statement::<DueTypes>::built(parts.join(" UNION ALL "), values);
    for (id, scheduled_at, seq, lane, key, shard, attempts, max_attempts, next_at) in
        session.load::<_, DueRow>(query).await?
    {
        let id = Uuid::try_parse(&id).map_err(Failure::client)?;
        if !except.contains(&(id, seq)) {
            *counts.entry(shard).or_default() += 1;
            let position = Position { scheduled_at, seq };
            due.push(Due { id, position, lane, key, shard, attempts, max_attempts, next_at });
        }
    }
    due.sort_by_key(|due| due.position);
    let crowded = counts.into_iter().filter(|(_, count)| *count >= most).map(|(shard, _)| shard);
    Ok((due, crowded.collect()))
}

type Event = std::result::Result<Arc<OutboxEvent>, String>;

impl Found {
    /// Adds deliveries with their events. The first one that the budget leaves out ends the result, so that no later event of
    /// a key comes before an earlier one.
    async fn add_events(
        &mut self,
        session: &mut Session<'_>,
        request: &DeliveryRequest,
        ready: &[&Due],
    ) -> Result<(), Failure> {
        let mut bytes = 0;
        for part in ready.chunks(STEP) {
            let seqs: HashMap<Uuid, i64> = part.iter().map(|due| (due.id, due.position.seq)).collect();
            let is_first = self.deliveries.is_empty();
            let (mut events, mut cut_short): (HashMap<Uuid, Event>, bool) = (HashMap::new(), false);
            let take = |(shard, row): PlacedRow| {
                let fetched = to_fetched(shard, row);
                if seqs.get(&fetched.id) != Some(&fetched.position.seq) {
                    return true;
                }
                let fetched = refuse_oversize(fetched, request.max_event_bytes);
                let size = fetched.event.as_ref().map_or(0, |event| event.size());
                if !(is_first && events.is_empty()) && size.saturating_add(bytes) > request.max_bytes {
                    cut_short = true;
                    return false;
                }
                bytes = size.saturating_add(bytes);
                events.insert(fetched.id, fetched.event);
                true
            };
            session.load_while(read_events(part), take).await?;
            for due in part {
                match events.remove(&due.id) {
                    Some(event) => self.deliveries.push(due.fetched(&request.handler, event)),
                    None if cut_short => return Ok(()),
                    None => self.gone.push(HandledDelivery::kept(&request.handler, due.id, due.position.seq)),
                }
            }
        }
        Ok(())
    }
}

fn read_events(due: &[&Due]) -> Statement<Placed> {
    let sql = format!(
        "SELECT e.shard, {COLUMNS} FROM outbox_events e FORCE INDEX (PRIMARY) WHERE e.id IN {} \
         ORDER BY e.scheduled_at, e.seq",
        list(due.len())
    );
    Statement::built(sql, due.iter().map(|due| Value::from(due.id)).collect::<Vec<_>>())
}

impl Due {
    fn fetched(&self, handler: &str, event: Event) -> FetchedDelivery {
        FetchedDelivery {
            handler: handler.to_owned(),
            shard: self.shard,
            lane: Arc::from(self.lane.as_str()),
            id: self.id,
            seq: self.position.seq,
            attempts: self.attempts,
            max_attempts: self.max_attempts,
            position: self.position,
            event,
        }
    }
}

/// Postpones deliveries that wait: each is found again once the delivery before it was handled, or at its time.
async fn postpone_all(store: &MysqlStore, handler: &str, waiting: &BTreeMap<i64, Vec<(Uuid, i64)>>) -> Result<()> {
    in_transaction!(store.pool, "postpone deliveries", |session| postpone(session, handler, waiting))
}

async fn postpone(
    session: &mut Session<'_>,
    handler: &str,
    waiting: &BTreeMap<i64, Vec<(Uuid, i64)>>,
) -> Result<(), Failure> {
    for (until, deliveries) in waiting {
        for part in deliveries.chunks(STEP) {
            let named = vec!["(d.event_id = ? AND d.seq = ? AND d.handler = ?)"; part.len()].join(" OR ");
            let sql = format!(
                "UPDATE outbox_handler_deliveries d FORCE INDEX (PRIMARY) SET d.next_at = {} WHERE d.next_at < {} AND ({named})",
                time!(),
                time!()
            );
            let named = part.iter().flat_map(|(id, seq)| [(*id).into(), (*seq).into(), handler.into()]);
            let values: Vec<Value> = [(*until).into(), (*until).into()].into_iter().chain(named).collect();
            session.execute(Statement::<()>::built(sql, values)).await?;
        }
    }
    Ok(())
}

pub(super) async fn has_due(session: &mut Session<'_>, handlers: &[String]) -> Result<bool, Failure> {
    let shards = (0..SHARDS).map(|shard| shard.to_string()).collect::<Vec<_>>().join(", ");
    for handler in handlers {
        let (generations, _) = read_generations(session, handler).await?;
        let generations = generations.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM outbox_handler_deliveries d FORCE INDEX (outbox_handler_deliveries_due) \
             WHERE d.handler = ? AND d.generation IN ({generations}) AND d.shard IN ({shards}) \
             AND d.next_at <= UTC_TIMESTAMP(6))"
        );
        if session.load_one(Statement::<Bool>::built(sql, [handler.as_str().into()])).await? {
            return Ok(true);
        }
    }
    Ok(false)
}
