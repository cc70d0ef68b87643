//! Connections for the statements of the application.

use std::future::ready;

use diesel_async::AsyncPgConnection;
#[cfg(feature = "testing")]
use diesel_async::SimpleAsyncConnection;
use futures_util::TryStreamExt;
use tokio_postgres::SimpleQueryMessage;

use super::Result;
use super::connect::Target;
use super::schema::Schema;

/// Adds the schema to the path, and answers `t` if a schema before it has an outbox.
fn extend_path(schema: &Schema) -> String {
    let (quoted, literal) = (super::leases::quote(schema.quoted()), schema.literal());
    format!(
        "SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), {quoted}), false) \
         WHERE NOT {literal} = ANY (current_schemas(false)::text[]); \
         SELECT to_regclass('outbox_events')::oid <> to_regclass({quoted} || '.outbox_events')::oid"
    )
}

impl Target {
    /// A connection with the defaults of the role and the database. If the settings name a schema that is not in the search
    /// path, it is added as the last one, so that `publish` finds the outbox's tables; a path that leads to another outbox is
    /// an error.
    pub(crate) async fn connect_application(&self) -> Result<AsyncPgConnection> {
        let limit = self.connect_limit();
        let opened = tokio::time::timeout(limit, self.open_with("")).await;
        let opened = opened.map_err(|_| self.unreachable(format!("no answer within {limit:?}")))?;
        let (client, messages) = opened.map_err(|error| self.not_connected(&error))?;
        tokio::spawn(messages.try_for_each(|_| ready(Ok(()))));
        if let Some(schema) = self.schema() {
            let answer = client.simple_query(&extend_path(schema)).await.map_err(|error| self.connect_error(&error))?;
            let leads_elsewhere = |message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t"));
            if answer.into_iter().any(leads_elsewhere) {
                return Err(self.unsuitable("the search path of this role leads to the outbox of another schema"));
            }
        }
        AsyncPgConnection::try_from(client).await.map_err(|error| self.unreachable(error))
    }

    /// Drops a schema with everything in it.
    #[cfg(feature = "testing")]
    pub(crate) async fn drop_schema(&self, name: &str) -> Result<()> {
        let mut conn = self.connect_application().await?;
        let statement = format!("DROP SCHEMA IF EXISTS {} CASCADE", Schema::new(name).quoted());
        let dropped = SimpleAsyncConnection::batch_execute(&mut conn, &statement).await;
        dropped.map_err(|error| self.query_error("drop a schema", &error))
    }
}
