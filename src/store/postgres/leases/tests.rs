//! Lease writes whose worker stops in the middle, or that arrive late.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{PostgresLeases, sql};
use crate::store::conformance::Fixture;
use crate::store::postgres::Target;
use crate::store::postgres::fixture::PostgresFixture;
use crate::store::{Heartbeat, LaneName, LeaseStore};
use crate::test_support::proxy::{Passage, Proxy};
use crate::test_support::{PATIENCE, eventually};

const LEASE: Duration = Duration::from_secs(60);

fn lane() -> LaneName {
    Arc::from("orders")
}

fn heartbeat(worker: Uuid) -> Heartbeat {
    Heartbeat {
        worker,
        name: "test".to_owned(),
        backends: r#"{"orders": "ok"}"#.to_owned(),
        handlers: "[]".to_owned(),
        lanes: vec![lane()],
        held: Vec::new(),
        extends: true,
        lease: LEASE,
    }
}

fn leases(url: &str) -> PostgresLeases {
    PostgresLeases::new(Arc::new(Target::from_url(url).unwrap()))
}

#[derive(Debug, Clone, Copy)]
enum Write {
    Beat,
    Acquire,
    Release,
}

/// The address of the same database through a proxy.
async fn through_proxy(fixture: &PostgresFixture) -> (Proxy, String) {
    let mut url = url::Url::parse(&fixture.database.url).unwrap();
    let proxy = Proxy::to(url.port().unwrap_or(5432)).await;
    url.set_port(Some(proxy.port())).unwrap();
    (proxy, url.into())
}

/// The server receives the whole statement, and the worker never reads the reply, as if it had been stopped at that point.
#[tokio::test]
async fn a_worker_stopped_in_the_middle_of_a_lease_write_holds_no_lock() {
    for write in [Write::Beat, Write::Acquire, Write::Release] {
        let fixture = PostgresFixture::fresh().await;
        let (proxy, through) = through_proxy(&fixture).await;
        let (stopped, other) = (Uuid::now_v7(), Uuid::now_v7());
        let mut worker = leases(&through);
        worker.beat(&heartbeat(stopped)).await.unwrap();
        let held = worker.acquire(stopped, &lane(), 8, LEASE).await.unwrap();

        proxy.set(Passage::LoseReplies);
        let before = proxy.replies();
        let stalled = tokio::spawn(async move {
            match write {
                Write::Beat => drop(worker.beat(&Heartbeat { held, ..heartbeat(stopped) }).await),
                Write::Acquire => drop(worker.acquire(stopped, &lane(), 8, LEASE).await),
                Write::Release => drop(worker.release(stopped, &held).await),
            }
        });
        eventually("the server has answered", PATIENCE, async || proxy.replies() > before).await;

        let mut healthy = leases(&fixture.database.url);
        healthy.beat(&heartbeat(other)).await.unwrap();
        let left = match write {
            Write::Beat => 24,
            Write::Acquire => 16,
            Write::Release => 32,
        };
        let mut held = healthy.acquire(other, &lane(), 32, LEASE).await.unwrap();
        assert_eq!(held.len(), left, "{write:?}");
        let end = "UPDATE outbox_heartbeats SET ends_at = clock_timestamp() - interval '1 second' WHERE worker <> ";
        fixture.execute(&format!("{end}'{other}'")).await;
        healthy.beat(&heartbeat(other)).await.unwrap();
        held.extend(healthy.acquire(other, &lane(), 32, LEASE).await.unwrap());
        assert_eq!(held.len(), 32, "{write:?}");
        let beat = Heartbeat { held, ..heartbeat(other) };
        assert_eq!(healthy.beat(&beat).await.unwrap().renewed.len(), 32);
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND state LIKE 'idle in transaction%'";
        assert_eq!(fixture.number(open).await, 0);
        stalled.abort();
    }
}

/// A release is delayed; its worker stops waiting, sees that the lease is still its own, releases it again and then acquires
/// it again.
#[tokio::test]
async fn a_release_that_arrives_late_leaves_what_was_taken_since() {
    let fixture = PostgresFixture::fresh().await;
    let (proxy, through) = through_proxy(&fixture).await;
    let worker = Uuid::now_v7();
    let mut slow = leases(&through);
    slow.beat(&heartbeat(worker)).await.unwrap();
    let held = slow.acquire(worker, &lane(), 32, LEASE).await.unwrap();
    proxy.set(Passage::HoldRequests);
    assert!(slow.release(worker, &held).await.unwrap_err().is_transient());

    let mut quick = leases(&fixture.database.url);
    let view = quick.beat(&heartbeat(worker)).await.unwrap();
    let own: Vec<_> = view.leases.into_iter().filter(|row| row.owner == Some(worker)).collect();
    let seen: Vec<_> = own.into_iter().map(|row| (row.shard, row.epoch)).collect();
    assert_eq!(seen.len(), 32);
    quick.release(worker, &seen).await.unwrap();
    let held = quick.acquire(worker, &lane(), 32, LEASE).await.unwrap();

    let before = proxy.replies();
    proxy.set(Passage::Open);
    eventually("the server has answered the release", PATIENCE, async || proxy.replies() > before).await;
    let beat = Heartbeat { held, ..heartbeat(worker) };
    assert_eq!(quick.beat(&beat).await.unwrap().renewed.len(), 32);
}

