//! Runs: a worker for each of several databases empties its backlog.

use std::process::Command;
use std::time::Duration;

use super::drain::support::process::Running;
use super::drain::support::{PATIENCE, postgres, redis};
use super::processes::Times;

/// What the first and the last events of a run add to its time.
const AT_THE_ENDS: f64 = 2_000.0;

/// As long as a run may take.
const LONGEST: Duration = Duration::from_secs(120);

/// Where events go, as settings of a publisher.
pub(crate) struct Broker(Vec<(&'static str, String)>);

impl Broker {
    pub(crate) fn redis(url: &str, stream: &str, partitions: u32) -> Self {
        let partitions = partitions.to_string();
        Self::stream(stream).with("URL", url).with("PARTITIONS", &partitions)
    }

    pub(crate) fn cluster(cluster: &redis::cluster::Cluster, stream: &str) -> Self {
        let nodes = cluster.nodes.iter().map(|node| format!("\"redis://127.0.0.1:{}\"", node.server.port()));
        let nodes: Vec<String> = nodes.collect();
        Self::stream(stream).with("NODES", &format!("[{}]", nodes.join(", ")))
    }

    pub(crate) fn nats(urls: &[String], stream: &str) -> Self {
        let servers = format!("{urls:?}");
        let subject = format!("{}.{{type}}", stream.to_lowercase());
        let broker = Self(vec![("BACKEND", "nats".to_owned())]).with("SERVERS", &servers).with("STREAM", stream);
        broker.with("SUBJECT", &subject).with("CREATE", "true").with("REPLICAS", "3")
    }

    fn stream(name: &str) -> Self {
        Self(vec![("BACKEND", "redis_stream".to_owned())]).with("STREAM_NAME", name).with("MAX_LEN", "0")
    }

    fn with(mut self, key: &'static str, value: &str) -> Self {
        self.0.push((key, value.to_owned()));
        self
    }
}

/// The server of the databases.
pub(crate) struct Databases(postgres::Server);

/// A run: its rate, and what it cost.
pub(crate) struct Measured {
    pub(crate) events: f64,
    pub(crate) rate: f64,
    pub(crate) times: Times,
    pub(crate) wal: f64,
    whole: Duration,
}

impl Measured {
    /// The share of the machine's processors that were busy with this.
    pub(crate) fn busy(&self) -> f64 {
        self.share(self.times.all())
    }

    /// The share that was busy with other programs: the rate would be higher without them.
    pub(crate) fn others(&self) -> f64 {
        self.share(self.times.others())
    }

    fn share(&self, time: Duration) -> f64 {
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        time.as_secs_f64() / self.whole.as_secs_f64() / processors
    }
}

impl Databases {
    pub(crate) fn start() -> Self {
        let settings =
            [("fsync", "on"), ("full_page_writes", "on"), ("shared_buffers", "256MB"), ("max_wal_size", "4GB")];
        Self(postgres::Server::start_with(&settings))
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.port()
    }

    /// The server, reached over another port.
    pub(crate) fn url_at(&self, port: u16) -> String {
        self.0.url("postgres").replace(&format!(":{}/", self.0.port()), &format!(":{port}/"))
    }

    /// Empties a backlog that is divided among this many databases, each with a worker and a broker of its own; `through`: a
    /// port over which workers reach the server.
    pub(crate) async fn run(
        &self,
        count: usize,
        broker: impl Fn(usize) -> Broker,
        events: i32,
        through: Option<u16>,
    ) -> Measured {
        let each = events / i32::try_from(count).unwrap();
        let mut outboxes = Vec::new();
        for number in 0..count {
            let outbox = Outbox { database: self.0.database().await, broker: broker(number).0 };
            outbox.insert(each).await;
            outboxes.push(outbox);
        }
        let sql = postgres::connect(&self.0.url("postgres")).await;
        sql.batch_execute("CHECKPOINT").await.unwrap();
        let place = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8";
        let wal: f64 = sql.query_one(place, &[]).await.unwrap().get(0);
        let before = Times::read();
        let mut workers: Vec<Running> = outboxes
            .iter()
            .map(|outbox| Running::spawn(outbox.command_at(through).args(["worker", "--until-empty"])))
            .collect();
        for worker in &mut workers {
            let status = worker.wait_exit(LONGEST).await;
            assert!(status.success(), "{status}: {}", worker.stderr());
            worker.stderr().lines().filter(|line| line.contains("WARN")).take(3).for_each(|line| eprintln!("{line}"));
        }
        let times = Times::read().since(before);
        let wal = sql.query_one(place, &[]).await.unwrap().get::<_, f64>(0) - wal;
        let mut span = (f64::MAX, f64::MIN);
        for outbox in &outboxes {
            let (first, last) = outbox.published().await;
            span = (span.0.min(first), span.1.max(last));
        }
        let events = f64::from(each) * count as f64;
        let whole = span.1 - span.0;
        Measured { events, rate: (events - AT_THE_ENDS) / whole, times, wal, whole: Duration::from_secs_f64(whole) }
    }
}

struct Outbox {
    database: postgres::Database,
    broker: Vec<(&'static str, String)>,
}

impl Outbox {
    fn command_at(&self, port: Option<u16>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox"));
        let url = match port {
            Some(port) => {
                let (start, name) = self.database.url.rsplit_once('/').unwrap();
                format!("{}:{port}/{name}", start.rsplit_once(':').unwrap().0)
            }
            None => self.database.url.clone(),
        };
        command.env("OUTBOX__DATABASE__URL", url);
        command.envs(self.broker.iter().map(|(key, value)| (format!("OUTBOX__PUBLISHERS__DEFAULT__{key}"), value)));
        command
    }

    /// Makes the tables, and a backlog of small events without keys.
    async fn insert(&self, events: i32) {
        let mut migrate = Running::spawn(self.command_at(None).arg("migrate"));
        assert!(migrate.wait_exit(PATIENCE).await.success(), "{}", migrate.stderr());
        let sql = self.database.connect().await;
        let insert = "INSERT INTO outbox_events (id, event_type, source, data)
            SELECT gen_random_uuid(), 'order.placed', '/shop/orders', jsonb_build_object('n', n, 'note', repeat('x', 40))
            FROM generate_series(1, $1) n";
        sql.execute(insert, &[&events]).await.unwrap();
        sql.batch_execute("VACUUM ANALYZE outbox_events").await.unwrap();
    }

    /// When the first and the last event were recorded, in seconds; all have to be.
    async fn published(&self) -> (f64, f64) {
        let query =
            "SELECT count(*) FILTER (WHERE status <> 'published'), extract(epoch FROM min(published_at))::float8,
            extract(epoch FROM max(published_at))::float8 FROM outbox_events";
        let row = self.database.connect().await.query_one(query, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 0, "every event is published");
        (row.get(1), row.get(2))
    }
}
