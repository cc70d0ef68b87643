//! Deletes events that are done.

use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary};
use diesel::sqlite::Sqlite;
use uuid::Uuid;

use super::error::is_transient;
use crate::store::warn_undeletable;

/// Deletes an event whose acceptance was not recorded before. `false`: there is none, or the database refuses to delete it.
pub(super) fn delete_unpublished(connection: &mut SqliteConnection, id: Uuid, seq: i64) -> QueryResult<bool> {
    is_deleted(id, DeleteEvent { id, seq, condition: " AND published_at IS NULL" }.execute(connection))
}

/// Deletes an event. `false`: there is none, or the database refuses to delete it.
pub(super) fn delete_event(connection: &mut SqliteConnection, id: Uuid, seq: i64) -> QueryResult<bool> {
    is_deleted(id, DeleteEvent { id, seq, condition: "" }.execute(connection))
}

/// Deletes an event whatever its `seq`. `false`: there is none, or the database refuses to delete it.
pub(super) fn delete_row(connection: &mut SqliteConnection, id: Uuid) -> QueryResult<bool> {
    let delete = sql_query("DELETE FROM outbox_events WHERE id = ?").bind::<Binary, _>(id.as_bytes().as_slice());
    is_deleted(id, delete.execute(connection))
}

fn is_deleted(id: Uuid, deleted: QueryResult<usize>) -> QueryResult<bool> {
    match deleted {
        Err(error) if !is_transient(&error) => {
            warn_undeletable([id], &error.to_string());
            Ok(false)
        }
        deleted => Ok(deleted? > 0),
    }
}

struct DeleteEvent {
    id: Uuid,
    seq: i64,
    condition: &'static str,
}

/// The statement's text is its name among prepared statements.
impl QueryId for DeleteEvent {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl QueryFragment<Sqlite> for DeleteEvent {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("DELETE FROM outbox_events WHERE id = ");
        out.push_bind_param::<Binary, _>(self.id.as_bytes().as_slice())?;
        out.push_sql(" AND seq = ");
        out.push_bind_param::<BigInt, _>(&self.seq)?;
        out.push_sql(self.condition);
        Ok(())
    }
}

impl RunQueryDsl<SqliteConnection> for DeleteEvent {}
