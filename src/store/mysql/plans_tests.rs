//! R4: statements read few rows even of a table that was analysed when it was empty and then filled.

use std::time::Duration;

use chrono::Utc;
use mysql_async::prelude::Queryable;

use super::fixture::store_at;
use crate::store::conformance::hot_path::{ask_everything, ask_of_nothing, own_every_shard};
use crate::store::{AdminStore, SchemaStore, WaitQuery};
use crate::test_support::mysql::Server;

const ROWS: u32 = 1_000_000;

/// The most rows that a statement may read: 500 retries of each shard, and some.
const MOST_READ: u64 = 20_000;

/// A search of an operator reads 20,000, which are counted again in each of two temporary tables.
const MOST_SEARCHED: u64 = 60_010;

/// A server that records how many rows each statement reads, and gathers no statistics by itself.
fn recording_server() -> Server {
    Server::start_with(&[
        ("slow-query-log", "ON"),
        ("long-query-time", "0"),
        ("log-output", "TABLE"),
        ("innodb-stats-auto-recalc", "OFF"),
        ("innodb-buffer-pool-size", "512M"),
        ("innodb-log-file-size", "256M"),
    ])
}

/// Six in ten events are published, three pending, the rest in retry and failed; half have a key, one key is hot.
fn fill() -> String {
    format!(
        "INSERT INTO outbox_events (id, event_type, source, publisher_backend, partition_key, status, created_at, updated_at, \
            scheduled_at, published_at, retry_at, retry_count) \
         WITH RECURSIVE numbers AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM numbers WHERE i < {ROWS}), \
            placed AS (SELECT i, UTC_TIMESTAMP(6) - INTERVAL 10 DAY + INTERVAL i * 500000 MICROSECOND AS at, \
                CASE WHEN i DIV 10 % 10 < 6 THEN 'published' WHEN i DIV 10 % 10 < 9 THEN 'pending' \
                WHEN i % 2 = 0 THEN 'retry' ELSE 'failed' END AS status FROM numbers) \
         SELECT REPLACE(UUID(), '-', ''), 't', 's', IF(i % 7 = 0, '', 'orders'), \
            CASE WHEN i % 20 = 3 THEN 'hot' WHEN i % 2 = 1 THEN CONCAT('key-', i % 5003) ELSE '' END, status, at, at, at, \
            IF(status = 'published', at, NULL), IF(status = 'retry', at + INTERVAL 5 DAY, NULL), IF(status = 'retry', 1, 0) \
         FROM placed"
    )
}

/// MariaDB's record has the rows that each statement read; with values in place of parameters.
#[tokio::test]
#[ignore = "a minute; run with --ignored"]
async fn few_rows_are_read_of_a_table_that_was_filled_after_analyze() {
    let server = recording_server();
    let database = server.database().await;
    let store = store_at(&database.url);
    store.migrate(&|_| ()).await.unwrap();
    let mut connection = database.connect().await;
    connection.query_drop("ANALYZE TABLE outbox_events").await.unwrap();
    ask_of_nothing(&store, 1).await;
    connection.query_drop(fill()).await.unwrap();
    let (worker, epoch) = own_every_shard(&store).await;
    connection.query_drop("TRUNCATE mysql.slow_log").await.unwrap();

    for _ in 0..2 {
        ask_everything(&store, worker, epoch).await;
    }
    let read = "SELECT CAST(rows_examined AS unsigned), LEFT(CONVERT(sql_text USING utf8mb4), 2000) FROM mysql.slow_log \
        WHERE db = DATABASE() AND sql_text LIKE '%outbox_%' ORDER BY rows_examined DESC";
    let statements: Vec<(u64, String)> = connection.query(read).await.unwrap();
    assert!(statements.len() >= 60, "{} statements were recorded", statements.len());
    for (rows, statement) in statements {
        let most = if statement.contains(" AS meant") { MOST_SEARCHED } else { MOST_READ };
        assert!(rows <= most, "{rows} rows: {statement}");
    }
}

#[tokio::test]
async fn a_sample_of_waits_is_one_statement_that_reads_no_more_than_it_may() {
    let server = recording_server();
    let database = server.database().await;
    let store = store_at(&database.url);
    store.migrate(&|_| ()).await.unwrap();
    let mut connection = database.connect().await;
    let fill = "INSERT INTO outbox_events (id, event_type, source, publisher_backend, status, created_at, updated_at, scheduled_at, published_at) \
        WITH RECURSIVE numbers AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM numbers WHERE i < 12000), \
            placed AS (SELECT i, UTC_TIMESTAMP(6) - INTERVAL i * 600000 MICROSECOND AS at FROM numbers) \
        SELECT REPLACE(UUID(), '-', ''), 't', 's', IF(i % 50 = 0, 'rare', ''), 'published', at, at, at, at FROM placed";
    connection.query_drop("SET max_recursive_iterations = 20000").await.unwrap();
    connection.query_drop(fill).await.unwrap();
    // Two hours, with a hundred events in each minute.
    let sample = async |backends: &[&str], most_read: u32| {
        let query = WaitQuery {
            from: Utc::now() - Duration::from_secs(120 * 60),
            period: Duration::from_secs(60),
            periods: 120,
            each: 20,
            backends: backends.iter().map(|&name| name.to_owned()).collect(),
            most_read,
        };
        store.sample_waits(query).await.unwrap().len()
    };
    for (backends, most_read, found, most_rows) in
        [(&[][..], 0, 119 * 20..=120 * 20, 20_000), (&["rare"][..], 60, 110..=120 * 2, 120 * 60 * 4)]
    {
        connection.query_drop("TRUNCATE mysql.slow_log").await.unwrap();
        let sampled = sample(backends, most_read).await;
        assert!(found.contains(&sampled), "{sampled} of {backends:?}");
        let read = "SELECT CAST(rows_examined AS unsigned) FROM mysql.slow_log \
            WHERE db = DATABASE() AND sql_text LIKE '%due_at%outbox_events%' AND sql_text NOT LIKE '%slow_log%'";
        let statements: Vec<u64> = connection.query(read).await.unwrap();
        assert!(matches!(statements[..], [rows] if rows <= most_rows), "rows read by each statement: {statements:?}");
    }
}
