//! Failovers to standbys with and without the primary's acknowledged commits.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use actix_outbox::{NewEvent, Outbox, OutboxSystem};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::postgres::connect;
use crate::support::postgres::replication::{Pair, Replication};
use crate::support::process::{Running, Signal};
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, eventually, redis};
use crate::test_outbox::TestOutbox;
use crate::unrecorded::{sent_entries, settle_that_waits};

const BACKLOG: i32 = 3_000;
const KEYS: i32 = 40;

/// A lease longer than the time without acknowledged heartbeats, and a rate at which the backlog lasts longer than that.
const LONG_LEASE: &str = "lease = \"15s\"";
const SLOW: &str = "rate_limit = { per_second = 500, burst = 100 }";

/// A primary and its standby, and an outbox whose address is that of one of them.
struct Replicated {
    pair: Pair,
    proxy: Proxy,
    test: TestOutbox,
}

impl Replicated {
    async fn start(replication: Replication, redis_url: String) -> Self {
        let pair = Pair::start(replication).await;
        let proxy = Proxy::to(pair.primary.port()).await;
        let test = TestOutbox::on(pair.database().await, redis_url).await.through(proxy.port());
        Self { pair, proxy, test }
    }

    /// A connection to the standby, independent of the outbox's address.
    async fn standby(&self) -> Client {
        connect(&self.pair.standby.url(&self.test.database().name)).await
    }

    fn switch(&self) {
        self.proxy.switch_to(self.pair.standby.port());
    }
}

/// Writes events one after the other, also through a failover.
struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    task: JoinHandle<Vec<String>>,
}

impl Writer {
    fn start(url: &str) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn(write_until(Arc::clone(&stop), Arc::clone(&written), url.to_owned()));
        Self { stop, written, task }
    }

    /// Waits until this many more commits have been acknowledged.
    async fn wait_more(&self, count: usize) {
        let enough = self.written.load(Ordering::SeqCst) + count;
        eventually("the writer writes", PATIENCE, async || self.written.load(Ordering::SeqCst) >= enough).await;
    }

    /// The events whose commit was acknowledged.
    async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

async fn write_until(stop: Arc<AtomicBool>, written: Arc<AtomicUsize>, url: String) -> Vec<String> {
    let statement = "INSERT INTO outbox_events (id, event_type, source, partition_key)
        VALUES (gen_random_uuid(), 'thing.happened', 'tests', 'key-' || $1::int % 7) RETURNING id::text";
    let mut acknowledged = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await else { continue };
        tokio::spawn(connection);
        while let Ok(row) = client.query_one(statement, &[&number]).await {
            acknowledged.push(row.get(0));
            number += 1;
            written.fetch_add(1, Ordering::SeqCst);
            if stop.load(Ordering::SeqCst) {
                break;
            }
        }
    }
    acknowledged
}

/// How often each event is in the stream.
async fn counts(test: &TestOutbox) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for id in test.event_ids().await {
        *counts.entry(id).or_default() += 1;
    }
    counts
}

const UNSETTLED: &str = "SELECT id::text FROM outbox_events WHERE status <> 'published'";
const WRITTEN: &str = "SELECT id::text FROM written";
const PUBLISHED: &str = "SELECT id::text FROM outbox_events WHERE status = 'published'";

async fn ids(sql: &Client, query: &str) -> HashSet<String> {
    sql.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Several settles wait for a frozen standby, one after the other, and their waits are cancelled: their writes are visible,
/// and no standby has them.
async fn cancel_settles(test: &TestOutbox) {
    let sql = test.sql().await;
    let mut cancelled = None;
    for _ in 0..3 {
        let waiting = settle_that_waits(test, cancelled.as_ref()).await;
        sql.query_one("SELECT pg_cancel_backend($1)", &[&waiting.0]).await.unwrap();
        cancelled = Some(waiting);
    }
    settle_that_waits(test, cancelled.as_ref()).await;
    assert_ne!(sent_entries(test).await, 0, "events that no standby has are in the journal");
}

/// Ends the worker's connections to Redis, so that it compares the sent events with the primary.
async fn end_sessions(test: &TestOutbox) {
    let mut command = ::redis::cmd("CLIENT");
    let () = command.arg(&["KILL", "TYPE", "normal"]).query_async(&mut test.redis().await).await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE wait_event = 'SyncRep' AND query LIKE '%e.status = ''failed'' AND e.published_at IS NULL%'";
    eventually("the comparison waits for the standby", PATIENCE, async || test.number(waiting).await > 0).await;
}

/// The action while the standby is frozen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    StandbyGoesOn,
    SessionsEnd,
    WorkerIsKilled,
}

