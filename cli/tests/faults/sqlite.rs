//! Faults on a SQLite file: workers are killed, stopped and replaced, and another process holds the file's lock.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_outbox::{NewEvent, PublishError, blocking};
use diesel::connection::SimpleConnection;
use diesel::sql_types::BigInt;
use diesel::{Connection, QueryableByName, RunQueryDsl, SqliteConnection, sql_query};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::task::{JoinHandle, block_in_place};

use crate::deployment::{LEASE, PROGRAM, Pace, WORKERS};
use crate::fault_phase::{Faults, HEALING, Outcome};
use crate::figures::{Meter, Processes};
use crate::kinds::Kind;
use crate::limits::Limits;
use crate::reconcile::Reconciliation;
use crate::support::process::{Running, Signal};
use crate::support::{PATIENCE, redis, unique};
use crate::writers::Committed;

const KINDS: [Kind; 6] = [Kind::Kill, Kind::Terminate, Kind::Stop, Kind::Lock, Kind::LongLock, Kind::RedisRestart];
const WRITERS: u64 = 3;
const KEYS: u32 = 8;
const MOST_EVENTS: usize = 8;

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

struct Outbox {
    folder: TempDir,
    redis: redis::Server,
    stream: String,
    workers: Vec<Running>,
    processes: Processes,
    pace: Pace,
    logs: String,
    deaths: Vec<String>,
}

