//! Publishes or deletes events that owe nothing any more.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;
use uuid::Uuid;

use super::rows::deliveries;
use crate::store::mysql::error::Failure;
use crate::store::mysql::session::Session;
use crate::store::mysql::settle::{Row, delete};
use crate::store::mysql::statement::{Statement, Value, list};

/// Decides about locked events: publishes, or deletes, each that owes nothing, and records the handlers to which the others
/// are owed. The last value: whether the event is deleted if it may be.
pub(super) async fn decide(session: &mut Session<'_>, events: &[(Uuid, &Row, bool)]) -> Result<(), Failure> {
    let ids: Vec<Uuid> = events.iter().map(|(id, ..)| *id).collect();
    let mut owed: HashMap<(Uuid, i64), Vec<String>> = HashMap::new();
    for delivery in deliveries(session, &ids).await? {
        owed.entry((delivery.id, delivery.seq)).or_default().push(delivery.handler);
    }
    let (mut deleted, mut published) = (Vec::new(), Vec::new());
    let mut owing: BTreeMap<Vec<String>, Vec<Uuid>> = BTreeMap::new();
    for (id, row, deletes) in events {
        match owed.remove(&(*id, row.seq)) {
            None if *deletes => deleted.push(*id),
            None => published.push(*id),
            Some(names) if row.pending_names().as_ref() == Some(&names) => {}
            Some(names) => owing.entry(names).or_default().push(*id),
        }
    }
    if !deleted.is_empty() {
        delete(session, &deleted).await?;
    }
    publish(session, &published).await?;
    for (names, ids) in owing {
        record_owed(session, &names, &ids).await?;
    }
    Ok(())
}

async fn publish(session: &mut Session<'_>, ids: &[Uuid]) -> Result<(), Failure> {
    if ids.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "UPDATE outbox_events FORCE INDEX (PRIMARY) SET status = 'published', pending_handlers = NULL, \
         updated_at = SYSDATE(6) WHERE id IN {}",
        list(ids.len())
    );
    let values: Vec<Value> = ids.iter().map(|id| Value::from(*id)).collect();
    session.execute(Statement::<()>::built(sql, values)).await.map(drop)
}

async fn record_owed(session: &mut Session<'_>, names: &[String], ids: &[Uuid]) -> Result<(), Failure> {
    let sql = format!(
        "UPDATE outbox_events FORCE INDEX (PRIMARY) SET pending_handlers = ?, updated_at = SYSDATE(6) WHERE id IN {}",
        list(ids.len())
    );
    let names = Value::from(json!(names).to_string());
    let values: Vec<Value> = std::iter::once(names).chain(ids.iter().map(|id| Value::from(*id))).collect();
    session.execute(Statement::<()>::built(sql, values)).await.map(drop)
}
