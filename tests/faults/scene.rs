//! The servers, the workers, and a proxy between each worker and each server.

use std::process::Command;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::block_in_place;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::support::process::{Running, Signal};
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, clock, postgres, redis, unique};

/// Workers that there always are.
pub(crate) const WORKERS: usize = 3;
/// Further ones that come and go.
pub(crate) const GUESTS: usize = 2;
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// The workers' role in PostgreSQL; writers are somebody else and need no password.
pub(crate) const ROLE: &str = "worker";
pub(crate) const PASSWORD: &str = "the-first";

pub(crate) struct Scene {
    /// Whoever does something to a server holds it, so that what is done to it is undone before the next comes.
    pub(crate) postgres: Mutex<postgres::Server>,
    pub(crate) redis: Mutex<redis::Server>,
    pub(crate) seats: Vec<Seat>,
    /// Faults that are under way, and those that have begun so far.
    pub(crate) under_way: AtomicUsize,
    pub(crate) begun: AtomicUsize,
    url: String,
    redis_url: String,
    stream: String,
    settings: TempDir,
    seam: Option<&'static str>,
    notes: StdMutex<Notes>,
}

/// What was seen on the way.
#[derive(Default)]
pub(crate) struct Notes {
    /// What ended workers had said.
    pub(crate) logs: String,
    /// Workers that ended by themselves, with the last that they said.
    pub(crate) deaths: Vec<String>,
    pub(crate) takeovers: Vec<Duration>,
}

/// A worker's place: its ways to the servers stay when the worker changes.
pub(crate) struct Seat {
    pub(crate) number: usize,
    /// Held by whoever does something to it.
    pub(crate) worker: Mutex<Option<Worker>>,
    pub(crate) to_postgres: Mutex<Proxy>,
    pub(crate) to_redis: Mutex<Proxy>,
    ports: (u16, u16),
}

pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) running: Running,
}

impl Scene {
    /// Servers, tables and nobody at work; with a seam, the workers keep all rules but that one.
    pub(crate) async fn new(seam: Option<&'static str>) -> Self {
        let (postgres, redis) = block_in_place(|| {
            let mut postgres = postgres::Server::start();
            postgres.ask_for_the_password_of(ROLE);
            let options = [redis::Server::DURABLE, &[("requirepass", PASSWORD)]].concat();
            (postgres, redis::Server::start(&options))
        });
        let database = postgres.database().await;
        let role = format!(
            "CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'; ALTER DATABASE {} OWNER TO {ROLE}; GRANT ALL ON SCHEMA public TO {ROLE}",
            database.name
        );
        database.connect().await.batch_execute(&role).await.unwrap();
        let mut seats = Vec::new();
        for number in 0..WORKERS + GUESTS {
            seats.push(Seat::new(number, postgres.port(), redis.port()).await);
        }
        let scene = Self {
            url: database.url.clone(),
            redis_url: format!("redis://:{PASSWORD}@127.0.0.1:{}/0", redis.port()),
            stream: redis::stream(),
            settings: tempfile::tempdir().unwrap(),
            postgres: Mutex::new(postgres),
            redis: Mutex::new(redis),
            seats,
            under_way: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            seam,
            notes: StdMutex::default(),
        };
        scene.migrate(&database.name);
        scene
    }

    fn migrate(&self, database: &str) {
        for seat in &self.seats {
            let text = format!(
                "[database]\nurl = \"postgres://{ROLE}:{PASSWORD}@127.0.0.1:{}/{database}\"\n\n[publishers.default]\n\
                 backend = \"redis_stream\"\nurl = \"redis://:{PASSWORD}@127.0.0.1:{}/0\"\nstream_name = \"{}\"\n\
                 max_len = 0\nconnect_timeout = 1\nsocket_timeout = 1\n\n[worker]\nlease = \"{}s\"\n\
                 poll_interval = \"20ms\"\nbatch_size = 50\nmax_in_flight = 500\nshutdown_timeout = \"5s\"\n",
                seat.ports.0,
                seat.ports.1,
                self.stream,
                LEASE.as_secs(),
            );
            std::fs::write(self.settings.path().join(format!("{}.toml", seat.number)), text).unwrap();
        }
        let migrated = self.outbox(&self.seats[0], &["migrate"]).output().unwrap();
        assert!(migrated.status.success(), "outbox migrate: {}", String::from_utf8_lossy(&migrated.stderr));
    }

    pub(crate) fn outbox(&self, seat: &Seat, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox"));
        for (name, _) in std::env::vars_os() {
            if name == "DATABASE_URL" || name.to_string_lossy().starts_with("OUTBOX_") {
                command.env_remove(name);
            }
        }
        let settings = self.settings.path().join(format!("{}.toml", seat.number));
        command.current_dir(self.settings.path()).args(arguments).arg("--config").arg(settings);
        if let Some(seam) = self.seam {
            command.env("OUTBOX_FAULT_SEAM", seam);
        }
        command
    }

    /// A worker that takes it to be so many seconds later than it is, with these settings over the usual ones.
    pub(crate) fn worker(&self, seat: &Seat, clock_ahead: i64, settings: &[(&str, &str)]) -> Worker {
        let name = unique(&format!("worker-{}", seat.number));
        let mut command = self.outbox(seat, &["worker", "--name", &name]);
        command.envs(settings.iter().copied());
        if clock_ahead != 0 {
            clock::shift(&mut command, clock_ahead);
        }
        Worker { name, running: Running::spawn(&mut command) }
    }

