//! The servers, the workers, and a proxy between each worker and each server.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::block_in_place;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::consumers::Consumers;
use crate::figures::Processes;
use crate::mixed;
use crate::support::proxy::Proxy;
use crate::support::{postgres, redis};
use crate::worker_slots::{Notes, WorkerSlot};

/// The program of this version.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_outbox");

/// Workers that always run.
pub(crate) const WORKERS: usize = 3;
/// Further workers that start and stop.
pub(crate) const GUESTS: usize = 2;
/// The shards of both lanes.
pub(crate) const LEASES: usize = 64;
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// The workers' role in PostgreSQL; writers have another role and need no password.
pub(crate) const ROLE: &str = "worker";
pub(crate) const PASSWORD: &str = "hunter2-the-first";

/// The duration of long faults, which exceeds every limit in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Longer than a lease and most limits: the short form takes one minute in total.
    Short,
    Long,
}

impl Pace {
    pub(crate) fn long(self) -> (Duration, Duration) {
        let (least, most) = if self == Self::Short { (4, 8) } else { (15, 60) };
        (Duration::from_secs(least), Duration::from_secs(most))
    }
}

/// What the workers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// They publish to one stream, or to its partitions.
    Plain { partitions: u32 },
    /// They delete events once they are done.
    Deleting,
    /// They are the suite's own program, with different publishers and handlers.
    Mixed,
}

/// Every event, and whether it is recorded as published.
const TABLE: &str = "CREATE VIEW written AS SELECT id, status = 'published' AS is_published FROM outbox_events";

/// The same if rows are deleted: an event that has no row was published.
const LIST: &str = "CREATE TABLE written_events (id uuid PRIMARY KEY);
    CREATE FUNCTION list_event() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO written_events VALUES (NEW.id); RETURN NULL; END $$;
    CREATE TRIGGER list_event AFTER INSERT ON outbox_events FOR EACH ROW EXECUTE FUNCTION list_event();
    CREATE VIEW written AS SELECT id, e.id IS NULL OR e.status = 'published' AS is_published
        FROM written_events LEFT JOIN outbox_events e USING (id)";

pub(crate) struct Deployment {
    pub(crate) pace: Pace,
    /// The writers' proxy to PostgreSQL; it connects to another server after a failover.
    front: Proxy,
    /// A fault locks the server, so that it is undone before the next fault of the server begins.
    pub(crate) postgres: Mutex<postgres::Server>,
    pub(crate) redis: Mutex<redis::Server>,
    pub(crate) slots: Vec<WorkerSlot>,
    /// Running faults, and the number of faults so far.
    pub(crate) under_way: AtomicUsize,
    pub(crate) begun: AtomicUsize,
    url: String,
    database: String,
    redis_url: String,
    stream: String,
    settings: TempDir,
    rule_off: Option<&'static str>,
    load: Load,
    /// Readers of the stream, if there are any.
    consumers: Option<Consumers>,
    pub(crate) notes: StdMutex<Notes>,
    pub(crate) processes: Processes,
}

impl Deployment {
    /// Servers and tables without workers; if a rule is off, the workers keep all others.
    pub(crate) async fn new(rule_off: Option<&'static str>) -> Self {
        Self::with(rule_off, Pace::Short, Load::Plain { partitions: 1 }).await
    }

    pub(crate) async fn paced(pace: Pace) -> Self {
        Self::with(None, pace, Load::Plain { partitions: 1 }).await
    }

    /// With consumers, which are not started, for a stream with this many partitions.
    pub(crate) async fn consumed(rule_off: Option<&'static str>, pace: Pace, partitions: u32) -> Self {
        let mut deployment = Self::with(rule_off, pace, Load::Plain { partitions }).await;
        deployment.consumers = Some(Consumers::new(&deployment).await);
        deployment
    }

    /// Three services with different handlers, which keep all rules except that one.
    pub(crate) async fn of_services(rule_off: Option<&'static str>) -> Self {
        Self::with(rule_off, Pace::Short, Load::Mixed).await
    }

    /// With events that are deleted once they are done.
    pub(crate) async fn deleting(pace: Pace) -> Self {
        Self::with(None, pace, Load::Deleting).await
    }

    /// For a mixed load.
    pub(crate) async fn mixed(pace: Pace) -> Self {
        Self::with(None, pace, Load::Mixed).await
    }

