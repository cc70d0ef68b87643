//! The handlers to which an event is owed, and whether any are left.

use std::collections::BTreeMap;

use diesel::sql_types::{BigInt, Text};
use serde_json::json;
use uuid::Uuid;

use super::locked::Row;
use crate::store::mysql::error::Failure;
use crate::store::mysql::session::Session;
use crate::store::mysql::statement::{Statement, Value, list};

/// The time of a delivery that has failed permanently and holds later ones of its key.
macro_rules! held {
    () => {
        "TIMESTAMP'9999-12-31 23:59:59.999999'"
    };
}

/// The handlers to which new events are owed.
pub(super) struct Announced(Vec<Handler>);

struct Handler {
    name: String,
    types: Vec<String>,
    generation: i64,
}

impl Handler {
    fn covers(&self, event_type: &str) -> bool {
        self.types.iter().any(|pattern| matches(pattern, event_type))
    }
}

/// An exact type, or a prefix that ends in `*`.
fn matches(pattern: &str, event_type: &str) -> bool {
    let prefix = pattern.strip_suffix('*');
    pattern == event_type || prefix.is_some_and(|prefix| event_type.starts_with(prefix))
}

/// The handlers to which an event is owed, with the generations of their announcements.
pub(super) type Owed = BTreeMap<String, i64>;

impl Announced {
    /// Read after the rows are locked.
    pub(super) async fn read(session: &mut Session<'_>) -> Result<Self, Failure> {
        const QUERY: &str = "SELECT name, CAST(types AS char), generation FROM outbox_handlers \
            WHERE TIMESTAMPDIFF(MICROSECOND, seen_at, UTC_TIMESTAMP(6)) < owed_for";
        let rows: Vec<(String, String, i64)> = session.load(Statement::<(Text, Text, BigInt)>::new(QUERY, [])).await?;
        let handler = |(name, types, generation): (String, String, i64)| Handler {
            name,
            types: serde_json::from_str(&types).unwrap_or_default(),
            generation,
        };
        Ok(Self(rows.into_iter().map(handler).collect()))
    }

    /// The names of handlers for a type, as `pending_handlers` stores them.
    pub(super) fn names_for(&self, event_type: &str) -> Option<String> {
        let names: Vec<&str> =
            self.0.iter().filter(|handler| handler.covers(event_type)).map(|handler| handler.name.as_str()).collect();
        (!names.is_empty()).then(|| json!(names).to_string())
    }

    /// The handlers to which this settle makes the event owed. The first acceptance fixes them; later, only a process that
    /// finds the event again in pending or retry leaves it to others.
    pub(super) fn owed<'a>(&self, row: &Row, asked: &[String], left: impl Iterator<Item = &'a str>) -> Owed {
        let mut owed = Owed::new();
        if !row.published || row.is_tried_again() {
            owed.extend(left.map(|name| (name.to_owned(), 0)));
        }
        for handler in &self.0 {
            let is_new = !row.published && handler.covers(&row.event_type) && !asked.contains(&handler.name);
            if is_new || owed.contains_key(&handler.name) {
                owed.insert(handler.name.clone(), handler.generation);
            }
        }
        owed
    }
}

impl Row {
    pub(super) fn is_tried_again(&self) -> bool {
        matches!(self.status.as_str(), "pending" | "retry")
    }

    /// The handlers that the row names, if it names them as an array.
    pub(in crate::store::mysql) fn pending_names(&self) -> Option<Vec<String>> {
        self.pending_handlers.as_deref().and_then(|names| serde_json::from_str(names).ok())
    }

    /// The pending handlers that this settle did not call: a process that read the event before they became pending does
    /// not know of them.
    pub(super) fn uncalled(&self, asked: &[String]) -> Vec<String> {
        let names = self.pending_names().filter(|_| self.published && self.is_tried_again()).unwrap_or_default();
        names.into_iter().filter(|name| !asked.contains(name)).collect()
    }
}

/// Creates deliveries of these events to one handler, and takes up one that held later ones. Returns how many are new.
pub(super) async fn owe(
    session: &mut Session<'_>,
    ids: &[Uuid],
    handler: &str,
    generation: i64,
    is_held: bool,
) -> Result<usize, Failure> {
    let sql = format!(
        concat!(
            "INSERT INTO outbox_handler_deliveries \
                (event_id, seq, handler, generation, lane, shard, partition_key, scheduled_at, max_attempts, next_at) \
             SELECT id, seq, ?, ?, publisher_backend, shard, partition_key, scheduled_at, max_retries, {} \
                FROM outbox_events WHERE id IN {} ORDER BY scheduled_at, seq \
             ON DUPLICATE KEY UPDATE attempts = IF(next_at = ",
            held!(),
            ", 0, attempts), next_at = IF(next_at = ",
            held!(),
            ", VALUES(next_at), next_at)"
        ),
        if is_held { held!() } else { "UTC_TIMESTAMP(6)" },
        list(ids.len())
    );
    let values: Vec<Value> =
        [handler.into(), generation.into()].into_iter().chain(ids.iter().map(|id| Value::from(*id))).collect();
    session.execute(Statement::<()>::built(sql, values)).await
}

/// Deletes the held deliveries of an event that is retried: its handlers decide again.
pub(super) async fn forget_held(session: &mut Session<'_>, id: Uuid, row: &Row) -> Result<(), Failure> {
    const FORGET: &str =
        concat!("DELETE FROM outbox_handler_deliveries WHERE event_id = ? AND seq = ? AND next_at = ", held!());
    if row.is_tried_again() {
        session.execute(Statement::<()>::new(FORGET, [id.into(), row.seq.into()])).await?;
    }
    Ok(())
}

/// Publishes the event, or deletes it, if it owes nothing any more; otherwise records the handlers to which it is owed.
/// Its row is locked.
pub(in crate::store::mysql) async fn decide(
    session: &mut Session<'_>,
    id: Uuid,
    seq: i64,
    deletes: bool,
) -> Result<(), Failure> {
    const NAMES: &str = "SELECT handler FROM outbox_handler_deliveries WHERE event_id = ? AND seq = ? ORDER BY handler";
    const DECIDE: &str = "UPDATE outbox_events SET status = ?, pending_handlers = ?, \
        published_at = COALESCE(published_at, UTC_TIMESTAMP(6)), updated_at = UTC_TIMESTAMP(6) \
        WHERE id = ? AND seq = ? AND (published_at IS NULL OR NOT pending_handlers <=> ? OR status <> ?)";
    let names: Vec<String> = session.load(Statement::<Text>::new(NAMES, [id.into(), seq.into()])).await?;
    if deletes && names.is_empty() {
        return super::accepted::delete(session, &[id]).await;
    }
    let pending = (!names.is_empty()).then(|| json!(names).to_string());
    let status = if names.is_empty() { "published" } else { "processing" };
    let values: [Value; 6] =
        [status.into(), pending.clone().into(), id.into(), seq.into(), pending.into(), status.into()];
    session.execute(Statement::<()>::new(DECIDE, values)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_all_types_one_type_or_a_prefix() {
        for (pattern, event_type, expected) in [
            ("*", "user.made", true),
            ("user.made", "user.made", true),
            ("user.*", "user.made", true),
            ("user.*", "user", false),
            ("user.*", "users.made", false),
            ("user*", "users", true),
            ("user", "user.made", false),
        ] {
            assert_eq!(matches(pattern, event_type), expected, "{pattern} {event_type}");
        }
    }
}
