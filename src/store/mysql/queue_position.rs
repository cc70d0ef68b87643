//! The position of one event in its queue.

use chrono::DateTime;
use diesel::sql_types::{BigInt, Text};
use uuid::Uuid;

use super::SHARDS;
use super::clock::{micros, micros_or_first};
use super::error::Failure;
use super::fetch::position::{before, position};
use super::session::Session;
use super::statement::{Statement, Value};
use crate::store::{MOST_AHEAD, Position, QueuePosition};

type Types = (BigInt, Text, BigInt, BigInt, BigInt);

/// Counts each shard through the index for reading, up to its part of the maximum.
pub(super) async fn queue_position(session: &mut Session<'_>, id: Uuid) -> Result<Option<QueuePosition>, Failure> {
    const FIND: &str = concat!(
        "SELECT ",
        micros!("SYSDATE(6)"),
        ", publisher_backend, ",
        micros_or_first!("scheduled_at"),
        ", seq, CAST(shard AS signed) FROM outbox_events WHERE id = ?"
    );
    const OWNER: &str = "SELECT CAST(owner AS char) FROM outbox_running_leases WHERE backend = ? AND shard = ?";
    let found = session.load::<_, (i64, String, i64, i64, i64)>(Statement::<Types>::new(FIND, [id.into()])).await?;
    let Some((now, lane, scheduled_at, seq, shard)) = found.into_iter().next() else { return Ok(None) };
    let owner = Statement::<Text>::new(OWNER, [lane.as_str().into(), shard.into()]);
    let owner = session.load::<_, String>(owner).await?.into_iter().next();
    let at = Position { scheduled_at, seq };
    let (ahead, more_ahead) = count_ahead(session, &lane, at).await?;
    Ok(Some(QueuePosition {
        now: DateTime::from_timestamp_micros(now).unwrap_or_default(),
        position: at,
        shard: i16::try_from(shard).unwrap_or_default(),
        owner: owner.as_deref().map(Uuid::try_parse).transpose().map_err(Failure::client)?,
        ahead,
        more_ahead,
    }))
}

async fn count_ahead(session: &mut Session<'_>, lane: &str, at: Position) -> Result<(i64, bool), Failure> {
    let most = MOST_AHEAD / i64::from(SHARDS);
    let part = |shard: i16| {
        format!(
            "SELECT COUNT(*) FROM (SELECT 1 FROM outbox_events e FORCE INDEX (outbox_events_due) \
             WHERE e.publisher_backend = ? AND e.due_shard = {shard} AND {} LIMIT {most}) counted",
            before!()
        )
    };
    let parts: Vec<String> = (0..SHARDS).map(part).collect();
    let one = || std::iter::once(Value::from(lane)).chain(position(at));
    let values: Vec<Value> = (0..SHARDS).flat_map(|_| one()).collect();
    let counts: Vec<i64> = session.load(Statement::<BigInt>::built(parts.join(" UNION ALL "), values)).await?;
    Ok((counts.iter().sum(), counts.iter().any(|count| *count >= most)))
}