    async fn with(rule_off: Option<&'static str>, pace: Pace, load: Load) -> Self {
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
        let front = Proxy::to(postgres.port()).await;
        let database = database.at(front.port());
        let mut slots = Vec::new();
        for number in 0..WORKERS + GUESTS {
            slots.push(WorkerSlot::new(number, postgres.port(), redis.port()).await);
        }
        let deployment = Self {
            pace,
            front,
            url: database.url.clone(),
            redis_url: format!("redis://:{PASSWORD}@127.0.0.1:{}/0", redis.port()),
            stream: redis::stream(),
            settings: tempfile::tempdir().unwrap(),
            postgres: Mutex::new(postgres),
            redis: Mutex::new(redis),
            slots,
            under_way: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            rule_off,
            load,
            consumers: None,
            notes: StdMutex::default(),
            processes: Processes::default(),
            database: database.name.clone(),
        };
        deployment.migrate();
        let written = if load == Load::Deleting { LIST } else { TABLE };
        postgres::connect(&deployment.url).await.batch_execute(written).await.unwrap();
        deployment
    }

    /// Writes each slot's settings and creates the tables.
    fn migrate(&self) {
        for slot in &self.slots {
            std::fs::write(self.settings_of(slot), self.settings(slot)).unwrap();
        }
        std::fs::write(self.folder().join("people.toml"), self.shared_settings(&self.slots[0])).unwrap();
        let arguments: &[&str] = if self.is_mixed() { &["migrate", "--notify-trigger"] } else { &["migrate"] };
        let migrated = self.operate(arguments).output().unwrap();
        assert!(migrated.status.success(), "outbox migrate: {}", String::from_utf8_lossy(&migrated.stderr));
    }

    /// The settings that the program `outbox` knows too: all except the worker's.
    fn shared_settings(&self, slot: &WorkerSlot) -> String {
        format!(
            "[database]\nurl = \"{}\"\n\n[publishers.default]\nbackend = \"redis_stream\"\nurl = \"{}\"\n\
             stream_name = \"{}\"\npartitions = {}\nmax_len = 0\nconnect_timeout = 1\nsocket_timeout = 1\n\n",
            self.address(slot),
            self.redis_address(slot),
            self.stream,
            self.partitions(),
        )
    }

    fn settings(&self, slot: &WorkerSlot) -> String {
        let retention = if self.load == Load::Deleting { "[retention]\npublished_retention_days = 0\n" } else { "" };
        let worker = if self.is_mixed() {
            mixed::settings(slot.number, &self.redis_address(slot), &self.stream, self.folder())
        } else {
            format!("{retention}[worker]\npoll_interval = \"20ms\"\nbatch_size = 50\nmax_in_flight = 500\n")
        };
        let lease = LEASE.as_secs();
        format!("{}{worker}lease = \"{lease}s\"\nshutdown_timeout = \"5s\"\n", self.shared_settings(slot))
    }

    pub(crate) fn settings_of(&self, slot: &WorkerSlot) -> PathBuf {
        self.folder().join(format!("{}.toml", slot.number))
    }

    /// A command of an operator.
    pub(crate) fn operate(&self, arguments: &[&str]) -> Command {
        let mut command = self.without_environment(Command::new(PROGRAM));
        command.args(arguments).arg("--config").arg(self.folder().join("people.toml"));
        command
    }

    pub(crate) fn outbox(&self, slot: &WorkerSlot, arguments: &[&str]) -> Command {
        self.program(Path::new(PROGRAM), slot, arguments)
    }

    pub(crate) fn program(&self, program: &Path, slot: &WorkerSlot, arguments: &[&str]) -> Command {
        let mut command = self.without_environment(Command::new(program));
        command.args(arguments).arg("--config").arg(self.settings_of(slot));
        command
    }

    /// The suite's own worker.
    pub(crate) fn own_worker(&self, slot: &WorkerSlot, name: &str) -> Option<Command> {
        self.is_mixed().then(|| {
            let deployment = slot.deployments.fetch_add(1, Ordering::Relaxed);
            let settings = self.settings_of(slot);
            self.without_environment(mixed::program::command(&settings, name, slot.number, deployment))
        })
    }

    /// A command without the environment of the tests. It prints no backtraces: for one, the program reads its own debug
    /// information, which counts as 130 MiB of its memory.
    pub(crate) fn without_environment(&self, mut command: Command) -> Command {
        let own: Vec<OsString> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
        for (name, _) in std::env::vars_os().filter(|(name, _)| !own.contains(name)) {
            if name == "DATABASE_URL" || name.to_string_lossy().starts_with("OUTBOX_") {
                command.env_remove(name);
            }
        }
        command.current_dir(self.folder()).env("RUST_BACKTRACE", "0");
        if let Some(rule_off) = self.rule_off {
            command.env("OUTBOX_RULE_OFF", rule_off);
        }
        command
    }