/// A worker that knows only the first protocol and starts after the second has begun.
#[tokio::test]
async fn a_worker_that_does_not_know_the_rules_in_force_gets_no_share() {
    let fixture = PostgresFixture::fresh().await;
    let mut store = leases(&fixture.database.url);
    store.beat(&heartbeat(Uuid::now_v7())).await.unwrap();
    store.beat(&heartbeat(Uuid::now_v7())).await.unwrap();
    let older = "INSERT INTO outbox_workers (id, name, version, backends, handlers)
        SELECT gen_random_uuid(), 'older', '0.1.0', '{\"orders\": \"ok\"}', '[]' FROM outbox_meta WHERE protocol = 2";
    let mut client = fixture.begin().await;
    client.execute(older).await;
    client.commit().await;
    let known = Uuid::now_v7();
    let view = leases(&fixture.database.url).beat(&heartbeat(known)).await.unwrap();
    assert_eq!(view.live_workers.len(), 3, "those that know the rules: {:?}", view.live_workers);
}

/// The number of pages that a statement read.
async fn pages(fixture: &PostgresFixture, sql: &str) -> i64 {
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}");
    let row = fixture.database.connect().await.query_one(&explain, &[]).await.unwrap();
    let plan: serde_json::Value = row.get(0);
    let of = |name: &str| plan[0]["Plan"][name].as_i64().unwrap();
    of("Shared Hit Blocks") + of("Shared Read Blocks")
}

/// The location of the worker's heartbeat, and its number.
async fn newest(fixture: &PostgresFixture, worker: Uuid) -> (i64, String) {
    let query = format!("SELECT beat, ctid::text FROM outbox_heartbeats WHERE worker = '{worker}'");
    let row = fixture.database.connect().await.query_one(&query, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn heartbeats_and_lease_checks_read_no_more_pages_under_an_old_snapshot() {
    let fixture = PostgresFixture::fresh().await;
    let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
    for worker in [one, other] {
        leases(&fixture.database.url).beat(&heartbeat(worker)).await.unwrap();
    }
    let measure = async || {
        let (number, place) = newest(&fixture, one).await;
        let places = [(one, place.clone()), (other, newest(&fixture, other).await.1)].into_iter().collect();
        let beaten = pages(&fixture, &sql::beat(&heartbeat(one), number, Some(&place))).await;
        (beaten, pages(&fixture, &sql::read_ends(&[one, other], &places)).await)
    };
    measure().await;
    let first = measure().await;
    let mut holder = fixture.begin().await;
    holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM outbox_heartbeats").await;
    let beats = "DO $$ BEGIN FOR n IN 1..5000 LOOP \
        UPDATE outbox_heartbeats SET beat = beat + 1, heartbeat_at = clock_timestamp(); COMMIT; END LOOP; END $$";
    fixture.execute(beats).await;
    let by_key = pages(&fixture, &sql::read_ends(&[one], &std::collections::BTreeMap::new())).await;
    let last = measure().await;
    assert!(by_key > 40, "the snapshot keeps old versions: {by_key} pages");
    assert!(last.0 <= first.0 * 3 / 2 && last.1 <= first.1 * 3 / 2, "{first:?} pages at first, {last:?} at last");
    holder.rollback().await;
}

/// The server answers the start of a connection and nothing after it.
#[tokio::test]
async fn a_heartbeat_on_a_connection_that_falls_silent_is_an_error_in_time() {
    let fixture = PostgresFixture::fresh().await;
    let (proxy, through) = through_proxy(&fixture).await;
    let mut leases = leases(&through);
    let beat = heartbeat(Uuid::now_v7());
    proxy.set(Passage::LoseRepliesAfter(2));
    tokio::time::timeout(PATIENCE, leases.beat(&beat)).await.expect("it ends").unwrap_err();
    proxy.set(Passage::Open);
    eventually("it goes on", PATIENCE, async || leases.beat(&beat).await.is_ok()).await;
}
