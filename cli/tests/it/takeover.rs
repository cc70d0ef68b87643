//! Workers that are dead or disconnected, and workers that take over their shards.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix_outbox::{OutboxSystem, Settings};
use tokio::sync::oneshot;
use tokio_postgres::Client;

use crate::support::process::Running;
use crate::support::proxy::{Passage, Proxy};
use crate::support::{PATIENCE, eventually, postgres, redis, unique};
use crate::test_outbox::TestOutbox;

const LEASE: Duration = Duration::from_secs(2);
const SHORT_LEASE: &str = "lease = \"2s\"";

/// The lanes of the default publisher: the unnamed lane, and its own.
const LANES: [&str; 2] = ["", "default"];
const SHARDS: i64 = 32;

/// The number of shards of each lane that these workers own.
async fn shares(sql: &Client, workers: &[&str]) -> BTreeMap<(String, String), i64> {
    let statement =
        "SELECT l.backend, w.name, count(*) FROM outbox_running_leases l JOIN outbox_workers w ON w.id = l.owner
        WHERE w.name = ANY($1) GROUP BY 1, 2";
    let rows = sql.query(statement, &[&workers]).await.unwrap();
    rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect()
}

/// Waits until these workers own this many shards of each lane, in descending order.
async fn wait_shares(sql: &Client, workers: &[&str], expected: &[i64]) {
    eventually(&format!("{workers:?} own {expected:?} shards"), PATIENCE, async || {
        let shares = shares(sql, workers).await;
        LANES.iter().all(|lane| {
            let of_lane = shares.iter().filter(|((other, _), _)| other == lane);
            let mut counts: Vec<i64> = of_lane.map(|(_, count)| *count).collect();
            counts.sort_unstable_by(|a, b| b.cmp(a));
            counts == expected
        })
    })
    .await;
}

#[tokio::test]
async fn a_killed_workers_shards_are_taken_over_within_a_lease_and_a_second() {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    let settings = test.settings().worker(SHORT_LEASE).write();
    let _survivor = test.worker(&settings, "survivor");
    // At several moments between two heartbeats.
    for name in ["first", "second", "third"] {
        let mut killed = test.worker(&settings, name);
        wait_shares(&sql, &["survivor", name], &[SHARDS / 2, SHARDS / 2]).await;
        test.insert(200, 20).await;
        let began = Instant::now();
        killed.kill();
        wait_shares(&sql, &["survivor"], &[SHARDS]).await;
        let took = began.elapsed();
        assert!(took <= LEASE + Duration::from_secs(1), "{name}: {took:?}");
    }
    test.wait_published().await;
    test.assert_delivered().await;
}

#[tokio::test]
async fn a_killed_workers_shards_are_divided_evenly_among_the_others() {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    let settings = test.settings().worker(SHORT_LEASE).write();
    let names = ["1", "2", "3", "killed"];
    let mut workers = names.map(|name| test.worker(&settings, name));
    wait_shares(&sql, &names, &[8, 8, 8, 8]).await;
    workers[3].kill();
    wait_shares(&sql, &names[..3], &[11, 11, 10]).await;
}

#[tokio::test]
async fn a_worker_cut_off_from_redis_leaves_its_share_to_one_that_is_not() {
    let server = redis::Server::start(&[]);
    let test = TestOutbox::on(postgres::database().await, server.url()).await;
    let sql = test.sql().await;
    let proxy = Proxy::to(server.port()).await;
    let settings = test.settings().worker(SHORT_LEASE).publisher("connect_timeout = 1\nsocket_timeout = 1").write();
    let _reaching = test.worker(&settings, "reaching");
    let through = format!("redis://127.0.0.1:{}/0", proxy.port());
    let mut cut_off = Running::spawn(
        test.outbox(&settings, &["worker", "--name", "cut-off"]).env("OUTBOX__PUBLISHERS__DEFAULT__URL", through),
    );
    wait_shares(&sql, &["reaching", "cut-off"], &[SHARDS / 2, SHARDS / 2]).await;

    proxy.set(Passage::HoldRequests);
    test.insert(2_000, 100).await;
    wait_shares(&sql, &["reaching"], &[SHARDS]).await;
    test.wait_published().await;
    test.assert_delivered().await;
    assert!(proxy.held() > 0 && cut_off.is_running(), "{}", cut_off.stderr());
    let said = "SELECT count(*) FROM outbox_workers WHERE name = 'cut-off' AND backends ->> 'default' = 'ok'";
    assert_eq!(test.number(said).await, 0, "its heartbeat reports that the backend is unavailable");

    // Its batch arrives now, long after other workers sent the same events.
    proxy.set(Passage::Open);
    wait_shares(&sql, &["reaching", "cut-off"], &[SHARDS / 2, SHARDS / 2]).await;
    test.insert(2_000, 100).await;
    test.wait_published().await;
    test.assert_delivered().await;
    assert_eq!(test.number("SELECT max(retry_count)::bigint FROM outbox_events").await, 0);
}

