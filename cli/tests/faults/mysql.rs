//! Faults on MariaDB: three workers, each with its own way to the server.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_outbox::{NewEvent, PublishError, publish};
use diesel_async::{AsyncConnection, AsyncMysqlConnection};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::block_in_place;
use url::Url;

use crate::deployment::{LEASE, PROGRAM, Pace, WORKERS};
use crate::fault_phase::{Faults, HEALING, Outcome};
use crate::figures::{Meter, Processes};
use crate::kinds::Kind;
use crate::limits::Limits;
use crate::nats::Until;
use crate::reconcile::Reconciliation;
use crate::sqlite::{draw, pass};
use crate::support::mysql::Server;
use crate::support::process::{Running, Signal};
use crate::support::proxy::{Passage, Proxy};
use crate::support::{PATIENCE, redis, unique};
use crate::writers::Committed;

/// Those of the database are of MariaDB here.
pub(crate) const KINDS: [Kind; 13] = [
    Kind::Kill,
    Kind::Terminate,
    Kind::Stop,
    Kind::PostgresBackend,
    Kind::PostgresRestart,
    Kind::Horizon,
    Kind::Lock,
    Kind::RedisRestart,
    Kind::Cut,
    Kind::LostReply,
    Kind::Stall,
    Kind::Delay,
    Kind::Late,
];

const WRITERS: u64 = 3;
const MOST_EVENTS: usize = 8;

struct Outbox {
    folder: TempDir,
    server: Server,
    database: String,
    ways: Vec<Proxy>,
    redis: redis::Server,
    stream: String,
    workers: Vec<Running>,
    processes: Processes,
    logs: String,
    deaths: Vec<String>,
}

/// Runs faults of these kinds, one after the other.
pub(crate) async fn run(seed: u64, kinds: &[Kind], until: Until) -> Outcome {
    let mut outbox = Outbox::new().await;
    let meter = Meter::of_processes(Arc::clone(&outbox.processes));
    let (stop, stopped) = watch::channel(false);
    let writing: Vec<_> = (0..WRITERS)
        .map(|number| {
            let rng = StdRng::seed_from_u64(seed ^ (number + 1) << 32);
            tokio::spawn(write_until(stopped.clone(), outbox.url(), number, rng))
        })
        .collect();
    let faults = outbox.break_for(kinds, until, StdRng::seed_from_u64(seed)).await;
    stop.send_replace(true);
    let mut committed = Vec::new();
    for writer in writing {
        committed.push(tokio::time::timeout(PATIENCE, writer).await.expect("a writer ends").unwrap());
    }
    let stuck = outbox.drain().await;
    let retries = outbox.number("SELECT CAST(COALESCE(SUM(retry_count), 0) AS signed) FROM outbox_events").await;
    let ids = redis::event_ids(&outbox.redis.url(), &outbox.stream).await;
    let stream: Vec<_> = ids.iter().map(|id| id.parse().unwrap()).collect();
    let (reconciliation, figures) = (Reconciliation::of(&committed, &stream), meter.finish().await);
    let limits = Limits::of(kinds, Pace::Short, true, faults.values().sum(), figures.span);
    let excesses = limits.excesses(&figures, reconciliation.committed);
    outbox.end_workers().await;
    let Outbox { deaths, logs, .. } = outbox;
    let name = if let [kind] = kinds { format!("MariaDB, {kind}") } else { "MariaDB".to_owned() };
    let outcome = Outcome {
        name,
        faults,
        reconciliation,
        stuck,
        retries,
        takeovers: Vec::new(),
        deaths,
        told: Vec::new(),
        findings: Vec::new(),
        figures,
        excesses,
    };
    outcome.keep_unless_good(seed, || logs);
    outcome
}

