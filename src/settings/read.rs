//! Converts the merged values to the structs, key by key.

use super::check::expected;
use super::node::{Node, Result, Table};
use super::{
    DatabaseSettings, OnFailed, PublisherSettings, RateLimit, RetentionSettings, RetryBackoff, SentinelSettings,
    Settings, WaitReplicas, WebSettings, WorkerSettings,
};

const ROOT: &[&str] = &["database", "publishers", "worker", "retention", "web"];
const DATABASE: &[&str] = &["url", "connections"];
const PUBLISHER: &[&str] = &[
    "backend",
    "url",
    "host",
    "port",
    "db",
    "username",
    "password",
    "nodes",
    "sentinel",
    "wait_replicas",
    "stream_name",
    "max_len",
    "connect_timeout",
    "socket_timeout",
    "on_failed",
    "rate_limit",
    "path",
    "options",
];
const SENTINEL: &[&str] = &["master", "nodes"];
const WAIT_REPLICAS: &[&str] = &["count", "timeout"];
const RATE_LIMIT: &[&str] = &["per_second", "burst"];
const WORKER: &[&str] = &[
    "name",
    "batch_size",
    "poll_interval",
    "max_retries",
    "retry_backoff",
    "lease",
    "max_in_flight",
    "max_in_flight_bytes",
    "max_event_bytes",
    "handler_timeout",
    "handlers_owed",
    "shutdown_timeout",
    "backends",
];
const RETRY_BACKOFF: &[&str] = &["base", "factor", "max", "jitter"];
const WEB: &[&str] =
    &["operator_secret", "operator_secret_file", "reader_secret", "reader_secret_file", "hosts", "proxies"];
const RETENTION: &[&str] = &["cleanup_published", "published_retention_days", "failed_retention_days"];

/// The path of a key that was given in the wrong table.
pub(super) fn known_elsewhere(name: &str) -> Option<String> {
    let tables = [
        ("database", DATABASE),
        ("worker", WORKER),
        ("worker.retry_backoff", RETRY_BACKOFF),
        ("retention", RETENTION),
        ("web", WEB),
        ("publishers.default", PUBLISHER),
    ];
    tables.iter().find(|(_, keys)| keys.contains(&name)).map(|(table, _)| format!("{table}.{name}"))
}

pub(super) fn settings(root: Node<'_>) -> Result<Settings> {
    let table = root.table(ROOT)?;
    let mut settings = Settings::default();
    if let Some(node) = table.get("database") {
        settings.database = database(&node.table(DATABASE)?)?;
    }
    if let Some(node) = table.get("publishers") {
        for (name, node) in node.children()? {
            settings.publishers.insert(name, publisher(node)?);
        }
    }
    if let Some(node) = table.get("worker") {
        settings.worker = worker(&node.table(WORKER)?)?;
    }
    if let Some(node) = table.get("retention") {
        settings.retention = retention(&node.table(RETENTION)?)?;
    }
    if let Some(node) = table.get("web") {
        settings.web = web(&node.table(WEB)?)?;
    }
    Ok(settings)
}

fn database(table: &Table<'_>) -> Result<DatabaseSettings> {
    let mut database = DatabaseSettings::default();
    table.read("url", &mut database.url, Node::secret)?;
    table.read("connections", &mut database.connections, |node| node.integer(expected::FROM_ONE).map(Some))?;
    Ok(database)
}

fn publisher(node: Node<'_>) -> Result<PublisherSettings> {
    let table = node.table(PUBLISHER)?;
    let mut publisher = PublisherSettings::default();
    table.read("backend", &mut publisher.backend, Node::string)?;
    address(&table, &mut publisher)?;
    table.read("stream_name", &mut publisher.stream_name, Node::string)?;
    table.read("max_len", &mut publisher.max_len, |node| node.integer(expected::FROM_ZERO))?;
    table.read("connect_timeout", &mut publisher.connect_timeout, Node::duration)?;
    table.read("socket_timeout", &mut publisher.socket_timeout, Node::duration)?;
    table.read("on_failed", &mut publisher.on_failed, on_failed)?;
    if let Some(node) = table.get("wait_replicas") {
        publisher.wait_replicas = Some(wait_replicas(node)?);
    }
    table.read("path", &mut publisher.path, |node| node.string().map(Some))?;
    if let Some(node) = table.get("rate_limit") {
        publisher.rate_limit = Some(rate_limit(node)?);
    }
    if let Some(node) = table.get("options") {
        for (name, node) in node.children()? {
            publisher.options.insert(name, node.json()?);
        }
    }
    Ok(publisher)
}

fn address(table: &Table<'_>, publisher: &mut PublisherSettings) -> Result<()> {
    table.read("url", &mut publisher.url, |node| node.secret().map(Some))?;
    table.read("host", &mut publisher.host, |node| node.string().map(Some))?;
    table.read("port", &mut publisher.port, |node| node.integer(expected::PORT).map(Some))?;
    table.read("db", &mut publisher.db, |node| node.integer(expected::FROM_ZERO).map(Some))?;
    table.read("username", &mut publisher.username, |node| node.string().map(Some))?;
    table.read("password", &mut publisher.password, |node| node.secret().map(Some))?;
    table.read("nodes", &mut publisher.nodes, Node::secrets)?;
    if let Some(node) = table.get("sentinel") {
        publisher.sentinel = Some(sentinel(node)?);
    }
    Ok(())
}

