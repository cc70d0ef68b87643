//! Records that backends have accepted events, and the deliveries that the events owe.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{PUBLISHED, Parameter, Settling, durable, found};
use crate::fault_injection::{self, ProtocolRule};
use crate::store::postgres::Result;
use crate::store::postgres::version::PlaceParameter;
use crate::store::{Acceptance, SettledEvent};

/// The statements of the usual way, for events that are not owed to a handler that was not asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usual {
    pub(super) deletes: bool,
    /// The rows are found where they were read, and not by their ids. A row that is elsewhere by now is not found.
    pub(super) by_place: bool,
}

impl Usual {
    pub(super) const COUNT: usize = 4;

    pub(super) fn sql(self) -> &'static str {
        &USUAL[self.number()]
    }

    /// From 0 to [`COUNT`](Self::COUNT).
    pub(super) fn number(self) -> usize {
        usize::from(self.deletes) + 2 * usize::from(self.by_place)
    }
}

static USUAL: LazyLock<[String; Usual::COUNT]> =
    LazyLock::new(|| [(UPDATE, BY_ID), (DELETE, BY_ID), (UPDATE, BY_PLACE), (DELETE, BY_PLACE)].map(usual));

const UPDATE: &str = "UPDATE outbox_events e SET status = 'published', pending_handlers = NULL, updated_at = now(), \
    published_at = now() FROM";

const DELETE: &str = "DELETE FROM outbox_events e USING";

const BY_ID: &str = "unnest($1, $2, $3) AS s(id, seq, asked_set), durable \
    WHERE e.id = ANY (ARRAY[s.id]) AND e.seq = ANY (ARRAY[s.seq])";

const BY_PLACE: &str = "unnest($1, $2, $3, $5) AS s(id, seq, asked_set, place), durable \
    WHERE e.ctid = s.place AND e.id = s.id AND e.seq = s.seq";

/// It checks the newest version of a row: its acceptance was not recorded before. With this form of comparison of ids, only a
/// lookup in the primary key for each row can find them: with an equation, a plan from when the table was empty reads the
/// whole index.
fn usual((change, rows): (&str, &str)) -> String {
    let unless_off = if fault_injection::is_off(ProtocolRule::EveryHandler) { "false AND" } else { "" };
    format!(
        "WITH {}, unasked AS MATERIALIZED (SELECT a.n - 1 AS asked_set, h.types FROM outbox_handlers h \
            CROSS JOIN jsonb_array_elements($4) WITH ORDINALITY AS a(names, n) \
            WHERE {unless_off} h.seen_at + h.owed_for > now() AND (SELECT protocol FROM outbox_meta) >= 2 AND NOT a.names ? h.name::text) \
         {change} {rows} AND e.published_at IS NULL AND NOT EXISTS (SELECT FROM unasked u \
            WHERE u.asked_set = s.asked_set AND outbox_type_matches(u.types, e.event_type))",
        durable("")
    )
}

/// Locks the rows, skips those that other transactions hold, and creates the deliveries; deletes what owes nothing.
pub(super) async fn record(settling: &Settling, events: &[Acceptance]) -> Result<Vec<SettledEvent>> {
    settling
        .write_and_wait(|barrier| async move {
            let mut parameters = parameters(events);
            parameters.push((Box::new(left(events)), Type::JSONB));
            let deletes: Vec<bool> = events.iter().map(|event| event.deletes).collect();
            parameters.push((Box::new(deletes), Type::BOOL_ARRAY));
            let rows = settling.query(PUBLISHED, careful(barrier), parameters).await?;
            rows.iter().map(settled).collect()
        })
        .await
}

/// Calls the function only once the commit is certain to wait.
fn careful(barrier: &str) -> String {
    format!(
        "WITH {} SELECT f.held, f.there, f.owed FROM (SELECT count(*) AS n FROM durable) d CROSS JOIN LATERAL \
            outbox_record_accepted(CASE WHEN d.n > 0 THEN $1 END, $2, $3, $4, $5, $6) f",
        durable(&format!(", {barrier}"))
    )
}

fn settled(row: &Row) -> Result<SettledEvent> {
    let owed: Option<Value> = row.get("owed");
    let owed = owed.and_then(|names| serde_json::from_value(names).ok()).unwrap_or_default();
    Ok(SettledEvent { outcome: found(row), owed })
}

/// Ids, seqs, the index of each event's set of handlers that were asked, and these sets.
pub(super) fn parameters(events: &[Acceptance]) -> Vec<Parameter> {
    let mut sets = Sets::default();
    let numbers: Vec<i32> = events.iter().map(|event| sets.number(&event.asked)).collect();
    let ids: Vec<_> = events.iter().map(|event| event.id).collect();
    let seqs: Vec<_> = events.iter().map(|event| event.seq).collect();
    vec![
        (Box::new(ids), Type::UUID_ARRAY),
        (Box::new(seqs), Type::INT8_ARRAY),
        (Box::new(numbers), Type::INT4_ARRAY),
        (Box::new(json!(sets.0)), Type::JSONB),
    ]
}

/// Where the rows were when they were read, if that is known of all.
pub(super) fn places(events: &[Acceptance]) -> Option<Parameter> {
    let places: Option<Vec<PlaceParameter>> = events.iter().map(|event| event.place.map(PlaceParameter)).collect();
    Some((Box::new(places?), Type::TID_ARRAY))
}

/// The distinct sets of names in a batch: usually one, and hardly more than there are types.
#[derive(Default)]
pub(super) struct Sets<'a>(pub(super) Vec<&'a [String]>);

impl<'a> Sets<'a> {
    pub(super) fn number(&mut self, names: &'a [String]) -> i32 {
        let number = self.0.iter().position(|known| *known == names).unwrap_or_else(|| {
            self.0.push(names);
            self.0.len() - 1
        });
        i32::try_from(number).unwrap_or(i32::MAX)
    }
}

fn left(events: &[Acceptance]) -> Value {
    let some = events.iter().filter(|event| !event.left.is_empty());
    Value::Object(some.map(|event| (event.id.to_string(), json!(event.left))).collect::<Map<_, _>>())
}
