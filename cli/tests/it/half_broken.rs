//! Backends that respond and accept nothing, and connections that are lost silently.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_outbox::{BackendError, Outbox, OutboxEvent, OutboxSystem, PublisherBackend};
use async_trait::async_trait;

use crate::actors::{Log, event};
use crate::support::process::Running;
use crate::support::proxy::{Passage, Proxy};
use crate::support::{PATIENCE, eventually, postgres, redis};
use crate::test_outbox::TestOutbox;

/// Far less than any wait for the next event.
const SECONDS: Duration = Duration::from_secs(20);

/// Reports that it is healthy, and refuses every batch while it is set to.
#[derive(Clone)]
struct HalfBroken {
    name: &'static str,
    refuses: Arc<AtomicBool>,
    log: Log,
}

impl HalfBroken {
    fn new(name: &'static str, log: &Log) -> Self {
        Self { name, refuses: Arc::new(AtomicBool::new(true)), log: log.clone() }
    }

    fn refuses(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }
}

#[async_trait]
impl PublisherBackend for HalfBroken {
    async fn publish(&self, _: &OutboxEvent) -> Result<(), BackendError> {
        Ok(())
    }

    async fn publish_batch(&self, events: &[Arc<OutboxEvent>]) -> Vec<Option<Result<(), BackendError>>> {
        let refuses = self.refuses.load(Ordering::SeqCst);
        self.log.add(format!("{} {} {}", self.name, if refuses { "refused" } else { "took" }, events.len()));
        let answer = if refuses { Err(BackendError::Unavailable("no writes here".to_owned())) } else { Ok(()) };
        vec![Some(answer); events.len()]
    }

