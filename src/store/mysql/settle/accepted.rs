//! Records that backends have accepted events, and the deliveries that the events owe.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use uuid::Uuid;

use super::locked::Found;
use super::owing::{Announced, Owed, decide, forget_held, owe};
use super::{MOST_IDS, confirm};
use crate::fault_injection::{self, ProtocolRule};
use crate::store::mysql::error::Failure;
use crate::store::mysql::session::Session;
use crate::store::mysql::statement::{Statement, Value, list};
use crate::store::{Acceptance, SettledEvent};

/// The most events of one statement of the usual way.
const MOST_AT_ONCE: usize = 10_000;

/// The usual way, for events of which the same handlers were asked, and nothing is left to others.
#[derive(Debug, Clone)]
pub(super) struct Usual {
    deletes: bool,
    asked: Arc<[String]>,
}

impl Usual {
    pub(super) fn of(events: &[Acceptance]) -> Option<Self> {
        let first = events.first().filter(|_| events.len() <= MOST_AT_ONCE)?;
        let is_alike =
            |event: &Acceptance| event.left.is_empty() && event.deletes == first.deletes && event.asked == first.asked;
        events.iter().all(is_alike).then(|| Self { deletes: first.deletes, asked: Arc::clone(&first.asked) })
    }

    /// Publishes or deletes the events without locking them first. Returns whether all were changed, or `None` if another
    /// transaction holds one. Nothing is changed while a handler that was not asked is announced.
    pub(super) async fn record(
        &self,
        session: &mut Session<'_>,
        events: &[Acceptance],
    ) -> Result<Option<bool>, Failure> {
        let places = list(events.len());
        let change = match self.deletes {
            true => "DELETE e FROM outbox_events e FORCE INDEX (PRIMARY)",
            false => {
                "UPDATE outbox_events e FORCE INDEX (PRIMARY) SET e.status = 'published', e.pending_handlers = NULL, \
                 e.updated_at = UTC_TIMESTAMP(6), e.published_at = UTC_TIMESTAMP(6)"
            }
        };
        let unless_off = if fault_injection::is_off(ProtocolRule::EveryHandler) { "FALSE AND " } else { "" };
        let unasked = match self.asked.len() {
            0 => String::new(),
            count => format!(" AND h.name NOT IN {}", list(count)),
        };
        // No `seq` is drawn twice, so an event whose `seq` is in the list is the one that was sent.
        let sql = format!(
            "{change} WHERE e.id IN {places} AND e.seq IN {places} AND e.published_at IS NULL \
             AND NOT EXISTS (SELECT 1 FROM outbox_handlers h \
                WHERE {unless_off}TIMESTAMPDIFF(MICROSECOND, h.seen_at, UTC_TIMESTAMP(6)) < h.owed_for{unasked})"
        );
        let ids = events.iter().map(|event| Value::from(event.id));
        let seqs = events.iter().map(|event| Value::from(event.seq));
        let asked = self.asked.iter().map(|name| Value::from(name.as_str()));
        let statement = Statement::<()>::built(sql, ids.chain(seqs).chain(asked).collect::<Vec<_>>());
        match session.execute(statement).await {
            Ok(changed) => Ok(Some(changed == events.len())),
            Err(failure) if failure.is_conflict() => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

/// Locks the rows, skips those that other transactions hold, and creates the deliveries; deletes what owes nothing.
pub(super) async fn record(session: &mut Session<'_>, events: &[Acceptance]) -> Result<Vec<SettledEvent>, Failure> {
    let found = Found::lock(session, &events.iter().map(|event| (event.id, event.seq)).collect::<Vec<_>>()).await?;
    let announced = Announced::read(session).await?;
    // The events that have no deliveries yet, by what they owe.
    let mut firsts: BTreeMap<(Owed, bool), Vec<Uuid>> = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(events.len());
    for event in events {
        let mut outcome = SettledEvent::from(found.outcome(event.id, event.seq));
        match found.row(event.id, event.seq) {
            // It was failed after its backend accepted it: it stays failed.
            Some(row) if row.published && row.status == "failed" => {}
            // It owes nothing.
            Some(row) if row.published && row.status == "published" => {
                let deleted = event.deletes.then_some(event.id);
                firsts.entry((Owed::new(), event.deletes)).or_default().extend(deleted);
            }
            Some(row) if row.published => {
                let uncalled = row.uncalled(&event.asked);
                let left = event.left.iter().chain(&uncalled).map(String::as_str);
                let owed = announced.owed(row, &event.asked, left);
                forget_held(session, event.id, row).await?;
                for (handler, generation) in owed {
                    if owe(session, &[event.id], &handler, generation, false).await? > 0 {
                        outcome.owed.push(handler);
                    }
                }
                decide(session, event.id, event.seq, event.deletes).await?;
            }
            Some(row) => {
                let owed = announced.owed(row, &event.asked, event.left.iter().map(String::as_str));
                outcome.owed = owed.keys().cloned().collect();
                firsts.entry((owed, event.deletes)).or_default().push(event.id);
            }
            None => {}
        }
        outcomes.push(outcome);
    }
    for ((owed, deletes), ids) in firsts {
        for ids in ids.chunks(MOST_IDS) {
            record_first(session, &owed, deletes, ids).await?;
        }
    }
    confirm(session).await?;
    Ok(outcomes)
}

/// Records the first acceptance of events that owe the same.
async fn record_first(session: &mut Session<'_>, owed: &Owed, deletes: bool, ids: &[Uuid]) -> Result<(), Failure> {
    if owed.is_empty() && deletes {
        return delete(session, ids).await;
    }
    for (handler, generation) in owed {
        owe(session, ids, handler, *generation, false).await?;
    }
    let (status, names) = match owed.is_empty() {
        true => ("published", None),
        false => ("processing", Some(json!(owed.keys().collect::<Vec<_>>()).to_string())),
    };
    let sql = format!(
        "UPDATE outbox_events FORCE INDEX (PRIMARY) SET status = ?, pending_handlers = ?, \
         published_at = UTC_TIMESTAMP(6), updated_at = UTC_TIMESTAMP(6) WHERE id IN {}",
        list(ids.len())
    );
    let values = [status.into(), names.into()].into_iter().chain(ids.iter().map(|id| Value::from(*id)));
    session.execute(Statement::<()>::built(sql, values.collect::<Vec<_>>())).await.map(drop)
}

/// Deletes rows that are locked. What it waits for are rows of other tables, which refer to these.
pub(in crate::store::mysql) async fn delete(session: &mut Session<'_>, ids: &[Uuid]) -> Result<(), Failure> {
    let sql = format!("DELETE FROM outbox_events WHERE id IN {}", list(ids.len()));
    let ids: Vec<Value> = ids.iter().map(|id| Value::from(*id)).collect();
    session.execute(Statement::<()>::built(sql, ids)).await.map(drop).map_err(Failure::without_waiting)
}
