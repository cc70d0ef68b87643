//! Settings and their defaults.
//!
//! `load` merges the flag, the environment and the file; each table is declared here, with its keys and how their values are
//! read; `read` has the readers of values that are tables themselves; `check` checks that values are in range.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) mod check;
mod consumers;
mod declare;
mod load;
pub(crate) mod name_template;
mod nearest;
mod node;
pub(crate) mod partitions;
mod plain_text;
mod publishers;
mod read;
mod routes;
mod secret;
pub(crate) mod units;

use self::check::expected::{DAYS, FACTOR, FROM_ONE, FROM_ZERO, JITTER, PARTITIONS, PORT};
use self::declare::table;
use self::node::Node;

pub use consumers::{ConsumerSettings, StartAt};
pub use load::LoadOptions;
pub use routes::Route;
#[cfg(feature = "postgres")]
pub(crate) use secret::COMMAND_LIMIT;
pub use secret::{Secret, SecretError};
pub use units::{DURATION_FORMATS, parse_duration};

/// All settings of an outbox: `[database]`, `[publishers.*]`, `[[routes]]`, `[consumers.*]`, `[worker]`, `[retention]` and
/// `[web]`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// The database that holds the outbox tables.
    pub database: DatabaseSettings,
    /// The publishers by name. The default one is the one named `default`, or the only one.
    pub publishers: BTreeMap<String, PublisherSettings>,
    /// The publishers of events that name none; the first route that fits wins, and without one the default publisher sends.
    pub routes: Vec<Route>,
    /// The consumers by name, for [`OutboxConsumer`](https://docs.rs/actix-outbox) and `outbox consume`.
    pub consumers: BTreeMap<String, ConsumerSettings>,
    /// How events are fetched, dispatched and retried.
    pub worker: WorkerSettings,
    /// How long settled events are kept.
    pub retention: RetentionSettings,
    /// Access to the console.
    pub web: WebSettings,
}

table! {
    /// `[database]`
    #[derive(Debug, Clone, PartialEq)]
    pub struct DatabaseSettings {
        /// `postgres://user:password@host/database?sslmode=verify-full`, as psql reads it,
        /// `mysql://user:password@host/database?sslmode=verify-full`, or `sqlite://path`.
        url: Secret = Secret::default(), Node::secret,
            or url_file by Node::secret_file, or url_command by Node::secret_command;
        /// PostgreSQL: the password, instead of one in `url`.
        password: Option<Secret> = None, |node| node.secret().map(Some),
            or password_file by |node| node.secret_file().map(Some);
        /// PostgreSQL: the address at which notifications are received, if `url` leads to a pooler in transaction mode, which
        /// passes none on. It is of the same database; without a password of its own it takes `password`. None: `url`.
        listen_url: Option<Secret> = None, |node| node.secret().map(Some),
            or listen_url_file by |node| node.secret_file().map(Some),
            or listen_url_command by |node| node.secret_command().map(Some);
        /// PostgreSQL: the schema of the outbox's tables, which `outbox migrate` creates if it is missing. None: the first of
        /// the role's `search_path` that exists.
        schema: Option<String> = None, |node| node.string().map(Some);
        /// PostgreSQL: the most connections. Half of them read, the others settle, publish and do the rest; at least one of
        /// each. None: four for each processor of this machine, 8 to 32. The heartbeat and the listener each have one more.
        connections: Option<usize> = None, |node| node.integer(FROM_ONE).map(Some);
    }
}