    pub(crate) async fn start_workers(&self) {
        for seat in &self.seats[..WORKERS] {
            *seat.worker.lock().await = Some(self.worker(seat, 0, &[]));
        }
    }

    /// The worker's place, and the worker, replaced where it had ended by itself.
    pub(crate) async fn at(&self, seat: usize) -> (&Seat, MutexGuard<'_, Option<Worker>>) {
        let seat = &self.seats[seat];
        let mut worker = seat.worker.lock().await;
        if let Some(ended) = worker.take_if(|worker| !worker.running.is_running()) {
            self.note_death(ended);
            *worker = Some(self.worker(seat, 0, &[]));
        }
        (seat, worker)
    }

    /// Ends a worker by a signal and keeps what it said; `None` where there is none.
    pub(crate) async fn end(&self, worker: &mut Option<Worker>, signal: Signal) {
        let Some(mut worker) = worker.take() else { return };
        if !worker.running.is_running() {
            return self.note_death(worker);
        }
        worker.running.signal(signal);
        worker.running.wait_exit(PATIENCE).await;
        self.keep_log(&worker);
    }

    fn note_death(&self, mut worker: Worker) {
        worker.running.kill();
        self.keep_log(&worker);
        let said = worker.running.stderr();
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        self.notes().deaths.push(format!("{}: {}", worker.name, last.join(" | ")));
    }

    fn keep_log(&self, worker: &Worker) {
        let said = worker.running.stderr();
        self.notes().logs += &format!("=== {}\n{said}\n", worker.name);
    }

    pub(crate) fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().unwrap()
    }

    /// Every worker's end, without haste.
    pub(crate) async fn stop_workers(&self) {
        for seat in 0..self.seats.len() {
            let (_, mut worker) = self.at(seat).await;
            self.end(&mut worker, Signal::TERM).await;
        }
    }

    /// The writers' address of the database.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// `None` while the server is away.
    pub(crate) async fn try_sql(&self) -> Option<Client> {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// For whoever holds the server, or knows that it runs.
    pub(crate) async fn sql(&self) -> Client {
        postgres::connect(&self.url).await
    }

    /// For whoever holds the server, or knows that it runs.
    pub(crate) async fn redis(&self) -> ::redis::aio::MultiplexedConnection {
        redis::connect(&self.redis_url).await
    }

    /// The stream's events.
    pub(crate) async fn stream(&self) -> Vec<Uuid> {
        let ids = redis::event_ids(&self.redis_url, &self.stream).await;
        ids.iter().map(|id| id.parse().unwrap()).collect()
    }

    /// The names of the fields beside the stream.
    pub(crate) async fn journal(&self) -> Vec<String> {
        let meta = format!("{{{}}}:outbox", self.stream);
        ::redis::cmd("HKEYS").arg(meta).query_async(&mut self.redis().await).await.unwrap()
    }

    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.sql().await.query_one(query, &[]).await.unwrap().get(0)
    }

    /// The table in its order, and the stream in its, for whoever looks for a reason.
    pub(crate) async fn dump(&self) -> String {
        let statement = "SELECT concat_ws(' ', scheduled_at::time, seq, id, status, created_at::time, published_at::time, partition_key)
            FROM outbox_events ORDER BY scheduled_at, seq";
        let rows = self.sql().await.query(statement, &[]).await.unwrap();
        let table: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let stream = redis::places(&self.redis_url, &self.stream).await;
        format!("=== the table\n{}\n=== the stream\n{}\n", table.join("\n"), stream.join("\n"))
    }

    /// Waits until every event is published; how many are not when the time is up.
    pub(crate) async fn drain(&self, most: Duration) -> i64 {
        let began = Instant::now();
        loop {
            let left = self.number("SELECT count(*) FROM outbox_events WHERE status <> 'published'").await;
            if left == 0 || began.elapsed() > most {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Measures how long a worker's shares stay its own after its death. Counts only where nothing else goes wrong
    /// meanwhile.
    pub(crate) async fn watch_takeover(&self, owner: Option<String>) {
        let began = Instant::now();
        let faults = self.begun.load(Ordering::SeqCst);
        let alone = || self.under_way.load(Ordering::SeqCst) == 1 && self.begun.load(Ordering::SeqCst) == faults;
        let Some(owner) = owner.filter(|_| alone()) else { return };
        let Some(sql) = self.try_sql().await else { return };
        let held = "SELECT count(*) FROM outbox_leases WHERE owner = $1::text::uuid";
        while let Ok(row) = sql.query_one(held, &[&owner]).await {
            if !alone() || began.elapsed() > 10 * LEASE {
                return;
            }
            if row.get::<_, i64>(0) == 0 {
                return self.notes().takeovers.push(began.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The id under which a worker holds its leases.
    pub(crate) async fn owner(&self, worker: &Worker) -> Option<String> {
        let by_name = "SELECT id::text FROM outbox_workers WHERE name = $1";
        let row = self.try_sql().await?.query_opt(by_name, &[&worker.name]).await.ok()?;
        row.map(|row| row.get(0))
    }
}

impl Seat {
    async fn new(number: usize, postgres: u16, redis: u16) -> Self {
        let (to_postgres, to_redis) = (Proxy::to(postgres).await, Proxy::to(redis).await);
        let ports = (to_postgres.port(), to_redis.port());
        Self {
            number,
            worker: Mutex::default(),
            to_postgres: Mutex::new(to_postgres),
            to_redis: Mutex::new(to_redis),
            ports,
        }
    }
}
