//! Events as operators see them.

use uuid::Uuid;

use super::pool::Pool;
use super::row::{COLUMNS, Row, SqlTypes};
use super::session::on_session;
use super::statement::Statement;
use crate::error::StoreError;
use crate::event::OutboxEvent;
use crate::store::Result;

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