table! {
    /// `[publishers.NAME]`
    #[derive(Debug, Clone, PartialEq)]
    pub struct PublisherSettings {
        /// `redis_stream`, `redis_list`, `redis_pubsub`, `nats`, `http`, `rabbitmq`, `jsonl`, `local`, or a kind that the application
        /// registered, such as `kafka`.
        backend: String = "redis_stream".to_owned(), Node::string;
        /// `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS; for `nats` `nats://[user:password@]host[:port]`, or
        /// `tls://`; for `http` an address that may contain `{type}`, `{source}`, `{key}` and `{backend}`; for `rabbitmq`
        /// `amqp://user:password@host/vhost`, or `amqps://` for TLS.
        url: Option<Secret> = None, |node| node.secret().map(Some),
            or url_file by |node| node.secret_file().map(Some),
            or url_command by |node| node.secret_command().map(Some);
        /// The server's host, instead of `url`.
        host: Option<String> = None, |node| node.string().map(Some);
        /// The server's port, with `host`; 6379.
        port: Option<u16> = None, |node| node.integer(PORT).map(Some);
        /// The database's number, with `host` or `sentinel`; 0.
        db: Option<i64> = None, |node| node.integer(FROM_ZERO).map(Some);
        /// The user's name, with `host` or `sentinel`.
        username: Option<String> = None, |node| node.string().map(Some);
        /// The password, with `host` or `sentinel`.
        password: Option<Secret> = None, |node| node.secret().map(Some),
            or password_file by |node| node.secret_file().map(Some);
        /// Some nodes of a Redis Cluster, instead of `url`, each in the form of `url`. The others are discovered.
        nodes: Vec<Secret> = Vec::new(), Node::secrets;
        /// The sentinels that provide the master's address, instead of `url`.
        sentinel: Option<SentinelSettings> = None, |node| SentinelSettings::read(node.clone()).map(Some);
        /// Files for TLS, with `rediss://`, `https://` and `amqps://` addresses and for `kafka`; none: the system's authorities and no certificate of a client.
        tls: Option<TlsSettings> = None, |node| TlsSettings::read(node.clone()).map(Some);
        /// Replicas that must have an event before it counts as published; none: the master's reply is enough.
        wait_replicas: Option<WaitReplicas> = None, |node| read::wait_replicas(node).map(Some);
        /// The stream's key; of `redis_list` the list's, of `redis_pubsub` the channel. It may contain `{type}`, `{source}`, `{key}`
        /// and `{backend}`.
        stream_name: String = "events".to_owned(), Node::string;
        /// `redis_stream` with placeholders in `stream_name`: the most streams; an event for a further one is rejected for good.
        /// 0: no limit.
        max_streams: u64 = 1_000, |node| node.integer(FROM_ZERO);
        /// `redis_stream`: the number of streams among which events are spread by their keys, 1 to 32. With more than one, the keys
        /// are `{events}.0`, `{events}.1` ….
        partitions: u32 = 1, |node| node.integer(PARTITIONS);
        /// The approximate number of entries that the stream keeps; 0: it is never trimmed.
        max_len: u64 = 10_000, |node| node.integer(FROM_ZERO);
        /// `redis_stream`: how long the stream keeps an entry, about; none: however long. Needs Redis 6.2.
        max_age: Option<Duration> = None, |node| node.duration().map(Some);
        /// The time limit for connecting.
        connect_timeout: Duration = Duration::from_secs(5), Node::duration;
        /// The time limit for one reply.
        socket_timeout: Duration = Duration::from_secs(5), Node::duration;
        /// The effect of a failed event on later events of its key.
        on_failed: OnFailed = OnFailed::Continue, read::on_failed;
        /// 0: an event that is done is deleted immediately, in place of being published. None: as under `[retention]`, the only place
        /// for other numbers.
        published_retention_days: Option<u32> = None, |node| node.integer(DAYS).map(Some);
        /// The events per second that one worker sends; none: no limit.
        rate_limit: Option<RateLimit> = None, |node| read::rate_limit(node).map(Some);
        /// The path of a file (`jsonl`), or `-` for standard output.
        path: Option<String> = None, |node| node.string().map(Some);
        /// `http`, `nats`, `rabbitmq`, `kafka`: how an event is put into a request or a message.
        mode: ContentMode = ContentMode::Structured, read::content_mode;
        /// `http`: headers of every request, such as `authorization`.
        headers: BTreeMap<String, Secret> = BTreeMap::new(), read::headers;
        /// `http`: a file with the secrets that sign requests by Standard Webhooks, one a line.
        secrets_file: Option<Secret> = None, |node| node.secret_file().map(Some);
        /// `http`: the time limit for one request.
        timeout: Duration = Duration::from_secs(10), Node::duration;
        /// `http`: the most requests to one host at a time.
        concurrency: usize = 16, |node| node.integer(FROM_ONE);
        /// `http`, `rabbitmq`, `kafka`: how long an event waits for a host, a queue or a topic that is unavailable before it is
        /// rejected.
        unavailable_limit: Duration = Duration::from_secs(24 * 3600), Node::duration;
        /// `http`: networks that are not public and that requests may go to, such as `10.0.0.0/8`.
        allow_addresses: Vec<String> = Vec::new(), Node::strings;
        /// `nats`: some servers, instead of `url`, each in the form of `url`. The others are discovered.
        servers: Vec<Secret> = Vec::new(), Node::secrets;
        /// `nats`: the stream's name.
        stream: String = "EVENTS".to_owned(), Node::string;
        /// `nats`: the subject of an event; may contain `{type}`, `{source}`, `{key}` and `{backend}`.
        subject: String = "events.{type}".to_owned(), Node::string;
        /// `nats`: whether a missing stream is created.
        create: bool = false, Node::bool;
        /// `nats`: on how many servers a created stream is stored.
        replicas: usize = 1, |node| node.integer(FROM_ONE);
        /// `nats`: a file with a user's JWT and the seed of its key.
        credentials_file: Option<Secret> = None, |node| node.secret_file().map(Some);
        /// `nats`: a file with the seed of a user's key.
        nkey_file: Option<Secret> = None, |node| node.secret_file().map(Some);
        /// `rabbitmq`: the exchange; the empty one is the default exchange, whose routing keys are names of queues.
        exchange: String = String::new(), Node::string;
        /// `rabbitmq`: the routing key, in which `{type}`, `{source}`, `{key}` and `{backend}` are filled; `{{type}}` is the text
        /// `{type}`.
        routing_key: String = "{type}".to_owned(), Node::string;
        /// `kafka`: some brokers, each as `host:port`. The others are discovered.
        brokers: Vec<String> = Vec::new(), Node::strings;
        /// `kafka`: the topic, in which `{type}`, `{source}`, `{key}` and `{backend}` are filled.
        topic: String = "events".to_owned(), Node::string;
        /// `kafka`: how records are compressed: `none`, `gzip`, `snappy` or `lz4`.
        compression: String = "none".to_owned(), Node::string;
        /// `kafka`: the login; none: without one.
        sasl: Option<SaslSettings> = None, |node| SaslSettings::read(node.clone()).map(Some);
        /// Options of an application's own backend.
        options: serde_json::Map<String, serde_json::Value> = serde_json::Map::new(), read::options;
    }
}