const DELETES: &str = "[retention]\npublished_retention_days = 0";

/// `retention`: settings under which settles update or delete rows.
async fn fail_over_after_cancelled_settles(meanwhile: Meanwhile, retention: &str) {
    let redis = redis::Server::start(&[]);
    let mut replicated = Replicated::start(Replication::Synchronous, redis.url()).await;
    let test = &replicated.test;
    test.keep_list().await;
    test.insert(BACKLOG, KEYS).await;
    let settings = |worker: &str| test.settings().worker(format!("{worker}\n{retention}"));
    let mut worker = test.worker(&settings(LONG_LEASE).publisher(SLOW).write(), "worker");
    let writer = Writer::start(test.url());
    writer.wait_more(50).await;
    test.wait_length(300).await;

    replicated.pair.standby.freeze();
    cancel_settles(test).await;
    let unsettled = ids(&test.sql().await, UNSETTLED).await;
    match meanwhile {
        Meanwhile::SessionsEnd => end_sessions(test).await,
        Meanwhile::WorkerIsKilled => worker.kill(),
        Meanwhile::Nothing | Meanwhile::StandbyGoesOn => {}
    }
    if meanwhile == Meanwhile::StandbyGoesOn {
        replicated.pair.standby.thaw();
        replicated.pair.fail_over().await;
    } else {
        replicated.pair.fail_over_to_frozen().await;
        let there = ids(&replicated.standby().await, UNSETTLED).await;
        assert!(!there.is_subset(&unsettled), "the new primary lacks settles that were visible on the old one");
    }
    replicated.switch();
    let test = &replicated.test;
    let settings = test.settings().worker(retention).write();
    let _another = (!worker.is_running()).then(|| test.worker(&settings, "another"));

    test.insert(200, KEYS).await;
    writer.wait_more(50).await;
    test.wait_length(usize::try_from(BACKLOG).unwrap() + 200).await;
    let acknowledged = writer.stop().await;
    test.wait_published().await;
    test.assert_delivered().await;
    let kept = ids(&test.sql().await, WRITTEN).await;
    let lost: Vec<&String> = acknowledged.iter().filter(|&id| !kept.contains(id)).collect();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged events are lost: {:?} …",
        lost.len(),
        acknowledged.len(),
        lost.first()
    );
}

#[tokio::test]
async fn events_settled_on_no_standby_are_not_lost_or_resent_after_a_failover() {
    fail_over_after_cancelled_settles(Meanwhile::Nothing, "").await;
}

#[tokio::test]
async fn a_session_begun_before_a_failover_trusts_no_settle_that_no_standby_has() {
    fail_over_after_cancelled_settles(Meanwhile::SessionsEnd, "").await;
}

#[tokio::test]
async fn another_worker_finds_settles_that_no_standby_had_after_a_failover() {
    fail_over_after_cancelled_settles(Meanwhile::WorkerIsKilled, "").await;
}

#[tokio::test]
async fn deletions_that_no_standby_has_are_not_believed() {
    fail_over_after_cancelled_settles(Meanwhile::Nothing, DELETES).await;
}

#[tokio::test]
async fn a_session_begun_before_a_failover_trusts_no_deletion_that_no_standby_has() {
    fail_over_after_cancelled_settles(Meanwhile::SessionsEnd, DELETES).await;
}

#[tokio::test]
async fn another_worker_finds_deletions_that_no_standby_had_after_a_failover() {
    fail_over_after_cancelled_settles(Meanwhile::WorkerIsKilled, DELETES).await;
}