fn sentinel(node: Node<'_>) -> Result<SentinelSettings> {
    let table = node.table(SENTINEL)?;
    let mut sentinel = SentinelSettings::default();
    table.read("master", &mut sentinel.master, Node::string)?;
    table.read("nodes", &mut sentinel.nodes, Node::secrets)?;
    Ok(sentinel)
}

fn wait_replicas(node: Node<'_>) -> Result<WaitReplicas> {
    let table = node.table(WAIT_REPLICAS)?;
    let Some(count) = table.get("count") else {
        return Err(table.node().invalid("needs `count`, as in { count = 1, timeout = \"1s\" }"));
    };
    let mut wait = WaitReplicas::new(count.integer(expected::FROM_ONE)?);
    table.read("timeout", &mut wait.timeout, Node::duration)?;
    Ok(wait)
}

fn on_failed(node: &Node<'_>) -> Result<OnFailed> {
    match node.string()?.as_str() {
        "continue" => Ok(OnFailed::Continue),
        "hold" => Ok(OnFailed::Hold),
        _ => Err(node.expected("\"continue\" or \"hold\"")),
    }
}

/// Reads a rate limit; `burst` defaults to `per_second`.
fn rate_limit(node: Node<'_>) -> Result<RateLimit> {
    let table = node.table(RATE_LIMIT)?;
    let Some(per_second) = table.get("per_second") else {
        return Err(table.node().invalid("needs `per_second`, as in { per_second = 5000, burst = 10000 }"));
    };
    let per_second = per_second.integer(expected::FROM_ONE)?;
    let mut limit = RateLimit { per_second, burst: per_second };
    table.read("burst", &mut limit.burst, |node| node.integer(expected::FROM_ONE))?;
    Ok(limit)
}

fn worker(table: &Table<'_>) -> Result<WorkerSettings> {
    let mut worker = WorkerSettings::default();
    table.read("name", &mut worker.name, |node| node.string().map(Some))?;
    table.read("batch_size", &mut worker.batch_size, |node| node.integer(expected::FROM_ONE))?;
    table.read("poll_interval", &mut worker.poll_interval, Node::duration)?;
    table.read("max_retries", &mut worker.max_retries, |node| node.integer(expected::FROM_ZERO))?;
    if let Some(node) = table.get("retry_backoff") {
        worker.retry_backoff = retry_backoff(node)?;
    }
    table.read("lease", &mut worker.lease, Node::duration)?;
    table.read("max_in_flight", &mut worker.max_in_flight, |node| node.integer(expected::FROM_ONE))?;
    table.read("max_in_flight_bytes", &mut worker.max_in_flight_bytes, Node::size)?;
    table.read("max_event_bytes", &mut worker.max_event_bytes, Node::size)?;
    table.read("handler_timeout", &mut worker.handler_timeout, Node::duration)?;
    table.read("handlers_owed", &mut worker.handlers_owed, Node::duration)?;
    table.read("shutdown_timeout", &mut worker.shutdown_timeout, Node::duration)?;
    table.read("backends", &mut worker.backends, |node| node.strings().map(Some))?;
    Ok(worker)
}

/// Reads a backoff. `true`: the defaults; `false`: always `base`; or a table.
fn retry_backoff(node: Node<'_>) -> Result<RetryBackoff> {
    let mut backoff = RetryBackoff::default();
    match node.as_bool() {
        Some(true) => return Ok(backoff),
        Some(false) => return Ok(RetryBackoff { factor: 1.0, jitter: 0.0, ..backoff }),
        None if node.dict().is_err() => return Err(node.expected("true, false, or a table as in { base = \"1m\" }")),
        None => {}
    }
    let table = node.table(RETRY_BACKOFF)?;
    table.read("base", &mut backoff.base, Node::duration)?;
    table.read("factor", &mut backoff.factor, |node| node.float(expected::FACTOR))?;
    table.read("max", &mut backoff.max, Node::duration)?;
    table.read("jitter", &mut backoff.jitter, |node| node.float(expected::JITTER))?;
    Ok(backoff)
}

fn web(table: &Table<'_>) -> Result<WebSettings> {
    let mut web = WebSettings::default();
    table.read("operator_secret", &mut web.operator_secret, |node| node.secret().map(Some))?;
    table.read("operator_secret_file", &mut web.operator_secret_file, |node| node.string().map(Some))?;
    table.read("reader_secret", &mut web.reader_secret, |node| node.secret().map(Some))?;
    table.read("reader_secret_file", &mut web.reader_secret_file, |node| node.string().map(Some))?;
    table.read("hosts", &mut web.hosts, Node::strings)?;
    table.read("proxies", &mut web.proxies, Node::strings)?;
    Ok(web)
}

fn retention(table: &Table<'_>) -> Result<RetentionSettings> {
    let mut retention = RetentionSettings::default();
    table.read("cleanup_published", &mut retention.cleanup_published, Node::bool)?;
    table.read("published_retention_days", &mut retention.published_retention_days, |n| n.integer(expected::DAYS))?;
    table.read("failed_retention_days", &mut retention.failed_retention_days, |n| n.integer(expected::DAYS))?;
    Ok(retention)
}