impl Outbox {
    async fn new() -> Self {
        let server = block_in_place(Server::start);
        let database = server.database().await.name.clone();
        let role = format!("CREATE USER worker IDENTIFIED BY 'right'; GRANT ALL ON {database}.* TO worker");
        let mut admin = connect(&server.url(&database)).await;
        for statement in role.split("; ") {
            admin.query_drop(statement).await.unwrap();
        }
        let mut ways = Vec::new();
        for _ in 0..WORKERS {
            ways.push(Proxy::to(server.port()).await);
        }
        let mut outbox = Self {
            folder: tempfile::tempdir().unwrap(),
            server,
            database,
            ways,
            redis: block_in_place(|| redis::Server::start(redis::Server::DURABLE)),
            stream: redis::stream(),
            workers: Vec::new(),
            processes: Processes::default(),
            logs: String::new(),
            deaths: Vec::new(),
        };
        for number in 0..WORKERS {
            std::fs::write(outbox.settings(number), outbox.text(number)).unwrap();
        }
        let migrated = outbox.command(&["migrate"], 0).output().unwrap();
        assert!(migrated.status.success(), "outbox migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        outbox.workers = (0..WORKERS).map(|number| outbox.worker(number)).collect();
        outbox
    }

    fn url(&self) -> String {
        self.server.url(&self.database)
    }

    fn settings(&self, number: usize) -> std::path::PathBuf {
        self.folder.path().join(format!("{number}.toml"))
    }

    fn text(&self, number: usize) -> String {
        let mut url = Url::parse(&self.url()).unwrap();
        url.set_username("worker").unwrap();
        url.set_password(Some("right")).unwrap();
        url.set_port(Some(self.ways[number].port())).unwrap();
        format!(
            "[database]\nurl = \"{url}\"\n[publishers.default]\nbackend = \"redis_stream\"\nurl = \"{}\"\n\
             stream_name = \"{}\"\nmax_len = 0\nconnect_timeout = 1\nsocket_timeout = 1\n[worker]\nlease = \"{}s\"\n\
             poll_interval = \"20ms\"\nbatch_size = 50\n",
            self.redis.url(),
            self.stream,
            LEASE.as_secs(),
        )
    }

    fn command(&self, arguments: &[&str], number: usize) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env_remove("DATABASE_URL").args(arguments).arg("--config").arg(self.settings(number));
        command
    }

    fn worker(&self, number: usize) -> Running {
        let worker = Running::spawn(&mut self.command(&["worker", "--name", &unique("worker")], number));
        self.processes.lock().unwrap().push(worker.id());
        worker
    }

    async fn break_for(&mut self, kinds: &[Kind], until: Until, mut rng: StdRng) -> Faults {
        let (began, mut faults): (_, Faults) = (Instant::now(), BTreeMap::new());
        let mut count = 0;
        loop {
            let is_over = match until {
                Until::Rounds(rounds) => count >= rounds,
                Until::Elapsed(span) => began.elapsed() >= span,
            };
            if is_over {
                return faults;
            }
            pass(&mut rng, 0, 1_500).await;
            let kind = *kinds.choose(&mut rng).unwrap();
            self.inflict(kind, &mut rng).await;
            *faults.entry(kind).or_default() += 1;
            count += 1;
        }
    }

    async fn inflict(&mut self, kind: Kind, rng: &mut StdRng) {
        let chosen = rng.random_range(0..WORKERS);
        let lease = LEASE.as_millis() as u64;
        match kind {
            Kind::Kill => self.replace(chosen, Signal::KILL, rng).await,
            Kind::Terminate => self.replace(chosen, Signal::TERM, rng).await,
            Kind::Stop => {
                self.workers[chosen].signal(Signal::STOP);
                pass(rng, lease + 100, lease + 2_500).await;
                self.workers[chosen].signal(Signal::CONT);
            }
            Kind::PostgresBackend => self.kill_a_connection(rng).await,
            Kind::PostgresRestart => {
                let kills = rng.random();
                block_in_place(|| if kills { self.server.kill() } else { self.server.stop() });
                pass(rng, 0, 2_500).await;
                block_in_place(|| self.server.start_again());
            }
            Kind::Horizon => self.hold("START TRANSACTION WITH CONSISTENT SNAPSHOT", rng, 4_000).await,
            Kind::Lock => {
                let tables = ["outbox_events", "outbox_leases", "outbox_heartbeats"];
                let table = *tables.choose(rng).unwrap();
                let lock = match rng.random() {
                    true => format!("LOCK TABLES {table} WRITE"),
                    false => format!("START TRANSACTION; SELECT * FROM {table} FOR UPDATE"),
                };
                self.hold(&lock, rng, 4_000).await;
            }
            Kind::RedisRestart => {
                block_in_place(|| self.redis.kill());
                pass(rng, 0, 2_500).await;
                block_in_place(|| self.redis.start_again());
            }
            Kind::Cut => {
                let share = rng.random();
                let passage = if rng.random() { Passage::CutInRequest(share) } else { Passage::CutInReply(share) };
                self.set_for_a_while(chosen, passage, rng, 500).await;
            }
            Kind::LostReply => {
                let passage = if rng.random() { Passage::LoseReplies } else { Passage::CutAtReply };
                self.set_for_a_while(chosen, passage, rng, 2_000).await;
            }
            Kind::Stall => {
                let passage = if rng.random() { Passage::HoldRequests } else { Passage::HoldReplies };
                self.set_for_a_while(chosen, passage, rng, 5_000).await;
            }
            Kind::Delay => {
                let most = Duration::from_millis(rng.random_range(10..300));
                self.set_for_a_while(chosen, Passage::Delay(most), rng, 4_000).await;
            }
            Kind::Late => self.deliver_late_what_a_dead_worker_sent(chosen, rng).await,
            other => unreachable!("{other} is not of MariaDB"),
        }
    }

