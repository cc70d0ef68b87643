//! Deletes events that are done.

use uuid::Uuid;

use super::error::Failure;
use super::session::Session;
use super::statement::{Statement, Value, list};
use crate::store::warn_undeletable;

/// The most statements for one batch in which the server refuses to delete a row.
const MOST_STATEMENTS: usize = 64;

/// Deletes events in the caller's transaction, in parts if the server refuses; returns those that are left. A refused statement
/// changes nothing.
pub(super) async fn delete_events(session: &mut Session<'_>, ids: &[Uuid]) -> Result<Vec<Uuid>, Failure> {
    let (mut left, mut refusal) = (Vec::new(), None);
    let mut statements = 0;
    let mut parts = vec![ids];
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        if statements == MOST_STATEMENTS {
            left.extend(part);
            continue;
        }
        statements += 1;
        match delete_all(session, part).await {
            Err(failure) if failure.is_refusal() => {
                refusal = Some(failure.reason);
                if part.len() == 1 {
                    left.extend(part);
                } else {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            }
            deleted => deleted?,
        }
    }
    if let Some(reason) = refusal {
        warn_undeletable(left.iter().copied(), &reason);
    }
    Ok(left)
}

async fn delete_all(session: &mut Session<'_>, ids: &[Uuid]) -> Result<(), Failure> {
    let sql = format!("DELETE e FROM outbox_events e FORCE INDEX (PRIMARY) WHERE e.id IN {}", list(ids.len()));
    let values: Vec<Value> = ids.iter().map(|id| Value::from(*id)).collect();
    session.execute(Statement::<()>::built(sql, values)).await.map(drop)
}
