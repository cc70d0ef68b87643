//! Adopting a large table during writes, interrupted by kills.

use std::time::{Duration, Instant};

use tokio_postgres::Client;
use uuid::Uuid;

use super::writer::{Writer, Written};
use super::{Adoption, fresh_schema, schema};
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, postgres};
use crate::test_outbox::DRAIN;

const KILLS: usize = 10;

/// The longest that a write may wait: the adoption waits at most 1.5 s for a lock.
const LONGEST_WRITE: Duration = Duration::from_secs(2);

/// Rows: half of them published, the other half in all states.
const FILL: &str = "INSERT INTO outbox_events (id, spec_version, event_type, source, subject, data_content_type,
        data_schema, data, status, created_at, updated_at, scheduled_at, published_at, retry_count, max_retries,
        last_error, publisher_backend, publisher_config)
    SELECT gen_random_uuid(), '1.0', 'order.placed', 'shop', 'order-' || n, 'application/json', '',
        jsonb_build_object('order', n, 'note', repeat('x', 100)),
        CASE WHEN n % 2 = 0 THEN 'published' WHEN n % 1001 = 0 THEN 'processing' WHEN n % 101 = 0 THEN 'failed'
            WHEN n % 7 = 0 THEN 'retry' ELSE 'pending' END,
        now(), now(), now(), CASE WHEN n % 2 = 0 THEN now() END, 0, 3, '', '', '{}'
    FROM generate_series(1, $1) n";

/// The data that must be the same before and after.
const DIGEST: &str =
    "SELECT count(*) || ' ' || sum(hashtextextended(concat_ws('|', id, spec_version, event_type, subject,
        data_content_type, data_schema, data, replace(status, 'processing', 'pending'), created_at, scheduled_at,
        published_at, retry_count, max_retries, last_error, publisher_backend, publisher_config), 0)::numeric)
    FROM outbox_events WHERE source = 'shop'";

/// The statement that an adoption was executing on the server.
const DOING: &str = "SELECT split_part(regexp_replace(query, '.*(CONCURRENTLY|ALTER TABLE|UPDATE)', '\\1'), '(', 1)
    FROM pg_stat_activity WHERE application_name = 'actix-outbox' AND datname = current_database() AND state = 'active'";

impl Adoption {
    async fn filled(database: postgres::Database, rows: i32) -> Self {
        let adoption = Self::on(database).await;
        let sql = adoption.test.sql().await;
        sql.execute(FILL, &[&rows]).await.unwrap();
        sql.batch_execute("ANALYZE outbox_events").await.unwrap();
        adoption
    }

    fn start(&self) -> Running {
        let settings = self.test.settings().write();
        Running::spawn(&mut self.test.outbox(&settings, &["migrate"]))
    }

