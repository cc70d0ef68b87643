//! Redis servers for tests, and the entries of their streams.

pub(crate) mod cluster;
pub(crate) mod sentinel;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use tempfile::TempDir;

use super::process::{Daemon, Signal};
use super::{PATIENCE, eventually, free_port, unique};

/// Entries in one read of a stream.
const PAGE: usize = 5_000;

/// The shared server's address. Each test has its own stream name: see [`stream`].
pub(crate) fn url() -> String {
    static SHARED: OnceLock<Server> = OnceLock::new();
    std::env::var("OUTBOX_TEST_REDIS_URL").unwrap_or_else(|_| SHARED.get_or_init(|| Server::start(&[])).url())
}

/// The name of a stream that no other test uses.
pub(crate) fn stream() -> String {
    unique("events")
}

pub(crate) async fn connect(url: &str) -> MultiplexedConnection {
    let config =
        AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE)).set_connection_timeout(Some(PATIENCE));
    let client = Client::open(url).unwrap();
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// The server's version, such as `5.0.6`; tests use the first number. Valkey reports the Redis version it is compatible with.
pub(crate) async fn version(connection: &mut MultiplexedConnection) -> String {
    let info: String = redis::cmd("INFO").arg("server").query_async(connection).await.unwrap();
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
    version.expect("a version").trim().to_owned()
}

/// Whether the server counts the entries that a group has not read: Redis does from 7.0 on.
pub(crate) async fn counts_unread(connection: &mut MultiplexedConnection) -> bool {
    let version = version(connection).await;
    version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 7)
}

/// The number of entries in a stream.
pub(crate) async fn length(connection: &mut MultiplexedConnection, stream: &str) -> usize {
    redis::cmd("XLEN").arg(stream).query_async(connection).await.unwrap()
}

/// The fields of every entry of a stream, in its order.
pub(crate) async fn entries(url: &str, stream: &str) -> Vec<BTreeMap<String, String>> {
    collect(url, stream, |_, fields| fields).await
}

/// The `event_id` of every entry of a stream, in its order.
pub(crate) async fn event_ids(url: &str, stream: &str) -> Vec<String> {
    collect(url, stream, |_, mut fields| fields.remove("event_id").expect("event_id")).await
}

/// The id of every entry of a stream, which contains its time, and its `event_id`.
pub(crate) async fn places(url: &str, stream: &str) -> Vec<String> {
    collect(url, stream, |place, fields| format!("{place} {}", fields["event_id"])).await
}

async fn collect<T>(url: &str, stream: &str, mut pick: impl FnMut(&str, BTreeMap<String, String>) -> T) -> Vec<T> {
    let mut connection = connect(url).await;
    let (mut all, mut from) = (Vec::new(), "-".to_owned());
    loop {
        let page: Vec<(String, BTreeMap<String, String>)> = redis::cmd("XRANGE")
            .arg(&[stream, &from, "+", "COUNT", &PAGE.to_string()])
            .query_async(&mut connection)
            .await
            .unwrap();
        // Redis 5 has no exclusive start: the next page begins at the sequence number after the last one's.
        let Some((last, _)) = page.last() else { return all };
        let (time, number) = last.split_once('-').unwrap();
        from = format!("{time}-{}", number.parse::<u64>().unwrap() + 1);
        all.extend(page.into_iter().map(|(place, fields)| pick(&place, fields)));
    }
}

/// A server of one test; killed, and its data removed, when dropped.
pub(crate) struct Server {
    folder: TempDir,
    port: u16,
    options: Vec<String>,
    /// The settings of a sentinel, except its port; empty for a data server.
    sentinel: Option<String>,
    running: Option<Daemon>,
}

impl Server {
    /// A server that keeps acknowledged writes after a stop or a kill.
    pub(crate) const DURABLE: &[(&str, &str)] = &[("appendonly", "yes"), ("appendfsync", "always")];

