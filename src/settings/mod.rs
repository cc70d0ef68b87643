//! Settings and their defaults.
//!
//! `load` merges the flag, the environment and the file, `read` converts the result to the structs here, and `check`
//! checks that values are in range.

use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) mod check;
mod load;
mod nearest;
mod node;
mod publishers;
mod read;
mod secret;
pub(crate) mod units;

pub use load::LoadOptions;
pub use secret::Secret;
pub use units::{DURATION_FORMATS, parse_duration};

/// All settings of an outbox: `[database]`, `[publishers.*]`, `[worker]`, `[retention]` and `[web]`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// The database that holds the outbox tables.
    pub database: DatabaseSettings,
    /// The publishers by name. The default one is the one named `default`, or the only one.
    pub publishers: BTreeMap<String, PublisherSettings>,
    /// How events are fetched, dispatched and retried.
    pub worker: WorkerSettings,
    /// How long settled events are kept.
    pub retention: RetentionSettings,
    /// Access to the console.
    pub web: WebSettings,
}

/// `[database]`
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct DatabaseSettings {
    /// `postgres://…?sslmode=disable|require|verify-full` or `sqlite://path`.
    pub url: Secret,
    /// PostgreSQL: the most connections. Half of them read, the others settle, publish and do the rest; at least one of
    /// each. None: four for each processor of this machine, 8 to 32. The heartbeat and the listener each have one more.
    pub connections: Option<usize>,
}

/// `[publishers.NAME]`
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PublisherSettings {
    /// `redis_stream`, `jsonl`, `local`, or a kind that the application registered.
    pub backend: String,
    /// `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS.
    pub url: Option<Secret>,
    /// The server's host, instead of `url`.
    pub host: Option<String>,
    /// The server's port, with `host`; 6379.
    pub port: Option<u16>,
    /// The database's number, with `host` or `sentinel`; 0.
    pub db: Option<i64>,
    /// The user's name, with `host` or `sentinel`.
    pub username: Option<String>,
    /// The password, with `host` or `sentinel`.
    pub password: Option<Secret>,
    /// Some nodes of a Redis Cluster, instead of `url`, each in the form of `url`. The others are discovered.
    pub nodes: Vec<Secret>,
    /// The sentinels that provide the master's address, instead of `url`.
    pub sentinel: Option<SentinelSettings>,
    /// Replicas that must have an event before it counts as published; none: the master's reply is enough.
    pub wait_replicas: Option<WaitReplicas>,
    /// The stream's key.
    pub stream_name: String,
    /// The approximate number of entries that the stream keeps; 0: it is never trimmed.
    pub max_len: u64,
    /// The time limit for connecting.
    pub connect_timeout: Duration,
    /// The time limit for one reply.
    pub socket_timeout: Duration,
    /// The effect of a failed event on later events of its key.
    pub on_failed: OnFailed,
    /// The events per second that one worker sends; none: no limit.
    pub rate_limit: Option<RateLimit>,
    /// The path of a file (`jsonl`), or `-` for standard output.
    pub path: Option<String>,
    /// Options of an application's own backend.
    pub options: serde_json::Map<String, serde_json::Value>,
}

impl Default for PublisherSettings {
    fn default() -> Self {
        Self {
            backend: "redis_stream".to_owned(),
            url: None,
            host: None,
            port: None,
            db: None,
            username: None,
            password: None,
            nodes: Vec::new(),
            sentinel: None,
            wait_replicas: None,
            stream_name: "events".to_owned(),
            max_len: 10_000,
            connect_timeout: Duration::from_secs(5),
            socket_timeout: Duration::from_secs(5),
            on_failed: OnFailed::Continue,
            rate_limit: None,
            path: None,
            options: serde_json::Map::new(),
        }
    }
}

/// `sentinel = { master, nodes }`
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct SentinelSettings {
    /// The name under which the sentinels watch the master.
    pub master: String,
    /// The sentinels, each in the form of `url`. A `rediss://` one means that the master is reached by TLS too.
    pub nodes: Vec<Secret>,
}

/// `wait_replicas = { count, timeout }`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitReplicas {
    /// The number of replicas; at least 1.
    pub count: u32,
    /// The time after which Redis counts as unavailable; less than `socket_timeout`.
    pub timeout: Duration,
}