/// Runs faults of each kind that applies to a file, one after the other.
pub(crate) async fn run(seed: u64, span: Duration, pace: Pace) -> Outcome {
    let mut outbox = block_in_place(|| Outbox::new(pace));
    let meter = Meter::of_processes(Arc::clone(&outbox.processes));
    let (stop, writing) = start_writers(&outbox.file(), seed);
    let faults = outbox.break_for(span, StdRng::seed_from_u64(seed)).await;
    stop.store(true, Ordering::SeqCst);
    let mut committed = Vec::new();
    for writer in writing {
        committed.push(tokio::time::timeout(PATIENCE, writer).await.expect("a writer ends").unwrap());
    }
    let stuck = outbox.drain().await;
    let retries = outbox.number("SELECT coalesce(sum(retry_count), 0) AS number FROM outbox_events");
    let ids = redis::event_ids(&outbox.redis.url(), &outbox.stream).await;
    let stream: Vec<_> = ids.iter().map(|id| id.parse().unwrap()).collect();
    let (reconciliation, figures) = (Reconciliation::of(&committed, &stream), meter.finish().await);
    let limits = Limits::of(&KINDS, pace, false, faults.values().sum(), figures.span);
    let excesses = limits.excesses(&figures, reconciliation.committed);
    outbox.end_workers().await;
    let Outbox { deaths, logs, .. } = outbox;
    let outcome = Outcome {
        name: "SQLite".to_owned(),
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
    fn new(pace: Pace) -> Self {
        let redis = redis::Server::start(redis::Server::DURABLE);
        let mut outbox = Self {
            folder: tempfile::tempdir().unwrap(),
            redis,
            stream: redis::stream(),
            workers: Vec::new(),
            processes: Processes::default(),
            pace,
            logs: String::new(),
            deaths: Vec::new(),
        };
        std::fs::write(outbox.settings(), outbox.text()).unwrap();
        let migrated = outbox.command(&["migrate"]).output().unwrap();
        assert!(migrated.status.success(), "outbox migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        outbox.workers = (0..WORKERS).map(|_| outbox.worker()).collect();
        outbox
    }

    fn file(&self) -> String {
        self.folder.path().join("app.db").display().to_string()
    }

    fn settings(&self) -> std::path::PathBuf {
        self.folder.path().join("outbox.toml")
    }

    fn text(&self) -> String {
        format!(
            "[database]\nurl = \"sqlite://{}\"\n[publishers.default]\nbackend = \"redis_stream\"\nurl = \"{}\"\n\
             stream_name = \"{}\"\nmax_len = 0\nconnect_timeout = 1\nsocket_timeout = 1\n[worker]\nlease = \"{}s\"\n\
             poll_interval = \"20ms\"\nbatch_size = 50\n",
            self.file(),
            self.redis.url(),
            self.stream,
            LEASE.as_secs(),
        )
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env_remove("DATABASE_URL").args(arguments).arg("--config").arg(self.settings());
        command
    }

    fn worker(&self) -> Running {
        let worker = Running::spawn(&mut self.command(&["worker", "--name", &unique("worker")]));
        self.processes.lock().unwrap().push(worker.id());
        worker
    }

    async fn break_for(&mut self, span: Duration, mut rng: StdRng) -> Faults {
        let (began, mut faults): (_, Faults) = (Instant::now(), BTreeMap::new());
        while began.elapsed() < span {
            pass(&mut rng, 0, 1_500).await;
            let kind = *KINDS.choose(&mut rng).unwrap();
            // At most once in the short form of one minute.
            if kind == Kind::LongLock && self.pace == Pace::Short && faults.contains_key(&kind) {
                continue;
            }
            self.inflict(kind, &mut rng).await;
            *faults.entry(kind).or_default() += 1;
        }
        faults
    }

    async fn inflict(&mut self, kind: Kind, rng: &mut StdRng) {
        let chosen = rng.random_range(0..self.workers.len());
        let lease = LEASE.as_millis() as u64;
        match kind {
            Kind::Kill => self.replace(chosen, Signal::KILL, rng).await,
            Kind::Terminate => self.replace(chosen, Signal::TERM, rng).await,
            Kind::Stop => {
                self.workers[chosen].signal(Signal::STOP);
                pass(rng, lease + 100, lease + 2_500).await;
                self.workers[chosen].signal(Signal::CONT);
            }
            Kind::RedisRestart => {
                block_in_place(|| self.redis.kill());
                pass(rng, 0, 2_500).await;
                block_in_place(|| self.redis.start_again());
            }
            Kind::LongLock => {
                let (least, most) = self.pace.long();
                self.hold_the_lock(rng, least.as_millis() as u64, most.as_millis() as u64).await;
            }
            _ => self.hold_the_lock(rng, 200, 4_000).await,
        }
    }

    async fn replace(&mut self, chosen: usize, signal: Signal, rng: &mut StdRng) {
        let next = self.worker();
        let mut worker = std::mem::replace(&mut self.workers[chosen], next);
        self.end(&mut worker, signal).await;
        pass(rng, 0, 2_000).await;
    }

    async fn end(&mut self, worker: &mut Running, signal: Signal) {
        if !worker.is_running() {
            self.deaths.push(worker.stderr().lines().last().unwrap_or_default().to_owned());
        }
        worker.signal(signal);
        worker.wait_exit(PATIENCE).await;
        self.logs += &format!("=== a worker\n{}\n", worker.stderr());
    }

    async fn end_workers(&mut self) {
        for mut worker in std::mem::take(&mut self.workers) {
            self.end(&mut worker, Signal::TERM).await;
        }
    }

    /// Locks the file, with a write lock or a lock that also blocks readers.
    async fn hold_the_lock(&self, rng: &mut StdRng, least: u64, most: u64) {
        let mut connection = block_in_place(|| connect(Path::new(&self.file())));
        let begin = if rng.random() { "BEGIN IMMEDIATE" } else { "BEGIN EXCLUSIVE" };
        while block_in_place(|| connection.batch_execute(begin)).is_err() {}
        pass(rng, least, most).await;
        connection.batch_execute("ROLLBACK").unwrap();
    }

    fn number(&self, query: &str) -> i64 {
        let mut connection = connect(Path::new(&self.file()));
        loop {
            if let Ok(Number { number }) = sql_query(query).get_result(&mut connection) {
                return number;
            }
        }
    }

    async fn drain(&self) -> i64 {
        let began = Instant::now();
        loop {
            let unpublished = "SELECT count(*) AS number FROM outbox_events WHERE status <> 'published'";
            let left = block_in_place(|| self.number(unpublished));
            if left == 0 || began.elapsed() > HEALING {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn connect(file: &Path) -> SqliteConnection {
    let mut connection = SqliteConnection::establish(&file.display().to_string()).unwrap();
    connection.batch_execute("PRAGMA busy_timeout = 2000").unwrap();
    connection
}

type Writing = Vec<JoinHandle<Vec<Committed>>>;

fn start_writers(file: &str, seed: u64) -> (Arc<AtomicBool>, Writing) {
    let stop = Arc::<AtomicBool>::default();
    let writing = (0..WRITERS).map(|number| {
        let (file, stop) = (file.to_owned(), Arc::clone(&stop));
        let rng = StdRng::seed_from_u64(seed ^ (number + 1) << 32);
        tokio::task::spawn_blocking(move || write_until(&stop, &file, number, rng))
    });
    let writing = writing.collect();
    (stop, writing)
}

/// The committed events, in order. A file has no commits with unknown outcome.
fn write_until(stop: &AtomicBool, file: &str, number: u64, mut rng: StdRng) -> Vec<Committed> {
    let (mut connection, mut committed) = (connect(Path::new(file)), Vec::new());
    while !stop.load(Ordering::SeqCst) {
        let events: Vec<Committed> = (0..rng.random_range(1..=MOST_EVENTS)).map(|_| draw(&mut rng, number)).collect();
        let kept = rng.random_bool(0.85);
        let done = connection.immediate_transaction(|connection| {
            for Committed { id, key } in &events {
                let event = NewEvent::new("thing.happened", "faults").id(*id).partition_key(key);
                blocking::publish(connection, event)?;
            }
            if kept { Ok(()) } else { Err(PublishError::Stopped) }
        });
        if done.is_ok() {
            committed.extend(events);
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(1..60)));
    }
    committed
}

pub(crate) fn draw(rng: &mut StdRng, writer: u64) -> Committed {
    let id = uuid::Builder::from_random_bytes(rng.random()).into_uuid();
    let key = rng.random_bool(0.7).then(|| format!("writer {writer} key {}", rng.random_range(0..KEYS)));
    Committed { id, key: key.unwrap_or_default() }
}

pub(crate) async fn pass(rng: &mut StdRng, least: u64, most: u64) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(least..=most))).await;
}