table! {
    /// `tls = { ca_file, cert_file, key_file }`
    #[derive(Debug, Clone, PartialEq)]
    pub struct TlsSettings {
        /// The certificates of the authorities that verify the server, in PEM; none: the system's.
        ca_file: Option<PathBuf> = None, |node| node.string().map(|path| Some(path.into()));
        /// The client's certificate and its intermediates, in PEM.
        cert_file: Option<PathBuf> = None, |node| node.string().map(|path| Some(path.into()));
        /// The key of the client's certificate, in PEM.
        key_file: Option<PathBuf> = None, |node| node.string().map(|path| Some(path.into()));
    }
}

table! {
    /// `sasl = { mechanism, username, password }`
    #[derive(Debug, Clone, PartialEq)]
    pub struct SaslSettings {
        /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
        mechanism: String = String::new(), Node::string;
        /// The user's name.
        username: String = String::new(), Node::string;
        /// The password.
        password: Secret = Secret::default(), Node::secret, or password_file by Node::secret_file;
    }
}

table! {
    /// `sentinel = { master, nodes }`
    #[derive(Debug, Clone, PartialEq)]
    pub struct SentinelSettings {
        /// The name under which the sentinels watch the master.
        master: String = String::new(), Node::string;
        /// The sentinels, each in the form of `url`. A `rediss://` one means that the master is reached by TLS too.
        nodes: Vec<Secret> = Vec::new(), Node::secrets;
    }
}

/// How an event is put into a request or a message, by CloudEvents' protocol bindings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContentMode {
    /// The body is the CloudEvent in JSON.
    #[default]
    Structured,
    /// The body is the data, and headers are the attributes.
    Binary,
    /// The body is a list of CloudEvents in JSON; for `http` alone.
    Batch,
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
#[non_exhaustive]
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