impl WaitReplicas {
    /// Waits for this many replicas, within a second.
    #[must_use]
    pub fn new(count: u32) -> Self {
        Self { count, timeout: Duration::from_secs(1) }
    }
}

/// The effect of a failed event on later events of its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailed {
    /// Later events are sent.
    #[default]
    Continue,
    /// Later events wait until an operator retries or fails this event. If a handler failed it, only the key's deliveries
    /// to that handler wait; a process that has handlers but delivers nothing needs this setting too.
    Hold,
}

/// `rate_limit = { per_second, burst }`, per worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// The events per second in the long run; at least 1.
    pub per_second: u32,
    /// The number of events that may be sent without a pause after an idle period; at least 1.
    pub burst: u32,
}

/// `[worker]`
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WorkerSettings {
    /// A name for operators; the default is the host's name and the process id.
    pub name: Option<String>,
    /// The most events in one batch to a backend; 1 or more.
    pub batch_size: usize,
    /// How often the worker polls for events that were committed without a notification.
    pub poll_interval: Duration,
    /// The default for new events of a system or the command line: rejections after which an event is marked failed.
    pub max_retries: i32,
    /// The delay before a rejected event is retried.
    pub retry_backoff: RetryBackoff,
    /// How long another worker waits before it takes a dead worker's leases; at least a second.
    pub lease: Duration,
    /// The most events in memory; divided among the publishers that are served.
    pub max_in_flight: usize,
    /// The most bytes of these events, as [`OutboxEvent::size`](crate::OutboxEvent::size) counts them; a single larger
    /// event is still accepted. Divided among the publishers too.
    pub max_in_flight_bytes: usize,
    /// The largest event accepted, in bytes; a larger one that another writer stored becomes `failed`.
    pub max_event_bytes: usize,
    /// The time limit of a local handler for one event.
    pub handler_timeout: Duration,
    /// How long events are still owed to a handler after its last process stopped: later events are not owed to it.
    pub handlers_owed: Duration,
    /// The time limit for finishing deliveries in flight.
    pub shutdown_timeout: Duration,
    /// The names of the publishers to serve; none: all that are configured.
    pub backends: Option<Vec<String>>,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            name: None,
            batch_size: 500,
            poll_interval: Duration::from_millis(100),
            max_retries: 3,
            retry_backoff: RetryBackoff::default(),
            lease: Duration::from_secs(5),
            max_in_flight: 5_000,
            max_in_flight_bytes: 16 << 20,
            max_event_bytes: 1 << 20,
            handler_timeout: Duration::from_secs(30),
            handlers_owed: Duration::from_secs(7 * 24 * 3600),
            shutdown_timeout: Duration::from_secs(30),
            backends: None,
        }
    }
}

/// The n-th failure waits `min(base · factor^n, max)`, times a random factor between `1 - jitter` and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RetryBackoff {
    /// The base delay.
    pub base: Duration,
    /// The factor by which each further failure multiplies the delay; at least 1.
    pub factor: f64,
    /// The longest delay.
    pub max: Duration,
    /// The random share of the delay, 0 to 1.
    pub jitter: f64,
}

impl Default for RetryBackoff {
    fn default() -> Self {
        Self { base: Duration::from_secs(60), factor: 2.0, max: Duration::from_secs(3_600), jitter: 0.5 }
    }
}

/// `[retention]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionSettings {
    /// Whether published events are deleted.
    pub cleanup_published: bool,
    /// The days for which a published event is kept.
    pub published_retention_days: u32,
    /// The days for which a failed event is kept, unless it holds its key.
    pub failed_retention_days: u32,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self { cleanup_published: true, published_retention_days: 7, failed_retention_days: 30 }
    }
}

/// `[web]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebSettings {
    /// The secret that gives full access to the console; 16 bytes or more. If neither it nor its file is set, the console
    /// serves this machine only.
    pub operator_secret: Option<Secret>,
    /// A file that contains the operator secret.
    pub operator_secret_file: Option<String>,
    /// The secret that gives read-only access to the console.
    pub reader_secret: Option<Secret>,
    /// A file that contains the reader secret.
    pub reader_secret_file: Option<String>,
    /// The host names under which browsers may access the console, without ports; none: any, if a secret is required.
    pub hosts: Vec<String>,
    /// Addresses or networks of proxies in front of the console whose `X-Forwarded-For` is trusted: request limits then
    /// count the clients' addresses.
    pub proxies: Vec<String>,
}
