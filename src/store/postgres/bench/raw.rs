//! Writes the same rows as publishing, with the same driver and without the library.

use diesel::result::QueryResult;
use diesel::sql_types::{Array, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio_postgres::Client;
use uuid::Uuid;

use super::super::connect::Target;
use super::{BenchSchema, MEASURE, Result, refused};
use crate::error::StoreError;

/// A connection like that of an application that publishes.
pub(crate) struct RawConnection {
    target: Target,
    pub(crate) conn: AsyncPgConnection,
}

impl BenchSchema {
    /// Another connection into this schema.
    pub(crate) async fn connection(&self) -> Result<RawConnection> {
        let target = Target::from_url(self.url.expose()).map_err(refused)?;
        let conn = AsyncPgConnection::try_from(target.connect().await?).await;
        Ok(RawConnection { conn: conn.map_err(refused)?, target })
    }
}

/// A transaction that holds back vacuum until it is dropped.
pub(crate) struct Pinned {
    _client: Client,
}

impl BenchSchema {
    /// Begins a transaction with a snapshot of the table, which keeps every row version from now on.
    pub(crate) async fn pin(&self) -> Result<Pinned> {
        let client = self.target.connect().await?;
        // Under another name, so that no measurement waits for it to end.
        let begin =
            format!("SET application_name = '{}_pin'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1", self.name);
        client.batch_execute(&begin).await.map_err(|error| self.failed(&error))?;
        Ok(Pinned { _client: client })
    }
}

impl RawConnection {
    /// Inserts one event in a transaction of its own.
    pub(crate) async fn insert_one(&mut self, event_type: &str, source: &str, data: &str) -> Result<()> {
        let inserted = diesel::sql_query(
            "INSERT INTO outbox_events (id, event_type, source, data) VALUES ($1, $2, $3, $4::jsonb)",
        )
        .bind::<SqlUuid, _>(Uuid::now_v7())
        .bind::<Text, _>(event_type)
        .bind::<Text, _>(source)
        .bind::<Text, _>(data)
        .execute(&mut self.conn)
        .await;
        self.checked(inserted)
    }

    /// Inserts many events in one statement.
    pub(crate) async fn insert_many(&mut self, event_type: &str, source: &str, data: &[String]) -> Result<()> {
        let ids: Vec<Uuid> = data.iter().map(|_| Uuid::now_v7()).collect();
        let same = |text: &str| vec![text.to_owned(); data.len()];
        let inserted = diesel::sql_query(
            "INSERT INTO outbox_events (id, event_type, source, data) \
             SELECT n.id, n.event_type, n.source, n.data::jsonb FROM unnest($1, $2, $3, $4) AS n(id, event_type, source, data)",
        )
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Text>, _>(same(event_type))
        .bind::<Array<Text>, _>(same(source))
        .bind::<Array<Text>, _>(data)
        .execute(&mut self.conn)
        .await;
        self.checked(inserted)
    }

    fn checked(&self, inserted: QueryResult<usize>) -> Result<()> {
        inserted.map(drop).map_err(|error| -> StoreError { self.target.query_error(MEASURE, &error) })
    }
}
