//! The handlers to which an event is owed, and whether any are left.

use std::collections::BTreeMap;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};
use serde_json::json;
use uuid::Uuid;

use crate::store::sqlite::delete::delete_event;

/// The time of a delivery that has failed permanently and holds later ones of its key.
pub(in crate::store::sqlite) const HELD: i64 = i64::MAX;

/// The handlers to which new events are owed.
pub(in crate::store::sqlite) struct Announced(Vec<Handler>);

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

impl Announced {
    pub(in crate::store::sqlite) fn read(connection: &mut SqliteConnection, now: i64) -> QueryResult<Self> {
        let rows: Vec<(String, String, i64)> = sql::<(Text, Text, BigInt)>(
            "SELECT name, types, generation FROM outbox_handlers
             WHERE (SELECT protocol FROM outbox_meta) >= 2 AND seen_at + owed_for > ",
        )
        .bind::<BigInt, _>(now)
        .load(connection)?;
        let handler = |(name, types, generation): (String, String, i64)| Handler {
            name,
            types: serde_json::from_str(&types).unwrap_or_default(),
            generation,
        };
        Ok(Self(rows.into_iter().map(handler).collect()))
    }

    /// Whether an event of some type can be owed to a handler that was not asked.
    pub(in crate::store::sqlite) fn has_unasked(&self, asked: &[String]) -> bool {
        self.0.iter().any(|handler| !asked.contains(&handler.name))
    }

    /// The names of handlers for a type, as `pending_handlers` stores them.
    pub(in crate::store::sqlite) fn names_for(&self, event_type: &str) -> Option<String> {
        let names: Vec<&str> =
            self.0.iter().filter(|handler| handler.covers(event_type)).map(|handler| handler.name.as_str()).collect();
        (!names.is_empty()).then(|| json!(names).to_string())
    }
}

/// The columns of an event's row that decide about its handlers.
pub(in crate::store::sqlite) struct Owing {
    pub(in crate::store::sqlite) status: String,
    pub(in crate::store::sqlite) published: bool,
    pub(in crate::store::sqlite) event_type: String,
    pending_handlers: Vec<String>,
}

impl Owing {
    pub(in crate::store::sqlite) fn find(
        connection: &mut SqliteConnection,
        id: Uuid,
        seq: i64,
    ) -> QueryResult<Option<Self>> {
        let row = sql::<(Text, Bool, Text, Nullable<Text>)>(
            "SELECT CAST(status AS TEXT), published_at IS NOT NULL, CAST(event_type AS TEXT),
                CASE WHEN typeof(pending_handlers) = 'text' AND json_valid(pending_handlers) THEN pending_handlers END
             FROM outbox_events WHERE id = ",
        )
        .bind::<Binary, _>(id.as_bytes().as_slice())
        .sql(" AND seq = ")
        .bind::<BigInt, _>(seq)
        .get_result::<(String, bool, String, Option<String>)>(connection)
        .optional()?;
        Ok(row.map(|(status, published, event_type, pending)| {
            let pending_handlers = pending.and_then(|names| serde_json::from_str(&names).ok()).unwrap_or_default();
            Self { status, published, event_type, pending_handlers }
        }))
    }

    /// The pending handlers that this settle did not call: a process that read the event before they became pending does
    /// not know of them.
    pub(in crate::store::sqlite) fn uncalled(&self, asked: &[String]) -> Vec<String> {
        let pending = self.pending_handlers.iter().filter(|_| self.published && self.is_tried_again());
        pending.filter(|name| !asked.contains(name)).cloned().collect()
    }

    /// Creates deliveries, and returns the handlers of the new ones. The first acceptance fixes the handlers to which the
    /// event is owed; later, only a process that finds it again in pending or retry leaves it to others.
    ///
    /// Deliveries to `held` handlers have failed permanently and hold later ones of their key.
    #[expect(clippy::too_many_arguments, reason = "what an event owes depends on all of it")]
    pub(in crate::store::sqlite) fn owe(
        &self,
        connection: &mut SqliteConnection,
        (id, seq): (Uuid, i64),
        asked: &[String],
        left: &[String],
        held: &[String],
        announced: &Announced,
        now: i64,
    ) -> QueryResult<Vec<String>> {
        let mut owed: BTreeMap<&str, i64> = BTreeMap::new();
        if !self.published || self.is_tried_again() {
            owed.extend(left.iter().chain(held).map(|name| (name.as_str(), 0)));
        }
        let covering = announced.0.iter().filter(|handler| {
            owed.contains_key(handler.name.as_str())
                || !self.published && handler.covers(&self.event_type) && !asked.contains(&handler.name)
        });
        let covering: Vec<_> = covering.map(|handler| (handler.name.as_str(), handler.generation)).collect();
        owed.extend(covering);
        let mut new = Vec::new();
        for (handler, generation) in owed {
            let next_at = if held.iter().any(|held| held == handler) { HELD } else { now };
            if insert(connection, (id, seq), handler, generation, next_at, now)? {
                new.push(handler.to_owned());
            }
        }
        Ok(new)
    }

