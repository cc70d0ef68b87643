//! The rows of events that answers are about, locked, and the deliveries that they owe.

use std::collections::{HashMap, HashSet};

use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text};
use uuid::Uuid;

use crate::store::mysql::error::Failure;
use crate::store::mysql::session::Session;
use crate::store::mysql::statement::{Statement, Value, list};

/// The columns of an event's row that decide about its handlers.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) seq: i64,
    pub(super) status: String,
    pub(super) published: bool,
    pub(super) pending: Option<Vec<String>>,
}

impl Event {
    /// Whether it waits for handlers elsewhere, and for nothing else.
    pub(super) fn is_owing(&self) -> bool {
        self.status == "processing" && self.published
    }
}

fn values(ids: &[Uuid]) -> Vec<Value> {
    ids.iter().map(|id| Value::from(*id)).collect()
}

fn parse(id: &str) -> Result<Uuid, Failure> {
    Uuid::try_parse(id).map_err(Failure::client)
}

/// Locks those of the events that no other transaction holds. Later statements of the transaction see what was committed
/// before a lock was taken.
pub(super) async fn lock(session: &mut Session<'_>, ids: &[Uuid]) -> Result<HashMap<Uuid, Event>, Failure> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = format!(
        "SELECT CAST(e.id AS char), e.seq, e.status, e.published_at IS NOT NULL, CAST(e.pending_handlers AS char) \
         FROM outbox_events e FORCE INDEX (PRIMARY) WHERE e.id IN {} FOR UPDATE SKIP LOCKED",
        list(ids.len())
    );
    type Types = (Text, BigInt, Text, Bool, Nullable<Text>);
    let rows: Vec<(String, i64, String, bool, Option<String>)> =
        session.load(Statement::<Types>::built(sql, values(ids))).await?;
    let event = |(id, seq, status, published, pending): (String, i64, String, bool, Option<String>)| {
        let pending = pending.and_then(|names| serde_json::from_str(&names).ok());
        Ok((parse(&id)?, Event { seq, status, published, pending }))
    };
    rows.into_iter().map(event).collect()
}

/// Those of the events that exist, locked or not.
pub(super) async fn find(session: &mut Session<'_>, ids: &[Uuid]) -> Result<HashSet<(Uuid, i64)>, Failure> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = format!(
        "SELECT CAST(e.id AS char), e.seq FROM outbox_events e FORCE INDEX (PRIMARY) WHERE e.id IN {}",
        list(ids.len())
    );
    let rows: Vec<(String, i64)> = session.load(Statement::<(Text, BigInt)>::built(sql, values(ids))).await?;
    rows.into_iter().map(|(id, seq)| Ok((parse(&id)?, seq))).collect()
}

/// A delivery of an event, by the handler's name.
pub(super) struct Delivery {
    pub(super) id: Uuid,
    pub(super) seq: i64,
    pub(super) handler: String,
    pub(super) attempts: i32,
}

/// The deliveries of events, sorted by handler.
pub(super) async fn deliveries(session: &mut Session<'_>, ids: &[Uuid]) -> Result<Vec<Delivery>, Failure> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT CAST(d.event_id AS char), d.seq, d.handler, d.attempts \
         FROM outbox_handler_deliveries d FORCE INDEX (PRIMARY) WHERE d.event_id IN {} ORDER BY d.handler",
        list(ids.len())
    );
    let rows: Vec<(String, i64, String, i32)> =
        session.load(Statement::<(Text, BigInt, Text, Integer)>::built(sql, values(ids))).await?;
    rows.into_iter()
        .map(|(id, seq, handler, attempts)| Ok(Delivery { id: parse(&id)?, seq, handler, attempts }))
        .collect()
}

/// The most deliveries that one statement names.
const MOST_NAMED: usize = 200;

/// Deletes deliveries by event, `seq` and handler.
pub(super) async fn delete_deliveries(
    session: &mut Session<'_>,
    deliveries: &[(Uuid, i64, &str)],
) -> Result<(), Failure> {
    const ONE: &str = "(d.event_id = ? AND d.seq = ? AND d.handler = ?)";
    for part in deliveries.chunks(MOST_NAMED) {
        let sql = format!(
            "DELETE d FROM outbox_handler_deliveries d FORCE INDEX (PRIMARY) WHERE {}",
            vec![ONE; part.len()].join(" OR ")
        );
        let values: Vec<Value> =
            part.iter().flat_map(|(id, seq, handler)| [(*id).into(), (*seq).into(), (*handler).into()]).collect();
        session.execute(Statement::<()>::built(sql, values)).await?;
    }
    Ok(())
}

/// Writes something, so that the commit waits until all before it is durable: an earlier transaction is seen by others before
/// the server has written its log.
pub(super) async fn write_something(session: &mut Session<'_>) -> Result<(), Failure> {
    const INSERT: &str = "INSERT INTO outbox_handler_deliveries \
            (event_id, seq, handler, generation, lane, shard, partition_key, scheduled_at, max_attempts, next_at) \
        VALUES (?, 0, '', 0, '', 0, '', UTC_TIMESTAMP(6), 0, TIMESTAMP'9999-12-31 23:59:59.999999')";
    const DELETE: &str = "DELETE FROM outbox_handler_deliveries WHERE event_id = ? AND seq = 0 AND handler = ''";
    let id = Uuid::now_v7();
    session.execute(Statement::<()>::new(INSERT, [id.into()])).await?;
    session.execute(Statement::<()>::new(DELETE, [id.into()])).await.map(drop)
}
