//! The state of the database before and during an adoption.

use serde_json::Value;
use tokio_postgres::{Error, SimpleQueryMessage};

use super::check::{Column, find_objections, has_ours};
use crate::store::postgres::schema_client::SchemaClient;

/// The table that an adoption finds.
pub(super) struct Found {
    pub(super) has_columns: bool,
    /// Unpublished rows without a `seq`.
    pub(super) unplaced: i64,
    pub(super) processing: i64,
    /// The planner's estimate of all rows.
    pub(super) rows: i64,
    pub(super) pages: i64,
}

/// Whether a table exists that none of our migrations has finished.
pub(super) async fn is_foreign(client: &SchemaClient) -> Result<bool, Error> {
    let known = "SELECT to_regclass('outbox_events') IS NOT NULL AND to_regclass('outbox_migrations') IS NULL";
    client.query_one(known, &[]).await?.try_get(0)
}

/// Why the table cannot be adopted, or its state.
pub(super) async fn inspect(client: &SchemaClient) -> Result<Result<Found, String>, Error> {
    let kind: Option<String> = client.query_one(KIND, &[]).await?.try_get(0)?;
    if kind.as_deref() != Some("r") {
        return Ok(Err("it is not an ordinary table".to_owned()));
    }
    let columns = columns(client).await?;
    let mut objections = find_objections(&columns);
    let keyed: bool = client.query_one(ID_IS_KEY, &[]).await?.try_get(0)?;
    if !keyed {
        objections.push("its primary key is not id".to_owned());
    }
    for row in client.query(OTHERS, &[]).await? {
        objections.push(format!("{} already exists", row.try_get::<_, String>(0)?));
    }
    if !objections.is_empty() {
        return Ok(Err(objections.join("; ")));
    }
    let has_columns = has_ours(&columns);
    let (unplaced, processing) = count_unpublished(client, has_columns).await?;
    let rows = estimate_rows(client).await?;
    Ok(Ok(Found { has_columns, unplaced, processing, rows, pages: count_pages(client).await? }))
}

async fn columns(client: &SchemaClient) -> Result<Vec<Column>, Error> {
    let rows = client.query(COLUMNS, &[]).await?;
    let column = |row: &tokio_postgres::Row| {
        Ok(Column {
            name: row.try_get(0)?,
            data_type: row.try_get(1)?,
            not_null: row.try_get(2)?,
            filled: row.try_get(3)?,
        })
    };
    rows.iter().map(column).collect()
}

/// Unpublished rows without a `seq`, and those in `processing`; counted by django-broadcaster's index on the status.
pub(super) async fn count_unpublished(client: &SchemaClient, has_columns: bool) -> Result<(i64, i64), Error> {
    let unplaced = if has_columns { "seq IS NULL" } else { "true" };
    let query = format!(
        "SELECT count(*) FILTER (WHERE {unplaced}), count(*) FILTER (WHERE status = 'processing') FROM outbox_events \
         WHERE status IN ('pending', 'processing', 'retry', 'failed')"
    );
    let row = client.query_one(&query, &[]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

pub(super) async fn count_pages(client: &SchemaClient) -> Result<i64, Error> {
    let pages = "SELECT pg_relation_size('outbox_events') / current_setting('block_size')::bigint";
    client.query_one(pages, &[]).await?.try_get(0)
}

/// The table's pages, and its rows by the planner's estimate.
pub(super) async fn size(client: &SchemaClient) -> Result<(i64, i64), Error> {
    Ok((count_pages(client).await?, estimate_rows(client).await?))
}

/// The planner's estimate: counting all rows would read the whole table.
async fn estimate_rows(client: &SchemaClient) -> Result<i64, Error> {
    let explain = client.schema().qualify("EXPLAIN (FORMAT JSON) SELECT FROM outbox_events");
    let answer = client.simple_query(&explain).await?;
    let plan = answer.iter().find_map(first_column).and_then(|text| serde_json::from_str::<Value>(&text).ok());
    Ok(plan.and_then(|plan| plan.pointer("/0/Plan/Plan Rows")?.as_i64()).unwrap_or(0))
}

/// The first column of a result row, as text.
pub(super) fn first_column(message: &SimpleQueryMessage) -> Option<String> {
    match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }
}

pub(super) async fn is_built(client: &SchemaClient, index: &str) -> Result<bool, Error> {
    client.query_one(HAS_INDEX, &[&qualified(client, index), &true]).await?.try_get(0)
}

/// Whether an interrupted run left this index unfinished.
pub(super) async fn is_unfinished(client: &SchemaClient, index: &str) -> Result<bool, Error> {
    client.query_one(HAS_INDEX, &[&qualified(client, index), &false]).await?.try_get(0)
}

fn qualified(client: &SchemaClient, index: &str) -> String {
    format!("{}.{index}", client.schema().quoted())
}

const KIND: &str = "SELECT relkind::text FROM pg_class WHERE oid = to_regclass('outbox_events')";

const COLUMNS: &str = "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull, atthasdef OR attidentity <> '' \
    FROM pg_attribute WHERE attrelid = to_regclass('outbox_events') AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

const ID_IS_KEY: &str = "SELECT EXISTS (SELECT FROM pg_index i \
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'id' AND i.indkey::text = a.attnum::text \
    WHERE i.indrelid = to_regclass('outbox_events') AND i.indisprimary)";

const OTHERS: &str = "SELECT 'table ' || name FROM (VALUES ('outbox_meta', to_regclass('outbox_meta')), \
        ('outbox_workers', to_regclass('outbox_workers')), ('outbox_leases', to_regclass('outbox_leases')), \
        ('outbox_history', to_regclass('outbox_history'))) AS o(name, found) \
    WHERE found IS NOT NULL";

const HAS_INDEX: &str = "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND indisvalid = $2 \
    AND indrelid = to_regclass('outbox_events'))";
