//! Lease writes whose worker stops in the middle, that arrive late, or that meet locks.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::MysqlLeases;
use crate::error::StoreError;
use crate::store::conformance::Fixture;
use crate::store::mysql::Address;
use crate::store::mysql::fixture::MysqlFixture;
use crate::store::{Heartbeat, LaneName, LeaseStore, Shard};
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

fn leases(url: &str) -> MysqlLeases {
    MysqlLeases::new(Address::parse(url.into()).unwrap())
}

/// A worker that has every lease.
async fn owner(url: &str) -> (Uuid, MysqlLeases, Vec<(Shard, i64)>) {
    let (worker, mut leases) = (Uuid::now_v7(), leases(url));
    leases.beat(&heartbeat(worker)).await.unwrap();
    let held = leases.acquire(worker, &lane(), 32, LEASE).await.unwrap();
    assert_eq!(held.len(), 32);
    (worker, leases, held)
}

/// The address of the same database through a proxy.
async fn through_proxy(fixture: &MysqlFixture) -> (Proxy, String) {
    let mut url = url::Url::parse(&fixture.database.url).unwrap();
    let proxy = Proxy::to(url.port().unwrap_or(3306)).await;
    url.set_port(Some(proxy.port())).unwrap();
    (proxy, url.into())
}

async fn expire_others(fixture: &MysqlFixture, worker: Uuid) {
    let (past, id) = (fixture.time(-1000), fixture.id(worker));
    fixture.execute(&format!("UPDATE outbox_heartbeats SET ends_at = {past} WHERE worker <> {id}")).await;
}

#[derive(Debug, Clone, Copy)]
enum Write {
    Beat,
    Acquire,
    Release,
}

/// The server receives the whole text, and the worker never reads the reply, as if it had been stopped at that point.
#[tokio::test]
async fn a_worker_stopped_in_the_middle_of_a_lease_write_holds_no_lock() {
    for write in [Write::Beat, Write::Acquire, Write::Release] {
        let fixture = MysqlFixture::fresh().await;
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
        let expected = match write {
            Write::Beat => 24,
            Write::Acquire => 16,
            Write::Release => 32,
        };
        eventually("the server has answered", PATIENCE, async || proxy.replies() > before).await;
        let free = "SELECT count(*) FROM outbox_leases WHERE owner IS NULL";
        eventually("it has done all of it", PATIENCE, async || fixture.number(free).await == expected).await;

        let mut healthy = leases(&fixture.database.url);
        healthy.beat(&heartbeat(other)).await.unwrap();
        let mut held = healthy.acquire(other, &lane(), 32, LEASE).await.unwrap();
        assert_eq!(i64::try_from(held.len()).unwrap(), expected, "{write:?}");
        expire_others(&fixture, other).await;
        healthy.beat(&heartbeat(other)).await.unwrap();
        held.extend(healthy.acquire(other, &lane(), 32, LEASE).await.unwrap());
        assert_eq!(held.len(), 32, "{write:?}");
        let beat = Heartbeat { held, ..heartbeat(other) };
        assert_eq!(healthy.beat(&beat).await.unwrap().renewed.len(), 32);
        stalled.abort();
    }
}

