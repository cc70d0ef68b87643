//! Announces, sees and drops handlers.

use diesel::sql_types::{BigInt, Nullable};
use serde_json::json;

use super::answers::end;
use crate::store::mysql::MysqlStore;
use crate::store::mysql::error::Failure;
use crate::store::mysql::session::{Session, in_transaction};
use crate::store::mysql::statement::{Statement, Value, list};
use crate::store::{Announcement, Result};

/// The longest duration, a hundred years in microseconds: added to a time it does not overflow.
pub(super) const CENTURY: i64 = 100 * 365 * 86_400_000_000;

/// Draws a generation for each, which only a new announcement keeps. In the order of names, so that two processes never
/// deadlock.
pub(super) async fn announce(session: &mut Session<'_>, handlers: &[Announcement]) -> Result<(), Failure> {
    let mut handlers: Vec<&Announcement> = handlers.iter().collect();
    handlers.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for handler in handlers {
        session.run("UPDATE outbox_handler_generations SET value = value + 1").await?;
        let owed_for = i64::try_from(handler.owed_for.as_micros()).map_or(CENTURY, |micros| micros.min(CENTURY));
        let values: [Value; 3] =
            [handler.name.as_str().into(), json!(handler.types).to_string().into(), owed_for.into()];
        session.execute(Statement::<()>::new(ANNOUNCE, values)).await?;
    }
    Ok(())
}

const ANNOUNCE: &str = "INSERT INTO outbox_handlers (name, types, generation, owed_for, announced_at, seen_at) \
    SELECT ?, ?, value, ?, SYSDATE(6), SYSDATE(6) FROM outbox_handler_generations \
    ON DUPLICATE KEY UPDATE types = VALUES(types), owed_for = VALUES(owed_for), announced_at = VALUES(announced_at), \
        seen_at = VALUES(seen_at)";

/// Writes rarely: each settle reads these rows, with their older versions while a snapshot is held.
pub(super) async fn see(session: &mut Session<'_>, names: &[String]) -> Result<(), Failure> {
    if names.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "UPDATE outbox_handlers SET seen_at = SYSDATE(6) WHERE name IN {} \
         AND seen_at < UTC_TIMESTAMP(6) - INTERVAL LEAST(owed_for DIV 20, 60000000) MICROSECOND",
        list(names.len())
    );
    let values: Vec<Value> = names.iter().map(|name| name.as_str().into()).collect();
    session.execute(Statement::<()>::built(sql, values)).await.map(drop)
}

/// The number of deliveries that end in one transaction.
const BATCH: i64 = 500;

/// Settles that read the announcement before may still write deliveries: these have its generation, and end as dropped.
pub(super) async fn drop_handler(store: &MysqlStore, name: &str) -> Result<usize> {
    let up_to = drop_announcement(store, name).await?;
    let mut ended = 0;
    loop {
        match end(store, name, (0, up_to), BATCH).await? {
            0 => return Ok(ended),
            batch => ended += batch,
        }
    }
}

async fn drop_announcement(store: &MysqlStore, name: &str) -> Result<i64> {
    in_transaction!(store.pool, "drop a handler", |session| delete(session, name))
}

/// Returns the last generation that ends with the announcement.
async fn delete(session: &mut Session<'_>, name: &str) -> Result<i64, Failure> {
    const LOCK: &str = "SELECT generation FROM outbox_handlers WHERE name = ? FOR UPDATE";
    let announced: Vec<i64> = session.load(Statement::<BigInt>::new(LOCK, [name.into()])).await?;
    session.execute(Statement::<()>::new("DELETE FROM outbox_handlers WHERE name = ?", [name.into()])).await?;
    if let Some(generation) = announced.first() {
        return Ok(*generation);
    }
    let newest = Statement::<Nullable<BigInt>>::new("SELECT MAX(value) FROM outbox_handler_generations", []);
    session.load_one::<_, Option<i64>>(newest).await.map(Option::unwrap_or_default)
}
