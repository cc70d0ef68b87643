//! Deletes old events.

use std::time::Duration;

use diesel::sql_types::Text;
use uuid::Uuid;

use super::chosen::AT_ONCE;
use super::delete::delete_events;
use super::error::Failure;
use super::session::Session;
use super::statement::{Statement, Value, list};
use crate::store::{LaneName, RetentionCutoff};

/// Deletes events past retention, oldest first. Events that are owed to a handler are kept, those that another transaction holds,
/// and those that the server refuses to delete.
pub(super) async fn delete_expired(
    session: &mut Session<'_>,
    expiry: RetentionCutoff,
    failed_blocks: &[LaneName],
) -> Result<usize, Failure> {
    let mut rest = expiry.limit;
    let mut deleted = 0;
    for (expired, age) in [(PUBLISHED, expiry.published), (FAILED, expiry.failed)] {
        let Some(age) = age.filter(|_| rest > 0) else { continue };
        let (condition, mut values) = (held(failed_blocks), vec![micros(age), micros(age)]);
        values.extend(failed_blocks.iter().map(|lane| Value::from(lane.as_ref())));
        values.push(rest.into());
        let sql = format!(
            "SELECT CAST(e.id AS char) FROM outbox_events e FORCE INDEX (outbox_events_created) \
             WHERE {expired}{condition} AND {NOTHING_OWED} ORDER BY e.created_at LIMIT ?"
        );
        let ids: Vec<String> = session.load(Statement::<Text>::built(sql, values)).await?;
        rest -= i64::try_from(ids.len()).unwrap_or(i64::MAX);
        for part in parse(&ids)?.chunks(AT_ONCE) {
            let locked = lock(session, part, expired, age).await?;
            let left = delete_events(session, &locked).await?;
            deleted += locked.len() - left.len();
        }
    }
    Ok(deleted)
}

/// No event is published before it is created, so a scan by `created_at` can end at the same time.
const PUBLISHED: &str = "e.created_at < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND AND e.status = 'published' \
    AND COALESCE(e.published_at, e.updated_at) < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND";

const FAILED: &str = "e.created_at < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND AND e.status = 'failed' \
    AND e.updated_at < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND";

const NOTHING_OWED: &str = "NOT EXISTS (SELECT 1 FROM outbox_handler_deliveries d FORCE INDEX (PRIMARY) \
    WHERE d.event_id = e.id)";

/// A failed event that holds its key stays; a published one holds none.
fn held(failed_blocks: &[LaneName]) -> String {
    match failed_blocks.len() {
        0 => String::new(),
        count => format!(" AND NOT (e.held_key IS NOT NULL AND e.publisher_backend IN {})", list(count)),
    }
}

fn micros(age: Duration) -> Value {
    i64::try_from(age.as_micros()).unwrap_or(i64::MAX).into()
}

/// Locks those of the events that have not changed since they were found.
async fn lock(session: &mut Session<'_>, ids: &[Uuid], expired: &str, age: Duration) -> Result<Vec<Uuid>, Failure> {
    let sql = format!(
        "SELECT CAST(e.id AS char) FROM outbox_events e FORCE INDEX (PRIMARY) \
         WHERE e.id IN {} AND {expired} FOR UPDATE SKIP LOCKED",
        list(ids.len())
    );
    let mut values: Vec<Value> = ids.iter().map(|id| Value::from(*id)).collect();
    values.extend([micros(age), micros(age)]);
    parse(&session.load::<_, String>(Statement::<Text>::built(sql, values)).await?)
}

fn parse(ids: &[String]) -> Result<Vec<Uuid>, Failure> {
    ids.iter().map(|id| Uuid::try_parse(id).map_err(Failure::client)).collect()
}
