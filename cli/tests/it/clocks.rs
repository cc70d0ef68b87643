//! Workers with wrong clocks: only the database's clock counts.

use chrono::{DateTime, TimeDelta, Utc};

use crate::actors::{row, wait_status};
use crate::support::clock;
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

const HOUR: i64 = 3_600;

/// A running worker whose clock is this many seconds fast.
fn worker(test: &TestOutbox, name: &str, seconds: i64) -> Running {
    let settings = test.settings().worker("lease = \"1s\"\npoll_interval = \"10ms\"").write();
    let mut command = test.outbox(&settings, &["worker", "--name", name]);
    clock::shift(&mut command, seconds);
    Running::spawn(&mut command)
}

/// The time of a worker's first log line, by its own clock.
async fn first_said_at(worker: &Running) -> DateTime<Utc> {
    eventually("it logs a line", PATIENCE, async || worker.stderr().contains('\n')).await;
    worker.stderr().split_whitespace().next().unwrap().parse().unwrap()
}

async fn insert(test: &TestOutbox, subject: &str, columns: &str, values: &str) {
    let statement = format!(
        "INSERT INTO outbox_events (id, event_type, source, subject, {columns})
         VALUES (gen_random_uuid(), 'thing.happened', 'tests', '{subject}', {values})"
    );
    test.sql().await.execute(&statement, &[]).await.unwrap();
}

#[tokio::test]
async fn a_worker_an_hour_ahead_or_behind_delivers_exactly_what_is_due() {
    for shift in [HOUR, -HOUR] {
        let test = TestOutbox::new().await;
        insert(&test, "past", "scheduled_at", "now() - interval '1 minute'").await;
        insert(&test, "soon", "scheduled_at", "now() + interval '2 seconds'").await;
        insert(&test, "later", "scheduled_at", "now() + interval '30 minutes'").await;
        let retry = "status, retry_count, retry_at";
        insert(&test, "retry soon", retry, "'retry', 1, now() + interval '2 seconds'").await;
        insert(&test, "retry later", retry, "'retry', 1, now() + interval '30 minutes'").await;
        let worker = worker(&test, "wrong", shift);
        let wrong_by = first_said_at(&worker).await - Utc::now();
        assert!((wrong_by - TimeDelta::seconds(shift)).abs() < TimeDelta::minutes(5), "{wrong_by}");

        let sql = test.sql().await;
        for subject in ["past", "soon", "retry soon"] {
            wait_status(&sql, subject, "published").await;
        }
        insert(&test, "marker", "scheduled_at", "now()").await;
        wait_status(&sql, "marker", "published").await;
        assert_eq!(row(&sql, "later").await.status, "pending");
        assert_eq!(row(&sql, "retry later").await.status, "retry");
        let early = "SELECT count(*) FROM outbox_events WHERE published_at < coalesce(retry_at, scheduled_at)";
        assert_eq!(test.number(early).await, 0, "published before their time, or by the worker's clock");
        let late = "SELECT count(*) FROM outbox_events WHERE published_at > now()";
        assert_eq!(test.number(late).await, 0, "published by the worker's clock");
        assert_eq!(test.length().await, 4);
    }
}

#[tokio::test]
async fn workers_with_clocks_two_hours_apart_share_the_shards_and_steal_none() {
    let test = TestOutbox::new().await;
    let mut ahead = worker(&test, "ahead", HOUR);
    let _behind = worker(&test, "behind", -HOUR);
    let shares = "SELECT count(*) FROM (SELECT FROM outbox_leases l JOIN outbox_workers w ON w.id = l.owner
        GROUP BY l.backend, w.name HAVING count(*) = 16) equal";
    eventually("each owns half of each lane", PATIENCE, async || test.number(shares).await == 4).await;
    let leases = "SELECT string_agg(concat_ws(' ', backend, shard, owner, epoch), ',' ORDER BY backend, shard)
        FROM outbox_leases";
    let sql = test.sql().await;
    let before: String = sql.query_one(leases, &[]).await.unwrap().get(0);
    let now: String = sql.query_one("SELECT clock_timestamp()::text", &[]).await.unwrap().get(0);
    // Longer than a lease that is not renewed.
    let beaten =
        format!("SELECT count(*) FROM outbox_heartbeats WHERE heartbeat_at > '{now}'::timestamptz + interval '2 s'");
    eventually("both still send heartbeats", PATIENCE, async || test.number(&beaten).await == 2).await;
    test.insert(500, 50).await;
    test.wait_published().await;
    let after: String = sql.query_one(leases, &[]).await.unwrap().get(0);
    assert_eq!(after, before);

    ahead.kill();
    let left = "SELECT count(*) FROM outbox_leases l LEFT JOIN outbox_workers w ON w.id = l.owner
        WHERE w.name IS DISTINCT FROM 'behind'";
    eventually("the other worker has taken over", PATIENCE, async || test.number(left).await == 0).await;
    test.insert(500, 50).await;
    test.wait_published().await;
    test.assert_delivered().await;
}