    pub(crate) fn redis_address(&self, slot: &WorkerSlot) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}/0", slot.ports.1)
    }

    /// The database's address for the workers in this slot.
    pub(crate) fn address(&self, slot: &WorkerSlot) -> String {
        format!("postgres://{ROLE}:{PASSWORD}@127.0.0.1:{}/{}", slot.ports.0, self.database)
    }

    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// All proxies connect to this PostgreSQL after this call.
    pub(crate) async fn lead_to(&self, server: &postgres::Server) {
        self.front.switch_to(server.port());
        for slot in &self.slots {
            slot.to_postgres.lock().await.switch_to(server.port());
        }
    }

    pub(crate) fn is_mixed(&self) -> bool {
        self.load == Load::Mixed
    }

    pub(crate) fn consumers(&self) -> &Consumers {
        self.consumers.as_ref().expect("a deployment with consumers")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.settings.path()
    }

    pub(crate) fn redis_url(&self) -> &str {
        &self.redis_url
    }

    pub(crate) fn stream_name(&self) -> &str {
        &self.stream
    }

    /// The writers' address of the database.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// `None` while the server is unavailable.
    pub(crate) async fn try_sql(&self) -> Option<Client> {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// For callers that have locked the server, or know that it runs.
    pub(crate) async fn sql(&self) -> Client {
        postgres::connect(&self.url).await
    }

    /// For callers that have locked the server, or know that it runs.
    pub(crate) async fn redis(&self) -> ::redis::aio::MultiplexedConnection {
        redis::connect(&self.redis_url).await
    }

    pub(crate) fn partitions(&self) -> u32 {
        if let Load::Plain { partitions } = self.load { partitions } else { 1 }
    }

    /// The keys of the stream, or of its partitions.
    pub(crate) fn streams(&self) -> Vec<String> {
        match self.partitions() {
            1 => vec![self.stream.clone()],
            partitions => (0..partitions).map(|n| format!("{{{}}}.{n}", self.stream)).collect(),
        }
    }

    /// The stream's events; those of one partition after those of another.
    pub(crate) async fn stream(&self) -> Vec<Uuid> {
        let mut ids = Vec::new();
        for stream in self.streams() {
            ids.extend(redis::event_ids(&self.redis_url, &stream).await);
        }
        ids.iter().map(|id| id.parse().unwrap()).collect()
    }

    /// The fields next to the stream.
    pub(crate) async fn journal(&self) -> BTreeMap<String, Vec<u8>> {
        let meta = format!("{{{}}}:outbox", self.stream);
        ::redis::cmd("HGETALL").arg(meta).query_async(&mut self.redis().await).await.unwrap()
    }

    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.sql().await.query_one(query, &[]).await.unwrap().get(0)
    }

    /// The table and the stream, in their orders, to investigate a failure.
    pub(crate) async fn dump(&self) -> String {
        let statement = "SELECT concat_ws(' ', scheduled_at::time, seq, id, status, created_at::time, published_at::time, partition_key)
            FROM outbox_events ORDER BY scheduled_at, seq";
        let rows = self.sql().await.query(statement, &[]).await.unwrap();
        let table: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let mut stream = Vec::new();
        for name in self.streams() {
            stream.extend(redis::places(&self.redis_url, &name).await);
        }
        let others = match &self.consumers {
            Some(consumers) => consumers.dump().await,
            None if self.is_mixed() => mixed::dump(self),
            None => String::new(),
        };
        format!("=== the table\n{}\n=== the stream\n{}\n{others}", table.join("\n"), stream.join("\n"))
    }

    /// Waits until no event has been due for long, while events are still written and other faults run.
    pub(crate) async fn recover(&self, most: Duration) {
        let recovered = async {
            while self.late().await != Some(0) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let _ = tokio::time::timeout(most, recovered).await;
    }

    /// `None` while the server is unavailable. Events of a key wait for those before it: in `held` for an operator, elsewhere
    /// for their retries.
    async fn late(&self) -> Option<i64> {
        let late = "SELECT count(*) FROM outbox_events WHERE status = 'pending' AND publisher_backend <> 'held'
            AND greatest(scheduled_at, updated_at) < clock_timestamp() - interval '5 s'";
        let row = self.try_sql().await?.query_one(late, &[]).await.ok()?;
        Some(row.get(0))
    }

    /// Waits until every event is published; returns how many are not when the time is over.
    pub(crate) async fn drain(&self, most: Duration) -> i64 {
        let unfinished = if self.is_mixed() {
            "status IN ('pending', 'retry', 'processing') AND scheduled_at < clock_timestamp() + interval '1 hour'"
        } else {
            "status <> 'published'"
        };
        let (began, left) = (Instant::now(), format!("SELECT count(*) FROM outbox_events WHERE {unfinished}"));
        loop {
            let left = self.number(&left).await;
            if left == 0 || began.elapsed() > most {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