    async fn health_check(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

async fn start(test: &TestOutbox, backend: &HalfBroken) -> Outbox {
    let backend = backend.clone();
    let tables =
        format!("[publishers.mine]\nbackend = \"half broken\"\n[worker]\nname = \"{}\"\nlease = \"1s\"", backend.name);
    let builder = OutboxSystem::builder(test.system_settings(&tables));
    builder.backend("half broken", move |_| Ok(backend.clone())).start().await.unwrap()
}

/// The number of shards of the unnamed lane that each live worker owns.
async fn shares(test: &TestOutbox) -> BTreeMap<String, i64> {
    let statement = "SELECT w.name, count(*) FROM outbox_leases l JOIN outbox_workers w ON w.id = l.owner
        WHERE l.backend = '' AND l.expires_at > clock_timestamp() GROUP BY 1";
    let rows = test.sql().await.query(statement, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn wait_shares(test: &TestOutbox, expected: &[(&str, i64)]) {
    let expected: BTreeMap<String, i64> = expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    eventually(&format!("they own {expected:?}"), PATIENCE, async || shares(test).await == expected).await;
}

#[actix::test]
async fn a_backend_healthy_only_by_its_checks_gets_one_event_at_a_time() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let (liar, good) = (HalfBroken::new("liar", &log), HalfBroken::new("good", &log));
    good.refuses(false);
    let (first, second) = (start(&test, &liar).await, start(&test, &good).await);
    test.insert(200, 100).await;
    test.wait_published().await;
    wait_released(&test).await;

    // After this it may try with one shard, whenever the shard has events.
    let before = log.of("liar refused").len();
    eventually("three more attempts were made", PATIENCE, async || {
        assert!(shares(&test).await.get("liar").is_none_or(|shards| *shards <= 1), "a share of one that delivers");
        test.insert(64, 64).await;
        log.of("liar refused").len() >= before + 3
    })
    .await;
    assert!(log.of("liar refused")[before..].iter().all(|line| line == "liar refused 1"), "{:?}", log.of("liar"));
    test.wait_published().await;
    let retries = "SELECT coalesce(max(retry_count), 0)::bigint FROM outbox_events";
    assert_eq!(test.number(retries).await, 0);
    assert!(!first.health().await.unwrap().is_ok() && second.health().await.unwrap().is_ok());

    liar.refuses(false);
    eventually("an event is accepted", PATIENCE, async || {
        test.insert(64, 64).await;
        first.health().await.unwrap().is_ok()
    })
    .await;
    wait_shares(&test, &[("good", 16), ("liar", 16)]).await;
    test.wait_published().await;
}

/// Waits until the delivering worker owns the liar's shards.
async fn wait_released(test: &TestOutbox) {
    eventually("the liar has released its shards", PATIENCE, async || {
        shares(test).await.get("good").is_some_and(|shards| *shards >= 31)
    })
    .await;
}

#[actix::test]
async fn where_no_worker_delivers_the_first_that_can_again_gets_every_shard() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let (broken, recovered) = (HalfBroken::new("broken", &log), HalfBroken::new("recovered", &log));
    let (_first, second) = (start(&test, &broken).await, start(&test, &recovered).await);
    wait_shares(&test, &[("broken", 16), ("recovered", 16)]).await;
    test.insert(200, 100).await;
    for name in ["broken", "recovered"] {
        let what = format!("{name} refuses");
        eventually(&what, PATIENCE, async || log.of(&format!("{name} refused")).len() >= 3).await;
    }
    recovered.refuses(false);
    test.wait_published().await;
    assert!(log.of("broken took").is_empty());
    assert!(second.health().await.unwrap().is_ok());
}

/// A worker with this Redis user.
fn worker(test: &TestOutbox, server: &redis::Server, user: &str) -> Running {
    let address = format!("url = \"redis://{user}:secret@127.0.0.1:{}/0\"", server.port());
    let tables = format!(
        "[database]\nurl = \"{}\"\n[publishers.default]\nbackend = \"redis_stream\"\n{address}\nstream_name = \"{}\"\n\
         max_len = 0\n[worker]\nlease = \"1s\"\n",
        test.url(),
        test.stream_name()
    );
    test.worker(&test.file(&tables), user)
}

async fn command(server: &redis::Server, words: &[&str]) {
    let mut command = ::redis::Cmd::new();
    let () = command.arg(words).query_async(&mut redis::connect(&server.url()).await).await.unwrap();
}

#[tokio::test]
async fn a_worker_whose_redis_user_may_not_write_takes_nothing_until_it_may() {
    let server = redis::Server::start(&[]);
    for (user, rights) in [("reader", "-xadd"), ("writer", "+xadd")] {
        let words = ["ACL", "SETUSER", user, "on", ">secret", "~*", "+@all", rights];
        command(&server, &words).await;
    }
    let test = TestOutbox::on(postgres::database().await, server.url()).await;
    let (reader, _writer) = (worker(&test, &server, "reader"), worker(&test, &server, "writer"));
    wait_shares(&test, &[("writer", 32)]).await;
    let began = Instant::now();
    // Longer than it trusts a server that only responds.
    while began.elapsed() < Duration::from_secs(6) {
        assert_eq!(shares(&test).await.get("reader"), None);
        test.insert(20, 20).await;
        test.wait_published().await;
    }
    assert!(reader.stderr().contains("XADD"), "{}", reader.stderr());
    command(&server, &["ACL", "SETUSER", "reader", "+xadd"]).await;
    wait_shares(&test, &[("reader", 16), ("writer", 16)]).await;
    test.assert_delivered().await;
}

/// A system of one worker that reaches Redis over this port.
async fn idle(test: &TestOutbox, port: u16) -> Outbox {
    let stream = test.stream_name();
    let tables = format!(
        "[publishers.default]\nbackend = \"redis_stream\"\nurl = \"redis://127.0.0.1:{port}/0\"\nstream_name = \"{stream}\"\n"
    );
    let outbox = OutboxSystem::builder(test.system_settings(&tables)).start().await.unwrap();
    outbox.send(event("first")).await.unwrap();
    test.wait_published().await;
    let mut fields = ::redis::cmd("HKEYS");
    fields.arg(format!("{{{stream}}}:outbox"));
    eventually("no field is left to remove", PATIENCE, async || {
        let fields: Vec<String> = fields.query_async(&mut test.redis().await).await.unwrap();
        !fields.iter().any(|field| field.starts_with("sent/"))
    })
    .await;
    outbox
}

#[actix::test]
async fn an_idle_worker_notices_within_seconds_that_its_password_was_changed() {
    let server = redis::Server::start(&[]);
    let test = TestOutbox::on(postgres::database().await, server.url()).await;
    let outbox = idle(&test, server.port()).await;
    let mut redis = redis::connect(&server.url()).await;
    for words in [&["CONFIG", "SET", "requirepass", "changed"][..], &["CLIENT", "KILL", "TYPE", "normal"]] {
        let mut command = ::redis::Cmd::new();
        let _: ::redis::Value = command.arg(words).query_async(&mut redis).await.unwrap();
    }
    eventually("its health shows it", SECONDS, async || {
        let health = outbox.health().await.unwrap();
        matches!(&health.backends["default"], Err(reason) if reason.contains("uthentication"))
    })
    .await;
}

#[actix::test]
async fn an_idle_worker_replaces_a_silent_connection_before_an_event_needs_it() {
    let server = redis::Server::start(&[]);
    let proxy = Proxy::to(server.port()).await;
    let test = TestOutbox::on(postgres::database().await, server.url()).await;
    let outbox = idle(&test, proxy.port()).await;
    let before = proxy.connections();
    // Like a NAT that drops connections: requests are not answered, and no error is reported.
    proxy.set(Passage::HoldRepliesOfFirst(before));
    eventually("it has connected again", SECONDS, async || proxy.connections() > before).await;
    eventually("its shards are open", PATIENCE, async || outbox.health().await.unwrap().is_ok()).await;
    outbox.send(event("second")).await.unwrap();
    test.wait_published().await;
    assert_eq!(test.length().await, 2);
}

#[tokio::test]
async fn failed_events_are_logged_with_their_reasons_up_to_a_limit() {
    let test = TestOutbox::new().await;
    let statement = r#"INSERT INTO outbox_events (id, event_type, source, publisher_config)
        SELECT gen_random_uuid(), 'thing.happened', 'tests', '{"list": [1]}' FROM generate_series(1, 50)"#;
    let sql = test.sql().await;
    sql.execute(statement, &[]).await.unwrap();
    let worker = test.worker(&test.settings().write(), "worker");
    let said = || worker.stderr().lines().filter(|line| line.contains("event failed")).map(str::to_owned).collect();
    eventually("it logs the number of events that it does not list", PATIENCE, async || {
        worker.stderr().contains("events=30")
    })
    .await;
    let lines: Vec<String> = said();
    assert_eq!(lines.len(), 20, "{lines:?}");
    for word in ["thing.happened", "publisher_config", "backend=default", "event.id="] {
        assert!(lines.iter().all(|line| line.contains(word)), "{word}: {:?}", lines[0]);
    }
}
