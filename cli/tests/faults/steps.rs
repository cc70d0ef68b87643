//! The steps of the tests of single rules.

use serde_json::json;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::deployment::{Deployment, LEASE};
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually};
use crate::worker_slots::WorkerSlot;
use crate::writers::Committed;

pub(crate) async fn start(deployment: &Deployment, slot: &WorkerSlot, settings: &[(&str, &str)]) {
    *slot.worker.lock().await = Some(deployment.worker(slot, 0, settings));
}

/// Waits until every event is published and removed from the journal.
pub(crate) async fn settle_all(deployment: &Deployment) {
    assert_eq!(deployment.drain(PATIENCE).await, 0);
    eventually("the journal is empty", PATIENCE, async || {
        let fields = deployment.journal().await;
        !fields.is_empty() && !fields.keys().any(|field| field.starts_with("sent/"))
    })
    .await;
}

/// Removes all workers and their leases, so that no worker waits for disconnected ones.
pub(crate) async fn forget_the_workers(deployment: &Deployment) {
    let forget = "DELETE FROM outbox_workers; UPDATE outbox_leases SET owner = NULL, epoch = epoch + 1";
    deployment.sql().await.batch_execute(forget).await.unwrap();
}

/// Waits for several heartbeats of the first slot's worker, so that it has handled pending answers.
pub(crate) async fn hear_the_heart_of_the_first(deployment: &Deployment, times: u32) {
    let beats = "SELECT count(*) FROM outbox_workers w JOIN outbox_heartbeats h ON h.worker = w.id
        WHERE w.name LIKE 'worker-0%' AND h.heartbeat_at > clock_timestamp()";
    for _ in 0..times {
        let now: String = deployment.sql().await.query_one("SELECT clock_timestamp()::text", &[]).await.unwrap().get(0);
        let beaten = beats.replace("clock_timestamp()", &format!("'{now}'"));
        eventually("the first worker sends a heartbeat", 5 * LEASE, async || deployment.number(&beaten).await == 1)
            .await;
    }
}

const LOCK: &str = "BEGIN; LOCK TABLE outbox_events IN ACCESS EXCLUSIVE MODE";

/// Commits events of both lanes and returns when a worker's fetch, which will read them, waits for the table; the fetch
/// continues when the returned transaction ends.
pub(crate) async fn insert_under_a_fetch(deployment: &Deployment, count: i32) -> (Vec<Vec<Committed>>, Client) {
    let (writing, locking) = (deployment.sql().await, deployment.sql().await);
    writing.batch_execute(LOCK).await.unwrap();
    // It may be the fetch of retries, which is the second one.
    while !who_waits_for_the_table(deployment).await.contains("from_at") {
        writing.batch_execute("ROLLBACK").await.unwrap();
        writing.batch_execute(LOCK).await.unwrap();
    }
    let mut committed = Vec::new();
    for lane in ["", "default"] {
        committed.push(insert_into(lane, &writing, count).await);
    }
    // The fetch is being prepared. A session that queues for the table now gets its lock before the fetch is executed.
    let queueing = tokio::spawn(async move { locking.batch_execute(LOCK).await.map(|()| locking).unwrap() });
    eventually("the next lock is requested", PATIENCE, async || {
        who_waits_for_the_table(deployment).await.contains("BEGIN; LOCK")
    })
    .await;
    writing.batch_execute("COMMIT").await.unwrap();
    let locking = queueing.await.unwrap();
    eventually("the fetch is being executed", PATIENCE, async || {
        who_waits_for_the_table(deployment).await.contains("from_at")
    })
    .await;
    (committed, locking)
}

/// Waits for statements that wait for a lock, and returns them.
async fn who_waits_for_the_table(deployment: &Deployment) -> String {
    let waiting = "SELECT coalesce(string_agg(query, '; '), '') FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let (watching, mut queries) = (deployment.sql().await, String::new());
    eventually("a statement waits for the table", PATIENCE, async || {
        queries = watching.query_one(waiting, &[]).await.unwrap().get(0);
        !queries.is_empty()
    })
    .await;
    queries
}

/// Events of one transaction, some of them with keys.
pub(crate) async fn insert(deployment: &Deployment, count: i32) -> Vec<Committed> {
    insert_into("", &deployment.sql().await, count).await
}

/// Events of one transaction in one lane. They are due since the transaction's start, so also for a fetch that waits for its
/// end.
async fn insert_into(lane: &str, client: &Client, count: i32) -> Vec<Committed> {
    let statement = "INSERT INTO outbox_events (id, event_type, source, scheduled_at, partition_key, publisher_backend)
        SELECT gen_random_uuid(), 'thing.happened', 'faults', now(), CASE n % 3 WHEN 0 THEN '' ELSE $2 || ' key ' || n % 20 END, $2
        FROM generate_series(1, $1) n RETURNING id::text, partition_key";
    let rows = client.query(statement, &[&count, &lane]).await.unwrap();
    rows.iter().map(|row| Committed { id: row.get::<_, &str>(0).parse().unwrap(), key: row.get(1) }).collect()
}

/// Two events of one transaction; the second has a field that a stream entry cannot have.
pub(crate) async fn insert_with_one_that_cannot_be_sent(deployment: &Deployment) -> Vec<Committed> {
    let events = [json!({}), json!({ "field": { "nested": true } })].map(|config| {
        let committed = Committed { id: Uuid::new_v4(), key: String::new() };
        (committed, config)
    });
    let values =
        events.each_ref().map(|(event, config)| format!("('{}', 'thing.happened', 'faults', '{config}')", event.id));
    let statement =
        format!("INSERT INTO outbox_events (id, event_type, source, publisher_config) VALUES {}", values.join(", "));
    deployment.sql().await.batch_execute(&statement).await.unwrap();
    events.map(|(event, _)| event).into()
}

/// Fixes and retries a failed event, as an operator does.
pub(crate) async fn fix_and_retry(deployment: &Deployment, slot: &WorkerSlot, id: Uuid) {
    let fix = format!("UPDATE outbox_events SET publisher_config = '{{}}' WHERE id = '{id}'");
    deployment.sql().await.batch_execute(&fix).await.unwrap();
    let mut retry = Running::spawn(&mut deployment.outbox(slot, &["events", "retry", &id.to_string()]));
    assert!(retry.wait_exit(PATIENCE).await.success(), "{}", retry.stderr());
}
