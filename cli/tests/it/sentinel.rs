//! Behind Redis Sentinel.

use crate::support::redis::sentinel::Watched;
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

const SHORT_TIMEOUTS: &str = "connect_timeout = 1\nsocket_timeout = 1";

/// Whether a server has this role. Sentinels cut all connections to a server whose role they change.
async fn has_role(url: &str, role: &str) -> bool {
    let asked = async {
        let mut connection = ::redis::Client::open(url)?.get_multiplexed_async_connection().await?;
        ::redis::cmd("ROLE").query_async::<Vec<::redis::Value>>(&mut connection).await
    };
    asked.await.is_ok_and(|answer| answer[0] == ::redis::Value::BulkString(role.into()))
}

#[tokio::test]
async fn events_that_a_replica_confirmed_arrive_once_after_sentinel_fails_over() {
    let mut redis = Watched::start(&[]).await;
    let mut test = TestOutbox::found_by(redis.settings(), redis.master.url()).await;
    let publisher = format!("{SHORT_TIMEOUTS}\nwait_replicas = {{ count = 1, timeout = \"500ms\" }}");
    let _worker = test.worker(&test.settings().publisher(&publisher).write(), "worker");
    test.insert(10_000, 200).await;
    test.wait_length(300).await;
    redis.master.kill();
    let replica = redis.replica.url();
    eventually("the replica is the master", PATIENCE, async || has_role(&replica, "master").await).await;

    // Only one copy of the data is left, so no event counts as sent until there is a replica again.
    test.insert(1_000, 200).await;
    redis.master.start_again();
    let old = redis.master.url();
    eventually("the old master follows the new one", 2 * PATIENCE, async || has_role(&old, "slave").await).await;
    test.read_from(replica);
    test.wait_published().await;
    test.assert_delivered().await;
    assert_eq!(test.number("SELECT max(retry_count)::bigint FROM outbox_events").await, 0);
}

#[tokio::test]
async fn a_failover_by_command_is_followed_without_a_restart() {
    let redis = Watched::start(&[]).await;
    let mut test = TestOutbox::found_by(redis.settings(), redis.master.url()).await;
    let worker = test.worker(&test.settings().publisher(SHORT_TIMEOUTS).write(), "worker");
    test.insert(500, 20).await;
    test.wait_published().await;

    redis.fail_over().await;
    let replica = redis.replica.url();
    eventually("the replica is the master", PATIENCE, async || has_role(&replica, "master").await).await;
    let old = redis.master.url();
    eventually("the old master follows the new one", 2 * PATIENCE, async || has_role(&old, "slave").await).await;
    test.insert(500, 20).await;
    test.read_from(replica);
    test.wait_published().await;
    test.assert_delivered().await;
    drop(worker);
}
