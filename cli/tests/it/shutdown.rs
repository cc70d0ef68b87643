//! Workers that are stopped or killed in the middle of their work.

use std::time::{Duration, Instant};

use actix_outbox::{Outbox, OutboxSystem, Settings, SystemError};

use crate::actors::{Log, Reply, Scripted, event};
use crate::support::process::{Running, Signal};
use crate::support::proxy::{Passage, Proxy};
use crate::support::{PATIENCE, eventually, postgres, redis};
use crate::test_outbox::TestOutbox;

/// Slow enough that a backlog of 20,000 outlasts the test, with few events in flight.
const SLOW: &str = "rate_limit = { per_second = 500, burst = 100 }";
const LITTLE_IN_FLIGHT: &str = "batch_size = 50\nmax_in_flight = 200\nlease = \"15s\"";

#[tokio::test]
async fn a_worker_told_to_stop_settles_what_is_in_flight_and_leaves() {
    let test = TestOutbox::new().await;
    test.insert(20_000, 200).await;
    let settings = test.settings().worker(LITTLE_IN_FLIGHT).publisher(SLOW).write();
    for (number, signal) in [Signal::TERM, Signal::INT].into_iter().enumerate() {
        let before = test.length().await;
        let mut worker = test.worker(&settings, &format!("worker-{number}"));
        test.wait_length(before + 200).await;
        worker.signal(signal);
        assert_eq!(worker.wait_exit(PATIENCE).await.code(), Some(0), "{}", worker.stderr());
        assert_eq!(test.published().await, test.length().await as i64, "in the stream and settled");
        assert!(test.unpublished().await > 0, "it was in the middle of its work");
        let held = "SELECT count(*) FROM outbox_running_leases";
        assert_eq!(test.number(held).await, 0, "leases that it left behind");
        assert_eq!(test.number("SELECT count(*) FROM outbox_workers").await, 0, "workers that it left behind");
    }
    test.drain(&test.settings().write()).await;
    test.assert_delivered().await;
}

#[tokio::test]
async fn a_worker_told_to_stop_hands_its_share_over_at_once() {
    let test = TestOutbox::new().await;
    test.insert(20_000, 200).await;
    let mut leaving = test.worker(&test.settings().worker(LITTLE_IN_FLIGHT).publisher(SLOW).write(), "leaving");
    test.wait_length(200).await;
    let _staying = test.worker(&test.settings().worker("lease = \"15s\"").write(), "staying");
    test.wait_owners(&["leaving", "staying"]).await;

    leaving.signal(Signal::TERM);
    assert_eq!(leaving.wait_exit(PATIENCE).await.code(), Some(0), "{}", leaving.stderr());
    // Leases of 15 s are renewed every 5 s, so a lease that is not released lasts at least 10 s more.
    let mine = "SELECT count(*) FROM outbox_leases l LEFT JOIN outbox_running_leases r USING (backend, shard)
        LEFT JOIN outbox_workers w ON w.id = r.owner WHERE w.name IS DISTINCT FROM 'staying'";
    let at_once = Duration::from_secs(8);
    eventually("the other worker owns every shard", at_once, async || test.number(mine).await == 0).await;
    test.wait_published().await;
    test.assert_delivered().await;
}

/// A publisher of the test's own backend, and the shutdown timeout.
fn hanging(shutdown_timeout: &str) -> String {
    format!("[publishers.mine]\nbackend = \"scripted\"\n[worker]\nshutdown_timeout = \"{shutdown_timeout}\"")
}

/// A system whose backend got one event, and never answers.
async fn start_hanging(settings: Settings) -> Outbox {
    let asked = Log::default();
    let backend = {
        let asked = asked.clone();
        Scripted::new(move |event| {
            asked.add(&event.subject);
            Reply::Hang
        })
        .timeout(PATIENCE)
    };
    let builder = OutboxSystem::builder(settings).backend("scripted", move |_| Ok(backend.clone()));
    let outbox = builder.start().await.unwrap();
    outbox.send(event("1")).await.unwrap();
    asked.wait(1).await;
    outbox
}