#[tokio::test]
async fn events_settled_late_on_a_standby_are_not_lost_or_resent_after_failover() {
    fail_over_after_cancelled_settles(Meanwhile::StandbyGoesOn, "").await;
}

/// The wait of an insert's commit is cancelled, as by the role's `statement_timeout`: only the primary has the event.
#[actix::test]
async fn an_event_that_no_standby_has_is_not_acknowledged_and_a_repeat_waits() {
    let mut replicated = Replicated::start(Replication::Synchronous, redis::url()).await;
    let test = &replicated.test;
    let settings = test.system_settings("");
    let outbox = OutboxSystem::builder(settings).publish_only(true).start().await.unwrap();
    let id = Uuid::new_v4();
    let event = || NewEvent::new("thing.happened", "tests").id(id);
    replicated.pair.standby.freeze();
    let inserting = |outbox: &Outbox| {
        let (outbox, event) = (outbox.clone(), event());
        actix::spawn(async move { outbox.send(event).await })
    };
    let waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let sql = test.sql().await;
    for _ in 0..2 {
        let sent = inserting(&outbox);
        let mut pid: Option<i32> = None;
        eventually("the commit waits for the standby", PATIENCE, async || {
            pid = sql.query_opt(waiting, &[]).await.unwrap().map(|row| row.get(0));
            pid.is_some()
        })
        .await;
        sql.query_one("SELECT pg_cancel_backend($1)", &[&pid]).await.unwrap();
        let error = sent.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("did not wait for its synchronous standby"), "{error}");
    }
    let visible = "SELECT count(*) FROM outbox_events";
    assert_eq!(test.number(visible).await, 1);

    let sent = inserting(&outbox);
    replicated.pair.standby.thaw();
    assert_eq!(sent.await.unwrap().unwrap().id, id);
    let received: i64 = replicated.standby().await.query_one(visible, &[]).await.unwrap().get(0);
    assert_eq!(received, 1);
    outbox.shutdown().await.unwrap();
}

/// Runs a worker until every event is recorded on the primary, and shuts it down.
async fn deliver(test: &TestOutbox) {
    let mut worker: Running = test.worker(&test.settings().write(), "worker");
    test.wait_published().await;
    worker.signal(Signal::TERM);
    assert!(worker.wait_exit(PATIENCE).await.success(), "{}", worker.stderr());
}

/// After a failover, an asynchronous standby lacks events, which are in the stream nevertheless, and settles, whose events
/// are sent again. Nothing else is lost or sent twice.
#[tokio::test]
async fn a_failover_to_a_lagging_standby_reverts_only_what_it_did_not_receive() {
    let mut replicated = Replicated::start(Replication::Asynchronous, redis::url()).await;
    let test = &replicated.test;
    test.insert(1_000, KEYS).await;
    deliver(test).await;
    let settled = ids(&test.sql().await, PUBLISHED).await;
    test.insert(1_000, KEYS).await;
    replicated.pair.wait_replayed().await;

    replicated.pair.standby.freeze();
    deliver(test).await;
    let received = ids(&test.sql().await, PUBLISHED).await;
    test.insert(500, KEYS).await;
    deliver(test).await;
    let all = ids(&test.sql().await, PUBLISHED).await;

    replicated.pair.fail_over_to_frozen().await;
    assert_eq!(ids(&replicated.standby().await, PUBLISHED).await, settled);
    replicated.switch();
    let test = &replicated.test;
    let _worker = test.worker(&test.settings().write(), "after");
    test.insert(500, KEYS).await;
    test.wait_published().await;

    let (kept, counts) = (ids(&test.sql().await, PUBLISHED).await, counts(test).await);
    assert_eq!(kept.len(), 2_500);
    assert!(received.is_subset(&kept));
    assert_eq!(all.difference(&kept).count(), 500, "the last events are missing from the table");
    for (id, count) in &counts {
        let most = if received.contains(id) && !settled.contains(id) { 2 } else { 1 };
        assert!(*count <= most, "{id} came {count} times");
    }
    assert!(all.union(&kept).all(|id| counts.contains_key(id)), "every event is in the stream");
    eventually("the journal is empty", PATIENCE, async || sent_entries(test).await == 0).await;
}