    /// Kills it at random moments, the n-th at most n times `unit` after its start, until it has been killed ten times or
    /// has finished. Returns the server's statement at each kill.
    async fn kill_again_and_again(&self, unit: Duration) -> Vec<String> {
        let sql = self.test.sql().await;
        let mut killed = Vec::new();
        for number in 1..=KILLS {
            let mut adopting = self.start();
            let share = f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
            let moment = Instant::now() + unit.mul_f64(share * number as f64);
            while adopting.is_running() && Instant::now() < moment {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let doing = sql.query(DOING, &[]).await.unwrap();
            if !adopting.is_running() {
                break;
            }
            adopting.kill();
            killed.push(
                doing
                    .first()
                    .map_or_else(|| "starting or waiting".to_owned(), |row| row.get::<_, String>(0).trim().to_owned()),
            );
        }
        killed
    }
}

/// Fills a table, adopts it during writes and kills, and checks the result.
async fn adopt_under_kills(database: postgres::Database, rows: i32, unit: Duration) -> (Vec<String>, Written) {
    let adoption = Adoption::filled(database, rows).await;
    let sql = adoption.test.sql().await;
    let before: String = sql.query_one(DIGEST, &[]).await.unwrap().get(0);
    let writer = Writer::start(adoption.test.sql().await).await;
    let killed = adoption.kill_again_and_again(unit).await;
    let mut last = adoption.start();
    let status = last.wait_exit(10 * DRAIN).await;
    assert!(status.success(), "{}", last.stderr());
    let written = writer.stop().await;

    assert_eq!(sql.query_one(DIGEST, &[]).await.unwrap().get::<_, String>(0), before);
    assert_eq!(schema(&sql).await, fresh_schema().await);
    check_rows(&adoption, &sql, &written).await;
    (killed, written)
}

async fn check_rows(adoption: &Adoption, sql: &Client, written: &Written) {
    let there = "SELECT count(*) FROM outbox_events WHERE id = ANY($1::text[]::uuid[]) AND seq IS NOT NULL";
    let kept: i64 = sql.query_one(there, &[&written.ids]).await.unwrap().get(0);
    assert_eq!(kept, written.ids.len() as i64, "events written meanwhile are lost or have no `seq`");
    for (what, query) in [
        ("rows that are not published and have no place", "seq IS NULL AND status <> 'published'"),
        ("rows in processing", "status = 'processing'"),
        ("rows with another's place", "seq IN (SELECT seq FROM outbox_events GROUP BY seq HAVING count(*) > 1)"),
    ] {
        let count = adoption.test.number(&format!("SELECT count(*) FROM outbox_events WHERE {query}")).await;
        assert_eq!(count, 0, "{what}");
    }
}

/// A writer inserts events meanwhile.
#[tokio::test]
async fn an_adoption_killed_ten_times_loses_nothing_and_ends_in_the_same_tables() {
    let mut kills = 0;
    // If an adoption finishes sooner, the next one gets the remaining kills.
    while kills < KILLS {
        let (killed, _) = adopt_under_kills(postgres::database().await, 100_000, Duration::from_millis(100)).await;
        println!("killed {} times, while: {}", killed.len(), killed.join("; "));
        kills += killed.len();
    }
}

/// `scripts/adoption.sh` runs it.
#[tokio::test]
#[ignore = "takes minutes"]
async fn two_million_rows_are_adopted_under_kills_and_no_write_waits_for_2_s() {
    const ROWS: i32 = 2_000_000;
    let server = postgres::Server::start_with(&[("fsync", "on"), ("shared_buffers", "256MB")]);
    let began = Instant::now();
    let (killed, written) = adopt_under_kills(server.database().await, ROWS, Duration::from_secs(1)).await;
    println!("{ROWS} rows, half of them not published; filled, adopted and checked in {:.0?}", began.elapsed());
    println!("killed {} times, while: {}", killed.len(), killed.join("; "));
    println!("rows lost: 0 of {ROWS} and of {} written meanwhile", written.ids.len());
    println!("longest wait of a write: {:.0?} (wanted: less than {LONGEST_WRITE:?})", written.longest);
    assert!(written.longest < LONGEST_WRITE);
}

#[tokio::test]
async fn an_index_that_was_left_half_built_is_dropped_and_built_again() {
    let adoption = Adoption::filled(postgres::database().await, 1_000).await;
    let (holder, sql) = (adoption.test.sql().await, adoption.test.sql().await);
    holder.batch_execute("BEGIN; UPDATE outbox_events SET subject = '' WHERE retry_count > 0").await.unwrap();
    sql.batch_execute("SET lock_timeout = '50ms'").await.unwrap();
    let build =
        "CREATE INDEX CONCURRENTLY outbox_events_published ON outbox_events (created_at) WHERE status = 'published'";
    assert!(sql.batch_execute(build).await.is_err());
    holder.batch_execute("COMMIT").await.unwrap();

    let planned = String::from_utf8(adoption.migrate(&["--dry-run"]).stdout).unwrap();
    assert_eq!(planned.matches("DROP INDEX CONCURRENTLY \"public\".outbox_events_published;").count(), 1, "{planned}");
    adoption.adopt();
    assert_eq!(schema(&sql).await, fresh_schema().await);
}

#[tokio::test]
async fn a_transaction_that_locks_the_table_delays_the_adoption_not_the_writers() {
    let adoption = Adoption::filled(postgres::database().await, 1_000).await;
    let holder = adoption.test.sql().await;
    holder.batch_execute("BEGIN; SELECT FROM outbox_events LIMIT 1").await.unwrap();
    let writer = Writer::start(adoption.test.sql().await).await;
    let mut adopting = adoption.start();
    let sql = adoption.test.sql().await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'actix-outbox'
        AND datname = current_database() AND wait_event_type = 'Lock'";
    // It waits, times out, and retries.
    for count in [1, 0, 1] {
        let what = format!("{count} adoptions wait for the table");
        eventually(&what, PATIENCE, async || sql.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == count).await;
    }
    assert!(adopting.is_running());
    holder.batch_execute("COMMIT").await.unwrap();
    assert!(adopting.wait_exit(DRAIN).await.success(), "{}", adopting.stderr());
    let written = writer.stop().await;
    assert!(written.longest < LONGEST_WRITE, "a write took {:?}", written.longest);
    check_rows(&adoption, &sql, &written).await;
}

#[tokio::test]
async fn of_concurrent_adoptions_one_does_the_work_and_the_others_find_it_done() {
    let adoption = Adoption::filled(postgres::database().await, 2_000).await;
    let mut all: Vec<Running> = (0..4).map(|_| adoption.start()).collect();
    let mut did = 0;
    for one in &mut all {
        assert!(one.wait_exit(DRAIN).await.success(), "{}", one.stderr());
        did += usize::from(one.stdout().starts_with("adopted"));
    }
    assert_eq!(did, 1);
    assert_eq!(schema(&adoption.test.sql().await).await, fresh_schema().await);
}