/// A release is delayed; its worker stops waiting, sees that the lease is still its own, releases it again and then acquires
/// it again.
#[tokio::test]
async fn a_release_that_arrives_late_leaves_what_was_taken_since() {
    let fixture = MysqlFixture::fresh().await;
    let (proxy, through) = through_proxy(&fixture).await;
    let (worker, mut slow, held) = owner(&through).await;
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

#[tokio::test]
async fn a_heartbeat_does_not_count_and_frees_nothing_while_its_row_is_locked() {
    let fixture = MysqlFixture::fresh().await;
    let (worker, mut owner, held) = owner(&fixture.database.url).await;
    let (other, mut taker) = (Uuid::now_v7(), leases(&fixture.database.url));
    taker.beat(&heartbeat(other)).await.unwrap();
    expire_others(&fixture, other).await;
    taker.beat(&heartbeat(other)).await.unwrap();

    let mut holder = fixture.begin().await;
    let lock = format!("SELECT beat FROM outbox_heartbeats WHERE worker = {} FOR UPDATE", fixture.id(worker));
    holder.execute(&lock).await;
    let beat = Heartbeat { held, lease: Duration::from_secs(6), ..heartbeat(worker) };
    let error = owner.beat(&beat).await.unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(taker.acquire(other, &lane(), 32, LEASE).await.unwrap().is_empty());
    holder.rollback().await;
    assert_eq!(taker.acquire(other, &lane(), 32, LEASE).await.unwrap().len(), 32);
    assert!(owner.beat(&beat).await.unwrap().renewed.is_empty());
}

#[tokio::test]
async fn a_lease_whose_row_is_locked_keeps_no_others() {
    let fixture = MysqlFixture::fresh().await;
    let (worker, mut owner, held) = owner(&fixture.database.url).await;
    let (other, mut taker) = (Uuid::now_v7(), leases(&fixture.database.url));
    taker.beat(&heartbeat(other)).await.unwrap();

    let mut holder = fixture.begin().await;
    holder.execute("SELECT epoch FROM outbox_leases WHERE backend = 'orders' AND shard = 7 FOR UPDATE").await;
    owner.release(worker, &held).await.unwrap();
    assert_eq!(taker.acquire(other, &lane(), 32, LEASE).await.unwrap().len(), 31);
    // What was not released is seen, and its worker's departure frees it.
    owner.leave(worker).await.unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_workers").await, 1);
    holder.rollback().await;
    taker.beat(&heartbeat(other)).await.unwrap();
    let rest = taker.acquire(other, &lane(), 32, LEASE).await.unwrap();
    assert_eq!(rest.into_iter().map(|(shard, _)| shard.number).collect::<Vec<_>>(), [7]);
}

/// The server answers the start of a connection and nothing after it.
#[tokio::test]
async fn a_heartbeat_on_a_connection_that_falls_silent_is_an_error_in_time() {
    let fixture = MysqlFixture::fresh().await;
    let (proxy, through) = through_proxy(&fixture).await;
    let mut leases = leases(&through);
    let beat = heartbeat(Uuid::now_v7());
    leases.beat(&beat).await.unwrap();
    proxy.set(Passage::LoseReplies);
    tokio::time::timeout(PATIENCE, leases.beat(&beat)).await.expect("it ends").unwrap_err();
    proxy.set(Passage::Open);
    eventually("it goes on", PATIENCE, async || leases.beat(&beat).await.is_ok()).await;
}

/// A worker returns after it was silent for long, and another one is about to remove it.
#[tokio::test]
async fn a_worker_whose_heartbeat_is_being_written_is_not_removed() {
    let fixture = MysqlFixture::fresh().await;
    let (worker, mut owner, held) = owner(&fixture.database.url).await;
    let (other, mut remover) = (Uuid::now_v7(), leases(&fixture.database.url));
    let (past, id) = (fixture.time(-100_000_000), fixture.id(worker));
    fixture.execute(&format!("UPDATE outbox_workers SET heartbeat_at = {past}")).await;
    fixture.execute(&format!("UPDATE outbox_heartbeats SET heartbeat_at = {past}")).await;
    let mut writing = fixture.begin().await;
    let beat = format!("UPDATE outbox_heartbeats SET heartbeat_at = SYSDATE(6) WHERE worker = {id}");
    writing.execute(&beat).await;

    let removing = tokio::spawn(async move { remover.beat(&heartbeat(other)).await });
    let blocked = "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT' \
        AND trx_query LIKE CONCAT('%', 'outbox_workers', '%')";
    let ended = async || removing.is_finished() || fixture.number(blocked).await > 0;
    eventually("it has removed the worker, or is about to", PATIENCE, ended).await;
    writing.commit().await;
    removing.await.unwrap().unwrap();
    let beat = Heartbeat { held, ..heartbeat(worker) };
    assert_eq!(owner.beat(&beat).await.unwrap().renewed.len(), 32);
}
