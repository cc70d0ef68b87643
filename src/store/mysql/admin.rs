//! Events as operators see them.

use std::collections::HashMap;

use uuid::Uuid;

use super::pool::Pool;
use super::row::{COLUMNS, Row, SqlTypes};
use super::session::on_session;
use super::statement::{Statement, Value, list};
use crate::error::StoreError;
use crate::event::OutboxEvent;
use crate::store::{Result, Unreadable};

pub(super) async fn find(pool: &Pool, id: Uuid) -> Result<Option<OutboxEvent>> {
    const OPERATION: &str = "find an event";
    let query =
        || Statement::<SqlTypes>::built(format!("SELECT {COLUMNS} FROM outbox_events e WHERE e.id = ?"), [id.into()]);
    let rows: Vec<Row> = on_session!(pool, OPERATION, |session| session.load(query()))?;
    rows.into_iter().next().map(Row::decode).transpose().map_err(|reason| {
        let reason = format!("the row of event {id} is not a valid event: {reason}");
        StoreError::Query { operation: OPERATION, reason, transient: false }
    })
}

/// Events in the order given, without those that do not exist.
pub(super) async fn load(
    pool: &Pool,
    columns: &'static str,
    ids: &[Uuid],
) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT {columns} FROM outbox_events e WHERE e.id IN {}", list(ids.len()));
    let values: Vec<Value> = ids.iter().map(|id| Value::from(*id)).collect();
    let query = Statement::<SqlTypes>::built(sql, values);
    let rows: Vec<Row> = on_session!(pool, "load events", |session| session.load(query))?;
    let mut by_id: HashMap<Uuid, Row> = rows.into_iter().map(|row| (row.id(), row)).collect();
    let decode = |row: Row| {
        let (id, status) = (row.id(), row.status());
        row.decode().map_err(|reason| Unreadable { id, status, reason })
    };
    Ok(ids.iter().filter_map(|id| by_id.remove(id)).map(decode).collect())
}
