//! Finds out why the server refuses events. Diesel does not pass on the SQLSTATE, and only that tells an invalid event from
//! a server that cannot serve now; so the plain driver asks again, in a transaction that is rolled back.

use chrono::DateTime;

use super::errors::{chain, is_refusal};
use super::insert::insert_all_columns;
use super::schema_client::SchemaClient;
use super::{PostgresStore, STATEMENT_LIMIT};
use crate::error::StoreError;
use crate::publish::{NewEvent, ValidEvent, prepare_all};

pub(super) async fn refusal(store: &PostgresStore, events: Vec<NewEvent>) -> Option<StoreError> {
    let events = prepare_all(events).ok()?;
    let client = store.target.connect().await.ok()?;
    let token = client.cancel_token();
    let Ok(error) = tokio::time::timeout(STATEMENT_LIMIT, insert_and_roll_back(&client, &events)).await else {
        store.target.cancel(&token).await;
        return None;
    };
    let error = error?;
    let is_refusal = error.code().is_some_and(|state| is_refusal(state.code()));
    is_refusal.then(|| StoreError::Query { operation: "write events", reason: chain(&error), transient: false })
}

/// Returns the server's error, if any. The connection ends with its caller, and the transaction with the connection.
async fn insert_and_roll_back(client: &SchemaClient, events: &[ValidEvent]) -> Option<tokio_postgres::Error> {
    let inserted = async {
        client.batch_execute("BEGIN").await?;
        insert(client, events).await?;
        // Deferred constraints would fail at the commit.
        client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK").await
    };
    inserted.await.err()
}

async fn insert(client: &SchemaClient, events: &[ValidEvent]) -> Result<u64, tokio_postgres::Error> {
    fn column<'a, T>(events: &'a [ValidEvent], value: impl Fn(&'a ValidEvent) -> T) -> Vec<T> {
        events.iter().map(value).collect()
    }
    let time = |micros| DateTime::from_timestamp_micros(micros).map(|time| time.to_rfc3339());
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 17] = [
        &column(events, |event| event.id.to_string()),
        &column(events, |event| &event.event_type),
        &column(events, |event| &event.source),
        &column(events, |event| &event.subject),
        &column(events, |event| event.data.as_deref()),
        &column(events, |event| &event.partition_key),
        &column(events, |event| &event.data_content_type),
        &column(events, |event| &event.data_schema),
        &column(events, |event| event.data_binary.as_deref()),
        &column(events, |event| event.scheduled_micros.and_then(time)),
        &column(events, |event| event.delay_micros),
        &column(events, |event| event.event_micros.and_then(time)),
        &column(events, |event| event.max_retries),
        &column(events, |event| &event.publisher_backend),
        &column(events, |event| &event.publisher_config),
        &column(events, |event| &event.cloud_event_id),
        &column(events, |event| &event.extensions),
    ];
    client.execute(&insert_all_columns(), &parameters).await
}
