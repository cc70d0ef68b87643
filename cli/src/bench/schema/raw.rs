//! Writes the same rows as publishing, with the same driver and without the library.

use actix_outbox::bench_api::connect_postgres;
use anyhow::{Context, Result};
use diesel::sql_types::{Array, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio_postgres::Client;
use uuid::Uuid;

use super::{BenchSchema, MEASURE};

/// A connection like that of an application that publishes.
pub(crate) struct RawConnection(pub(crate) AsyncPgConnection);

impl BenchSchema {
    /// Another connection into this schema.
    pub(crate) async fn connection(&self) -> Result<RawConnection> {
        let client = connect_postgres(&self.url).await?;
        Ok(RawConnection(AsyncPgConnection::try_from(client).await.context(MEASURE)?))
    }
}

/// A transaction that holds back vacuum until it is dropped.
pub(crate) struct Pinned {
    _client: Client,
}

impl BenchSchema {
    /// Begins a transaction with a snapshot of the table, which keeps every row version from now on.
    pub(crate) async fn pin(&self) -> Result<Pinned> {
        let client = connect_postgres(&self.url).await?;
        // Under another name, so that no measurement waits for it to end.
        let begin =
            format!("SET application_name = '{}_pin'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1", self.name);
        client.batch_execute(&begin).await.context(MEASURE)?;
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
        .execute(&mut self.0)
        .await;
        inserted.map(drop).context(MEASURE)
    }

    /// Inserts many events into a table with the least that an outbox needs.
    pub(crate) async fn insert_minimal(&mut self, event_type: &str, data: &[String]) -> Result<()> {
        let ids: Vec<Uuid> = data.iter().map(|_| Uuid::now_v7()).collect();
        let inserted = diesel::sql_query(
            "INSERT INTO bench_minimal (id, event_type, data) \
             SELECT n.id, n.event_type, n.data::jsonb FROM unnest($1, $2, $3) AS n(id, event_type, data)",
        )
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Text>, _>(vec![event_type.to_owned(); data.len()])
        .bind::<Array<Text>, _>(data)
        .execute(&mut self.0)
        .await;
        inserted.map(drop).context(MEASURE)
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
        .execute(&mut self.0)
        .await;
        inserted.map(drop).context(MEASURE)
    }
}