/// A system in this process whose thread can be blocked, as by a handler that computes for minutes.
pub(crate) struct Blockable {
    pub(crate) block: oneshot::Sender<()>,
    pub(crate) unblock: mpsc::Sender<()>,
    pub(crate) thread: JoinHandle<()>,
}

impl Blockable {
    pub(crate) fn start(settings: Settings) -> Self {
        let (block, blocked) = oneshot::channel();
        let (unblock, unblocked) = mpsc::channel();
        let work = async move {
            let outbox = OutboxSystem::builder(settings).start().await.unwrap();
            blocked.await.unwrap();
            unblocked.recv().unwrap();
            outbox.shutdown().await.unwrap();
        };
        let thread = std::thread::spawn(move || actix::System::new().block_on(work));
        Self { block, unblock, thread }
    }
}

#[tokio::test]
async fn a_worker_with_a_blocked_loop_loses_its_shards_and_resumes_harmlessly() {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    let tables = format!("[publishers.default]\n{}[worker]\n{SHORT_LEASE}\nname = \"blocked\"", test.stream());
    let blockable = Blockable::start(test.system_settings(&tables));
    let _working = test.worker(&test.settings().worker(SHORT_LEASE).write(), "working");
    wait_shares(&sql, &["blocked", "working"], &[SHARDS / 2, SHARDS / 2]).await;

    test.insert(2_000, 100).await;
    blockable.block.send(()).unwrap();
    wait_shares(&sql, &["working"], &[SHARDS]).await;
    test.wait_published().await;
    let said = "SELECT count(*) FROM outbox_workers WHERE name = 'blocked' AND backends ->> 'default' LIKE '%stuck%'";
    assert_eq!(test.number(said).await, 1, "its heartbeat continues and reports its shards");

    test.insert(2_000, 100).await;
    blockable.unblock.send(()).unwrap();
    test.wait_published().await;
    test.assert_delivered().await;
    tokio::task::spawn_blocking(|| blockable.thread.join().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_worker_that_cannot_fetch_says_so_and_leaves_its_shards_to_another() {
    let test = TestOutbox::new().await;
    let role = unique("reader");
    let sql = test.sql().await;
    let grant = format!(
        "CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; \
         GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
    );
    sql.batch_execute(&grant).await.unwrap();
    let mut url = url::Url::parse(test.url()).unwrap();
    url.set_username(&role).unwrap();
    let mut command = test.outbox(&test.settings().worker(SHORT_LEASE).write(), &["worker", "--name", "blind"]);
    let blind = Running::spawn(command.env("DATABASE_URL", url.as_str()));
    test.wait_owners(&["blind"]).await;
    let _seeing = test.worker(&test.settings().worker(SHORT_LEASE).write(), "seeing");
    test.wait_owners(&["blind", "seeing"]).await;
    test.insert(100, 50).await;
    test.wait_published().await;

    sql.batch_execute(&format!("REVOKE SELECT ON outbox_events FROM {role}")).await.unwrap();
    test.insert(100, 50).await;
    test.wait_published().await;
    let of_the_blind =
        "SELECT count(*) FROM outbox_leases l JOIN outbox_workers w ON w.id = l.owner WHERE w.name = 'blind'";
    eventually("it has released its shards", PATIENCE, async || test.number(of_the_blind).await == 0).await;
    let said =
        "SELECT count(*) FROM outbox_workers WHERE name = 'blind' AND backends::text LIKE '%events cannot be read%'";
    assert_eq!(test.number(said).await, 1, "{}", blind.stderr());

    sql.batch_execute(&format!("GRANT SELECT ON outbox_events TO {role}")).await.unwrap();
    test.wait_owners(&["blind", "seeing"]).await;
    test.insert(100, 50).await;
    test.wait_published().await;
    test.assert_delivered().await;
    drop(blind);
    sql.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}
