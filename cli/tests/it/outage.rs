//! Servers that are unavailable, restarted or emptied.

use crate::support::postgres::{self, Stop};
use crate::support::process::Running;
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, eventually, redis};
use crate::test_outbox::{DRAIN, TestOutbox};

/// If an outage cost retries, all of them would be spent by the second attempt.
const SHORT_RETRIES: &str =
    "max_retries = 2\nretry_backoff = { base = \"10ms\", factor = 1, max = \"20ms\", jitter = 0 }";
const SHORT_TIMEOUTS: &str = "connect_timeout = 1\nsocket_timeout = 1";

/// Waits until a worker's log contains `word`, in any case.
async fn says(worker: &Running, word: &str) {
    let what = format!("the worker speaks of {word:?}");
    eventually(&what, PATIENCE, async || worker.stderr().to_lowercase().contains(word)).await;
}

#[tokio::test]
async fn a_redis_outage_longer_than_all_retries_costs_none() {
    let mut server = redis::Server::start(redis::Server::DURABLE);
    let proxy = Proxy::to(server.port()).await;
    let url = format!("redis://127.0.0.1:{}/0", proxy.port());
    let test = TestOutbox::on(postgres::database().await, url).await;
    let worker = test.worker(&test.settings().worker(SHORT_RETRIES).publisher(SHORT_TIMEOUTS).write(), "worker");
    test.insert(1_000, 50).await;
    test.wait_published().await;

    server.stop();
    test.insert(1_000, 50).await;
    says(&worker, "unavailable").await;
    let before = proxy.connections();
    let twice = "Redis was tried twice as often as an event may be";
    eventually(twice, PATIENCE, async || proxy.connections() >= before + 4).await;
    let touched = "SELECT count(*) FROM outbox_events WHERE retry_count > 0 OR status NOT IN ('pending', 'published')";
    assert_eq!(test.number(touched).await, 0);
    assert_eq!(test.unpublished().await, 1_000);

    server.start_again();
    test.wait_published().await;
    assert_eq!(test.number(touched).await, 0);
    test.assert_delivered().await;
}

#[tokio::test]
async fn a_large_event_waits_without_retries_if_redis_has_no_memory_for_it() {
    // More than the breaks after which an event counts as poison.
    const PAUSES: usize = 6;
    let server = redis::Server::start(&[]);
    let test = TestOutbox::on(postgres::database().await, server.url()).await;
    let worker = test.worker(&test.settings().worker(SHORT_RETRIES).write(), "worker");
    test.insert(1, 1).await;
    test.wait_published().await;

    let mut redis = test.redis().await;
    let () = ::redis::cmd("SETRANGE").arg("another's").arg(5 << 20).arg("x").query_async(&mut redis).await.unwrap();
    let memory: String = ::redis::cmd("INFO").arg("memory").query_async(&mut redis).await.unwrap();
    let in_use = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let edge = in_use.trim().parse::<u64>().unwrap() + 700_000;
    let () =
        ::redis::cmd("CONFIG").arg(&["SET", "maxmemory", &edge.to_string()]).query_async(&mut redis).await.unwrap();
    let large = "INSERT INTO outbox_events (id, event_type, source, data, partition_key)
        VALUES (gen_random_uuid(), 'thing.happened', 'tests', to_jsonb(repeat('x', 900000)), 'large')";
    test.sql().await.execute(large, &[]).await.unwrap();
    eventually("the large event stops the backend that small ones resume", DRAIN, async || {
        if test.unpublished().await == 1 {
            test.insert(1, 1).await;
        }
        worker.stderr().matches("backend paused").count() >= PAUSES
    })
    .await;
    let touched = "SELECT count(*) FROM outbox_events WHERE retry_count > 0 OR status NOT IN ('pending', 'published')";
    assert_eq!(test.number(touched).await, 0);

    let () = ::redis::cmd("CONFIG").arg(&["SET", "maxmemory", "0"]).query_async(&mut redis).await.unwrap();
    test.wait_published().await;
    assert_eq!(test.number(touched).await, 0);
    test.assert_delivered().await;
}

#[tokio::test]
async fn killing_redis_during_work_loses_nothing_and_duplicates_nothing() {
    let mut server = redis::Server::start(redis::Server::DURABLE);
    let test = TestOutbox::on(postgres::database().await, server.url()).await;
    let _worker = test.worker(&test.settings().worker(SHORT_RETRIES).publisher(SHORT_TIMEOUTS).write(), "worker");
    for _ in 0..3 {
        let before = test.length().await;
        test.insert(5_000, 200).await;
        test.wait_length(before + 200).await;
        server.kill();
        server.start_again();
    }
    test.wait_published().await;
    test.assert_delivered().await;
    assert_eq!(test.number("SELECT coalesce(max(retry_count), 0)::bigint FROM outbox_events").await, 0);
}