    fn is_tried_again(&self) -> bool {
        matches!(self.status.as_str(), "pending" | "retry")
    }

    /// Deletes the held deliveries of an event that is retried: its handlers decide again.
    pub(in crate::store::sqlite) fn forget_held(
        &self,
        connection: &mut SqliteConnection,
        id: Uuid,
        seq: i64,
    ) -> QueryResult<()> {
        if !self.is_tried_again() {
            return Ok(());
        }
        sql_query("DELETE FROM outbox_handler_deliveries WHERE event_id = ? AND seq = ? AND next_at = ?")
            .bind::<Binary, _>(id.as_bytes().as_slice())
            .bind::<BigInt, _>(seq)
            .bind::<BigInt, _>(HELD)
            .execute(connection)
            .map(drop)
    }
}

fn insert(
    connection: &mut SqliteConnection,
    (id, seq): (Uuid, i64),
    handler: &str,
    generation: i64,
    next_at: i64,
    now: i64,
) -> QueryResult<bool> {
    let inserted = sql_query(
        "INSERT INTO outbox_handler_deliveries
           (event_id, seq, handler, generation, lane, partition_key, scheduled_at, max_attempts, next_at, created_at)
         SELECT id, seq, ?1, ?2, CAST(publisher_backend AS TEXT), CAST(partition_key AS TEXT), scheduled_at,
           CAST(max_retries AS INTEGER), ?3, ?4 FROM outbox_events WHERE id = ?5 AND seq = ?6
         ON CONFLICT (event_id, seq, handler) DO UPDATE SET attempts = 0, next_at = excluded.next_at WHERE next_at = ?7",
    )
    .bind::<Text, _>(handler)
    .bind::<BigInt, _>(generation)
    .bind::<BigInt, _>(next_at)
    .bind::<BigInt, _>(now)
    .bind::<Binary, _>(id.as_bytes().as_slice())
    .bind::<BigInt, _>(seq)
    .bind::<BigInt, _>(HELD)
    .execute(connection)?;
    Ok(inserted > 0)
}

/// Publishes the event, or deletes it, if it owes nothing any more; otherwise records the handlers to which it is owed.
pub(in crate::store::sqlite) fn decide(
    connection: &mut SqliteConnection,
    id: Uuid,
    seq: i64,
    deletes: bool,
    now: i64,
) -> QueryResult<()> {
    let names: Vec<String> = sql::<Text>("SELECT handler FROM outbox_handler_deliveries WHERE event_id = ")
        .bind::<Binary, _>(id.as_bytes().as_slice())
        .sql(" AND seq = ")
        .bind::<BigInt, _>(seq)
        .sql(" ORDER BY handler")
        .load(connection)?;
    if deletes && names.is_empty() && delete_event(connection, id, seq)? {
        return Ok(());
    }
    let pending = (!names.is_empty()).then(|| json!(names).to_string());
    sql_query(
        "UPDATE outbox_events SET status = CASE WHEN ?1 IS NULL THEN 'published' ELSE 'processing' END,
           pending_handlers = ?1, published_at = coalesce(published_at, ?2), updated_at = ?2
         WHERE id = ?3 AND seq = ?4 AND (published_at IS NULL OR pending_handlers IS NOT ?1
           OR status <> CASE WHEN ?1 IS NULL THEN 'published' ELSE 'processing' END)",
    )
    .bind::<Nullable<Text>, _>(pending)
    .bind::<BigInt, _>(now)
    .bind::<Binary, _>(id.as_bytes().as_slice())
    .bind::<BigInt, _>(seq)
    .execute(connection)
    .map(drop)
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
            ("user.*", "user.name.changed", true),
            ("user.*", "user", false),
            ("user.*", "users.made", false),
            ("user*", "users", true),
            ("user", "user.made", false),
        ] {
            assert_eq!(matches(pattern, event_type), expected, "{pattern} {event_type}");
        }
    }
}
