//! RabbitMQ brokers for tests, and the messages in their queues.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use tempfile::TempDir;

use super::process::{Daemon, Signal};
use super::tls::Identity;
use super::{PATIENCE, free_port, unique};

/// The folder of Debian's package. Its programs on the PATH only work for root, as another user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// The largest message that a broker for tests accepts.
pub(crate) const MAX_MESSAGE: usize = 1_000_000;

/// The shared broker. Each test has its own exchanges and queues.
pub(crate) fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(Server::start)
}

/// A broker of one test; killed, and its data removed, when dropped.
pub(crate) struct Server {
    folder: TempDir,
    node: String,
    port: u16,
    tls_port: u16,
    distribution_port: u16,
    names_port: u16,
    identity: Identity,
    _names: Daemon,
    running: Option<Daemon>,
}

impl Server {
    pub(crate) fn start() -> Self {
        assert!(Path::new(PROGRAMS).exists(), "no RabbitMQ. Debian: apt-get install rabbitmq-server");
        let folder = TempDir::with_prefix("outbox-rabbitmq-").unwrap();
        let identity = Identity::write(folder.path());
        let names_port = free_port();
        // A daemon that the node would start itself outlives it.
        let mut names = Command::new("epmd");
        names.args(["-port", &names_port.to_string(), "-address", "127.0.0.1"]);
        let names = Daemon::spawn(&mut names, &folder.path().join("epmd.log"), Signal::KILL, folder.path());
        let mut server = Self {
            node: format!("{}@localhost", unique("outbox")),
            port: free_port(),
            tls_port: free_port(),
            distribution_port: free_port(),
            names_port,
            identity,
            _names: names,
            running: None,
            folder,
        };
        server.configure();
        server.start_again();
        server
    }

    /// Starts a broker that was stopped or killed, on the same ports and data.
    pub(crate) fn start_again(&mut self) {
        assert!(self.running.is_none(), "the broker runs already");
        let log = self.folder.path().join("log");
        let mut command = self.program("rabbitmq-server");
        let mut daemon = Daemon::spawn(&mut command, &log, Signal::KILL, self.folder.path());
        let is_ready = daemon.wait_ready(PATIENCE, |_| self.log().contains("completed with"));
        assert!(is_ready, "rabbitmq-server does not start: {}", self.log());
        self.running = Some(daemon);
    }

    /// Shuts it down cleanly.
    pub(crate) fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    pub(crate) fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Of the port with TLS.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn url(&self) -> String {
        url_at(self.port)
    }

    /// Runs `rabbitmqctl`; panics with what it says if it fails.
    pub(crate) fn control(&self, arguments: &[&str]) -> String {
        let mut command = self.program("rabbitmqctl");
        let output = command.arg("--quiet").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    fn configure(&self) {
        let Self { port, tls_port, identity, folder, .. } = self;
        let settings = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\nlisteners.ssl.1 = 127.0.0.1:{tls_port}\n\
             ssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
             max_message_size = {MAX_MESSAGE}\nlog.console.level = error\n",
            identity.authority.display(),
            identity.certificate.display(),
            identity.key.display()
        );
        fs::write(folder.path().join("rabbitmq.conf"), settings).unwrap();
        fs::write(folder.path().join("plugins"), "[].").unwrap();
    }

    /// One of the package's programs, with nothing of the system's own broker.
    fn program(&self, name: &str) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(Path::new(PROGRAMS).join(name));
        command.env("HOME", folder).env("ERL_EPMD_PORT", self.names_port.to_string());
        for (name, value) in [
            ("NODENAME", self.node.as_str()),
            ("DIST_PORT", &self.distribution_port.to_string()),
            ("SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}"),
        ] {
            command.env(format!("RABBITMQ_{name}"), value);
        }
        for (name, file) in [
            ("MNESIA_BASE", "data"),
            ("LOG_BASE", "logs"),
            ("CONFIG_FILE", "rabbitmq.conf"),
            ("CONF_ENV_FILE", "none"),
            ("ENABLED_PLUGINS_FILE", "plugins"),
            ("PID_FILE", "pid"),
        ] {
            command.env(format!("RABBITMQ_{name}"), folder.join(file));
        }
        // Otherwise it would be the child of a shell.
        command.env("RUNNING_UNDER_SYSTEMD", "1");
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn end(&mut self, signal: Signal) {
        if let Some(daemon) = self.running.take() {
            daemon.end(signal, PATIENCE);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The address of a broker behind a port of this machine.
pub(crate) fn url_at(port: u16) -> String {
    format!("amqp://guest:guest@127.0.0.1:{port}/%2f")
}

/// An exchange of kind `topic` with a queue for some routing keys, both of this name.
pub(crate) struct Queue {
    pub(crate) name: String,
    channel: Channel,
    _connection: Connection,
}

impl Queue {
    /// A queue for all routing keys.
    pub(crate) async fn new(server: &Server) -> Self {
        Self::bound(server, "#", FieldTable::default()).await
    }

    /// A queue with arguments such as `x-max-length`, for the routing keys that a pattern matches.
    pub(crate) async fn bound(server: &Server, pattern: &str, arguments: FieldTable) -> Self {
        let connection = Connection::connect(&server.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let queue = Self { name: unique("events"), channel, _connection: connection };
        queue.declare_exchange().await;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        queue.channel.queue_declare(queue.name.as_str().into(), options, arguments).await.unwrap();
        queue.bind(pattern).await;
        queue
    }

    /// The same queue after its broker was killed and started again.
    pub(crate) async fn again(self, server: &Server) -> Self {
        let connection = Connection::connect(&server.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { name: self.name, channel, _connection: connection }
    }

    /// Binds the queue to further routing keys.
    pub(crate) async fn bind(&self, pattern: &str) {
        let name = || self.name.as_str().into();
        let options = QueueBindOptions::default();
        self.channel.queue_bind(name(), name(), pattern.into(), options, FieldTable::default()).await.unwrap();
    }

    pub(crate) async fn declare_exchange(&self) {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let name = self.name.as_str().into();
        self.channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default()).await.unwrap();
    }

    pub(crate) async fn delete_exchange(&self) {
        self.channel.exchange_delete(self.name.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    }

    pub(crate) async fn purge(&self) {
        self.channel.queue_purge(self.name.as_str().into(), QueuePurgeOptions::default()).await.unwrap();
    }

    /// Takes the messages that are in the queue.
    pub(crate) async fn take(&self) -> Vec<Delivery> {
        let mut all = Vec::new();
        let get = async || self.channel.basic_get(self.name.as_str().into(), BasicGetOptions::default()).await;
        while let Some(message) = get().await.unwrap() {
            message.delivery.ack(BasicAckOptions::default()).await.unwrap();
            all.push(message.delivery);
        }
        all
    }

    /// Takes messages until there are this many, and all others that are in the queue then.
    pub(crate) async fn take_at_least(&self, count: usize) -> Vec<Delivery> {
        let (mut all, started) = (Vec::new(), Instant::now());
        while all.len() < count {
            all.extend(self.take().await);
            assert!(started.elapsed() < PATIENCE, "{} of {count} messages", all.len());
            tokio::task::yield_now().await;
        }
        all
    }
}

/// The event's id of each message.
pub(crate) fn ids(messages: &[Delivery]) -> Vec<String> {
    messages.iter().map(|message| message.properties.message_id().as_ref().unwrap().to_string()).collect()
}
