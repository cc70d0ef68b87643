//! A worker that stops in the middle of a lease write.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::PostgresLeases;
use crate::store::contract::Fixture;
use crate::store::postgres::Target;
use crate::store::postgres::fixture::PostgresFixture;
use crate::store::{Heartbeat, Lane, LeaseStore, Shard};
use crate::test_support::proxy::{Passage, Proxy};
use crate::test_support::{PATIENCE, eventually};

const LEASE: Duration = Duration::from_secs(60);

fn lane() -> Lane {
    Arc::from("orders")
}

fn heartbeat(worker: Uuid) -> Heartbeat {
    Heartbeat {
        worker,
        name: "test".to_owned(),
        backends: r#"{"orders": "ok"}"#.to_owned(),
        handlers: "[]".to_owned(),
        lanes: vec![lane()],
        stuck: Vec::new(),
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

/// The server has the whole statement, and the worker never reads its answer: as if it had been stopped right there.
#[tokio::test]
async fn a_worker_stopped_in_the_middle_of_a_lease_write_holds_no_lock() {
    for write in [Write::Beat, Write::Acquire, Write::Release] {
        let fixture = PostgresFixture::fresh().await;
        let url = url::Url::parse(&fixture.database.url).unwrap();
        let proxy = Proxy::to(url.port().unwrap_or(5432)).await;
        let mut through = url.clone();
        through.set_port(Some(proxy.port())).unwrap();
        let (stopped, other) = (Uuid::now_v7(), Uuid::now_v7());
        let mut worker = leases(through.as_str());
        worker.beat(&heartbeat(stopped)).await.unwrap();
        worker.acquire(stopped, &lane(), 8, LEASE).await.unwrap();

        proxy.set(Passage::LoseReplies);
        let before = proxy.replies();
        let stalled = tokio::spawn(async move {
            let shards: Vec<Shard> = (0..32).map(|number| Shard { lane: lane(), number }).collect();
            match write {
                Write::Beat => drop(worker.beat(&heartbeat(stopped)).await),
                Write::Acquire => drop(worker.acquire(stopped, &lane(), 8, LEASE).await),
                Write::Release => drop(worker.release(stopped, &shards).await),
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
        assert_eq!(healthy.acquire(other, &lane(), 32, LEASE).await.unwrap().len(), left, "{write:?}");
        fixture.execute("UPDATE outbox_leases SET expires_at = clock_timestamp() - interval '1 second'").await;
        assert_eq!(healthy.acquire(other, &lane(), 32, LEASE).await.unwrap().len(), 32, "{write:?}");
        assert_eq!(healthy.beat(&heartbeat(other)).await.unwrap().renewed.len(), 32);
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND state LIKE 'idle in transaction%'";
        assert_eq!(fixture.number(open).await, 0);
        stalled.abort();
    }
}
