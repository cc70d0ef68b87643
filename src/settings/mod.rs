//! Settings and their defaults.
//!
//! `load` lays the flag, the environment and the file over one another, `read` turns the result into the structs here,
//! `check` holds what values are in range.

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

/// Everything that an outbox needs to know: `[database]`, `[publishers.*]`, `[worker]`, `[retention]` and `[web]`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// Where the outbox tables are.
    pub database: DatabaseSettings,
    /// The backends by name. The default one is that named `default`, or the only one.
    pub publishers: BTreeMap<String, PublisherSettings>,
    /// How events are fetched, dispatched and retried.
    pub worker: WorkerSettings,
    /// How long events that are done are kept.
    pub retention: RetentionSettings,
    /// Who may use the console.
    pub web: WebSettings,
}

/// `[database]`
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct DatabaseSettings {
    /// `postgres://…?sslmode=disable|require|verify-full` or `sqlite://path`.
    pub url: Secret,
    /// PostgreSQL: connections, at most. Half of them read, the others record, publish and do the rest; at least one of each.
    /// None: four for each processor of this machine, 8 to 32. The heartbeat and the listener have one each beside them.
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
    /// Instead of `url`.
    pub host: Option<String>,
    /// With `host`; 6379.
    pub port: Option<u16>,
    /// With `host` or `sentinel`; 0.
    pub db: Option<i64>,
    /// With `host` or `sentinel`.
    pub username: Option<String>,
    /// With `host` or `sentinel`.
    pub password: Option<Secret>,
    /// Instead of `url`: some nodes of a Redis Cluster, each as a `url` is. The others are found through them.
    pub nodes: Vec<Secret>,
    /// Instead of `url`: who knows the master's address.
    pub sentinel: Option<SentinelSettings>,
    /// Replicas that must have an event before it counts as published; none: the master's word is enough.
    pub wait_replicas: Option<WaitReplicas>,
    /// The stream's key.
    pub stream_name: String,
    /// About how many entries the stream keeps; 0: it is never trimmed.
    pub max_len: u64,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long one answer may take.
    pub socket_timeout: Duration,
    /// What a failed event means for the later ones of its key.
    pub on_failed: OnFailed,
    /// Events a second that one worker hands over; none: no limit.
    pub rate_limit: Option<RateLimit>,
    /// `jsonl`: a file's path, or `-` for standard output.
    pub path: Option<String>,
    /// Keys of an application's own backend.
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
    /// The sentinels, each as a `url` is. A `rediss://` one says that the master is reached by TLS too.
    pub nodes: Vec<Secret>,
}

/// `wait_replicas = { count, timeout }`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitReplicas {
    /// How many replicas; at least 1.
    pub count: u32,
    /// How long they may take before Redis counts as unavailable; less than `socket_timeout`.
    pub timeout: Duration,
}

impl WaitReplicas {
    /// So many replicas, within a second.
    #[must_use]
    pub fn new(count: u32) -> Self {
        Self { count, timeout: Duration::from_secs(1) }
    }
}

/// What a failed event means for the later ones of its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailed {
    /// They go on without it.
    #[default]
    Continue,
    /// They wait until a person retries it or lets it go. If it was a handler that failed it, only what that handler is given
    /// of the key waits; a process that has handlers and delivers nothing needs this setting, too.
    Hold,
}

/// `rate_limit = { per_second, burst }`, per worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Events a second in the long run; at least 1.
    pub per_second: u32,
    /// How many may go at once after a pause; at least 1.
    pub burst: u32,
}

/// `[worker]`
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WorkerSettings {
    /// A name for people; the host's name and the process id unless given.
    pub name: Option<String>,
    /// Events handed to a backend at once, at most; 1 or more.
    pub batch_size: usize,
    /// How often to look for events that nobody announced.
    pub poll_interval: Duration,
    /// For new events that do not say, written by a system or the command line: the rejection with which they fail.
    pub max_retries: i32,
    /// When a rejected event is tried again.
    pub retry_backoff: RetryBackoff,
    /// How long a dead worker's share stays untouched; at least a second.
    pub lease: Duration,
    /// Events in memory, at most; divided among the publishers that are served.
    pub max_in_flight: usize,
    /// Their bytes as [`OutboxEvent::size`](crate::OutboxEvent::size) counts them, at most, but for one event that alone is
    /// larger; divided likewise.
    pub max_in_flight_bytes: usize,
    /// The largest event accepted, in bytes; a larger one that another writer stored becomes `failed`.
    pub max_event_bytes: usize,
    /// How long a local handler may take for one event.
    pub handler_timeout: Duration,
    /// How long events are kept for a handler after its last process has gone: later ones are owed to it no more.
    pub handlers_owed: Duration,
    /// How long finishing what is in flight may take.
    pub shutdown_timeout: Duration,
    /// The backends served, by name; none: all that are configured.
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

/// The n-th failure waits `min(base · factor^n, max)`, times a random share between `1 - jitter` and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RetryBackoff {
    /// The unit of waiting.
    pub base: Duration,
    /// What each further failure multiplies it by; at least 1.
    pub factor: f64,
    /// The longest wait.
    pub max: Duration,
    /// The share of the wait that is left to chance, 0 to 1.
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
    /// Whether published events are deleted at all.
    pub cleanup_published: bool,
    /// Days that a published event is kept.
    pub published_retention_days: u32,
    /// Days that a failed event is kept, unless it holds its key.
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
    /// Whoever knows it may do everything in the console; 16 bytes or more. None, here and in a file: the console is for
    /// this machine alone.
    pub operator_secret: Option<Secret>,
    /// A file that holds it instead.
    pub operator_secret_file: Option<String>,
    /// Whoever knows it may look, and change nothing.
    pub reader_secret: Option<Secret>,
    /// A file that holds it instead.
    pub reader_secret_file: Option<String>,
    /// The names by which browsers may call the console, without ports; none: any, where a secret is asked for.
    pub hosts: Vec<String>,
    /// Addresses of proxies before the console, or networks of them, whose `X-Forwarded-For` is believed: how much one
    /// address may ask for is counted for those before them.
    pub proxies: Vec<String>,
}