table! {
    /// `[worker]`
    #[derive(Debug, Clone, PartialEq)]
    pub struct WorkerSettings {
        /// A name for operators; the default is the host's name and the process id.
        name: Option<String> = None, |node| node.string().map(Some);
        /// The most events in one batch to a backend; 1 or more.
        batch_size: usize = 500, |node| node.integer(FROM_ONE);
        /// How often the worker polls for events that were committed without a notification.
        poll_interval: Duration = Duration::from_millis(100), Node::duration;
        /// The default for new events of a system or the command line: rejections after which an event is marked failed.
        max_retries: i32 = 3, |node| node.integer(FROM_ZERO);
        /// The delay before a rejected event is retried.
        retry_backoff: RetryBackoff = RetryBackoff::default(), read::retry_backoff;
        /// How long another worker waits before it takes a dead worker's leases; at least a second.
        lease: Duration = Duration::from_secs(5), Node::duration;
        /// The most events in memory; divided among the publishers that are served.
        max_in_flight: usize = 5_000, |node| node.integer(FROM_ONE);
        /// The most bytes of these events, as [`OutboxEvent::size`](crate::OutboxEvent::size) counts them; a single larger
        /// event is still accepted. Divided among the publishers too.
        max_in_flight_bytes: usize = 16 << 20, Node::size;
        /// The largest event accepted, in bytes; a larger one that another writer stored becomes `failed`.
        max_event_bytes: usize = 1 << 20, Node::size;
        /// The time limit of a local handler for one event.
        handler_timeout: Duration = Duration::from_secs(30), Node::duration;
        /// How long events are still owed to a handler after its last process stopped: later events are not owed to it.
        handlers_owed: Duration = Duration::from_secs(7 * 24 * 3600), Node::duration;
        /// The time limit for finishing deliveries in flight.
        shutdown_timeout: Duration = Duration::from_secs(30), Node::duration;
        /// The names of the publishers to serve; none: all that are configured.
        backends: Option<Vec<String>> = None, |node| node.strings().map(Some);
    }
}

table! {
    /// The n-th failure, counted from 1, waits `min(base · factor^n, max)`, times a random factor between `1 - jitter` and 1.
    #[derive(Debug, Clone, Copy, PartialEq)]
    pub struct RetryBackoff {
        /// The base delay.
        base: Duration = Duration::from_secs(60), Node::duration;
        /// The factor by which each further failure multiplies the delay; at least 1.
        factor: f64 = 2.0, |node| node.float(FACTOR);
        /// The longest delay.
        max: Duration = Duration::from_secs(3_600), Node::duration;
        /// The random share of the delay, 0 to 1.
        jitter: f64 = 0.5, |node| node.float(JITTER);
    }
}

table! {
    /// `[retention]`
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct RetentionSettings {
        /// Whether published events are deleted.
        cleanup_published: bool = true, Node::bool;
        /// The days for which a published event is kept; 0: it is deleted when it is done, in place of being published.
        published_retention_days: u32 = 7, |node| node.integer(DAYS);
        /// The days for which a failed event is kept, unless it holds its key.
        failed_retention_days: u32 = 30, |node| node.integer(DAYS);
        /// The days for which the inbox's notes are kept, in a database that has an inbox.
        inbox_retention_days: u32 = 30, |node| node.integer(DAYS);
    }
}

table! {
    /// `[web]`
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct WebSettings {
        /// The secret that gives full access to the console; 16 bytes or more. If it is not set, the console serves this
        /// machine only.
        operator_secret: Option<Secret> = None, |node| node.secret().map(Some),
            or operator_secret_file by |node| node.secret_file().map(Some);
        /// The secret that gives read-only access to the console.
        reader_secret: Option<Secret> = None, |node| node.secret().map(Some),
            or reader_secret_file by |node| node.secret_file().map(Some);
        /// Users with full access, each with a secret of the user's own.
        operators: Vec<WebUser> = Vec::new(), |node| node.list("{ name = \"ann\", secret_file = \"…\" }", WebUser::read);
        /// Users with read-only access.
        readers: Vec<WebUser> = Vec::new(), |node| node.list("{ name = \"ann\", secret_file = \"…\" }", WebUser::read);
        /// The path of the console on the program's server, such as `/outbox`.
        path: String = "/".to_owned(), Node::string;
        /// The host names under which browsers may access the console, without ports; none: any, if a secret is required.
        hosts: Vec<String> = Vec::new(), Node::strings;
        /// Addresses or networks of proxies in front of the console whose `X-Forwarded-For` and `X-Forwarded-Prefix` are
        /// trusted: request limits then count the clients' addresses, and links begin with the prefix.
        proxies: Vec<String> = Vec::new(), Node::strings;
        /// The address of a trace in a viewer of traces, with `{trace_id}` in it; pages of events link there.
        trace_url: Option<String> = None, |node| node.string().map(Some);
    }
}

table! {
    /// A user of the console: `{ name, secret_file }`
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct WebUser {
        /// The name under which changes are recorded.
        name: String = String::new(), Node::string;
        /// The user's secret; 16 bytes or more.
        secret: Secret = Secret::default(), Node::secret,
            or secret_file by Node::secret_file, or secret_command by Node::secret_command;
    }
}

impl WebUser {
    /// A user with this name and secret.
    #[must_use]
    pub fn new(name: impl Into<String>, secret: impl Into<Secret>) -> Self {
        Self { name: name.into(), secret: secret.into() }
    }
}