#[actix::test]
async fn a_shutdown_ends_in_time_even_if_backend_and_database_are_silent() {
    let test = TestOutbox::new().await;
    let mut url = url::Url::parse(test.url()).unwrap();
    let proxy = Proxy::to(url.port().unwrap_or(5432)).await;
    url.set_port(Some(proxy.port())).unwrap();
    let mut settings = test.system_settings(&hanging("4s"));
    settings.database.url = url.as_str().into();
    let outbox = start_hanging(settings).await;
    proxy.set(Passage::LoseReplies);

    let told = Instant::now();
    assert!(matches!(outbox.shutdown().await, Err(SystemError::ShutdownTimeout(_))));
    let took = told.elapsed();
    // 5 s for the journals and the leases, and one for a busy machine.
    assert!(took < Duration::from_secs(4 + 5 + 1), "{took:?}");
}

#[actix::test]
async fn a_shutdown_that_takes_too_long_ends_all_the_same_and_says_so() {
    let test = TestOutbox::new().await;
    let outbox = start_hanging(test.system_settings(&hanging("200ms"))).await;
    assert!(matches!(outbox.shutdown().await, Err(SystemError::ShutdownTimeout(_))));
    assert!(matches!(outbox.health().await, Err(SystemError::Stopped)));
    assert_eq!(test.unpublished().await, 1, "it stays in the outbox");
}

#[tokio::test]
async fn a_second_signal_ends_a_stuck_worker_immediately_and_loses_nothing() {
    let server = redis::Server::start(&[]);
    let proxy = Proxy::to(server.port()).await;
    let test = TestOutbox::on(postgres::database().await, format!("redis://127.0.0.1:{}/0", proxy.port())).await;
    let settings = test
        .settings()
        .worker("lease = \"1s\"\nshutdown_timeout = \"10m\"")
        .publisher("socket_timeout = \"10m\"")
        .write();
    for (first, second) in [(Signal::TERM, Signal::INT), (Signal::INT, Signal::TERM)] {
        let mut worker = test.worker(&settings, "worker");
        test.insert(200, 20).await;
        test.wait_published().await;
        let mut redis = test.redis().await;
        let meta = format!("{{{}}}:outbox", test.stream_name());
        eventually("the journal is empty", PATIENCE, async || {
            let fields: Vec<String> = ::redis::cmd("HKEYS").arg(&meta).query_async(&mut redis).await.unwrap();
            !fields.is_empty() && !fields.iter().any(|field| field.starts_with("sent/"))
        })
        .await;
        drop(redis);
        let held = proxy.held();
        proxy.set(Passage::HoldRequests);
        test.insert(200, 20).await;
        eventually("a batch is being sent", PATIENCE, async || proxy.held() > held).await;
        worker.signal(first);
        eventually("it finishes", PATIENCE, async || worker.stderr().contains("finishing deliveries in flight")).await;
        assert!(worker.is_running());
        worker.signal(second);
        assert_eq!(worker.wait_exit(PATIENCE).await.code(), Some(130), "{}", worker.stderr());
        assert!(worker.stderr().contains("ending immediately"), "{}", worker.stderr());
        assert_eq!(test.unpublished().await, 200);
        proxy.set(Passage::Open);
    }
    let _next = test.worker(&settings, "next");
    test.wait_published().await;
    test.assert_delivered().await;
}

#[tokio::test]
async fn ten_kills_in_the_middle_of_the_work_lose_nothing_and_double_nothing() {
    let test = TestOutbox::new().await;
    let settings = test.settings().worker("lease = \"1s\"\nbatch_size = 100").write();
    let start = |number: usize| (format!("worker-{number}"), test.worker(&settings, &format!("worker-{number}")));
    let mut workers: [(String, Running); 2] = [start(0), start(1)];
    let (mut started, mut kills) = (2, 0);
    while kills < 10 {
        assert!(started < 40, "{kills} kills only hit a worker in the middle of its work");
        let [(one, _), (other, _)] = &workers;
        test.wait_owners(&[one, other]).await;
        let before = test.length().await;
        test.insert(5_000, 500).await;
        test.wait_length(before + 200).await;
        let slot = started % 2;
        workers[slot].1.kill();
        kills += usize::from(test.unpublished().await > 0);
        workers[slot] = start(started);
        started += 1;
    }
    test.wait_published().await;
    test.assert_delivered().await;
}