    /// A server that keeps nothing on disk, unless the options (as in `redis.conf`) set it: `&[("maxmemory", "2mb")]`.
    pub(crate) fn start(options: &[(&str, &str)]) -> Self {
        Self::with(arguments(options), None)
    }

    /// A replica of a server. When this returns, it has copied the server and follows it.
    pub(crate) async fn replica_of(master: &Server, options: &[(&str, &str)]) -> Self {
        let source = ["--replicaof", "127.0.0.1", &master.port().to_string()].map(str::to_owned);
        let replica = Self::with(source.into_iter().chain(arguments(options)).collect(), None);
        let mut connection = connect(&replica.url()).await;
        eventually("the replica follows its master", PATIENCE, async || {
            let info: String = redis::cmd("INFO").arg("replication").query_async(&mut connection).await.unwrap();
            info.contains("master_link_status:up")
        })
        .await;
        // Only then does the replica report its offset to the master.
        let mut wait = redis::cmd("WAIT");
        wait.arg(1).arg(PATIENCE.as_millis() as u64);
        let confirmed: usize = wait.query_async(&mut connect(&master.url()).await).await.unwrap();
        assert!(confirmed > 0, "no replica confirms");
        replica
    }

    fn with(options: Vec<String>, sentinel: Option<String>) -> Self {
        let folder = TempDir::with_prefix("outbox-redis-").unwrap();
        let mut server = Self { folder, port: 0, options, sentinel, running: None };
        let started = (0..5).any(|_| {
            server.port = free_port();
            server.launch()
        });
        assert!(started, "redis-server does not start: {}", server.log());
        server
    }

    /// Starts a server that was stopped or killed, on the same port and data.
    pub(crate) fn start_again(&mut self) {
        assert!(self.running.is_none(), "redis-server runs already");
        assert!(self.launch(), "redis-server does not start again: {}", self.log());
    }

    /// Shuts it down cleanly.
    pub(crate) fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    pub(crate) fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Sends a signal; after [`Signal::STOP`] it answers no client until [`Signal::CONT`].
    pub(crate) fn signal(&mut self, signal: Signal) {
        self.running.as_mut().expect("redis-server runs").signal(signal);
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn end(&mut self, signal: Signal) {
        if let Some(daemon) = self.running.take() {
            daemon.end(signal, PATIENCE);
        }
    }

    /// Waits until the server accepts connections or has ended; returns whether it runs. It reads the log, because another
    /// server may have taken the port.
    fn launch(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.args(self.arguments());
        let log = self.folder.path().join("log");
        let mut daemon = Daemon::spawn(&mut command, &log, Signal::KILL, self.folder.path());
        let ready = if self.sentinel.is_some() { "Sentinel ID is" } else { "Ready to accept connections" };
        let runs = daemon.wait_ready(PATIENCE, |_| self.log().contains(ready));
        self.running = runs.then_some(daemon);
        runs
    }

    fn arguments(&self) -> Vec<String> {
        let (port, folder) = (self.port.to_string(), self.folder.path().to_str().unwrap());
        if let Some(settings) = &self.sentinel {
            // A sentinel writes its state into its settings file.
            let file = self.folder.path().join("sentinel.conf");
            fs::write(&file, format!("port {port}\nbind 127.0.0.1\ndir {folder}\n{settings}")).unwrap();
            return vec![file.to_str().unwrap().to_owned(), "--sentinel".to_owned()];
        }
        let fixed = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder];
        // The master sends a replica its copy immediately, without waiting for other replicas.
        let fixed = fixed.into_iter().chain(["--repl-diskless-sync-delay", "0"]).map(str::to_owned);
        fixed.chain(self.options.iter().cloned()).collect()
    }
}

fn arguments(options: &[(&str, &str)]) -> Vec<String> {
    options.iter().flat_map(|(name, value)| [format!("--{name}"), (*value).to_owned()]).collect()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