    async fn kill_a_connection(&self, rng: &mut StdRng) {
        let mut admin = connect(&self.url()).await;
        let open: Vec<u64> =
            admin.query("SELECT id FROM information_schema.processlist WHERE user = 'worker'").await.unwrap();
        if let Some(id) = open.choose(rng) {
            // It may have ended by itself.
            let _ = admin.query_drop(format!("KILL {id}")).await;
        }
    }

    /// Writers' own locks may keep it from all of them; then it holds none.
    async fn hold(&self, statements: &str, rng: &mut StdRng, most: u64) {
        let mut holder = connect(&self.url()).await;
        holder.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.unwrap();
        for statement in statements.split("; ") {
            let _ = holder.query_drop(statement).await;
        }
        pass(rng, 200, most).await;
        let _ = holder.query_drop("ROLLBACK").await;
    }

    async fn set_for_a_while(&self, chosen: usize, passage: Passage, rng: &mut StdRng, most: u64) {
        self.ways[chosen].set(passage);
        pass(rng, 50, most).await;
        self.ways[chosen].set(Passage::Open);
    }

    async fn deliver_late_what_a_dead_worker_sent(&mut self, chosen: usize, rng: &mut StdRng) {
        self.ways[chosen].set(Passage::HoldRequests);
        pass(rng, 50, 800).await;
        self.workers[chosen].signal(Signal::KILL);
        let lease = LEASE.as_millis() as u64;
        pass(rng, lease / 2, lease + 2_000).await;
        self.ways[chosen].set(Passage::Open);
        self.replace(chosen, Signal::KILL, rng).await;
    }

    async fn replace(&mut self, chosen: usize, signal: Signal, rng: &mut StdRng) {
        let next = self.worker(chosen);
        let mut worker = std::mem::replace(&mut self.workers[chosen], next);
        worker.signal(signal);
        worker.wait_exit(PATIENCE).await;
        self.logs += &format!("=== a worker\n{}\n", worker.stderr());
        pass(rng, 0, 2_000).await;
    }

    async fn end_workers(&mut self) {
        for mut worker in std::mem::take(&mut self.workers) {
            if !worker.is_running() {
                self.deaths.push(worker.stderr().lines().last().unwrap_or_default().to_owned());
            }
            worker.signal(Signal::TERM);
            worker.wait_exit(PATIENCE).await;
            self.logs += &format!("=== a worker\n{}\n", worker.stderr());
        }
    }

    async fn number(&self, query: &str) -> i64 {
        connect(&self.url()).await.query_first(query).await.unwrap().unwrap()
    }

    async fn drain(&self) -> i64 {
        let began = Instant::now();
        loop {
            let left = self.number("SELECT COUNT(*) FROM outbox_events WHERE status <> 'published'").await;
            if left == 0 || began.elapsed() > HEALING {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Waits for the server.
async fn connect(url: &str) -> Conn {
    loop {
        if let Ok(connection) = Conn::new(Opts::from_url(url).unwrap()).await {
            return connection;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The committed events, in order.
async fn write_until(stopped: watch::Receiver<bool>, url: String, number: u64, mut rng: StdRng) -> Vec<Committed> {
    let (mut connection, mut committed) = (None, Vec::new());
    while !*stopped.borrow() {
        let events: Vec<Committed> = (0..rng.random_range(1..=MOST_EVENTS)).map(|_| draw(&mut rng, number)).collect();
        let pause = rng.random_bool(0.2).then(|| Duration::from_millis(rng.random_range(20..400)));
        let kept = rng.random_bool(0.85);
        let mut open = match connection.take() {
            Some(open) => open,
            None => match AsyncMysqlConnection::establish(&url).await {
                Ok(open) => open,
                Err(_) => continue,
            },
        };
        let written: Result<(), PublishError> = open
            .transaction(async |connection| {
                for Committed { id, key } in &events {
                    publish(connection, NewEvent::new("thing.happened", "faults").id(*id).partition_key(key)).await?;
                }
                // Other writers overtake it: its events are behind the workers' cursors when it commits.
                if let Some(pause) = pause {
                    tokio::time::sleep(pause).await;
                }
                if kept { Ok(()) } else { Err(PublishError::Stopped) }
            })
            .await;
        match written {
            Ok(()) => {
                committed.extend(events);
                connection = Some(open);
            }
            Err(PublishError::Stopped) => connection = Some(open),
            // The connection, or the answer to the commit, was lost.
            Err(_) if has(&url, &events[0]).await => committed.extend(events),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..60))).await;
    }
    committed
}

/// Whether the transaction of an event has committed. The lock waits for its end.
async fn has(url: &str, event: &Committed) -> bool {
    let query = format!("SELECT COUNT(*) FROM outbox_events WHERE id = '{}' LOCK IN SHARE MODE", event.id.simple());
    loop {
        if let Ok(Some(count)) = connect(url).await.query_first::<i64, _>(query.as_str()).await {
            return count == 1;
        }
    }
}
