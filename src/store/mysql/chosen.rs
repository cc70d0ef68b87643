//! The events that an operator's change is about, locked.

use diesel::sql_types::{BigInt, Bool, Text};
use uuid::Uuid;

use super::clock::micros_or_first;
use super::error::Failure;
use super::session::Session;
use super::statement::{Statement, Value, list};
use crate::store::Position;

/// The most events in one statement.
pub(super) const AT_ONCE: usize = 500;

#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) id: Uuid,
    pub(super) position: Position,
    pub(super) lane: String,
    pub(super) status: String,
    pub(super) published: bool,
}

/// Waits for rows that other transactions hold.
pub(super) const WAIT: &str = "FOR UPDATE";

/// Leaves rows that other transactions hold.
pub(super) const SKIP: &str = "FOR UPDATE SKIP LOCKED";

type Types = (Text, BigInt, BigInt, Text, Text, Bool);
type Row = (String, i64, i64, String, String, bool);

/// Locks events, and returns them in their order.
pub(super) async fn choose(session: &mut Session<'_>, ids: &[Uuid], lock: &str) -> Result<Vec<Chosen>, Failure> {
    let mut chosen = Vec::with_capacity(ids.len());
    for part in ids.chunks(AT_ONCE) {
        let sql = format!(
            "SELECT CAST(e.id AS char), {}, e.seq, e.publisher_backend, e.status, e.published_at IS NOT NULL \
             FROM outbox_events e FORCE INDEX (PRIMARY) WHERE e.id IN {} {lock}",
            micros_or_first!("e.scheduled_at"),
            list(part.len())
        );
        let values: Vec<Value> = part.iter().map(|id| Value::from(*id)).collect();
        for (id, scheduled_at, seq, lane, status, published) in
            session.load::<_, Row>(Statement::<Types>::built(sql, values)).await?
        {
            let id = Uuid::try_parse(&id).map_err(Failure::client)?;
            chosen.push(Chosen { id, position: Position { scheduled_at, seq }, lane, status, published });
        }
    }
    chosen.sort_by_key(|event| event.position);
    Ok(chosen)
}

/// Executes a statement that ends with a list of ids, for these events.
pub(super) async fn execute(
    session: &mut Session<'_>,
    statement: &str,
    before: &[Value],
    events: &[Chosen],
) -> Result<(), Failure> {
    for part in events.chunks(AT_ONCE) {
        let ids = part.iter().map(|event| Value::from(event.id));
        let values: Vec<Value> = before.iter().cloned().chain(ids).collect();
        session.execute(Statement::<()>::built(format!("{statement} {}", list(part.len())), values)).await?;
    }
    Ok(())
}

/// Deletes the deliveries of events.
pub(super) async fn end_deliveries(session: &mut Session<'_>, events: &[Chosen]) -> Result<(), Failure> {
    const DELETE: &str = "DELETE d FROM outbox_handler_deliveries d FORCE INDEX (PRIMARY) WHERE d.event_id IN";
    execute(session, DELETE, &[], events).await
}