#[tokio::test]
async fn a_postgres_restarted_under_a_worker_loses_nothing_and_doubles_nothing() {
    let mut server = postgres::Server::start();
    let test = TestOutbox::on(server.database().await, redis::url()).await;
    let mut worker = test.worker(&test.settings().worker(SHORT_RETRIES).write(), "worker");
    for how in [Stop::Fast, Stop::Immediate, Stop::Immediate] {
        let before = test.length().await;
        test.insert(10_000, 200).await;
        test.wait_length(before + 200).await;
        server.restart(how);
    }
    test.wait_published().await;
    test.assert_delivered().await;
    assert_eq!(test.number("SELECT coalesce(max(retry_count), 0)::bigint FROM outbox_events").await, 0);
    assert!(worker.is_running(), "{}", worker.stderr());
}

#[tokio::test]
async fn events_written_after_redis_was_emptied_arrive_once() {
    let server = redis::Server::start(&[]);
    let test = TestOutbox::on(postgres::database().await, server.url()).await;
    let _worker = test.worker(&test.settings().worker(SHORT_RETRIES).write(), "worker");
    test.insert(500, 20).await;
    test.wait_published().await;

    let () = ::redis::cmd("FLUSHALL").query_async(&mut test.redis().await).await.unwrap();
    test.sql().await.execute("DELETE FROM outbox_events", &[]).await.unwrap();
    test.insert(500, 20).await;
    test.wait_published().await;
    test.assert_delivered().await;
}

#[tokio::test]
async fn after_redis_restarts_without_its_data_new_events_arrive_once() {
    let mut server = redis::Server::start(&[]);
    let test = TestOutbox::on(postgres::database().await, server.url()).await;
    let _worker = test.worker(&test.settings().worker(SHORT_RETRIES).publisher(SHORT_TIMEOUTS).write(), "worker");
    for _ in 0..2 {
        test.insert(5_000, 200).await;
        test.wait_length(300).await;
        server.kill();
        server.start_again();
    }
    test.wait_published().await;
    // Entries lost by the two restarts stay lost: Redis had acknowledged them, and the database has them as published.
    test.sql().await.execute("DELETE FROM outbox_events", &[]).await.unwrap();
    let mut before = test.event_ids().await;
    let arrived = before.len();
    before.sort_unstable();
    before.dedup();
    assert_eq!(before.len(), arrived, "no event is twice in the present stream");
    test.insert(500, 20).await;
    test.wait_published().await;
    assert_eq!(test.length().await, arrived + 500);
    assert_eq!(test.number("SELECT max(retry_count)::bigint FROM outbox_events").await, 0);
}

#[tokio::test]
async fn a_worker_started_without_its_database_waits_for_it_and_says_so() {
    let mut server = postgres::Server::start();
    let test = TestOutbox::on(server.database().await, redis::url()).await;
    test.insert(100, 10).await;
    server.stop(Stop::Fast);
    let mut worker = test.worker(&test.settings().write(), "worker");
    says(&worker, "database").await;
    assert!(worker.is_running(), "{}", worker.stderr());
    server.start_again();
    test.wait_published().await;
    test.assert_delivered().await;
}

#[tokio::test]
async fn a_worker_started_without_its_redis_waits_for_it_and_says_so() {
    let mut server = redis::Server::start(&[]);
    let test = TestOutbox::on(postgres::database().await, server.url()).await;
    test.insert(100, 10).await;
    server.stop();
    let mut worker = test.worker(&test.settings().worker(SHORT_RETRIES).publisher(SHORT_TIMEOUTS).write(), "worker");
    says(&worker, "unavailable").await;
    assert!(worker.is_running(), "{}", worker.stderr());
    server.start_again();
    test.wait_published().await;
    test.assert_delivered().await;
}

#[tokio::test]
async fn a_database_that_is_not_migrated_is_answered_with_the_command_to_run() {
    let test = TestOutbox::unmigrated(postgres::database().await, redis::url());
    let settings = test.settings().write();
    for arguments in [&["worker"][..], &["publish", "thing.happened", "--source", "tests"], &["events", "list"]] {
        let mut program = Running::spawn(&mut test.outbox(&settings, arguments));
        assert_eq!(program.wait_exit(PATIENCE).await.code(), Some(1), "{arguments:?}");
        let said = program.stderr();
        assert!(said.contains("outbox migrate"), "{arguments:?}: {said}");
    }
}
